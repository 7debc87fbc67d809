"""The stages of the study with the store behind them: what several notebooks need is computed once, by whoever comes first."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import (
    activations,
    artifacts,
    attribution,
    edits,
    evaluators,
    gpu,
    ksae,
    metrics,
    probes,
    sampling,
    shards,
)
from .activations import Recording, Run
from .attribution import Attribution
from .errors import all_positive, one_of
from .ksae import KSAE, History, KSAEConfig
from .metrics import Estimate
from .probes import Heads
from .sampling import Edit
from .pipelines import Prompt, Subject
from .worlds import Portraits

VALIDATION = 0.1  # the last share of a recording's images is kept from the k-SAE's training
VALIDATION_VECTORS = 4000  # of theirs that its curve is drawn from, about


def recording(
    subject: Subject, n: int, seed: int, steps: int, stage: str = "evaluate"
) -> Recording:
    """Unedited images with h at every step, of the prompts of a stage: one recording for all of them where a model takes no text.

    Raises ValueError for an unknown stage.
    """
    one_of("stage", stage, ("evaluate", "learn", "probe"))
    return activations.record(subject, n, seed, steps, getattr(subject.prompts, stage))


def train_ksae(
    rec: Recording,
    k: int,
    *,
    latents: int,
    train_steps: int,
    seed: int,
    batch: int = 2048,
    progress: bool = True,
    **options: Any,
) -> tuple[KSAE, History]:
    """A k-SAE trained on all timesteps of a recording, with its curves; from the store."""
    config = KSAEConfig(
        width=rec.width, latents=latents, k=k, batch=batch, steps=train_steps, seed=seed, **options
    )
    return _train_ksae(rec, config, progress)


def _save_ksae(trained: tuple[KSAE, History], folder: Path) -> None:
    model, history = trained
    model.save(folder)
    (folder / "history.json").write_text(json.dumps(history._asdict()))


def _load_ksae(folder: Path) -> tuple[KSAE, History]:
    return KSAE.load(folder), History(**json.loads((folder / "history.json").read_text()))


@artifacts.stored("ksae", form=artifacts.Form(_save_ksae, _load_ksae))
def _train_ksae(rec: Recording, config: KSAEConfig, progress: bool) -> tuple[KSAE, History]:
    rows = validation_rows(rec)
    held_out = torch.cat([rec.vectors(step, rows) for step in range(rec.h.shape[1])])
    stride = len(held_out) // VALIDATION_VECTORS
    if stride % 2 == 0:  # an odd one meets all positions, of which there is an even number
        stride += 1
    return ksae.train(
        config,
        rec.batches(config.batch, config.seed, rows.start),
        validation=held_out[::stride],
        progress=progress,
    )


def validation_rows(rec: Recording) -> slice:
    """The images of a recording that no k-SAE was trained on."""
    return slice(int(len(rec) * (1 - VALIDATION)), len(rec))


class FactorSet(NamedTuple):
    """h with known factors: h (S, n, *h) at S timesteps, labels {factor: (n,)}."""

    h: Tensor
    labels: dict[str, Tensor]
    timesteps: tuple[int, ...]


def factor_labels(subject: Subject, n: int, seed: int) -> Portraits:
    """The images of `factor_set` before they are drawn: every factor uniform and independent."""
    return subject.data.sample(n, seed + 555, balanced=True)


def factor_set(subject: Subject, n: int, seed: int, timesteps: tuple[int, ...]) -> FactorSet:
    """h of portraits in which every factor is uniform and independent, at chosen noise levels.

    Renders are noised to each timestep (Eq. 1) and passed through the network up to the module, with a prompt that names no attribute. Because no two factors are
    correlated here, a unit that answers to two factors does so itself and not because the world ties them together.
    """
    batch = factor_labels(subject, n, seed)
    chunks = [batch[slice(i, i + 128)] for i in range(0, n, 128)]
    with torch.no_grad():
        clean = [
            subject.encode(subject.data.render(chunk, subject.size).to(subject.device))
            for chunk in chunks
        ]
    noise = (
        torch.randn(n, *subject.shape, generator=torch.Generator().manual_seed(seed))
        .to(subject.device)
        .split(128)
    )
    alphas = subject.scheduler.alphas_cumprod
    layers = [
        torch.cat(
            [
                sampling.activation(
                    subject,
                    alphas[t].sqrt() * x + (1 - alphas[t]).sqrt() * z,
                    t,
                    subject.describe(chunk),
                )
                .float()
                .cpu()
                for chunk, x, z in zip(chunks, clean, noise, strict=True)
            ]
        )
        for t in timesteps
    ]
    return FactorSet(torch.stack(layers), batch.labels, timesteps)


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


def generate(
    subject: Subject,
    edit: Edit | None,
    n: int,
    seed: int,
    steps: int,
    *,
    asymmetric: bool = True,
    prompts: Sequence[Prompt] | None = None,
    batch: int | None = None,
    progress: str = "sampling",
) -> Tensor:
    """Images (n, 3, H, W) under an edit, paired by seed with every other run; from the store.

    They take the prompts in turn, by default those of the evaluation. Workers (`shards`) share the
    batches, which are as large as `gpu.batch_size` says by default; for an edit that moves a batch
    as one (`whole`) their size is part of the key.
    """
    all_positive(n_images=n, steps=steps)
    if edit is not None and not hasattr(edit, "parts"):
        raise ValueError(
            "edit must come from difflens_utils.edits, or carry `parts` that say what it does"
        )
    batch = batch or gpu.batch_size(subject)
    run = Run(subject, n, seed, steps, subject.texts(prompts), batch=batch)
    together = batch if getattr(edit, "whole", False) else None
    rows = getattr(edit, "rows", None)
    changed = torch.arange(n) if rows is None else rows
    drawing = Drawing(run, edit, edit is None or asymmetric, together, changed, progress)
    if rows is None:
        return _load_images(_draw(drawing))
    images = generate(subject, None, n, seed, steps, prompts=prompts, batch=batch)
    if len(rows):
        images[rows] = _load_images(_draw(drawing))
    return images


def _load_images(folder: Path) -> Tensor:
    return torch.from_numpy(np.load(folder / "images.npy")).float()


@shards.shared("images")
def _draw(drawing: Drawing, block: slice, folder: Path) -> None:
    """Write images.npy, float16, with those that stand at `block` in the rows of a drawing."""
    images = drawing.run.sample(
        drawing.rows[block],
        edit=drawing.edit,
        asymmetric=drawing.asymmetric,
        progress=drawing.progress,
    )
    np.save(folder / "images.npy", images.half().numpy())


@dataclass(frozen=True)
class Outcome:
    """What the evaluators say of a set of images: class probabilities of both, features, CLIP embeddings."""

    images: Tensor
    scored: dict[str, Tensor]  # by the scorer: {factor: (n, classes)}
    labelled: dict[str, Tensor]  # by the labeller
    features: Tensor  # (n, F) of the scorer
    clip: Tensor  # (n, E) unit-norm
    prompt: Tensor  # (n,) the number of each image's prompt

    def share(self, attribute: str, target: int) -> Estimate:
        """Share of images that the scorer puts into a class, with its Wilson interval."""
        hits = (self.scored[attribute].argmax(-1) == target).sum().item()
        return metrics.wilson(int(hits), len(self.images))

    def gain(self, before: Outcome, attribute: str, target: int) -> Estimate:
        """How much the share of a class has risen since `before`, whose first images are the same seeds."""
        after, start = (
            o.scored[attribute][: len(self.images)].argmax(-1) == target for o in (self, before)
        )
        return metrics.mean(after.float() - start.float())

    def agreement(self, attribute: str) -> Estimate:
        """Share of images on which the two evaluators name the same class."""
        return metrics.agreement(self.scored[attribute], self.labelled[attribute])

    def fairness(self, attribute: str, target: Sequence[float] | None = None) -> metrics.Fairness:
        """FD per prompt, averaged over the prompts (Eq. 13, Appendix C.2)."""
        return metrics.fairness_discrepancy(self.scored[attribute], target, self.prompt)

    def of(self, prompt: int) -> Outcome:
        """The images of one prompt."""
        rows = self.prompt == prompt
        pick = lambda d: {k: v[rows] for k, v in d.items()}  # noqa: E731
        return Outcome(
            self.images[rows],
            pick(self.scored),
            pick(self.labelled),
            self.features[rows],
            self.clip[rows],
            self.prompt[rows],
        )


@torch.no_grad()
def judge(subject: Subject, images: Tensor, prompts: int | None = None) -> Outcome:
    """Let every evaluator look at the images, which took so many prompts in turn (by default those of the evaluation)."""
    on = images.to(subject.device)
    return Outcome(
        images,
        evaluators.read(subject.scorer, on),
        evaluators.read(subject.labeller, on),
        evaluators.embed(subject.scorer, on),
        evaluators.embed(subject.clip, on),
        sampling.assigned(len(images), prompts or len(subject.texts())),
    )


def _named(prompt: Prompt, factor: str, classes: Sequence[str]) -> int:
    """Which class of a factor the text of a prompt names, in whole words: its number, or -1."""
    name = prompt.given.get(factor, "")
    stands_there = name and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", prompt.text)
    return classes.index(name) if stands_there else -1


def short_names(texts: Sequence[str]) -> dict[str, str]:
    """What prompts are called in records: their last word, or all their words where two end alike."""
    last = [text.split()[-1] if text.strip() else "" for text in texts]
    return {
        text: word if last.count(word) == 1 else "_".join(text.split())
        for text, word in zip(texts, last, strict=True)
    }


def class_names(subject: Subject) -> dict[tuple[str, int], str]:
    """What the classes of all attributes are called in records, {(attribute, class): name}.

    That is the class, or "attribute.class" where another attribute has one of that name.
    """
    classes = {
        (a, c): name for a in subject.attributes for c, name in enumerate(subject.classes(a))
    }
    taken = list(classes.values())
    return {
        at: name if taken.count(name) == 1 else f"{at[0]}.{name}" for at, name in classes.items()
    }


def extremes(shares: Tensor) -> tuple[int, int]:
    """The commonest and the rarest of some classes (classes,): two, even where all are alike."""
    common = int(shares.argmax())
    others = [c for c in range(len(shares)) if c != common]
    return common, others[int(shares[others].argmin())]


def obeyed(
    outcome: Outcome, prompts: Sequence[Prompt], classes: Mapping[str, Sequence[str]]
) -> dict[str, Estimate]:
    """How often the scorer sees what a prompt names: per factor the share, over the images whose prompt names a class of it."""
    result = {}
    for factor, names in classes.items():
        named = torch.tensor([_named(p, factor, names) for p in prompts])[outcome.prompt]
        if (asked := named >= 0).any():
            hits = outcome.scored[factor].argmax(-1)[asked] == named[asked]
            result[factor] = metrics.wilson(int(hits.sum()), int(asked.sum()))
    return result


@artifacts.stored("class_means")
def class_means(
    rec: Recording, sae: KSAE, labels: Mapping[str, Tensor], classes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Mean latents of each class's images, per timestep and position: {attribute: (classes, T, P, D)}; from the store."""
    weights = {a: torch.nn.functional.one_hot(y, classes[a]).float() for a, y in labels.items()}
    weights = {a: w / w.sum(0).clamp_min(1) for a, w in weights.items()}  # (n, classes)
    means: dict[str, list[Tensor]] = {a: [] for a in labels}
    for step in range(rec.h.shape[1]):
        s = torch.cat(
            [
                sae.latents(ksae.map_to_vectors(rec.at(step, slice(i, i + 256))))
                for i in range(0, len(rec), 256)
            ]
        )
        for a, w in weights.items():
            means[a].append((w.T @ s.flatten(1)).reshape(-1, *s.shape[1:]))
    return {a: torch.stack(m, 1) for a, m in means.items()}


def contrast(means: Tensor, target: int, counts: Tensor) -> Tensor:
    """How far a class's mean latents (classes, T, P, D) lie from those of all other images: (T, P, D).

    Zero where one of the two sides has no images: nothing is known of the difference then.
    """
    others = [c for c in range(len(means)) if c != target and counts[c] > 0]
    if not others or counts[target] == 0:
        return torch.zeros_like(means[target])
    weight = counts[others].float() / counts[others].sum()
    return means[target] - torch.einsum("c,c...->...", weight, means[others])


def deciding_steps(steps: int) -> tuple[int, ...]:
    """The steps at which single features are measured: while the picture is being decided, and yet past the noisiest ones.

    There the predicted clean image is epsilon's rounding error times 1 / sqrt(alpha-bar), and an evaluator reads noise.
    """
    return tuple(sorted({int(f * (steps - 1)) for f in (0.5, 0.65)}))


def bias_features(
    subject: Subject,
    sae: KSAE,
    attribute: str,
    target: int,
    scores: Tensor,
    gap: Tensor,
    density: Tensor,
    *,
    count: int,
    max_density: float,
    n: int,
    seed: int,
    steps: int,
) -> Tensor:
    """I_c: the latents that attribution proposes and a measurement confirms, best first (at most `count`).

    Half as many candidates again as are kept are moved one at a time, by the class difference `gap` (T, P, D); those that make the class
    likelier on average stay, in the order of their scores.
    """
    candidates = attribution.select(scores, count + count // 2, density, max_density)
    effect = attribution.measured(
        subject,
        sae,
        attribute,
        target,
        candidates,
        gap[..., candidates],
        n=n,
        seed=seed,
        steps=steps,
        at=deciding_steps(steps),
    )
    return candidates[effect.mean > 0][:count]


def best_factor(
    response: Any, labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> list[tuple[str, float]]:
    """For each unit of `response` (n, U) the class that it tells best from the rest: [("factor: class", AUROC)]."""
    names, columns = [], []
    for factor, y in labels.items():
        for c, name in enumerate(classes[factor]):
            names.append(f"{factor}: {name}")
            columns.append(y == c)
    scores = metrics.auroc(response, torch.stack(columns, 1).numpy())  # (U, classes)
    best = scores.argmax(1)
    return [(names[b], float(row[b])) for b, row in zip(best, scores, strict=True)]


@dataclass(frozen=True)
class Found:
    """What notebook 04 arrives at: the bias features of every class, and what is needed to steer with them."""

    features: dict[str, list[Tensor]]  # {attribute: per class the latents I_c}
    gaps: dict[
        str, list[Tensor]
    ]  # {attribute: per class (T, P, D), how far its images lie from all others}
    labels: dict[str, Tensor]  # the labeller's classes of the recorded images
    counts: dict[str, Tensor]  # images per class
    density: Tensor  # (D,)
    scores: dict[str, list[Tensor]]  # {attribute: per class (D,)}
    by_image: dict[str, Attribution]  # attribution through the picture, with the zero baseline

    def unit(self, attribute: str, target: int) -> Tensor:
        """The unit of `add`: (T, P, N), the class difference of each bias feature."""
        return self.gaps[attribute][target][..., self.features[attribute][target]]


def find_features(
    subject: Subject,
    sae: KSAE,
    rec: Recording,
    *,
    n_support: int,
    n_measured: int,
    n_features: int,
    max_density: float,
    seed: int,
    steps: int,
    attributes: Sequence[str] | Mapping[str, str] | None = None,
) -> Found:
    """Attribution through the picture against the other classes, then a measurement of every candidate; for all attributes by default.

    A mapping {attribute: class} measures the candidates of these classes alone; the others get no features.
    """
    only = attributes if isinstance(attributes, Mapping) else {}
    attributes = tuple(subject.attributes if attributes is None else attributes)
    labels = {
        a: p.argmax(-1)
        for a, p in evaluators.read(subject.labeller, rec.images.to(subject.device)).items()
        if a in attributes
    }
    sizes = {a: len(subject.classes(a)) for a in attributes}
    counts = {a: y.bincount(minlength=sizes[a]) for a, y in labels.items()}
    by_image = attribution.through_image(subject, sae, attributes, n_support, seed + 10, steps)
    means = class_means(rec, sae, labels, sizes)
    density = ksae.density(sae, (rec.vectors(s, slice(0, 256)) for s in range(steps)))
    gaps = {a: [contrast(means[a], c, counts[a]) for c in range(sizes[a])] for a in attributes}
    scores = {
        a: [attribution.towards(by_image[a].slope[c], gaps[a][c]) for c in range(sizes[a])]
        for a in attributes
    }
    features = {
        a: [
            bias_features(
                subject,
                sae,
                a,
                c,
                scores[a][c],
                gaps[a][c],
                density,
                count=n_features,
                max_density=max_density,
                n=n_measured,
                seed=seed + 20,
                steps=steps,
            )
            if only.get(a, name) == name
            else torch.empty(0, dtype=torch.long)
            for c, name in enumerate(subject.classes(a))
        ]
        for a in attributes
    }
    return Found(features, gaps, labels, counts, density, scores, by_image)


def heads(subject: Subject, n_images: int, seed: int, steps: int) -> dict[str, Heads]:
    """The h-classifiers of every attribute, learned as in notebook 03 from the recording that is made for them."""
    rec = recording(subject, n_images, seed, steps, "probe")
    labels = evaluators.read(subject.labeller, rec.images.to(subject.device))
    return {
        a: probes.fit(rec, labels[a].argmax(-1), len(subject.classes(a)), seed=seed).heads
        for a in subject.attributes
    }


def mean_difference(rec: Recording, inside: Tensor) -> Tensor:
    """The dense control: mean h of the images in a class minus that of all others, per timestep, (T, *h).

    Zero where one of the two sides has no images.
    """
    if inside.all() or not inside.any():
        return torch.zeros(rec.h.shape[1:])
    return torch.stack(
        [rec.at(s, inside).mean(0) - rec.at(s, ~inside).mean(0) for s in range(rec.h.shape[1])]
    )
