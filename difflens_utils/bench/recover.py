"""Track 1, recover: do units of frozen activations stand for the factors that were planted?

Every class of every factor is a target, and of a factor that is absent or present the latter. The
partner of a target is chosen on three images of four, and all figures are of the fourth.

Two units are the factors themselves, and one is noise:

>>> import torch
>>> from difflens_utils.bench import recover
>>> from difflens_utils.bench.frozen import Frozen, Probe
>>> g = torch.Generator().manual_seed(0)
>>> a, b = (torch.randint(2, (400,), generator=g) for _ in range(2))
>>> h = torch.stack([a, b, torch.rand(400, generator=g)], 1).reshape(400, 1, 3, 1, 1)
>>> classes = {"a": ("absent", "present"), "b": ("absent", "present")}
>>> frozen = Frozen("made up", h, classes, {"independent": Probe(h, {"a": a, "b": b})})
>>> found = recover.score(lambda x: x, frozen)
>>> round(found["mcc"].value, 3), found["coverage"].value
(1.0, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .. import metrics
from ..analysis import disentanglement
from ..metrics import Array, Estimate
from ..worlds import World
from .frozen import Frozen, Probe, Units, answers

COVERED = 0.8  # the AUROC from which a unit is said to tell a class
RARE = 0.03  # P(child | another class of the parent), up to which the child implies the parent
HELD = 4  # every fourth image is held out
Bools = NDArray[np.bool_]


class Hierarchy(NamedTuple):
    """A class that comes with one class of another factor alone, as a beard comes with men."""

    parent: tuple[str, int]
    child: tuple[str, int]


@dataclass(frozen=True)
class Answered:
    """Units and targets of a probe, apart for choosing partners and for measuring them."""

    units: Array  # (m, U)
    targets: Bools  # (m, targets)
    held: Bools  # (m,)

    @classmethod
    def of(cls, units: Array, targets: Bools) -> Answered:
        """Every fourth image is held out. Targets that do not vary in both parts are left out."""
        held = np.arange(len(units)) % HELD == HELD - 1
        parts = (targets[held], targets[~held])
        vary = [part.any(0) & ~part.all(0) for part in parts]
        return cls(units, targets[:, vary[0] & vary[1]], held)


def score(
    units: Units, frozen: Frozen, hierarchies: Sequence[Hierarchy] = ()
) -> dict[str, Estimate]:
    """The figures of the track, the one that ranks first.

    `mcc` is the mean correlation of targets and their partners, one to one (Hyvärinen and Morioka,
    2016); `mcc_planted` and `mcc_reversed` are those where the factors are tied together.
    `coverage` is the share of targets that some unit tells. `absorption` is by how much more often
    the unit of a parent misses images that show its child (Chanin et al., 2024). The others are DCI
    (Eastwood and Williams, 2018). Intervals are over targets.
    """
    found: dict[str, Estimate] = {}
    for way, probe in frozen.probes.items():
        name = "mcc" if way == "independent" else f"mcc_{way}"
        found[name] = mcc(_answered(units, probe, frozen.classes))
    probe = frozen.probes["independent"]
    answered = _answered(units, probe, frozen.classes)
    labels = {factor: y.numpy() for factor, y in probe.labels.items()}
    found["coverage"] = coverage(answered)
    found["absorption"] = absorption(answered.units, probe.labels, hierarchies)
    return found | disentanglement.dci(answered.units, labels)._asdict()


def _answered(units: Units, probe: Probe, classes: Mapping[str, Sequence[str]]) -> Answered:
    return Answered.of(answers(units, probe.h), targets(probe.labels, classes))


def targets(labels: Mapping[str, Tensor], classes: Mapping[str, Sequence[str]]) -> Bools:
    """Whether each image is of each target: (m, targets)."""
    columns = []
    for factor, y in labels.items():
        several = range(1 if len(classes[factor]) == 2 else 0, len(classes[factor]))
        columns += [(y == c).numpy() for c in several]
    every: Bools = np.stack(columns, 1)
    return every


# --------------------------------------------------------------------------------------------------
# Figures


def mcc(answered: Answered) -> Estimate:
    """The mean |correlation| of targets and their partners. A target without one counts 0."""
    chosen = ~answered.held
    fitted = correlations(answered.units[chosen], answered.targets[chosen])  # (U, targets)
    held = correlations(answered.units[answered.held], answered.targets[answered.held])
    partner, target = linear_sum_assignment(np.abs(fitted), maximize=True)
    reached = np.zeros(answered.targets.shape[1])
    reached[target] = held[partner, target] * np.sign(fitted[partner, target])
    return metrics.mean(reached)


def correlations(units: Array, wanted: Bools) -> Array:
    """Pearson's of each unit (m, U) and each target (m, targets): (U, targets).

    It is 0 for what does not vary.
    """
    x, y = _standardised(units), _standardised(wanted.astype(np.float64))
    found: Array = x.T @ y / len(x)
    return found


def _standardised(values: Array) -> Array:
    centred = values - values.mean(0)
    spread = centred.std(0)
    tiny = spread <= 1e-12 * np.abs(values).max(0)
    standard: Array = np.where(tiny, 0.0, centred / np.where(tiny, 1.0, spread))
    return standard


def coverage(answered: Answered) -> Estimate:
    """The share of targets that some unit tells with an AUROC of COVERED or more."""
    areas = [
        metrics.auroc(answered.units[rows], answered.targets[rows]) for rows in _parts(answered)
    ]
    fitted, held = areas  # (U, targets)
    best = fitted.argmax(0)
    told = held[best, np.arange(held.shape[1])]
    return metrics.share(told >= COVERED)


def _parts(answered: Answered) -> tuple[Bools, Bools]:
    return ~answered.held, answered.held


def hierarchies(world: World) -> list[Hierarchy]:
    """The classes of a world that imply a class of one of their parents.

    They come with that class more often than RARE, and with each other class at most so often.
    """
    found = []
    for child in world.model:
        for parent in child.parents:
            names = world.factors[parent].classes
            rows = np.stack([world.marginal(child.name, {parent: name}).numpy() for name in names])
            for c, often in enumerate(rows.T):  # (classes of the parent,)
                if c and (often > RARE).sum() == 1:
                    found.append(Hierarchy((parent, int(often.argmax())), (child.name, c)))
    return found


def absorption(units: Array, labels: Mapping[str, Tensor], every: Sequence[Hierarchy]) -> Estimate:
    """The mean rise of a parent's misses where its child is there; `metrics.NOTHING` of none."""
    rises = []
    for parent, child in every:
        if parent[0] in labels and child[0] in labels:
            is_parent = (labels[parent[0]] == parent[1]).numpy()
            is_child = (labels[child[0]] == child[1]).numpy()
            rises.append(_rise(Answered.of(units, is_parent[:, None]), is_child))
    return metrics.mean(rises) if rises else metrics.NOTHING


def _rise(answered: Answered, is_child: Bools) -> float:
    """By how much more often the parent's unit misses held-out images with the child."""
    chosen, held = _parts(answered)
    if not answered.targets.shape[1]:
        return 0.0
    areas = metrics.auroc(answered.units[chosen], answered.targets[chosen])[:, 0]  # (U,)
    unit = answered.units[:, areas.argmax()]
    parent = answered.targets[:, 0]
    fires = unit > _threshold(unit[chosen], parent[chosen])
    with_child = ~fires[held & parent & is_child]
    without = ~fires[held & parent & ~is_child]
    if not (len(with_child) and len(without)):
        return 0.0
    return max(0.0, float(with_child.mean() - without.mean()))


def _threshold(unit: Array, positive: Bools) -> float:
    """Where a unit (m,) tells the positive images best, by balanced accuracy."""
    places = np.unique(unit)
    hits = [(unit[positive] > place).mean() - (unit[~positive] > place).mean() for place in places]
    return float(places[int(np.argmax(hits))])
