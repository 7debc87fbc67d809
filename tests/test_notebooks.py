"""What every notebook of the study keeps to, and that these checks catch one that does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workflow.execute import parameters

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
COMMON = {"subject": "portraits", "profile": "book", "seed": 0, "device": "auto"}
ABSOLUTE = re.compile(
    r"""(?<![\w.<])(?:["'`](?:/|[A-Z]:\\)\w|/(?:home|root|Users|tmp|mnt|usr|var)/)"""
)
LONGEST = 25


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


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
        if cell.outputs and not tagged(cell, "nbval-check-output"):
            found.append(f"a cell without the tag nbval-check-output holds outputs: {first}")
        if (cell.execution_count is None) == bool(
            cell.outputs
        ):  # nbval refuses outputs without a count
            found.append(f"an execution count without outputs, or outputs without a count: {first}")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            found.append(f"a checked cell prints to stderr, which differs from run to run: {first}")
        if "plt.subplots(" in cell.source and "figures.describe(" not in cell.source:
            found.append(f"a figure that does not say what it shows (figures.describe): {first}")
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
            new_markdown_cell("# A card"),
            new_code_cell(setting, metadata={"tags": ["parameters"]}),
            new_code_cell(
                "print(1)",
                metadata={"tags": ["nbval-check-output"]},
                execution_count=2,
                outputs=[new_output("stream", text="1\n")],
            ),
            new_code_cell("2"),
        ],
    )


def edit(index: int, **changes: object) -> Callable[[nbformat.NotebookNode], None]:
    return lambda notebook: notebook.cells[index].update(changes)


BREAKS = {
    "card": lambda notebook: notebook.cells.pop(0),
    "exactly one cell tagged parameters": edit(1, metadata={}),
    "seed must default": lambda notebook: edit(
        1, source=notebook.cells[1].source.replace("= 0", "= 1")
    )(notebook),
    "has no comment": lambda notebook: edit(1, source=notebook.cells[1].source + "\nn: int = 1")(
        notebook
    ),
    "has no type": lambda notebook: edit(1, source=notebook.cells[1].source + "\nn = 1  # n")(
        notebook
    ),
    "no cell is tagged nbval-check-output": edit(2, metadata={}, outputs=[]),
    "more than 25 lines": edit(3, source="\n".join(["1"] * 26)),
    "holds outputs": edit(3, outputs=[new_output("stream", text="2")]),
    "execution count": edit(3, execution_count=3),
    "stderr": edit(2, outputs=[new_output("stream", name="stderr", text="1%")]),
    "does not say what it shows": edit(3, source="figure, axes = plt.subplots(1, 2)"),
    "absolute path": edit(3, source="open('/data/x')"),
    "left behind": edit(3, metadata={"papermill": {}}),
    "kernel": lambda notebook: notebook.metadata.clear(),
}


def test_a_good_notebook_passes() -> None:
    assert violations(good()) == []


@pytest.mark.parametrize("message", BREAKS)
def test_a_violation_is_caught(message: str) -> None:
    notebook = good()
    BREAKS[message](notebook)
    assert any(message in violation for violation in violations(notebook))
