from __future__ import annotations

import numpy as np
import pytest
import torch
from cleanfid import fid
from scipy import stats
from sklearn.metrics import roc_auc_score

from difflens_utils import metrics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def one_class(classes: int, n: int = 10) -> np.ndarray:
    return np.eye(classes)[np.zeros(n, dtype=int)]


def ends(estimate: metrics.Estimate) -> list[float]:
    """The value of a figure, and its interval."""
    return [estimate.value, estimate.low, estimate.high]


# Intervals ----------------------------------------------------------------------------------------


def test_bootstrap_and_its_vectorised_form_agree(rng):
    x = rng.normal(3, 2, 300)
    slow = metrics.bootstrap(np.mean, x, seed=4)
    fast = metrics.bootstrap_means(lambda mean: mean, x, seed=4)
    np.testing.assert_allclose(ends(slow), ends(fast), atol=1e-12)
    np.testing.assert_allclose(slow.draws, fast.draws, atol=1e-12)
    assert slow.n == fast.n == 300 and slow.low < slow.value < slow.high
    assert (slow.high - slow.low) / 2 == pytest.approx(1.96 * x.std() / 300**0.5, rel=0.1)


def test_bootstrap_pairs_its_arrays(rng):
    a = rng.normal(size=200)
    difference = metrics.bootstrap(lambda x, y: (y - x).mean(), a, a + 1)
    np.testing.assert_allclose(ends(difference), 1.0)
    np.testing.assert_allclose(difference.draws, 1.0)


def test_resamples_are_moved_until_their_mean_is_the_value():
    draws = np.linspace(3, 5, 2001)
    moved = metrics.from_draws(1.0, draws, 7)
    np.testing.assert_allclose(ends(moved), [1, 1 - 0.95, 1 + 0.95])
    np.testing.assert_allclose(moved.draws, draws - 3)
    kept = metrics.from_draws(1.0, draws, 7, centred=False)
    np.testing.assert_allclose(ends(kept), [1, 1, 4.95])  # the interval still holds the value
    assert moved.n == kept.n == 7


def test_a_figure_that_is_missing_has_no_interval():
    """Some resamples may reach what the images themselves do not."""
    missing = metrics.from_draws(np.nan, [np.nan, 0.5, 0.7], 3)
    np.testing.assert_equal(ends(missing), [np.nan] * 3)
    np.testing.assert_equal(missing.draws, [np.nan, 0.5, 0.7])


def test_resamples_are_no_part_of_what_makes_figures_equal():
    shown = metrics.Estimate(0.5, 0.25, 0.75, 4)
    assert metrics.from_draws(0.5, np.linspace(0.25, 0.75, 3), 4, centred=False) != shown
    assert metrics.Estimate(0.5, 0.25, 0.75, 4, np.ones(3)) == shown
    with pytest.raises(AttributeError):
        shown.value = 0.6


def test_bootstrap_covers_a_known_share():
    covered = 0
    for seed in range(200):
        x = np.random.default_rng(seed).random(200) < 0.3
        estimate = metrics.bootstrap_means(lambda mean: mean, x, n_boot=300, seed=seed)
        covered += estimate.low <= 0.3 <= estimate.high
    assert (
        stats.binomtest(covered, 200, 0.94).pvalue > 1e-3
    )  # a percentile interval is a little short at n = 200


def test_wilson_is_scipys():
    for k, n in [(0, 20), (1, 30), (15, 30), (999, 1000), (50, 50)]:
        expected = stats.binomtest(k, n).proportion_ci(method="wilson")
        found = metrics.wilson(k, n)
        np.testing.assert_allclose(ends(found), (k / n, *expected), atol=1e-12)
        assert found.n == n


# Fairness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "maximum"), [(2, 0.707), (3, 0.816), (4, 0.866)])
def test_fd_is_zero_for_the_target_and_has_its_maximum(classes, maximum):
    extreme = metrics.fairness_discrepancy(one_class(classes))
    assert extreme.hard.value == pytest.approx(maximum, abs=5e-4) == extreme.soft.value
    even = np.eye(classes)[np.arange(60) % classes]
    assert metrics.fairness_discrepancy(even).hard.value == pytest.approx(0)
    assert metrics.fairness_discrepancy(
        one_class(classes), target=np.eye(classes)[0]
    ).soft.value == pytest.approx(0)


def test_soft_and_hard_fd_differ_as_they_should():
    p = np.array([[0.6, 0.4]] * 7 + [[0.4, 0.6]] * 3)
    fair = metrics.fairness_discrepancy(p)
    assert fair.hard.value == pytest.approx(0.2 * 2**0.5) and fair.soft.value == pytest.approx(
        0.04 * 2**0.5
    )
    np.testing.assert_allclose(metrics.shares(p), [0.7, 0.3])
    assert metrics.share_estimates(p) == [metrics.wilson(7, 10), metrics.wilson(3, 10)]


def test_metrics_take_tensors():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    assert metrics.fairness_discrepancy(p).hard.value == pytest.approx(0)


def test_expected_fd_is_the_closed_form_for_a_fair_coin():
    # Shares of two classes differ from 1/2 by x and -x: FD = sqrt(2) |x|, E|x| = sqrt(2 / pi) sd.
    n = 500
    expected = 2**0.5 * (2 / np.pi) ** 0.5 * (0.25 / n) ** 0.5
    estimate = metrics.expected_fd([0.5, 0.5], n, draws=40_000)
    assert estimate.value == pytest.approx(expected, rel=0.02) and estimate.n == n
    biased = metrics.expected_fd([0.7, 0.3], 100_000, target=[0.5, 0.5])
    assert biased.value == pytest.approx(0.2 * 2**0.5, abs=1e-3)


# Images -------------------------------------------------------------------------------------------


def test_frechet_is_cleanfids_and_that_of_two_gaussians(rng):
    a, b = rng.normal(size=(6000, 8)), rng.normal(size=(6000, 8)) + 0.5
    estimate = metrics.frechet(a, b)
    assert estimate.value == pytest.approx(fid.fid_from_feats(a, b), rel=1e-12)
    assert (
        estimate.low < 8 * 0.25 < estimate.high
    )  # equal covariances: the squared shift of the mean
    wide = metrics.frechet(a, 2 * rng.normal(size=(6000, 8)))
    assert wide.value == pytest.approx(8 * (2 - 1) ** 2, rel=0.05)  # sum of (sd_a - sd_b)^2
    assert metrics.frechet(a, a).value == pytest.approx(0, abs=1e-6)


def test_clip_scores(rng):
    a, b = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    cosines = [
        np.dot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)
    ]
    score = metrics.clip_i(a, b)
    assert score.raw.value == pytest.approx(np.mean(cosines))
    np.testing.assert_allclose(ends(score.rescaled), (np.array(ends(score.raw)) + 1) / 2)
    assert metrics.clip_i(a, 3 * a).raw.value == pytest.approx(1)
    text = a[0]
    assert metrics.clip_t(text, b) == metrics.clip_t(np.tile(text, (50, 1)), b)


def test_agreement():
    a, b = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 1, 0]]
    assert metrics.agreement(a, b).value == 0.75 and metrics.agreement(a, a).value == 1


def test_leakage_is_zero_for_identical_inputs_and_sees_a_moved_factor(rng):
    before = {
        "age": np.eye(3)[rng.integers(3, size=400)],
        "smile": np.eye(2)[rng.integers(2, size=400)],
    }
    rows = metrics.leakage(before, before)
    assert [r.factor for r in rows] == ["age", "smile"]
    assert all(ends(r.shift) == [0, 0, 0] and r.changed.value == r.chance == 0 for r in rows)
    after = dict(before, smile=np.eye(2)[np.ones(400, dtype=int)])  # now everyone smiles
    smile = metrics.leakage(before, after)[1]
    without = 1 - before["smile"][:, 1].mean()
    assert smile.shift.value == pytest.approx(without) == smile.changed.value
    assert smile.shift.low < without < smile.shift.high and smile.shift.low > smile.chance


def test_leakage_tells_a_shift_from_a_shuffle(rng):
    """An edit that flips a tenth of the images either way changes images, not the shares."""
    labels = rng.integers(2, size=2000)
    flips = rng.random(2000) < 0.1
    row = metrics.leakage({"smile": np.eye(2)[labels]}, {"smile": np.eye(2)[labels ^ flips]})[0]
    assert row.changed.value == pytest.approx(flips.mean()) and row.shift.value < 2 * row.chance


# Units --------------------------------------------------------------------------------------------


def test_auroc_is_sklearns_with_ties_and_several_labels(rng):
    scores = np.maximum(
        rng.normal(size=(300, 7)), 0
    )  # half of them tie at zero, as in a sparse code
    labels = rng.random((300, 3)) < [0.5, 0.1, 0.9]
    expected = [[roc_auc_score(labels[:, j], scores[:, u]) for j in range(3)] for u in range(7)]
    np.testing.assert_allclose(metrics.auroc(scores, labels), expected, atol=1e-12)
    np.testing.assert_allclose(
        metrics.auroc(scores, labels[:, 0]), np.array(expected)[:, 0], atol=1e-12
    )


def test_tracked_factors_counts_either_direction():
    assert metrics.tracked_factors([[0.95, 0.5, 0.03], [0.5, 0.6, 0.5]], 0.9).tolist() == [2, 0]


def test_what_there_is_not_is_shown_as_a_dash():
    assert metrics.proportion(1, 4) == metrics.wilson(1, 4)
    assert str(metrics.proportion(0, 0)) == f"{metrics.proportion(0, 0).value:.1f}" == "–"
    a, b = [1.0, 3.0, 2.0, 2.0], [1.0, 4.0, 3.0, 2.0]
    assert metrics.rank_correlation(a, b) == stats.spearmanr(a, b).statistic
    assert np.isnan(metrics.rank_correlation(a, [5.0] * 4)) and np.isnan(
        metrics.rank_correlation([], [])
    )


def test_a_resample_without_a_prompt_does_not_undo_the_interval(rng):
    fd = metrics.fairness_discrepancy(rng.dirichlet([1, 1], 4), groups=[0, 1, 0, 1]).soft
    assert np.isfinite(ends(fd)).all() and fd.low <= fd.value <= fd.high
    lacking = np.isnan(fd.draws).mean()  # a resample of four takes one prompt alone in 2 / 2^4
    assert lacking == pytest.approx(1 / 8, abs=0.04)


# Errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: metrics.fairness_discrepancy(np.eye(2), target=[0.5, 0.6]),
            "target must be 2 shares that sum to 1",
        ),
        (
            lambda: metrics.fairness_discrepancy(np.eye(2), target=[0.2, 0.3, 0.5]),
            "target must be 2 shares",
        ),
        (
            lambda: metrics.fairness_discrepancy(np.eye(2), target=[1.5, -0.5]),
            "target must be 2 shares",
        ),
        (lambda: metrics.fairness_discrepancy(np.ones(3)), "probabilities must be"),
        (lambda: metrics.fairness_discrepancy(np.ones((0, 2))), "probabilities must be"),
        (lambda: metrics.expected_fd([0.5, 0.5], 0), "n must be greater than 0"),
        (lambda: metrics.expected_fd([0.5, 0.4], 10), "p must be 2 shares"),
        (
            lambda: metrics.frechet(np.ones((8, 8)), np.ones((9, 8))),
            "features_a must be more images than the 8 features",
        ),
        (lambda: metrics.frechet(np.ones((9, 8)), np.ones((9, 7))), "features_b must be"),
        (lambda: metrics.clip_i(np.ones((3, 4)), np.ones((2, 4))), "features must be paired"),
        (
            lambda: metrics.bootstrap(np.mean, [1, 2], [1, 2, 3]),
            "arrays must have one row per image",
        ),
        (lambda: metrics.wilson(3, 2), "successes must be between 0 and 2"),
        (
            lambda: metrics.leakage({"age": np.eye(2)}, {"ages": np.eye(2)}),
            "factor must be one of ages",
        ),
        (lambda: metrics.agreement(np.eye(2), np.eye(3)), "arrays must have one row"),
        (lambda: metrics.auroc(np.ones((3, 2)), [1, 1, 1]), "labels must hold both classes"),
        (lambda: metrics.tracked_factors(np.ones((2, 2)), 0.2), "threshold must be between"),
    ],
)
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_dosed_to_a_fairness(seed: int = 0) -> None:
    """The mixture of both sets at the dose found has that very FD; the readout is the mixture's."""
    rng = np.random.default_rng(seed)
    before, after = (
        rng.dirichlet((8, 1, 1), 400),
        rng.dirichlet((4, 2, 2), 400),
    )  # on its way to balance, not past it
    start, end = (metrics.fairness_discrepancy(p).soft.value for p in (before, after))
    level = (start + end) / 2
    dose = metrics.at_matched_fd(before, after, level, lambda d: d)
    mixed = (1 - dose.value) * before + dose.value * after
    assert np.linalg.norm(mixed.mean(0) - 1 / 3) == pytest.approx(level)
    assert dose.low < dose.value < dose.high
    similar = rng.uniform(0.5, 1, 400)
    got = metrics.at_matched_fd(before, after, level, lambda d, c: 1 - d * (1 - c), similar)
    assert got.value == pytest.approx(1 - dose.value + dose.value * similar.mean())
    assert metrics.at_matched_fd(before, after, start, lambda d: d).value == pytest.approx(
        0.0, abs=1e-9
    )
    assert metrics.at_matched_fd(before, after, end, lambda d: d).value == pytest.approx(1.0)
    assert np.isnan(metrics.at_matched_fd(before, after, end / 2, lambda d: d).value)


def test_joint_classes() -> None:
    a, b = (
        np.random.default_rng(0).dirichlet((1, 1), 5),
        np.random.default_rng(1).dirichlet((1, 1, 1), 5),
    )
    got = metrics.joint(a, b)
    assert got.shape == (5, 6) and got[3, 4] == pytest.approx(a[3, 1] * b[3, 1])
    np.testing.assert_allclose(got.sum(1), 1)
    np.testing.assert_allclose(
        metrics.shares(metrics.joint(np.eye(2)[[0, 1, 1]], np.eye(3)[[2, 0, 0]])),
        [0, 0, 1 / 3, 2 / 3, 0, 0],
    )


def test_transitions_of_classes() -> None:
    before, after = np.eye(3)[[0, 0, 0, 0, 2]], np.eye(3)[[0, 1, 1, 2, 2]]
    got = metrics.transitions(before, after)
    np.testing.assert_allclose(
        got, [[0.25, 0.5, 0.25], [0, 1, 0], [0, 0, 1]]
    )  # nothing was of class 1
    np.testing.assert_allclose(metrics.shares(before) @ got, metrics.shares(after))
