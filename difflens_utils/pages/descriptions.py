"""What a figure shows, in words: its alternative text, for those who do not see it.

The text of a figure is what `describe` was told, then its panels from the first to the last: their
titles, their axes, and what the functions that drew in them have noted. A notebook keeps it in the
metadata of the picture, from where the book takes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_NOTES: WeakKeyDictionary[Axes, list[str]] = WeakKeyDictionary()


def describe(figure: Figure, text: str) -> None:
    """Say what a figure shows. Its panels follow by themselves."""
    figure.set_label(text)


def note(axis: Axes, text: str) -> None:
    """Add what has been drawn to the words of a panel."""
    _NOTES.setdefault(axis, []).append(text)


def words(figure: Figure) -> str:
    """The alternative text of a figure; empty if nothing in it says what it shows."""
    texts: list[str] = []
    panels = map(_panel, figure.axes)
    for text in (str(figure.get_label()), figure.get_suptitle(), *panels):
        if text and not any(text in earlier for earlier in texts):
            texts.append(text)
    sentences = (text[0].upper() + text[1:].rstrip(".") + "." for text in texts)
    return " ".join(" ".join(sentences).split())


def _panel(axis: Axes) -> str:
    """A panel in words: its title, axes and notes; empty for a colour bar, or without any."""
    if axis.get_label() == "<colorbar>":
        return ""
    title = axis.get_title() or axis.get_title("left")
    labels = [axis.get_ylabel(), axis.get_xlabel()] if axis.axison else []
    axes = " against ".join(label for label in labels if label)
    drawn = "; ".join(_NOTES.get(axis, []))
    return ": ".join(text for text in (title, axes, drawn) if text)


def listed(names: Iterable[Any]) -> str:
    """Names in a row, with commas, or with semicolons where a name holds a comma itself."""
    shown = [str(name) for name in names]
    return ("; " if any("," in name for name in shown) else ", ").join(shown)


def register() -> None:
    """Let notebooks keep the text of every figure in the metadata of its picture."""
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _metadata)


def _metadata(figure: Figure) -> tuple[dict[str, Any], dict[str, Any]]:
    """No data, which the formatter of PNGs adds, and the metadata of the PNG."""
    text = words(figure)
    return {}, {"image/png": {"alt": text}} if text else {}
