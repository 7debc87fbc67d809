"""What h-classifiers read late, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflens_utils.probes import Fit, Heads


@pytest.mark.parametrize("steps", [4, 5])
def test_late_accuracy_is_compared_image_by_image(steps: int) -> None:
    made = np.random.default_rng(steps)
    correct, labels = made.random((steps, 40)) < 0.7, made.choice(3, 40, p=[0.2, 0.5, 0.3])
    nothing = torch.zeros(0)
    fit = Fit(Heads(nothing, nothing), torch.from_numpy(correct), torch.from_numpy(labels))
    late, early = correct[2:].mean(0), correct[:2].mean(0)
    commonest = labels == np.bincount(labels).argmax()
    for found, per_image in ((fit.gain(), late - commonest), (fit.slope(), late - early)):
        assert found.value == pytest.approx(per_image.mean()) and found.n == 40
        rng = np.random.default_rng(0)
        drawn = np.array([per_image[rng.integers(40, size=40)].mean() for _ in range(1000)])
        drawn += per_image.mean() - drawn.mean()
        assert found.draws == pytest.approx(drawn)
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_images_of_one_class_and_heads_of_one_step_are_not_compared() -> None:
    nothing, right = torch.zeros(0), torch.ones(2, 6, dtype=torch.bool)
    alike, both = torch.zeros(6, dtype=torch.int64), torch.tensor([0, 1] * 3)
    for fit in (
        Fit(Heads(nothing, nothing), right, alike),
        Fit(Heads(nothing, nothing), right[:1], both),
    ):
        assert np.isnan(fit.slope().value)
    assert np.isnan(Fit(Heads(nothing, nothing), right, alike).gain().value)
    assert Fit(Heads(nothing, nothing), right[:1], both).gain().value == 0.5
