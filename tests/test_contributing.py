"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the repository."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from difflens_utils.subjects import registry

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("difflens_utils", "notebooks", "tests", "workflow")
FENCE = re.compile(r"^```(\w+) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Runs a notebook of the copy on a tiny model, and prints its result file.
DRIVER = """
import json, sys
from pathlib import Path

import difflens_utils  # before diffusers, as in conftest.py
import pytest
import test_all_notebooks
import tiny_studies

name = sys.argv[1]
with pytest.MonkeyPatch.context() as patch:
    study = test_all_notebooks.prepare("one attribute", Path("tiny").resolve(), patch)
    tiny_studies.run(name, study.values(name))
    print(json.dumps(study.result(name)))
"""


class Block(NamedTuple):
    """A fenced block of a recipe: its language, what stands behind that, and its text."""

    language: str
    place: str
    text: str


def blocks(recipe: str) -> list[Block]:
    """The fenced blocks of the recipe with this heading, in order."""
    document = (ROOT / "CONTRIBUTING.md").read_text()
    sections = re.split(r"^#{2,3} (.+)\n", document, flags=re.MULTILINE)
    titles, texts = sections[1::2], sections[2::2]
    section = dict(zip(titles, texts, strict=True))[recipe]
    return [Block(*found) for found in FENCE.findall(section)]


def patched(content: str, diff: str) -> str:
    """The content with the lines of a diff exchanged; lines without any context are appended."""
    lines = diff.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] in " -")
    new = "".join(line[1:] for line in lines if line[0] in " +")
    if not old:
        return content + new
    assert content.count(old) == 1, f"the context must stand there once: {old}"
    return content.replace(old, new)


def follow(recipe: str, copy: Path) -> None:
    """Write the files, lines and cells of a recipe."""
    cells = []
    for block in blocks(recipe):
        path = copy / block.place
        if block.place.startswith("cell"):
            cells.append(cell(block))
        elif block.language == "diff":
            path.write_text(patched(path.read_text(), block.text))
        elif block.place:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    if cells:
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
        notebook = new_notebook(cells=cells, metadata=metadata)
        nbformat.write(notebook, copy / "notebooks/10_brightness.ipynb")


def cell(block: Block) -> nbformat.NotebookNode:
    """A block as a cell of a notebook, with its tags."""
    source = block.text.rstrip()
    if block.language == "markdown":
        return new_markdown_cell(source)
    tags = block.place.split()[1:]
    return new_code_cell(source, metadata={"tags": tags} if tags else {})


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the recipes change; the models are only read."""
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "models").symlink_to(ROOT / "models")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def python(copy: Path, *arguments: str) -> str:
    """What a Python of the copy's own code prints."""
    path = os.pathsep.join(map(str, (copy, copy / "tests")))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("failing", ["check", "from_text", "book", "test", ""])
def test_continuous_integration_names_the_step_that_failed(tmp_path: Path, failing: str) -> None:
    """With a `make` that fails at one target, and a Python that fails or does nothing."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "made $1"\ntest "$1" != "{failing}"\n')
    make.chmod(0o755)
    executes = tmp_path / ".venv/bin/python"
    executes.parent.mkdir(parents=True)
    executes.write_text(f'#!/bin/sh\necho "executed $*"\ntest "{failing}" != from_text\n')
    executes.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [tmp_path / ".ci/run"], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    step = {"test": "tests", "from_text": "from_text"}.get(failing, f"make {failing}")
    assert bool(done.returncode) is bool(failing)
    assert (f"== failed: {step}" in done.stdout) is bool(failing)
    assert ("executed workflow/execute.py 00_bias" in done.stdout) is (failing != "check")
    assert ("made book" in done.stdout) is (failing not in ("check", "from_text"))
    assert ("== tests: " in done.stdout) is (not failing)  # how long it took


def result(copy: Path, notebook: str) -> dict[str, Any]:
    """The result file of a notebook of the copy, on a tiny model."""
    return json.loads(python(copy, "-c", DRIVER, notebook).splitlines()[-1])


def test_a_recipe_is_read_with_its_files_and_its_lines() -> None:
    places = {block.place: block.language for block in blocks("Add a subject") if block.place}
    assert places == {"models/blocks/export.py": "python", "models/blocks/study.yml": "yaml"}
    assert patched("a\nb\n", " a\n+c\n") == "a\nc\nb\n"
    assert patched("a\nb\n", "-a\n+c\n") == "c\nb\n"
    assert patched("a\n", "+c\n") == "a\nc\n"


def test_a_method_is_a_row_of_every_table(copy: Path) -> None:
    follow("Add a method", copy)
    names = {record["name"] for record in result(copy, "06_debiasing")["records"]}
    assert {"shape.late_difference.fd", "shape.late_difference.clip_i"} <= names


def test_a_folder_is_a_subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a few images for each training."""
    follow("Add a subject", tmp_path)
    monkeypatch.chdir(tmp_path)
    (commands,) = [block.text for block in blocks("Add a subject") if block.language == "bash"]
    for command in commands.splitlines():
        _, *words = shlex.split(command)
        module = words[0] == "-m"
        script, *arguments = words[module:]
        monkeypatch.setattr("sys.argv", [script, *map(fewer, arguments)])
        if module:
            importlib.import_module(script).main()
        else:
            runpy.run_path(script, run_name="__main__")
    study = registry.load("models/blocks", "cpu")
    assert study.planted("tint").tolist() == pytest.approx([0.8, 0.2])
    assert study.labeller.factors == {"tint": ("dark", "light"), "shape": ("disc", "square")}


def fewer(argument: str) -> str:
    """An argument of a recipe's command, with 512 in the place of thousands of images."""
    return "512" if argument.isdecimal() and int(argument) > 1000 else argument


def test_a_notebook_and_its_rule_end_in_a_verdict(copy: Path) -> None:
    follow("Add a notebook", copy)
    follow("Add a verdict rule", copy)
    python(copy, "-m", "pytest", "-q", "tests/test_notebooks.py", "-k", "10_brightness")
    (verdict,) = result(copy, "10_brightness")["verdicts"]
    assert verdict["says"] == "images are not black"
    assert verdict["holds"] and verdict["stability"] == 1
