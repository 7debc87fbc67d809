"""How fair, how close, how faithful: every figure of the study, with its interval.

Free functions of one shape: arrays with one row per image (numpy arrays or CPU tensors) in, an
`Estimate` or a small tuple of them out. Equation numbers are the paper's. All raise a one-line
ValueError for arrays of a wrong shape.

A set with 9 images of one class to 1 of the other lies sqrt(2) * 0.4 from equal shares:

>>> from difflens_utils import metrics
>>> print(metrics.wilson(5, 10))
0.500 [0.237, 0.763]
>>> probabilities = [[1, 0]] * 9 + [[0, 1]]
>>> round(metrics.fairness_discrepancy(probabilities).soft.value, 3)
0.566
"""

from __future__ import annotations

from .estimates import (
    NAN,
    NOTHING,
    Array,
    Estimate,
    as_array,
    as_distribution,
    as_pairs,
    bootstrap,
    bootstrap_means,
    combined,
    difference,
    from_draws,
    mean,
    members,
    one_hot,
    proportion,
    rank_correlation,
    share,
    simultaneous,
    wilson,
)
from .fairness import (
    Fairness,
    expected_fd,
    fairness_discrepancy,
    joint,
    share_estimates,
    shares,
    transitions,
)
from .images import (
    Cosine,
    KernelReference,
    Leakage,
    agreement,
    class_changes,
    clip_i,
    clip_t,
    frechet,
    kept,
    kid,
    leakage,
    strangers,
    total_variation,
)
from .matching import at_matched_fd
from .strata import Strata, removed, signed_root
from .units import auroc, tracked_factors

__all__ = [
    "Array",
    "Cosine",
    "Estimate",
    "Fairness",
    "KernelReference",
    "Leakage",
    "NAN",
    "NOTHING",
    "Strata",
    "agreement",
    "as_array",
    "as_distribution",
    "as_pairs",
    "at_matched_fd",
    "auroc",
    "bootstrap",
    "bootstrap_means",
    "class_changes",
    "clip_i",
    "clip_t",
    "combined",
    "difference",
    "expected_fd",
    "fairness_discrepancy",
    "frechet",
    "from_draws",
    "joint",
    "kept",
    "kid",
    "leakage",
    "mean",
    "members",
    "one_hot",
    "proportion",
    "rank_correlation",
    "removed",
    "share",
    "share_estimates",
    "shares",
    "signed_root",
    "simultaneous",
    "strangers",
    "total_variation",
    "tracked_factors",
    "transitions",
    "wilson",
]
