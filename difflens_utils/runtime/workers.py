"""The number of this process among the processes that share its work.

The environment variable DIFFLENS_WORKER states it: "1/4" is the second of four.

>>> from difflens_utils.runtime import workers
>>> workers.worker("1/4")
Worker(number=1, count=4)
>>> workers.worker("4/4")
Traceback (most recent call last):
    ...
ValueError: worker must be one of 0/n .. (n-1)/n, such as 1/4; got '4/4'
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Worker(NamedTuple):
    """The number of a worker, from 0 on, and how many workers there are."""

    number: int = 0
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nothing calls


def worker(text: str | None = None) -> Worker:
    """Returns the worker that `text` names, such as "1/4". The default is DIFFLENS_WORKER, or 0/1.

    Raises ValueError, in one line, for any other text.
    """
    if text is None:
        text = os.environ.get("DIFFLENS_WORKER", "0/1")
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"worker must be one of 0/n .. (n-1)/n, such as 1/4; got {text!r}")
    return Worker(int(number), int(count))
