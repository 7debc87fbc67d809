"""One-line errors for bad input, raised before anything expensive starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def one_of(parameter: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError naming the parameter and the allowed values (closest first) unless `value` is one of them."""
    allowed = [str(a) for a in allowed]
    if str(value) not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=5, cutoff=0.3)
        shown = close + [a for a in allowed if a not in close]
        tail = f", ... ({len(shown)} in all)" if len(shown) > 20 else ""
        raise ValueError(f"{parameter} must be one of {', '.join(shown[:20])}{tail}; got {value!r}")


def positive(parameter: str, value: float) -> None:
    """Raise ValueError unless `value` > 0."""
    if not value > 0:
        raise ValueError(f"{parameter} must be greater than 0, got {value!r}")


def within(parameter: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ValueError(f"{parameter} must be between {low} and {high}, got {value!r}")
