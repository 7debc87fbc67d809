"""Figure 1: what it is drawn from, and that a page can hold it."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from difflens_utils.outcome import Outcome
from workflow import drawing
from workflow.drawing import Feature

SVG = "{http://www.w3.org/2000/svg}"


def elements(parts: Iterator[str]) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(f"<g>{''.join(parts)}</g>"))


def widths(found: list[ElementTree.Element], style: str) -> list[float]:
    return [float(e.get("width", 0)) for e in found if e.get("class") == style]


def test_the_figure_of_the_book_needs_no_network_and_has_words() -> None:
    root = ElementTree.parse(drawing.TARGET).getroot()
    links = [image.get("href", "") for image in root.iter(f"{SVG}image")]
    assert len(links) > 12 and all(link.startswith("data:image/png;base64,") for link in links)
    title, words = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert title is not None and title.text == "The method"
    assert words is not None and words.text and words.text.startswith("Four panels.")
    assert drawing.TARGET.stat().st_size < 200_000


def test_active_latents_are_those_that_are_drawn() -> None:
    code = torch.zeros(1024)
    code[[0, 33]] = torch.tensor([4.0, 1.0])
    texts = [e.text for e in elements(drawing.split(torch.randn(192), code)) if e.text]
    assert "192 numbers" in texts and "A sparse autoencoder writes it with 2" in texts


def test_bars_are_as_long_as_their_figures() -> None:
    tiles = np.zeros((1, 8, 8, 3), np.uint8)
    found = elements(drawing.ranked([Feature(0.4, tiles), Feature(0.1, tiles)]))
    assert widths(found, "h") == pytest.approx([206, 51.5], abs=0.5)


def test_shares_are_those_of_the_images() -> None:
    male = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    images = torch.zeros(4, 3, 8, 8)
    nothing = torch.zeros(4, 2)
    read = {"gender": male}
    outcome = Outcome(images, read, read, nothing, nothing, nothing, torch.zeros(4).long())
    found = elements(drawing.steered({0.0: outcome}, ("female", "male")))
    assert widths(found, "h") == pytest.approx([206 * 0.75], abs=0.5)
    assert "unedited: 75% male" in [e.text for e in found]


def test_a_picture_fades_where_a_feature_is_silent() -> None:
    tiles = np.zeros((1, 4, 4, 3), np.uint8)
    lit = drawing._lit(tiles, np.array([[[1.0, 0.0], [0.0, 0.0]]]))
    assert lit[0, :2, :2].max() == 0 and lit[0, 2:].min() > 150
