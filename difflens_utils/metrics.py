"""How fair, how close, how faithful: every figure of the study, with its interval.

Free functions of one shape: arrays with one row per image (numpy arrays or CPU tensors) in, an
`Estimate` or a small tuple of them out. Equation numbers are the paper's. All raise a one-line
ValueError for arrays of a wrong shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from cleanfid import fid
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from . import intervals
from .errors import distribution, one_of, positive, within

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


class Fairness(NamedTuple):
    """Fairness Discrepancy (Eq. 13) in two forms."""

    soft: Estimate
    """By the mean of the class probabilities, as in the paper."""
    hard: Estimate
    """By the shares of the likeliest class."""


class Cosine(NamedTuple):
    """A mean cosine as it is, and as (cos + 1) / 2."""

    raw: Estimate
    rescaled: Estimate


class Leakage(NamedTuple):
    """How far an edit moved one factor."""

    factor: str
    shift: Estimate
    """Total variation of its class shares."""
    changed: Estimate
    """Share of images whose class changed."""
    chance: float
    """95 % point of the shift that changes in no particular direction give."""


# ----------------------------------------------------------------------------------------------
# Intervals


def bootstrap(
    statistic: Callable[..., float], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`statistic(*arrays)` with its percentile interval (95 %) over resamples of the images.

    The resamples are paired across arrays.
    """
    data = _paired(*arrays)
    draws = []
    for rows in _resamples(len(data[0]), n_boot, seed):
        draws.append(statistic(*(a[rows] for a in data)))
    return _estimate(statistic(*data), draws, len(data[0]))


def bootstrap_means(
    function: Callable[..., Array], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`bootstrap` for a function of means over images: the same draws, without copying an image.

    `function` gets the mean of each array (N, ...), with the resamples as a leading axis: (R, ...)
    each, to (R,).
    """
    data = _paired(*arrays)
    n = len(data[0])
    counts = [np.bincount(rows, minlength=n) for rows in _resamples(n, n_boot, seed)]
    weights = np.stack([count / n for count in counts])  # (R, n) share of each image
    draws = function(*(np.tensordot(weights, a, 1) for a in data))
    value = function(*(a.mean(0, keepdims=True) for a in data))[0]
    return _estimate(value, draws, n)


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
    """Spearman's, of two arrays (N,); `NAN` for fewer than three values, or values all alike."""
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return NAN
    return float(stats.spearmanr(first, second).statistic)


def proportion(successes: int, n: int) -> Estimate:
    """`wilson`, or `NOTHING` where there is nothing to count."""
    return wilson(successes, n) if n else NOTHING


# ----------------------------------------------------------------------------------------------
# Fairness


def shares(probabilities: ArrayLike) -> Array:
    """The share of images whose likeliest class is each: (B, classes) to (classes,)."""
    share: Array = _one_hot(_array("probabilities", probabilities, 2)).mean(0)
    return share


def transitions(before: ArrayLike, after: ArrayLike) -> Array:
    """Of the images of each class before, the share that is each after.

    (B, classes) twice to (classes, classes), rows sum to 1. A class that no image had stays itself.
    """
    p, q = _paired(before, after)
    counts = _one_hot(p).T @ _one_hot(q)
    totals = counts.sum(1, keepdims=True)
    stays = np.eye(len(counts))
    moved: Array = np.where(totals > 0, counts, stays) / totals.clip(1)
    return moved


def joint(*probabilities: ArrayLike) -> Array:
    """The classes of several attributes as one: (B, a), (B, b), ... to (B, a b ...).

    The last attribute changes fastest.
    """
    first, *others = _paired(*probabilities)
    for p in others:
        first = (first[:, :, None] * p[:, None, :]).reshape(len(first), -1)
    return first


def share_estimates(probabilities: ArrayLike) -> list[Estimate]:
    """`shares` with their Wilson intervals, one per class."""
    hot = _one_hot(_array("probabilities", probabilities, 2))
    return [wilson(int(count), len(hot)) for count in hot.sum(0)]


def fairness_discrepancy(
    probabilities: ArrayLike, target: ArrayLike | None = None, groups: ArrayLike | None = None
) -> Fairness:
    """Fairness Discrepancy (Eq. 13): |mean class probabilities − target|, of (B, classes).

    `target` is uniform by default; the maximum is then 0.707 / 0.816 / 0.866 for 2 / 3 / 4
    classes. `groups` (B,) are the numbers of the prompts: FD is taken per prompt and averaged. A
    distance is never negative, so at an FD near 0 read it beside `expected_fd`. Raises ValueError
    for a target of a wrong length or sum.
    """
    p = _array("probabilities", probabilities, 2)
    goal = _distribution("target", target, p.shape[1])
    member = _members(groups, len(p))

    def distance(mean: Array, share: Array) -> Array:
        per_group: Array = np.linalg.norm(mean / share[..., None] - goal, axis=-1)
        averaged: Array = per_group.mean(-1)
        return averaged

    soft = bootstrap_means(distance, _per_group(p, member), member)
    hard = bootstrap_means(distance, _per_group(_one_hot(p), member), member)
    return Fairness(soft, hard)


def _members(groups: ArrayLike | None, n: int) -> Array:
    """Which group each image is in, one-hot: (n, G); one group for None."""
    if groups is None:
        return np.ones((n, 1))
    number = np.asarray(groups)
    member: Array = np.eye(int(number.max()) + 1)[number]
    return member


def _per_group(values: Array, member: Array) -> Array:
    """The values (n, classes) of each image in its group, else 0: (n, G, classes)."""
    by_group: Array = member[:, :, None] * values[:, None]
    return by_group


def expected_fd(
    p: ArrayLike,
    n: int,
    target: ArrayLike | None = None,
    groups: int = 1,
    draws: int = 4000,
    seed: int = 0,
) -> Estimate:
    """The FD (hard) of `n` images drawn from the distribution `p`: what sampling noise alone gives.

    Mean and 95 % range over Monte Carlo draws. `target` is `p` by default. So many `groups`
    (prompts) share the images, and their FDs are averaged.
    """
    size = n // groups  # images per group
    positive("n", size)
    p = _distribution("p", p, np.size(p))
    goal = p if target is None else _distribution("target", target, len(p))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, p / p.sum(), size=(draws, groups))  # (draws, groups, classes)
    distances = np.linalg.norm(counts / size - goal, axis=-1).mean(-1)
    return _estimate(distances.mean(), distances, n)


# ----------------------------------------------------------------------------------------------
# Images


def frechet(
    features_a: ArrayLike, features_b: ArrayLike, n_boot: int = 20, seed: int = 0
) -> Estimate:
    """Eq. 14 through clean-fid, on features (N, F) of two sets: a Fréchet distance, never FID.

    The interval is normal, from the spread of a few resamples of both sets: a resample repeats
    images, which raises every resampled distance, so their percentiles would sit too high. Raises
    ValueError for fewer than F + 1 images.
    """
    a = _array("features_a", features_a, 2)
    b = _array("features_b", features_b, 2)
    size = a.shape[1]
    for name, x in (("features_a", a), ("features_b", b)):
        if len(x) <= size or x.shape[1] != size:
            expected = f"more images than the {size} features of each"
            raise ValueError(f"{name} must be {expected}, got {x.shape}")
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_boot):
        some_a = a[rng.integers(len(a), size=len(a))]
        some_b = b[rng.integers(len(b), size=len(b))]
        draws.append(fid.fid_from_feats(some_a, some_b))
    value = float(fid.fid_from_feats(a, b))
    half = 1.96 * float(np.std(draws, ddof=1))
    return Estimate(value, max(value - half, 0.0), value + half, min(len(a), len(b)))


def clip_i(original: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-I (Eq. 15): cosines of image features (B, F) before and after an edit, in pairs."""
    return _cosine(_array("original", original, 2), _array("edited", edited, 2))


def clip_t(prompts: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-T (Eq. 16): cosines of the prompts' text features and image features (B, F).

    `prompts` is (B, F), or (F,) for one prompt.
    """
    images = _array("edited", edited, 2)
    texts = _array("prompts", prompts)
    if texts.shape == images.shape[1:]:
        texts = np.broadcast_to(texts, images.shape)
    return _cosine(texts, images)


def agreement(probabilities_a: ArrayLike, probabilities_b: ArrayLike) -> Estimate:
    """The share of images on which two evaluators, (B, classes) each, give the same class."""
    a, b = _paired(probabilities_a, probabilities_b)
    return wilson(int((a.argmax(1) == b.argmax(1)).sum()), len(a))


def leakage(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], seed: int = 0
) -> list[Leakage]:
    """What an edit moved, per factor of class probabilities (B, classes), paired by seed.

    Raises ValueError where `after` lacks a factor of `before`.
    """
    rows = []
    for factor, change in class_changes(before, after).items():
        n = len(change)
        shift = bootstrap_means(total_variation, change, seed=seed)
        changed = wilson(int(change.any(1).sum()), n)
        # Before and after are swapped or not, at random.
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(1000, n))
        chance = np.quantile(total_variation(signs @ change / n), 0.95)
        rows.append(Leakage(factor, shift, changed, float(chance)))
    return rows


def class_changes(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike]
) -> dict[str, Array]:
    """What each image adds to the change of the class shares, per factor.

    (B, classes) of -1, 0 and 1. Raises ValueError where `after` lacks a factor of `before`.
    """
    changes = {}
    for factor, probabilities in before.items():
        one_of("factor", factor, after)
        a, b = _paired(probabilities, after[factor])
        changes[factor] = _one_hot(b) - _one_hot(a)
    return changes


def total_variation(*changes: Array) -> Array:
    """Total variation of changes of shares, averaged over the changes: (..., classes) to (...)."""
    distances = [0.5 * np.abs(change).sum(-1) for change in changes]
    averaged: Array = np.mean(distances, axis=0)
    return averaged


# ----------------------------------------------------------------------------------------------
# Methods side by side


def at_matched_fd(
    before: ArrayLike,
    after: ArrayLike,
    level: float,
    readout: Callable[..., Array],
    *arrays: ArrayLike,
    groups: ArrayLike | None = None,
    n_boot: int = 1000,
) -> Estimate:
    """A figure of a method that is dosed so that FD (soft, to uniform) comes down to `level`.

    The dose is the share of the images that are edited. `before` and `after` (B, classes) are
    paired, and FD is averaged over `groups` (B,). `readout` gets the dose, and the mean over
    images of each of `arrays` (B, ...). The result is nan where not even editing all images
    reaches `level`.
    """
    p, q = _paired(before, after)
    uniform = 1 / p.shape[1]
    member = _members(groups, len(p))
    start, end = _per_group(p, member), _per_group(q, member)

    def dose(start: Array, end: Array, share: Array) -> Array:
        offset = start / share[..., None] - uniform
        change = (end - start) / share[..., None]
        return _dose(offset, change, level)

    def dosed(start: Array, end: Array, share: Array, *means: Array) -> Array:
        found = dose(start, end, share)
        return readout(np.where(np.isnan(found), 1.0, found), *means)

    needed = dose(*(x.mean(0, keepdims=True) for x in (start, end, member)))
    if np.isnan(needed[0]):
        return Estimate(np.nan, np.nan, np.nan, len(p))
    return bootstrap_means(dosed, start, end, member, *arrays, n_boot=n_boot)


def _dose(offset: Array, change: Array, level: float) -> Array:
    """The smallest dose in [0, 1] with mean over groups of |offset + dose change| = `level`.

    (R, G, classes) twice to (R,), nan where there is none. That mean is convex in the dose, so its
    first crossing lies before any place where it is below: the first of a grid, then bisection.
    """

    def distance(dose: Array) -> Array:  # (R,) to (R,)
        per_group: Array = np.linalg.norm(offset + dose[:, None, None] * change, axis=-1)
        averaged: Array = per_group.mean(-1)
        return averaged

    grid = np.linspace(0, 1, 101)
    below = np.stack([distance(np.full(len(offset), d)) <= level + 1e-12 for d in grid], 1)
    high = grid[below.argmax(1)]
    low = np.maximum(high - grid[1], 0)
    for _ in range(40):
        middle = (low + high) / 2
        under = distance(middle) <= level
        low = np.where(under, low, middle)
        high = np.where(under, middle, high)
    return np.where(below.any(1), high, np.nan)


# ----------------------------------------------------------------------------------------------
# Units


def auroc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Area under the ROC curve of each unit, for one class against the rest; ties count half.

    `scores` (N, U) and boolean `labels` (N,) to (U,); several labels at once (N, L) to (U, L).
    Raises ValueError for a label that all images or none have.
    """
    scores, labels = _array("scores", scores, 2), np.asarray(labels, dtype=np.float64)
    _paired(scores, labels)
    ones = labels.sum(0)  # () or (L,)
    zeros = len(labels) - ones
    if not (np.all(ones > 0) and np.all(zeros > 0)):
        raise ValueError("labels must hold both classes in every column, got one that is constant")
    ranks = stats.rankdata(scores, axis=0)  # (N, U), from 1
    u = ranks.T @ labels - ones * (ones + 1) / 2  # Mann-Whitney U
    area: Array = u / (ones * zeros)
    return area


def tracked_factors(aurocs: ArrayLike, threshold: float = 0.9) -> NDArray[np.int64]:
    """How many factors each unit tracks, in either direction: (U, factors) to (U,)."""
    within("threshold", threshold, 0.5, 1)
    a = _array("aurocs", aurocs, 2)
    tracks = np.maximum(a, 1 - a) >= threshold
    number: NDArray[np.int64] = tracks.sum(1)
    return number


# ----------------------------------------------------------------------------------------------


def _array(name: str, values: ArrayLike, ndim: int | None = None) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or (ndim is not None and array.ndim != ndim):
        expected = f"a non-empty array of {ndim or 'any'} dimensions"
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")
    return array


def _paired(*arrays: ArrayLike) -> list[Array]:
    data = [_array("array", a) for a in arrays]
    if any(a.ndim == 0 or len(a) != len(data[0]) for a in data):
        expected = "one row per image, the same images in each"
        raise ValueError(f"arrays must have {expected}; got {[a.shape for a in data]}")
    return data


def _distribution(name: str, values: ArrayLike | None, classes: int) -> Array:
    """A distribution over `classes`, uniform for None.

    Raises ValueError for a wrong length, sign or sum.
    """
    if values is None:
        return np.full(classes, 1 / classes)
    return distribution(name, values, classes)


def _one_hot(probabilities: Array) -> Array:
    """The likeliest class of each image: (B, classes) of 0 and 1."""
    hot: Array = np.eye(probabilities.shape[1])[probabilities.argmax(1)]
    return hot


def _cosine(a: Array, b: Array) -> Cosine:
    if a.shape != b.shape:
        raise ValueError(f"features must be paired, got shapes {a.shape} and {b.shape}")
    lengths_a, lengths_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    raw = mean((a * b).sum(1) / lengths_a / lengths_b)
    value, low, high = ((v + 1) / 2 for v in raw[:3])
    return Cosine(raw, Estimate(value, low, high, raw.n))


def _estimate(value: float, draws: ArrayLike, n: int) -> Estimate:
    draws = np.asarray(draws)
    drawn = draws[~np.isnan(draws)]  # of few images a resample may lack a prompt
    if not drawn.size:
        return Estimate(float(value), np.nan, np.nan, n)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n)
