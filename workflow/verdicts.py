"""The verdicts, made from result files alone: for the terminal, the book and the README."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from difflens_utils.metrics.intervals import MARK, WHY, explained
from difflens_utils.pages.scorecard import UNTESTED, Row, estimate, number
from difflens_utils.pages.scorecard import scorecard as judged
from workflow.execute import result_path, slug, subjects_of

HEADER = ("notebook", "claim", "measured", "target", "verdict")
WIDTH = 110  # characters of a line of the scorecard's Markdown

Result = dict[str, Any]


def load(folder: Path) -> list[Result]:
    """The result files of one profile and subject, in the notebooks' order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9][0-9]_*.json"))]


def measured(verdict: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]]) -> str:
    """The record that a verdict names, with its interval, or what the verdict states itself."""
    if "measured" in verdict:
        return number(verdict["measured"])
    return estimate(records.get(verdict.get("record", ""), {}))


def with_close(verdict: str, close: bool) -> str:
    """A verdict, marked where its figure lies within noise of its target."""
    return f"{verdict} (close)" if close else verdict


def rows(results: list[Result]) -> list[tuple[str, ...]]:
    """One row per verdict, in the order of HEADER."""
    lines: list[tuple[str, ...]] = []
    for result in results:
        records = {record["name"]: record for record in result.get("records", [])}
        for verdict in result.get("verdicts", []):
            line = (
                result["notebook"],
                verdict["claim"],
                measured(verdict, records),
                number(verdict["target"]),
                with_close(verdict["verdict"], verdict.get("close", False)),
            )
            lines.append(line)
    return lines


def markdown(results: list[Result], link: Callable[[str], str] = str) -> str:
    """A Markdown table; `link` turns a notebook's name into what its column shows."""
    lines = [HEADER, tuple("---" for _ in HEADER)]
    lines += [(link(notebook), *rest) for notebook, *rest in rows(results)]
    table = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return explained("\n".join(f"| {line} |" for line in table))


def scorecard(results: Mapping[str, list[Result]], link: Callable[[str], str] = str) -> str:
    """The paper's claims in Markdown, each followed by a sentence per subject.

    `results` are the result files of each subject, and `link` turns a notebook's name into what is
    shown. Empty if nothing was measured of any claim.
    """
    cards = {
        subject: judged({result["notebook"]: result for result in files})
        for subject, files in results.items()
    }
    if all(row.verdict == UNTESTED for card in cards.values() for row in card):
        return ""
    entries = []
    for claim in zip(*cards.values(), strict=True):
        lines = [_claim(claim[0], link)]
        lines += [_finding(subject, row) for subject, row in zip(cards, claim, strict=True)]
        entries.append("\n".join(lines))
    if any(MARK in entry for entry in entries):
        entries.append(_wrapped(WHY))
    return "\n\n".join(entries)


def _claim(row: Row, link: Callable[[str], str]) -> str:
    """What the paper claims, and where this study measures it."""
    where = f"{link(row.notebook)}, *{row.section}*"
    return _wrapped(f"**{row.id}. {row.claim}.** The paper: {row.paper}. Here: {where}.") + "\n"


def _finding(subject: str, row: Row) -> str:
    """What was measured on one subject."""
    verdict = f"*{with_close(row.verdict, row.close)}*"
    return _wrapped(f"- `{subject}`: {verdict}. {row.ours}", indent="  ")


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def text(results: list[Result]) -> str:
    """The table of `markdown` for a terminal."""
    lines = [HEADER, *rows(results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    shown = []
    for line in lines:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        shown.append("  ".join(padded).rstrip())
    return explained("\n".join(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="book")
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    args = parser.parse_args()
    for subject in subjects_of(args.subject):
        print(f"\nVerdicts: subject {slug(subject)}, profile {args.profile}\n")
        print(text(load(result_path(args.profile, subject, "").parent)), end="\n\n")


if __name__ == "__main__":
    main()
