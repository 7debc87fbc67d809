"""The drills notice what they are there to notice, and their page says it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from drills import damage, dependencies, inputs, kills, places, precision, run, together
from drills.scene import ROOT, Ended, Row, Scene, processes, same
from workflow import drills as page


def scene(folder: Path, script: str) -> Scene:
    """A clone whose workflow/execute.py is a script."""
    (folder / "workflow").mkdir()
    (folder / "workflow/execute.py").write_text(script)
    return Scene(folder)


def test_lines_are_without_bars() -> None:
    out = "00_bias  subject=digits\nsampling: 1%|x\rsampling: 9%|x\n\nsampling: 99%|x\rerror: no\n"
    assert Ended(1, out, 0.1).lines == ["00_bias  subject=digits", "error: no"]


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("import sys; sys.exit('k must be above 0')", ""),
        ("print('k must be above 0')", "exit code 0"),
        ("import sys; print('a trace'); sys.exit('k must be above 0')", "2 lines"),
        ("import sys; sys.exit('no')", "says no"),
        ("import sys; open('artifacts/x', 'w'); sys.exit('k must be above 0')", "left artifacts/x"),
    ],
)
def test_a_bad_answer_to_a_bad_input_is_noticed(tmp_path: Path, script: str, fault: str) -> None:
    place = scene(tmp_path, script)
    place.store.mkdir()
    case = inputs.Case("parameters", "k", "k must be", ("-p", "k", "0"))
    found = inputs.fault(place, 0, case)
    assert fault in found if fault else not found


def test_an_input_is_refused_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SOON", 0)
    place = scene(tmp_path, "import sys; sys.exit('k must be above 0')")
    assert "after 0 s" in inputs.fault(place, 0, inputs.Case("parameters", "k", "k must be"))


def test_there_are_sixty_inputs_and_more_with_names_of_their_own() -> None:
    names = [(case.of, case.name) for case in inputs.CASES]
    assert len(names) == len(set(names)) >= 60


def test_processes_of_a_clone_are_found_by_their_folder(tmp_path: Path) -> None:
    place = scene(tmp_path, "import time; time.sleep(60)")
    running = place.start([sys.executable, "workflow/execute.py", "00_bias"], silent=True)
    try:
        end = time.monotonic() + 20
        while not list(processes(tmp_path)) and time.monotonic() < end:
            time.sleep(0.05)
        assert kills.victims(place, "papermill") == [running.pid]
        assert not kills.victims(place, "a worker") and not kills.victims(place, "a kernel")
    finally:
        running.kill()
        running.wait()


def test_one_byte_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(100))
    damage.flip(path, random.Random(0))
    assert sum(byte != 0 for byte in path.read_bytes()) == 1


def test_what_is_made_twice_is_noticed(tmp_path: Path) -> None:
    watch = together.Watch(tmp_path)
    for name in ("once", "twice"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "manifest.json").write_text("{}")
    watch.start()
    watch.look()
    again = tmp_path / "again"
    again.write_text("{}")
    os.replace(again, tmp_path / "images/twice/manifest.json")
    assert watch.twice() == ["twice"]


def test_results_that_differ_are_named() -> None:
    assert same({"a": "1", "b": "2"}, {"a": "1", "b": "2"}) == ""
    assert same({"a": "1"}, {"a": "2", "b": "2"}) == "no b, a differs"


def result(value: float, holds: bool, stability: float = 1.0) -> dict:
    record = {"name": "fd", "value": value, "low": 0.2, "high": 0.4}
    return {
        "records": [record, {"name": "n", "value": 3, "low": None, "high": None}],
        "verdicts": [{"says": "biased", "holds": holds, "stability": stability}],
    }


def test_verdicts_and_figures_of_two_builds_are_compared() -> None:
    first = {"00_bias": result(0.3, True)}
    assert precision.compared(first, {"00_bias": result(0.39, True)}) == (1, 1, 1, 1)
    assert precision.compared(first, {"00_bias": result(0.41, False)}) == (0, 1, 1, 0)
    assert precision.compared(first, {"00_bias": result(0.3, False, 0.9)}) == (0, 0, 1, 1)


def test_every_package_that_is_needed_names_a_licence() -> None:
    found = dependencies.licences()
    assert {"torch", "diffusers", "numpy", "pillow"} <= found.keys()
    assert not [name for name, licence in found.items() if not licence]
    assert "BSD" in found["numpy"] and "MIT" in found["snakemake"]


def test_the_page_says_what_failed_and_what_was_not_tried(tmp_path: Path) -> None:
    rows = [
        Row("kills", "a kernel", 8, 8),
        Row("kills", "a worker", 7, 0, "00_bias differs"),
        Row("places", "read-only", 0, 0, "not tried: it takes the right to mount"),
    ]
    entry = {"command": "c", "commit": "abc", "seconds": 90, "ended": True}
    entry["rows"] = [r._asdict() for r in rows]
    found = {
        "kills": entry,
        "damage": entry | {"ended": False, "rows": []},
        "dependencies": entry | {"licences": {"a": "MIT", "b": "MIT"}},
    }
    (tmp_path / "generated").mkdir()
    page.write(json.loads(json.dumps(found)), tmp_path)
    written = {path.stem: path.read_text() for path in (tmp_path / "generated").iterdir()}
    assert "| kills | a worker | **0** | 7 | 00_bias differs |" in written["drills_table"]
    assert "| places | read-only | – | – |" in written["drills_table"]
    assert written["drills_sum"].startswith("**16 of 30 trials went as they should**, in 2 of 4")
    assert "2 could not be tried" in written["drills_sum"]
    assert "Not run yet, or not to their end: damage, places, " in written["drills_sum"]
    assert page.DRILLS == list(run.DRILLS)
    assert "| MIT | 2 | a, b |" in written["drills_licences"]
    assert "| `c` | abc | 1.5 |" in written["drills_commands"]


@pytest.mark.parametrize("what", damage.SHIPPED)
def test_every_kind_of_shipped_file_is_there_to_be_damaged(what: str) -> None:
    assert damage.shipped(ROOT, what)


@pytest.mark.parametrize(
    ("line", "passed"),
    [
        ("00_bias: the disk under /artifacts is full", 1),
        ("00_bias: Permission denied: 'python' (up to there: artifacts)", 0),
    ],
)
def test_another_fault_is_not_taken_for_that_of_a_place(
    tmp_path: Path, line: str, passed: int
) -> None:
    place = scene(tmp_path, "")
    row = places._judged(place, {}, "full", "artifacts is full", Ended(1, line, 1.0), [])
    assert row.passed == passed, row.note


HOLDS = """
import sys, time
import numpy as np
from drills import memory

def hold():
    array = np.ones(64 * 2**20, np.uint8)
    time.sleep(0.1)

work = {
    "bare": lambda: time.sleep(0.1),
    "hold": hold,
    "read": lambda: np.load("x.npy", mmap_mode="r").sum(),
}
print(memory.peak(work[sys.argv[1]]))
"""


def test_peak_memory_is_what_a_process_holds_and_no_mapped_file(tmp_path: Path) -> None:
    """Each in a process of its own: one that has freed memory before may take it again."""
    np.save(tmp_path / "x.npy", np.ones(64 * 2**20, np.uint8))

    def peak(kind: str) -> float:
        command = [sys.executable, "-c", HOLDS, kind]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return float(subprocess.check_output(command, cwd=tmp_path, env=environment))

    assert 60 < peak("hold") - peak("bare") < 80
    assert peak("read") - peak("bare") < 10


def test_rows_of_a_stopped_drill_are_kept_and_replace_none_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "OUTPUT", tmp_path / "drills.json")
    place, row = Scene(ROOT), Row("places", "read-only", 1, 1)

    def kept(ended: bool, rows: list[Row]) -> tuple[bool, int]:
        run.written("places", rows, 1.0, place, ended)
        entry = json.loads(run.OUTPUT.read_text())["places"]
        return entry["ended"], len(entry["rows"])

    assert kept(False, [row]) == (False, 1)
    assert kept(False, [row, row]) == (False, 2)
    assert kept(True, [row] * 3) == (True, 3)
    assert kept(False, [row]) == (True, 3)


def test_a_command_that_hangs_is_stopped_and_says_so(tmp_path: Path) -> None:
    done = Scene(tmp_path, limit=1).run([sys.executable, "-c", "import time; time.sleep(60)"])
    assert done.code and done.lines[-1] == "stopped after 1 s" and done.seconds < 30
