from __future__ import annotations

import random

import pytest
import torch

from difflens_utils.worlds import Scenes, occupations, portraits
from difflens_utils.worlds.occupations import ATTRIBUTES, OCCUPATIONS, WORLD

# FD of the unedited Stable Diffusion (Table 2)
PAPER = {"gender": 0.564, "age": 0.752, "tone": 0.558}
PROMPTS = ("doctor", "firefighter", "nurse", "receptionist")


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_planted_fd_over_the_papers_prompts_is_near_table_2(attribute: str) -> None:
    discrepancies = []
    for occupation in PROMPTS:
        p = WORLD.marginal(attribute, {"occupation": occupation})
        discrepancies.append((p - 1 / len(p)).norm().item())
    assert sum(discrepancies) / 4 == pytest.approx(PAPER[attribute], abs=0.05)


def test_two_prompts_are_male_biased_and_two_female_biased() -> None:
    shares = [WORLD.marginal("gender", {"occupation": o})[1] for o in PROMPTS]
    assert min(shares[:2]) > 0.8
    assert max(shares[2:]) < 0.2


def test_conditional_marginals_are_those_of_samples() -> None:
    """Exact enumeration against an intervention on a root, which is conditioning."""
    batch = WORLD.sample(20_000, 4, do={"occupation": "judge"})
    for factor in ("gender", "age", "tone", "hair_colour", "glasses", "beard"):
        exact = WORLD.marginal(factor, {"occupation": "judge"})
        share = batch.labels[factor].bincount(minlength=len(exact)).double() / 20_000
        torch.testing.assert_close(share, exact, atol=0.012, rtol=0)


def test_attributes_depend_on_the_occupation_and_share_it_as_an_ancestor() -> None:
    assert all(WORLD.factors[a].parents == ("occupation",) for a in ATTRIBUTES)
    assert "occupation" not in WORLD.independent_factors()
    assert "background" in WORLD.independent_factors()
    joint = torch.zeros(len(OCCUPATIONS) + 1, 2, dtype=torch.float64)
    for row, occupation in enumerate(WORLD.factors["occupation"].classes):
        share = WORLD.marginal("occupation")[row]
        joint[row] = share * WORLD.marginal("gender", {"occupation": occupation})
    torch.testing.assert_close(joint.sum(0), WORLD.marginal("gender"))


def wearing(scenes: Scenes, occupation: str) -> torch.Tensor:
    """The images of the same people with an occupation."""
    number = WORLD.factors["occupation"].classes.index(occupation)
    labels = scenes.labels | {"occupation": torch.full((len(scenes),), number)}
    return WORLD.render(Scenes(labels, scenes.nuisance))


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_an_occupation_is_seen_at_64_pixels(occupation: str) -> None:
    plain = WORLD.sample(12, 3, do={"occupation": "none", "head_down": "absent"})
    assert torch.equal(WORLD.render(plain), portraits.WORLD.render(plain, 64))
    dressed = wearing(plain, occupation)
    change = (WORLD.render(plain) - dressed).abs().amax(1)  # (B, H, W)
    assert (change.flatten(1) > 0.3).float().mean(1).min() > 0.02
    for other in OCCUPATIONS:
        difference = (wearing(plain, other) - dressed).abs().flatten(1).mean(1)
        assert other == occupation or difference.min() > 0.01, other


def test_captions_are_true_and_say_what_they_state() -> None:
    batch = WORLD.sample(300, 5, balanced=True)
    rng = random.Random(0)
    for i in range(300):
        p = WORLD.names(batch, i)
        text, stated = occupations.caption(p, rng)
        words = set(text.split())
        assert words <= occupations.vocabulary(), text
        assert ("person" in words) == (p["occupation"] == "none")
        assert (p["occupation"] in words) == (p["occupation"] != "none")
        for a in ATTRIBUTES:
            assert (p[a] in words) == (a in stated), text
            assert words.intersection(WORLD.factors[a].classes) <= {p[a]}, text
    assert occupations.caption(p, rng, ATTRIBUTES)[1] >= {*ATTRIBUTES, "occupation"}


def test_only_the_named_factors_are_balanced() -> None:
    batch = WORLD.sample(8000, 6, balanced=("gender", "occupation"))
    assert batch.labels["gender"].float().mean() == pytest.approx(0.5, abs=0.02)
    beards = batch.labels["beard"].float()
    is_male = batch.labels["gender"] == 1
    assert beards[is_male].mean() > 0.2  # still depends on gender
    assert beards[~is_male].sum() == 0
