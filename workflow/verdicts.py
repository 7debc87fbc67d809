"""The verdicts, made from result files alone: for the terminal, the book and the README."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from difflens_utils.pages import scorecard as cards
from difflens_utils.pages.scorecard import CLAIMS, Line, Statement
from workflow.execute import result_path, slug, subjects_of

FIGURES = ("measured", "asked", "by chance", "verdict", "stability")
COUNTED = ("claim", "statement", "notebook", *FIGURES)
CHECKS = ("check", "notebook", *FIGURES)

Results = Mapping[str, Mapping[str, Any]]  # the result files of one subject, {notebook: result}
Rows = list[tuple[str, ...]]


def load(folder: Path) -> dict[str, dict[str, Any]]:
    """The result files of one profile and subject, {notebook: result}, in the notebooks' order."""
    files = sorted(folder.glob("[0-9][0-9]_*.json"))
    return {path.stem: json.loads(path.read_text()) for path in files}


def rows(results: Results, link: Callable[[str], str] = str) -> tuple[Rows, Rows]:
    """The statements of all claims, in the claims' order, and the checks, each below a header.

    `link` turns a notebook's name into what its column shows.
    """
    known = cards.statements(results)
    counted: Rows = [COUNTED]
    for claim in CLAIMS:
        own = [one for one in known if one.verdict.claim == claim.id]
        counted += [(claim.id, *_row(one, link)) for one in own]
    checks = [_row(one, link) for one in known if not one.verdict.counts]
    return counted, [CHECKS, *checks]


def _row(one: Statement, link: Callable[[str], str]) -> tuple[str, ...]:
    verdict = one.verdict
    stability = "" if verdict.stability is None else f"{100 * verdict.stability:.0f} %"
    figures = (one.measured, verdict.asks, one.chance, verdict.in_words, stability)
    return (verdict.says, link(one.notebook), *figures)


def markdown(results: Results, link: Callable[[str], str] = str) -> str:
    """The statements that count as a Markdown table, and the checks, which do not, as another."""
    counted, checks = (table(found) for found in rows(results, link))
    return f"{counted}\n\nChecks, which belong to no claim:\n\n{checks}"


def scorecard(results: Mapping[str, Results], link: Callable[[str, str], str]) -> str:
    """One row per claim: how many of its statements hold on each subject, and what was found.

    `results` are the result files of each subject; the sentences are about the first one. `link`
    makes a link to a notebook, of its name and a text. Empty if nothing was judged.
    """
    judged = {subject: cards.scorecard(files) for subject, files in results.items()}
    if not any(line.statements for lines in judged.values() for line in lines):
        return ""
    subjects = [f"`{subject}`" for subject in judged]
    rows_: Rows = [(*subjects, f"claim, and what {subjects[0]} shows of it")]
    for lines in zip(*judged.values(), strict=True):
        claim = lines[0].claim
        said = [f"**{link(claim.notebook, claim.id)} {claim.text}.**", *lines[0].ours[:1]]
        rows_.append((*map(_count, lines), " ".join(said)))
    return table(rows_)


def _count(line: Line) -> str:
    """How many statements hold, in bold where all do."""
    holds_whole = line.statements and len(line.that(cards.HOLDS)) == len(line.statements)
    return f"**{line.verdict}**" if holds_whole else line.verdict


def table(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, whose first line is its header."""
    shown = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    shown.insert(1, " | ".join("---" for _ in lines[0]))
    return "\n".join(f"| {line} |" for line in shown)


def text(results: Results) -> str:
    """The tables of `markdown` for a terminal."""
    return "\n\n".join(_aligned(found) for found in rows(results))


def _aligned(lines: Rows) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    ruled = [lines[0], tuple("-" * width for width in widths), *lines[1:]]
    shown = []
    for line in ruled:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        shown.append("  ".join(padded).rstrip())
    return "\n".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="book")
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    args = parser.parse_args()
    for subject in subjects_of(args.subject):
        print(f"\nVerdicts: subject {slug(subject)}, profile {args.profile}\n")
        try:
            print(text(load(result_path(args.profile, subject, "").parent)), end="\n\n")
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
