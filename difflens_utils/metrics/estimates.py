"""Figures with their intervals.

>>> from difflens_utils import metrics
>>> print(metrics.wilson(0, 20))
0.000 [0.000, 0.161]
>>> metrics.mean([1.0, 2.0, 6.0]).value
3.0
>>> print(metrics.proportion(0, 0))
–
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..runtime.errors import distribution, positive, within
from . import intervals

Array = NDArray[np.float64]


class Estimate(NamedTuple):
    """A figure, the ends of its 95 % interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        if np.isnan(self.value):  # nothing was there to measure, or it was not reached
            return "–"
        marked = intervals.mark(self.value, self.low, self.high)
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]{marked}"


class _Nothing(float):
    """nan, shown as a dash."""

    def __format__(self, _spec: str) -> str:
        return "–"


NAN = _Nothing("nan")
NOTHING = Estimate(NAN, NAN, NAN, 0)  # a figure that there is not: nothing to count, or not reached


def bootstrap(
    statistic: Callable[..., float], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`statistic(*arrays)` with its percentile interval (95 %) over resamples of the images.

    The resamples are paired across arrays.
    """
    data = as_pairs(*arrays)
    draws = []
    for rows in _resamples(len(data[0]), n_boot, seed):
        draws.append(statistic(*(a[rows] for a in data)))
    return from_draws(statistic(*data), draws, len(data[0]))


def bootstrap_means(
    function: Callable[..., Array], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`bootstrap` for a function of means over images: the same draws, without copying an image.

    `function` gets the mean of each array (N, ...), with the resamples as a leading axis: (R, ...)
    each, to (R,).
    """
    data = as_pairs(*arrays)
    n = len(data[0])
    counts = [np.bincount(rows, minlength=n) for rows in _resamples(n, n_boot, seed)]
    weights = np.stack([count / n for count in counts])  # (R, n) share of each image
    draws = function(*(np.tensordot(weights, a, 1) for a in data))
    value = function(*(a.mean(0, keepdims=True) for a in data))[0]
    return from_draws(value, draws, n)


def _resamples(n: int, n_boot: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yields the rows (n,) of each resample of n images."""
    rng = np.random.default_rng(seed)
    for _ in range(n_boot):
        yield rng.integers(n, size=n)


def mean(values: ArrayLike) -> Estimate:
    """The mean of one value per image (N,), with its bootstrap interval."""
    return bootstrap_means(lambda m: m, values)


def wilson(successes: int, n: int) -> Estimate:
    """A share and its Wilson score interval (95 %), right for shares near 0 and 1 too."""
    positive("n", n)
    within("successes", successes, 0, n)
    z = stats.norm.ppf(0.975)
    p = successes / n
    scale = 1 + z * z / n
    centre = p + z * z / (2 * n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = min(max((centre - half) / scale, 0.0), p)
    high = max(min((centre + half) / scale, 1.0), p)
    return Estimate(p, float(low), float(high), n)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's, of two arrays (N,); `NAN` for fewer than three values, or if all are alike."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return NAN
    return float(stats.spearmanr(first, second).statistic)


def proportion(successes: int, n: int) -> Estimate:
    """`wilson`, or `NOTHING` where there is nothing to count."""
    return wilson(successes, n) if n else NOTHING


def as_array(name: str, values: ArrayLike, ndim: int | None = None) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or (ndim is not None and array.ndim != ndim):
        expected = f"a non-empty array of {ndim or 'any'} dimensions"
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")
    return array


def as_pairs(*arrays: ArrayLike) -> list[Array]:
    data = [as_array("array", a) for a in arrays]
    if any(a.ndim == 0 or len(a) != len(data[0]) for a in data):
        expected = "one row per image, the same images in each"
        raise ValueError(f"arrays must have {expected}; got {[a.shape for a in data]}")
    return data


def as_distribution(name: str, values: ArrayLike | None, classes: int) -> Array:
    """A distribution over `classes`, uniform for None.

    Raises ValueError for a wrong length, sign or sum.
    """
    if values is None:
        return np.full(classes, 1 / classes)
    return distribution(name, values, classes)


def one_hot(probabilities: Array) -> Array:
    """The likeliest class of each image: (B, classes) of 0 and 1."""
    hot: Array = np.eye(probabilities.shape[1])[probabilities.argmax(1)]
    return hot


def from_draws(value: float, draws: ArrayLike, n: int) -> Estimate:
    draws = np.asarray(draws)
    drawn = draws[~np.isnan(draws)]  # of few images a resample may lack a prompt
    if not drawn.size:
        return Estimate(float(value), np.nan, np.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n)
