from __future__ import annotations

import random

import pytest
import torch

from difflens_utils import occupations, portraits
from difflens_utils.occupations import ATTRIBUTES, OCCUPATIONS, WORLD

PAPER = {
    "gender": 0.564,
    "age": 0.752,
    "tone": 0.558,
}  # FD of the unedited Stable Diffusion (Table 2)
PROMPTS = ("doctor", "firefighter", "nurse", "receptionist")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_planted_fd_over_the_papers_prompts_is_near_table_2(attribute: str) -> None:
    classes = len(WORLD.factors[attribute].classes)
    fd = [
        (WORLD.marginal(attribute, {"occupation": o}) - 1 / classes).norm().item() for o in PROMPTS
    ]
    assert sum(fd) / 4 == pytest.approx(PAPER[attribute], abs=0.05)


def test_two_prompts_are_male_biased_and_two_female_biased() -> None:
    assert [WORLD.marginal("gender", {"occupation": o})[1] > 0.8 for o in PROMPTS] == [
        True,
        True,
        False,
        False,
    ]
    assert [WORLD.marginal("gender", {"occupation": o})[1] < 0.2 for o in PROMPTS] == [
        False,
        False,
        True,
        True,
    ]


def test_conditional_marginals_are_those_of_samples() -> None:
    """Exact enumeration against ancestral sampling under an intervention on a root, which is conditioning."""
    batch = WORLD.sample(20_000, 4, do={"occupation": "judge"})
    for factor in ("gender", "age", "tone", "hair_colour", "glasses", "beard"):
        share = batch.labels[factor].bincount(minlength=len(WORLD.factors[factor].classes)) / 20_000
        torch.testing.assert_close(
            share.double(), WORLD.marginal(factor, {"occupation": "judge"}), atol=0.012, rtol=0
        )


def test_attributes_depend_on_the_occupation_and_share_it_as_an_ancestor() -> None:
    assert all(WORLD.factors[a].parents == ("occupation",) for a in ATTRIBUTES)
    assert (
        "occupation" not in WORLD.independent_factors()
        and "background" in WORLD.independent_factors()
    )
    joint = WORLD.joint()["gender", "occupation"]
    torch.testing.assert_close(joint.sum(0), WORLD.marginal("occupation"))
    torch.testing.assert_close(joint.sum(1), WORLD.marginal("gender"))


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_an_occupation_is_seen_at_64_pixels_and_leaves_the_eyes_free(occupation: str) -> None:
    plain = WORLD.sample(12, 3, do={"occupation": "none", "head_down": "absent"})
    dressed = portraits.Portraits(
        plain.labels
        | {"occupation": torch.full((12,), WORLD.factors["occupation"].classes.index(occupation))},
        plain.nuisance,
    )
    change = (WORLD.render(plain) - WORLD.render(dressed)).abs().amax(1)  # (B, H, W)
    assert (change.flatten(1) > 0.3).float().mean(1).min() > 0.02
    assert torch.equal(WORLD.render(plain), portraits.render(plain, 64))
    others = [o for o in OCCUPATIONS if o != occupation]
    for other in others:
        labels = plain.labels | {
            "occupation": torch.full((12,), WORLD.factors["occupation"].classes.index(other))
        }
        assert (
            WORLD.render(portraits.Portraits(labels, plain.nuisance)) - WORLD.render(dressed)
        ).abs().flatten(1).mean(1).min() > 0.01, other


def test_captions_are_true_and_say_what_they_state() -> None:
    batch, rng = WORLD.sample(300, 5, balanced=True), random.Random(0)
    for i in range(300):
        p = WORLD.names(batch, i)
        text, stated = occupations.caption(p, rng)
        words = text.split()
        assert set(words) <= occupations.vocabulary(), text
        assert ("person" in words) == (p["occupation"] == "none") and (
            p["occupation"] in words
        ) == (p["occupation"] != "none")
        for a in ATTRIBUTES:
            assert (p[a] in words) == (a in stated), text
            assert not {c for c in WORLD.factors[a].classes if c != p[a]} & set(words), text
    assert occupations.caption(p, rng, ATTRIBUTES)[1] >= {*ATTRIBUTES, "occupation"}


def test_only_the_named_factors_are_balanced() -> None:
    batch = WORLD.sample(8000, 6, balanced=("gender", "occupation"))
    assert batch.labels["gender"].float().mean() == pytest.approx(0.5, abs=0.02)
    men = batch.labels["gender"] == 1
    assert (
        batch.labels["beard"][men].float().mean() > 0.2 and batch.labels["beard"][~men].sum() == 0
    )  # still depends on gender
