"""Labelled images as a world, against numpy and pandas on the table itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from difflens_utils import mediation, subjects
from difflens_utils.labelled import LabelledImages, declared, raked

SHARES = {"shape": {"round": 0.7, "square": 0.2, "flat": 0.1}, "tint": {"dark": 0.4, "light": 0.6}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 grey images whose brightness is their number, with three factors."""
    rng = np.random.default_rng(0)
    rows = [{"file": f"{i:03d}.png", "shape": ("round", "square", "flat")[i % 3], "tint": ("dark", "light")[i // 3 % 2], "edge": ("no", "yes")[int(rng.random() < 0.5)]}
            for i in range(120)]
    for i, row in enumerate(rows):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / row["file"])
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def change(folder: Path, edit) -> None:  # noqa: ANN001
    table = pd.read_csv(folder / "labels.csv")
    edit(table).to_csv(folder / "labels.csv", index=False)


def test_shares_are_counted_and_planted(folder: Path) -> None:
    table = pd.read_csv(folder / "labels.csv")
    train = table[np.arange(len(table)) % 5 != 4]
    counted, planted = LabelledImages(folder, ["shape", "tint"]), LabelledImages(folder, ["shape", "tint"], SHARES)
    names = counted.factors["shape"].classes
    assert counted.marginal("shape").tolist() == pytest.approx([(train["shape"] == n).mean() for n in names])
    for a, own in SHARES.items():
        assert planted.factors[a].classes == tuple(own) and planted.marginal(a).tolist() == pytest.approx(list(own.values()), abs=1e-6)
    drawn = planted.sample(4000, 1).labels["shape"].bincount() / 4000
    assert drawn.tolist() == pytest.approx(list(SHARES["shape"].values()), abs=0.03)


def test_images_have_the_labels_that_they_are_drawn_for(folder: Path) -> None:
    world = LabelledImages(folder, ["shape", "tint"], SHARES)
    batch = world.sample(200, 3, balanced=True)
    numbers = ((world.render(batch, 8)[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    table = pd.read_csv(folder / "labels.csv")
    for i, number in enumerate(numbers):
        assert world.names(batch, i) == table.drop(columns="file").iloc[number].to_dict() and number % 5 != 4  # every fifth is held out
    assert len(set(numbers)) > 60
    assert world.render(world.sample(3, 0, do={"tint": "dark"}), 16).shape == (3, 3, 16, 16)


def test_held_out_images_are_the_others(folder: Path) -> None:
    images, labels = LabelledImages(folder, ["shape"]).held_out(8)
    assert ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist() == list(range(4, 120, 5)) and len(labels["edge"]) == 24
    change(folder, lambda t: t.assign(split=["test"] * 10 + ["train"] * 110))
    assert len(LabelledImages(folder, ["shape"]).held_out(8)[0]) == 10


def test_factors_that_hang_together_are_told_from_those_that_do_not(folder: Path) -> None:
    def with_hats(table: pd.DataFrame) -> pd.DataFrame:
        number = np.random.default_rng(1).random(len(table))
        return table.drop(columns="edge").assign(hat=np.where(number < np.where(table["shape"] == "round", 0.8, 0.3), "on", "off"))

    change(folder, with_hats)
    world = LabelledImages(folder, ["shape"])
    assert world.arrows()["hat"] == ("shape",) and world.arrows()["tint"] == ()
    assert world.planted_causes("shape") == ("hat",) and world.independent_factors() == ("tint",)


def test_what_is_tried_where_nothing_is_named(folder: Path) -> None:
    world = LabelledImages(folder, ["shape", "tint"], SHARES)
    assert world.singles.keys() == {"edge", "tint"} and world.singles["tint"] == "dark"
    assert world.wanted == {"shape": pytest.approx([3 / 6, 2 / 6, 1 / 6]), "tint": pytest.approx([2 / 3, 1 / 3])}


def test_raking_meets_all_shares_and_leaves_equals_equal() -> None:
    labels = {"a": torch.tensor([0, 0, 0, 1, 1, 1]), "b": torch.tensor([0, 0, 1, 0, 1, 1])}
    w = raked(labels, {"a": [0.8, 0.2], "b": [0.5, 0.5]})
    assert [w[labels["a"] == 1].sum().item(), w[labels["b"] == 0].sum().item()] == pytest.approx([0.2, 0.5]) and w[0] == w[1]


@pytest.mark.parametrize(("edit", "told"), [
    (lambda t: t.drop(columns="file"), "a column must be one of"),
    (lambda t: t.assign(tint="dark"), "column tint has the classes dark; it needs two or more"),
    (lambda t: t.assign(file=["gone.png", *t["file"][1:]]), "names 1 images that are not there, such as gone.png"),
    (lambda t: t.assign(edge=["", *t["edge"][1:]]), "1 of them lack a value"),
    (lambda t: t[~((t["shape"] == "flat") & (t["tint"] == "dark"))], "no image to learn from is labelled"),
    (lambda t: t.rename(columns={"shape": "form"}), "must be one of"),
])
def test_a_table_that_will_not_do_is_refused_in_one_line(folder: Path, edit, told: str) -> None:  # noqa: ANN001
    change(folder, edit)
    with pytest.raises(ValueError, match=told) as refused:
        LabelledImages(folder, ["shape", "tint"])
    assert "\n" not in str(refused.value)


def test_shares_that_will_not_do_are_refused_in_one_line(folder: Path) -> None:
    for shares, told in (({"tint": {"dark": 0.5, "light": 0.6}}, "sum to 1"), ({"tint": {"dark": 0.5, "blue": 0.5}}, "and these: dark, blue")):
        with pytest.raises(ValueError, match=told):
            LabelledImages(folder, ["tint"], shares)


@pytest.mark.parametrize(("text", "told"), [("images: .", "must have the entries"), ("a: [", "no YAML"), ("images: .\nattributes: [shape]\nshare: 1", "an entry must be one of")])
def test_a_study_file_that_will_not_do_is_refused_in_one_line(folder: Path, text: str, told: str) -> None:
    (folder / "study.yml").write_text(text)
    with pytest.raises(ValueError, match=told) as refused:
        declared(folder)
    assert "\n" not in str(refused.value)


def test_the_digits_are_a_subject_like_any_other() -> None:
    study = subjects.load("digits", "cpu", dtype=torch.float32)
    assert study.attributes == ("digit", "stroke") and study.factors.keys() == {"digit", "stroke", "slant"}
    assert study.planted("digit").tolist() == pytest.approx([0.45, 0.3, 0.15, 0.1], abs=1e-6)
    assert study.world.independent_factors() == ("slant",)  # measured against each digit's own median
    images, labels = study.world.held_out(study.size)
    for judge in (study.labeller, study.scorer):
        assert (judge.logits(images)["digit"].argmax(-1) == labels["digit"]).float().mean() > 0.97
    moved = mediation.through_module(study, "digit", 0, 3, (500,), n=4, seed=0)
    assert moved.total.mean() > 0.3 and moved.control.abs().mean() < 0.2 * moved.total.mean()
