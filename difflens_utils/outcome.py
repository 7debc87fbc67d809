"""Images under an edit, and what the evaluators say of them.

`draw` generates images and stores them; images of equal seeds are paired, whatever the edit.
`judge` lets every evaluator look at images, and returns an `Outcome`.

Nine of ten images are of class 0 here, and both evaluators say so:

>>> import torch
>>> from difflens_utils.outcome import Outcome
>>> images, features = torch.zeros(10, 3, 8, 8), torch.ones(10, 4)
>>> gender = {"gender": torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])}
>>> prompt = torch.zeros(10, dtype=torch.int64)
>>> outcome = Outcome(images, gender, gender, features, features, features, prompt)
>>> outcome.share("gender", 1).value, outcome.agreement("gender").value
(0.1, 1.0)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import evaluators, metrics, sampling
from .evaluators import Clip, Evaluator
from .metrics import Estimate
from .recording import Run
from .runtime import arrays, artifacts, gpu, keys, shards
from .runtime.errors import all_positive
from .sampling import Edit
from .subjects.conditions import Prompt
from .subjects.pipelines import Subject


@dataclass(frozen=True)
class Drawing:
    """What determines the images of a run that an edit changes."""

    run: Run
    edit: Edit | None
    asymmetric: bool
    together: int | None  # images that the edit moves as one
    rows: Tensor = field(compare=False)  # the images that the edit changes
    progress: str = field(compare=False)

    @property
    def blocks(self) -> list[slice]:
        """The batches, which workers share."""
        return shards.blocks(len(self.rows), self.run.batch)


def draw(
    subject: Subject,
    edit: Edit | None,
    n: int,
    seed: int,
    steps: int,
    *,
    asymmetric: bool = True,
    prompts: Sequence[Prompt] | None = None,
    batch: int | None = None,
    progress: str | None = None,
) -> Tensor:
    """Images (n, 3, H, W) float16 under an edit, from the store if they are there.

    They stay on disk, and changes of them in memory.
    They take the prompts in turn, by default those of the evaluation. Workers (`shards`) share the
    batches, which are as large as `gpu.batch_size` says by default; for an edit that moves a batch
    as one their size is part of the key. What an edit leaves alone is not drawn again. Raises
    ValueError for sizes <= 0.
    """
    all_positive(n_images=n, steps=steps)
    if edit is not None and (not isinstance(edit, Edit) or edit.key is None):
        raise ValueError("edit must come from difflens_utils.edits, or have a key of its own")
    if edit is not None:
        edit.check_run(n)
    size = batch or gpu.batch_size(subject)
    texts = subject.texts(prompts or subject.prompts.evaluate)
    run = Run(subject, n, seed, steps, texts, batch=size)
    together = size if edit is not None and edit.moves_batches else None
    rows = torch.arange(n) if edit is None or edit.rows is None else edit.rows
    # Without an edit there is one key, not two; a pipeline's own sampler has the symmetric step.
    oneway = edit is None or (asymmetric and not subject.native)
    drawing = Drawing(run, edit, oneway, together, rows, progress or "sampling")
    if edit is None or edit.rows is None:
        return _images(drawing)
    images = draw(subject, None, n, seed, steps, prompts=prompts, batch=size)
    if len(rows):
        images[rows] = _images(drawing)
    return images


def _images(drawing: Drawing) -> Tensor:
    return arrays.mapped(_draw(drawing) / "images.npy")


@shards.shared("images")
def _draw(drawing: Drawing, block: slice, folder: Path) -> None:
    """Write images.npy, float16, with those that stand at `block` in the rows of a drawing."""
    rows = drawing.rows[block]
    images = drawing.run.batches(
        rows,
        edit=drawing.edit,
        asymmetric=drawing.asymmetric,
        progress=drawing.progress,
    )
    arrays.write(folder / "images.npy", len(rows), images)


@dataclass(frozen=True)
class Outcome:
    """What the evaluators say of a set of images."""

    images: Tensor  # (n, 3, H, W)
    scored: dict[str, Tensor]  # by the scorer: {factor: (n, classes)} probabilities
    labelled: dict[str, Tensor]  # by the labeller
    features: Tensor  # (n, F) of the scorer
    clip: Tensor  # (n, E) unit-norm CLIP embeddings
    second: Tensor  # (n, E) by `Subject.second_clip`; (n, 0) where a search must not see it
    prompt: Tensor  # (n,) the number of each image's prompt

    def share(self, attribute: str, target: int) -> Estimate:
        """The share of images that the scorer puts into a class, with its Wilson interval."""
        hits = (self.scored[attribute].argmax(-1) == target).sum().item()
        return metrics.wilson(int(hits), len(self.images))

    def gain(self, before: Outcome, attribute: str, target: int) -> Estimate:
        """How much the share of a class has risen since `before`, whose first images are paired."""
        n = len(self.images)
        after = self.scored[attribute].argmax(-1) == target
        start = before.scored[attribute][:n].argmax(-1) == target
        return metrics.mean(after.float() - start.float())

    def agreement(self, attribute: str) -> Estimate:
        """The share of images on which the two evaluators name the same class."""
        return metrics.agreement(self.scored[attribute], self.labelled[attribute])

    def fairness(self, attribute: str, target: Sequence[float] | None = None) -> metrics.Fairness:
        """FD per prompt, averaged over the prompts (Eq. 13, Appendix C.2)."""
        return metrics.fairness_discrepancy(self.scored[attribute], target, self.prompt)

    def of(self, prompt: int) -> Outcome:
        """The images of one prompt."""
        return _each([self], lambda parts: parts[0][self.prompt == prompt])


@torch.no_grad()
def judge(subject: Subject, images: Tensor, prompts: int | None = None) -> Outcome:
    """Lets every evaluator look at images (n, 3, H, W).

    What they say is stored by the images and the evaluators, whatever drew the images.
    `prompts` is how many prompts the images took in turn, by default as many as the evaluation has.
    """
    judges = subject.scorer, subject.labeller, subject.clip
    told = _told(*judges, images, subject.device)
    return Outcome(
        images,
        {factor: told[f"scored.{factor}"] for factor in subject.scorer.factors},
        {factor: told[f"labelled.{factor}"] for factor in subject.labeller.factors},
        told["features"],
        told["clip"],
        _second(subject, images, told["clip"]),
        sampling.assigned(len(images), prompts or len(subject.texts())),
    )


def _with_code(name: str) -> Callable[[Any], artifacts.Arguments]:
    """What stands for an evaluator in a key: its weights, and the code of its class."""
    return lambda network: {name: network, f"code of the {name}": keys.code_of(network)}


@artifacts.stored(
    "told",
    describe={name: _with_code(name) for name in ("scorer", "labeller", "clip")},
    ignoring=("device",),
)
def _told(
    scorer: Evaluator, labeller: Evaluator, clip: Clip, images: Tensor, device: torch.device
) -> dict[str, Tensor]:
    """What an outcome holds, but for the second CLIP; probabilities by evaluator and factor."""
    scored, features = evaluators.look(scorer, images, device)
    labelled = evaluators.read(labeller, images, device)
    return {
        **{f"scored.{factor}": probabilities for factor, probabilities in scored.items()},
        **{f"labelled.{factor}": probabilities for factor, probabilities in labelled.items()},
        "features": features,
        "clip": evaluators.embed(clip, images, device),
    }


def _second(subject: Subject, images: Tensor, clip: Tensor) -> Tensor:
    """Embeddings by the second CLIP. A search has none: it would plan with what results tell."""
    if not keys.readable("second_clip"):
        return clip[:, :0]
    if subject.second_clip is subject.clip:
        return clip
    return _told_again(subject.second_clip, images, subject.device)["clip"]


@artifacts.stored("told_again", describe={"clip": _with_code("clip")}, ignoring=("device",))
def _told_again(clip: Clip, images: Tensor, device: torch.device) -> dict[str, Tensor]:
    return {"clip": evaluators.embed(clip, images, device)}


def renewed(before: Outcome, rows: Tensor, seen: Outcome) -> Outcome:
    """The outcome of a set whose images `rows` (n,) bool have become those of `seen`."""

    def put(parts: Sequence[Tensor]) -> Tensor:
        whole = parts[0].clone()
        whole[rows] = parts[1]
        return whole

    return _each([before, replace(seen, prompt=before.prompt[rows])], put)


def picked(outcomes: Sequence[Outcome], which: Tensor) -> Outcome:
    """Image i as it is in outcome `which[i]` (n,) of several of the same images."""

    def put(parts: Sequence[Tensor]) -> Tensor:
        whole = torch.empty_like(parts[0])
        for number, part in enumerate(parts):
            whole[which == number] = part[which == number]
        return whole

    return _each(outcomes, put)


def _each(outcomes: Sequence[Outcome], take: Callable[[Sequence[Tensor]], Tensor]) -> Outcome:
    """An outcome whose every tensor is what `take` makes of those of some outcomes."""

    def made(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Mapping):
            return {factor: take([part[factor] for part in parts]) for factor in parts[0]}
        return take(parts)

    names = [f.name for f in fields(Outcome)]
    return Outcome(**{name: made([getattr(o, name) for o in outcomes]) for name in names})


def most_changed(before: Outcome, after: Outcome, factor: str) -> tuple[int, Estimate]:
    """The class of a factor whose mean probability changes most between two outcomes of the same
    images, and by how much."""
    change = after.scored[factor] - before.scored[factor]  # (n, classes)
    c = int(change.mean(0).abs().argmax())
    return c, metrics.mean(change[:, c])


def obeyed(
    outcome: Outcome, prompts: Sequence[Prompt], classes: Mapping[str, Sequence[str]]
) -> dict[str, Estimate]:
    """How often the scorer sees what a prompt names: {factor: share of the images}."""
    result = {}
    for factor, names in classes.items():
        named = torch.tensor([_named(prompt, factor, names) for prompt in prompts])
        wanted = named[outcome.prompt]  # (n,)
        asked = wanted >= 0
        if asked.any():
            hits = outcome.scored[factor].argmax(-1)[asked] == wanted[asked]
            result[factor] = metrics.wilson(int(hits.sum()), int(asked.sum()))
    return result


def _named(prompt: Prompt, factor: str, classes: Sequence[str]) -> int:
    """The number of the class of a factor that a prompt's text names, in whole words, or -1."""
    name = prompt.given.get(factor, "")
    if not name or not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt.text):
        return -1
    return list(classes).index(name)


def short_names(texts: Sequence[str]) -> dict[str, str]:
    """What prompts are called in records: {text: its last word}.

    Where two texts end alike they are called by all their words.
    """
    last = [text.split()[-1] if text.strip() else "" for text in texts]
    return {
        text: word if last.count(word) == 1 else "_".join(text.split())
        for text, word in zip(texts, last, strict=True)
    }


def class_names(classes: Mapping[str, Sequence[str]]) -> dict[tuple[str, int], str]:
    """What classes are called in records: {(attribute, class): name}.

    That is the class, or "attribute.class" where another attribute has one of that name.
    """
    names = {(a, c): name for a, own in classes.items() for c, name in enumerate(own)}
    taken = list(names.values())
    return {
        (a, c): name if taken.count(name) == 1 else f"{a}.{name}" for (a, c), name in names.items()
    }


def extremes(shares: Tensor) -> tuple[int, int]:
    """The commonest and the rarest class by their shares (classes,); never the same class twice."""
    common = int(shares.argmax())
    others = [c for c in range(len(shares)) if c != common]
    return common, others[int(shares[others].argmin())]
