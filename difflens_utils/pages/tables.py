"""Tables as readers see them, figures as cells, and names as they are said.

>>> from difflens_utils.pages import tables
>>> tables.joined([0.3149, 0.6851])
'0.31 / 0.69'
>>> tables.key("Act@L, add-one")
'Act@L_add_one'
>>> tables.know(["hair_length"])
>>> tables.said("hair_length (depends on mid_block)")
'hair length (depends on mid_block)'
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping

import pandas as pd
from IPython import get_ipython

INTERVAL = re.compile(r"([^\s\[]+) (\[[^\]]*\])(.*)", re.DOTALL)

_names: dict[str, str] = {}  # factors as they are called, and as they are said


def know(names: Iterable[str]) -> None:
    """Lets `said` say names of factors from now on: `hair_length` is the hair length."""
    _names.update({name: name.replace("_", " ") for name in names if "_" in name})


def said(text: str) -> str:
    """A text in which every known name is as it is said."""
    for name, words in _names.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w])", words, text)
    return text


def table(rows: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """Returns a row per name. Estimates have their intervals, and missing cells are empty."""
    return pd.DataFrame(rows).T.fillna("").map(str)


def joined(values: Iterable[float]) -> str:
    """Returns shares in a row: "0.31 / 0.69"."""
    return " / ".join(f"{value:.2f}" for value in values)


def key(name: str) -> str:
    """Returns the form of a name in records: "Act@L, add-one" becomes "Act@L_add_one"."""
    return re.sub(", |[ -]", "_", name)


# --------------------------------------------------------------------------------------------------
# HTML


def register() -> None:
    """Lets notebooks show every table of pandas as `as_html` has it."""
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, as_html)


def as_html(frame: pd.DataFrame) -> str:
    """A table with one row of heads, and intervals in small type below their figures.

    The name of its columns, such as an attribute, stands above it.
    """
    most = pd.get_option("display.max_rows")
    if most and len(frame) > most:  # a reader's own, which pandas cuts
        return frame.to_html(max_rows=most, show_dimensions=True)
    caption = (
        "" if frame.columns.name is None else f"<caption>{_cell(frame.columns.name)}</caption>"
    )
    heads = [*(name or "" for name in frame.index.names), *map(_head, frame.columns)]
    lines = [_row([f'<th scope="col">{_cell(head)}</th>' for head in heads])]
    before: tuple[object, ...] = ()
    for labels, cells in zip(frame.index, frame.itertuples(index=False, name=None), strict=True):
        own = labels if isinstance(labels, tuple) else (labels,)
        rows = [f'<th scope="row">{_cell(_head(label))}</th>' for label in _new(own, before)]
        lines.append(_row([*rows, *(f"<td>{_cell(cell)}</td>" for cell in cells)]))
        before = own
    head, body = lines[0], "\n".join(lines[1:])
    return (
        f'<table class="dataframe">{caption}\n<thead>\n{head}\n</thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )


def _new(labels: tuple[object, ...], before: tuple[object, ...]) -> list[object]:
    """The labels of a row, without the first ones that are those of the row before."""
    same = len(labels) > 1
    shown: list[object] = []
    for place, label in enumerate(labels):
        same = same and place < len(before) and before[place] == label
        shown.append("" if same else label)
    return shown


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _head(label: object) -> object:
    """The head of a column or a row: several levels in one line, and numbers as they are."""
    if isinstance(label, float):
        return f"{label:g}"
    return (
        ": ".join(str(part) for part in label if part not in (None, ""))
        if isinstance(label, tuple)
        else label
    )


def _cell(value: object) -> str:
    """A cell: an interval stands below its figure."""
    if value is None or value is pd.NA or value != value:
        text = "–"
    elif isinstance(value, float):
        text = f"{value:.3f}" if value == 0 or 0.0005 <= abs(value) < 1e6 else f"{value:.1e}"
    else:
        text = said(str(value))
    if found := INTERVAL.fullmatch(text):
        figure, interval, rest = (html.escape(part) for part in found.groups())
        return f"{figure}{rest}<br><small>{interval}</small>"
    return html.escape(text)
