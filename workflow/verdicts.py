"""The table of verdicts, made from result files and nothing else: for the terminal, the book and the README."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from workflow.execute import result_path, slug

HEADER = ("notebook", "claim", "measured", "target", "verdict")


def load(folder: Path) -> list[dict]:
    """The result files of one profile and subject, in the notebooks' order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9][0-9]_*.json"))]


def number(value: object) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def estimate(record: dict) -> str:
    """A record's value, with its 95 % interval where it has one."""
    if record.get("low") is None or record.get("high") is None:
        return number(record.get("value"))
    return f"{number(record['value'])} [{number(record['low'])}, {number(record['high'])}]"


def measured(verdict: dict, records: dict[str, dict]) -> str:
    """What a verdict rests on: the record it names, with its 95 % interval, or what it states itself."""
    record = records.get(verdict.get("record", ""), {})
    return number(verdict["measured"]) if "measured" in verdict else estimate(record)


def rows(results: list[dict]) -> list[tuple[str, ...]]:
    """One row per verdict, in the order of HEADER."""
    found = []
    for result in results:
        records = {record["name"]: record for record in result.get("records", [])}
        for verdict in result.get("verdicts", []):
            found.append((result["notebook"], verdict["claim"], measured(verdict, records),
                          number(verdict["target"]), verdict["verdict"]))
    return found


def markdown(results: list[dict], link: Callable[[str], str] = str) -> str:
    """A Markdown table; `link` turns a notebook's name into what its column shows."""
    lines = [HEADER, tuple("---" for _ in HEADER), *((link(first), *rest) for first, *rest in rows(results))]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def text(results: list[dict]) -> str:
    """The same table for a terminal."""
    lines = [HEADER, *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="book")
    parser.add_argument("--subject", default="portraits")
    args = parser.parse_args()
    for subject in args.subject.split(","):
        print(f"\nVerdicts: subject {slug(subject)}, profile {args.profile}\n")
        print(text(load(result_path(args.profile, subject, "").parent)), end="\n\n")


if __name__ == "__main__":
    main()
