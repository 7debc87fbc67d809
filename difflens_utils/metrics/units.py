"""What single units track: how well each tells a class from the rest.

The first unit rises with the label, and the second says nothing of it:

>>> from difflens_utils import metrics
>>> scores = [[1, 5], [2, 5], [3, 5], [4, 5]]
>>> metrics.auroc(scores, [False, False, True, True]).tolist()
[1.0, 0.5]
>>> metrics.tracked_factors([[0.95, 0.5], [0.05, 0.95]]).tolist()
[1, 2]
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..runtime.errors import within
from .estimates import Array, as_array, as_pairs


def auroc(scores: ArrayLike, labels: ArrayLike) -> Array:
    """Area under the ROC curve of each unit, for one class against the rest; ties count half.

    `scores` (N, U) and boolean `labels` (N,) to (U,); several labels at once (N, L) to (U, L).
    Raises ValueError for a label that all images or none have.
    """
    scores, labels = as_array("scores", scores, 2), np.asarray(labels, dtype=np.float64)
    as_pairs(scores, labels)
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
    a = as_array("aurocs", aurocs, 2)
    tracks = np.maximum(a, 1 - a) >= threshold
    number: NDArray[np.int64] = tracks.sum(1)
    return number
