"""Figures with their intervals, and with the resamples that the intervals come from.

Figures of the same images are resampled together, so a difference of two of them is paired: it has
the interval of the difference, and not one that is made from two intervals.

>>> from difflens_utils import metrics
>>> a, b = metrics.mean([1.0, 2.0, 6.0]), metrics.mean([0.5, 1.5, 5.5])
>>> print(metrics.combined(lambda a, b: a - b, a, b))
0.500 [0.500, 0.500]
>>> print(metrics.wilson(0, 20))
0.000 [0.000, 0.161]
>>> metrics.mean([1.0, 2.0, 6.0]).value
3.0
>>> print(metrics.proportion(0, 0))
–
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..runtime.errors import distribution, positive, within

Array = NDArray[np.float64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure, the ends of its 95 % interval, and the number of images behind it."""

    value: float
    low: float
    high: float
    n: int
    draws: Array | None = field(default=None, repr=False, compare=False)
    """The figure of each resample, (R,); resample r takes the same images for every figure."""

    def numbers(self) -> dict[str, float]:
        """Its numbers by name, without the resamples, as files hold them."""
        return {name: getattr(self, name) for name in ("value", "low", "high", "n")}

    def within(self, low: float, high: float) -> Estimate:
        """The same figure, whose interval ends where it can: a share is at most 1."""
        if np.isnan(self.value):
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def __str__(self) -> str:
        if np.isnan(self.value):  # nothing was there to measure, or it was not reached
            return "–"
        size = abs(self.value)
        digits = 3 if size < 10 else 1 if size < 100 else 0  # a large distance has none that count
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


class _Nothing(float):
    """nan, shown as a dash."""

    def __format__(self, _spec: str) -> str:
        return "–"


NAN = _Nothing("nan")
NOTHING = Estimate(NAN, NAN, NAN, 0)  # a figure that there is not: nothing to count, or not reached


def bootstrap(
    statistic: Callable[..., float], *arrays: ArrayLike, n_boot: int | None = None, seed: int = 0
) -> Estimate:
    """`statistic(*arrays)` with its interval (95 %) over resamples of the images, see `from_draws`.

    The resamples are paired across arrays.
    """
    data = as_pairs(*arrays)
    draws = []
    for rows in _resamples(len(data[0]), n_boot, seed):
        draws.append(statistic(*(a[rows] for a in data)))
    return from_draws(statistic(*data), draws, len(data[0]))


def bootstrap_means(
    function: Callable[..., Array], *arrays: ArrayLike, n_boot: int | None = None, seed: int = 0
) -> Estimate:
    """`bootstrap` for a function of means over images: the same draws, without copying an image.

    `function` gets the mean of each array (N, ...), with the resamples as a leading axis: (R, ...)
    each, to (R,).
    """
    data = as_pairs(*arrays)
    n = len(data[0])
    weights = resampled(n, n_boot, seed)
    draws = function(*(np.tensordot(weights, a, 1) for a in data))
    value = function(*(a.mean(0, keepdims=True) for a in data))[0]
    return from_draws(value, draws, n)


def resampled(n: int, n_boot: int | None = None, seed: int = 0) -> Array:
    """The share that each of n images has in each resample: (R, n); R is `RESAMPLES` by default."""
    return _shares(n, n_boot or RESAMPLES, seed)


@lru_cache(maxsize=8)  # a page resamples sets of few sizes hundreds of times
def _shares(n: int, n_boot: int, seed: int) -> Array:
    counts = [np.bincount(rows, minlength=n) for rows in _resamples(n, n_boot, seed)]
    shares: Array = np.stack(counts) / n
    shares.flags.writeable = False
    return shares


def _resamples(n: int, n_boot: int | None, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yields the rows (n,) of each resample of n images."""
    rng = np.random.default_rng(seed)
    for _ in range(n_boot or RESAMPLES):
        yield rng.integers(n, size=n)


def mean(values: ArrayLike) -> Estimate:
    """The mean of one value per image (N,), with its bootstrap interval."""
    return bootstrap_means(lambda m: m, values)


def combined(
    function: Callable[..., Array], *estimates: Estimate, monotone: bool = False
) -> Estimate:
    """A function of figures whose resamples are joint, such as their difference, with its interval.

    It gets each figure as an array, (1,) or (R,). A `monotone` function keeps the order of
    resamples, so its interval is not moved to its value, see `from_draws`. The result is `NOTHING`
    if a figure is missing. Raises ValueError for figures without resamples.
    """
    if any(np.isnan(estimate.value) for estimate in estimates):
        return NOTHING
    draws = [estimate.draws for estimate in estimates if estimate.draws is not None]
    if len(draws) < len(estimates) or len({len(d) for d in draws}) > 1:
        raise ValueError("estimates must have equally many resamples each, to be combined")
    value = function(*(np.array([estimate.value]) for estimate in estimates))[0]
    n = min(estimate.n for estimate in estimates)
    return from_draws(value, function(*draws), n, centred=not monotone)


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of the same images, paired."""
    return combined(lambda a, b: a - b, a, b)


def simultaneous(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The same figures with intervals that hold for all of them together in 95 % of the cases.

    The intervals are value +- c s, where s is the spread of a figure's resamples and c the 95 %
    point of the largest |draw - value| / s (max-T; Westfall and Young, 1993). A figure that does
    not vary keeps its interval.
    """
    spreads = [0.0 if e.draws is None else float(np.nanstd(e.draws)) for e in estimates]
    ratios = [
        np.abs(e.draws - e.value) / spread
        for e, spread in zip(estimates, spreads, strict=True)
        if spread > 0 and e.draws is not None
    ]
    if not ratios:
        return list(estimates)
    factor = float(np.nanquantile(np.nanmax(ratios, axis=0), 0.95))
    return [
        replace(e, low=e.value - factor * spread, high=e.value + factor * spread) if spread else e
        for e, spread in zip(estimates, spreads, strict=True)
    ]


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


def share(hits: ArrayLike) -> Estimate:
    """The share of images (N,) that are hits, with its Wilson interval and its resamples."""
    flags = as_array("hits", hits, 1)
    counted = wilson(int(flags.sum()), len(flags))
    return replace(counted, draws=mean(flags).draws)


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


def members(groups: ArrayLike | None, n: int) -> Array:
    """Which of the G groups that occur each image is in, one-hot: (n, G); one group for None."""
    if groups is None:
        return np.ones((n, 1))
    names, number = np.unique(np.asarray(groups), return_inverse=True)
    member: Array = np.eye(len(names))[number]
    return member


def one_hot(probabilities: Array) -> Array:
    """The likeliest class of each image: (B, classes) of 0 and 1."""
    hot: Array = np.eye(probabilities.shape[1])[probabilities.argmax(1)]
    return hot


def from_draws(value: float, draws: ArrayLike, n: int, *, centred: bool = True) -> Estimate:
    """A figure with the percentile interval (95 %) of its resamples (R,), which holds the figure.

    Resampling adds noise of its own, which raises every distance. So the resamples are first moved
    until their mean is the value, unless `centred` is off.
    """
    kept = np.asarray(draws, dtype=np.float64)
    # Of few images every resample may lack a prompt, and what is not reached has no interval.
    if np.isnan(value) or np.isnan(kept).all():
        return Estimate(float(value), np.nan, np.nan, n, kept)
    if centred:
        kept = kept - (np.nanmean(kept) - value)
    low, high = np.nanquantile(kept, [0.025, 0.975])
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), n, kept)
