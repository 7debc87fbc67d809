from __future__ import annotations

import pytest
import tiny
import torch

from difflens_utils import edits, sampling, stages

pytestmark = pytest.mark.usefixtures("store")


def outcome(classes: list[int]) -> stages.Outcome:
    """What evaluators that are certain of gender say."""
    hot = {"gender": torch.eye(2)[torch.tensor(classes)]}
    return stages.Outcome(torch.zeros(len(classes), 3, 4, 4), hot, hot, torch.zeros(len(classes), 5), torch.zeros(len(classes), 5), torch.zeros(len(classes), dtype=torch.int64))


def test_a_gain_is_paired_by_seed() -> None:
    before, after = outcome([0, 0, 1, 0, 1, 1]), outcome([1, 0, 1, 1])
    gain = after.gain(before, "gender", 1)
    assert gain.value == pytest.approx(0.5) and gain.n == 4
    assert 0 <= gain.low <= gain.value <= gain.high <= 1  # no image turned back, so no resample falls
    assert after.gain(before, "gender", 0).value == pytest.approx(-0.5)


def test_some_of_the_images_are_the_same_as_among_all() -> None:
    subject, rows = tiny.subject(), torch.tensor([4, 1, 2])
    edit = edits.per_image({1: edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)}, torch.tensor([0, 1, 0, 0, 1]))
    for asymmetric in (True, False):
        options = {"steps": 3, "edit": edit, "asymmetric": asymmetric}
        torch.testing.assert_close(sampling.sample(subject, 5, 7, rows=rows, batch=2, **options), sampling.sample(subject, 5, 7, **options)[rows])


def test_only_the_images_that_an_edit_touches_are_drawn_again() -> None:
    subject = tiny.subject()
    change = edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)
    edit = edits.per_image({1: change}, torch.tensor([0, 1, 0, 1]))
    assert edit.rows.tolist() == [1, 3]
    got, plain = stages.generate(subject, edit, 4, 0, 2), stages.generate(subject, None, 4, 0, 2)
    assert torch.equal(got[[0, 2]], plain[[0, 2]]) and not torch.equal(got[[1, 3]], plain[[1, 3]])
    torch.testing.assert_close(got, sampling.sample(subject, 4, 0, steps=2, edit=edit), atol=2e-3, rtol=2e-3)
    nobody = edits.per_image({1: change}, torch.zeros(4, dtype=torch.long))
    assert torch.equal(stages.generate(subject, nobody, 4, 0, 2), plain)
