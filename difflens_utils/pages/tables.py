"""What several pages do to show figures in a table."""

from __future__ import annotations

from collections.abc import Iterable


def joined(values: Iterable[float]) -> str:
    """Shares in a row: "0.31 / 0.69"."""
    return " / ".join(f"{value:.2f}" for value in values)
