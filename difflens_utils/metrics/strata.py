"""What an edit does to a class is measured on few images, and how frequent the class is on many.

The images of a set are divided by the class that each was before the edit and by its prompt. The
mean of a figure is taken within each of these strata, and weighted by the stratum's share among
many unedited images (post-stratification). Of many images 90 % are of class 0; of the four below
only half are, and they all end in class 1:

>>> import numpy as np
>>> from difflens_utils.metrics.strata import Strata
>>> strata = Strata.of([0, 0, 1, 1], base=[[0.9, 0.1]], size=2000)
>>> strata.shares([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * 2).round(3).tolist()
[[0.1, 0.9]]
>>> round(strata.mean([0.5, 0.5, 1.0, 1.0]).value, 3)
0.55
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..runtime.errors import at_least
from .estimates import (
    NOTHING,
    Array,
    Estimate,
    as_array,
    as_distribution,
    combined,
    from_draws,
    members,
    resampled,
)


@dataclass(frozen=True)
class Strata:
    """The strata of n images, and the share of each within its prompt among many images."""

    member: Array  # (n, S) one-hot: the stratum of each image
    share: Array  # (G, S) of many images, zero for strata of other prompts; rows sum to 1
    size: int  # how many images the shares of a prompt were counted on

    @classmethod
    def of(
        cls, classes: ArrayLike, base: ArrayLike, size: int, prompt: ArrayLike | None = None
    ) -> Strata:
        """Strata by `classes` (n,), the classes before an edit, and `prompt` (n,).

        `base` (G, classes) are the shares of the classes under each prompt, counted on `size`
        images each. A class that none of the n images had is left out. Raises ValueError for a
        prompt without images.
        """
        at_least("size", size, 1)
        before = np.asarray(classes, dtype=np.int64)
        groups = np.zeros_like(before) if prompt is None else np.asarray(prompt, dtype=np.int64)
        known = as_array("base", base, 2)
        number = groups * known.shape[1] + before
        member = np.eye(known.size)[number]
        share = np.zeros((len(known), known.size))
        for g, row in enumerate(known):
            share[g, g * len(row) : (g + 1) * len(row)] = row
        share *= member.any(0)
        totals = share.sum(1, keepdims=True)
        if (totals <= 0).any():
            raise ValueError("every prompt must have images of a class that its base shares name")
        return cls(member, share / totals, size)

    @classmethod
    def plain(cls, groups: ArrayLike | None, n: int) -> Strata:
        """One stratum per prompt that occurs in `groups` (n,): its images stand for themselves."""
        member = members(groups, n)
        return cls(member, np.eye(member.shape[1]), n)

    def shares(self, values: ArrayLike) -> Array:
        """The mean of values (n, K) under each prompt: (G, K)."""
        return self._means(as_array("values", values, 2))

    def mean(self, values: ArrayLike) -> Estimate:
        """The mean of one value per image (n,), over the prompts too."""
        return self.figure(
            lambda means: means[..., 0].mean(-1), as_array("values", values)[:, None]
        )

    def figure(self, function: Callable[..., Array], *arrays: ArrayLike) -> Estimate:
        """A function of the means under each prompt of `arrays` (n, K): (..., G, K) each to (...).

        The images are resampled, and the shares of the strata too.
        """
        data = [as_array("values", a, 2) for a in arrays]
        value = function(*(self._means(a)[None] for a in data))[0]
        draws = function(*(self._resampled(a) for a in data))
        return from_draws(value, draws, len(self.member))

    def fd_squared(self, probabilities: ArrayLike, target: ArrayLike | None = None) -> Estimate:
        """FD squared (Eq. 13) of class probabilities (n, classes), without the bias of its noise.

        The mean over the prompts of sum_c (p_c - r_c)^2 - Var(p_c): it is right on average, at
        balance too, and so it can come out below zero.
        """
        p = as_array("probabilities", probabilities, 2)
        goal = as_distribution("target", target, p.shape[1])
        noise = self._variance(p).mean()
        return self.figure(lambda means: ((means - goal) ** 2).sum(-1).mean(-1) - noise, p)

    def fd(self, probabilities: ArrayLike, target: ArrayLike | None = None) -> Estimate:
        """The root of `fd_squared`, with its sign: zero on average at balance."""
        return combined(signed_root, self.fd_squared(probabilities, target), monotone=True)

    def _means(self, values: Array) -> Array:
        counts = self.member.sum(0).clip(1)
        within = (self.member.T @ values) / counts[:, None]
        means: Array = self.share @ within
        return means

    def _resampled(self, values: Array) -> Array:
        """The means under each prompt in every resample: (R, G, K)."""
        weights = resampled(len(values))
        counts = weights @ self.member  # (R, S)
        sums = np.einsum("rn,ns,nk->rsk", weights, self.member, values, optimize=True)
        own = (self.member.T @ values) / self.member.sum(0).clip(1)[:, None]
        # A stratum that a resample misses keeps the mean that it has.
        within = np.where(counts[..., None] > 0, sums / counts.clip(1e-12)[..., None], own)
        drawn = np.random.default_rng(1)
        share = np.stack(
            [drawn.multinomial(self.size, row, size=len(weights)) for row in self.share], 1
        )
        means: Array = np.einsum("rgs,rsk->rgk", share / self.size, within)
        return means

    def _variance(self, values: Array) -> Array:
        """The variance of the means, summed over K: that of the images and that of the shares.

        (G,). A stratum of one image has the spread of the others.
        """
        counts = self.member.sum(0)  # (S,)
        own = (self.member.T @ values) / counts.clip(1)[:, None]  # (S, K)
        residuals = ((values - self.member @ own) ** 2).sum(1)  # (n,)
        inside = self.member.T @ residuals  # (S,)
        pooled = residuals.sum() / max(len(values) - (counts > 0).sum(), 1)
        spread = np.where(counts > 1, inside / (counts - 1).clip(1), pooled)
        of_images = (self.share**2 * (spread / counts.clip(1))).sum(1)
        means = self.share @ own
        of_shares = (self.share * (own**2).sum(1)).sum(1) - (means**2).sum(1)
        variance: Array = of_images + of_shares / self.size
        return variance


def signed_root(squares: Array) -> Array:
    """The root of the size of each number, with the number's sign."""
    root: Array = np.sign(squares) * np.sqrt(np.abs(squares))
    return root


def removed(start: Estimate, end: Estimate) -> Estimate:
    """The share of a bias that is gone, 1 - end / start, of FD squared before and after.

    It is `NOTHING` where a resample finds no bias at the start: there is no share of nothing, and
    a share of next to nothing may come to any number.
    """
    squares = np.append(start.value, start.value if start.draws is None else start.draws)
    if not (squares > 0).all():
        return NOTHING
    return combined(lambda start, end: 1 - end / start, start, end)
