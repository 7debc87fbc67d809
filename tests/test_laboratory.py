"""The laboratory: the edits that answer a wish, its page, and the one that ships."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_pages
import torch
from PIL import Image

from difflens_utils import Attribute, debiasing, edits, methods
from difflens_utils.debiasing import Arm, Search
from difflens_utils.metrics import wilson
from difflens_utils.sampling import Step
from models import laboratory
from workflow import laboratory as pages

FOLDER = laboratory.FOLDER
ALIKE = wilson(100, 100)


def search(**options: Any) -> Search:
    """No edit leaves 80 : 20; strength 1 makes half of class 0 class 1, strength 2 all of it."""
    method = methods.pushed("pushed", [-torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1, 1)])
    moves = {0.0: [[1, 0], [0, 1]], 1.0: [[0.5, 0.5], [0, 1]], 2.0: [[0, 1], [0, 1]]}
    target = debiasing.EVERY if options.get("whole") else 1
    arms = [
        Arm(target if b else debiasing.UNEDITED, b, moved, ALIKE, ALIKE, [0.5, 0.5])
        for b, moved in moves.items()
    ]
    return Search(replace(method, **options), "gender", arms, np.array([[0.8, 0.2]]), 100)


@pytest.fixture
def study() -> Any:
    return SimpleNamespace(retarget=lambda found, asked: found)


def test_the_last_class_gets_the_share_and_the_others_share_the_rest() -> None:
    age = Attribute("age", ("young", "adult", "old"))
    assert age.with_last(0.6) == pytest.approx([0.2, 0.2, 0.6])


def test_each_image_draws_its_edit_so_that_the_shares_are_those_asked_for(study: Any) -> None:
    """Of 80 : 20 to 40 : 60 half of class 0 has to move: half of the images at full strength."""
    edit = laboratory.edit(study, search(), [0.4, 0.6], seed=0)
    h = torch.zeros(laboratory.N, 2, 1, 1)
    moved = edit(h, Step(0, 900, torch.arange(laboratory.N)))
    assert moved is not None
    pushed = moved[:, 0, 0, 0]
    assert set(pushed.unique().tolist()) <= {0.0, 1.0, 2.0}
    became = 0.8 * (0.5 * (pushed == 1) + 1.0 * (pushed == 2)).mean() + 0.2
    assert float(became) == pytest.approx(0.6, abs=0.01)


def test_a_method_that_moves_batches_takes_the_nearest_strength_for_all(study: Any) -> None:
    found = search(whole=True, towards=lambda c, b: edits.push(torch.ones(1, 2, 1, 1), b))
    h, step = torch.zeros(3, 2, 1, 1), Step(0, 900, torch.arange(3))
    for asked, strength in (([0.4, 0.6], 1.0), ([0.1, 0.9], 2.0)):
        moved = laboratory.edit(study, found, asked, seed=0)(h, step)
        assert moved is not None and (moved == strength).all()
    assert laboratory.edit(study, found, [0.8, 0.2], seed=0)(h, step) is None


def test_a_feature_is_moved_alone_by_so_many_class_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sae, gap = tiny.ksae(), torch.rand(1, 4, 3)
    found = SimpleNamespace(
        ksae=sae,
        features={
            "gender": [torch.tensor([5, 3, 9]), torch.tensor([1])],
            "age": [torch.tensor([])],
        },
        unit=lambda attribute, target: gap,
    )
    drawn: list[Any] = []
    study = SimpleNamespace(
        features=lambda: found,
        seeds=SimpleNamespace(combined=1),
        draw=lambda edit=None, **_: drawn.append(edit),
        attribute=lambda name: Attribute(name, ("a", "b") if name == "gender" else ("c",)),
    )
    monkeypatch.setattr(laboratory, "_cell", lambda *_: None)
    named = laboratory.best(study)
    assert list(named) == ["gender: a, no. 1 (latent 5)", "gender: a, no. 2 (latent 3)"] + [
        "gender: b, no. 1 (latent 1)"
    ]
    laboratory.moved(study, named["gender: a, no. 2 (latent 3)"])
    h, step = torch.randn(2, 24, 2, 2), Step(0, 900, torch.arange(2))
    strongest = drawn[-1](h, step) - h  # by 4 class differences
    expected = 4 * gap[0, :, 1, None] * sae.directions[3]  # (P, d)
    assert torch.allclose(
        strongest.flatten(2).transpose(1, 2), expected.expand(2, -1, -1), atol=1e-5
    )
    assert drawn[1 + laboratory.STRENGTHS.index(0)](h, step) is None


# --------------------------------------------------------------------------------- the page


@pytest.fixture
def told() -> dict[str, Any]:
    return tiny_pages.told_by_laboratory()


def test_sliders_begin_where_the_unedited_shares_are(told: dict[str, Any]) -> None:
    body = pages.of_shares(told).html(told)
    starts = re.findall(r'max="(\d)" value="(\d)"', body)
    assert starts == [("2", "1"), ("1", "0")]
    assert re.findall(r'max="(\d)" value="(\d)"', pages.of_features(told).html(told)) == [
        ("2", "1")
    ]


def test_the_page_holds_every_cell_and_names_a_sheet_for_each_method(told: dict[str, Any]) -> None:
    body = pages.of_shares(told).html(told)
    inner = body.split('<script type="application/json">')[1].split("</script>")[0]
    data = json.loads(inner.replace(r"<\/", "</"))
    assert data["cells"] == told["methods"]
    assert data["words"][0] == ["10 % male", "50 % male", "90 % male"]
    assert data["sheets"] == {"DiffLens": "method-0.webp", "one <feature>": "method-1.webp"}
    assert (data["width"], data["height"]) == (4 * pages.SIDE, 3 * pages.SIDE)
    assert "<option>one &lt;feature&gt;</option>" in body


@pytest.mark.skipif(not FOLDER.is_dir(), reason="the laboratory was not drawn yet")
def test_what_ships_has_a_cell_for_every_wish_and_a_sheet_for_every_method() -> None:
    told = json.loads((laboratory.RESULTS / "laboratory.json").read_text())
    wishes = np.prod([len(shares) for shares in told["asked"].values()])
    sheets: list[Path] = sorted(FOLDER.glob("method-*.webp"))
    assert len(sheets) == len(told["methods"])
    assert all(len(cells) == wishes for cells in told["methods"].values())
    assert all(len(cells) == len(told["strengths"]) for cells in told["features"].values())
    assert len(list(FOLDER.glob("feature-*.webp"))) == len(told["features"])
    down, across = (len(shares) for shares in told["asked"].values())
    side, columns = told["size"], told["columns"]
    rows = told["shown"] // columns
    for path in sheets:
        with Image.open(path) as sheet:
            assert sheet.size == (across * columns * side, down * rows * side)
    for cells in told["methods"].values():
        for one in cells:
            assert all(abs(sum(s) - 1) < 0.01 for s in one["shares"].values())
