"""The number of images that were drawn for a result, by the way they were drawn.

Images are counted while they are drawn. A stored result keeps its own counts and those of the
results that it was made from, by their names. A process that reads the result takes these counts
over. So a page knows what its figures cost, whether they were drawn just now or by an earlier run,
and no image counts twice.

>>> from difflens_utils.runtime import tally
>>> tally.total({"unedited": {"recording": 4}, "edited": {"recording": 1, "sampling": 8}})
{'recording': 5, 'sampling': 8}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

WAYS = ("recording", "sampling", "symmetric edit", "asymmetric edit")
Counts = dict[str, dict[str, int]]  # {name of a result: {way: images}}

_open: list[Counts] = [{}]  # of the process, and of the results that are being made, innermost last


def count(way: str, images: int) -> None:
    """Adds images to the counts of the result that is being made."""
    counts = _open[-1].setdefault("", {})
    counts[way] = counts.get(way, 0) + images


def take(counts: Counts) -> None:
    """Takes over the counts of a result that is read."""
    _open[-1].update(counts)


@contextmanager
def making(name: str) -> Iterator[Counts]:
    """Yields the counts of a result while it is made: its own, and of the results that it reads."""
    counts: Counts = {}
    _open.append(counts)
    try:
        yield counts
    finally:
        _open.pop()
        if "" in counts:
            counts[name] = counts.pop("")
        take(counts)


@contextmanager
def aside() -> Iterator[None]:
    """What is made meanwhile counts nowhere else: whoever reads it takes its counts over."""
    _open.append({})
    try:
        yield
    finally:
        _open.pop()


def total(counts: Mapping[str, Mapping[str, int]] | None = None) -> dict[str, int]:
    """Returns images by way, by default of all results that this process has made or read."""
    summed: Counter[str] = Counter()
    for ways in (_open[0] if counts is None else counts).values():
        summed.update(ways)
    return {way: summed[way] for way in WAYS if summed[way]}
