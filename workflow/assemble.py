"""From executed notebooks and the pages of book/ to a site that opens from disk.

The source of the book goes to `_build/source`, and the site to `_build/html`. With `--to FOLDER`,
which makes the site of a part alone, they go to that folder. The pages that hold results are made
here, from the result files: the scorecard (included by index.md), the table of all verdicts, the
tables of the bench and of the costs, the reference of parameters. A warning fails the build, and so
does what `sitecheck` finds: loads from the network, dead links, pictures without words.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

import nbformat
import yaml

from difflens_utils.pages.scorecard import number
from workflow import (
    atlas,
    cost,
    doors,
    drills,
    emoji,
    front,
    growth,
    laboratory,
    law,
    leaderboard,
    sitecheck,
    speed,
    verdicts,
)
from workflow.execute import (
    BUILD,
    ROOT,
    SETTINGS,
    Parameter,
    executed_notebook,
    own_sizes,
    result_path,
    slug,
    subjects_of,
)
from workflow.lighten import lighten

CODE = Path(__file__).resolve().parents[1]
CAPTIONS = {
    "portraits": "Part I: portraits with a planted bias",
    "portraits-t2i": "Part II: portraits from text",
    "digits": "Part III: handwritten digits, as your own model",
    "emoji": "Part IV: emoji, drawn by a transformer of today's kind",
}
TITLE = re.compile(r"^# (.+)$", re.MULTILINE)
COUNTED = (
    "The images below were counted while they were drawn. A notebook's row holds all that it is "
    "made from, also what another had already drawn, so that the rows do not add up to the whole. "
    "Only profiles that were run are shown: searches decide as they go how many images they draw, "
    "so the sizes of another profile tell only how many its recordings have. "
    "Hours = images × steps / (measured images per second × steps of the measurement)."
)
SMALL = """:::{{admonition}} Made with small sizes
:class: warning
The figures of this site are noisy, and no verdict should be drawn from them: they were made with
the sizes of the profile `{profile}`.{rest} `make book` makes all of it at the sizes of the book.
:::

"""
REST = (
    " Only some notebooks were executed. Of the others this site has the cards, and the scorecard"
    " says of what they test that it *cannot be tested here*."
)
UNTOLD = "Nothing: the notebooks that tell it were not executed."
READ_NO_TEXT = ("portraits", "portraits-open", "digits", "p2-celebahq", "ddpm-celebahq")
UNEXECUTED = """:::{admonition} Not executed
:class: warning
This site was made without this notebook. `make book` executes it.
:::"""
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
    """An executed notebook as readers see it.

    Without papermill's cell, whose values stand in the cell of the parameters, and without what is
    about other subjects: cells about the drawn portraits are tagged `portraits`, about any labelled
    images `labelled`, about the digits `digits`, about models that read text `texts`.
    """
    hidden = _tags_of_others(subject) | {"injected-parameters"}
    take_parameters(executed)
    executed.cells = [c for c in executed.cells if not hidden & set(c.metadata.get("tags", []))]
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            cell.outputs = shown_outputs(cell.outputs)
    name_part(executed, part_of(subject))
    for key in ("papermill", "widgets"):  # paths of this machine, and the state of progress bars
        executed.metadata.pop(key, None)
    return executed


def _tags_of_others(subject: str) -> set[str]:
    is_drawn = subject.startswith("portraits")
    is_emoji = subject == "emoji"
    applies = {
        "portraits": is_drawn,
        "emoji": is_emoji,
        "labelled": not (is_drawn or is_emoji),
        "digits": subject == "digits",
        "texts": subject not in READ_NO_TEXT,
    }
    return {tag for tag, here in applies.items() if not here}


def take_parameters(executed: nbformat.NotebookNode) -> None:
    """Puts the values that papermill injected into the cell of the parameters."""
    injected = dict(executed.metadata.get("papermill", {}).get("parameters", {}))
    settings = injected.get("settings", {})
    told = {name: value for name, value in settings.items() if SETTINGS[name].default != value}
    injected |= {"settings": told}
    for cell in executed.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = with_values(cell.source, injected)


def _literal(value: object) -> str:
    """A value as Python has it, a text in double quotes."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def with_values(source: str, values: Mapping[str, object]) -> str:
    """A cell of parameters, `name: type = value  # comment`, with other values."""
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
        if name in values and ast.literal_eval(node.value) != values[name]:
            first, last = node.value.lineno - 1, (node.value.end_lineno or 0) - 1
            before = lines[first].encode()[: node.value.col_offset].decode()
            after = lines[last].encode()[node.value.end_col_offset :].decode()
            lines[first : last + 1] = [f"{before}{_literal(values[name])}{after}"]
    return "\n".join(lines)


def shown_outputs(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A cell's outputs without progress bars."""
    return [
        output
        for output in outputs
        if WIDGET not in output.get("data", {}) and output.get("name") != "stderr"
    ]


def name_part(notebook: nbformat.NotebookNode, part: str) -> None:
    """Put the part before a notebook's title: the parts have the same ten notebooks."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and TITLE.search(cell.source):
            cell.source = TITLE.sub(lambda found: f"# {part} · {found[1]}", cell.source, count=1)
            return


def card_of(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The first cell of a notebook that was not executed, its title and card, with a note."""
    notebook.cells = notebook.cells[:1]
    first = notebook.cells[0]
    first.source = first.source.replace("\n\n", f"\n\n{UNEXECUTED}\n\n", 1)
    return notebook


def note(profile: str, is_whole: bool) -> str:
    """What the front page says of small sizes; empty where the sizes are not small."""
    rest = "" if is_whole else REST
    return SMALL.format(profile=profile, rest=rest) if profile in ("try", "quick") else ""


def results_of(profile: str, subjects: list[str]) -> dict[str, verdicts.Results]:
    """The result files of the subjects: {subject: {notebook: result}}."""
    return {
        subject: verdicts.load(result_path(profile, subject, "").parent) for subject in subjects
    }


def results_pages(profile: str, results: Mapping[str, verdicts.Results]) -> dict[str, str]:
    """The scorecard of all subjects, their verdicts, and what was found: {name: Markdown}."""
    tables = []
    for subject, files in results.items():
        table = verdicts.markdown(files, partial(_link, subject))
        tables.append(f"**Subject `{subject}`, profile `{profile}`**\n\n{table}\n")
    first, files = next(iter(results.items()))
    link = partial(_link, first)
    return {
        "verdicts": "\n".join(tables),
        "scorecard": f"{verdicts.scorecard(results, link)}\n",
        "findings": f"{front.findings(files, link) or UNTOLD}\n",
        "in_short": f"{front.in_short(results) or UNTOLD}\n",
        "losses": f"{front.losses(files)}\n",
        "models": f"{front.models(results)}\n",
    }


def _link(subject: str, notebook: str, text: str | None = None) -> str:
    return f"[{text or notebook}](notebooks/{slug(subject)}/{notebook}.ipynb)"


def _row(*cells: object) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _header(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---" for _ in cells))]


def parameters_page(notebooks: list[Path]) -> str:
    """The settings that all notebooks share, and every notebook's own sizes."""
    blocks = [
        "# Parameters",
        "Every notebook takes a `subject`, the `settings` that all notebooks share, and sizes of "
        "its own. The defaults are those of the profile `book`. {doc}`howto` says how to set them.",
        "Settings change what is **learned**: another value makes anew what the last column says. "
        "Sizes of a notebook change what it **shows**: what was learned stays, and images that "
        "were not drawn before are drawn. Of the sizes `ks`, `counts` and `seeds` of notebooks 02 "
        "and 07 another value trains more k-SAEs or makes more searches.",
        "## Settings",
        _parameters_table(SETTINGS),
    ]
    for path in notebooks:
        sizes = own_sizes(nbformat.read(path, as_version=4))
        blocks += [f"## `{path.stem}`", _parameters_table(sizes) if sizes else "None of its own."]
    return "\n\n".join(blocks) + "\n"


def _parameters_table(known: Mapping[str, Parameter]) -> str:
    made = ["makes anew"] if any(p.makes for p in known.values()) else []
    lines = _header("name", "type", "default", "what it is", *made)
    for p in known.values():
        cells = f"`{p.name}`", p.type.replace("|", "or"), f"`{p.default!r}`", p.comment
        lines.append(_row(*cells, *filter(None, [p.makes])))
    return "\n".join(lines)


def scaling_tables(rates: list[dict], results: Mapping[str, cost.Results] | None = None) -> str:
    """The rates of each device, and what the images of each measured profile cost at them.

    `results` are the result files of each subject, by profile.
    """
    if not rates:
        return "No rates were measured: `python -m bench.rates` measures them."
    blocks = []
    if not any(entry["cuda"] for entry in rates):
        blocks.append(
            "**None of the rates below is a GPU's.** On a GPU, "
            "`python -m bench.rates` adds its rates to `results/rates.json`, and this page shows "
            "them."
        )
    added, sizes = [], []
    for entry in rates:
        device = f"{entry['subject']} on {entry['device']}"
        over = [f"{name} {value:+.0f} %" for name, value in entry["over_bare_percent"].items()]
        added.append(f"- {device}: {', '.join(over)}")
        drawn = f"{entry['images']} images, {entry['steps']} steps, seed {entry['seed']}"
        sizes.append(f"- {device}: {drawn}, median of {entry['repeats']}")
    blocks += [
        "Images per second:",
        _rates_table(rates),
        "What each adds to the bare pipeline:",
        "\n".join(added),
    ]
    blocks += ["Measured with:", "\n".join(sizes), *_costs(rates, results or {})]
    return "\n\n".join(blocks) + "\n"


def _rates_table(rates: list[dict]) -> str:
    ways = ("bare pipeline", *cost.WAYS)
    lines = _header("subject", "device, precision", "batch", *ways, "h/s to disk")
    for entry in rates:
        per_second = [number(entry["images_per_second"][way]) for way in ways]
        activations = number(entry["activations_per_second"])
        device = f"{entry['device']}, {entry['precision']}"
        lines.append(_row(entry["subject"], device, entry["batch"], *per_second, activations))
    return "\n".join(lines)


def _costs(rates: list[dict], results: Mapping[str, cost.Results]) -> list[str]:
    """A table of what was counted; nothing if nothing was."""
    lines = []
    for entry in rates:
        profiles = results.get(entry["subject"], {})
        costs = [
            (name, row) for name, files in profiles.items() for row in cost.table(files, entry)
        ]
        recording = cost.recording("paper", profiles.get("book", []), entry)
        if recording and "paper" not in profiles:
            costs.append(("paper, recordings alone", recording))
        for profile, row in costs:
            device = f"{entry['subject']}, {entry['device']}"
            counts = [number(row.images[way]) for way in cost.WAYS]
            lines.append(_row(device, profile, row.notebook, *counts, number(row.hours)))
    header = _header("subject, device", "profile", "notebook", *cost.WAYS, "hours")
    return [COUNTED, "\n".join([*header, *lines])] if lines else []


def measured_scaling() -> str:
    """`scaling_tables` of the rates and result files that are there."""
    path = ROOT / "results/rates.json"
    rates = json.loads(path.read_text())["rates"] if path.exists() else []
    results = {entry["subject"]: cost.results_of(entry["subject"]) for entry in rates}
    tables = scaling_tables(rates, results)
    scale = ROOT / "results/scale.json"
    return f"{tables}\n{growth.text(json.loads(scale.read_text()))}\n" if scale.exists() else tables


def contents(
    subjects: list[str], notebooks: Mapping[str, str], missing: Collection[str] = ()
) -> dict:
    """_toc.yml, with a part per subject behind its first part, without pages that are `missing`.

    `notebooks` are their titles by their names. In the contents they stand without the part, which
    is the caption above them.
    """
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    study = [
        {
            "caption": CAPTIONS.get(subject, f"The study, on {subject}"),
            "chapters": [
                *(
                    {"file": f"notebooks/{slug(subject)}/{name}", "title": title or name}
                    for name, title in notebooks.items()
                ),
                *({"file": f"atlas/{slug(name)}"} for name in atlas.measured([subject])),
            ],
        }
        for subject in subjects
    ]
    for part in toc["parts"]:
        part["chapters"] = [c for c in part["chapters"] if c["file"] not in missing]
    first, *others = toc["parts"]
    toc["parts"] = [part for part in (first, *study, *others) if part["chapters"]]
    return toc


def all_notebooks() -> list[Path]:
    """The committed notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def write_notebooks(
    profile: str, subjects: list[str], source: Path, executed: Collection[str]
) -> list[str]:
    """Write the pages of all notebooks, and return their sliders, of the first subject first.

    Of notebooks that were not executed the page has the card alone.
    """
    sliders: list[str] = []
    for subject in subjects:
        folder = source / "notebooks" / slug(subject)
        folder.mkdir(parents=True)
        for path in all_notebooks():
            if path.stem in executed:
                page = executed_notebook(profile, subject, path.stem)
            else:
                page = card_of(nbformat.read(path, as_version=4))
            sliders += front.sliders(page)
            nbformat.write(page_of(page, subject), folder / path.name)
    return sliders


WRITERS: dict[str, Callable[[dict, Path], None]] = {  # by the file in results/ that each writes
    "bench": speed.write,
    "drills": drills.write,
    "emoji": emoji.write,
    "emoji-composed": emoji.write_composed,
    "laboratory": laboratory.write,
    "law": law.write,
    "pipelines": doors.write,
}


def write_measured(source: Path, subjects: list[str]) -> list[str]:
    """Write the pages of what was measured beside the notebooks, and return those that miss it."""
    missing = []
    for name, write in WRITERS.items():
        path = ROOT / f"results/{name}.json"
        if path.exists():
            write(json.loads(path.read_text()), source)
        else:
            missing.append(name)
    with (source / "scaling.md").open("a") as scaling:
        scaling.write("\n" + measured_scaling())
    for subject in atlas.measured(subjects):
        atlas.write(subject, source)
    leaderboard.write(source)
    return missing


def gather(
    profile: str,
    subjects: list[str],
    to: Path | None = None,
    executed: Collection[str] | None = None,
) -> None:
    """Write the whole source of the book to `source` in a folder, which is `_build` by default.

    It is made from nothing, so that no page outlives its notebook. `executed` are the names of the
    notebooks that were executed, all by default.
    """
    source = (to or BUILD) / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "book", source)
    shutil.copy(ROOT / "_config.yml", source)
    (source / "generated").mkdir()
    notebooks = all_notebooks()
    names = [path.stem for path in notebooks]
    executed = names if executed is None else executed
    sliders = write_notebooks(profile, subjects, source, executed)
    if "portraits" not in subjects:  # the pages' links lead to the default subject
        for page in source.glob("*.md"):
            page.write_text(
                page.read_text().replace("notebooks/portraits/", f"notebooks/{slug(subjects[0])}/")
            )
    missing = write_measured(source, subjects)
    (source / "parameters.md").write_text(parameters_page(notebooks))
    (source / "generated/slider.md").write_text(f"{front.slider(sliders)}\n")
    results = {
        subject: {name: result for name, result in files.items() if name in executed}
        for subject, files in results_of(profile, subjects).items()
    }
    front.dots(results).savefig(source / "_static/claims.png", dpi=200)
    for name, text in results_pages(profile, results).items():
        (source / f"generated/{name}.md").write_text(text)
    index = source / "index.md"
    told = note(profile, is_whole=set(names) <= set(executed))
    index.write_text(index.read_text().replace("\n\n", f"\n\n{told}", 1))
    titles = {path.stem: title_of(nbformat.read(path, as_version=4)) for path in notebooks}
    toc = contents(subjects, titles, missing)
    (source / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))


def build(to: Path | None = None) -> Path:
    """Run jupyter-book on `source` in a folder, `_build` by default, and put its site at `html`.

    Returns the site's first page. Raises SystemExit with the warnings, or with what `sitecheck`
    finds.
    """
    to = to or BUILD
    nested = to / "jupyter-book"
    shutil.rmtree(nested, ignore_errors=True)
    program = Path(sys.executable).with_name("jupyter-book")
    strict = ["-n", "-W", "--keep-going", "-q"]
    done = subprocess.run(
        [program, "build", to / "source", "--path-output", nested, *strict],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(CODE)},  # of sphinx_pages
    )
    if done.returncode:
        lines = done.stdout.splitlines()
        warnings = [line for line in lines if re.search("warning|error", line, re.IGNORECASE)]
        raise SystemExit("\n".join(["jupyter-book failed:", *(warnings or lines[-20:])]))
    site = nested / "_build/html"
    lighten(site)
    if faults := sitecheck.faults(site):
        raise SystemExit("\n".join(["the built book is not whole:", *faults[:20]]))
    shutil.rmtree(to / "html", ignore_errors=True)
    site.rename(to / "html")
    shutil.rmtree(nested)
    return to / "html/index.html"


def ready(subject: str, site: Path) -> str:
    """What is said once the site of a part alone can be opened."""
    part = part_of(subject)
    named = part if part == subject else f"{part} ({subject})"
    return f"{named} is ready: {site}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", default="book")
    parser.add_argument(
        "--subject", default="portraits", help="one subject, or several separated by commas"
    )
    parser.add_argument("--to", type=Path, help="the folder of a part alone, instead of _build")
    parser.add_argument("--executed", nargs="+", help="notebooks that were executed; default: all")
    args = parser.parse_args()
    subjects = subjects_of(args.subject)
    of = f"site of {', '.join(map(part_of, subjects))}" if args.to else "book"
    print(f"building the {of} (about half a minute)", file=sys.stderr, flush=True)
    gather(args.profile, subjects, args.to, args.executed)
    site = build(args.to)
    if args.to:
        print(ready(subjects[0], site.resolve()), flush=True)


if __name__ == "__main__":
    main()
