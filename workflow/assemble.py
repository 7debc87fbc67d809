"""From executed notebooks and the pages of book/ to a site that opens from disk: `_build/source`, then `_build/html`.

The pages that hold results are made here, from the result files: the scorecard (included by index.md), the table of all verdicts, the
table of the bench, the reference of parameters. A warning fails the build, and so does what
`sitecheck` finds: loads from the network, dead links, pictures without words.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_output

from difflens_utils import intervals
from workflow import cost, sitecheck, verdicts
from workflow.execute import BUILD, ROOT, executed_path, parameters, result_path, slug, subjects_of

CODE = Path(__file__).resolve().parents[1]
SOURCE, HTML = BUILD / "source", BUILD / "html"
CAPTIONS = {
    "portraits": "Part I: portraits with a planted bias",
    "portraits-t2i": "Part II: portraits from text",
    "digits": "Part III: handwritten digits, as your own model",
}
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
WIDGET = "application/vnd.jupyter.widget-view+json"


def part_of(subject: str) -> str:
    """How titles and hits of the search call the part of a subject, in short."""
    caption = CAPTIONS.get(subject)
    return caption.partition(":")[0] if caption else Path(subject).name


def title_of(notebook: nbformat.NotebookNode) -> str:
    """The text of a notebook's first heading; empty without one."""
    found = (TITLE.search(c.source) for c in notebook.cells if c.cell_type == "markdown")
    return next((heading[1] for heading in found if heading), "")


def page_of(executed: nbformat.NotebookNode, subject: str) -> nbformat.NotebookNode:
    """An executed notebook as readers see it: without papermill's cell where that repeats the defaults, and without what is said of other subjects.

    Text about the drawn portraits is tagged `portraits`, text about any labelled images `labelled`, about the digits `digits`.
    """
    drawn = subject.startswith("portraits")
    others = {
        tag
        for tag, wanted in (
            ("portraits", drawn),
            ("labelled", not drawn),
            ("digits", subject == "digits"),
        )
        if not wanted
    }
    executed.cells = [c for c in executed.cells if not others & set(c.metadata.get("tags", []))]
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs = shown_outputs(cell.outputs)
    name_part(executed, part_of(subject))
    defaults = {name: parameter.default for name, parameter in parameters(executed).items()}
    injected = executed.metadata.get("papermill", {}).get("parameters", {})
    if all(defaults.get(name) == value for name, value in injected.items()):
        executed.cells = [
            c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])
        ]
    for key in ("papermill", "widgets"):  # paths of this machine, and the state of progress bars
        executed.metadata.pop(key, None)
    return executed


def shown_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A cell's outputs without progress bars, and with the reason if a value in them is marked."""
    kept = [
        output
        for output in outputs
        if WIDGET not in output.get("data", {}) and output.get("name") != "stderr"
    ]
    texts = [str(output.get("text", "")) + str(output.get("data", {})) for output in kept]
    if any(intervals.MARK in text for text in texts):
        kept.append(new_output("display_data", {"text/markdown": intervals.WHY}))
    return kept


def name_part(notebook: nbformat.NotebookNode, part: str) -> None:
    """Put the part before a notebook's title: the parts have the same ten notebooks."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and TITLE.search(cell.source):
            cell.source = TITLE.sub(lambda found: f"# {part} · {found[1]}", cell.source, count=1)
            return


def results_pages(profile: str, subjects: list[str]) -> dict[str, str]:
    """The tables of verdicts of every subject, and the scorecard of them all, with links to the notebooks' pages: {name: Markdown}."""

    def link(subject: str) -> Callable[[str], str]:
        return lambda name: f"[{name}](notebooks/{slug(subject)}/{name}.ipynb)"

    results = {
        subject: verdicts.load(result_path(profile, subject, "").parent) for subject in subjects
    }
    title = "**{}, profile `" + profile + "`**\n\n{}\n"
    tables = [
        title.format(f"Subject `{subject}`", verdicts.markdown(own, link(subject)))
        for subject, own in results.items()
    ]
    names = " and ".join(f"`{subject}`" for subject in subjects)
    return {
        "markdown": "\n".join(tables),
        "scorecard": title.format(
            f"Subject{'s' * (len(subjects) > 1)} {names}",
            verdicts.scorecard(results, link(subjects[0])),
        ),
    }


def parameters_page(notebooks: list[Path]) -> str:
    """Every parameter of every notebook, with its default in the profile `book`."""
    parts = [
        "# Parameters",
        "Made from the notebooks' own parameters cells. {doc}`howto` says how to set them.",
    ]
    for path in notebooks:
        table = ["| name | type | default | what it is |", "| --- | --- | --- | --- |"]
        for p in parameters(nbformat.read(path, as_version=4)).values():
            table.append(
                f"| `{p.name}` | {p.type} | `{p.default!r}` | {p.comment} |".replace(
                    " | None", " or None"
                )
            )
        parts += [f"## `{path.stem}`", "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def bench_page(bench: dict) -> str:
    """The table of `make bench`: ours, what it is measured beside, their ratio, the target, and whether it is met."""
    met = {True: "yes", False: "**no**", None: "not measured"}
    table = [
        "| what | ours | beside | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in bench["rows"]:
        shown = (
            "–" if row[k] is None else verdicts.number(row[k])
            for k in ("ours", "beside", "ratio", "target")
        )
        table.append("| " + " | ".join([row["what"], *shown, met[row["met"]]]) + " |")
    notes = "\n".join(f"- {row['what']}: {row['note']}" for row in bench["rows"] if row.get("note"))
    environment = "\n".join(f"- {name}: {value}" for name, value in bench["environment"].items())
    parts = [
        "# Speed and memory",
        "Measured by `make bench`: one run, medians, ratios beside the same work done by "
        "others. Ratios carry over to other machines, absolute figures do not.",
        "\n".join(table),
        notes,
        "## Measured on",
        environment,
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def scaling_tables(rates: list[dict], profile: str = "paper") -> str:
    """What was measured on each device, and the hours that a profile's images take at these rates, as Markdown."""
    if not rates:
        return "No rates were measured: `python -m bench.rates` measures them."
    measured = [
        "| subject | device, precision | batch | images/s: bare | ours | recording | symmetric edit | asymmetric edit | h/s to disk |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in rates:
        per_second = (
            verdicts.number(entry["images_per_second"][name])
            for name in (
                "bare pipeline",
                cost.PLAIN,
                cost.RECORDED,
                cost.SYMMETRIC,
                cost.ASYMMETRIC,
            )
        )
        measured.append(
            f"| {entry['subject']} | {entry['device']}, {entry['precision']} | {entry['batch']} | "
            + " | ".join(per_second)
            + f" | {verdicts.number(entry['activations_per_second'])} |"
        )
    over = [
        f"- {entry['subject']} on {entry['device']}: "
        + ", ".join(f"{name} {value:+.0f} %" for name, value in entry["over_bare_percent"].items())
        for entry in rates
    ]
    sizes = [
        f"- {entry['subject']} on {entry['device']}: {entry['images']} images, {entry['steps']} steps, seed {entry['seed']}, "
        f"median of {entry['repeats']}"
        for entry in rates
    ]
    spent = ["| subject, device | notebook | images | hours |", "| --- | --- | --- | --- |"]
    for entry in rates:
        rows = [
            (name, sum(count.values()), hours) for name, count, hours in cost.table(profile, entry)
        ]
        for name, count, hours in [
            *rows,
            ("**all**", sum(row[1] for row in rows), sum(row[2] for row in rows)),
        ]:
            spent.append(
                f"| {entry['subject']}, {entry['device']} | {name} | {verdicts.number(count)} | {verdicts.number(hours)} |"
            )
    without = (
        []
        if any(entry["cuda"] for entry in rates)
        else [
            "**Nothing here was measured on a GPU**: none was at hand. The hours below are those of the processor named above; on a GPU, "
            "`python -m bench.rates` adds its rates to `results/rates.json`, and this page its hours."
        ]
    )
    return (
        "\n\n".join(
            [
                *without,
                "\n".join(measured),
                "What each adds to the bare pipeline:",
                "\n".join(over),
                "Measured with:",
                "\n".join(sizes),
                f"### The profile `{profile}`",
                "\n".join(spent),
            ]
        )
        + "\n"
    )


def contents(subjects: list[str], notebooks: Mapping[str, str], has_bench: bool) -> dict:
    """_toc.yml, with a part per subject before its own parts, without the bench page if none ran.

    `notebooks` are their titles by their names. In the contents they stand without the part, which
    is the caption above them.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    study = [
        {
            "caption": CAPTIONS.get(subject, f"The study, on {subject}"),
            "chapters": [
                {"file": f"notebooks/{slug(subject)}/{name}", "title": title or name}
                for name, title in notebooks.items()
            ],
        }
        for subject in subjects
    ]
    for part in toc["parts"]:
        part["chapters"] = [c for c in part["chapters"] if has_bench or c["file"] != "bench"]
    toc["parts"] = [part for part in study + toc["parts"] if part["chapters"]]
    return toc


def gather(profile: str, subjects: list[str]) -> None:
    """Write the whole source of the book to `_build/source`, from nothing, so that no page outlives its notebook."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT / "book", SOURCE)
    shutil.copy(ROOT / "_config.yml", SOURCE)
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for subject in subjects:
        folder = SOURCE / "notebooks" / slug(subject)
        folder.mkdir(parents=True)
        for path in notebooks:
            executed = nbformat.read(executed_path(profile, subject, path.stem), as_version=4)
            nbformat.write(page_of(executed, subject), folder / path.name)
    if "portraits" not in subjects:  # the pages' links lead to the default subject
        for page in SOURCE.glob("*.md"):
            page.write_text(
                page.read_text().replace("notebooks/portraits/", f"notebooks/{slug(subjects[0])}/")
            )
    bench = ROOT / "results/bench.json"
    if bench.exists():
        (SOURCE / "bench.md").write_text(bench_page(json.loads(bench.read_text())))
    rates = ROOT / "results/rates.json"
    (SOURCE / "scaling.md").write_text(
        (SOURCE / "scaling.md").read_text()
        + "\n"
        + scaling_tables(json.loads(rates.read_text())["rates"] if rates.exists() else [])
    )
    (SOURCE / "parameters.md").write_text(parameters_page(notebooks))
    (SOURCE / "generated").mkdir()
    for name, page in results_pages(profile, subjects).items():
        (SOURCE / f"generated/{name}.md").write_text(page)
    titles = {path.stem: title_of(nbformat.read(path, as_version=4)) for path in notebooks}
    toc = contents(subjects, titles, bench.exists())
    (SOURCE / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))


def build() -> None:
    """Run jupyter-book and put its site at `_build/html`.

    SystemExit with its warnings, or with what `sitecheck` finds.
    """
    print("building the book (about half a minute)", file=sys.stderr, flush=True)
    nested = BUILD / "jupyter-book"
    shutil.rmtree(nested, ignore_errors=True)
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(CODE)}  # of sphinx_pages
    done = subprocess.run(
        [
            Path(sys.executable).with_name("jupyter-book"),
            "build",
            SOURCE,
            "--path-output",
            nested,
            "-n",
            "-W",
            "--keep-going",
            "-q",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        told = [
            line
            for line in done.stdout.splitlines()
            if re.search("warning|error", line, re.IGNORECASE)
        ]
        raise SystemExit(
            "\n".join(["jupyter-book failed:", *(told or done.stdout.splitlines()[-20:])])
        )
    site = nested / "_build/html"
    if faults := sitecheck.faults(site):
        raise SystemExit("\n".join(["the built book is not whole:", *faults[:20]]))
    shutil.rmtree(HTML, ignore_errors=True)
    site.rename(HTML)
    shutil.rmtree(nested)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="book")
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    args = parser.parse_args()
    gather(args.profile, subjects_of(args.subject))
    build()


if __name__ == "__main__":
    main()
