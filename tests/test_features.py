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


def test_a_class_is_not_credited_with_what_comes_with_it() -> None:
    """A figure is 1, 3 and 6 in three classes, and 7 more with glasses, which class 1 often has."""
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    glasses = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1, 0, 1])
    figure = torch.tensor([1.0, 3.0, 6.0])[labels] + 7 * glasses
    weights = features.partial_weights(labels, 4, [glasses])
    want = [1 - (4 * 3 + 2 * 6) / 6, 3 - (4 * 1 + 2 * 6) / 6, 6 - (4 * 1 + 4 * 3) / 8, 0]
    torch.testing.assert_close(weights.T @ figure, torch.tensor(want), atol=1e-5, rtol=0)
    alone = features.partial_weights(labels, 4, [])
    means = [figure[labels == 1].mean() - figure[labels != 1].mean(), 0.0]
    torch.testing.assert_close((alone.T @ figure)[[1, 3]], torch.tensor(means))
