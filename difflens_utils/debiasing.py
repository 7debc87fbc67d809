"""From a method to a fair set of images: search, plan, carry out.

The search tries a method's strengths on seeds on which nothing is reported, and is the same for
every method. It takes longer than the rest of the book, so its result ships with the subject
(`make methods` makes it anew). Fresh seeds show whether it still holds: there the shares that a
plan expects stand beside those that it reaches.

An edit that turns half of class 0 into class 1 balances 80 : 20 if 3 of 4 images take it:

>>> from difflens_utils import debiasing
>>> from difflens_utils.metrics import wilson
>>> alike = wilson(100, 100)
>>> unedited = debiasing.Arm(debiasing.UNEDITED, 0.0, [[1, 0], [0, 1]], alike, alike)
>>> edited = debiasing.Arm(1, 2.0, [[0.5, 0.5], [0, 1]], alike, alike)
>>> plan = debiasing.plan([unedited, edited], base=[[0.8, 0.2]], target=[0.5, 0.5])
>>> plan.weights.round(3).tolist()
[0.25, 0.75]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from . import edits, evaluators, metrics, outcome, sampling
from .methods import Method, planning
from .methods.planning import Plan
from .metrics import Estimate
from .outcome import Outcome
from .runtime import artifacts
from .runtime.errors import all_positive
from .sampling import Edit
from .subjects.pipelines import Prompt, Subject

Array = NDArray[np.float64]
UNEDITED, EVERY = -1, -2  # targets of arms that are no class
GROUP = 64  # images that an edit which takes the distribution moves as one


class Arm(NamedTuple):
    """What one edit did to the tuning images: an option among which a plan chooses.

    Transitions are (classes, classes), or (G, classes, classes) of an edit that takes the
    distribution: such an edit moves the images of a class elsewhere under another prompt.
    """

    target: int  # a class, UNEDITED, or EVERY for an edit that takes the distribution
    strength: float
    transitions: list  # of the images that were one class unedited, the share that is each now
    similar: Estimate  # CLIP-I to the unedited images
    agreement: Estimate  # of the two evaluators

    def shares(self, base: ArrayLike) -> Array:
        """The class shares (G, classes) that follow from unedited ones of `base` (G, classes).

        Shares of a hundred tuning images themselves would be too noisy to plan with.
        """
        moved = np.asarray(base)[..., None, :] @ np.asarray(self.transitions)
        return moved[..., 0, :]

    def under(self, prompt: int) -> Arm:
        """The same arm for one prompt."""
        if np.ndim(self.transitions) == 2:
            return self
        return self._replace(transitions=self.transitions[prompt])


@dataclass(frozen=True)
class Search:
    """A method's arms for one attribute, and the unedited shares to plan from."""

    method: Method
    attribute: str
    arms: list[Arm]
    base: Array  # (G, classes) under each prompt, of many images

    def towards(self, target: int) -> list[Arm]:
        """The arms towards a class, after the unedited one: the path of growing strength."""
        return [arm for arm in self.arms if arm.target in (UNEDITED, target)]

    def share(self, arm: Arm, target: int) -> float:
        """The share of a class under an arm, mean over the prompts."""
        return float(arm.shares(self.base)[:, target].mean())

    def strongest(self, target: int, least_agreement: float = 0.9) -> Arm | None:
        """The arm towards a class that reaches most of it, the weaker of two equal ones.

        The two evaluators must agree on `least_agreement` of its images; None if no arm is left.
        """
        usable = [arm for arm in self.arms if arm.target == target]
        usable = [arm for arm in usable if arm.agreement.value >= least_agreement]
        rising = sorted(usable, key=lambda arm: (self.share(arm, target), -arm.strength))
        return rising[-1] if rising else None

    def on(self, base: Array) -> Search:
        """The same arms with other unedited shares, such as those of held-out prompts."""
        return replace(self, base=base)


class Debiased(NamedTuple):
    """A plan per prompt (or one for all) from a search, and the images that came of them."""

    search: Search
    target: Sequence[float]
    plans: list[Plan]
    outcome: Outcome

    @property
    def expected(self) -> Array:
        """The shares that were planned: (G, classes)."""
        return np.concatenate([plan.expected for plan in self.plans])


def base_shares(subject: Subject, images: Tensor, prompts: int | None = None) -> dict[str, Array]:
    """The class shares of many unedited images (N, 3, H, W) under each prompt, by the scorer.

    {attribute: (G, classes)}. `prompts` is how many prompts the images took in turn, by default as
    many as the evaluation has.
    """
    scored = evaluators.read(subject.scorer, images.to(subject.device))
    number = prompts or len(subject.texts())
    prompt = sampling.assigned(len(images), number)
    found = {}
    for a in subject.attributes:
        rows = [metrics.shares(scored[a][prompt == g]) for g in range(number)]
        found[a] = np.stack(rows)
    return found


def respond(
    subject: Subject, method: Method, attribute: str, *, n: int, seed: int, steps: int
) -> list[Arm]:
    """What a method does to `n` images at each strength of its grid, towards each class.

    The first arm is no edit.
    """
    plain = outcome.judge(subject, outcome.draw(subject, None, n, seed, steps))
    arms = [_arm(plain, plain, attribute, UNEDITED, 0.0)]
    for target in _targets(subject, method, attribute):
        for strength in method.grid:
            edit = method.towards(target, strength)
            images = draw(subject, method, edit, n, seed, steps)
            edited = outcome.judge(subject, images)
            arms.append(_arm(plain, edited, attribute, target, strength))
    return arms


def _targets(subject: Subject, method: Method, attribute: str) -> list[int]:
    return [EVERY] if method.whole else list(range(len(subject.classes(attribute))))


def _arm(plain: Outcome, edited: Outcome, attribute: str, target: int, strength: float) -> Arm:
    before, after = plain.scored[attribute], edited.scored[attribute]
    moved = metrics.transitions(before, after)
    prompts = torch.unique(plain.prompt)
    if target == EVERY and len(prompts) > 1:
        groups = [plain.prompt == g for g in prompts]
        moved = np.stack([metrics.transitions(before[rows], after[rows]) for rows in groups])
    similar = metrics.clip_i(plain.clip, edited.clip).raw
    return Arm(target, strength, moved.tolist(), similar, edited.agreement(attribute))


def draw(
    subject: Subject,
    method: Method,
    edit: Edit,
    n: int,
    seed: int,
    steps: int,
    prompts: Sequence[Prompt] | None = None,
) -> Tensor:
    """Images (n, 3, H, W) under an edit of a method, with the step that the method takes.

    A method that moves a whole batch has the same batches on every machine.
    """
    return outcome.draw(
        subject,
        edit,
        n,
        seed,
        steps,
        asymmetric=method.asymmetric,
        prompts=prompts,
        batch=GROUP if method.whole else None,
        progress=method.name,
    )


def _tried(arguments: Mapping[str, Any]) -> list[Edit]:
    """Every edit that a search tries."""
    method = arguments["method"]
    targets = _targets(arguments["subject"], method, arguments["attribute"])
    return [method.towards(target, strength) for target in targets for strength in method.grid]


def _save(arms: list[Arm], folder: Path) -> None:
    rows = [
        (arm.target, arm.strength, arm.transitions, _ends(arm.similar), _ends(arm.agreement))
        for arm in arms
    ]
    (folder / "arms.json").write_text(json.dumps(rows, indent=1) + "\n")


def _ends(estimate: Estimate) -> tuple[float, float, float, int]:
    return estimate.value, estimate.low, estimate.high, estimate.n


def _load(folder: Path) -> list[Arm]:
    rows = json.loads((folder / "arms.json").read_text())
    return [
        Arm(target, strength, transitions, Estimate(*similar), Estimate(*agreement))
        for target, strength, transitions, similar, agreement in rows
    ]


@artifacts.stored(
    "search",
    form=artifacts.Form(_save, _load),
    reads=("texts", "prompts", "labeller", "scorer", "clip"),
    describe={
        "method": lambda method: {"method": method.name, "grid": method.grid},
        "recipe": lambda recipe: {"recipe": dict(sorted((recipe or {}).items()))},
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
    recipe: Mapping[str, Any] | None = None,
) -> list[Arm]:
    """`respond`, from what ships with the subject or from the store if it is there.

    `recipe` is all that the method was made with. What ships is known by it, since the last bits of
    a k-SAE differ between machines; the store knows the edits themselves.
    """
    all_positive(n_tuned=n, steps=steps)
    return respond(subject, method, attribute, n=n, seed=seed, steps=steps)


def plan(
    arms: Sequence[Arm], base: ArrayLike, target: Sequence[float], least_agreement: float = 0.9
) -> Plan:
    """The mixture of arms that takes the shares `base` nearest to `target` at the least loss.

    The loss is that of CLIP-I. The best single arm is taken if the arms take the distribution. Arms
    on which the two evaluators agree on less than `least_agreement` of the images are left out:
    washed-out images fool one evaluator. The unedited arm is never left out.
    """
    usable = [
        i
        for i, arm in enumerate(arms)
        if arm.target == UNEDITED or arm.agreement.value >= least_agreement
    ]
    shares = [arms[i].shares(base) for i in usable]
    costs = [1 - arms[i].similar.value for i in usable]
    alone = any(arm.target == EVERY for arm in arms)
    choose = planning.single if alone else planning.mixture
    found = choose(shares, costs, target)
    weights = np.zeros(len(arms))
    weights[usable] = found.weights
    return found._replace(weights=weights)


def plans(found: Search, target: Sequence[float], together: bool = False) -> list[Plan]:
    """One `plan` per prompt; or one for all of them `together`."""
    if together:
        return [plan(found.arms, found.base, target)]
    return [
        plan([arm.under(g) for arm in found.arms], row[None], target)
        for g, row in enumerate(found.base)
    ]


def edit_of(found: Search, planned: Sequence[Plan], n: int, seed: int, group: int = 1) -> Edit:
    """The edit that carries plans out on n images, which take the prompts in turn.

    Each image draws its arm, or each batch of `group` images does.
    """
    method, arms = found.method, found.arms
    if method.network:  # one strength for all
        arm = arms[int(planned[0].weights.argmax())]
        return method.towards(arm.target, arm.strength)
    drawn = torch.empty(n, dtype=torch.int64)
    for number, p in enumerate(planned):
        rows = sampling.assigned(n, len(planned)) == number
        drawn[rows] = edits.draw_classes(int(rows.sum()), p.weights.tolist(), seed + number, group)
    weight = np.sum([p.weights for p in planned], axis=0)
    return edits.per_image(
        {
            i: method.towards(arm.target, arm.strength)
            for i, arm in enumerate(arms)
            if arm.target != UNEDITED and weight[i] > 0
        },
        drawn,
    )


def debias(
    subject: Subject,
    found: Search,
    target: Sequence[float],
    *,
    n: int,
    seed: int,
    steps: int,
    group: int = 1,
    together: bool = False,
    prompts: Sequence[Prompt] | None = None,
) -> Debiased:
    """Draws `n` images by plans that aim at the class shares `target` under every prompt."""
    method = found.method
    planned = plans(found, target, together or method.network)
    edit = edit_of(found, planned, n, seed + 1, group)
    images = draw(subject, method, edit, n, seed, steps, prompts)
    reached = outcome.judge(subject, images, len(prompts) if prompts else None)
    return Debiased(found, target, planned, reached)
