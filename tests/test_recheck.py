"""Rows of others are measured again: which figures hold, and what is no row of these files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difflens_utils.bench import VERSION, board, seeds
from difflens_utils.bench.submission import Submission
from workflow import recheck, submit

ROOT = Path(__file__).parents[1]
METHOD = "def units(given):\n    return lambda x: x\n"


def figure(value: float | None, half: float = 0.1) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    draws = np.linspace(value - half, value + half, 400)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": value, "low": low, "high": high, "draws": draws.tolist()}


def row(name: str, fingerprint: str, value: float) -> board.Row:
    return {
        "version": VERSION,
        "submission": name,
        "name": "Mine",
        "about": "a method",
        "by": "me",
        "link": "",
        "fingerprint": fingerprint,
        "subjects": {"digits": {"recover": {"mcc": figure(value)}}},
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
    def submitted(folder: Path, names: list[str], minutes: float, stream: int) -> board.Row:
        assert (names, folder, stream) == (["digits"], study / "submissions/mine", 1234)
        return row("mine", "", value)

    monkeypatch.setattr(submit, "submitted", submitted)
    broken = recheck.check(study / "results/leaderboard/mine.json", 1234)
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


FORGED: dict[str, Callable[[board.Row], object]] = {
    "recover on digits is not what its resamples say": lambda row: row["subjects"]["digits"][
        "recover"
    ]["mcc"].update(value=0.99, low=-1.0, high=1.0),
    "name is not that of method.yml": lambda row: row.update(name="The best"),
    "there is no recover on faces": lambda row: row["subjects"].update(
        faces=row["subjects"]["digits"]
    ),
}


@pytest.mark.parametrize("said", FORGED)
def test_a_row_that_contradicts_itself_or_its_method_is_refused(said: str, study: Path) -> None:
    path = study / "results/leaderboard/mine.json"
    content = json.loads(path.read_text())
    FORGED[said](content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        recheck.read(path)


def test_every_row_that_ships_is_one_of_its_files_and_agrees_with_itself() -> None:
    for path in sorted((ROOT / "results/leaderboard").glob("*.json")):
        recheck.read(path)


def test_the_stream_of_seeds_reaches_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, seen = tmp_path / "python", tmp_path / "arguments"
    program.write_text(f'#!/bin/sh\necho "$@" > {seen}\n')
    program.chmod(0o755)
    monkeypatch.setattr(submit.sys, "executable", str(program))
    with pytest.raises(ValueError, match="without an answer"):
        submit.run(tmp_path, "digits", time.monotonic() + 60, 1234)
    assert seen.read_text().split()[-2:] == ["--stream", "1234"]
    given: list[seeds.Seeds] = []
    monkeypatch.setattr(submit, "child", lambda _folder, _name, _out, chosen: given.append(chosen))
    arguments = [str(tmp_path), "--child", "digits", "out", "--stream", "1234"]
    monkeypatch.setattr("sys.argv", ["submit", *arguments])
    submit.main()
    assert given == [seeds.of(1234)]


def test_versions_and_trials_share_no_seeds() -> None:
    streams = (1, 2, seeds.TRIAL, seeds.TRIAL + seeds.TRIALS - 1)
    used = [{*seeds.of(s)} | {seeds.of(s).probes + way for way in range(10)} for s in streams]
    assert len(set.union(*used)) == sum(map(len, used))
    assert all(seeds.MEASURED not in each for each in used)
