"""The page on speed and memory: how fast the study is, and where its time goes.

`make bench` writes results/bench.json, and `python -m bench.timing` results/profile.json.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difflens_utils.pages.scorecard import number
from workflow import verdicts
from workflow.execute import ROOT

PROFILE = ROOT / "results/profile.json"
MET = {True: "yes", False: "**no**", None: "not measured"}
FIGURES = ("ours", "beside", "ratio", "target")


def write(bench: Mapping[str, Any], source: Path) -> None:
    """Writes the page to the source of the book."""
    profiled = json.loads(PROFILE.read_text()) if PROFILE.exists() else {}
    (source / "bench.md").write_text(page(bench, profiled))


def page(bench: Mapping[str, Any], profiled: Mapping[str, Any]) -> str:
    """The table of `make bench` with the notes to its rows, the profiles, and the machine."""
    lines = [["what", *FIGURES, "met", "note"]]
    notes: list[str] = []
    for row in bench["rows"]:
        figures = ["–" if row[name] is None else number(row[name]) for name in FIGURES]
        if row.get("note"):
            notes.append(f"{len(notes) + 1}. {row['note']}")
        noted = str(len(notes)) if row.get("note") else ""
        lines.append([row["what"], *figures, MET[row["met"]], noted])
    environment = [f"- {name}: {value}" for name, value in bench["environment"].items() if value]
    blocks = [
        "# Speed and memory",
        "Measured by `make bench`: one run, medians, ratios beside the same work done by "
        "others. Ratios carry over to other machines, absolute figures do not.",
        verdicts.table(lines),
        "\n".join(notes),
        "## Measured on",
        "\n".join(environment),
        *profiles(profiled),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def profiles(profiled: Mapping[str, Any]) -> list[str]:
    """Where the time of each subject's notebooks goes, as blocks of Markdown."""
    if not profiled:
        return []
    blocks = [
        "## Where the time goes",
        "Seconds of one thread in each notebook, by what it was doing, with an empty store before "
        "the first: each notebook finds what the ones before it have made, and what ships. Passes "
        "of the network count as sampling, but for those of attribution. A "
        "profiler looked twenty times a second, so figures below a second say little.",
    ]
    for subject, found in profiled.items():
        environment = found["environment"]
        blocks += [
            f"### {subject}",
            by_kind(found["seconds"]),
            f"Command: `{found['command']}`, on {environment['processor']}, "
            f"{environment['precision']}.",
        ]
    return blocks


def by_kind(seconds: Mapping[str, Mapping[str, float]]) -> str:
    """Kinds of work, the largest first, by the numbers of notebooks, as a Markdown table."""
    total: Counter[str] = Counter()
    for found in seconds.values():
        total.update(found)
    whole = sum(total.values())
    lines = [["notebook", *(notebook[:2] for notebook in seconds), "all", "%"]]
    for kind, spent in total.most_common():
        shown = [f"{found.get(kind, 0):.0f}" for found in seconds.values()]
        lines.append([kind, *shown, f"{spent:.0f}", f"{100 * spent / whole:.0f}"])
    sums = [f"{sum(found.values()):.0f}" for found in seconds.values()]
    lines.append(["all", *sums, f"**{whole:.0f}**", "100"])
    return verdicts.table(lines)
