"""The page of the benchmark: its leaderboard, and how far its figures can be relied on.

`make submit METHOD=folder` measures a submission; those in results/leaderboard are shown. The table
is sorted and searched by DataTables, as that of the atlas.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from difflens_utils.bench import TRACKS, board
from difflens_utils.pages.figures import spoken
from workflow import verdicts
from workflow.execute import ROOT

ROWS = ROOT / "results/leaderboard"
RELIABILITY = ROOT / "results/bench/reliability.json"
# Thought to be bad before anything was measured: they should be the last.
BAD = ("random-units", "random-scores", "shuffled-difference", "wash-out", "everywhere-alike")
NAMED = 3  # of those that may be the first
COLUMNS = ("track", "subject", "method", "figure", "rank", "other figures")
TRACK, SUBJECT = 0, 1  # columns that filters are for
BODY = Template("""<link rel="stylesheet" href="_static/datatables/dataTables.dataTables.min.css">
<link rel="stylesheet" href="_static/atlas.css">
<div class="atlas" id="board" data-rows="rows">
<div class="filters">$filters</div>
<div class="listing"><table class="listed"><caption class="visually-hidden">Leaderboard</caption>
<thead><tr>$head</tr></thead>
<tbody>$rows</tbody></table></div>
</div>
<script src="_static/datatables/dataTables.min.js"></script>
<script src="_static/atlas.js"></script>""")
FILTER = Template("""<label>$label
<select data-answers="#board .listing" data-column="$column">$options</select></label>""")


def write(source: Path) -> None:
    """Writes what book/benchmark.md includes to the source of the book."""
    rows = board.load(ROWS) if ROWS.is_dir() else []
    shown = (
        f"```{{raw}} html\n{body(rows)}\n```" if rows else "No submission has been measured yet."
    )
    (source / "generated/leaderboard.md").write_text(shown + "\n")
    (source / "generated/leaderboard_first.md").write_text(first(rows) + "\n")
    (source / "generated/leaderboard_bad.md").write_text(bad(rows) + "\n")
    found = json.loads(RELIABILITY.read_text()) if RELIABILITY.exists() else None
    text = reliability(found) if found else "It has not been measured yet."
    (source / "generated/reliability.md").write_text(text + "\n")


def body(rows: Sequence[board.Row]) -> str:
    """The table of all submissions in all tracks on all subjects, as HTML."""
    subjects = _subjects(rows)
    lines = []
    for track in TRACKS:
        for subject in subjects:
            lines += _lines(rows, subject, track)
    filters = [_filter("track", TRACK, TRACKS)]
    if len(subjects) > 1:  # of one there is nothing to choose
        filters.append(_filter("subject", SUBJECT, subjects))
    return BODY.substitute(
        filters="\n".join(filters),
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        rows="\n".join(lines),
    )


def first(rows: Sequence[board.Row]) -> str:
    """Who may be the first of each track on each subject, the highest figure first, as a table."""
    lines = [["track", "subject", "may be the first"]]
    for track in TRACKS:
        for subject in _subjects(rows):
            if names := _firsts(rows, subject, track):
                lines.append([track, f"`{subject}`", names])
    return verdicts.table(lines)


def _firsts(rows: Sequence[board.Row], subject: str, track: str) -> str:
    ranks = board.ranked(rows, subject, track)
    own = [row for row in rows if ranks.get(row["submission"], (0, 0))[0] == 1]
    own.sort(key=lambda row: -_value(row, subject, track))
    names = [_plain(row["name"]) for row in own]
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return "; ".join(names[:NAMED] + more)


def bad(rows: Sequence[board.Row]) -> str:
    """Which ranks the BAD submissions have in their tracks, as a Markdown table."""
    subjects = _subjects(rows)
    lines = [["track", "method", *(f"`{subject}`" for subject in subjects)]]
    known = [row for row in rows if row["submission"] in BAD]
    for track in TRACKS:
        for row in known:
            if any(track in found for found in row["subjects"].values()):
                ranks = [_of_all(rows, subject, track, row["submission"]) for subject in subjects]
                lines.append([track, _plain(row["name"]), *ranks])
    return verdicts.table(lines)


def _of_all(rows: Sequence[board.Row], subject: str, track: str, submission: str) -> str:
    ranks = board.ranked(rows, subject, track)
    if submission not in ranks:
        return "–"
    best, worst = ranks[submission]
    return f"{_range(best, worst)} of {len(ranks)}"


def _range(best: int, worst: int) -> str:
    return f"{best}" if best == worst else f"{best} to {worst}"


def _subjects(rows: Sequence[board.Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["subjects"]))


def _filter(label: str, column: int, names: Sequence[str] | Mapping[str, object]) -> str:
    options = ['<option value="">any</option>']
    options += [f'<option value="^{name}$$">{name}</option>'.replace("$$", "$") for name in names]
    return FILTER.substitute(label=label, column=column, options="".join(options))


def _lines(rows: Sequence[board.Row], subject: str, track: str) -> list[str]:
    """The rows of a track on a subject, the best first."""
    ranks = board.ranked(rows, subject, track)
    own = [row for row in rows if row["submission"] in ranks]
    own.sort(key=lambda row: (ranks[row["submission"]], -_value(row, subject, track)))
    return [_line(row, subject, track, ranks[row["submission"]]) for row in own]


def _value(row: board.Row, subject: str, track: str) -> float:
    value = row["subjects"][subject][track][TRACKS[track][0]]["value"]
    return float("-inf") if value is None else float(value)


def _line(row: board.Row, subject: str, track: str, rank: tuple[int, int]) -> str:
    ranking = TRACKS[track][0]
    figures = row["subjects"][subject][track]
    others = [f"{spoken(name)} {_text(f)}" for name, f in figures.items() if name != ranking]
    method = _plain(row["name"])
    if row["link"].startswith(("https://", "http://")):
        method = f'<a href="{_plain(row["link"])}">{method}</a>'
    cells = (
        track,
        subject,
        f"<strong>{method}</strong><br>{_plain(row['about'])}",
        f"{spoken(ranking)} {_text(figures[ranking])}",
        _range(*rank),
        "<br>".join(others),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plain(text: str) -> str:
    """A text of somebody else in one line of HTML."""
    return html.escape(" ".join(text.split()))


def _text(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def reliability(found: Mapping[str, Any]) -> str:
    """How far each track's figure can be relied on, as a Markdown table."""
    lines = [
        ["track", "subject", "noise", "ceiling", "grows with", "correlation", "good above bad"]
    ]
    for row in found["rows"]:
        lines.append(
            [
                row["track"],
                f"`{row['subject']}`",
                f"{row['noise']:.3f}",
                "–" if row["ceiling"] is None else f"{row['ceiling']:.2f}",
                row["grows_with"],
                "–" if row["correlation"] is None else f"{row['correlation']:.2f}",
                f"{row['good']} {row['good_value']:.2f}, {row['bad']} {row['bad_value']:.2f}: "
                f"{row['apart']:.0%}",
            ]
        )
    return f"Version {found['version']}. Command: `{found['command']}`.\n\n{verdicts.table(lines)}"
