"""The table of verdicts, made from result files and nothing else: for the terminal, the book and the README."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from difflens_utils.intervals import explained
from difflens_utils.scorecard import estimate, number
from workflow.execute import result_path, slug, subjects_of

HEADER = ("notebook", "claim", "measured", "target", "verdict")


def load(folder: Path) -> list[dict]:
    """The result files of one profile and subject, in the notebooks' order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9][0-9]_*.json"))]


def measured(verdict: dict, records: dict[str, dict]) -> str:
    """What a verdict rests on: the record it names, with its 95 % interval, or what it states itself."""
    record = records.get(verdict.get("record", ""), {})
    return number(verdict["measured"]) if "measured" in verdict else estimate(record)


def with_close(judged: dict) -> str:
    """A verdict, marked where its figure lies within noise of its target."""
    return judged["verdict"] + (" (close)" if judged.get("close") else "")


def rows(results: list[dict]) -> list[tuple[str, ...]]:
    """One row per verdict, in the order of HEADER."""
    found = []
    for result in results:
        records = {record["name"]: record for record in result.get("records", [])}
        for verdict in result.get("verdicts", []):
            found.append(
                (
                    result["notebook"],
                    verdict["claim"],
                    measured(verdict, records),
                    number(verdict["target"]),
                    with_close(verdict),
                )
            )
    return found


def markdown(results: list[dict], link: Callable[[str], str] = str) -> str:
    """A Markdown table; `link` turns a notebook's name into what its column shows."""
    table = _markdown(HEADER, [(link(first), *rest) for first, *rest in rows(results)])
    return explained(table)


def scorecard(results: Mapping[str, list[dict]], link: Callable[[str], str] = str) -> str:
    """The paper's claims as a Markdown table with a column per subject: {subject: result files}; empty if no notebook judged them."""
    scored = {
        subject: {row["id"]: row for result in own for row in result.get("scorecard", [])}
        for subject, own in results.items()
    }
    scored = {subject: rows for subject, rows in scored.items() if rows}
    if not scored:
        return ""
    here = ["here"] if len(scored) == 1 else [f"`{subject}`" for subject in scored]
    lines = []
    for claim, row in next(iter(scored.values())).items():
        found = [
            f"**{with_close(r)}**: {r['ours'].replace('_', ' ')}"
            for r in (rows[claim] for rows in scored.values())
        ]
        lines.append(
            (
                claim,
                f"{row['claim']} ({link(row['notebook'])}, *{row['section']}*)",
                row["paper"],
                *found,
            )
        )
    return explained(_markdown(("", "claim", "the paper", *here), lines))


def _markdown(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def text(results: list[dict]) -> str:
    """The same table for a terminal."""
    lines = [HEADER, *rows(results)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    lines.insert(1, tuple("-" * width for width in widths))
    shown = (zip(line, widths, strict=True) for line in lines)
    table = "\n".join("  ".join(c.ljust(w) for c, w in line).rstrip() for line in shown)
    return explained(table)


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
