"""Which of several processes that share their work this one is.

DIFFLENS_WORKER says it: "1/4" is the second of four.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Worker(NamedTuple):
    """The number of a worker, from 0 on, and how many workers there are."""

    number: int = 0
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nothing calls


def worker(text: str | None = None) -> Worker:
    """The worker that `text` names, such as "1/4"; by default what DIFFLENS_WORKER names, or 0/1.

    Raises ValueError, in one line, for any other text.
    """
    if text is None:
        text = os.environ.get("DIFFLENS_WORKER", "0/1")
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"worker must be one of 0/n .. (n-1)/n, such as 1/4; got {text!r}")
    return Worker(int(number), int(count))
