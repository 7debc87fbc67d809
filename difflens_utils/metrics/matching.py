"""Methods compared at the same fairness.

The edit below turns every image from class 0 into class 1. An FD of sqrt(2) * 0.2 belongs to shares
of 0.7 and 0.3, so 30 % of the images are edited:

>>> import numpy as np
>>> from difflens_utils import metrics
>>> before, after = [[1, 0]] * 10, [[0, 1]] * 10
>>> dose = metrics.at_matched_fd(before, after, 0.2 * np.sqrt(2), lambda dose: dose, n_boot=20)
>>> round(float(dose.value), 3)
0.3
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .estimates import Array, Estimate, as_pairs, bootstrap_means, members
from .fairness import _per_group


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
    p, q = as_pairs(before, after)
    uniform = 1 / p.shape[1]
    member = members(groups, len(p))
    start, end = _per_group(p, member), _per_group(q, member)

    def dose(start: Array, end: Array, share: Array) -> Array:
        with np.errstate(invalid="ignore"):  # a resample may lack a prompt: nan, and left out
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
