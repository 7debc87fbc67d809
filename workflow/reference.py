"""Make the last book the reference.

Its results go to results/book, README.md and the model cards, and the outputs of checked cells to
the committed notebooks. A committed notebook holds the outputs of the cells tagged
`nbval-check-output` and nothing else, so a change of it in git is a change of the text, the code or
a checked result. With `--texts` only README.md and the model cards are written again, from the
committed results.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path
from typing import Any

import nbformat

from difflens_utils.pages.results import AGREED
from difflens_utils.pages.scorecard import estimate
from difflens_utils.runtime.artifacts import atomic
from workflow import verdicts
from workflow.execute import ROOT, executed_notebook, integrity, result_path, slug, subjects_of

Records = dict[str, dict[str, Any]]
DISTANCES = {
    "quality.frechet": "Fréchet distance",
    "quality.kernel": "kernel distance (KID's estimator)",
}
START, END = "<!-- results:start -->", "<!-- results:end -->"


def results_folder(subject: str) -> Path:
    """Where the reference results of one subject lie."""
    return ROOT / "results/book" / slug(subject)


def replace(path: Path, content: str | bytes) -> None:
    """Write only what changes, so that time stamps mean changes."""
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def with_checked_outputs(
    source: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """`source` with the outputs that `executed` has in the tagged cells.

    Raises ValueError if other cells were executed.
    """
    cells = [cell for cell in executed.cells if not _is_tagged(cell, "injected-parameters")]
    if [cell.source for cell in source.cells] != [cell.source for cell in cells]:
        raise ValueError("the notebook has changed since it was executed: run make book first")
    number = 0
    for cell, done in zip(source.cells, cells, strict=True):
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        number += 1
        cell.outputs = done.outputs if _is_tagged(cell, "nbval-check-output") else []
        # nbval refuses outputs of a cell without a count; the cell's place never changes by itself
        cell.execution_count = number if cell.outputs else None
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
    for key in ("papermill", "widgets"):
        source.metadata.pop(key, None)
    source.metadata.language_info = {"name": "python"}  # an editor adds the version that it runs
    return source


def _is_tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def picture(executed: nbformat.NotebookNode) -> bytes | None:
    """The PNG of the cell tagged `result-picture`, if there is one: what the README shows."""
    for cell in executed.cells:
        for output in cell.outputs if _is_tagged(cell, "result-picture") else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output.data["image/png"])
    return None


def with_results(page: str, results: str) -> str:
    """A page with new results between its two markers."""
    before, rest = page.split(START)
    return f"{before}{START}\n{results}\n{END}{rest.split(END)[1]}"


def model_card(result: dict[str, Any]) -> str:
    """The figures of a subject's card, from the result file of 00_bias.

    Quality, what prompts name and what they leave open, and the share of every class.
    """
    records = {record["name"]: record for record in result["records"]}
    quality, steps = records["quality.frechet"], result["parameters"]["steps"]
    images = f"{quality['n']:,} generated images ({steps} steps, seed {quality['seed']})"
    blocks = [
        f"Of {images}, with 95 % intervals.",
        _table("quality | generated | floor: two sets of the data", _quality(records)),
        _table("drawn as the prompt names it | share", _obeyed(records)),
        _table("prompt: class | planted | generated", _of_prompts(records)),
        _table("factor: class | planted | generated", _of_factors(records)),
    ]
    return "\n\n".join(filter(None, blocks))


def _table(header: str, rows: list[str]) -> str:
    """A Markdown table, empty without rows. Cells are separated by |."""
    rule = " | ".join("---" for _ in header.split("|"))
    return "\n".join(f"| {row} |" for row in [header, rule, *rows]) if rows else ""


def _quality(records: Records) -> list[str]:
    rows = []
    for name, words in DISTANCES.items():
        if name in records:
            generated, floor = estimate(records[name]), estimate(records[f"{name}_floor"])
            rows.append(f"{words} to the data, features of the scorer | {generated} | {floor}")
    for name, record in records.items():
        if name.startswith("quality.agreement."):
            attribute = name.removeprefix("quality.agreement.")
            rows.append(f"both evaluators agree on {attribute} | {estimate(record)} |")
    return rows


def _obeyed(records: Records) -> list[str]:
    rows = []
    for name, record in records.items():
        if name.endswith(".obeyed"):
            _, stage, factor, _ = name.split(".")
            share = estimate(record)
            rows.append(f"{factor}, prompts of the stage *{stage}* | {share}")
    return rows


def _of_prompts(records: Records) -> list[str]:
    rows = []
    for name, record in records.items():
        if name.startswith("planted.prompts."):
            _, _, prompt, attribute, label = name.split(".")
            generated = estimate(records[name.removeprefix("planted.")])
            rows.append(f"{prompt}: {attribute} {label} | {record['value']:.3f} | {generated}")
    return rows


def _of_factors(records: Records) -> list[str]:
    rows = []
    for name, record in records.items():
        if name.startswith("share."):
            _, factor, label = name.split(".")
            planted = records[f"planted.{factor}.{label}"]["value"]
            if not planted and not record["value"]:  # such as what no prompt asks for
                continue
            what = f"{factor.replace('_', ' ')}: {label}"
            rows.append(f"{what} | {planted:.3f} | {estimate(record)}")
    return rows


def promote(subject: str) -> None:
    """The last book's results of one subject to results/book.

    Of the portraits, the checked outputs and the README's picture too. Raises ValueError where a
    notebook was not executed, or has changed since.
    """
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        source = result_path("book", subject, path.stem)
        if not source.exists():
            raise ValueError(f"{path.stem} has no results of {subject}: run make book first")
        result = integrity.read(source)
        content = json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False)
        replace(results_folder(subject) / f"{path.stem}.json", content + "\n")
        if subject == "portraits":  # the subject that the committed notebooks name
            _promote_outputs(path)


def _promote_outputs(path: Path) -> None:
    """The outputs of the last book's page to a committed notebook, and its picture."""
    executed = executed_notebook("book", "portraits", path.stem)
    try:
        reference = with_checked_outputs(nbformat.read(path, as_version=4), executed)
    except ValueError as error:
        raise ValueError(f"{path.stem}: {error}") from None
    agree(reference)
    replace(path, nbformat.writes(reference) + "\n")
    image = picture(executed)
    if image is not None:
        replace(ROOT / "book/_static/result.png", image)


def agree(notebook: nbformat.NotebookNode) -> None:
    """Where a notebook compares its verdicts with the reference, it finds that they agree.

    They are the reference from now on. When it was executed there was another one, or none.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source == "page.judge()":
            text = AGREED + "\n"
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]


def write_card(subject: str) -> None:
    """The figures of a subject's model card, if it has one."""
    card = ROOT / "models" / slug(subject) / "README.md"
    if card.exists():
        bias = json.loads((results_folder(subject) / "00_bias.json").read_text())
        replace(card, with_results(card.read_text(), model_card(bias)))


def write_readme(subjects: list[str]) -> None:
    """The scorecard of README.md: these subjects first, then all others that have results."""
    names = [folder.name for folder in sorted((ROOT / "results/book").iterdir())]
    first = [slug(subject) for subject in subjects if slug(subject) in names]
    results = {
        name: verdicts.load(ROOT / "results/book" / name) for name in dict.fromkeys(first + names)
    }
    card = verdicts.scorecard(results, lambda name, text: f"[{text}](notebooks/{name}.ipynb)")
    readme = ROOT / "README.md"
    replace(readme, with_results(readme.read_text(), card))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    parser.add_argument(
        "--texts", action="store_true", help="only README.md and model cards, from results/book"
    )
    args = parser.parse_args()
    try:
        subjects = subjects_of(args.subject)
        for subject in subjects:
            if not args.texts:
                promote(subject)
            write_card(subject)
        if "portraits" in subjects:
            write_readme(subjects)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
