"""A Sphinx extension: the first use of a term on a page is a link to the glossary.

The terms are those of book/glossary.md, in whole words and also in the plural. Titles, code, links
and captions stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

GLOSSARY = "glossary"  # the page
EVERYDAY = (
    "claim",
    "completeness",
    "dictionary",
    "kept",
    "lead",
    "plan",
    "removed",
    "unit",
)  # as often words of everyday, or of Python
TERM = re.compile(r"^(\w.*)$", re.MULTILINE)  # definitions are indented
UNTOUCHED = (
    nodes.reference,
    addnodes.pending_xref,
    nodes.FixedTextElement,
    nodes.literal,
    nodes.math,
    nodes.title,
    nodes.rubric,
    nodes.caption,
    nodes.term,
    nodes.raw,
)


class Use(NamedTuple):
    """A term as it stands in a text."""

    term: str
    start: int
    end: int


def terms(glossary: str) -> list[str]:
    """The terms of a glossary in Markdown."""
    _, _, definitions = glossary.partition(":::{glossary}")
    return TERM.findall(definitions.partition("\n:::")[0])


@cache
def pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of the terms, the longest of several that begin at the same place.

    A number before one is its measure: 2 h are hours.
    """
    ordered = sorted(names, key=len, reverse=True)
    anyone = "|".join(map(re.escape, ordered))
    return re.compile(rf"(?<![\w-])(?<!\d )({anyone})(?:e?s)?(?![\w-])", re.IGNORECASE)


def uses(text: str, names: Sequence[str], seen: set[str]) -> Iterator[Use]:
    """The first uses of terms in a text, of those that are not `seen`; they are added there."""
    known = {name.lower(): name for name in names}
    for found in pattern(tuple(names)).finditer(text):
        term = known[found[1].lower()]
        if term not in seen:
            seen.add(term)
            yield Use(term, found.start(), found.end())


def link(app: Sphinx, doctree: nodes.document) -> None:
    """Make links of the first uses on a page."""
    if GLOSSARY not in app.env.found_docs or app.env.docname == GLOSSARY:
        return
    every = terms(Path(app.env.doc2path(GLOSSARY)).read_text())
    names = [name for name in every if name not in EVERYDAY]
    seen: set[str] = set()
    for paragraph in list(doctree.findall(nodes.paragraph)):
        for text in list(paragraph.findall(nodes.Text)):
            if not _is_within(text, UNTOUCHED):
                _replace(text, list(uses(text.astext(), names, seen)), app.env.docname)


def _is_within(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def _replace(text: nodes.Text, found: list[Use], page: str) -> None:
    """Put links where the terms are used in a text."""
    if not found:
        return
    whole, parts, end = text.astext(), [], 0
    for use in found:
        parts.append(nodes.Text(whole[end : use.start]))
        shown = nodes.inline("", whole[use.start : use.end], classes=["std-term"])
        about = {"refdomain": "std", "reftype": "term", "reftarget": use.term, "refdoc": page}
        parts.append(addnodes.pending_xref("", shown, refexplicit=True, refwarn=True, **about))
        end = use.end
    parts.append(nodes.Text(whole[end:]))
    text.parent.replace(text, parts)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
