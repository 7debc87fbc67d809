"""How disentangled is a dictionary, when the factors are known? Two standard scores.

MIG, the mutual information gap (Chen et al., 2018): of the information that units hold about a
factor, the lead of the best unit over the second.

DCI (Eastwood & Williams, 2018): trees predict each factor from all units, and what they lean on
says whether a unit serves one factor (disentanglement), whether a factor needs one unit
(completeness), and how well all units together tell it (informativeness).

Unit 0 below is the factor itself, and unit 1 is independent of it:

>>> from difflens_utils.analysis import disentanglement
>>> gender = [0, 0, 1, 1]
>>> units = [[0, 0], [0, 1], [1, 0], [1, 1]]  # (N, U)
>>> disentanglement.mutual_information(units, gender, bins=2).round(3).tolist()  # log 2, and 0
[0.693, 0.0]
>>> float(round(disentanglement.mig(units, {"gender": gender}, bins=2).value, 3))
1.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import ExtraTreesClassifier

from ..metrics import NOTHING, Estimate, bootstrap_means, mean
from ..runtime.errors import positive

Array = NDArray[np.float64]


class DCI(NamedTuple):
    """All between 0 and 1, as means: over units (weighted), over factors, over factors."""

    disentanglement: Estimate
    completeness: Estimate
    informativeness: Estimate
    """Balanced accuracy on held-out images, chance taken off, mean over factors."""


def entropy(p: ArrayLike, axis: int = -1) -> Array:
    """The entropy of p along an axis, in nats; 0 log 0 = 0."""
    p = np.asarray(p, dtype=np.float64)
    logs = np.log(np.where(p > 0, p, 1.0))
    total: Array = -np.sum(np.where(p > 0, p * logs, 0.0), axis=axis)
    return total


def binned(units: ArrayLike, bins: int = 20) -> NDArray[np.int64]:
    """Each unit (N, U) in as many bins of equal counts as ties allow: the bins' numbers (N, U)."""
    positive("bins", bins)
    values = np.asarray(units, dtype=np.float64)
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1], axis=0)  # (bins - 1, U)
    columns = []
    for edge, column in zip(edges.T, values.T, strict=True):
        columns.append(np.searchsorted(np.unique(edge), column, side="left"))
    return np.stack(columns, 1)


def mutual_information(units: ArrayLike, labels: ArrayLike, bins: int = 20) -> Array:
    """The mutual information of each unit (N, U), binned, and a label (N,): (U,) in nats."""
    return _information(binned(units, bins), np.asarray(labels))


def _information(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> Array:
    """The mutual information of each column of codes (N, U) and the labels (N,): (U,) in nats."""
    classes = labels.max() + 1
    cells = (codes.max() + 1) * classes
    counts = [np.bincount(column * classes + labels, minlength=cells) for column in codes.T]
    joint = np.stack(counts) / len(labels)  # (U, bins classes)
    table = joint.reshape(len(joint), -1, classes)
    of_labels = entropy(table.sum(1))
    of_codes = entropy(table.sum(2))
    return of_labels + of_codes - entropy(joint)


def mig(units: ArrayLike, factors: Mapping[str, ArrayLike], bins: int = 20) -> Estimate:
    """The mutual information gap: the lead of the best unit over the second, per factor's entropy.

    The mean over factors, with its interval over factors.
    """
    codes = binned(units, bins)
    gaps = []
    for labels in map(np.asarray, factors.values()):
        second, best = np.sort(_information(codes, labels))[-2:]
        shares = np.bincount(labels) / len(labels)
        gaps.append((best - second) / entropy(shares))
    return mean(gaps)


def scores(importance: ArrayLike) -> tuple[Array, Array, Array]:
    """From how much each factor's predictor leans on each unit (U, F), three arrays.

    Disentanglement per unit (U,), the units' weights (U,), and completeness per factor (F,). A unit
    that nothing leans on has weight 0.
    """
    r = np.asarray(importance, dtype=np.float64)
    by_unit, by_factor = r.sum(1), r.sum(0)
    rows = r / np.where(by_unit > 0, by_unit, 1)[:, None]
    columns = r / np.where(by_factor > 0, by_factor, 1)
    most_units, most_factors = (np.log(max(2, size)) for size in r.shape)
    disentanglement = 1 - entropy(rows) / most_factors
    completeness = 1 - entropy(columns, axis=0) / most_units
    total = by_unit.sum()
    return disentanglement, by_unit / (total if total > 0 else 1), completeness


def dci(
    units: ArrayLike,
    factors: Mapping[str, ArrayLike],
    *,
    trees: int = 40,
    seed: int = 0,
    resampling: int = 0,
) -> DCI:
    """DCI with extremely randomised trees; every fourth image is held out.

    Intervals are over units (weighted) and over factors. `resampling` is the seed of the resamples
    of units: dictionaries that are compared take one each, since their units are no pairs. Of one
    factor alone there is nothing to disentangle: disentanglement is `metrics.NOTHING`.
    """
    x = np.asarray(units, dtype=np.float32)
    held = np.arange(len(x)) % 4 == 3
    importance, accuracy = [], []
    for labels in factors.values():
        y = np.asarray(labels)
        model = ExtraTreesClassifier(
            trees,
            class_weight="balanced",
            min_samples_leaf=3,
            random_state=seed,
            n_jobs=torch.get_num_threads(),
        ).fit(x[~held], y[~held])
        importance.append(model.feature_importances_)
        truth = y[held]
        right = model.predict(x[held]) == truth
        balanced = np.mean([right[truth == c].mean() for c in np.unique(truth)])
        chance = 1 / len(np.unique(y))
        accuracy.append((balanced - chance) / (1 - chance))
    by_unit, weight, by_factor = scores(np.stack(importance, 1))
    disentangled = NOTHING
    if len(factors) > 1 and weight.any():
        disentangled = _weighted_mean(by_unit, weight, resampling)
    return DCI(disentangled, mean(by_factor), mean(accuracy))


def _weighted_mean(values: Array, weights: Array, seed: int) -> Estimate:
    """The weighted mean of one value per unit (U,), with its interval over units."""
    with np.errstate(invalid="ignore"):  # a resample may hold no unit of any weight
        return bootstrap_means(lambda a, b: a / b, values * weights, weights, seed=seed)
