"""The leaderboard: what was measured of each submission, and which ranks the noise allows.

A submission is better than another where its figure is the higher one in 39 of 40 resamples of the
same images. It may have every rank between those of the ones that are surely better and surely
worse.

>>> import numpy as np
>>> from difflens_utils.bench import board
>>> draws = {"a": np.array([0.9, 0.8, 0.9]), "b": np.array([0.8, 0.9, 0.7]), "c": np.zeros(3)}
>>> board.ranks(draws)
{'a': (1, 2), 'b': (1, 2), 'c': (3, 3)}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics import Array, Estimate
from ..runtime.artifacts import atomic
from ..runtime.errors import line
from . import TRACKS, VERSION
from .submission import Submission

SURE = 0.975
KEPT, DIGITS = 400, 4  # resamples that a file holds, and their digits
Row = dict[str, Any]


def row(
    submission: Submission,
    figures: Mapping[str, Mapping[str, Mapping[str, Estimate]]],
    about: Mapping[str, Any],
) -> Row:
    """What the file of a submission holds, of figures {subject: {track: {figure: estimate}}}."""
    card = submission.card
    subjects = {
        subject: {track: _plain(found, TRACKS[track][0]) for track, found in tracks.items()}
        for subject, tracks in figures.items()
    }
    return {
        "version": VERSION,
        "submission": submission.slug,
        "name": card.name,
        "about": card.about,
        "by": card.by,
        "link": card.link,
        "fingerprint": submission.fingerprint(),
        **about,
        "subjects": subjects,
    }


def _plain(figures: Mapping[str, Estimate], ranking: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, estimate in figures.items():
        numbers: dict[str, Any] = {key: _number(value) for key, value in estimate.numbers().items()}
        if name == ranking and estimate.draws is not None:
            numbers["draws"] = [_number(draw) for draw in estimate.draws[:KEPT]]
        plain[name] = numbers
    return plain


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DIGITS)


def save(content: Row, folder: Path) -> Path:
    """Writes the file of a submission into the folder of all."""
    path = folder / f"{content['submission']}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, separators=(",", ":")) + "\n")
    return path


def load(folder: Path) -> list[Row]:
    """The rows of this version. Raises ValueError, in one line, for a damaged file."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            if content["version"] == VERSION:
                rows.append(content)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name} is no row of the leaderboard: {line(error)}") from None
    return rows


def draws(rows: Sequence[Row], subject: str, track: str) -> dict[str, Array]:
    """The resamples of the figure that ranks, of each row that has it: {submission: (R,)}.

    What was not reached counts below everything that was.
    """
    found = {}
    for content in rows:
        figures = content["subjects"].get(subject, {}).get(track)
        if figures:
            figure = figures[TRACKS[track][0]]
            values = figure.get("draws") or [figure["value"]] * KEPT
            found[content["submission"]] = np.array(
                [-np.inf if value is None else value for value in values]
            )
    return found


def ranked(rows: Sequence[Row], subject: str, track: str) -> dict[str, tuple[int, int]]:
    """The `ranks` of the rows that have a track on a subject."""
    return ranks(draws(rows, subject, track))


def ranks(found: Mapping[str, Array]) -> dict[str, tuple[int, int]]:
    """The best and the worst rank that each may have, from 1: {submission: (best, worst)}."""
    result = {}
    for name, own in found.items():
        others = [other for key, other in found.items() if key != name]
        above = sum((other > own).mean() >= SURE for other in others)
        below = sum((own > other).mean() >= SURE for other in others)
        result[name] = (1 + int(above), len(found) - int(below))
    return result
