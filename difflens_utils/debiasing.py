"""From a method to a fair set of images: search, plan, carry out.

The search tries a method's strengths on seeds on which nothing is reported, and is the same for
every method. It takes longer than the rest of the book, so its result ships with the subject
(`make methods` makes it anew). Fresh seeds show whether it still holds: there the shares that a
plan expects stand beside those that it reaches.

An edit that turns half of class 0 into class 1 balances 80 : 20 if 3 of 4 images take it:

>>> from difflens_utils import debiasing
>>> from difflens_utils.metrics import wilson
>>> alike = wilson(100, 100)
>>> stays, moves = [[1, 0], [0, 1]], [[0.5, 0.5], [0, 1]]
>>> unedited = debiasing.Arm(debiasing.UNEDITED, 0.0, stays, alike, alike, [0.8, 0.2])
>>> edited = debiasing.Arm(1, 2.0, moves, alike, alike, [0.4, 0.6])
>>> plan = debiasing.plan([unedited, edited], base=[[0.8, 0.2]], target=[0.5, 0.5])
>>> plan.weights.round(3).tolist()
[0.25, 0.75]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from . import edits, metrics, outcome, sampling
from .methods import Method, planning
from .methods.planning import Plan
from .metrics import Estimate
from .outcome import Outcome
from .runtime import artifacts
from .runtime.errors import all_positive
from .sampling import Edit
from .subjects.conditions import Prompt
from .subjects.pipelines import Subject

Array = NDArray[np.float64]
UNEDITED, EVERY = -1, -2  # targets of arms that are no class
STRIDE, LONGER = 1.5, 6  # by how much a path goes on behind its grid, and how often at most
SPENT, FULL = 0.5, 0.97  # CLIP-I at which it ends, and the share of the class at which it does
LOST = 0.08  # of the agreement of the evaluators, from which an arm is left out
DRAWS = 2  # of each image from the plan at which methods are compared; figures are their mean
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
    reached: list[float]  # the class shares of the tuning images
    way: int = 0  # which of the method's ways it takes

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
    counted: int  # how many images the shares of each prompt were counted on

    def towards(self, target: int) -> list[Arm]:
        """The arms towards a class, after the unedited one: the path of growing strength."""
        return [arm for arm in self.arms if arm.target in (UNEDITED, target)]

    def share(self, arm: Arm, target: int) -> float:
        """The share of a class under an arm, mean over the prompts."""
        return float(arm.shares(self.base)[:, target].mean())

    def strongest(self, target: int) -> Arm | None:
        """The `clear` arm towards a class that reaches most of it, the weaker of two equal ones.

        None if no arm is left.
        """
        usable = [arm for arm in self.arms if arm.target == target and clear(arm, self.arms[0])]
        rising = sorted(usable, key=lambda arm: (self.share(arm, target), -arm.strength))
        return rising[-1] if rising else None

    def in_one_way(self) -> Search:
        """The search without the arms that take the edits in another way than the method's own.

        Edits of several searches can then be composed: a run has one kind of step.
        """
        own = [arm for arm in self.arms if arm.way == 0]
        return replace(self, method=replace(self.method, variants=()), arms=own)

    def on(self, base: Array, counted: int) -> Search:
        """The same arms with other unedited shares, such as those of held-out prompts."""
        return replace(self, base=base, counted=counted)


@dataclass(frozen=True)
class Mixture:
    """Images that draw their edits from plans, seen under every edit that they drew.

    Where methods are compared they draw several times, and a plan is not judged by one draw of it.
    """

    arms: Sequence[Outcome]  # the images without an edit, and under each that a plan uses
    weight: Array  # (n, M) the share of its draws with which each image counts under each

    def expected(self, read: Callable[[Outcome], ArrayLike]) -> Array:
        """What `read` (n, ...) gives on average over the draws: (n, ...)."""
        total: Array = np.zeros(())
        for arm, weight in zip(self.arms, self.weight.T, strict=True):
            values = np.asarray(read(arm), dtype=np.float64)
            total = total + weight.reshape(-1, *[1] * (values.ndim - 1)) * values
        return total

    def drawn(self, arm: Tensor) -> Outcome:
        """The images of one draw: image i under arm `arm[i]`."""
        return outcome.picked(self.arms, arm)


class Debiased(NamedTuple):
    """A plan per prompt (or one for all) from a search, and the images that came of them."""

    search: Search
    target: Sequence[float]
    plans: list[Plan]
    mixture: Mixture
    outcome: Outcome  # one draw

    @property
    def expected(self) -> Array:
        """The shares that were planned: (G, classes)."""
        return np.concatenate([plan.expected for plan in self.plans])


def base_shares(subject: Subject, images: Tensor, prompts: int | None = None) -> dict[str, Array]:
    """The class shares of many unedited images (N, 3, H, W) under each prompt, by the scorer.

    {attribute: (G, classes)}. `prompts` is how many prompts the images took in turn, by default as
    many as the evaluation has.
    """
    seen = outcome.judge(subject, images, prompts)
    number = prompts or len(subject.texts())
    found = {}
    for a in subject.attributes:
        rows = [metrics.shares(seen.scored[a][seen.prompt == g]) for g in range(number)]
        found[a] = np.stack(rows)
    return found


def respond(
    subject: Subject, method: Method, attribute: str, *, n: int, seed: int, steps: int
) -> list[Arm]:
    """What a method does to `n` images at each strength, in each of its ways, towards each class.

    The strengths are those of its grid, and stronger ones as long as something is gained by them.
    The first arm is no edit.
    """
    trial = _Trial(
        subject,
        attribute,
        seed,
        steps,
        outcome.judge(subject, outcome.draw(subject, None, n, seed, steps)),
    )
    plain = trial.arm(trial.before, UNEDITED, 0.0)
    arms = [plain]
    for number, way in enumerate(method.ways):
        for target in _targets(subject, method, attribute):
            path: list[Arm] = []
            for strength in _strengths(way):
                path.append(trial.under(way, target, strength)._replace(way=number))
                if not _gains(path, plain):
                    break
            arms += path
    return arms


@dataclass(frozen=True)
class _Trial:
    """The images on which edits of an attribute are tried."""

    subject: Subject
    attribute: str
    seed: int
    steps: int
    before: Outcome

    def under(self, method: Method, target: int, strength: float) -> Arm:
        """The arm of one edit."""
        edit = method.towards(target, strength)
        n = len(self.before.images)
        images = draw(self.subject, method, edit, n, self.seed, self.steps)
        return self.arm(outcome.judge(self.subject, images), target, strength)

    def arm(self, edited: Outcome, target: int, strength: float) -> Arm:
        """What has become of the images."""
        before, after = self.before.scored[self.attribute], edited.scored[self.attribute]
        moved = metrics.transitions(before, after)
        prompts = torch.unique(self.before.prompt)
        if target == EVERY and len(prompts) > 1:
            groups = [self.before.prompt == g for g in prompts]
            moved = np.stack([metrics.transitions(before[rows], after[rows]) for rows in groups])
        similar = metrics.clip_i(self.before.clip, edited.clip).raw
        shares = metrics.shares(after).tolist()
        return Arm(
            target, strength, moved.tolist(), similar, edited.agreement(self.attribute), shares
        )


def _strengths(method: Method) -> Iterator[float]:
    """The strengths of a method's grid, and then ever greater ones."""
    yield from method.grid
    for power in range(1, LONGER + 1):
        yield method.grid[-1] * STRIDE**power


def _gains(path: Sequence[Arm], plain: Arm) -> bool:
    """Whether a stronger edit than the last one of a path may still gain something.

    It may not where the evaluators disagree, where images have lost more of themselves than
    `SPENT`, and where all images are of the class; or, of an edit that takes the distribution,
    where the shares have moved away from equal ones again.
    """
    last = path[-1]
    if not clear(last, plain) or last.similar.value < SPENT:
        return False
    if last.target != EVERY:
        return last.reached[last.target] < FULL
    off = [float(np.ptp(arm.reached)) for arm in path]
    return len(path) < 3 or min(off[-2:]) <= min(off)


def _targets(subject: Subject, method: Method, attribute: str) -> list[int]:
    return [EVERY] if method.whole else list(range(len(subject.classes(attribute))))


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
    """Every edit of the grids that a search tries."""
    method = arguments["method"]
    targets = _targets(arguments["subject"], method, arguments["attribute"])
    return [
        way.towards(target, strength)
        for way in method.ways
        for target in targets
        for strength in way.grid
    ]


def _save(arms: list[Arm], folder: Path) -> None:
    rows = [
        arm._asdict() | {"similar": _ends(arm.similar), "agreement": _ends(arm.agreement)}
        for arm in arms
    ]
    (folder / "arms.json").write_text(json.dumps(rows, indent=1) + "\n")


def _ends(estimate: Estimate) -> tuple[float, float, float, int]:
    return estimate.value, estimate.low, estimate.high, estimate.n


def _load(folder: Path) -> list[Arm]:
    rows = json.loads((folder / "arms.json").read_text())
    return [
        Arm(**row)._replace(
            similar=Estimate(*row["similar"]), agreement=Estimate(*row["agreement"])
        )
        for row in rows
    ]


def _named(method: Method) -> str:
    """What a search is called where it ships: one in several ways is another."""
    return "-".join([method.key, *("in_all_ways" for _ in method.variants[:1])])


@artifacts.stored(
    "search",
    form=artifacts.Form(_save, _load),
    reads=("texts", "prompts", "labeller", "scorer", "clip"),
    describe={
        "method": lambda method: {
            "method": method.name,
            "grid": [list(way.grid) for way in method.ways],
            "ways": [way.name for way in method.ways],
        },
        "recipe": lambda recipe: {"recipe": dict(sorted((recipe or {}).items()))},
    },
    shipped=lambda a: a["subject"].folder / "search" / a["attribute"] / _named(a["method"]),
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


def clear(arm: Arm, plain: Arm) -> bool:
    """Whether the evaluators agree on an arm's images nearly as often as on unedited ones.

    Washed-out images fool one evaluator. An arm is left out if the agreement has fallen by more
    than `LOST`, and the upper end of its interval says so too.
    """
    return arm.target == UNEDITED or arm.agreement.high >= plain.agreement.value - LOST


def plan(
    arms: Sequence[Arm],
    base: ArrayLike,
    target: Sequence[float],
    remaining: float | None = None,
    equal: bool = False,
) -> Plan:
    """The mixture of arms that takes the shares `base` nearest to `target` at the least loss.

    The loss is that of CLIP-I. With `remaining`, a share of the unedited FD, it is the cheapest
    mixture that comes so near. The first arm is the unedited one; arms that are not `clear` are
    left out. Of arms that take the distribution only one is taken, and of arms that are asked for
    equally often (`equal`) those of one strength; where a share of the FD remains, unedited images
    are mixed in.
    """
    usable = [i for i, arm in enumerate(arms) if clear(arm, arms[0])]
    options = _options([arms[i] for i in usable], equal)  # (M, usable)
    shares = np.tensordot(options, np.stack([arms[i].shares(base) for i in usable]), 1)
    costs = options @ np.array([1 - arms[i].similar.value for i in usable])
    alone = equal or any(arm.target == EVERY for arm in arms)
    if remaining is None:
        found = (planning.single if alone else planning.mixture)(shares, costs, target)
    else:
        distance = remaining * _distance(shares[0], target)
        found = (_alone if alone else planning.within)(shares, costs, target, distance)
    weights = np.zeros(len(arms))
    weights[usable] = found.weights @ options
    return found._replace(weights=weights)


def _options(arms: Sequence[Arm], equal: bool) -> Array:
    """What a plan chooses among, as weights of arms: (M, arms), the unedited arm first.

    They are the arms themselves, or, where classes are asked for equally often, the arms of one
    strength that every class has.
    """
    if not equal:
        return np.eye(len(arms))
    classes = {arm.target for arm in arms[1:]}
    options = [np.eye(len(arms))[0]]
    for key in dict.fromkeys((arm.way, arm.strength) for arm in arms[1:]):
        same = np.array([(arm.way, arm.strength) == key for arm in arms], dtype=float)
        same[0] = 0
        if same.sum() == len(classes):
            options.append(same / same.sum())
    return np.stack(options)


def _alone(shares: Array, costs: Array, target: Sequence[float], distance: float) -> Plan:
    """The cheapest plan of one option and no edit that comes within a distance, or the nearest."""
    found = [planning.single(shares[:1], costs[:1], target)]
    for m in range(1, len(shares)):
        found.append(planning.within(shares[[0, m]], costs[[0, m]], target, distance))
    missed = [max(_distance(p.expected, target) - 1.001 * distance, 0.0) for p in found]
    best = min(range(len(found)), key=lambda m: (missed[m], found[m].cost))
    weights = np.zeros(len(shares))
    weights[0] = found[best].weights[0]
    weights[best] += found[best].weights[1:].sum()
    return found[best]._replace(weights=weights)


def _distance(shares: Array, target: Sequence[float]) -> float:
    """FD of shares (G, classes): the root of the mean over the prompts of its square."""
    return float(np.sqrt(((shares - np.asarray(target)) ** 2).sum(-1).mean()))


def plans(
    found: Search,
    target: Sequence[float],
    together: bool = False,
    remaining: float | None = None,
) -> list[Plan]:
    """One `plan` per prompt; or one for all of them `together`."""
    equal = found.method.equal
    if together:
        return [plan(found.arms, found.base, target, remaining, equal)]
    return [
        plan([arm.under(g) for arm in found.arms], row[None], target, remaining, equal)
        for g, row in enumerate(found.base)
    ]


def edit_of(found: Search, planned: Sequence[Plan], n: int, seed: int, group: int = 1) -> Edit:
    """The edit that carries plans out on n images, which take the prompts in turn.

    Each image draws its arm, or each batch of `group` images does. Raises ValueError for plans that
    use several ways of the method: one edit has one kind of step.
    """
    method, arms = found.method, found.arms
    if any(arms[i].way for i in _used(planned)):
        raise ValueError("plans must use the method's own way alone: take search.in_one_way()")
    if method.network:  # one strength for all
        arm = arms[int(planned[0].weights.argmax())]
        return method.towards(arm.target, arm.strength)
    used = [arms[i] if i else None for i in _used(planned)]
    places = drawn_arms(planned, sampling.assigned(n, len(planned)), seed, group)
    made = {
        place: method.towards(arm.target, arm.strength)
        for place, arm in enumerate(used)
        if arm is not None
    }
    return edits.per_image(made, places)


def drawn_arms(planned: Sequence[Plan], prompt: Tensor, seed: int, group: int = 1) -> Tensor:
    """Which of the arms that plans use each image draws: (n,), their numbers among `_used`.

    `prompt` (n,) are the numbers of the images' plans.
    """
    used = _used(planned)
    drawn = torch.zeros(len(prompt), dtype=torch.int64)
    for number, p in enumerate(planned):
        rows = prompt == number
        weights = p.weights[used].tolist()
        drawn[rows] = edits.draw_classes(int(rows.sum()), weights, seed + number, group)
    return drawn


@dataclass(frozen=True)
class Run:
    """The images that plans are carried out on."""

    before: Outcome  # as they are without an edit
    seed: int
    steps: int
    prompts: Sequence[Prompt] | None = None  # those of the evaluation by default

    def rows(self, prompt: int, planned: Sequence[Plan]) -> Tensor:
        """Which images a plan is for, (n,) bool: all, where one plan serves every prompt."""
        every = torch.ones(len(self.before.images), dtype=torch.bool)
        return every if len(planned) == 1 else self.before.prompt == prompt

    def judge(self, subject: Subject, images: Tensor) -> Outcome:
        """What the evaluators say of the same images under an edit."""
        return outcome.judge(subject, images, len(self.prompts) if self.prompts else None)


def debias(
    subject: Subject,
    found: Search,
    target: Sequence[float],
    run: Run,
    *,
    group: int = 1,
    together: bool = False,
) -> Debiased:
    """Carries out plans that aim at the class shares `target` under every prompt.

    Each image draws its arm, or each batch of `group` images does.
    """
    planned = plans(found, target, together or found.method.network)
    draws = _draws(planned, run, 1, group)
    mixture = carried_out(subject, found, planned, run, draws)
    return Debiased(found, target, planned, mixture, mixture.drawn(draws[0]))


def composed(subject: Subject, searches: Sequence[Search], run: Run, seed: int) -> Outcome:
    """The images of a run, which shall have equal shares of the classes of several attributes.

    Each search has plans of its own, in the own way of its method. Each image draws an arm from the
    plans of each, and the edits are composed. Raises ValueError for methods that need different
    steps or batches.
    """
    first, *others = [search.method for search in searches]
    if any((m.asymmetric, m.whole) != (first.asymmetric, first.whole) for m in others):
        raise ValueError("methods must take the same step and the same batches, to be composed")
    n, made = len(run.before.images), []
    for number, search in enumerate(searches):
        own = search.in_one_way()
        classes = own.base.shape[1]
        planned = plans(own, [1 / classes] * classes)
        made.append(edit_of(own, planned, n, seed + number))
    edit = edits.compose(*made)
    return run.judge(subject, draw(subject, first, edit, n, run.seed, run.steps, run.prompts))


def carried_out(
    subject: Subject,
    found: Search,
    planned: Sequence[Plan],
    run: Run,
    draws: Tensor | None = None,
) -> Mixture:
    """The images of a run under the edits that they draw from plans, DRAWS times each.

    `draws` (D, n) are the numbers of the arms among `_used` instead. A method that moves whole
    sets, or the network, has one arm: all images are made under it, and get the weights of the
    plan.
    """
    used, method = _used(planned), found.method
    if method.whole or method.network:
        weight = _weights(planned, run)[:, used]
    else:
        draws = _draws(planned, run, DRAWS) if draws is None else draws
        weight = one_hot(draws, len(used)).double().mean(0).numpy()
    judged = []
    for place, arm in enumerate(used):
        rows = torch.from_numpy(weight[:, place] > 0)
        if found.arms[arm].target == UNEDITED or not rows.any():
            judged.append(run.before)
            continue
        seen = outcome.judge(subject, _edited(subject, found, found.arms[arm], rows, run))
        judged.append(outcome.renewed(run.before, rows, seen))
    return Mixture(judged, weight)


def _draws(planned: Sequence[Plan], run: Run, times: int, group: int = 1) -> Tensor:
    """Which of the arms `_used` each image draws, in each of its draws: (times, n)."""
    prompt = torch.zeros_like(run.before.prompt) if len(planned) == 1 else run.before.prompt
    seeds = [run.seed + 1 + 1000 * number for number in range(times)]
    return torch.stack([drawn_arms(planned, prompt, seed, group) for seed in seeds])


def _weights(planned: Sequence[Plan], run: Run) -> Array:
    """The weights of the arms in each image's plan: (n, arms)."""
    weight = np.zeros((len(run.before.images), len(planned[0].weights)))
    for number, plan_ in enumerate(planned):
        weight[run.rows(number, planned).numpy()] = plan_.weights
    return weight


def _used(planned: Sequence[Plan]) -> list[int]:
    """The arms that plans use, the unedited one first, whether it is used or not."""
    weights = np.stack([p.weights for p in planned]).max(0)
    return [0, *(int(i) for i in weights.nonzero()[0] if i > 0)]


def _edited(subject: Subject, found: Search, arm: Arm, rows: Tensor, run: Run) -> Tensor:
    """The images `rows` (n,) of a run under an arm: (m, 3, H, W)."""
    way = found.method.ways[arm.way]
    edit = way.towards(arm.target, arm.strength)
    if not rows.all():
        edit = edits.per_image({1: edit}, rows.long())
    n = len(run.before.images)
    return draw(subject, way, edit, n, run.seed, run.steps, run.prompts)[rows]
