"""One-line errors for bad input, raised before anything expensive starts.

>>> from difflens_utils.runtime import errors
>>> errors.one_of("mode", "scales", ("add", "scale"))
Traceback (most recent call last):
    ...
ValueError: mode must be one of scale, add; got 'scales'
>>> errors.distribution("shares", [0.5, 0.25, 0.25]).tolist()
[0.5, 0.25, 0.25]
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray


def line(error: BaseException) -> str:
    """The first line of an exception's text, or the name of its type where it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def one_of(parameter: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ValueError unless `value` is allowed. The error lists what is, the closest first."""
    names = [str(name) for name in allowed]
    if str(value) in names:
        return
    close = difflib.get_close_matches(str(value), names, n=5, cutoff=0.3)
    shown = close + [name for name in names if name not in close]
    tail = f", ... ({len(shown)} in all)" if len(shown) > 20 else ""
    raise ValueError(f"{parameter} must be one of {', '.join(shown[:20])}{tail}; got {value!r}")


def positive(parameter: str, value: float) -> None:
    """Raises ValueError unless `value` > 0."""
    if not value > 0:
        raise ValueError(f"{parameter} must be greater than 0, got {value!r}")


def all_positive(**values: float) -> None:
    """Raises ValueError, which names the parameter, unless all values are greater than 0."""
    for parameter, value in values.items():
        positive(parameter, value)


def at_least(parameter: str, value: float, least: float = 1, unit: str = "") -> None:
    """Raises ValueError unless `value` >= `least`. `unit` explains it, such as "one batch"."""
    if not value >= least:
        named = f" ({unit})" if unit else ""
        raise ValueError(f"{parameter} must be at least {least}{named}, got {value!r}")


def within(parameter: str, value: float, low: float, high: float) -> None:
    """Raises ValueError unless `low` <= `value` <= `high`."""
    if not low <= value <= high:
        raise ValueError(f"{parameter} must be between {low} and {high}, got {value!r}")


def distribution(
    parameter: str, shares: ArrayLike, classes: int | None = None
) -> NDArray[np.float64]:
    """Returns the shares (classes,) as float64.

    Raises ValueError for a wrong length, a share below 0 or nan, or a sum other than 1.
    """
    try:
        p = np.asarray(shares, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{parameter} must be shares that sum to 1, got {shares!r}") from None
    count = classes or p.size
    if p.shape != (count,) or (p < 0).any() or not abs(p.sum() - 1) <= 1e-6:
        raise ValueError(
            f"{parameter} must be {count} shares that sum to 1, got {p.round(6).tolist()}, "
            f"which sums to {p.sum():.6g}"
        )
    return p
