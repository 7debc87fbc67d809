"""A Sphinx extension: what the pages lack with the theme and its extensions alone.

The texts that figures give themselves become the alternative texts of their pictures, and numbered
captions below them; MathJax is loaded by pages with formulas only; what the makers of the pages
mark wrongly is marked rightly; hits of the search show what their page is about, without fetching
it, which browsers forbid on a disk.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from sphinx.application import Sphinx

SUMMARY = 200  # characters
MENDED = {
    # of myst-nb: hides the words in it
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # of docutils: stands in a list, and names a role that is no item of one
    ' role="doc-biblioentry"': ' role="listitem"',
}
SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
PARAMETERS = {"<dl>": "<ul>", "</dl>": "</ul>", "<dd>": "<li>", "</dd>": "</li>"}
SCORER = """var summaries = %s;
var Scorer = {
  score: (hit) => { hit[3] = hit[3] || summaries[hit[0]]; return hit[4]; },
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};"""  # the weights are Sphinx's own; a hit is [page, title, anchor, summary, score, file]


def texts_of_pictures(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """What figures say of themselves, by the name that myst-nb gives their picture: its SHA-256."""
    found = {}
    for output in (o for cell in notebook.cells for o in cell.get("outputs", [])):
        alt = output.get("metadata", {}).get("image/png", {}).get("alt")
        if alt:
            picture = base64.b64decode(output.data["image/png"])
            found[hashlib.sha256(picture).hexdigest()] = alt
    return found


def read_page(app: Sphinx, doctree: nodes.document) -> None:
    """Give pictures their texts and captions, and keep a page's first paragraph as its summary."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix == ".ipynb":
        texts = texts_of_pictures(nbformat.read(path, as_version=4))
        pictures = list(doctree.findall(nodes.image))
        for number, image in enumerate(pictures, 1):
            if text := texts.get(Path(image["uri"]).stem):
                image["alt"] = text
                give_caption(image, caption(text), f"figure-{number}")
    first = next((p.astext() for p in doctree.findall(nodes.paragraph)), "")
    summary = textwrap.shorten(first, SUMMARY, placeholder=" …")
    app.env.metadata[app.env.docname]["summary"] = summary


def caption(text: str) -> str:
    """What a figure shows: the first sentence of its text. The others say what can be seen."""
    first, end, _ = text.partition(". ")
    return first + end.strip()


def give_caption(image: nodes.image, text: str, name: str) -> None:
    """Put a picture into a figure with a caption, which Sphinx numbers, since it has a name."""
    figure = nodes.figure("", ids=[name])
    image.replace_self(figure)
    figure += [image, nodes.caption(text, text)]


def plain_signature(found: re.Match[str]) -> str:
    """A signature of the library, its parameters as a list and its words without marks.

    Sphinx makes the parameters definitions of nothing, and a third of the page are its marks.
    """
    text = re.sub(r'<span class="(?:pre|w)">([^<]*)</span>', r"\1", found[0])
    for old, new in PARAMETERS.items():
        text = text.replace(old, new)
    return text


def finish_page(
    app: Sphinx,
    pagename: str,
    _template: str,
    context: dict[str, Any],
    _doctree: nodes.document | None,
) -> None:
    """Take MathJax from a page without formulas; mend what screen readers would be told wrongly."""
    body = SIGNATURE.sub(plain_signature, context.get("body", ""))
    for old, new in MENDED.items():
        body = body.replace(old, new)
    context["body"] = body
    if 'class="math' not in body:
        scripts = context["script_files"]
        scripts[:] = [script for script in scripts if "mathjax" not in str(script.filename)]
    summaries = {
        name: html.escape(values.get("summary", "")) for name, values in app.env.metadata.items()
    }
    if summary := summaries.get(pagename):
        context["metatags"] += f'<meta name="description" content="{summary}" />'
    if pagename == "search":
        app.add_js_file(None, body=SCORER % json.dumps(summaries).replace("</", r"<\/"))


def finish_site(app: Sphinx, exception: Exception | None) -> None:
    """Delete the theme's templates from the site, and the outputs from notebooks to download.

    The outputs stand on the pages; with them the downloads would double the size of the site.
    """
    if exception is not None:
        return
    for path in Path(app.outdir, "_static").glob("*webpack-macros.html"):
        path.unlink()
    for path in Path(app.outdir, "_sources").rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", read_page)
    app.connect("html-page-context", finish_page, priority=900)  # after MathJax has been added
    app.connect("build-finished", finish_site)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
