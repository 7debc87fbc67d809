"""The worlds of portraits, against probabilities that are multiplied out by hand and statistics."""

from __future__ import annotations

import doctest
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from difflens_utils import worlds
from difflens_utils.worlds import Scenes, occupations, portraits
from difflens_utils.worlds.portraits import ATTRIBUTES, WORLD


@pytest.fixture(scope="module")
def planted() -> Scenes:
    return WORLD.sample(40_000, seed=1)


@pytest.fixture(scope="module")
def balanced() -> Scenes:
    return WORLD.sample(20_000, seed=2, balanced=True)


def triples():
    """Every triple of attribute classes and its probability, multiplied out by hand."""
    factors = [WORLD.factors[a] for a in ATTRIBUTES]
    for values in itertools.product(*(f.classes for f in factors)):
        p = 1.0
        for factor, value in zip(factors, values, strict=True):
            p *= factor.probabilities({})[factor.classes.index(value)]
        yield dict(zip(ATTRIBUTES, values, strict=True)), p


def counts(scenes: Scenes, name: str) -> torch.Tensor:
    """How often each class of a factor occurs."""
    return torch.bincount(scenes.labels[name], minlength=len(WORLD.factors[name].classes))


# ------------------------------------------------------------------------------------------------
# The causal model


def test_the_example_of_a_world_runs() -> None:
    assert doctest.testmod(worlds.base).attempted > 3
    assert doctest.testmod(worlds.base).failed == 0


@pytest.mark.parametrize("factor", WORLD.model, ids=lambda f: f.name)
def test_every_row_of_a_table_is_a_distribution(factor):
    parents = [WORLD.factors[p].classes for p in factor.parents]
    for values in itertools.product(*parents):
        row = factor.probabilities(dict(zip(factor.parents, values, strict=True)))
        assert len(row) == len(factor.classes)
        assert min(row) >= 0
        assert sum(row) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", WORLD.factors)
def test_marginal_equals_enumeration(name):
    factor = WORLD.factors[name]
    expected = np.zeros(len(factor.classes))
    for given, p in triples():
        row = factor.probabilities(given)
        if name in ATTRIBUTES:
            row = np.eye(len(factor.classes))[factor.classes.index(given[name])]
        expected += p * np.asarray(row)
    np.testing.assert_allclose(WORLD.marginal(name), expected, atol=1e-12)


@pytest.mark.parametrize("name", WORLD.factors)
def test_sampled_frequencies_are_the_planted_ones(name, planted):
    pairs = zip(counts(planted, name).tolist(), WORLD.marginal(name).tolist(), strict=True)
    for count, p in pairs:  # 54 classes in all: a false alarm once in 2,000 seeds
        assert stats.binomtest(count, len(planted), p).pvalue > 1e-5


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("name", WORLD.factors)
def test_conditional_marginals_are_those_of_samples(name, attribute, planted):
    for number, value in enumerate(WORLD.factors[attribute].classes):
        rows = planted[planted.labels[attribute] == number]
        seen = counts(rows, name) / len(rows)
        error = (seen - WORLD.marginal(name, {attribute: value})).abs().max()
        assert error < 5 * 0.5 / len(rows) ** 0.5


@pytest.mark.parametrize(("attribute", "fd"), [("gender", 0.28), ("age", 0.59), ("tone", 0.72)])
def test_planted_bias_is_that_of_table_1(attribute, fd):
    p = WORLD.marginal(attribute)
    assert (p - 1 / len(p)).norm().item() == pytest.approx(fd, abs=0.01)


def test_do_fixes_one_factor_and_keeps_what_does_not_follow_from_it_paired():
    plain = WORLD.sample(500, seed=3)
    forced = WORLD.sample(500, seed=3, do={"gender": "male"})
    assert (forced.labels["gender"] == 1).all()
    assert torch.equal(plain.nuisance, forced.nuisance)
    were_male = plain.labels["gender"] == 1
    for name, factor in WORLD.factors.items():
        before, after = plain.labels[name], forced.labels[name]
        assert torch.equal(before[were_male], after[were_male])
        if name != "gender" and "gender" not in factor.parents:
            assert torch.equal(before, after)
    assert (forced.labels["beard"] >= plain.labels["beard"]).all()
    assert forced.labels["beard"].sum() > plain.labels["beard"].sum()


def test_balanced_is_uniform_and_independent(balanced):
    for name in WORLD.factors:
        assert stats.chisquare(counts(balanced, name)).pvalue > 1e-4
    for a, b in itertools.combinations(WORLD.factors, 2):
        shape = len(WORLD.factors[a].classes), len(WORLD.factors[b].classes)
        table = np.zeros(shape)
        np.add.at(table, (balanced.labels[a].numpy(), balanced.labels[b].numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-5, (a, b)  # 210 pairs


def test_effects_depend_on_the_attribute_and_independent_factors_do_not():
    assert {"beard", "glasses", "hair_length"} <= set(WORLD.effects("gender"))
    assert {"glasses", "wrinkles"} <= set(WORLD.effects("age"))
    assert WORLD.effects("tone") == ("hair_colour",)
    roots = {factor.name for factor in WORLD.model if not factor.parents}
    assert set(WORLD.independent_factors()) == roots - set(ATTRIBUTES)
    for attribute, name in itertools.product(ATTRIBUTES, WORLD.independent_factors()):
        for value in WORLD.factors[attribute].classes:
            given = WORLD.marginal(name, {attribute: value})
            torch.testing.assert_close(given, WORLD.marginal(name))


def test_sampling_is_a_function_of_the_seed():
    first, again, other = WORLD.sample(50, 7), WORLD.sample(50, 7), WORLD.sample(50, 8)
    assert torch.equal(first.nuisance, again.nuisance)
    assert all(torch.equal(first.labels[k], again.labels[k]) for k in WORLD.factors)
    assert not torch.equal(first.nuisance, other.nuisance)


# ------------------------------------------------------------------------------------------------
# Rendering


def flipped(scenes: Scenes, name: str) -> Scenes:
    """The same portraits with one factor set to its next class."""
    following = (scenes.labels[name] + 1) % len(WORLD.factors[name].classes)
    return Scenes(scenes.labels | {name: following}, scenes.nuisance)


def change(scenes: Scenes, name: str) -> torch.Tensor:
    """How far each pixel moves when a factor is set to its next class, (B, 3, 32, 32)."""
    return (WORLD.render(scenes) - WORLD.render(flipped(scenes, name))).abs()


@pytest.mark.parametrize("size", [16, 32, 33, 64, 100])
def test_any_size_in_range_and_deterministic(size, balanced):
    images = WORLD.render(balanced[:8], size)
    assert images.shape == (8, 3, size, size) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1 and images.isfinite().all()
    assert torch.equal(images, WORLD.render(balanced[:8], size))


def test_a_portrait_does_not_depend_on_its_batch(balanced):
    among_others = WORLD.render(balanced[:16])[3:5]
    torch.testing.assert_close(among_others, WORLD.render(balanced[3:5]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", WORLD.factors)
def test_every_factor_is_visible(name, balanced):
    """Flipping a factor moves some pixel of nearly every portrait by what a person sees."""
    moved = change(balanced[:200], name).amax((1, 2, 3))
    hidden = {"hair_colour": 0.10}.get(name, 0.05)  # a shaved head shows little of its hair
    assert (moved > 2 * 20 / 255).float().mean() >= 1 - hidden


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("clothing", slice(20, 32)),
        ("earrings", slice(8, 28)),
        ("beard", slice(14, 30)),
        ("mustache", slice(12, 28)),
        ("glasses", slice(4, 26)),
        ("smile", slice(14, 28)),
    ],
)
def test_a_local_factor_stays_in_its_rows(name, rows, balanced):
    outside = torch.ones(32, dtype=torch.bool)
    outside[rows] = False
    assert change(balanced[:200], name)[:, :, outside].max() < 1e-6


def test_the_background_stays_behind_the_person(balanced):
    some = balanced[:200]
    moved = change(some, "background").amax(1)  # (B, H, W)
    at_nose = (16 * (1 + 0.2 * (some.labels["position"] - 1))).long()
    assert moved[torch.arange(200), 15, at_nose].max() < 1e-6
    assert moved[:, 0, 0].median() > 0.05


def test_resolutions_agree(balanced):
    small = WORLD.render(balanced[:64], 32)
    large = torch.nn.functional.avg_pool2d(WORLD.render(balanced[:64], 64), 2)
    assert (small - large).abs().mean() < 0.02


def test_speed(balanced):
    """Under a millisecond of processor time per image, the median of several batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for start in range(0, 7 * 128, 128):
            begun = time.process_time()
            WORLD.render(balanced[start : start + 128])
            times.append((time.process_time() - begun) / 128)
    finally:
        torch.set_num_threads(threads)
    assert statistics.median(times) < 1e-3


# ------------------------------------------------------------------------------------------------
# Captions and errors


def test_captions_state_every_factor(balanced):
    """Two portraits have the same caption only if they have the same factors."""
    few = balanced[:3000]
    seen: dict[str, tuple[int, ...]] = {}
    for i, caption in enumerate(portraits.captions(few)):
        factors = tuple(int(numbers[i]) for numbers in few.labels.values())
        assert seen.setdefault(caption, factors) == factors


@pytest.mark.parametrize("name", WORLD.factors)
def test_a_caption_changes_with_each_factor(name, balanced):
    before = portraits.captions(balanced[:50])
    after = portraits.captions(flipped(balanced[:50], name))
    assert all(a != b for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: WORLD.sample(0), "n must be"),
        (lambda: WORLD.sample(-3), "n must be"),
        (lambda: WORLD.sample(1, do={"gendr": "male"}), "factor must be one of gender"),
        (lambda: WORLD.sample(1, do={"gender": "mal"}), "gender must be one of male"),
        (lambda: WORLD.render(WORLD.sample(1), 15), "size must be at least 16"),
        (lambda: WORLD.marginal("ages"), "factor must be one of age"),
        (lambda: WORLD.effects("beard"), "attribute must be one of"),
    ],
)
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_is_tried_of_portraits_is_what_the_reference_results_have() -> None:
    results = Path(__file__).parents[1] / "results/book"
    for subject, world in (("portraits", WORLD), ("portraits-t2i", occupations.WORLD)):
        for notebook, name in (("06_debiasing", "wanted"), ("08_multi_attribute", "singles")):
            page = json.loads((results / subject / f"{notebook}.json").read_text())
            assert getattr(world, name) == page["parameters"][name]
