"""How fair, how close, how faithful: every figure of the study, with its interval.

Free functions of one shape: arrays with one row per image (numpy arrays or CPU tensors) in, an `Estimate` or a small
tuple of them out. Equation numbers are the paper's. All raise a one-line ValueError for arrays of a wrong shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Eq. 13, by the mean of the class probabilities (the paper's) and by the shares of the likeliest class."""

    soft: Estimate
    hard: Estimate


class Cosine(NamedTuple):
    """A mean cosine as it is, and as (cos + 1) / 2."""

    raw: Estimate
    rescaled: Estimate


class Amplification(NamedTuple):
    """The bias of what is generated against that of the data: FD / FD planted, FD - FD planted (both by shares)."""

    ratio: Estimate
    difference: Estimate


class Leakage(NamedTuple):
    """How far an edit moved one factor: total variation of its class shares, and the share of images it changed.

    `chance` is the 95 % point of the shift that changes in no particular direction would give: a shift below it is none.
    """

    factor: str
    shift: Estimate
    changed: Estimate
    chance: float


# ---------------------------------------------------------------------------------------------------------------------
# Intervals


def bootstrap(
    statistic: Callable[..., float], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`statistic(*arrays)` with the percentile interval (95 %) over resamples of the images, paired across arrays."""
    data = _paired(*arrays)
    rng, n = np.random.default_rng(seed), len(data[0])
    draws = [
        statistic(*(a[rows] for a in data))
        for rows in (rng.integers(n, size=n) for _ in range(n_boot))
    ]
    return _estimate(statistic(*data), draws, n)


def bootstrap_means(
    function: Callable[..., Array], *arrays: ArrayLike, n_boot: int = 1000, seed: int = 0
) -> Estimate:
    """`bootstrap` for a function of means over images: the same draws, without copying an image.

    `function` gets the mean of each array (N, ...), with the resamples as a leading axis: (R, ...) each, to (R,).
    """
    data = _paired(*arrays)
    rng, n = np.random.default_rng(seed), len(data[0])
    weights = np.stack(
        [np.bincount(rng.integers(n, size=n), minlength=n) / n for _ in range(n_boot)]
    )  # (R, n) share of each image
    means = [np.tensordot(weights, a, 1) for a in data]
    return _estimate(function(*(a.mean(0, keepdims=True) for a in data))[0], function(*means), n)


def mean(values: ArrayLike) -> Estimate:
    """The mean of one value per image (N,), with its bootstrap interval."""
    return bootstrap_means(lambda m: m, values)


def wilson(successes: int, n: int) -> Estimate:
    """A share and its Wilson score interval (95 %), right for shares near 0 and 1 too."""
    positive("n", n)
    within("successes", successes, 0, n)
    z, p = stats.norm.ppf(0.975), successes / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return Estimate(p, float(min(max(low, 0.0), p)), float(max(min(high, 1.0), p)), n)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's, of two arrays (N,); `NAN` for fewer than three values, or values all alike."""
    pairs = [np.asarray(x, dtype=np.float64) for x in (a, b)]
    if len(pairs[0]) < 3 or any(np.ptp(x) == 0 for x in pairs):
        return NAN
    return float(stats.spearmanr(*pairs).statistic)


def proportion(successes: int, n: int) -> Estimate:
    """`wilson`, or `NOTHING` where there is nothing to count."""
    return wilson(successes, n) if n else NOTHING


# ---------------------------------------------------------------------------------------------------------------------
# Fairness


def shares(probabilities: ArrayLike) -> Array:
    """The share of images whose likeliest class is each: (B, classes) to (classes,)."""
    return _one_hot(_array("probabilities", probabilities, 2)).mean(0)


def transitions(before: ArrayLike, after: ArrayLike) -> Array:
    """Of the images of each class before, the share that is each after: (B, classes) twice to (classes, classes), rows sum to 1.

    A class that no image had stays itself.
    """
    a, b = (_one_hot(p) for p in _paired(before, after))
    counts = a.T @ b
    return np.where(counts.sum(1, keepdims=True) > 0, counts, np.eye(len(counts))) / counts.sum(
        1, keepdims=True
    ).clip(1)


def joint(*probabilities: ArrayLike) -> Array:
    """The classes of several attributes as one: (B, a), (B, b), ... to (B, a b ...), the last attribute fastest."""
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
    """Fairness Discrepancy (Eq. 13): the distance of the mean class probabilities (B, classes) from `target`.

    `target` is uniform by default; the maximum is then 0.707 / 0.816 / 0.866 for 2 / 3 / 4 classes. `groups` (B,) are the numbers of
    the prompts: FD is taken per prompt and averaged. A distance is never negative, so at an FD near 0 read it beside
    `expected_fd`. Raises ValueError for a target of a wrong length or sum.
    """
    p = _array("probabilities", probabilities, 2)
    goal = _distribution("target", target, p.shape[1])

    def distance(mean: Array, share: Array) -> Array:
        return np.linalg.norm(mean / share[..., None] - goal, axis=-1).mean(-1)

    member = _members(groups, len(p))
    soft, hard = (
        bootstrap_means(distance, member[:, :, None] * x[:, None], member) for x in (p, _one_hot(p))
    )
    return Fairness(soft, hard)


def _members(groups: ArrayLike | None, n: int) -> Array:
    """Which group each image is in, one-hot: (n, G); one group for None."""
    return (
        np.ones((n, 1))
        if groups is None
        else np.eye(int(np.asarray(groups).max()) + 1)[np.asarray(groups)]
    )


def expected_fd(
    p: ArrayLike,
    n: int,
    target: ArrayLike | None = None,
    groups: int = 1,
    draws: int = 4000,
    seed: int = 0,
) -> Estimate:
    """The FD (hard) of `n` images drawn from the distribution `p` itself: what sampling noise alone gives.

    Mean and 95 % range over Monte Carlo draws; `target` is `p` by default; the images are shared by so many `groups` (prompts), FDs averaged.
    """
    positive("n", n // groups)
    p = _distribution("p", p, np.size(p))
    goal = p if target is None else _distribution("target", target, len(p))
    counts = np.random.default_rng(seed).multinomial(
        n // groups, p / p.sum(), size=(draws, groups)
    )  # (draws, groups, classes)
    distances = np.linalg.norm(counts / (n // groups) - goal, axis=-1).mean(-1)
    return _estimate(distances.mean(), distances, n)


def amplification(planted: ArrayLike, probabilities: ArrayLike) -> Amplification:
    """Is the model (B, classes) more biased than its data (classes,)? FD from uniform, by shares.

    The ratio is nan where the data has no bias.
    """
    p = _array("probabilities", probabilities, 2)
    uniform = 1 / p.shape[1]
    data = np.linalg.norm(_distribution("planted", planted, p.shape[1]) - uniform)
    fd = bootstrap_means(lambda mean: np.linalg.norm(mean - uniform, axis=-1), _one_hot(p))
    scale = 1 / data if data > 1e-9 else np.nan
    return Amplification(
        Estimate(fd.value * scale, fd.low * scale, fd.high * scale, fd.n),
        Estimate(fd.value - data, fd.low - data, fd.high - data, fd.n),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Images


def frechet(
    features_a: ArrayLike, features_b: ArrayLike, n_boot: int = 20, seed: int = 0
) -> Estimate:
    """Eq. 14 through clean-fid, on features (N, F) of two sets: "Fréchet distance (PortraitNet)", never FID.

    The interval is normal, from the spread of a few resamples of both sets: a resample repeats images, which raises
    every resampled distance, so their percentiles would sit too high. Raises ValueError for fewer than F + 1 images.
    """
    sets = _array("features_a", features_a, 2), _array("features_b", features_b, 2)
    for name, x in zip(("features_a", "features_b"), sets, strict=True):
        if len(x) <= sets[0].shape[1] or x.shape[1] != sets[0].shape[1]:
            raise ValueError(
                f"{name} must be more images than the {sets[0].shape[1]} features of each, got {x.shape}"
            )
    rng = np.random.default_rng(seed)
    draws = [
        fid.fid_from_feats(*(x[rng.integers(len(x), size=len(x))] for x in sets))
        for _ in range(n_boot)
    ]
    value, half = float(fid.fid_from_feats(*sets)), 1.96 * float(np.std(draws, ddof=1))
    return Estimate(value, max(value - half, 0.0), value + half, min(map(len, sets)))


def clip_i(original: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-I (Eq. 15): cosines of image features (B, F) before and after an edit, paired by seed."""
    return _cosine(_array("original", original, 2), _array("edited", edited, 2))


def clip_t(prompts: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-T (Eq. 16): cosines of the prompts' text features, (B, F) or (F,) for one prompt, and image features (B, F)."""
    images = _array("edited", edited, 2)
    texts = _array("prompts", prompts)
    return _cosine(
        np.broadcast_to(texts, images.shape) if texts.shape == images.shape[1:] else texts, images
    )


def clip_d(target: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-D (Eq. 17): cosine of the target class's text features (F,) and image features (B, F)."""
    return clip_t(_array("target", target, 1), edited)


def agreement(probabilities_a: ArrayLike, probabilities_b: ArrayLike) -> Estimate:
    """The share of images on which two evaluators, (B, classes) each, give the same class."""
    a, b = _paired(probabilities_a, probabilities_b)
    return wilson(int((a.argmax(1) == b.argmax(1)).sum()), len(a))


def leakage(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike], seed: int = 0
) -> list[Leakage]:
    """What an edit moved, per factor of class probabilities (B, classes) before and after it, paired by seed.

    Raises ValueError where `after` lacks a factor of `before`.
    """
    rows = []
    for factor, step in class_changes(before, after).items():
        signs = np.random.default_rng(seed).choice(
            [-1.0, 1.0], size=(1000, len(step))
        )  # before and after swapped or not
        rows.append(
            Leakage(
                factor,
                bootstrap_means(total_variation, step, seed=seed),
                wilson(int(step.any(1).sum()), len(step)),
                float(np.quantile(total_variation(signs @ step / len(step)), 0.95)),
            )
        )
    return rows


def class_changes(
    before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike]
) -> dict[str, Array]:
    """What each image adds to the change of the class shares, per factor: (B, classes) of -1, 0 and 1.

    Raises ValueError where `after` lacks a factor of `before`.
    """
    steps = {}
    for factor, probabilities in before.items():
        one_of("factor", factor, after)
        a, b = _paired(probabilities, after[factor])
        steps[factor] = _one_hot(b) - _one_hot(a)
    return steps


def total_variation(*changes: Array) -> Array:
    """The total variation of one or several changes of shares (..., classes), averaged over them: (...)."""
    return np.mean([0.5 * np.abs(change).sum(-1) for change in changes], axis=0)


# ---------------------------------------------------------------------------------------------------------------------
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
    """A figure where only so large a share of the images is edited (the dose) that FD (soft, to uniform) has come down to `level`.

    `before` and `after` (B, classes) are paired, and FD is averaged over `groups` (B,). `readout` gets the dose, and the mean over images of
    each of `arrays` (B, ...). nan where not even editing all images gets there.
    """
    p, q = _paired(before, after)
    uniform, member = 1 / p.shape[1], _members(groups, len(p))

    def dose(start: Array, end: Array, share: Array) -> Array:
        return _dose(start / share[..., None] - uniform, (end - start) / share[..., None], level)

    def at(start: Array, end: Array, share: Array, *means: Array) -> Array:
        return readout(np.where(np.isnan(d := dose(start, end, share)), 1.0, d), *means)

    start, end = (member[:, :, None] * x[:, None] for x in (p, q))
    reached = dose(*(x.mean(0, keepdims=True) for x in (start, end, member)))[0]
    return (
        Estimate(np.nan, np.nan, np.nan, len(p))
        if np.isnan(reached)
        else bootstrap_means(at, start, end, member, *arrays, n_boot=n_boot)
    )


def _dose(offset: Array, change: Array, level: float) -> Array:
    """The smallest dose in [0, 1] at which the mean over groups of |offset + dose change| is `level`, else nan: (R, G, classes) twice to (R,).

    That mean is convex in the dose, so its first crossing lies before any place where it is below: the first of a grid, then bisection.
    """

    def distance(dose: Array) -> Array:  # (R,) to (R,)
        return np.linalg.norm(offset + dose[:, None, None] * change, axis=-1).mean(-1)

    grid = np.linspace(0, 1, 101)
    below = np.stack([distance(np.full(len(offset), d)) <= level + 1e-12 for d in grid], 1)
    high = grid[below.argmax(1)]
    low = np.maximum(high - grid[1], 0)
    for _ in range(40):
        middle = (low + high) / 2
        under = distance(middle) <= level
        low, high = np.where(under, low, middle), np.where(under, middle, high)
    return np.where(below.any(1), high, np.nan)


# ---------------------------------------------------------------------------------------------------------------------
# Units


def auroc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """How well each unit tells one class from the rest: area under the ROC curve, ties counted half.

    `scores` (N, U), `labels` (N,) boolean to (U,); labels (N, L), several at once for one ranking, to (U, L).
    Raises ValueError for a label that all images or none have.
    """
    scores, labels = _array("scores", scores, 2), np.asarray(labels, dtype=np.float64)
    _paired(scores, labels)
    ones = labels.sum(0)  # () or (L,)
    zeros = len(labels) - ones
    if not (np.all(ones > 0) and np.all(zeros > 0)):
        raise ValueError("labels must hold both classes in every column, got one that is constant")
    ranks = stats.rankdata(scores, axis=0)  # (N, U), from 1
    return (ranks.T @ labels - ones * (ones + 1) / 2) / (ones * zeros)  # Mann-Whitney U, normalised


def tracked_factors(aurocs: ArrayLike, threshold: float = 0.9) -> NDArray[np.int64]:
    """How many factors each unit tracks, in either direction: (U, factors) to (U,)."""
    within("threshold", threshold, 0.5, 1)
    a = _array("aurocs", aurocs, 2)
    return (np.maximum(a, 1 - a) >= threshold).sum(1)


# ---------------------------------------------------------------------------------------------------------------------


def _array(name: str, values: ArrayLike, ndim: int | None = None) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or (ndim is not None and array.ndim != ndim):
        raise ValueError(
            f"{name} must be a non-empty array of {ndim or 'any'} dimensions, got shape {array.shape}"
        )
    return array


def _paired(*arrays: ArrayLike) -> list[Array]:
    data = [_array("array", a) for a in arrays]
    if any(a.ndim == 0 or len(a) != len(data[0]) for a in data):
        raise ValueError(
            f"arrays must have one row per image, the same images in each; got {[a.shape for a in data]}"
        )
    return data


def _distribution(name: str, values: ArrayLike | None, classes: int) -> Array:
    """A distribution over `classes`, uniform for None. Raises ValueError for a wrong length, sign or sum."""
    return np.full(classes, 1 / classes) if values is None else distribution(name, values, classes)


def _one_hot(probabilities: Array) -> Array:
    return np.eye(probabilities.shape[1])[probabilities.argmax(1)]


def _cosine(a: Array, b: Array) -> Cosine:
    if a.shape != b.shape:
        raise ValueError(f"features must be paired, got shapes {a.shape} and {b.shape}")
    raw = mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    return Cosine(raw, Estimate(*((v + 1) / 2 for v in raw[:3]), raw.n))


def _estimate(value: float, draws: ArrayLike, n: int) -> Estimate:
    draws = np.asarray(draws)
    drawn = draws[~np.isnan(draws)]  # of few images a resample may lack a prompt
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn.size else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high), n)
