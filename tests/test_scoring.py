"""A row of the tables, against numpy in float64 and against what was planted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import evaluators, methods, metrics
from difflens_utils.analysis import scoring
from difflens_utils.analysis.scoring import Scale
from difflens_utils.debiasing import Debiased, Mixture, Search
from difflens_utils.metrics import Strata, images
from difflens_utils.outcome import Outcome

N, FEATURES = 100, 4


class Subject:
    """What a scale reads of a subject."""

    def unrelated(self, attribute: str) -> list[str]:
        return ["hat", "scarf"]

    def texts(self) -> list[str]:
        return [""]

    def classes(self, attribute: str) -> tuple[str, ...]:
        return ("female", "male")

    def class_texts(self, attribute: str) -> list[str]:
        return evaluators.class_texts(attribute, self.classes(attribute))

    @property
    def clip(self) -> Subject:
        return self

    def text_features(self, texts: list[str]) -> Tensor:
        axes = {"a portrait of a female person": 1, "a portrait of a male person": 3}
        return torch.eye(5)[[axes[text] for text in texts]]


def seen(male: int, hats: int = 50, scarves: int = 50, seed: int = 0) -> Outcome:
    """Images of which so many are male, wear hats and wear scarves, and are sure to."""
    generator = torch.Generator().manual_seed(seed)
    counts = {"gender": male, "hat": hats, "scarf": scarves}
    hot = {name: torch.eye(2)[(torch.arange(N) < k).long()] for name, k in counts.items()}
    clip = torch.nn.functional.normalize(torch.randn(N, 5, generator=generator) + 1, dim=1)
    return Outcome(
        images=torch.zeros(N, 3, 8, 8),
        scored=hot,
        labelled=hot,
        features=torch.randn(N, FEATURES, generator=generator) + 3 * hot["gender"][:, 1:],
        clip=clip,
        second=clip.roll(1, 1),
        prompt=torch.zeros(N, dtype=torch.int64),
    )


def scale_of(before: Outcome, **references: Tensor) -> Scale:
    strata = Strata.plain(before.prompt, N)
    return Scale(
        Subject(), "gender", [0.5, 0.5], before, strata, lambda: references, lambda: before
    )


def mixed(*parts: tuple[Outcome, float]) -> Mixture:
    """Every image is under each outcome with a probability."""
    return Mixture([part for part, _ in parts], np.array([[share for _, share in parts]] * N))


def made(mixture: Mixture, drawn: Outcome) -> Debiased:
    search = Search(methods.pushed("push", [torch.zeros(1)]), "gender", [], np.ones((1, 2)), N)
    return Debiased(search, [0.5, 0.5], [], mixture, drawn)


def squared(p: np.ndarray) -> float:
    """FD squared as the mean over pairs of different images."""
    q = p - 0.5
    return ((q @ q.T).sum() - (q * q).sum()) / (N * (N - 1))


def test_scores_of_an_unedited_set() -> None:
    before = seen(80)
    scale = scale_of(before, reference=before.features + 1)
    got = scale.score(made(scale.unedited, before))
    assert [got[name].value for name in ("clip_i", "kept")] == pytest.approx([1.0, 1.0])
    assert got["leak"].value == got["leak_worst"].value == got["removed"].value == 0.0
    assert got["agreement"].value == 1.0
    assert got["frechet_unedited"].value == pytest.approx(0.0, abs=1e-3)
    # The squared difference of the means, at equal covariances.
    assert got["frechet_reference"].value == pytest.approx(4.0, rel=1e-3)
    assert got["fd"].value == pytest.approx(np.sqrt(squared(before.scored["gender"].numpy())))
    assert "quality" not in got and "clip_t" not in got
    assert {**got} == {**scale.original(), "removed": got["removed"]}


def test_what_depends_on_an_attribute_is_related() -> None:
    subject = tiny.subject()
    effects = subject.world.effects("gender")
    rest = [f for f in subject.factors if f != "gender" and f not in effects]
    assert scoring.unrelated(subject, "gender") == rest
    assert {"glasses", "gender"} <= set(scoring.unrelated(subject, "tone"))


# ------------------------------------------------------------------------------- single figures


def test_clip_d_is_the_mean_cosine_with_the_text_of_the_class() -> None:
    before = seen(30)
    scale = scale_of(before)
    want = before.clip[:, 3].double().mean().item()
    assert scale.clip_d(scale.unedited, 1).value == pytest.approx(want, abs=1e-6)


def test_a_mixture_has_the_figures_of_its_expected_images() -> None:
    before, after = seen(90), seen(30, seed=1)
    scale, mixture = scale_of(before), mixed((before, 0.25), (after, 0.75))
    p = 0.25 * before.scored["gender"].numpy() + 0.75 * after.scored["gender"].numpy()
    assert scale.fd_squared(mixture).value == pytest.approx(squared(p))
    gone = 1 - squared(p) / squared(before.scored["gender"].numpy())
    assert scale.removed(mixture).value == pytest.approx(gone)
    assert scale.share(mixture, 1).value == pytest.approx(0.25 * 0.9 + 0.75 * 0.3)
    cosines = 0.25 + 0.75 * (before.clip * after.clip).sum(1)
    assert scale.similar(mixture, "clip").value == pytest.approx(float(cosines.mean()))


@pytest.mark.parametrize("male", [50, 55, 60])
def test_no_share_of_a_bias_that_is_not_there_is_removed(male: int) -> None:
    """60 of 100 differ from half, but not in every resample: the share may be any number."""
    before = seen(male)
    got = scale_of(before).score(made(mixed((seen(50), 1.0)), seen(50)))
    assert got["removed"] == metrics.NOTHING and str(got["removed"]) == "–"
    assert np.isfinite(got["fd"].value)


@pytest.mark.parametrize("male", [75, 90, 100])
def test_the_share_that_is_removed_is_bounded_where_there_is_a_bias(male: int) -> None:
    before, after = seen(male), seen(60)
    got = scale_of(before).removed(mixed((after, 1.0)))
    start, end = (squared(part.scored["gender"].numpy()) for part in (before, after))
    assert got.value == pytest.approx(1 - end / start)
    assert got.low < got.value < got.high <= 2 and np.abs(got.draws).max() < 10


def test_a_leak_is_the_shift_of_factors_that_should_stay() -> None:
    before, after = seen(90), seen(50, hats=90, scarves=70, seed=1)
    scale, mixture = scale_of(before), mixed((before, 0.75), (after, 0.25))
    assert scale.leak(mixture).value == pytest.approx(0.25 * (0.4 + 0.2) / 2)
    assert scale.leak(mixture, worst=True).value == pytest.approx(0.25 * 0.4)


def test_strata_weigh_what_is_kept_and_what_leaks() -> None:
    """Only images that were female get hats: 10 of these 100, and four tenths of many."""
    before, strata = seen(90, hats=0), Strata.of([1] * 90 + [0] * 10, [[0.4, 0.6]], 1000)
    after = replace(before, scored=before.scored | {"hat": before.scored["gender"].flip(1)})
    scale = replace(scale_of(before), strata=strata)
    assert scale.leak(mixed((after, 1.0)), worst=True).value == pytest.approx(0.4)
    assert scale.share(scale.unedited, 1).value == pytest.approx(0.6)


# --------------------------------------------------------------------------------------- quality


def direct(x: np.ndarray, y: np.ndarray, w: np.ndarray, v: np.ndarray) -> float:
    """The squared MMD of images that weigh w and v, pair by pair."""

    def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (np.einsum("nf,mf->nm", a, b) / a.shape[1] + 1) ** 3

    def inside(a: np.ndarray, weight: np.ndarray) -> float:
        both = np.outer(weight, weight)
        np.fill_diagonal(both, 0)
        return (both * pairs(a, a)).sum() / both.sum()

    both = np.outer(w, v)
    return inside(x, w) + inside(y, v) - 2 * (both * pairs(x, y)).sum() / both.sum()


def plain(x: Tensor, y: Tensor, weights: np.ndarray | None = None) -> float:
    w = np.ones(len(x)) if weights is None else weights
    return direct(x.double().numpy(), y.double().numpy(), w, np.ones(len(y)))


def test_quality_is_the_share_of_the_way_to_what_balance_can_come_to() -> None:
    before, after, many = seen(90), seen(60, seed=1), seen(80, seed=2)
    balanced = seen(50, seed=3).features
    scale = replace(scale_of(before, balanced=balanced), of_many=lambda: many)
    assert scale.quality(before).value == pytest.approx(0.0)
    weights = np.where(many.scored["gender"][:, 1] > 0, 0.5 / 80, 0.5 / 20)
    start, end = plain(before.features, balanced), plain(after.features, balanced)
    oracle = plain(many.features, balanced, weights)
    assert oracle < end < start
    assert scale.quality(after).value == pytest.approx((start - end) / (start - oracle))


def test_the_term_of_a_reference_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    kernel = images._kernel

    def counted(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        sizes.append((len(a), len(b)))
        return kernel(a, b)

    monkeypatch.setattr(images, "_kernel", counted)
    before, data = seen(90), torch.randn(130, FEATURES)
    scale = scale_of(before, reference=data, balanced=data[:120])
    for male in (70, 60, 50):
        after = seen(male, seed=male)
        got = scale.score(made(mixed((after, 1.0)), after))
        for name, features in (("reference", data), ("balanced", data[:120])):
            assert got[f"kernel_{name}"] == metrics.kid(after.features, features)
    assert sizes.count((130, 130)) == sizes.count((120, 120)) == 1 + 3  # `kid` has none of it


@pytest.mark.parametrize("weighted", [False, True])
def test_kernel_distances_to_a_reference_are_those_pair_by_pair(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(0.3, 1.1, size=(23, 3))
    reference = metrics.KernelReference(y, seed=5)
    for size in (17, 30):
        x = rng.normal(size=(size, 3))
        weights = rng.uniform(0.5, 2, size) if weighted else np.ones(size)
        got = reference.distance(x, weights if weighted else None)
        assert got.value == pytest.approx(direct(x, y, weights, np.ones(23)), rel=1e-10)
        rows = [np.random.default_rng(seed) for seed in (5, 6)]
        draws = []
        for _ in range(1000):
            w, v = (
                np.bincount(rng.integers(n, size=n), minlength=n)
                for rng, n in zip(rows, (size, 23), strict=True)
            )
            draws.append(direct(x, y, weights * w, v))
        centred = np.array(draws) - (np.mean(draws) - got.value)
        np.testing.assert_allclose(got.draws, centred, rtol=1e-9, atol=1e-12)
        ends = np.quantile(centred, [0.025, 0.975])
        np.testing.assert_allclose([got.low, got.high], ends, rtol=1e-9)


def test_what_does_not_fit_a_reference_is_told() -> None:
    reference = metrics.KernelReference(np.ones((4, 3)))
    for wrong in (np.ones((4, 2)), np.ones((1, 3))):
        with pytest.raises(ValueError, match="^features must fit the reference, got"):
            reference.distance(wrong)


# ------------------------------------------------------------------------- at the same fairness


def test_what_is_kept_is_read_where_a_share_of_the_bias_is_left() -> None:
    """FD falls from 0.4 over 0.3 to nothing, in units of the root of two: half of it is at 4/3."""
    before, some, fair = seen(90), seen(80, hats=60, seed=1), seen(50, hats=100, seed=2)
    scale = scale_of(before)
    half, full = mixed((some, 1.0)), mixed((fair, 1.0))
    kept, leak = scale.matched(half, full, 0.5)
    at = [scale.kept(mixture).value for mixture in (half, full)]
    assert kept.value == pytest.approx(at[0] + (at[1] - at[0]) / 3, abs=1e-4)
    assert leak.value == pytest.approx(0.05 + (0.25 - 0.05) / 3, abs=1e-4)
    assert kept.low < kept.value < kept.high and leak.low < leak.value < leak.high
    early, small = scale.matched(half, full, 0.9)  # at 0.36 of the units: place 0.4
    assert early.value == pytest.approx(1 + 0.4 * (at[0] - 1), abs=1e-4)
    assert small.value == pytest.approx(0.4 * 0.05, abs=1e-4)


def test_who_does_not_come_near_enough_keeps_nothing() -> None:
    scale = scale_of(seen(90))
    half = mixed((seen(80, seed=1), 1.0))
    kept, leak = scale.matched(half, half, 0.5)
    assert (kept.value, kept.low, kept.high) == (0, 0, 0) and leak == metrics.NOTHING
    assert kept.draws is not None and not kept.draws.any()
