"""Rows of others are measured again: which figures hold, and what is no row of these files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from difflens_utils.bench import VERSION, board, seeds
from difflens_utils.bench.submission import Submission
from workflow import recheck, submit

METHOD = "def units(given):\n    return lambda x: x\n"


def figure(value: float | None, half: float = 0.1) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - half, "high": value + half}


def row(name: str, fingerprint: str, value: float) -> board.Row:
    subjects = {"digits": {"recover": {"mcc": figure(value)}}}
    return {
        "version": VERSION,
        "submission": name,
        "fingerprint": fingerprint,
        "subjects": subjects,
    }


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one submission, whose row says 0.5."""
    folder = tmp_path / "submissions/mine"
    folder.mkdir(parents=True)
    (folder / "method.yml").write_text("name: Mine\nabout: a method\nby: me\n")
    (folder / "method.py").write_text(METHOD)
    rows = tmp_path / "results/leaderboard"
    board.save(row("mine", Submission.read(folder).fingerprint(), 0.5), rows)
    monkeypatch.setattr(recheck, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [(0.5, 0.6, True), (0.5, 0.71, False), (0.71, 0.5, False), (None, None, True)]
    + [(0.5, None, False), (None, 0.5, False)],
)
def test_a_figure_holds_where_the_intervals_meet(
    old: float | None, new: float | None, expected: bool
) -> None:
    assert recheck.holds(figure(old), figure(new)) is expected


@pytest.mark.parametrize(("value", "said"), [(0.55, "holds"), (0.9, "DOES NOT HOLD")])
def test_a_row_is_compared_with_what_comes_of_it_on_the_next_seeds(
    value: float,
    said: str,
    study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def submitted(folder: Path, names: list[str], minutes: float, again: bool) -> board.Row:
        assert again and names == ["digits"] and folder == study / "submissions/mine"
        return row("mine", "", value)

    monkeypatch.setattr(submit, "submitted", submitted)
    broken = recheck.check(study / "results/leaderboard/mine.json")
    assert broken == (said != "holds")
    assert capsys.readouterr().out.strip().endswith(said)


def test_a_row_of_other_files_or_of_another_version_is_refused(study: Path) -> None:
    path = study / "results/leaderboard/mine.json"
    (study / "submissions/mine/method.py").write_text(METHOD + "\n")
    with pytest.raises(ValueError, match="mine: its files are not those"):
        recheck.read(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": VERSION + 1}))
    with pytest.raises(ValueError, match=f"mine.json is no row of version {VERSION}"):
        recheck.read(path)


def test_versions_share_no_seeds() -> None:
    assert not {*seeds.of(1)} & {*seeds.of(2)}
    ways = {seeds.of(version).probes + way for version in (1, 2) for way in range(10)}
    assert len(ways) == 20
