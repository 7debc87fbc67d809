"""Track 5, locate: where does an attribute pass through the network?

Two pictures differ in an attribute alone. A method predicts, for each block and timestep, how far
the first becomes the second when what this block puts out is exchanged and nothing else. The truth
is measured so (`analysis.mediation`).

>>> import numpy as np
>>> from difflens_utils.bench import locate
>>> measured = {"mid_block": np.array([0.1, 0.2, 0.3]), "up_blocks.0": np.array([0.4, 0.5, 0.6])}
>>> found = locate.score({name: 0.5 * shares for name, shares in measured.items()}, measured)
>>> round(found["correlation"].value, 3) <= 1.0, round(found["error"].value, 3)
(True, 0.175)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .. import metrics
from ..metrics import Array, Estimate


def score(located: Mapping[str, ArrayLike], measured: Mapping[str, Array]) -> dict[str, Estimate]:
    """The figures of the track, of shares (T,) per block.

    `correlation` is Spearman's over all blocks and timesteps, `error` the mean distance. Intervals
    are over the timesteps: blocks of a chain have the same shares. Raises ValueError, in one line,
    for missing blocks, other lengths, and shares that are not finite.
    """
    guess = np.stack([_checked(name, located, shares) for name, shares in measured.items()], 1)
    true = np.stack(list(measured.values()), 1)  # (T, blocks)
    return {
        "correlation": metrics.bootstrap(_correlation, guess, true),
        "error": metrics.mean(np.abs(guess - true).mean(1)),
    }


def _checked(name: str, located: Mapping[str, ArrayLike], shares: Sequence[float] | Array) -> Array:
    if name not in located:
        raise ValueError(f"located must name block {name}")
    guess: Array = np.asarray(located[name], dtype=np.float64)
    if guess.shape != np.shape(shares):
        raise ValueError(f"located[{name!r}] must have {len(shares)} shares, got {guess.shape}")
    if not np.isfinite(guess).all():
        raise ValueError(f"located[{name!r}] must be finite")
    return guess


def _correlation(guess: Array, true: Array) -> float:
    if not (np.ptp(guess) and np.ptp(true)):
        return 0.0  # the same everywhere says nothing
    return float(stats.spearmanr(guess.ravel(), true.ravel()).statistic)
