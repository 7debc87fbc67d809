"""Joint resamples: differences, simultaneous intervals, and intervals that hold their value."""

from __future__ import annotations

import numpy as np
import pytest
from cleanfid import fid

from difflens_utils import metrics
from difflens_utils.metrics import Estimate

RNG = np.random.default_rng(0)


def test_a_difference_of_the_same_images_is_paired() -> None:
    common, noise = RNG.normal(size=(2, 200))
    a, b = common + 1.0, common + 0.05 * noise
    paired, direct = metrics.difference(metrics.mean(a), metrics.mean(b)), metrics.mean(a - b)
    assert paired.value == pytest.approx(direct.value)
    assert paired.draws == pytest.approx(direct.draws)
    assert paired.high - paired.low < 0.1 * (metrics.mean(a).high - metrics.mean(a).low)


def test_a_missing_figure_makes_the_rest_missing() -> None:
    assert np.isnan(metrics.difference(metrics.mean([1.0, 2.0]), metrics.NOTHING).value)
    with pytest.raises(ValueError, match="estimates must have equally many resamples"):
        metrics.difference(metrics.mean([1.0, 2.0]), Estimate(1.0, 0.5, 1.5, 10))


def test_simultaneous_intervals_hold_all_truths_together() -> None:
    alone = together = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=(5, 60))
        each = [metrics.mean(row) for row in values]
        wide = metrics.simultaneous(each)
        assert [e.value for e in wide] == [e.value for e in each]
        alone += all(e.low <= 0 <= e.high for e in each)
        together += all(e.low <= 0 <= e.high for e in wide)
    assert alone / 200 < 0.88 and together / 200 > 0.9


def test_figures_that_do_not_vary_keep_their_intervals() -> None:
    """No resample of 20 misses has a hit, and a Fréchet distance has no resamples."""
    varied, distance = metrics.mean(RNG.normal(size=60)), Estimate(1.0, 0.5, 1.5, 60)
    missed = metrics.share([False] * 20)
    wide, *others = metrics.simultaneous([varied, missed, distance])
    assert others == [missed, distance] and missed.high == pytest.approx(0.161, abs=1e-3)
    assert wide.low < varied.value < wide.high


def test_simultaneous_intervals_of_one_figure_are_its_own() -> None:
    only = metrics.mean(RNG.normal(size=400))
    (wide,) = metrics.simultaneous([only])
    assert (wide.low, wide.high) == pytest.approx((only.low, only.high), abs=0.02)


@pytest.mark.parametrize("n", [5, 30, 300])
def test_every_interval_holds_its_value(n: int) -> None:
    p = np.random.default_rng(n).dirichlet([3, 3, 3], size=n)
    fairness = metrics.fairness_discrepancy(p)
    shift = metrics.leakage({"x": p}, {"x": p[::-1]})[0].shift
    for found in (*fairness, shift, metrics.share(p[:, 0] > 0.3)):
        assert found.low <= found.value <= found.high


def test_kid_is_that_of_clean_fid_on_whole_sets() -> None:
    x, y = RNG.normal(size=(60, 7)), RNG.normal(0.5, 1.2, size=(60, 7))
    np.random.seed(0)
    expected = fid.kernel_distance(x, y, num_subsets=1, max_subset_size=60)
    assert metrics.kid(x, y).value == pytest.approx(expected, rel=1e-6)


def test_kid_of_weighted_images_is_that_of_images_as_often() -> None:
    x, y = RNG.normal(size=(300, 3)), RNG.normal(size=(200, 3))
    weights = np.where(x[:, 0] > 0, 1.0, 0.0)
    weighted = metrics.kid(x, y, weights)
    assert weighted.value == pytest.approx(metrics.kid(x[x[:, 0] > 0], y).value)
    assert weighted.low <= weighted.value <= weighted.high


def test_kid_is_zero_on_average_between_sets_of_one_distribution() -> None:
    values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = metrics.kid(rng.normal(size=(40, 4)), rng.normal(size=(50, 4)))
        values.append(found.value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(60)


def test_strangers_are_pairs_of_different_images_of_a_prompt() -> None:
    e = RNG.normal(size=(24, 5)) + 1
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    prompt = np.arange(24) % 2
    expected = []
    for g in range(2):
        cosines = unit[prompt == g] @ unit[prompt == g].T
        expected.append(cosines[~np.eye(12, dtype=bool)].mean())
    assert metrics.strangers(e, prompt).value == pytest.approx(np.mean(expected))


def test_a_resample_with_one_image_of_a_prompt_does_not_undo_the_interval_of_strangers() -> None:
    e, prompt = np.random.default_rng(0).normal(size=(6, 4)), [0, 0, 0, 1, 1, 1]
    got = metrics.strangers(e, prompt)
    assert got.low < got.value < got.high and np.isfinite([got.low, got.high]).all()


def test_kept_is_one_for_untouched_images_and_zero_for_strangers() -> None:
    e = RNG.normal(size=(50, 5)) + 1
    strange = metrics.strangers(e)
    same = metrics.clip_i(e, e).raw
    assert metrics.kept(same, strange).value == pytest.approx(1.0)
    assert metrics.kept(strange, strange).value == pytest.approx(0.0)
