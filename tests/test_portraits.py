from __future__ import annotations

import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from difflens_utils import occupations, portraits
from difflens_utils.portraits import ATTRIBUTES, WORLD

ROOTS = [f for f in WORLD.factors.values() if not f.parents]


@pytest.fixture(scope="module")
def planted() -> portraits.Portraits:
    return portraits.WORLD.sample(40_000, seed=1)


@pytest.fixture(scope="module")
def balanced() -> portraits.Portraits:
    return portraits.WORLD.sample(20_000, seed=2, balanced=True)


def worlds():
    """Every triple of attribute classes and its probability, multiplied out by hand."""
    for values in itertools.product(*(WORLD.factors[a].classes for a in ATTRIBUTES)):
        given = dict(zip(ATTRIBUTES, values, strict=True))
        yield (
            given,
            np.prod(
                [
                    WORLD.factors[a].probabilities({})[WORLD.factors[a].classes.index(v)]
                    for a, v in given.items()
                ]
            ),
        )


# The causal model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", WORLD.factors.values(), ids=lambda f: f.name)
def test_every_row_of_a_table_is_a_distribution(factor):
    for values in itertools.product(*(WORLD.factors[p].classes for p in factor.parents)):
        row = factor.probabilities(dict(zip(factor.parents, values, strict=True)))
        assert (
            len(row) == len(factor.classes)
            and min(row) >= 0
            and sum(row) == pytest.approx(1, abs=1e-12)
        )


@pytest.mark.parametrize("name", WORLD.factors)
def test_marginal_equals_enumeration(name):
    factor = WORLD.factors[name]
    expected = np.zeros(len(factor.classes))
    for given, p in worlds():
        row = (
            np.eye(len(factor.classes))[factor.classes.index(given[name])]
            if name in ATTRIBUTES
            else factor.probabilities(given)
        )
        expected += p * np.asarray(row)
    np.testing.assert_allclose(portraits.WORLD.marginal(name), expected, atol=1e-12)


@pytest.mark.parametrize("name", WORLD.factors)
def test_sampled_frequencies_are_the_planted_ones(name, planted):
    counts = torch.bincount(
        planted.labels[name], minlength=len(WORLD.factors[name].classes)
    ).tolist()
    for count, p in zip(counts, portraits.WORLD.marginal(name).tolist(), strict=True):
        assert (
            stats.binomtest(count, len(planted), p).pvalue > 1e-5
        )  # 54 classes: a false alarm once in 2,000 seeds


def test_joint_agrees_with_sampling(planted):
    for (attribute, name), table in portraits.WORLD.joint().items():
        a, b = planted.labels[attribute], planted.labels[name]
        seen = torch.bincount(a * table.shape[1] + b, minlength=table.numel()).reshape(
            table.shape
        ) / len(planted)
        assert (seen - table).abs().max() < 5 * 0.5 / len(planted) ** 0.5
        assert table.sum().item() == pytest.approx(1)


@pytest.mark.parametrize(("attribute", "fd"), [("gender", 0.28), ("age", 0.59), ("tone", 0.72)])
def test_planted_bias_is_that_of_table_1(attribute, fd):
    p = portraits.WORLD.marginal(attribute)
    assert (p - 1 / len(p)).norm().item() == pytest.approx(fd, abs=0.01)


def test_do_fixes_one_factor_and_keeps_what_does_not_follow_from_it_paired():
    plain, forced = (
        portraits.WORLD.sample(500, seed=3),
        portraits.WORLD.sample(500, seed=3, do={"gender": "male"}),
    )
    assert (forced.labels["gender"] == 1).all() and torch.equal(plain.nuisance, forced.nuisance)
    untouched = [
        f.name for f in WORLD.factors.values() if f.name != "gender" and "gender" not in f.parents
    ]
    assert all(torch.equal(plain.labels[k], forced.labels[k]) for k in untouched)
    were_male = plain.labels["gender"] == 1
    assert all(
        torch.equal(plain.labels[k][were_male], forced.labels[k][were_male]) for k in WORLD.factors
    )
    assert (forced.labels["beard"] >= plain.labels["beard"]).all() and forced.labels[
        "beard"
    ].sum() > plain.labels["beard"].sum()


def test_balanced_is_uniform_and_independent(balanced):
    for name, factor in WORLD.factors.items():
        assert (
            stats.chisquare(
                torch.bincount(balanced.labels[name], minlength=len(factor.classes))
            ).pvalue
            > 1e-4
        )
    for a, b in itertools.combinations(WORLD.factors, 2):
        table = np.zeros((len(WORLD.factors[a].classes), len(WORLD.factors[b].classes)))
        np.add.at(table, (balanced.labels[a].numpy(), balanced.labels[b].numpy()), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-5, (a, b)  # 210 pairs


def test_planted_causes_depend_on_the_attribute_and_independent_factors_do_not(planted):
    assert {"beard", "glasses", "hair_length"} <= set(portraits.WORLD.planted_causes("gender"))
    assert {"glasses", "wrinkles"} <= set(portraits.WORLD.planted_causes("age"))
    assert portraits.WORLD.planted_causes("tone") == ("hair_colour",)
    assert set(portraits.WORLD.independent_factors()) == {f.name for f in ROOTS} - set(ATTRIBUTES)
    for attribute, name in itertools.product(ATTRIBUTES, portraits.WORLD.independent_factors()):
        table = portraits.WORLD.joint()[attribute, name]
        torch.testing.assert_close(table, table.sum(1, keepdim=True) * table.sum(0, keepdim=True))


def test_sampling_is_a_function_of_the_seed():
    a, b, c = (
        portraits.WORLD.sample(50, 7),
        portraits.WORLD.sample(50, 7),
        portraits.WORLD.sample(50, 8),
    )
    assert torch.equal(a.nuisance, b.nuisance) and all(
        torch.equal(a.labels[k], b.labels[k]) for k in WORLD.factors
    )
    assert not torch.equal(a.nuisance, c.nuisance)


# Rendering -------------------------------------------------------------------------------------------------------------


def flipped(p: portraits.Portraits, name: str) -> portraits.Portraits:
    """The same portraits with one factor set to its next class."""
    labels = dict(p.labels, **{name: (p.labels[name] + 1) % len(WORLD.factors[name].classes)})
    return portraits.Portraits(labels, p.nuisance)


@pytest.mark.parametrize("size", [16, 32, 33, 64, 100])
def test_any_size_in_range_and_deterministic(size, balanced):
    images = portraits.render(balanced[:8], size)
    assert images.shape == (8, 3, size, size) and images.dtype == torch.float32
    assert images.min() >= -1 and images.max() <= 1 and images.isfinite().all()
    assert torch.equal(images, portraits.render(balanced[:8], size))


def test_a_portrait_does_not_depend_on_its_batch(balanced):
    torch.testing.assert_close(
        portraits.render(balanced[:16])[3:5], portraits.render(balanced[3:5]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", WORLD.factors)
def test_every_factor_is_visible(name, balanced):
    """Flipping a factor moves some pixel of nearly every portrait by an amount that a person sees (20 of 255)."""
    some = balanced[:200]
    moved = (portraits.render(some) - portraits.render(flipped(some, name))).abs().amax((1, 2, 3))
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
    some = balanced[:200]
    change = (portraits.render(some) - portraits.render(flipped(some, name))).abs()
    outside = torch.ones(32, dtype=torch.bool)
    outside[rows] = False
    assert change[:, :, outside].max() < 1e-6


def test_the_background_stays_behind_the_person(balanced):
    some = balanced[:200]
    change = (
        (portraits.render(some) - portraits.render(flipped(some, "background"))).abs().amax(1)
    )  # (B, H, W)
    at_nose = (16 * (1 + 0.2 * (some.labels["position"] - 1))).long()
    assert change[torch.arange(200), 15, at_nose].max() < 1e-6 and change[:, 0, 0].median() > 0.05


def test_resolutions_agree(balanced):
    small = portraits.render(balanced[:64], 32)
    large = torch.nn.functional.avg_pool2d(portraits.render(balanced[:64], 64), 2)
    assert (small - large).abs().mean() < 0.02


def test_speed(balanced):
    """Under a millisecond of processor time per image: the median of several batches, on a machine that others use."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = []
        for i in range(7):
            start = time.process_time()
            portraits.render(balanced[i * 128 : (i + 1) * 128])
            times.append((time.process_time() - start) / 128)
    finally:
        torch.set_num_threads(threads)
    assert statistics.median(times) < 1e-3


# Captions and errors ---------------------------------------------------------------------------------------------------


def test_captions_state_every_factor(balanced):
    """Two portraits have the same caption only if they have the same factors."""
    few = balanced[:3000]
    seen: dict[str, tuple[int, ...]] = {}
    for i, caption in enumerate(portraits.captions(few)):
        factors = tuple(int(v[i]) for v in few.labels.values())
        assert seen.setdefault(caption, factors) == factors


@pytest.mark.parametrize("name", WORLD.factors)
def test_a_caption_changes_with_each_factor(name, balanced):
    few = balanced[:50]
    assert all(
        a != b
        for a, b in zip(
            portraits.captions(few), portraits.captions(flipped(few, name)), strict=True
        )
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: portraits.WORLD.sample(0), "n must be"),
        (lambda: portraits.WORLD.sample(-3), "n must be"),
        (lambda: portraits.WORLD.sample(1, do={"gendr": "male"}), "factor must be one of gender"),
        (lambda: portraits.WORLD.sample(1, do={"gender": "mal"}), "gender must be one of male"),
        (lambda: portraits.render(portraits.WORLD.sample(1), 15), "size must be at least 16"),
        (lambda: portraits.WORLD.marginal("ages"), "factor must be one of age"),
        (lambda: portraits.WORLD.planted_causes("beard"), "attribute must be one of"),
    ],
)
def test_bad_input_gets_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_what_is_tried_of_portraits_is_what_the_reference_results_have() -> None:
    for subject, world in (("portraits", portraits.WORLD), ("portraits-t2i", occupations.WORLD)):
        folder = Path(__file__).parents[1] / "results/book" / subject
        for notebook, name in (("06_debiasing", "wanted"), ("08_multi_attribute", "singles")):
            told = json.loads((folder / f"{notebook}.json").read_text())["parameters"][name]
            assert getattr(world, name) == told
