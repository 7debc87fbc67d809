"""The table of the page on pipelines.

`python tests/doors.py` measures it, and writes results/pipelines.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workflow import verdicts


def write(found: Mapping[str, Any], source: Path) -> None:
    """Writes what book/pipelines.md includes to the source of the book."""
    (source / "generated/pipelines_table.md").write_text(table(found) + "\n")


def table(found: Mapping[str, Any]) -> str:
    """The pipelines as a Markdown table."""
    lines = [["pipeline", "door", "h by default", "modules", "difference"]]
    for row in found["rows"]:
        name = row["pipeline"].removesuffix("Pipeline")
        files = row["files"].replace('"', "")
        lines.append(
            [
                f"{name}, {files}" if files else name,
                row["door"].removesuffix(" sampler"),
                f"{row['module']}: {'×'.join(map(str, row['h']))}",
                str(row["modules"]),
                f"{row['difference']:.0e}" if row["difference"] else "0",
            ]
        )
    return verdicts.table(lines)
