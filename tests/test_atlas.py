"""The atlas of features: what is measured of each latent, its page, and the atlases that ship."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_pages
import torch
from PIL import Image
from safetensors.torch import load_file

from difflens_utils.ksae import KSAE
from models import atlas
from workflow import atlas as pages
from workflow.execute import ROOT

SHIPPED = sorted(path.parent for path in (ROOT / "results/atlas").glob("*/atlas.json"))


# --------------------------------------------------------------------------------- measures


def test_bias_features_come_first_and_then_what_fires_most(monkeypatch: Any) -> None:
    monkeypatch.setattr(atlas, "MOST", 2)
    rows = {"gender": [torch.tensor([4, 1]), torch.tensor([4])], "age": [torch.tensor([0])]}
    density = torch.tensor([0.1, 0.9, 0.3, 0.0, 0.2, 0.4])
    found: Any = SimpleNamespace(features=rows, density=density)
    assert atlas.chosen(found) == [4, 1, 0, 5, 2]  # never 3, which does not fire
    monkeypatch.setattr(atlas, "MOST", 9)
    assert 3 not in atlas.chosen(found)


def test_an_activity_is_what_numpy_makes_of_the_same_numbers() -> None:
    active = torch.rand(3, 40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    active[1] += 1
    seen = atlas._activity(active)
    array = active.numpy()
    np.testing.assert_allclose(seen.by_step, array.mean((1, 2)))
    order = np.argsort(-array[1].mean(1), kind="stable")  # the second step is the most active
    np.testing.assert_array_equal(seen.top, order[: atlas.TOP])
    np.testing.assert_allclose(seen.maps, array[1, order[: atlas.TOP]])
    like = array[:, order[: atlas.LIKE]].mean(1) - array.mean(1)
    np.testing.assert_allclose(seen.like, like)


def test_an_image_is_in_colour_only_where_the_latent_is_active() -> None:
    images = torch.full((1, 3, 8, 8), 0.5)
    images[:, 0] = 1.0
    whole = atlas.lit(images, torch.ones(1, 4))
    torch.testing.assert_close(whole, images)
    none = atlas.lit(images, torch.zeros(1, 4))
    assert (none.std(1) < 1e-6).all() and (none < 0).all()  # grey, and dark


def test_the_change_is_that_of_the_class_that_changes_most() -> None:
    before = {"age": torch.tensor([[0.2, 0.3, 0.5]] * 4)}
    after = {"age": torch.tensor([[0.1, 0.8, 0.1]] * 4)}
    study: Any = SimpleNamespace(factors={"age": ("young", "adult", "old")})
    one, two = (SimpleNamespace(scored=scored) for scored in (before, after))
    row = atlas.changes(study, one, two)["age"]  # type: ignore[arg-type]
    assert (row["class"], row["value"], row["n"]) == ("adult", 0.5, 4)
    assert row["low"] <= row["value"] <= row["high"]


# --------------------------------------------------------------------------------- the page


@pytest.fixture
def told() -> dict[str, Any]:
    return tiny_pages.told()


def test_the_page_has_a_row_and_a_card_for_every_latent(told: dict[str, Any]) -> None:
    page = pages.page("tiny", told)
    assert page.count("<tr><td><a href=") == page.count('<section class="latent"') == 2
    assert 'id="latent-7"' in page and 'href="#latent-3"' in page
    assert "the 1 other latents" in page
    assert "2000 recorded images" in page and "`python -m models.atlas tiny`" in page


def test_a_row_says_what_was_measured(told: dict[str, Any]) -> None:
    first, second = re.findall(r"<tr><td><a href.*?</tr>", pages.page("tiny", told))
    cells = re.findall(r"<td>(.*?)</td>", first)
    assert cells[1:] == [
        "gender: male (no. 2)",
        "hat kind: &lt;red&gt;",
        "0.80",
        "3.10",
        "hat kind: &lt;red&gt;",  # the larger change, though it is downwards
        "-0.50",
        "100",
        "1",  # of two seeds: 0.4 is not the same direction
    ]
    assert "nothing clearly" in second


def test_neighbours_are_links_where_they_have_cards(told: dict[str, Any]) -> None:
    page = pages.page("tiny", told)
    assert '<a href="#latent-3">3</a> (0.50), 99 (0.25)' in page


def test_the_tiles_of_a_latent_stand_on_its_own_line_of_its_sheet(told: dict[str, Any]) -> None:
    told["per_sheet"] = 2
    cards = pages.page("tiny", told).split("<section")[1:]
    for line, card in enumerate(cards):
        places = re.findall(r"background-position:-(\d+)px -(\d+)px", card)
        assert [int(x) // pages.SIDE for x, _ in places] == [0, 6, 12, 15, 18]
        assert {int(y) for _, y in places} == {line * pages.SIDE}
    told["per_sheet"] = 1
    assert "sheet-1.webp" in pages.page("tiny", told)


def test_filters_offer_what_the_cells_hold(told: dict[str, Any]) -> None:
    page = pages.page("tiny", told)
    options = set(re.findall(r'<option value="([^"]+)"', page))
    assert {"gender:", "gender: male", "hat kind: &lt;red&gt;", "1"} <= options
    assert "5" not in options  # no latent fires so often


# --------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_atlas_is_of_the_shipped_ksae(folder: Path) -> None:
    told = json.loads((folder / "atlas.json").read_text())
    shipped = (ROOT / "models" / folder.name / "ksae").glob("*/")
    prints = {KSAE.load(path).fingerprint() for path in shipped}
    assert told["ksae"] in prints
    known = {row["latent"] for row in told["latents"]}
    found = next((ROOT / "models" / folder.name / "features").glob(f"{told['ksae']}-n_20*"))
    tensors = load_file(found / "tensors.safetensors")
    features = {int(j) for name, t in tensors.items() if name.startswith("latents.") for j in t}
    assert features <= known


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_atlas_has_a_line_of_pictures_for_every_latent(folder: Path) -> None:
    told = json.loads((folder / "atlas.json").read_text())
    heights, widths = [], set()
    for number in range(len(list(folder.glob("sheet-*.webp")))):
        with Image.open(folder / f"sheet-{number}.webp") as sheet:
            widths.add(sheet.width)
            heights.append(sheet.height)
    assert widths == {told["size"] * (2 * told["top"] + 3 * told["shown"])}
    assert sum(heights) == told["size"] * len(told["latents"])
    assert all(height == told["size"] * told["per_sheet"] for height in heights[:-1])
