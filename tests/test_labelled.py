"""Labelled images as a world, against numpy and pandas on the table itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from difflens_utils.analysis import mediation
from difflens_utils.subjects import registry
from difflens_utils.worlds import labelled, pictures
from difflens_utils.worlds.labelled import LabelledImages, declared, raked

Edit = Callable[[pd.DataFrame], pd.DataFrame]
SHARES = {"shape": {"round": 0.7, "square": 0.2, "flat": 0.1}, "tint": {"dark": 0.4, "light": 0.6}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 grey images whose brightness is their number, with three factors."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "file": f"{i:03d}.png",
            "shape": ("round", "square", "flat")[i % 3],
            "tint": ("dark", "light")[i // 3 % 2],
            "edge": ("no", "yes")[int(rng.random() < 0.5)],
        }
        for i in range(120)
    ]
    for i, row in enumerate(rows):
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(tmp_path / row["file"])
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path


def change(folder: Path, edit: Edit) -> None:
    table = pd.read_csv(folder / "labels.csv")
    edit(table).to_csv(folder / "labels.csv", index=False)


def test_shares_are_counted_and_planted(folder: Path) -> None:
    table = pd.read_csv(folder / "labels.csv")
    train = table[np.arange(len(table)) % 5 != 4]
    counted = LabelledImages(folder, ["shape", "tint"])
    shares = [(train["shape"] == name).mean() for name in counted.factors["shape"].classes]
    assert counted.marginal("shape").tolist() == pytest.approx(shares)
    planted = LabelledImages(folder, ["shape", "tint"], SHARES)
    for attribute, by_class in SHARES.items():
        assert planted.factors[attribute].classes == tuple(by_class)
        expected = pytest.approx(list(by_class.values()), abs=1e-6)
        assert planted.marginal(attribute).tolist() == expected
    drawn = planted.sample(4000, 1).labels["shape"].bincount() / 4000
    assert drawn.tolist() == pytest.approx(list(SHARES["shape"].values()), abs=0.03)


def test_images_have_the_labels_that_they_are_drawn_for(folder: Path) -> None:
    world = LabelledImages(folder, ["shape", "tint"], SHARES)
    batch = world.sample(200, 3, balanced=True)
    numbers = ((world.render(batch, 8)[:, 0, 0, 0] + 1) * 127.5).round().long().tolist()
    table = pd.read_csv(folder / "labels.csv").drop(columns="file")
    for i, number in enumerate(numbers):
        assert world.names(batch, i) == table.iloc[number].to_dict()
        assert number % 5 != 4  # every fifth is held out
    assert len(set(numbers)) > 60
    assert world.render(world.sample(3, 0, do={"tint": "dark"}), 16).shape == (3, 3, 16, 16)


def test_held_out_images_are_the_others(folder: Path) -> None:
    images, labels = LabelledImages(folder, ["shape"]).held_out(8)
    assert ((images[:, 0, 0, 0] + 1) * 127.5).round().tolist() == list(range(4, 120, 5))
    assert len(labels["edge"]) == 24
    change(folder, lambda t: t.assign(split=["test"] * 10 + ["train"] * 110))
    assert len(LabelledImages(folder, ["shape"]).held_out(8)[0]) == 10


def test_factors_that_hang_together_are_told_from_those_that_do_not(folder: Path) -> None:
    def with_hats(table: pd.DataFrame) -> pd.DataFrame:
        number = np.random.default_rng(1).random(len(table))
        return table.drop(columns="edge").assign(
            hat=np.where(number < np.where(table["shape"] == "round", 0.8, 0.3), "on", "off")
        )

    change(folder, with_hats)
    world = LabelledImages(folder, ["shape"])
    assert world.arrows()["hat"] == ("shape",) and world.arrows()["tint"] == ()
    assert world.effects("shape") == ("hat",) and world.independent_factors() == ("tint",)


def test_what_is_tried_where_nothing_is_named(folder: Path) -> None:
    world = LabelledImages(folder, ["shape", "tint"], SHARES)
    assert world.singles.keys() == {"edge", "tint"} and world.singles["tint"] == "dark"
    assert world.wanted == {
        "shape": pytest.approx([3 / 6, 2 / 6, 1 / 6]),
        "tint": pytest.approx([2 / 3, 1 / 3]),
    }


def test_raking_meets_all_shares_and_leaves_equals_equal() -> None:
    labels = {"a": torch.tensor([0, 0, 0, 1, 1, 1]), "b": torch.tensor([0, 0, 1, 0, 1, 1])}
    w = raked(labels, {"a": torch.tensor([0.8, 0.2]), "b": torch.tensor([0.5, 0.5])})
    assert w[labels["a"] == 1].sum().item() == pytest.approx(0.2)
    assert w[labels["b"] == 0].sum().item() == pytest.approx(0.5)
    assert w[0] == w[1]


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (
            lambda t: t.drop(columns="file"),
            "labels.csv: no column is named file; its first line names shape, tint, edge",
        ),
        (
            lambda t: t.assign(tint="dark"),
            "labels.csv: column tint has the classes dark; it needs two or more",
        ),
        (lambda t: t.assign(number=range(120)), "column number has 120 classes in 120 rows"),
        (
            lambda t: t.assign(file=["gone.png", *t["file"][1:]]),
            "names 1 images that are not there, such as gone.png",
        ),
        (
            lambda t: t.assign(file=["a" * 5000, *t["file"][1:]]),
            "names 1 images that are not there",
        ),
        (
            lambda t: t.assign(edge=["", *t["edge"][1:]]),
            "labels.csv, line 2: column edge has no value",
        ),
        (
            lambda t: t[~((t["shape"] == "flat") & (t["tint"] == "dark"))].assign(
                split=["train", "train", "test"] * 33 + ["test"]
            ),
            "no image to learn from is labelled",
        ),
        (lambda t: t.rename(columns={"shape": "form"}), "attributes must be one of"),
        (lambda t: t[:3], "labels.csv: rows must be at least 5 .every fifth is held out., got 3"),
        (lambda t: t[:0], "labels.csv: rows must be at least 5"),
        (lambda t: t[["file"]], "has no column that says what is on the images"),
        (
            lambda t: t.assign(split="train"),
            "none of the rows of split test .held out. has shape flat",
        ),
        (lambda t: t.assign(split="test"), "none of the rows of split train"),
        (
            lambda t: t.assign(split=["train", "val"] * 60),
            "labels.csv, line 3: split must be one of train, test; got 'val'",
        ),
        (
            lambda t: t.assign(tint=["light"] * 4 + ["dark"] + ["light"] * 115),
            "none of the rows of split train .to learn from. has tint dark",
        ),
        (
            lambda t: t.assign(file=["001.png", *t["file"][1:]]),
            "labels.csv, line 3: 001.png is named in line 2 already",
        ),
        (
            lambda t: t.assign(file=["./001.png", *t["file"][1:]]),
            "line 3: 001.png is named in line 2 already",
        ),
        (
            lambda t: t.assign(file=["/etc/motd", *t["file"][1:]]),
            "line 2: file must lie in the folder of the table, got /etc/motd",
        ),
        (
            lambda t: t.assign(file=["../001.png", *t["file"][1:]]),
            "line 2: file must lie in the folder",
        ),
        (
            lambda t: t.assign(**{f"c{i}": t["edge"] for i in range(38)}),
            "combinations of classes, and 96 images to learn from",
        ),
        (lambda t: t.set_axis([*t.columns[:-1], "tint"], axis=1), "column tint occurs twice"),
        (lambda t: t.set_axis([*t.columns[:-1], " "], axis=1), "column 4 has no name"),
    ],
)
def test_a_table_that_will_not_do_is_refused(folder: Path, edit: Edit, told: str) -> None:
    change(folder, edit)
    with pytest.raises(ValueError, match=told) as refused:
        LabelledImages(folder, ["shape", "tint"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("shares", "told"),
    [
        ({"dark": 0.5, "light": 0.6}, "sum to 1"),
        ({"dark": 0.5, "blue": 0.5}, "and these: dark, blue"),
        ({"dark": 1}, "and these: dark"),
        ({"dark": float("nan"), "light": 0.5}, "sum to 1"),
        ({"dark": float("inf"), "light": 0.5}, "sum to 1"),
        ({"dark": -0.5, "light": 1.5}, "sum to 1"),
        ({"dark": 0, "light": 1}, "shares.tint.dark must be greater than 0"),
    ],
)
def test_shares_that_will_not_do_are_refused_in_one_line(
    folder: Path, shares: dict, told: str
) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        LabelledImages(folder, ["tint"], {"tint": shares})
    assert "\n" not in str(refused.value)


def test_shares_that_no_weights_meet_are_refused() -> None:
    together = {"a": torch.tensor([0, 0, 1]), "b": torch.tensor([0, 0, 1])}
    of_two = {"a": torch.tensor([0.5, 0.5]), "b": torch.tensor([0.3, 0.7])}
    of_a_class_without_images = {"a": torch.tensor([0.5, 0.3, 0.2])}
    for shares in (of_two, of_a_class_without_images):
        with pytest.raises(ValueError, match="cannot be met"):
            raked(together, shares)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"file;tint\n000.png;dark\n", "columns must be separated by commas, got ';'"),
        (b"file\ttint\n000.png\tdark\n", "separated by commas"),
        (b"file,tint\n000.png,dark,\n", "line 2: 3 values for 2 columns"),
        (b"file,tint\n\n000.png\n", "line 3: 1 values for 2 columns"),
        (b'file,tint\n000.png,"dark\n001.png,light\n', "is missing or no table"),
        (b"file,tint\n000.png,fonc\xe9\n", "is missing or no table"),
        ("file,tint\n000.png,dark\n".encode("utf-16"), "is missing or no table"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b'file,tint\n000.png,"da\nrk"\n', "line 3: column tint has a line break in its value"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(folder: Path, raw: bytes, told: str) -> None:
    (folder / "labels.csv").write_bytes(raw)
    with pytest.raises(ValueError, match=told) as refused:
        LabelledImages(folder, ["tint"])
    assert "\n" not in str(refused.value) and str(folder / "labels.csv") in str(refused.value)


def test_spreadsheets_leave_a_mark_blanks_and_empty_lines(folder: Path) -> None:
    plain = LabelledImages(folder, ["tint"]).table
    text = (folder / "labels.csv").read_text().replace(",", " , ").replace("\n", "\r\n\r\n")
    (folder / "labels.csv").write_bytes(b"\xef\xbb\xbf" + text.encode() + b",,,\r\n")
    pd.testing.assert_frame_equal(LabelledImages(folder, ["tint"]).table, plain)


def test_images_that_cannot_be_read_are_named_with_the_table(folder: Path) -> None:
    whole = (folder / "007.png").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no image"):
        for name in ("007.png", "011.png"):
            (folder / name).write_bytes(damaged)
        with pytest.raises(
            ValueError,
            match=r"labels.csv, line 9: .*007.png cannot be read as an image: .* \(and 1 more\)",
        ) as refused:
            LabelledImages(folder, ["tint"])
        assert "\n" not in str(refused.value)


def test_the_check_of_many_images_is_remembered_until_one_changes(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    shown = pictures.shown
    monkeypatch.setattr(labelled, "MANY", 100)
    monkeypatch.setattr(pictures, "shown", lambda path: (decoded.append(path), shown(path))[1])
    for expected in (120, 120):
        labelled.read_labels(folder)
        assert len(decoded) == expected
    (folder / "007.png").write_bytes(b"no image")
    for _ in range(2):
        with pytest.raises(ValueError, match="line 9: .*007.png cannot be read"):
            labelled.read_labels(folder)
    assert len(decoded) == 360


# ------------------------------------------------------------------------------------------------
# study.yml

HEAD = "images: .\nattributes: [shape]\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must have the entries"),
        ("images: .", "attributes is missing"),
        ("- a", "must have the entries"),
        ("a: [", "line 1 is no YAML"),
        (HEAD + "share: 1", "an entry must be one of shares, .* got 'share'"),
        ("images: .\nattributes: shape", r"attributes must be a list, .*; got 'shape'"),
        ("images: .\nattributes: []", "attributes must not be empty"),
        ("images: .\nattributes: [shape, shape]", "names a column twice"),
        ("images: .\nattributes: [form]", "attributes must be one of shape"),
        ("images: [.]\nattributes: [shape]", "images must be a text"),
        (HEAD + "attributes: [tint]", "line 3 is no YAML: attributes occurs twice"),
        (HEAD + "? [a, b]\n: 1", "line 3 is no YAML: a name must be"),
        (HEAD + "shares: {<<: 1}", "shares.<< must be a mapping"),
        (HEAD + "---\nimages: .", "is no YAML"),
        (HEAD + "shares: 0.5", "shares must be a mapping"),
        (
            HEAD + "shares: {tint: {dark: 70%, light: 30%}}",
            r"shares.tint.dark must be a number, such as 0.7; got '70%'",
        ),
        (HEAD + "shares: {tint: {dark: .nan, light: 1}}", "shares.tint.dark must be a"),
        (HEAD + "shares: {tint: {dark: inf, light: 1}}", "finite"),
        (HEAD + "shares: {tone: {dark: 0.5, light: 0.5}}", "shares must be one of"),
        (HEAD + "shares: {file: {dark: 0.5, light: 0.5}}", "shares must be one of"),
        (HEAD + "shares: {tint: {dark: 0.5, dark: 0.5}}", "line 3 is no YAML: dark occurs twice"),
        (HEAD + "shares: {tint: {dark: 0, light: 1}}", "shares.tint.dark must be greater than 0"),
        (
            HEAD + "shares: {tint: {dark: 0.5, light: 0.6}}",
            "shares.tint must be 2 shares that sum to 1",
        ),
        (HEAD + "guidance: 0.5", "guidance .*greater than or equal to 1"),
        (HEAD + "guidance: much", "guidance must be a number"),
        (HEAD + "prompts: a cup", "prompts must be a mapping"),
        (HEAD + "prompts: {learn: [a]}", "prompts.evaluate is missing"),
        (HEAD + "prompts: {evaluate: []}", "prompts.evaluate must not be empty"),
        (HEAD + "prompts: {evaluate: [{txt: a}]}", "prompts.evaluate.0.text is missing"),
        (
            HEAD + "prompts: {evaluate: [{text: a, givn: {}}]}",
            "prompts.evaluate.0.an entry must be one of given",
        ),
        (
            HEAD + "prompts: {evaluate: [a], evalute: [b]}",
            "prompts.an entry must be one of evaluate",
        ),
        (
            HEAD + "prompts: {evaluate: [a, b, a]}",
            "prompts.evaluate.2 asks for the same as prompts.evaluate.0",
        ),
        (
            HEAD + "prompts: {evaluate: [{text: a, given: {shape: flat}}]}",
            "must not name an attribute, got shape",
        ),
        (
            HEAD + "prompts: {evaluate: [{text: a, given: {tone: dark}}]}",
            "a factor that prompts state must be one of",
        ),
        (
            HEAD + "prompts: {evaluate: [a], learn: [{text: a, given: {shape: rund}}]}",
            "prompts.learn.0.given.shape must be one of round",
        ),
    ],
)
def test_a_study_file_that_will_not_do_is_refused_in_one_line(
    folder: Path, text: str, told: str
) -> None:
    (folder / "study.yml").write_text(text)
    with pytest.raises(ValueError, match=told) as refused:
        declared(folder)
    assert "\n" not in str(refused.value) and str(folder / "study.yml") in str(refused.value)


@pytest.mark.parametrize(
    "names",
    [
        ("yes", "no"),
        ("1", "0"),
        ("-1", "1"),
        ("0.5", "1.50"),
        ("null", "~"),
        ("2020-01-01", "0x1F"),
    ],
)
def test_classes_are_the_text_that_stands_there(folder: Path, names: tuple[str, str]) -> None:
    """Also where YAML would read a truth value, a number, nothing or a date."""
    change(folder, lambda t: t.assign(tint=t["tint"].map({"dark": names[0], "light": names[1]})))
    shares = f"shares:\n  tint:\n    {names[0]}: 0.7\n    {names[1]}: 0.3\n"
    (folder / "study.yml").write_text(f"images: .\nattributes: [tint]\n{shares}")
    world = declared(folder).world
    assert world.factors["tint"].classes == names
    assert world.marginal("tint").tolist() == pytest.approx([0.7, 0.3])


def test_prompts_condition_the_shares_as_the_table_does(folder: Path) -> None:
    """P(shape | edge) is counted; what is drawn for a prompt has it too."""

    def hang_together(table: pd.DataFrame) -> pd.DataFrame:
        chance = np.where(table["shape"] == "round", 0.8, 0.4)
        return table.assign(
            edge=np.where(np.random.default_rng(3).random(len(table)) < chance, "yes", "no")
        )

    change(folder, hang_together)
    (folder / "study.yml").write_text(
        HEAD + "prompts: {evaluate: [{text: a line, given: {edge: yes}}]}\nguidance: 3"
    )
    study = declared(folder)
    rows = study.world.training[study.world.training.edge == "yes"]
    counted = [(rows["shape"] == c).mean() for c in study.world.factors["shape"].classes]
    assert study.guidance == 3 and study.prompts.evaluate[0].given == {"edge": "yes"}
    assert study.world.marginal("shape", {"edge": "yes"}).tolist() == pytest.approx(counted)
    drawn = study.world.sample(4000, 1, do={"edge": "yes"}).labels["shape"].bincount() / 4000
    assert drawn.tolist() == pytest.approx(counted, abs=0.03)
    assert study.world.arrows()["shape"] == ("edge",)
    assert "edge" not in study.world.effects("shape")
    # Without prompts, edge depends on shape, and Bayes' rule gives the same.
    other = LabelledImages(folder, ["shape"])
    assert other.marginal("shape", {"edge": "yes"}).tolist() == pytest.approx(counted)


def test_the_digits_are_a_subject_like_any_other() -> None:
    study = registry.load("digits", "cpu", dtype=torch.float32)
    assert study.attributes == ("digit", "stroke")
    assert study.factors.keys() == {"digit", "stroke", "slant"}
    assert study.planted("digit").tolist() == pytest.approx([0.45, 0.3, 0.15, 0.1], abs=1e-6)
    # The slant is measured against the median of each digit.
    assert study.world.independent_factors() == ("slant",)
    images, labels = study.world.held_out(study.size)
    for judge in (study.labeller, study.scorer):
        assert (judge.logits(images)["digit"].argmax(-1) == labels["digit"]).float().mean() > 0.97
    ends = study.classes("digit")[0], study.classes("digit")[3]
    exchange = mediation.Exchange("digit", *ends)
    swept = mediation.through_modules(study, exchange, (500,), [study.module], n=4, seed=0)
    moved = swept[study.module]
    assert moved.total.mean() > 0.3 and moved.control.abs().mean() < 0.2 * moved.total.mean()


def test_classes_of_one_name_are_told_apart_in_prompts_made_of_them() -> None:
    """CelebA's classes are -1 and 1 of every attribute."""
    classes = {"smile": ("-1", "1"), "young": ("-1", "1"), "tint": ("dark", "light")}
    plain, face = registry.Prompt("a face"), registry.Prompt("a face", {"job": "none"})
    assert registry._naming(plain, {"smile": "1"}, classes).text == "a face, smile 1"
    named = registry._naming(face, {"smile": "1", "tint": "dark"}, classes)
    assert named.text == "a face, smile 1, dark" and named.without == "a face"
    assert named.given == {"job": "none", "smile": "1", "tint": "dark"}


@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_an_entry_without_value_is_left_out(folder: Path, nothing: str) -> None:
    (folder / "study.yml").write_text(
        f"images: .\nattributes: [shape]\nprompts: {nothing}\nguidance: {nothing}\n"
    )
    study = declared(folder)
    assert study.prompts is None and study.guidance is None
