"""From executed notebooks and the pages of book/ to a site that opens from disk: `_build/source`, then `_build/html`.

The pages that hold results are made here, from the result files: the scorecard (included by index.md), the table of all verdicts, the
table of the bench, the reference of parameters. A warning fails the build, and so does a page that loads from the
network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import yaml

from workflow import cost, verdicts
from workflow.execute import BUILD, ROOT, executed_path, parameters, result_path, slug, subjects_of

SOURCE, HTML = BUILD / "source", BUILD / "html"
CAPTIONS = {"portraits": "Part I: portraits with a planted bias", "portraits-t2i": "Part II: portraits from text", "digits": "Part III: handwritten digits, as your own model"}
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
          "embed": "src", "object": "data"}
STYLES = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "icon", "manifest"}


def page_of(executed: nbformat.NotebookNode, subject: str) -> nbformat.NotebookNode:
    """An executed notebook as readers see it: without papermill's cell where that repeats the defaults, and without what is said of other subjects.

    Text about the drawn portraits is tagged `portraits`, text about any labelled images `labelled`, about the digits `digits`.
    """
    drawn = subject.startswith("portraits")
    others = {tag for tag, wanted in (("portraits", drawn), ("labelled", not drawn), ("digits", subject == "digits")) if not wanted}
    executed.cells = [c for c in executed.cells if not others & set(c.metadata.get("tags", []))]
    defaults = {name: parameter.default for name, parameter in parameters(executed).items()}
    injected = executed.metadata.get("papermill", {}).get("parameters", {})
    if all(defaults.get(name) == value for name, value in injected.items()):
        executed.cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    return executed


def results_pages(profile: str, subjects: list[str]) -> dict[str, str]:
    """The tables of verdicts of every subject, and the scorecard of them all, with links to the notebooks' pages: {name: Markdown}."""
    def link(subject: str) -> Callable[[str], str]:
        return lambda name: f"[{name}](notebooks/{slug(subject)}/{name}.ipynb)"

    results = {subject: verdicts.load(result_path(profile, subject, "").parent) for subject in subjects}
    title = "**{}, profile `" + profile + "`**\n\n{}\n"
    tables = [title.format(f"Subject `{subject}`", verdicts.markdown(own, link(subject))) for subject, own in results.items()]
    names = " and ".join(f"`{subject}`" for subject in subjects)
    return {"markdown": "\n".join(tables),
            "scorecard": title.format(f"Subject{'s' * (len(subjects) > 1)} {names}", verdicts.scorecard(results, link(subjects[0])))}


def parameters_page(notebooks: list[Path]) -> str:
    """Every parameter of every notebook, with its default in the profile `book`."""
    parts = ["# Parameters", "Made from the notebooks' own parameters cells. {doc}`howto` says how to set them."]
    for path in notebooks:
        table = ["| name | type | default | what it is |", "| --- | --- | --- | --- |"]
        for p in parameters(nbformat.read(path, as_version=4)).values():
            table.append(f"| `{p.name}` | {p.type} | `{p.default!r}` | {p.comment} |".replace(" | None", " or None"))
        parts += [f"## `{path.stem}`", "\n".join(table)]
    return "\n\n".join(parts) + "\n"


def bench_page(bench: dict) -> str:
    """The table of `make bench`: ours, what it is measured beside, their ratio, the target, and whether it is met."""
    met = {True: "yes", False: "**no**", None: "not measured"}
    table = ["| what | ours | beside | ratio | target | met |", "| --- | --- | --- | --- | --- | --- |"]
    for row in bench["rows"]:
        shown = ("–" if row[k] is None else verdicts.number(row[k]) for k in ("ours", "beside", "ratio", "target"))
        table.append("| " + " | ".join([row["what"], *shown, met[row["met"]]]) + " |")
    notes = "\n".join(f"- {row['what']}: {row['note']}" for row in bench["rows"] if row.get("note"))
    environment = "\n".join(f"- {name}: {value}" for name, value in bench["environment"].items())
    parts = ["# Speed and memory", "Measured by `make bench`: one run, medians, ratios beside the same work done by "
             "others. Ratios carry over to other machines, absolute figures do not.", "\n".join(table), notes,
             "## Measured on", environment]
    return "\n\n".join(filter(None, parts)) + "\n"


def scaling_tables(rates: list[dict], profile: str = "paper") -> str:
    """What was measured on each device, and the hours that a profile's images take at these rates, as Markdown."""
    if not rates:
        return "No rates were measured: `python -m bench.rates` measures them."
    measured = ["| subject | device, precision | batch | images/s: bare | ours | recording | symmetric edit | asymmetric edit | h/s to disk |",
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for entry in rates:
        per_second = (verdicts.number(entry["images_per_second"][name]) for name in ("bare pipeline", cost.PLAIN, cost.RECORDED, cost.SYMMETRIC, cost.ASYMMETRIC))
        measured.append(f"| {entry['subject']} | {entry['device']}, {entry['precision']} | {entry['batch']} | " + " | ".join(per_second)
                        + f" | {verdicts.number(entry['activations_per_second'])} |")
    over = [f"- {entry['subject']} on {entry['device']}: " + ", ".join(f"{name} {value:+.0f} %" for name, value in entry["over_bare_percent"].items())
            for entry in rates]
    sizes = [f"- {entry['subject']} on {entry['device']}: {entry['images']} images, {entry['steps']} steps, seed {entry['seed']}, "
             f"median of {entry['repeats']}" for entry in rates]
    spent = ["| subject, device | notebook | images | hours |", "| --- | --- | --- | --- |"]
    for entry in rates:
        rows = [(name, sum(count.values()), hours) for name, count, hours in cost.table(profile, entry)]
        for name, count, hours in [*rows, ("**all**", sum(row[1] for row in rows), sum(row[2] for row in rows))]:
            spent.append(f"| {entry['subject']}, {entry['device']} | {name} | {verdicts.number(count)} | {verdicts.number(hours)} |")
    without = [] if any(entry["cuda"] for entry in rates) else [
        "**Nothing here was measured on a GPU**: none was at hand. The hours below are those of the processor named above; on a GPU, "
        "`python -m bench.rates` adds its rates to `results/rates.json`, and this page its hours."]
    return "\n\n".join([*without, "\n".join(measured), "What each adds to the bare pipeline:", "\n".join(over), "Measured with:", "\n".join(sizes),
                        f"### The profile `{profile}`", "\n".join(spent)]) + "\n"


def contents(subjects: list[str], notebooks: list[str], has_bench: bool) -> dict:
    """_toc.yml, with one part per subject before its own parts, and without the bench page where none was run."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    study = [{"caption": CAPTIONS.get(subject, f"The study, on {subject}"),
              "chapters": [{"file": f"notebooks/{slug(subject)}/{name}"} for name in notebooks]}
             for subject in subjects]
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
            page.write_text(page.read_text().replace("notebooks/portraits/", f"notebooks/{slug(subjects[0])}/"))
    bench = ROOT / "results/bench.json"
    if bench.exists():
        (SOURCE / "bench.md").write_text(bench_page(json.loads(bench.read_text())))
    rates = ROOT / "results/rates.json"
    (SOURCE / "scaling.md").write_text((SOURCE / "scaling.md").read_text() + "\n" + scaling_tables(json.loads(rates.read_text())["rates"] if rates.exists() else []))
    (SOURCE / "parameters.md").write_text(parameters_page(notebooks))
    (SOURCE / "generated").mkdir()
    for name, page in results_pages(profile, subjects).items():
        (SOURCE / f"generated/{name}.md").write_text(page)
    toc = contents(subjects, [path.stem for path in notebooks], bench.exists())
    (SOURCE / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))


class Loads(HTMLParser):
    """Collects what a page loads when it is opened; links that a reader may follow are not loads."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and STYLES & set((values.get("rel") or "").split()):
            self.urls.append(values.get("href") or "")
        elif tag in LOADED:
            self.urls.append(values.get(LOADED[tag]) or "")
        self.urls += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style") or "")


def network_loads(folder: Path) -> list[str]:
    """`page: url` for every script, style, font, image or frame that a site would fetch from the network."""
    found = []
    for path in sorted([*folder.rglob("*.html"), *folder.rglob("*.css")]):
        content = path.read_text(errors="replace")
        if path.suffix == ".html":
            parser = Loads()
            parser.feed(content)
            urls = parser.urls
        else:
            urls = re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s;]+)", content)
        found += [f"{path.relative_to(folder)}: {url}" for url in urls if re.match(r"(https?:)?//", url)]
    return found


def build() -> None:
    """Run jupyter-book and put its site at `_build/html`; SystemExit with its warnings, or with what it would fetch."""
    print("building the book (about half a minute)", file=sys.stderr, flush=True)
    nested = BUILD / "jupyter-book"
    shutil.rmtree(nested, ignore_errors=True)
    done = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", SOURCE, "--path-output", nested, "-n", "-W",
         "--keep-going", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
    if done.returncode:
        told = [line for line in done.stdout.splitlines() if re.search("warning|error", line, re.IGNORECASE)]
        raise SystemExit("\n".join(["jupyter-book failed:", *(told or done.stdout.splitlines()[-20:])]))
    site = nested / "_build/html"
    if loads := network_loads(site):
        raise SystemExit("\n".join(["the book loads from the network:", *loads[:20]]))
    shutil.rmtree(HTML, ignore_errors=True)
    site.rename(HTML)
    shutil.rmtree(nested)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="book")
    parser.add_argument("--subject", default="portraits", help="one subject, or several separated by commas")
    args = parser.parse_args()
    gather(args.profile, subjects_of(args.subject))
    build()


if __name__ == "__main__":
    main()
