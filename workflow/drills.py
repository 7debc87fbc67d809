"""The page of the drills: what was broken on purpose, and what came of it.

`make drill` runs them, and writes results/drills.json.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow import verdicts

DRILLS = "kills damage places together inputs outside memory precision dependencies".split()


def write(found: Mapping[str, Any], source: Path) -> None:
    """Writes what book/drills.md includes to the source of the book."""
    generated = source / "generated"
    (generated / "drills_table.md").write_text(table(found) + "\n")
    (generated / "drills_sum.md").write_text(summed(found) + "\n")
    (generated / "drills_licences.md").write_text(licences(found) + "\n")
    (generated / "drills_commands.md").write_text(commands(found) + "\n")


def _ok(row: Mapping[str, Any]) -> bool | None:
    return row["passed"] == row["tried"] if row["tried"] else None


def table(found: Mapping[str, Any]) -> str:
    """What was done, how often, and what came of it, as a Markdown table."""
    lines = [["what was done", "case", "as it should", "of", "what came of it"]]
    for entry in found.values():
        for row in entry["rows"]:
            passed = str(row["passed"]) if row["tried"] else "–"
            shown = f"**{passed}**" if _ok(row) is False else passed
            tried = str(row["tried"] or "–")
            lines.append([row["drill"], row["case"], shown, tried, row["note"]])
    return verdicts.table([[_cell(text) for text in line] for line in lines])


def _cell(text: str) -> str:
    """A text that is no HTML, whose paths may break: else the table is wider than the page."""
    return text.replace("<", "&lt;").replace("/", "/<wbr>")


def summed(found: Mapping[str, Any]) -> str:
    """How many cases went as they should, in a sentence."""
    rows = [row for entry in found.values() for row in entry["rows"]]
    number = Counter(map(_ok, rows))
    tried = sum(row["tried"] for row in rows)
    passed = sum(row["passed"] for row in rows)
    told = f"**{passed} of {tried} trials went as they should**, in {number[True]} of "
    told += f"{number[True] + number[False]} cases."
    if number[None]:
        told += f" {number[None]} could not be tried where this was measured."
    if missing := [name for name in DRILLS if not found.get(name, {}).get("ended")]:
        told += f" Not run yet, or not to their end: {', '.join(missing)}."
    return told


def licences(found: Mapping[str, Any]) -> str:
    """How many of the packages have which licence, as a Markdown table."""
    named = found.get("dependencies", {}).get("licences", {})
    if not named:
        return "Licences were not listed."
    packages: dict[str, list[str]] = {}
    for name, licence in named.items():
        packages.setdefault(licence or "it names none", []).append(name)
    ordered = sorted(packages.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    lines = [["licence, as the package names it", "packages", "which"]]
    for licence, names in ordered:
        lines.append([_cell(licence), str(len(names)), ", ".join(sorted(names))])
    return verdicts.table(lines)


def commands(found: Mapping[str, Any]) -> str:
    """The command of each drill, the commit it ran on, and how long it took."""
    lines = [["command", "commit", "minutes"]]
    for entry in found.values():
        minutes = f"{entry['seconds'] / 60:.1f}"
        lines.append([f"`{entry['command']}`", entry["commit"], minutes])
    return verdicts.table(lines)
