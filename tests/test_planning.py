from __future__ import annotations

import numpy as np
import pytest

from difflens_utils.methods.planning import mixture, single


def test_the_cheapest_of_two_ways_is_taken() -> None:
    """No edit gives 0.7 : 0.3, a costly edit 0 : 1, a cheap edit 0.2 : 0.8.

    Half and half needs 2/5 of the cheap one.
    """
    plan = mixture([[[0.7, 0.3]], [[0.0, 1.0]], [[0.2, 0.8]]], [0.0, 0.5, 0.1], [0.5, 0.5])
    np.testing.assert_allclose(plan.weights, [0.6, 0.0, 0.4], atol=1e-9)
    np.testing.assert_allclose(plan.expected, [[0.5, 0.5]], atol=1e-9)
    assert plan.cost == pytest.approx(0.04)


def test_out_of_reach_means_as_near_as_it_goes() -> None:
    plan = mixture([[[0.9, 0.1]], [[0.7, 0.3]]], [0.0, 1.0], [0.2, 0.8])
    np.testing.assert_allclose(plan.weights, [0.0, 1.0], atol=1e-9)


def test_random_mixtures_are_found_again_or_beaten() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        table, costs, truth = rng.dirichlet(np.ones(4), 9), rng.random(9), rng.dirichlet(np.ones(9))
        plan = mixture(table[:, None], costs, truth @ table)
        np.testing.assert_allclose(plan.expected[0], truth @ table, atol=1e-7)
        assert plan.cost <= truth @ costs + 1e-7 and plan.weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("shares", "costs", "target", "message"),
    [
        ([[[0.5, 0.5]]], [0.0, 1.0], [0.5, 0.5], "must fit"),
        ([[0.5, 0.5]], [0.0], [0.5, 0.5], "must fit"),
        ([[[0.5, 0.5]]], [0.0], [0.5, 0.6], "sums to 1"),
    ],
)
def test_bad_input(shares: list, costs: list, target: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture(shares, costs, target)


def test_the_best_single_edit() -> None:
    found = single(
        [[[0.9, 0.1]], [[0.55, 0.45]], [[0.45, 0.55]], [[0.2, 0.8]]],
        [0.0, 0.3, 0.1, 0.0],
        (0.5, 0.5),
    )
    assert (
        found.weights.tolist() == [0, 0, 1, 0] and found.cost == 0.1
    )  # as near as the second, and cheaper


def test_one_mixture_balances_opposite_prompts_by_edits_that_ignore_them() -> None:
    """No edit leaves 0.9 : 0.1 and 0.1 : 0.9.

    Two edits that give a class whatever the prompt balance both, half and half.
    """
    start, first, second = [[0.9, 0.1], [0.1, 0.9]], [[1.0, 0.0]] * 2, [[0.0, 1.0]] * 2
    plan = mixture([start, first, second], [0.0, 0.2, 0.2], [0.5, 0.5])
    np.testing.assert_allclose(plan.weights, [0.0, 0.5, 0.5], atol=1e-9)
    alone = [
        mixture([[start[g]], [first[g]], [second[g]]], [0.0, 0.2, 0.2], [0.5, 0.5]) for g in (0, 1)
    ]
    np.testing.assert_allclose(
        alone[0].weights, [5 / 9, 0.0, 4 / 9], atol=1e-9
    )  # a plan of its own edits fewer images
    assert alone[0].cost == pytest.approx(alone[1].cost) and alone[0].cost < plan.cost
