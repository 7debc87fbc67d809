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
    """For images of G prompts, each with shares of its own."""

    weights: np.ndarray  # (M,) the probability that an image gets each edit
    expected: np.ndarray  # (G, classes) the shares that this should give
    cost: float  # the mixture's mean cost per image


def mixture(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The cheapest mixture of M edits whose class shares come nearest to `target` (in total variation, summed over the prompts).

    `shares` (M, G, classes) are what each edit gives under each prompt, no edit among them; `costs` (M,) what it takes from an image, such
    as 1 - CLIP-I. Raises ValueError for arrays that do not fit, or a target that is no distribution.
    """
    table, cost, goal = _checked(shares, costs, target)
    m, wide = len(table), table[0].size
    # unknowns: weights, then how much each class of each prompt gets too much and too little
    eye = np.eye(wide)
    equal = np.vstack(
        [
            np.hstack([table.reshape(m, wide).T, -eye, eye]),
            np.concatenate([np.ones(m), np.zeros(2 * wide)]),
        ]
    )
    solved = linprog(
        np.concatenate([cost, np.full(2 * wide, MISS)]),
        A_eq=equal,
        b_eq=np.append(np.tile(goal, table.shape[1]), 1.0),
        method="highs",
    )
    weights = np.clip(solved.x[:m], 0, None)
    weights /= weights.sum()
    return Plan(weights, np.tensordot(weights, table, 1), float(weights @ cost))


def single(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The one edit of M whose class shares come nearest to `target`, by the same measure as `mixture`, for edits that cannot be mixed."""
    table, cost, goal = _checked(shares, costs, target)
    best = int((MISS * np.abs(table - goal).sum((1, 2)) + cost).argmin())
    return Plan(np.eye(len(table))[best], table[best], float(cost[best]))


def _checked(
    shares: ArrayLike, costs: ArrayLike, target: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    table, cost = (np.asarray(v, dtype=np.float64) for v in (shares, costs))
    goal = distribution("target", target)
    if table.ndim != 3 or cost.shape != table.shape[:1] or goal.shape != table.shape[2:]:
        raise ValueError(
            f"shares (M, G, classes), costs (M,) and target (classes,) must fit, got {table.shape}, {cost.shape}, {goal.shape}"
        )
    return table, cost, goal
