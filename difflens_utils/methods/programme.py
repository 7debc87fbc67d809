"""Which features to move, and by how much, by a small quadratic programme over measured effects.

Each candidate j is moved alone. Its gain a_j is what the class's log-probability rises by, G_jk is
how the CLIP features of the pictures turn together under j and k, and L_fj is what else changes.
The shares d_j of the moves then solve

    min d' G d + LEAK |L d|^2 + FEW |d|_1    subject to    a' d = 1, d >= 0

so that the class is reached at the least cost, and features that undo each other's side effects are
taken together (Markowitz, 1952). At most N stay.

All features below make the class. Two turn the picture in different ways, the third turns it more:

>>> import torch
>>> from difflens_utils.methods import programme
>>> turned = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]], [[9.0, 0.0]]])  # (N, n, E)
>>> gain, leak = torch.ones(3, 1), torch.zeros(3, 1)
>>> programme.shares(gain, leak, turned, most=2).round(decimals=2).tolist()
[1.0, 1.0, 0.0]
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

Array = NDArray[np.float64]
LEAK, FEW = 0.05, 1e-3  # weights of what else changes, and of the size of the moves


def shares(gain: Tensor, leak: Tensor, turned: Tensor, most: int) -> Tensor:
    """The share of its move that each of N features takes: (N,), zero for those left out.

    `gain` (N, n), `leak` (N, F) and `turned` (N, n, E) are `attribution.Responses`. The shares of
    the `most` that stay have a mean of 1. All are zero if no feature has a gain.
    """
    a = gain.mean(1).double().numpy()
    quadratic = _cost(leak, turned)
    chosen = np.flatnonzero(a > 0)
    found = np.zeros(len(a))
    while len(chosen):
        solved = _solved(a[chosen], quadratic[np.ix_(chosen, chosen)])
        kept = np.flatnonzero(solved > 1e-3 * solved.max())
        if len(kept) <= most:
            found[chosen[kept]] = solved[kept] * len(kept) / solved[kept].sum()
            break
        # The smallest go first, a quarter of what is too many at a time.
        drop = max(1, (len(kept) - most) // 4)
        chosen = chosen[np.sort(kept[np.argsort(solved[kept])[drop:]])]
    return torch.from_numpy(found).float()


def _cost(leak: Tensor, turned: Tensor) -> Array:
    """G + LEAK L' L, scaled so that a typical feature costs 1: (N, N)."""
    moved = turned.double().flatten(1)
    gram = (moved @ moved.T / turned.shape[1]).numpy()
    away = leak.double().numpy()
    quadratic: Array = gram + LEAK * away @ away.T / max(away.shape[1], 1)
    return quadratic / max(float(np.median(quadratic.diagonal())), 1e-12)


def _solved(gain: Array, quadratic: Array) -> Array:
    """The minimum of d' Q d + FEW |d|_1 with gain' d = 1 and d >= 0."""
    gain = gain / gain.mean()
    start = np.full(len(gain), 1 / gain.sum())
    solved = minimize(
        lambda d: d @ quadratic @ d + FEW * d.sum(),
        start,
        jac=lambda d: 2 * quadratic @ d + FEW,
        bounds=[(0, None)] * len(gain),
        constraints={"type": "eq", "fun": lambda d: gain @ d - 1, "jac": lambda d: gain},
        method="SLSQP",
        options={"maxiter": 300},
    )
    return np.clip(solved.x, 0, None)
