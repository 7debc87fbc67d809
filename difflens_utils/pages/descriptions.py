"""The alternative text of figures: what a figure shows, in words.

The text of a figure begins with the text given to `describe`. The panels follow from the first to
the last: their titles, their axes, and the notes of the functions that drew in them. A notebook
keeps the text in the metadata of the picture, and the book reads it there.

>>> from matplotlib.figure import Figure
>>> from difflens_utils.pages import descriptions
>>> figure = Figure()
>>> axis = figure.add_subplot(title="Shares", xlabel="class", ylabel="share")
>>> descriptions.note(axis, "female 0.70")
>>> descriptions.describe(figure, "How often each class is drawn")
>>> descriptions.words(figure)
'How often each class is drawn. Shares: share against class: female 0.70.'
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from .tables import said

_NOTES: WeakKeyDictionary[Axes, list[str]] = WeakKeyDictionary()


def describe(figure: Figure, text: str) -> None:
    """States what a figure shows. The texts of its panels are added to it."""
    figure.set_label(text)


def note(axis: Axes, text: str) -> None:
    """Adds what has been drawn to the text of a panel."""
    _NOTES.setdefault(axis, []).append(text)


def words(figure: Figure) -> str:
    """Returns the alternative text of a figure. It is empty if nothing describes the figure."""
    texts: list[str] = []
    panels = map(_panel, figure.axes)
    for text in (str(figure.get_label()), figure.get_suptitle(), *panels):
        if text and not any(text in earlier for earlier in texts):
            texts.append(text)
    sentences = (text[0].upper() + text[1:].rstrip(".") + "." for text in texts)
    return " ".join(" ".join(sentences).split())


def _panel(axis: Axes) -> str:
    """A panel in words: its title, axes and notes. The text of a colour bar is empty."""
    if axis.get_label() == "<colorbar>":
        return ""
    title = axis.get_title() or axis.get_title("left")
    labels = [axis.get_ylabel(), axis.get_xlabel()] if axis.axison else []
    axes = " against ".join(label for label in labels if label)
    drawn = "; ".join(_NOTES.get(axis, []))
    return ": ".join(text for text in (title, axes, drawn) if text)


def listed(names: Iterable[Any]) -> str:
    """Returns names in a row, with commas, or with semicolons where a name holds a comma."""
    shown = [str(name) for name in names]
    return ("; " if any("," in name for name in shown) else ", ").join(shown)


def register() -> None:
    """Lets notebooks keep the text of every figure in the metadata of its picture."""
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _metadata)


def say(figure: Figure) -> None:
    """Writes the names of factors in a figure as they are said."""
    for text in figure.findobj(Text):
        text.set_text(said(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            names = [tick.get_text() for tick in axis.get_ticklabels()]
            words = [said(name) for name in names]
            if words != names:
                axis.set_ticks(axis.get_ticklocs(), words)


def _metadata(figure: Figure) -> tuple[dict[str, Any], dict[str, Any]]:
    """No data, which the formatter of PNGs adds, and the metadata of the PNG."""
    say(figure)
    text = said(words(figure))
    return {}, {"image/png": {"alt": text}} if text else {}
