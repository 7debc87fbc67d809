"""One-line errors for bad input, raised before anything expensive starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


def at_least(parameter: str, value: float, least: float = 1, unit: str = "") -> None:
    """Raise ValueError unless `value` >= `least`; `unit` says what that is, such as "one batch"."""
    if not value >= least:
        raise ValueError(
            f"{parameter} must be at least {least}{f' ({unit})' if unit else ''}, got {value!r}"
        )


def within(parameter: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ValueError(f"{parameter} must be between {low} and {high}, got {value!r}")


def distribution(
    parameter: str, shares: ArrayLike, classes: int | None = None
) -> NDArray[np.float64]:
    """The shares (classes,) as float64.

    Raises ValueError for a wrong length, a share below 0 or nan, or a sum other than 1.
    """
    try:
        p = np.asarray(shares, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{parameter} must be shares that sum to 1, got {shares!r}") from None
    if p.shape != (classes or p.size,) or (p < 0).any() or not abs(p.sum() - 1) <= 1e-6:
        raise ValueError(
            f"{parameter} must be {classes or p.size} shares that sum to 1, got {p.round(6).tolist()}, "
            f"which sums to {p.sum():.6g}"
        )
    return p
