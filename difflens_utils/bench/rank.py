"""Track 2, attribute: do scores of latents say what each latent does to the picture?

The truth is measured: each of some latents of the shipped k-SAE was turned off and up alone, and
the scorer looked at the pictures (`truth`). A score per latent and class is right if it has the
order of these effects.

>>> import torch
>>> from difflens_utils.bench import rank
>>> effects = torch.tensor([[0.3, 0.2, 0.1, 0.0], [-0.3, -0.2, -0.1, 0.0]])  # (classes, latents)
>>> found = rank.score(2 * effects, effects, most=2)
>>> found["correlation"].value, found["attained"].value
(1.0, 1.0)
"""

from __future__ import annotations

import numpy as np
from scipy import stats
from torch import Tensor

from .. import metrics
from ..metrics import Array, Estimate

MOST = 10  # latents that a method would edit


def score(scores: Tensor, effects: Tensor, most: int = MOST) -> dict[str, Estimate]:
    """The figures of the track, for scores and measured effects (classes, L) of the same latents.

    `correlation` is Spearman's, mean over the classes. `attained` is what the `most` best scored
    latents do for a class, as a share of what the best ones do. Intervals are over latents. Raises
    ValueError, in one line, for scores of another shape or that are not finite.
    """
    if scores.shape != effects.shape:
        raise ValueError(f"scores must be {tuple(effects.shape)}, got {tuple(scores.shape)}")
    if not scores.isfinite().all():
        raise ValueError("scores must be finite")
    pair = (scores.T.double().numpy(), effects.T.double().numpy())  # (L, classes)
    return {
        "correlation": metrics.bootstrap(_correlation, *pair),
        "attained": metrics.bootstrap(lambda s, e: _attained(s, e, most), *pair),
    }


def _correlation(scores: Array, effects: Array) -> float:
    """0 for a class whose scores are all alike: they say nothing."""
    each = [
        stats.spearmanr(s, e).statistic if np.ptp(s) and np.ptp(e) else 0.0
        for s, e in zip(scores.T, effects.T, strict=True)
    ]
    return float(np.mean(each))


def _attained(scores: Array, effects: Array, most: int) -> float:
    reached = best = 0.0
    for s, e in zip(scores.T, effects.T, strict=True):
        reached += e[np.argsort(-s, kind="stable")[:most]].sum()
        best += np.sort(e)[-most:].sum()
    return float(reached / best) if best > 0 else 0.0


def ceiling(halves: Tensor) -> Estimate:
    """What the true effects would reach beside those that were measured (2, classes, L).

    Two halves of the images agree by r. So the reliability of their mean is 2 r / (1 + r) (Spearman
    and Brown), and the truth correlates with it by the root of that. It is 0 where r is below 0.
    """
    first, second = halves.double()

    def reached(a: Array, b: Array) -> float:
        r = max(_correlation(a, b), 0.0)
        return float(np.sqrt(2 * r / (1 + r)))

    return metrics.bootstrap(reached, first.T.numpy(), second.T.numpy())
