"""Plans which edits to mix so that the classes come out as a target distribution asks.

An edit of some strength turns the class shares into some others. Where those are known, the shares
of a mixture in which each image draws its edit are linear in the mixture's weights, so the best
mixture is a linear programme. The cheapest mixture that comes within a distance of the target is a
convex programme, which is solved as a row of linear ones.

Left alone, 70 % of the images are of class 0. Two edits lower that to 0 % and 20 %, and the second
costs less, so 2 of 5 images take it:

>>> from difflens_utils.methods import planning
>>> shares = [[[0.7, 0.3]], [[0.0, 1.0]], [[0.2, 0.8]]]  # (M, G, classes)
>>> plan = planning.mixture(shares, costs=[0.0, 0.5, 0.1], target=[0.5, 0.5])
>>> plan.weights.round(3).tolist(), plan.expected.round(3).tolist(), round(plan.cost, 3)
([0.6, 0.0, 0.4], [[0.5, 0.5]], 0.04)

Half of the way, measured by FD, takes 1 of 5:

>>> half = 0.5 * 0.2 * 2**0.5  # of the distance between 0.7 : 0.3 and 0.5 : 0.5
>>> planning.within(shares, [0.0, 0.5, 0.1], [0.5, 0.5], half).weights.round(3).tolist()
[0.8, 0.0, 0.2]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

from ..runtime.errors import distribution

Array = NDArray[np.float64]

CUTS, TOLERANCE = 200, 1e-4  # the most planes around a target, and how near they have to come
MISS = 100.0  # the cost of a share missed: far more than edits cost, so the target comes first


class Plan(NamedTuple):
    """For images of G prompts, each with shares of its own."""

    weights: Array  # (M,) the probability that an image gets each edit
    expected: Array  # (G, classes) the shares that this should give
    cost: float  # the mixture's mean cost per image


def mixture(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The cheapest mixture of M edits whose class shares come nearest to `target`.

    Nearness is total variation, summed over the prompts. `shares` (M, G, classes) are what each
    edit gives under each prompt, where one of the M is no edit; `costs` (M,) are what each takes
    from an image, such as 1 - CLIP-I. Raises ValueError for arrays that do not fit, or a target
    that is no distribution.
    """
    table, cost, goal = _checked(shares, costs, target)
    m, prompts = table.shape[:2]
    flat = table.reshape(m, -1)  # (M, G classes)
    wide = flat.shape[1]
    # Unknowns: weights, then how much each class of each prompt gets too much and too little.
    as_target = np.hstack([flat.T, -np.eye(wide), np.eye(wide)])
    sum_to_one = np.concatenate([np.ones(m), np.zeros(2 * wide)])
    prices = np.concatenate([cost, np.full(2 * wide, MISS)])
    constraints = np.vstack([as_target, sum_to_one])
    wanted = np.append(np.tile(goal, prompts), 1.0)
    solved = linprog(prices, A_eq=constraints, b_eq=wanted, method="highs")
    weights = np.clip(solved.x[:m], 0, None)
    weights /= weights.sum()
    expected = np.tensordot(weights, table, 1)
    return Plan(weights, expected, float(weights @ cost))


def within(shares: ArrayLike, costs: ArrayLike, target: ArrayLike, distance: float) -> Plan:
    """The cheapest mixture whose FD to `target` is at most `distance`.

    FD is the root of the mean over the prompts of |shares - target|^2. The ball around the target
    is cut out by planes (Kelley, 1960): each linear programme adds the plane that its solution
    violates most. Where no mixture comes so near, it is `mixture`. Raises ValueError as that does.
    """
    table, cost, goal = _checked(shares, costs, target)
    m, prompts = table.shape[:2]
    away = (table - goal).reshape(m, -1) / prompts**0.5  # (M, G classes)
    planes: list[Array] = []
    for _ in range(CUTS):
        found = linprog(
            cost,
            A_ub=np.array(planes) @ away.T if planes else None,
            b_ub=np.full(len(planes), distance) if planes else None,
            A_eq=np.ones((1, m)),
            b_eq=[1.0],
            method="highs",
        )
        if not found.success:
            return mixture(shares, costs, target)
        weights = np.clip(found.x, 0, None) / np.clip(found.x, 0, None).sum()
        miss = weights @ away
        length = float(np.linalg.norm(miss))
        if length <= distance * (1 + TOLERANCE):
            break
        planes.append(miss / length)
    return Plan(weights, np.tensordot(weights, table, 1), float(weights @ cost))


def single(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> Plan:
    """The best single edit of M by the measure of `mixture`, for edits that cannot be mixed."""
    table, cost, goal = _checked(shares, costs, target)
    missed = np.abs(table - goal).sum((1, 2))
    best = int((MISS * missed + cost).argmin())
    weights = np.eye(len(table))[best]
    return Plan(weights, table[best], float(cost[best]))


def _checked(shares: ArrayLike, costs: ArrayLike, target: ArrayLike) -> tuple[Array, Array, Array]:
    table = np.asarray(shares, dtype=np.float64)
    cost = np.asarray(costs, dtype=np.float64)
    goal = distribution("target", target)
    if table.ndim != 3 or cost.shape != table.shape[:1] or goal.shape != table.shape[2:]:
        expected = "shares (M, G, classes), costs (M,) and target (classes,) must fit"
        raise ValueError(f"{expected}, got {table.shape}, {cost.shape}, {goal.shape}")
    return table, cost, goal
