"""A Sphinx extension: the page of the library, from the package's own docstrings.

The mark `{modules}` on the page becomes a section per module of the package, as it is found on
disk. Docstrings are prose with code in single backticks, so they are turned into reStructuredText,
in which a star, a bar or an underscore would mean something.
"""

from __future__ import annotations

import pkgutil
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import difflens_utils

PAGE, MARK = "library", "{modules}"
SECTION = """## `{title}`

```{{eval-rst}}
.. automodule:: {name}
   :members:
   :member-order: bysource
```
"""
CODE = re.compile(r"(`+[^`]+`+)")
SPECIAL = re.compile(r"([\\*|_])")
FIELD = "Alias for field number"  # the docstring that Python gives a field of a NamedTuple


def modules() -> list[str]:
    """The dotted names of all modules with public names, those of the root before its folders."""
    package = difflens_utils.__name__
    found = list(pkgutil.walk_packages(difflens_utils.__path__, f"{package}."))
    public = [entry for entry in found if "._" not in entry.name]
    public.sort(key=lambda entry: (entry.name.count(".") > 1 or entry.ispkg, entry.name))
    return [entry.name for entry in public]


def prose(text: str) -> str:
    """One paragraph of a docstring as reStructuredText."""
    pieces = CODE.split(text)
    code = [f"``{piece.strip('`')}``" for piece in pieces[1::2]]
    plain = [SPECIAL.sub(r"\\\1", piece) for piece in pieces[::2]]
    pairs = zip(plain, [*code, ""], strict=True)
    # "\ " shows nothing, and lets a letter stand beside code, such as in `KSAE`s
    return "".join(before + (rf"\ {inside}\ " if inside else "") for before, inside in pairs)


def paragraph(text: str) -> str:
    """A paragraph, list, example or indented block of a docstring as reStructuredText."""
    first = text.lstrip()
    if first.startswith(">>>"):
        return text
    if text.startswith("    "):
        return "::\n\n" + text
    if not first.startswith("- "):
        return prose(text)
    items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    return "\n".join("- " + prose(" ".join(item.split())) for item in items)


def read_docstring(_app: Sphinx, _kind: str, _name: str, *found: Any) -> None:
    """Turn a docstring, the last of what Sphinx passes, into reStructuredText, in place."""
    lines = found[-1]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    text = "\n\n".join(paragraph(each) for each in paragraphs)
    lines[:] = [*text.splitlines(), ""]


def skips(app: Sphinx, _kind: str, name: str, member: object, *_rest: Any) -> bool | None:
    """Whether a member is shown elsewhere, or is a field that nothing is said of.

    A folder's module exports what its files define. None leaves the decision to Sphinx.
    """
    module = app.env.temp_data["autodoc:module"]
    if getattr(member, "__module__", module) != module:
        return True
    if not str(member.__doc__).startswith(FIELD):
        return None
    documented = ModuleAnalyzer.for_module(module).find_attr_docs()
    return None if (app.env.temp_data["autodoc:class"], name) in documented else True


def read_source(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the sections in the place of the mark."""
    if page == PAGE:
        titles = {name: name.partition(".")[2] for name in modules()}
        sections = [SECTION.format(name=name, title=title) for name, title in titles.items()]
        source[0] = source[0].replace(MARK, "\n".join(sections))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", skips)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
