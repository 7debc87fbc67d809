"""How close edited images are to others: Fréchet distance, KID, CLIP-I and CLIP-T, leakage.

A shift by (3, 4) that leaves the covariance alone is a Fréchet distance of 9 + 16:

>>> import numpy as np
>>> from difflens_utils import metrics
>>> features = np.random.default_rng(0).normal(size=(100, 2))
>>> round(metrics.frechet(features, features + [3, 4], n_boot=2).value, 3)
25.0
>>> cosine = metrics.clip_i([[1, 0], [0, 1]], [[1, 0], [1, 0]])
>>> cosine.raw.value, cosine.rescaled.value
(0.5, 0.75)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from cleanfid import fid
from numpy.typing import ArrayLike

from ..runtime.errors import one_of
from .estimates import (
    Array,
    Estimate,
    as_array,
    as_pairs,
    bootstrap_means,
    combined,
    from_draws,
    mean,
    members,
    one_hot,
    resampled,
    share,
)


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


def frechet(
    features_a: ArrayLike, features_b: ArrayLike, n_boot: int = 20, seed: int = 0
) -> Estimate:
    """Eq. 14 through clean-fid, on features (N, F) of two sets: a Fréchet distance, never FID.

    The interval is normal, from the spread of a few resamples of both sets: a resample repeats
    images, which raises every resampled distance, so their percentiles would sit too high. Raises
    ValueError for fewer than F + 1 images.
    """
    a = as_array("features_a", features_a, 2)
    b = as_array("features_b", features_b, 2)
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


def kid(
    features: ArrayLike, reference: ArrayLike, weights: ArrayLike | None = None, seed: int = 0
) -> Estimate:
    """The Kernel Distance (Bińkowski et al., 2018) of features (N, F) to a reference (M, F).

    It is the squared MMD of the kernel (x y / F + 1)^3, by the estimator without bias, which is
    right on average for sets of any size and so can come out below zero. `weights` (N,) make
    images count more or less, such as those that balance the classes of a set. Resamples take
    images of both sets. With features of Inception it would be KID; with others it is not called
    so. Several sets are compared with one reference by a `KernelReference`.
    """
    return KernelReference(reference, seed).distance(features, weights)


class KernelReference:
    """A reference (M, F) of Kernel Distances (`kid`), whose own term is computed once."""

    def __init__(self, features: ArrayLike, seed: int = 0) -> None:
        self.features = as_array("reference", features, 2)
        self.seed = seed

    def distance(self, features: ArrayLike, weights: ArrayLike | None = None) -> Estimate:
        """The Kernel Distance of features (N, F), see `kid`."""
        x, y = as_array("features", features, 2), self.features
        if x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
            raise ValueError(f"features must fit the reference, got {x.shape} and {y.shape}")
        w = np.ones(len(x)) if weights is None else as_array("weights", weights, 1)
        w = w / w.sum()
        own, across = _kernel(x, x), _kernel(x, y)

        def squared(w: Array, v: Array, term: Array) -> Array:
            return _within(w, own) + term - 2 * _across(w, v, across)

        (even, drawn), (term, terms) = self._weights(), self._terms
        value = squared(w[None], even, term)[0]
        draws = squared(w * len(x) * resampled(len(x), seed=self.seed), drawn, terms)
        return from_draws(value, draws, len(x))

    def _weights(self) -> tuple[Array, Array]:
        """The share of each image, (1, M), and its share in each resample, (R, M)."""
        size = len(self.features)
        return np.full((1, size), 1 / size), resampled(size, seed=self.seed + 1)

    @cached_property
    def _terms(self) -> tuple[Array, Array]:
        """The mean kernel of two different images, (1,), and that of each resample, (R,)."""
        kernel = _kernel(self.features, self.features)
        even, drawn = self._weights()
        return _within(even, kernel), _within(drawn, kernel)


def _kernel(a: Array, b: Array) -> Array:
    kernel: Array = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _within(weights: Array, kernel: Array) -> Array:
    """The mean kernel (N, N) under weights (R, N) of the images, no image beside itself: (R,)."""
    pairs = ((weights @ kernel) * weights).sum(1) - weights**2 @ kernel.diagonal()
    each: Array = pairs / (weights.sum(1) ** 2 - (weights**2).sum(1))
    return each


def _across(w: Array, v: Array, kernel: Array) -> Array:
    """The mean kernel (N, M) of two sets under weights (R, N) and (R, M): (R,)."""
    each: Array = ((w @ kernel) * v).sum(1) / (w.sum(1) * v.sum(1))
    return each


def strangers(features: ArrayLike, groups: ArrayLike | None = None) -> Estimate:
    """The mean cosine of CLIP features (N, E) of two different images of one prompt.

    It is what CLIP-I comes to if images lose their identity altogether. `groups` (N,) are the
    numbers of the prompts.
    """
    e = as_array("features", features, 2)
    e = e / np.linalg.norm(e, axis=1, keepdims=True)
    member = members(groups, len(e))

    def mean_cosine(sums: Array, share: Array) -> Array:
        n = share * len(e)  # images of each prompt
        told = n > 1.5  # a resample may have no two images of a prompt
        pairs = np.where(told, ((sums * len(e)) ** 2).sum(-1) - n, 0)
        each = pairs / np.where(told, n * (n - 1), 1)
        with np.errstate(invalid="ignore"):
            cosines: Array = each.sum(-1) / told.sum(-1)
        return cosines

    return bootstrap_means(mean_cosine, member[:, :, None] * e[:, None], member)


def kept(similar: Estimate, strange: Estimate) -> Estimate:
    """CLIP-I above strangers: (c - s) / (1 - s); 1 for images as they were, 0 for other ones."""
    return combined(lambda c, s: (c - s) / (1 - s), similar, strange)


def clip_i(original: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-I (Eq. 15): cosines of image features (B, F) before and after an edit, in pairs."""
    return _cosine(as_array("original", original, 2), as_array("edited", edited, 2))


def clip_t(prompts: ArrayLike, edited: ArrayLike) -> Cosine:
    """CLIP-T (Eq. 16): cosines of the prompts' text features and image features (B, F).

    `prompts` is (B, F), or (F,) for one prompt.
    """
    images = as_array("edited", edited, 2)
    texts = as_array("prompts", prompts)
    if texts.shape == images.shape[1:]:
        texts = np.broadcast_to(texts, images.shape)
    return _cosine(texts, images)


def agreement(probabilities_a: ArrayLike, probabilities_b: ArrayLike) -> Estimate:
    """The share of images on which two evaluators, (B, classes) each, give the same class."""
    a, b = as_pairs(probabilities_a, probabilities_b)
    return share(a.argmax(1) == b.argmax(1))


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
        changed = share(change.any(1))
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
        a, b = as_pairs(probabilities, after[factor])
        changes[factor] = one_hot(b) - one_hot(a)
    return changes


def total_variation(*changes: Array) -> Array:
    """Total variation of changes of shares, averaged over the changes: (..., classes) to (...)."""
    distances = [0.5 * np.abs(change).sum(-1) for change in changes]
    averaged: Array = np.mean(distances, axis=0)
    return averaged


def _cosine(a: Array, b: Array) -> Cosine:
    if a.shape != b.shape:
        raise ValueError(f"features must be paired, got shapes {a.shape} and {b.shape}")
    lengths_a, lengths_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    raw = mean((a * b).sum(1) / lengths_a / lengths_b)
    return Cosine(raw, combined(lambda cosine: (cosine + 1) / 2, raw))
