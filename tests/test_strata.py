"""Post-stratified figures, against simulation and numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from difflens_utils import metrics
from difflens_utils.metrics import Strata

BASE, MOVES = np.array([0.7, 0.3]), np.array([[0.6, 0.4], [0.1, 0.9]])


def simulated(rng: np.random.Generator, n: int, size: int) -> tuple[Strata, np.ndarray]:
    """The strata of n images, of a base that was counted on `size` others, and their classes."""
    before = rng.choice(2, size=n, p=BASE)
    base = rng.multinomial(size, BASE) / size
    after = np.array([rng.choice(2, p=MOVES[c]) for c in before])
    return Strata.of(before, [base], size), np.eye(2)[after]


def test_fd_squared_is_right_on_average_and_its_interval_holds_the_truth() -> None:
    rng, target = np.random.default_rng(0), np.array([0.5, 0.5])
    truth = float(((BASE @ MOVES - target) ** 2).sum())
    found = []
    for _ in range(150):
        strata, after = simulated(rng, n=120, size=600)
        found.append(strata.fd_squared(after, target))
    values = np.array([estimate.value for estimate in found])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 3 * error
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in found])
    assert covered > 0.88  # 150 draws of 95 %


def test_fd_at_balance_is_zero_on_average_where_that_of_one_draw_is_not() -> None:
    rng = np.random.default_rng(1)
    squares, raw = [], []
    for _ in range(300):
        p = np.eye(4)[rng.choice(4, size=80)]
        squares.append(Strata.plain(None, len(p)).fd_squared(p).value)
        raw.append(np.linalg.norm(p.mean(0) - 0.25))
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(300)
    assert np.mean(raw) > 0.08


def test_fd_squared_of_plain_images_is_the_u_statistic() -> None:
    p = np.random.default_rng(2).dirichlet([1, 1, 1], size=40)
    q = p - 1 / 3
    pairs = (q @ q.T).sum() - (q * q).sum()
    expected = pairs / (40 * 39)
    assert Strata.plain(None, 40).fd_squared(p).value == pytest.approx(expected)


def test_prompts_are_averaged_over_squares() -> None:
    rng = np.random.default_rng(3)
    p, prompt = rng.dirichlet([1, 1], size=60), np.arange(60) % 3
    each = [Strata.plain(None, 20).fd_squared(p[prompt == g]).value for g in range(3)]
    assert Strata.plain(prompt, 60).fd_squared(p).value == pytest.approx(np.mean(each))


def test_means_are_those_of_classes_as_frequent_as_among_many() -> None:
    strata = Strata.of([0, 0, 0, 1], base=[[0.5, 0.5]], size=100)
    found = strata.mean([1.0, 2.0, 3.0, 10.0])
    assert found.value == pytest.approx(6.0) and found.low <= 6.0 <= found.high


def test_a_class_that_no_image_had_is_left_out() -> None:
    strata = Strata.of([0, 0, 1], base=[[0.4, 0.4, 0.2]], size=100)
    assert strata.shares(np.eye(3)[[0, 0, 1]])[0] == pytest.approx([0.5, 0.5, 0])
    with pytest.raises(ValueError, match="every prompt must have images of a class"):
        Strata.of([0], base=[[0.0, 1.0]], size=100)


def test_fd_has_the_sign_of_its_square() -> None:
    p = np.eye(2)[np.arange(20) % 2]
    fd, square = Strata.plain(None, 20).fd(p), Strata.plain(None, 20).fd_squared(p)
    assert square.value < 0 and fd.value == pytest.approx(-np.sqrt(-square.value))
    assert fd.low <= fd.value <= fd.high
    assert metrics.fairness_discrepancy(p).unbiased.value == fd.value
