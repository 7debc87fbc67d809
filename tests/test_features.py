"""What bias features are found with: differences of means between classes."""

from __future__ import annotations

import torch

from difflens_utils import features
from difflens_utils.recording import Recording


def test_a_class_without_images_has_no_difference_from_the_others() -> None:
    means = torch.rand(3, 2, 4, 5)  # (classes, T, P, D)
    some, all_ = torch.tensor([3, 0, 1]), torch.tensor([4, 0, 0])
    torch.testing.assert_close(features.contrast(means, 0, some), means[0] - means[2])
    for target, counts in ((1, some), (0, all_), (1, all_)):
        assert torch.equal(features.contrast(means, target, counts), torch.zeros(2, 4, 5))


def test_a_mean_difference_needs_both_sides() -> None:
    h = torch.rand(4, 2, 3, 2, 2).half()
    rec = Recording("k", h.numpy(), torch.zeros(4, 3, 4, 4), (500, 0))
    inside = torch.tensor([True, False, True, False])
    want = h[inside].float().mean(0) - h[~inside].float().mean(0)
    torch.testing.assert_close(features.mean_difference(rec, inside), want)
    for nobody in (torch.zeros(4, dtype=torch.bool), torch.ones(4, dtype=torch.bool)):
        assert torch.equal(features.mean_difference(rec, nobody), torch.zeros(2, 3, 2, 2))
