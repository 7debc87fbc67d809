"""Runs the blocks of the page *Build it in 100 lines* in order, and writes its figure.

    python -m workflow.scratch

The blocks are the fenced Python code of book/scratch.md. Those in a box *Check* compare the page
with the library, and a check that fails stops the run. The figure is book/_static/scratch.png.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from difflens_utils.runtime import torchvision
from workflow.execute import ROOT

PAGE = ROOT / "book/scratch.md"
TARGET = ROOT / "book/_static/scratch.png"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BOX = re.compile(r"^:::\{admonition\} Check\n.*?^:::$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code: what it says, its first line on the page, and whether it checks."""

    code: str
    line: int
    checks: bool


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    boxes = [range(*box.span()) for box in BOX.finditer(page)]
    return [
        Block(
            code=fence[1],
            line=page.count("\n", 0, fence.start(1)) + 1,
            checks=any(fence.start() in box for box in boxes),
        )
        for fence in FENCE.finditer(page)
    ]


def run(code: Sequence[Block], names: dict[str, Any]) -> None:
    """Executes blocks in one namespace; errors name the line of the page."""
    torchvision.mend()  # before the page imports diffusers
    for block in code:
        moved_down = "\n" * (block.line - 1) + block.code
        exec(compile(moved_down, str(PAGE), "exec", dont_inherit=True), names)


def main() -> None:
    os.chdir(ROOT)  # the page reads models/digits
    names: dict[str, Any] = {}
    run(blocks(PAGE.read_text()), names)
    names["figure"].savefig(TARGET, dpi=150)
    print(f"all checks of {PAGE.name} hold; its figure is {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
