"""What h-classifiers read late, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from difflens_utils.probes import Fit, Heads


@pytest.mark.parametrize("steps", [4, 5])
def test_late_accuracy_is_compared_image_by_image(steps: int) -> None:
    made = np.random.default_rng(steps)
    correct, labels = made.random((steps, 120)) < 0.7, made.choice(3, 120, p=[0.2, 0.5, 0.3])
    nothing = torch.zeros(0)
    fit = Fit(Heads(nothing, nothing), torch.from_numpy(correct), torch.from_numpy(labels))
    late, early = correct[2:].mean(0), correct[:2].mean(0)

    def balanced(values: np.ndarray, rows: np.ndarray) -> float:
        return float(np.mean([values[rows][labels[rows] == c].mean() for c in np.unique(labels)]))

    every = np.arange(120)
    for found, per_image, less in ((fit.gain(), late, 1 / 3), (fit.slope(), late - early, 0)):
        value = balanced(per_image, every) - less
        assert found.value == pytest.approx(value) and found.n == 120
        rng = np.random.default_rng(0)
        drawn = np.array([balanced(per_image, rng.integers(120, size=120)) for _ in range(1000)])
        assert found.draws == pytest.approx(drawn - drawn.mean() + value)
        assert (found.low, found.high) == pytest.approx(
            tuple(np.quantile(found.draws, [0.025, 0.975]))
        )


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
