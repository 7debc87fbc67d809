"""What figures are laid out like. What they say of themselves is tested with the site."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from difflens_utils import metrics
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


def test_a_card_has_a_place_for_each_image_and_says_what_turning_the_feature_does() -> None:
    images = torch.zeros(4, 3, 8, 8)
    turned = {label: images[:2] for label in ("turned down", "unedited", "turned up")}
    changes = {"gender: male": metrics.mean([0.3, 0.5]), "beard: present": metrics.mean([0.2])}
    figure = figures.card(
        images, torch.ones(4, 2, 2), "latent 5", {900: 0.1, 0: 0.3}, turned, changes
    )
    assert len(figure.axes) == 2 * 4 + 3 + 2
    told = descriptions.words(figure)
    assert told.startswith("Latent 5. Left, the 4 images in which it fires most")
    assert "rows of the same 2 images: turned down, unedited, turned up" in told
    assert "largest at t = 0" in told and "gender: male 0.40, beard: present 0.20" in told
    plt.close(figure)
