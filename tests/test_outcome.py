from __future__ import annotations

import pytest
import tiny
import torch
from scipy import stats

from difflens_utils import edits, outcome, sampling

pytestmark = pytest.mark.usefixtures("store")


def certain(classes: list[int]) -> outcome.Outcome:
    """What evaluators that are certain of gender say."""
    hot = {"gender": torch.eye(2)[torch.tensor(classes)]}
    return outcome.Outcome(
        torch.zeros(len(classes), 3, 4, 4),
        hot,
        hot,
        *[torch.zeros(len(classes), 5)] * 3,
        torch.zeros(len(classes), dtype=torch.int64),
    )


def test_a_gain_is_paired_by_seed() -> None:
    before, after = certain([0, 0, 1, 0, 1, 1]), certain([1, 0, 1, 1])
    gain = after.gain(before, "gender", 1)
    assert gain.value == pytest.approx(0.5) and gain.n == 4
    # Two of four images turned and none turned back: resamples are those of four fair coins.
    coins = stats.binom.ppf([0.025, 0.975], 4, 0.5) / 4
    assert [gain.low, gain.high] == pytest.approx(coins, abs=0.03)  # of a thousand resamples
    assert after.gain(before, "gender", 0).value == pytest.approx(-0.5)


def test_only_the_images_that_an_edit_touches_are_drawn_again() -> None:
    subject = tiny.subject()
    change = edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)
    edit = edits.per_image({1: change}, torch.tensor([0, 1, 0, 1]))
    assert edit.rows.tolist() == [1, 3]
    got, plain = outcome.draw(subject, edit, 4, 0, 2), outcome.draw(subject, None, 4, 0, 2)
    assert torch.equal(got[[0, 2]], plain[[0, 2]]) and not torch.equal(got[[1, 3]], plain[[1, 3]])
    torch.testing.assert_close(
        got.float(), sampling.sample(subject, 4, 0, steps=2, edit=edit), atol=2e-3, rtol=2e-3
    )
    nobody = edits.per_image({1: change}, torch.zeros(4, dtype=torch.long))
    assert torch.equal(outcome.draw(subject, nobody, 4, 0, 2), plain)


def test_prompts_that_end_alike_have_names_of_their_own() -> None:
    texts = ["a face of a doctor", "a red fish", "a blue fish", ""]
    assert list(outcome.short_names(texts).values()) == ["doctor", "a_red_fish", "a_blue_fish", ""]


@pytest.mark.parametrize(
    ("shares", "want"),
    [
        ([0.7, 0.3], (0, 1)),
        ([0.1, 0.8, 0.05, 0.05], (1, 2)),
        ([0.5, 0.5], (0, 1)),
        ([1 / 3] * 3, (0, 1)),
    ],
)
def test_the_commonest_and_the_rarest_class_are_two(
    shares: list[float], want: tuple[int, int]
) -> None:
    assert outcome.extremes(torch.tensor(shares)) == want
