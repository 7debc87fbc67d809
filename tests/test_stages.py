from __future__ import annotations

import pytest
import tiny
import torch

from difflens_utils import edits, features, outcome, sampling
from difflens_utils import recording as activations

pytestmark = pytest.mark.usefixtures("store")


def certain(classes: list[int]) -> outcome.Outcome:
    """What evaluators that are certain of gender say."""
    hot = {"gender": torch.eye(2)[torch.tensor(classes)]}
    return outcome.Outcome(
        torch.zeros(len(classes), 3, 4, 4),
        hot,
        hot,
        torch.zeros(len(classes), 5),
        torch.zeros(len(classes), 5),
        torch.zeros(len(classes), dtype=torch.int64),
    )


def test_a_gain_is_paired_by_seed() -> None:
    before, after = certain([0, 0, 1, 0, 1, 1]), certain([1, 0, 1, 1])
    gain = after.gain(before, "gender", 1)
    assert gain.value == pytest.approx(0.5) and gain.n == 4
    assert (
        0 <= gain.low <= gain.value <= gain.high <= 1
    )  # no image turned back, so no resample falls
    assert after.gain(before, "gender", 0).value == pytest.approx(-0.5)


def test_some_of_the_images_are_the_same_as_among_all() -> None:
    subject, rows = tiny.subject(), torch.tensor([4, 1, 2])
    edit = edits.per_image(
        {1: edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)}, torch.tensor([0, 1, 0, 0, 1])
    )
    for asymmetric in (True, False):
        options = {"steps": 3, "edit": edit, "asymmetric": asymmetric}
        torch.testing.assert_close(
            sampling.sample(subject, 5, 7, rows=rows, batch=2, **options),
            sampling.sample(subject, 5, 7, **options)[rows],
        )


def test_only_the_images_that_an_edit_touches_are_drawn_again() -> None:
    subject = tiny.subject()
    change = edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)
    edit = edits.per_image({1: change}, torch.tensor([0, 1, 0, 1]))
    assert edit.rows.tolist() == [1, 3]
    got, plain = outcome.draw(subject, edit, 4, 0, 2), outcome.draw(subject, None, 4, 0, 2)
    assert torch.equal(got[[0, 2]], plain[[0, 2]]) and not torch.equal(got[[1, 3]], plain[[1, 3]])
    torch.testing.assert_close(
        got, sampling.sample(subject, 4, 0, steps=2, edit=edit), atol=2e-3, rtol=2e-3
    )
    nobody = edits.per_image({1: change}, torch.zeros(4, dtype=torch.long))
    assert torch.equal(outcome.draw(subject, nobody, 4, 0, 2), plain)


def test_a_class_without_images_has_no_difference_from_the_others() -> None:
    means = torch.rand(3, 2, 4, 5)  # (classes, T, P, D)
    some, all_ = torch.tensor([3, 0, 1]), torch.tensor([4, 0, 0])
    torch.testing.assert_close(features.contrast(means, 0, some), means[0] - means[2])
    for target, counts in ((1, some), (0, all_), (1, all_)):
        assert torch.equal(features.contrast(means, target, counts), torch.zeros(2, 4, 5))


def test_a_mean_difference_needs_both_sides() -> None:
    h = torch.rand(4, 2, 3, 2, 2).half()
    rec = activations.Recording("k", h.numpy(), torch.zeros(4, 3, 4, 4), (500, 0))
    inside = torch.tensor([True, False, True, False])
    want = h[inside].float().mean(0) - h[~inside].float().mean(0)
    torch.testing.assert_close(features.mean_difference(rec, inside), want)
    for nobody in (torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        assert torch.equal(features.mean_difference(rec, nobody), torch.zeros(2, 3, 2, 2))


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
