"""Executes submissions again on the seeds of the next version, and says which figures hold:

    python -m workflow.recheck results/leaderboard/my-method.json

A row is of the folder of its name in submissions/, as that is now. A figure holds if its interval
and that of the row have something in common. What latents and blocks do was measured once, so
*attribute* and *locate* tell whether the row can be reproduced, and the other tracks whether it
holds on images that nobody has looked at. A pull request that brings rows is checked so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from difflens_utils.bench import TRACKS, VERSION, board
from difflens_utils.bench.submission import Submission
from difflens_utils.runtime.errors import line
from workflow import submit
from workflow.execute import ROOT

MINUTES = 60  # of a runner that may be slow
Figure = Mapping[str, Any]


def read(path: Path) -> tuple[board.Row, Path]:
    """A row, and the folder of its submission.

    Raises ValueError, in one line, for a row of another version or of other files.
    """
    rows = [row for row in board.load(path.parent) if row["submission"] == path.stem]
    if not rows:
        raise ValueError(f"{path} is no row of version {VERSION}")
    folder = ROOT / "submissions" / path.stem
    if Submission.read(folder).fingerprint() != rows[0]["fingerprint"]:
        raise ValueError(f"{path.stem}: its files are not those that the row was measured with")
    return rows[0], folder


def holds(old: Figure, new: Figure) -> bool:
    """Whether two intervals have something in common; what was not reached has none."""
    if old["value"] is None or new["value"] is None:
        return old["value"] is new["value"]
    common: bool = old["low"] <= new["high"] and new["low"] <= old["high"]
    return common


def compared(old: board.Row, new: board.Row) -> Iterator[tuple[str, str, Figure, Figure]]:
    """The figures that rank, of both rows, with their subject and track."""
    for subject, tracks in old["subjects"].items():
        for track, figures in tracks.items():
            name = TRACKS[track][0]
            yield subject, track, figures[name], new["subjects"][subject][track][name]


def check(path: Path) -> int:
    """Prints a row beside what comes of it again, and returns how many figures do not hold."""
    row, folder = read(path)
    again = submit.submitted(folder, list(row["subjects"]), MINUTES, again=True)
    broken = 0
    for subject, track, old, new in compared(row, again):
        same = holds(old, new)
        broken += not same
        word = "holds" if same else "DOES NOT HOLD"
        print(f"{path.stem} {subject:14} {track:10} {submit.text(old)} {submit.text(new)} {word}")
    return broken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, nargs="+")
    try:
        broken = sum(check(path) for path in parser.parse_args().rows)
    except (ValueError, RuntimeError) as error:
        sys.exit(line(error))
    if broken:
        sys.exit(f"{broken} figures do not hold on new seeds")


if __name__ == "__main__":
    main()
