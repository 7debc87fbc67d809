"""The examples of the documentation that execute a notebook: seconds, once `make book` is done.

`make test` runs them; pytest alone does not collect this file. What no book was built for is
skipped.
"""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 120  # seconds of CPU time
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
BUILT = ROOT / "_build/executed/book"


def examples() -> list[list[str]]:
    """The arguments of every notebook that README or how-to execute, of a model that ships."""
    texts = [(ROOT / name).read_text() for name in ("README.md", "book/howto.md")]
    lines = [line for text in texts for block in BLOCK.findall(text) for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    of_notebooks = [words[2:] for words in commands if words[1:2] == ["workflow/execute.py"]]
    return [words for words in of_notebooks if (ROOT / "models" / subject_of(words)).is_dir()]


def subject_of(arguments: list[str]) -> str:
    return arguments[arguments.index("--subject") + 1]


def spent() -> float:
    """The CPU seconds of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_there_are_examples() -> None:
    assert {words[0] for words in examples()} >= {"00_bias", "05_interventions"}


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_an_example_takes_less_than_two_minutes_after_the_book(arguments: list[str]) -> None:
    if not (BUILT / subject_of(arguments) / f"{arguments[0]}.ipynb").exists():
        pytest.skip(f"make book has not executed {arguments[0]} of {subject_of(arguments)} here")
    before = spent()
    done = subprocess.run(
        [sys.executable, "workflow/execute.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=10 * LIMIT,  # of a machine that does other things too
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert spent() - before < LIMIT
