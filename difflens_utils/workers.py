"""Which of several processes that share their work this one is: "1/4" in DIFFLENS_WORKER is the second of four."""

from __future__ import annotations

import os
from typing import NamedTuple


class Worker(NamedTuple):
    """Which of how many processes that share their work this one is."""

    number: int = 0
    count: int = 1


def worker(text: str | None = None) -> Worker:
    """What "1/4", by default in DIFFLENS_WORKER, means; alone if there is nothing. Raises ValueError, in one line, for anything else."""
    text = os.environ.get("DIFFLENS_WORKER", "0/1") if text is None else text
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"worker must be one of 0/n .. (n-1)/n, such as 1/4; got {text!r}")
    return Worker(int(number), int(count))
