"""Helpers of several pages: figures as cells of a table, and names of records.

>>> from difflens_utils.pages import tables
>>> tables.joined([0.3149, 0.6851])
'0.31 / 0.69'
>>> tables.key("Act@L, add-one")
'Act@L_add_one'
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd


def table(rows: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """Returns a row per name. Estimates have their intervals, and missing cells are empty."""
    return pd.DataFrame(rows).T.fillna("").map(str)


def joined(values: Iterable[float]) -> str:
    """Returns shares in a row: "0.31 / 0.69"."""
    return " / ".join(f"{value:.2f}" for value in values)


def key(name: str) -> str:
    """Returns the form of a name in records: "Act@L, add-one" becomes "Act@L_add_one"."""
    return re.sub(", |[ -]", "_", name)
