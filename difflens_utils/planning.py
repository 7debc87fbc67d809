"""Which edits to mix so that the classes come out as asked: any target distribution, whatever the edits can reach.

An edit of some strength turns the class shares into some others. Where those are known, the shares of a mixture in which each
image draws its edit are linear in the mixture's weights, so the best mixture is a linear programme.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog

from .errors import distribution

MISS = 100.0  # what a share missed costs beside what edits cost: the target comes first


class Plan(NamedTuple):
    weights: np.ndarray  # (M,) the probability that an image gets each edit
    expected: np.ndarray  # (classes,) the shares that this should give
    cost: float  # the mixture's mean cost per image


def mixture(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The cheapest mixture of M edits whose class shares come nearest to `target` (in total variation).

    `shares` (M, classes) are what each edit gives, no edit among them; `costs` (M,) what it takes from an image, such as
    1 - CLIP-I. Raises ValueError for arrays that do not fit, or a target that is no distribution.
    """
    table, cost = (np.asarray(v, dtype=np.float64) for v in (shares, costs))
    goal = distribution("target", target)
    if table.ndim != 2 or cost.shape != table.shape[:1] or goal.shape != table.shape[1:]:
        raise ValueError(f"shares (M, classes), costs (M,) and target (classes,) must fit, got {table.shape}, {cost.shape}, {goal.shape}")
    m, classes = table.shape
    # unknowns: weights, then how much each class gets too much and too little
    eye = np.eye(classes)
    equal = np.vstack([np.hstack([table.T, -eye, eye]), np.concatenate([np.ones(m), np.zeros(2 * classes)])])
    solved = linprog(np.concatenate([cost, np.full(2 * classes, MISS)]), A_eq=equal, b_eq=np.append(goal, 1.0), method="highs")
    weights = np.clip(solved.x[:m], 0, None)
    weights /= weights.sum()
    return Plan(weights, weights @ table, float(weights @ cost))


def single(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The one edit of M whose class shares come nearest to `target`, by the same measure as `mixture`, for edits that cannot be mixed."""
    table, cost = (np.asarray(v, dtype=np.float64) for v in (shares, costs))
    best = int((MISS * np.abs(table - distribution("target", target, table.shape[1])).sum(1) + cost).argmin())
    return Plan(np.eye(len(table))[best], table[best], float(cost[best]))
