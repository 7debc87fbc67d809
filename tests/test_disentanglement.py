from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mutual_info_score

from difflens_utils.analysis import disentanglement

RNG = np.random.default_rng(0)
A, B = RNG.integers(3, size=3000), RNG.integers(2, size=3000)  # two independent factors


def test_information_of_a_copy_is_the_entropy_and_of_noise_nothing() -> None:
    units = np.stack([A, -2.0 * A, RNG.normal(size=3000), A == 1], 1)
    got = disentanglement.mutual_information(units, A)
    assert got[0] == got[1] == pytest.approx(disentanglement.entropy(np.bincount(A) / 3000))
    assert got[2] < 0.02
    assert got[3] == pytest.approx(mutual_info_score(A, A == 1))


def test_information_of_a_gaussian_agrees_with_its_closed_form() -> None:
    """Two classes, means two standard deviations apart: h of the mixture less h of the Gaussian."""
    n = 200_000
    y = RNG.integers(2, size=n)
    grid = np.linspace(-10, 12, 20001)
    mixture = 0.5 * (stats.norm.pdf(grid, 0) + stats.norm.pdf(grid, 2))
    exact = np.trapezoid(-mixture * np.log(mixture + 1e-300), grid) - 0.5 * np.log(2 * np.pi * np.e)
    assert disentanglement.mutual_information((RNG.normal(size=n) + 2 * y)[:, None], y, bins=100)[
        0
    ] == pytest.approx(exact, abs=0.003)


def test_gap_of_one_unit_per_factor_is_one_and_of_copies_zero() -> None:
    factors = {"a": A, "b": B}
    noise = RNG.normal(size=(3000, 3))
    assert disentanglement.mig(np.c_[A, B, noise], factors).value > 0.98
    assert disentanglement.mig(np.c_[A, A, B, B, noise], factors).value == pytest.approx(
        0.0, abs=1e-9
    )


def test_scores_of_known_importances() -> None:
    units, weights, factors = disentanglement.scores(np.eye(4))
    assert (
        units == pytest.approx(np.ones(4))
        and factors == pytest.approx(np.ones(4))
        and weights == pytest.approx(np.full(4, 0.25))
    )
    units, _, factors = disentanglement.scores(np.ones((5, 3)))
    assert units == pytest.approx(np.zeros(5)) and factors == pytest.approx(np.zeros(3))
    units, weights, _ = disentanglement.scores([[1.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    assert units[:2] == pytest.approx(
        [1 - np.log(2) / np.log(3), 1.0]
    ) and weights == pytest.approx([0.5, 0.5, 0.0])


def test_a_rotation_costs_disentanglement_but_no_information() -> None:
    axes = np.c_[A == 0, A == 1, B, RNG.normal(size=3000) * 0.1].astype(float) + 0.05 * RNG.normal(
        size=(3000, 4)
    )
    turned = axes @ np.linalg.qr(RNG.normal(size=(4, 4)))[0]
    straight, mixed = (disentanglement.dci(u, {"a": A, "b": B}) for u in (axes, turned))
    assert straight.disentanglement.value > mixed.disentanglement.value + 0.3
    assert straight.completeness.value > mixed.completeness.value
    assert min(straight.informativeness.value, mixed.informativeness.value) > 0.95


def test_one_factor_alone_is_not_disentangled() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    found = disentanglement.dci(
        np.stack([labels + 0.1 * rng.normal(size=80), rng.normal(size=80)], 1), {"a": labels}
    )
    assert np.isnan(found.disentanglement.value)
    assert found.informativeness.value > 0.9 and 0 <= found.completeness.value <= 1


def test_disentanglement_is_a_weighted_mean_over_resampled_units() -> None:
    """A unit that no tree leans on changes neither the figure nor its interval."""
    values, weights = RNG.random(30), np.r_[RNG.random(20), np.zeros(10)]
    found = disentanglement._weighted_mean(values, weights, seed=3)
    assert found.value == pytest.approx((values * weights).sum() / weights.sum())
    rng = np.random.default_rng(3)
    chosen = [rng.integers(30, size=30) for _ in range(1000)]
    drawn = np.array([np.average(values[rows], weights=weights[rows]) for rows in chosen])
    assert found.draws == pytest.approx(drawn - drawn.mean() + found.value)
    same = disentanglement._weighted_mean(np.full(30, 0.4), weights, seed=3)
    assert (same.low, same.value, same.high) == pytest.approx((0.4, 0.4, 0.4))


def test_units_of_two_dictionaries_are_resampled_apart() -> None:
    axes = np.c_[A, B, RNG.normal(size=3000), A + B][:400].astype(float)
    factors = {"a": A[:400], "b": B[:400]}
    one, other = (disentanglement.dci(axes, factors, resampling=seed) for seed in (0, 1))
    assert one.disentanglement.value == other.disentanglement.value
    together = np.corrcoef(one.disentanglement.draws, other.disentanglement.draws)[0, 1]
    assert abs(together) < 0.15
