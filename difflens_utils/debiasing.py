"""From a method to a fair set of images: search its strengths once, plan a mixture for a target distribution, carry it out, score it.

The search runs on seeds on which nothing is reported, and is the same for every method. It takes longer than the rest of the
book, so its outcome ships with the subject (`make methods` makes it anew); whether it still tells the truth shows on the fresh seeds, where
what a plan expects stands beside what it reaches.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from . import artifacts, edits, evaluators, metrics, planning, sampling, stages
from .errors import all_positive
from .methods import Method
from .metrics import Estimate
from .planning import Plan
from .stages import Outcome
from .pipelines import Prompt, Subject

UNEDITED, WHOLE = -1, -2  # targets of arms that are no class
WHOLE_BATCH = 64  # images that an edit which takes the distribution moves as one


class Arm(NamedTuple):
    """What one edit did to a set of images: where images of each class went, the mean CLIP-I, and whether both evaluators still agree.

    Transitions are (classes, classes), or (G, classes, classes) of an edit that takes the distribution: it moves the images of a class elsewhere
    under another prompt.
    """

    target: int  # class, UNEDITED, or WHOLE for an edit that takes the distribution
    strength: float
    transitions: list  # of the images that were one class unedited, the share that is each now
    similar: Estimate  # CLIP-I to the unedited images
    agreement: Estimate

    def shares(self, base: ArrayLike) -> NDArray[np.float64]:
        """The class shares (G, classes) where the unedited ones are `base`: those of a hundred tuning images are too noisy to plan with."""
        return (np.asarray(base)[..., None, :] @ np.asarray(self.transitions))[..., 0, :]

    def under(self, prompt: int) -> Arm:
        """The same arm for one prompt."""
        return (
            self
            if np.ndim(self.transitions) == 2
            else self._replace(transitions=self.transitions[prompt])
        )


class Debiased(NamedTuple):
    """A plan per prompt (or one for all), and the images that came of them."""

    plans: list[Plan]
    outcome: Outcome

    @property
    def expected(self) -> NDArray[np.float64]:
        """The shares that were planned: (G, classes)."""
        return np.concatenate([p.expected for p in self.plans])


# ---------------------------------------------------------------------------------------------------------------------
# Search


def respond(
    subject: Subject, method: Method, attribute: str, *, n: int, seed: int, steps: int
) -> list[Arm]:
    """What a method does to `n` images at each strength of its grid, towards each class; the first arm is no edit."""
    plain = stages.judge(subject, stages.generate(subject, None, n, seed, steps))
    arms = [arm(plain, plain, attribute, UNEDITED, 0.0)]
    for target in [WHOLE] if method.whole else range(len(subject.classes(attribute))):
        for strength in method.grid:
            images = generate(subject, method, method.towards(target, strength), n, seed, steps)
            arms.append(arm(plain, stages.judge(subject, images), attribute, target, strength))
    return arms


def arm(plain: Outcome, edited: Outcome, attribute: str, target: int, strength: float) -> Arm:
    before, after = plain.scored[attribute], edited.scored[attribute]
    moved = metrics.transitions(before, after)
    if target == WHOLE and len(own := plain.prompt.unique()) > 1:
        moved = np.stack(
            [metrics.transitions(before[plain.prompt == g], after[plain.prompt == g]) for g in own]
        )
    return Arm(
        target,
        strength,
        moved.tolist(),
        metrics.clip_i(plain.clip, edited.clip).raw,
        edited.agreement(attribute),
    )


def base_shares(
    subject: Subject, images: torch.Tensor, prompts: int | None = None
) -> dict[str, NDArray[np.float64]]:
    """The class shares of many unedited images (N, 3, H, W) under each prompt, by the scorer: {attribute: (G, classes)}."""
    scored, number = (
        evaluators.read(subject.scorer, images.to(subject.device)),
        prompts or len(subject.texts()),
    )
    prompt = sampling.assigned(len(images), number)
    return {
        a: np.stack([metrics.shares(scored[a][prompt == g]) for g in range(number)])
        for a in subject.attributes
    }


def generate(
    subject: Subject,
    method: Method,
    edit: sampling.Edit,
    n: int,
    seed: int,
    steps: int,
    prompts: Sequence[Prompt] | None = None,
) -> torch.Tensor:
    """Images (n, 3, H, W) under an edit, with the step that the method asks for; one that moves a whole batch has the same batches everywhere."""
    batch = WHOLE_BATCH if method.whole else None
    return stages.generate(
        subject,
        edit,
        n,
        seed,
        steps,
        asymmetric=method.asymmetric,
        prompts=prompts,
        batch=batch,
        progress=method.name,
    )


def _tried(arguments: Mapping[str, Any]) -> list[sampling.Edit]:
    """Every edit that a search tries."""
    method = arguments["method"]
    classes = range(len(arguments["subject"].classes(arguments["attribute"])))
    targets = [WHOLE] if method.whole else classes
    return [method.towards(target, strength) for target in targets for strength in method.grid]


def _save_arms(arms: list[Arm], folder: Path) -> None:
    (folder / "arms.json").write_text(json.dumps(arms, indent=1) + "\n")


def _load_arms(folder: Path) -> list[Arm]:
    return [
        Arm(target, strength, transitions, Estimate(*similar), Estimate(*agreement))
        for target, strength, transitions, similar, agreement in json.loads(
            (folder / "arms.json").read_text()
        )
    ]


@artifacts.stored(
    "search",
    form=artifacts.Form(_save_arms, _load_arms),
    reads=("texts", "prompts", "labeller", "scorer", "clip"),
    describe={
        "method": lambda method: {"method": method.name, "grid": method.grid},
        "recipe": lambda recipe: {"recipe": dict(sorted(recipe.items()))},
    },
    shipped=lambda a: a["subject"].folder / "search" / a["attribute"] / a["method"].key,
    beyond=_tried,
    together=True,
)
def search(
    subject: Subject,
    method: Method,
    attribute: str,
    *,
    n: int,
    seed: int,
    steps: int,
    recipe: Mapping[str, Any],
) -> list[Arm]:
    """`respond`, from what ships with the subject or from the store if it is there.

    `recipe` is all that the method was made with. What ships is known by it, since the last bits of
    a k-SAE differ between machines; the store knows the edits themselves.
    """
    all_positive(n_tuned=n, steps=steps)
    return respond(subject, method, attribute, n=n, seed=seed, steps=steps)


# ---------------------------------------------------------------------------------------------------------------------
# Plan and carry out


def plan(
    arms: Sequence[Arm], base: ArrayLike, target: Sequence[float], least_agreement: float = 0.9
) -> Plan:
    """The mixture of arms that takes the class shares from `base` nearest to `target` at the least loss of CLIP-I; one arm alone, if
    the arms take the distribution.

    Arms on which the two evaluators agree on less than `least_agreement` of the images are left out: washed-out images
    fool one evaluator. No edit always stays.
    """
    usable = [
        i
        for i, a in enumerate(arms)
        if a.target == UNEDITED or a.agreement.value >= least_agreement
    ]
    shares, costs = (
        [arms[i].shares(base) for i in usable],
        [1 - arms[i].similar.value for i in usable],
    )
    alone = any(a.target == WHOLE for a in arms)
    found = (planning.single if alone else planning.mixture)(shares, costs, target)
    weights = np.zeros(len(arms))
    weights[usable] = found.weights
    return Plan(weights, found.expected, found.cost)


def plans(
    arms: Sequence[Arm], base: ArrayLike, target: Sequence[float], together: bool = False
) -> list[Plan]:
    """One `plan` per prompt, whose unedited shares are a row of `base` (G, classes); or one for all of them `together`."""
    rows = np.asarray(base)
    return (
        [plan(arms, rows, target)]
        if together
        else [plan([a.under(g) for a in arms], row[None], target) for g, row in enumerate(rows)]
    )


def edit_of(
    method: Method, arms: Sequence[Arm], planned: Sequence[Plan], n: int, seed: int, group: int = 1
) -> sampling.Edit:
    """The edit that carries the plans out on n images, which take the prompts in turn: each draws its arm, or each batch of `group` does."""
    if method.network:  # one strength for all
        arm = arms[int(planned[0].weights.argmax())]
        return method.towards(arm.target, arm.strength)
    drawn = torch.empty(n, dtype=torch.int64)
    for number, p in enumerate(planned):
        rows = sampling.assigned(n, len(planned)) == number
        drawn[rows] = edits.draw_classes(int(rows.sum()), p.weights.tolist(), seed + number, group)
    used = [
        i
        for i, a in enumerate(arms)
        if a.target != UNEDITED and any(p.weights[i] > 0 for p in planned)
    ]
    return edits.per_image(
        {i: method.towards(arms[i].target, arms[i].strength) for i in used}, drawn
    )


def debias(
    subject: Subject,
    method: Method,
    arms: Sequence[Arm],
    base: ArrayLike,
    target: Sequence[float],
    *,
    n: int,
    seed: int,
    steps: int,
    group: int = 1,
    together: bool = False,
    prompts: Sequence[Prompt] | None = None,
) -> Debiased:
    """`n` images that shall have the classes of `target` under every prompt, by the plans that the arms suggest where unedited shares
    are `base` (G, classes)."""
    planned = plans(arms, base, target, together or method.network)
    edit = edit_of(method, arms, planned, n, seed + 1, group)
    images = generate(subject, method, edit, n, seed, steps, prompts)
    return Debiased(planned, stages.judge(subject, images, len(prompts) if prompts else None))


# ---------------------------------------------------------------------------------------------------------------------
# Score


def unrelated(subject: Subject, attribute: str) -> list[str]:
    """The factors that an edit of an attribute has no business with: neither the attribute nor, where the causes are known, its effects."""
    caused = set(subject.world.planted_causes(attribute)) if subject.world else set()
    return [f for f in subject.factors if f != attribute and f not in caused]


def prompted(
    subject: Subject, outcome: Outcome, prompts: Sequence[Prompt] | None = None
) -> dict[str, Estimate]:
    """CLIP-T of each image and its prompt, as {"clip_t": ...}; nothing for a model without text."""
    texts = subject.texts(prompts)
    if not any(texts):
        return {}
    return {
        "clip_t": metrics.clip_t(
            subject.clip.text_features(texts).cpu()[outcome.prompt], outcome.clip
        ).raw
    }


def matched(
    subject: Subject,
    before: Outcome,
    after: Outcome,
    attribute: str,
    level: float,
    n_boot: int = 1000,
) -> tuple[Estimate, Estimate]:
    """CLIP-I and leak of a method that is dosed so that FD comes down to `level`.

    The leak is `metrics.NOTHING` if no factor is unrelated.
    """
    away = {f: before.scored[f] for f in unrelated(subject, attribute)}
    steps = list(metrics.class_changes(away, after.scored).values())

    def at(readout: Callable[..., NDArray[np.float64]], *arrays: ArrayLike) -> Estimate:
        return metrics.at_matched_fd(
            before.scored[attribute],
            after.scored[attribute],
            level,
            readout,
            *arrays,
            groups=after.prompt,
            n_boot=n_boot,
        )

    return (
        at(lambda dose, c: 1 - dose * (1 - c), (before.clip * after.clip).sum(1)),
        at(lambda dose, *means: dose * metrics.total_variation(*means), *steps)
        if steps
        else metrics.NOTHING,
    )


def score(
    subject: Subject,
    before: Outcome,
    after: Outcome,
    attribute: str,
    target: Sequence[float],
    references: Mapping[str, ArrayLike],
    seed: int,
) -> dict[str, Estimate]:
    """One cell of Table 1 or 2: fairness (Eq. 13), Fréchet distances (Eq. 14) to each reference (N, F) and to the unedited set, CLIP-I
    (Eq. 15), CLIP-T (Eq. 16) where there are prompts, and leakage: the mean shift (total variation) of the factors that are
    `unrelated`, and the largest; `metrics.NOTHING` if there are none."""
    fd = after.fairness(attribute, target)
    similar = metrics.clip_i(before.clip, after.clip)
    away = unrelated(subject, attribute)
    changes = list(
        metrics.class_changes({f: before.scored[f] for f in away}, after.scored).values()
    )
    worst = max(changes, key=lambda c: metrics.total_variation(c.mean(0)), default=None)
    distances = {
        f"frechet_{name}": metrics.frechet(after.features, features, seed=seed)
        for name, features in references.items()
    }
    return {
        "fd": fd.soft,
        "fd_hard": fd.hard,
        **distances,
        "frechet_unedited": metrics.frechet(after.features, before.features, seed=seed),
        "clip_i": similar.raw,
        "clip_i_rescaled": similar.rescaled,
        **prompted(subject, after),
        "agreement": after.agreement(attribute),
        "leak": _shift(*changes),
        "leak_worst": _shift(*([] if worst is None else [worst])),
    }


def _shift(*changes: NDArray[np.float64]) -> Estimate:
    """The mean total variation of some factors' changes of shares, (N, classes) each."""
    return (
        metrics.bootstrap_means(metrics.total_variation, *changes) if changes else metrics.NOTHING
    )
