"""Values that lie outside their own 95 % interval: which they are, and how a page says so.

>>> from difflens_utils.metrics import intervals
>>> intervals.is_outside(0.01, low=0.02, high=0.06)
True
>>> intervals.mark(0.01, 0.02, 0.06), intervals.mark(0.03, 0.02, 0.06)
(' †', '')
"""

from __future__ import annotations

MARK = "†"
WHY = (
    f"{MARK} This value lies outside its own 95 % interval. The interval holds the distances of "
    "resampled images, and resampling adds noise of its own: a distance such as FD counts every "
    "deviation as positive, so near zero nearly all resampled distances exceed the measured one, "
    "and the interval lies too high. Read such a value beside the noise level, not by its "
    "interval."
)


def is_outside(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value lies outside its interval by more than rounding; False without one."""
    if value is None or low is None or high is None:
        return False
    rounding = 1e-6 * max(abs(low), abs(high))
    return value < low - rounding or value > high + rounding


def mark(value: float | None, low: float | None, high: float | None) -> str:
    """What stands behind a value and its interval: a mark if it lies outside, else nothing."""
    return f" {MARK}" if is_outside(value, low, high) else ""


def explained(text: str) -> str:
    """`text` (Markdown), followed by the reason if it holds a marked value."""
    return f"{text}\n\n{WHY}" if MARK in text else text
