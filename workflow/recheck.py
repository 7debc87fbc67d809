"""Measures rows of the leaderboard once more, and says which figures hold:

    python -m workflow.recheck results/leaderboard/my-method.json

A row is of the folder of its name in submissions/, as that is now. Images come from a stream of
seeds that is drawn when this starts, so nobody can have looked at them. A figure holds if its
interval and the new one have something in common. What latents and blocks do is measured once per
version, so of *attribute* and *locate* this tells whether the row can be reproduced. A pull request
that brings rows is checked so.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from difflens_utils.bench import TRACKS, VERSION, board, seeds
from difflens_utils.bench.submission import Submission
from difflens_utils.runtime.errors import line
from workflow import submit
from workflow.execute import ROOT

MINUTES = 60  # of a runner that may be slow
NEAR = 0.3  # of an interval: a row holds only the first resamples, whose ends are others
Figure = Mapping[str, Any]


def read(path: Path) -> tuple[board.Row, Path]:
    """A row, and the folder of its submission.

    Raises ValueError, in one line, for a row of another version or of other files, and for one that
    contradicts itself.
    """
    rows = [row for row in board.load(path.parent) if row["submission"] == path.stem]
    if not rows:
        raise ValueError(f"{path} is no row of version {VERSION}")
    row, folder = rows[0], ROOT / "submissions" / path.stem
    submission = Submission.read(folder)
    if submission.fingerprint() != row["fingerprint"]:
        raise ValueError(f"{path.stem}: its files are not those that the row was measured with")
    for name in ("name", "about", "by", "link"):
        if row[name] != getattr(submission.card, name):
            raise ValueError(f"{path.stem}: {name} is not that of method.yml")
    for subject, track, figure in ranking(row):
        if not consistent(figure):
            raise ValueError(f"{path.stem}: {track} on {subject} is not what its resamples say")
    return row, folder


def ranking(row: board.Row) -> Iterator[tuple[str, str, Figure]]:
    """The figure that ranks, of each subject and track.

    Raises ValueError for tracks that there are not.
    """
    for subject, tracks in row["subjects"].items():
        for track, figures in tracks.items():
            if subject not in submit.SUBJECTS or track not in TRACKS:
                raise ValueError(f"{row['submission']}: there is no {track} on {subject}")
            yield subject, track, figures[TRACKS[track][0]]


def consistent(figure: Figure) -> bool:
    """Whether value, interval and resamples of a figure belong together."""
    draws = [draw for draw in figure.get("draws", ()) if draw is not None]
    if figure["value"] is None or not draws:
        return True
    low, high = np.quantile(draws, [0.025, 0.975])
    most = NEAR * (high - low) + 0.02
    near = abs(low - figure["low"]) <= most and abs(high - figure["high"]) <= most
    return bool(near and min(draws) <= figure["value"] <= max(draws))


def holds(old: Figure, new: Figure) -> bool:
    """Whether two intervals have something in common; what was not reached has none."""
    if old["value"] is None or new["value"] is None:
        return old["value"] is new["value"]
    return bool(old["low"] <= new["high"] and new["low"] <= old["high"])


def check(path: Path, stream: int) -> int:
    """Prints a row beside what comes of it again, and returns how many figures do not hold."""
    row, folder = read(path)
    again = submit.submitted(folder, list(row["subjects"]), MINUTES, stream)
    broken = 0
    for subject, track, old in ranking(row):
        new = again["subjects"][subject][track][TRACKS[track][0]]
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
    rows = parser.parse_args().rows
    stream = seeds.TRIAL + secrets.randbelow(seeds.TRIALS)
    print(f"Seeds of stream {stream}")
    failed = []
    for path in rows:
        try:
            if broken := check(path, stream):
                failed.append(f"{path.stem}: {broken} figures do not hold on new seeds")
        except (ValueError, RuntimeError) as error:
            failed.append(line(error))
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
