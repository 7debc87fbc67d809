"""What every notebook of the study keeps to, and that these checks catch one that does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workflow.execute import parameters

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COMMON: dict[str, object] = {"subject": "portraits", "settings": {}}
DEFINES = re.compile(r"^\s*def |\blambda\b", re.MULTILINE)
ABSOLUTE = re.compile(
    r"""(?<![\w.<])(?:["'`](?:/|[A-Z]:\\)\w|/(?:home|root|Users|tmp|mnt|usr|var)/)"""
)
LONGEST = 12  # lines of a code cell
SHORT = 5  # lines, of half of the code cells at least
COLUMNS = 100
WORDS = 10  # of text per line of code, at least
# Words of this study that a reader may not know: text explains them before code uses them.
PRIVATE = (
    "arm",
    "bias feature",
    "class difference",
    "labeller",
    "leak",
    "matched",
    "plan",
    "scorer",
    "search",
    "stranger",
    "unit",
)


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def unreadable(notebook: nbformat.NotebookNode) -> list[str]:
    """What keeps a reader from following a notebook without looking anything up."""
    found = []
    cells = notebook.cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    text = [cell.source for cell in cells if cell.cell_type == "markdown"]
    for cell, following in zip(cells, cells[1:], strict=False):
        checked = tagged(cell, "solution") and tagged(following, "check")
        if cell.cell_type == following.cell_type == "code" and not checked:
            first = following.source.partition("\n")[0]
            found.append(f"no word stands between two code cells: {first}")
    lines = [source.count("\n") + 1 for source in code]
    if 2 * sum(count <= SHORT for count in lines) < len(lines):
        found.append(f"fewer than half of the code cells have at most {SHORT} lines")
    words = len(re.findall(r"\w+", " ".join(text)))
    if words < WORDS * sum(lines):
        found.append(f"there are fewer than {WORDS} words per line of code")
    said = ""
    for cell in cells:
        if cell.cell_type == "markdown":
            said += cell.source.lower()
        elif not tagged(cell, "parameters") and "study.page(" not in cell.source:
            used = cell.source.lower().replace("_", " ")
            found += [
                f"code uses a word that no text has explained: {word}"
                for word in PRIVATE
                if re.search(rf"\b{word}s?\b", used) and word not in said
            ]
    return found


def violations(notebook: nbformat.NotebookNode) -> list[str]:
    """Everything that is wrong with a notebook as it is committed."""
    found = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not notebook.cells or notebook.cells[0].cell_type != "markdown":
        found.append("the first cell is not a card in markdown")
    if sum(tagged(cell, "parameters") for cell in code) != 1:
        return [*found, "there is not exactly one cell tagged parameters"]
    known = parameters(notebook)
    found += [f"parameter {p.name} has no comment" for p in known.values() if not p.comment]
    found += [f"parameter {p.name} has no type" for p in known.values() if not p.type]
    found += [
        f"parameter {name} must default to {default!r}"
        for name, default in COMMON.items()
        if name not in known or known[name].default != default
    ]
    if not any(tagged(cell, "nbval-check-output") for cell in code):
        found.append("no cell is tagged nbval-check-output")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        found.append("the kernel is not python3")
    for cell in code:
        first = cell.source.partition("\n")[0]
        if cell.source.count("\n") + 1 > LONGEST:
            found.append(f"a cell has more than {LONGEST} lines: {first}")
        if any(len(line) > COLUMNS for line in cell.source.splitlines()):
            found.append(f"a line of code has more than {COLUMNS} columns: {first}")
        if DEFINES.search(cell.source) and not tagged(cell, "taught"):
            found.append(f"a function is defined, and not taught: {first}")
        if cell.outputs and not tagged(cell, "nbval-check-output"):
            found.append(f"a cell without the tag nbval-check-output holds outputs: {first}")
        if (cell.execution_count is None) == bool(
            cell.outputs
        ):  # nbval refuses outputs without a count
            found.append(f"an execution count without outputs, or outputs without a count: {first}")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"a checked cell prints to stderr, which differs from run to run: {first}")
    found += unreadable(notebook)
    for cell in notebook.cells:
        if path := ABSOLUTE.search(cell.source + str(cell.get("outputs", ""))):
            found.append(f"an absolute path: {path.group()}")
        if {"papermill", "execution"} & cell.metadata.keys() or tagged(cell, "injected-parameters"):
            found.append("what an execution left behind")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_rules(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert violations(notebook) == []


def test_cards_say_how_long_the_portraits_took() -> None:
    found = json.loads((ROOT / "results/whole-book.json").read_text())
    seconds = found["seconds_of_notebooks"]["portraits"]
    said = {
        path.stem: int(match[1])
        for path in NOTEBOOKS
        if (match := re.search(r"Run time\.\*\* About (\d+) minutes", path.read_text()))
    }
    expected = {name: round(took / 60) for name, took in seconds.items()}
    assert said == {name: minutes for name, minutes in expected.items() if minutes}


def good() -> nbformat.NotebookNode:
    setting = "\n".join(
        f"{name}: {type(value).__name__} = {value!r}  # what it is"
        for name, value in COMMON.items()
    )
    return new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        cells=[
            new_markdown_cell("# A card\n\n" + "Words that a reader needs. " * 20),
            new_code_cell(setting, metadata={"tags": ["parameters"]}),
            new_markdown_cell("Here one is printed."),
            new_code_cell(
                "print(1)",
                metadata={"tags": ["nbval-check-output"]},
                execution_count=2,
                outputs=[new_output("stream", text="1\n")],
            ),
            new_markdown_cell("And here two is the result."),
            new_code_cell("2"),
        ],
    )


def edit(index: int, **changes: object) -> Callable[[nbformat.NotebookNode], None]:
    return lambda notebook: notebook.cells[index].update(changes)


BREAKS = {
    "card": lambda notebook: notebook.cells.pop(0),
    "exactly one cell tagged parameters": edit(1, metadata={}),
    "settings must default": lambda notebook: edit(
        1, source=notebook.cells[1].source.replace("= {}", "= {'k': 1}")
    )(notebook),
    "has no comment": lambda notebook: edit(1, source=notebook.cells[1].source + "\nn: int = 1")(
        notebook
    ),
    "has no type": lambda notebook: edit(1, source=notebook.cells[1].source + "\nn = 1  # n")(
        notebook
    ),
    "no cell is tagged nbval-check-output": edit(3, metadata={}, outputs=[]),
    "more than 12 lines": edit(5, source="\n".join(["1"] * 13)),
    "more than 100 columns": edit(5, source="1" * 101),
    "is defined, and not taught": edit(5, source="square = lambda x: x**2"),
    "no word stands between": lambda notebook: notebook.cells.pop(4),
    "fewer than half": lambda notebook: notebook.cells.extend(
        cell
        for _ in range(4)
        for cell in (new_markdown_cell("word " * 70), new_code_cell("\n".join(["1"] * 6)))
    ),
    "words per line of code": edit(0, source="# A card"),
    "no text has explained: plan": edit(5, source="plans = study.plan(1)"),
    "holds outputs": edit(5, outputs=[new_output("stream", text="2")]),
    "execution count": edit(5, execution_count=3),
    "stderr": edit(3, outputs=[new_output("stream", name="stderr", text="1%")]),
    "absolute path": edit(5, source="open('/data/x')"),
    "left behind": edit(5, metadata={"papermill": {}}),
    "kernel": lambda notebook: notebook.metadata.clear(),
}


def test_a_good_notebook_passes() -> None:
    assert violations(good()) == []


@pytest.mark.parametrize("message", BREAKS)
def test_a_violation_is_caught(message: str) -> None:
    notebook = good()
    BREAKS[message](notebook)
    assert any(message in violation for violation in violations(notebook))


def test_a_check_may_follow_the_solution_that_it_checks_and_nothing_else() -> None:
    notebook = good()
    tags = ("solution", "check")
    notebook.cells += [new_markdown_cell("A task. " * 20)]
    notebook.cells += [new_code_cell("answer = 1", metadata={"tags": [tag]}) for tag in tags]
    assert violations(notebook) == []
    notebook.cells[-2].metadata.tags = []
    assert violations(notebook) == ["no word stands between two code cells: answer = 1"]
