"""What figures are laid out like. What they say of themselves is tested with the site."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from difflens_utils.pages import descriptions, figures


def test_a_row_of_panels_is_finished_with_words() -> None:
    figure, axes = figures.panels(3, width=9, height=2)
    assert len(axes) == 3
    assert figure.get_size_inches() == pytest.approx([9, 2])
    assert descriptions.words(figures.finish(figure, "three panels")) == "Three panels."
    plt.close(figure)


def test_a_mosaic_lays_images_out_in_rows_on_white() -> None:
    images = torch.full((3, 3, 2, 2), -1.0)  # black
    sheet = figures.mosaic(images, columns=2, scale=1, gap=1)
    black = sheet[..., 0] == 0
    expected = np.zeros((5, 5), bool)
    expected[:2, :2] = expected[:2, 3:] = expected[3:, :2] = True
    assert np.array_equal(black, expected)


def test_values_of_a_square_number_of_positions_become_a_square_map() -> None:
    assert figures.grid(torch.zeros(2, 9)).shape == (2, 3, 3)
    assert figures.grid(torch.zeros(2, 5)).shape == (2, 1, 5)
