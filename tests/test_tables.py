"""Tables as readers see them, against an independent reader of HTML."""

from __future__ import annotations

from xml.etree import ElementTree

import pandas as pd
import pytest
from matplotlib.figure import Figure

from difflens_utils.pages import descriptions, tables


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_names", {})
    tables.know(["hair_length", "age", "side_pose"])


def read(frame: pd.DataFrame) -> list[list[str]]:
    """The texts of all cells, row by row, as an independent reader finds them."""
    root = ElementTree.fromstring(tables.as_html(frame).replace("<br>", " "))
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_figures_stand_above_their_intervals_and_nothing_is_lost() -> None:
    frame = pd.DataFrame(
        {"FD": ["0.291 [0.262, 0.319]", "–"], "n": [132, 7], "share": [0.25, float("nan")]},
        index=["latent editing", "Act@L"],
    )
    html = tables.as_html(frame.rename_axis("gender", axis=1))
    assert "0.291<br><small>[0.262, 0.319]</small>" in html
    assert "<caption>gender</caption>" in html and html.count("<tr>") == 3
    assert read(frame) == [
        ["", "FD", "n", "share"],
        ["latent editing", "0.291 [0.262, 0.319]", "132", "0.250"],
        ["Act@L", "–", "7", "–"],
    ]


def test_what_is_missing_small_or_long(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({("a", 0): [1e-5, -0.25], ("a", 1): [None, pd.NA]}, index=[999.0, 0.5])
    assert read(frame) == [["", "a: 0", "a: 1"], ["999", "1.0e-05", "–"], ["0.5", "-0.250", "–"]]
    long = tables.as_html(pd.DataFrame({"x": range(20_000)}))
    assert len(long) < 20_000 and "20000 rows" in long


def test_a_text_is_no_markup() -> None:
    frame = pd.DataFrame({"a<b>": ["<i>x</i> & y"]}, index=["<script>"])
    html = tables.as_html(frame)
    assert (
        "<script>" not in html and "&lt;i&gt;x&lt;/i&gt; &amp; y" in html and "a&lt;b&gt;" in html
    )


def test_levels_of_rows_are_said_once_and_levels_of_columns_in_one_line() -> None:
    rows = pd.MultiIndex.from_tuples([("u", "v"), ("u", "w"), ("x", "w")], names=["one", "two"])
    html = tables.as_html(pd.DataFrame({("a", "b"): [1, 2, 3]}, index=rows))
    assert html.count(">u<") == 1 and html.count(">w<") == 2
    assert ">a: b<" in html and ">one<" in html and ">two<" in html


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hair_length", "hair length"),
        ("side_pose: present", "side pose: present"),
        ("hair_lengths and mid_block", "hair_lengths and mid_block"),
        ("multi.single.hair_length.rise", "multi.single.hair_length.rise"),
    ],
)
def test_known_names_are_said_and_no_others(text: str, words: str) -> None:
    assert tables.said(text) == words


def test_names_in_figures_are_said() -> None:
    figure = Figure()
    axes = figure.add_subplot(title="side_pose: present", ylabel="hair_length")
    axes.set_xticks([0, 1], ["hair_length", "age"])
    descriptions.say(figure)
    figure.draw_without_rendering()
    assert axes.get_title() == "side pose: present" and axes.get_ylabel() == "hair length"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["hair length", "age"]
