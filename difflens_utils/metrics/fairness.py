"""How fair a set of images is: class shares and the Fairness Discrepancy.

>>> from difflens_utils import metrics
>>> before = [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]]
>>> after = [[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]]
>>> metrics.shares(before).tolist(), metrics.shares(after).tolist()
([0.75, 0.25], [0.5, 0.5])
>>> metrics.transitions(before, after).round(2).tolist()
[[0.67, 0.33], [0.0, 1.0]]
>>> fair = metrics.fairness_discrepancy(after)
>>> round(fair.soft.value, 3), fair.hard.value
(0.0, 0.0)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..runtime.errors import positive
from .estimates import (
    Array,
    Estimate,
    as_array,
    as_distribution,
    as_pairs,
    bootstrap_means,
    from_draws,
    members,
    one_hot,
    share,
)
from .strata import Strata


class Fairness(NamedTuple):
    """Fairness Discrepancy (Eq. 13) in three forms."""

    unbiased: Estimate
    """By the mean of the class probabilities, without the bias of its own noise."""
    soft: Estimate
    """By the mean of the class probabilities, as in the paper: never below zero."""
    hard: Estimate
    """By the shares of the likeliest class."""


def shares(probabilities: ArrayLike) -> Array:
    """The share of images whose likeliest class is each: (B, classes) to (classes,)."""
    share: Array = one_hot(as_array("probabilities", probabilities, 2)).mean(0)
    return share


def transitions(before: ArrayLike, after: ArrayLike) -> Array:
    """Of the images of each class before an edit, the shares that are each class after it.

    (B, classes) twice to (classes, classes), rows sum to 1. A class that no image had keeps a share
    of 1.
    """
    p, q = as_pairs(before, after)
    counts = one_hot(p).T @ one_hot(q)
    totals = counts.sum(1, keepdims=True)
    stays = np.eye(len(counts))
    moved: Array = np.where(totals > 0, counts, stays) / totals.clip(1)
    return moved


def joint(*probabilities: ArrayLike) -> Array:
    """The classes of several attributes as one: (B, a), (B, b), ... to (B, a b ...).

    The last attribute changes fastest.
    """
    first, *others = as_pairs(*probabilities)
    for p in others:
        first = (first[:, :, None] * p[:, None, :]).reshape(len(first), -1)
    return first


def share_estimates(probabilities: ArrayLike) -> list[Estimate]:
    """`shares` with their Wilson intervals, one per class."""
    return [share(hits) for hits in one_hot(as_array("probabilities", probabilities, 2)).T]


def fairness_discrepancy(
    probabilities: ArrayLike, target: ArrayLike | None = None, groups: ArrayLike | None = None
) -> Fairness:
    """Fairness Discrepancy (Eq. 13): |mean class probabilities − target|, of (B, classes).

    `target` is uniform by default; the maximum is then 0.707 / 0.816 / 0.866 for 2 / 3 / 4
    classes. `groups` (B,) are the numbers of the prompts: FD is taken per prompt and averaged (its
    square is, in the unbiased form). A distance is never negative, so near 0 the two forms that
    are distances of noisy shares lie too high: read them beside `expected_fd`. Raises ValueError
    for a target of a wrong length or sum.
    """
    p = as_array("probabilities", probabilities, 2)
    goal = as_distribution("target", target, p.shape[1])
    member = members(groups, len(p))

    def distance(mean: Array, share: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a resample may lack a prompt: nan, and left out
            shares = mean / share[..., None]
        per_group: Array = np.linalg.norm(shares - goal, axis=-1)
        averaged: Array = per_group.mean(-1)
        return averaged

    soft = bootstrap_means(distance, _per_group(p, member), member)
    hard = bootstrap_means(distance, _per_group(one_hot(p), member), member)
    return Fairness(Strata.plain(groups, len(p)).fd(p, goal), soft, hard)


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

    Mean and 95 % range over Monte Carlo draws. `target` is `p` by default. The
    images are shared out to as many prompts as `groups` says, whose FDs are averaged.
    """
    size = n // groups  # images per group
    positive("n", size)
    p = as_distribution("p", p, np.size(p))
    goal = p if target is None else as_distribution("target", target, len(p))
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, p / p.sum(), size=(draws, groups))  # (draws, groups, classes)
    distances = np.linalg.norm(counts / size - goal, axis=-1).mean(-1)
    return from_draws(distances.mean(), distances, n)
