"""Make the last book the reference: its results go to results/book, README.md, the model card and the committed notebooks.

A committed notebook holds the outputs of the cells tagged `nbval-check-output` and nothing else, so a change of
it in git is a change of the text, the code or a checked result.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
from pathlib import Path

import nbformat

from workflow import verdicts
from workflow.execute import ROOT, executed_path, result_path, slug, subjects_of

START, END = "<!-- results:start -->", "<!-- results:end -->"


def replace(path: Path, content: str | bytes) -> None:
    """Write through a temporary file, and only if something changes, so that time stamps mean changes."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_bytes(content)
        os.replace(temporary, path)
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def with_checked_outputs(
    source: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """`source` with the outputs that `executed` has in the tagged cells; ValueError if they differ."""
    ran = [
        cell
        for cell in executed.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    if [cell.source for cell in source.cells] != [cell.source for cell in ran]:
        raise ValueError("the notebook has changed since it was executed: run make book first")
    number = 0
    for cell, done in zip(source.cells, ran, strict=True):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        number += 1
        checked = "nbval-check-output" in cell.metadata.get("tags", [])
        cell.outputs = done.outputs if checked else []
        # nbval refuses outputs of a cell that has no count; the cell's place is one that never changes by itself
        cell.execution_count = number if cell.outputs else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    for key in ("papermill", "widgets"):
        source.metadata.pop(key, None)
    source.metadata.language_info = {"name": "python"}  # an editor adds the version that it runs
    return source


def picture(executed: nbformat.NotebookNode) -> bytes | None:
    """The PNG of the cell tagged `result-picture`, if the notebook has one: what the README shows."""
    cells = [cell for cell in executed.cells if "result-picture" in cell.metadata.get("tags", [])]
    shown = [
        output.data["image/png"]
        for cell in cells
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(shown[0]) if shown else None


def with_table(readme: str, table: str) -> str:
    """The README with a new table between its two markers."""
    before, rest = readme.split(START)
    return f"{before}{START}\n{table}\n{END}{rest.split(END)[1]}"


def model_card(result: dict) -> str:
    """The figures of a subject's card, from the result file of 00_bias: quality, then the share of every class."""
    records = {record["name"]: record for record in result["records"]}

    def shown(name: str) -> str:
        return verdicts.estimate(records[name])

    n, seed = records["quality.frechet"]["n"], records["quality.frechet"]["seed"]
    lines = [
        f"Of {n:,} generated images ({result['parameters']['steps']} DDIM steps, seed {seed}), with 95 % intervals.",
        "",
        "| quality | generated | floor: two sets of the data |",
        "| --- | --- | --- |",
        f"| Fréchet distance to the data, features of the scorer | {shown('quality.frechet')} | {shown('quality.frechet_floor')} |",
    ]
    agree = "quality.agreement."
    lines += [
        f"| both evaluators agree on {name.removeprefix(agree)} | {shown(name)} | |"
        for name in records
        if name.startswith(agree)
    ]
    if asked := [name for name in records if name.endswith(".obeyed")]:
        lines += ["", "| drawn as the prompt names it | share |", "| --- | --- |"]
        lines += [
            f"| {factor}, prompts of the stage *{stage}* | {shown(name)} |"
            for name in asked
            for _, stage, factor, _ in [name.split(".")]
        ]
    if biased := [name for name in records if name.startswith("planted.prompts.")]:
        lines += ["", "| prompt: class | planted | generated |", "| --- | --- | --- |"]
        lines += [
            f"| a face of a {prompt}: {attribute} {label} | {records[name]['value']:.3f} | {shown(name.removeprefix('planted.'))} |"
            for name in biased
            for _, _, prompt, attribute, label in [name.split(".")]
        ]
    lines += ["", "| factor: class | planted | generated |", "| --- | --- | --- |"]
    for name in (name.removeprefix("share.") for name in records if name.startswith("share.")):
        factor, label = name.split(".")
        lines.append(
            f"| {factor.replace('_', ' ')}: {label} | {records[f'planted.{name}']['value']:.3f} | {shown(f'share.{name}')} |"
        )
    return "\n".join(lines)


def promote(subject: str) -> None:
    """The last book's results of one subject to results/book and its card; of the portraits, the checked outputs and the picture too."""
    folder = ROOT / "results/book" / slug(subject)
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        result = json.loads(result_path("book", subject, path.stem).read_text())
        replace(
            folder / f"{path.stem}.json",
            json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
        )
        if subject == "portraits":  # the subject that the committed notebooks name
            executed = nbformat.read(executed_path("book", subject, path.stem), as_version=4)
            reference = with_checked_outputs(nbformat.read(path, as_version=4), executed)
            replace(path, nbformat.writes(reference) + "\n")
            if (shown := picture(executed)) is not None:
                replace(ROOT / "book/_static/result.png", shown)
    card = ROOT / "models" / slug(subject) / "README.md"
    if card.exists():
        replace(
            card,
            with_table(
                card.read_text(), model_card(json.loads((folder / "00_bias.json").read_text()))
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    subjects = subjects_of(parser.parse_args().subject)
    for subject in subjects:
        promote(subject)
    if "portraits" in subjects:
        first = {slug(subject): place for place, subject in enumerate(subjects)}
        readme, folders = (
            ROOT / "README.md",
            sorted(
                (ROOT / "results/book").iterdir(),
                key=lambda p: (first.get(p.name, len(first)), p.name),
            ),
        )
        known = {path.name: verdicts.load(path) for path in folders}
        replace(
            readme,
            with_table(
                readme.read_text(),
                verdicts.scorecard(known, lambda name: f"[{name}](notebooks/{name}.ipynb)"),
            ),
        )


if __name__ == "__main__":
    main()
