"""What several pages do to show figures in a table, and to name them in records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import pandas as pd

from ..metrics import Estimate


def table(rows: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """One row per name. Estimates are shown with their intervals; a missing cell is empty."""
    return pd.DataFrame(rows).T.fillna("").map(str)


def joined(values: Iterable[float]) -> str:
    """Shares in a row: "0.31 / 0.69"."""
    return " / ".join(f"{value:.2f}" for value in values)


def shown(estimate: Estimate | None) -> str:
    """An estimate with its interval; a dash where there is none."""
    return "–" if estimate is None else str(estimate)


def key(name: str) -> str:
    """What a name is called in records: "Act@L, add-one" becomes "Act@L_add_one"."""
    return re.sub(", |[ -]", "_", name)
