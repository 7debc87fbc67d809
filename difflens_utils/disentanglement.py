"""How disentangled is a dictionary, when the factors are known? Two standard scores.

MIG, the mutual information gap (Chen et al., 2018): of the information that units hold about a factor, the lead of the best unit over
the second. DCI (Eastwood & Williams, 2018): trees predict each factor from all units, and what they lean on says whether a unit serves one
factor (disentanglement), a factor needs one unit (completeness), and how well all units together tell it (informativeness).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.ensemble import ExtraTreesClassifier

from .errors import positive
from .metrics import NOTHING, Estimate, mean

Array = NDArray[np.float64]


class DCI(NamedTuple):
    """All between 0 and 1; disentanglement and completeness have one value per factor or unit behind them."""

    disentanglement: Estimate
    completeness: Estimate
    informativeness: (
        Estimate  # balanced accuracy on held-out images, chance taken off, mean over factors
    )


def entropy(p: ArrayLike, axis: int = -1) -> Array:
    """In nats, along an axis; 0 log 0 = 0."""
    p = np.asarray(p, dtype=np.float64)
    return -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0), axis=axis)


def binned(units: ArrayLike, bins: int = 20) -> NDArray[np.int64]:
    """Each unit (N, U) in as many bins of equal counts as its ties allow: the bins' numbers, (N, U)."""
    positive("bins", bins)
    values = np.asarray(units, dtype=np.float64)
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1], axis=0)  # (bins - 1, U)
    return np.stack(
        [
            np.searchsorted(np.unique(e), column, side="left")
            for e, column in zip(edges.T, values.T, strict=True)
        ],
        1,
    )


def mutual_information(units: ArrayLike, labels: ArrayLike, bins: int = 20) -> Array:
    """Of each unit (N, U), binned, and a label (N,): (U,) in nats."""
    return _information(binned(units, bins), np.asarray(labels))


def _information(codes: NDArray[np.int64], labels: NDArray[np.int64]) -> Array:
    n, classes = len(labels), labels.max() + 1
    tables = (
        np.stack(
            [
                np.bincount(column * classes + labels, minlength=(codes.max() + 1) * classes)
                for column in codes.T
            ]
        )
        / n
    )
    tables = tables.reshape(codes.shape[1], -1, classes)  # (U, bins, classes)
    return (
        entropy(tables.sum(1)) + entropy(tables.sum(2)) - entropy(tables.reshape(len(tables), -1))
    )


def mig(units: ArrayLike, factors: Mapping[str, ArrayLike], bins: int = 20) -> Estimate:
    """The mutual information gap: mean over factors of the lead of the best unit over the second, relative to the factor's entropy.

    The interval is over factors.
    """
    codes, gaps = binned(units, bins), []
    for labels in map(np.asarray, factors.values()):
        second, best = np.sort(_information(codes, labels))[-2:]
        gaps.append((best - second) / entropy(np.bincount(labels) / len(labels)))
    return mean(gaps)


def scores(importance: ArrayLike) -> tuple[Array, Array, Array]:
    """From how much each factor's predictor leans on each unit (U, F): disentanglement per unit (U,), the units' weights (U,), and
    completeness per factor (F,). A unit that nothing leans on has weight 0."""
    r = np.asarray(importance, dtype=np.float64)
    total = r.sum(1)
    rows = r / np.where(total > 0, total, 1)[:, None]
    columns = r / np.where(r.sum(0) > 0, r.sum(0), 1)
    factors, units = np.log(np.maximum(2, r.shape[1])), np.log(np.maximum(2, len(r)))
    return (
        1 - entropy(rows) / factors,
        total / (total.sum() or 1),
        1 - entropy(columns, axis=0) / units,
    )


def dci(
    units: ArrayLike, factors: Mapping[str, ArrayLike], *, trees: int = 40, seed: int = 0
) -> DCI:
    """DCI with extremely randomised trees; every fourth image is held out. Intervals are over units (weighted) and over factors.

    Between the units of one factor alone there is nothing to disentangle: `metrics.NOTHING`.
    """
    x = np.asarray(units, dtype=np.float32)
    held = np.arange(len(x)) % 4 == 3
    importance, accuracy = [], []
    for labels in factors.values():
        y = np.asarray(labels)
        model = ExtraTreesClassifier(
            trees, class_weight="balanced", min_samples_leaf=3, random_state=seed, n_jobs=-1
        ).fit(x[~held], y[~held])
        right = model.predict(x[held]) == y[held]
        chance = 1 / len(np.unique(y))
        accuracy.append(
            (np.mean([right[y[held] == c].mean() for c in np.unique(y[held])]) - chance)
            / (1 - chance)
        )
        importance.append(model.feature_importances_)
    by_unit, weight, by_factor = scores(np.stack(importance, 1))
    disentangled = NOTHING
    if len(factors) > 1:
        disentangled = mean(
            by_unit * weight * len(weight)
        )  # the weighted mean, as a mean over units
    return DCI(disentangled, mean(by_factor), mean(accuracy))
