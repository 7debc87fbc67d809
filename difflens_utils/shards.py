"""Work that several processes share: each makes the blocks that no other has made or is making, and one puts them together.

The processes (`workers`) may run on several machines that see the same store. Nothing is dealt out beforehand. A worker claims a block by
a lock, which the system takes from it if it dies, so another makes that block, and one worker alone makes them all. A block is one batch,
so the batches, and with them the bits, are those of a process that works alone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import artifacts, keys
from .workers import worker

POLL = 0.2  # seconds between two looks at blocks that others are making

Make = Callable[[slice | None, Path], None]  # fill a folder with one block, or with all of it: None
Merge = Callable[[list[Path], Path], None]  # fill a folder with what the parts, in order, hold


def blocks(n: int, batch: int) -> list[slice]:
    """The batches that n images fall into."""
    return [slice(i, min(i + batch, n)) for i in range(0, n, batch)]


class _Damaged(Exception):
    """A part does not hold what was stored: it was removed, and has to be made again."""


def shared(
    stage: str,
    parameters: dict[str, Any],
    split: Sequence[slice],
    make: Make,
    merge: Merge,
    ahead: Callable[[], object] | None = None,
) -> Path:
    """The folder of an artifact, as `artifacts.cached` gives it, whose blocks the workers make side by side.

    A process that is alone makes it whole, by `make(None, folder)`, unless there are parts that others have left. Parts that are damaged
    are made again. None are left over. `ahead` is called before the first block if the artifact is not there yet.
    """
    folder = artifacts.STORE / stage / keys.key_of(parameters)
    scratch = artifacts.STORE / "parts" / f"{stage}-{folder.name}"
    if len(split) < 2 or (worker().count == 1 and not scratch.exists()):
        return artifacts.cached(stage, parameters, lambda f: make(None, f), ahead=ahead)
    parts = [scratch / f"{block.start:07d}-{block.stop:07d}" for block in split]

    def together(target: Path) -> None:
        if broken := [part for part in parts if not artifacts.intact(part)]:
            for part in broken:
                shutil.rmtree(part, ignore_errors=True)
            raise _Damaged
        merge(parts, target)

    while True:
        if not artifacts.there(folder):
            artifacts.discard_damaged(folder)
            if ahead is not None:
                ahead()
            _make_all(stage, parameters, folder, split, parts, make)
        try:
            artifacts.cached(stage, parameters, together)
        except _Damaged:
            continue
        shutil.rmtree(scratch, ignore_errors=True)
        return folder


def _make_all(
    stage: str,
    parameters: dict[str, Any],
    folder: Path,
    split: Sequence[slice],
    parts: list[Path],
    make: Make,
) -> None:
    """Make what is missing until all parts are there, or what they are for; each worker begins elsewhere."""
    number, count = worker()
    first = number * len(split) // count
    order = [*range(first, len(split)), *range(first)]
    while not folder.exists() and (missing := [i for i in order if not parts[i].exists()]):
        made = 0
        for i in missing:
            with _claimed(parts[i]) as mine:
                # Parts go only after the whole is there: a part that is missing while it is not is really missing.
                if mine and not folder.exists() and not parts[i].exists():
                    described = {"of": parameters, "block": [split[i].start, split[i].stop]}
                    artifacts.fill(
                        parts[i], stage, described, lambda f, block=split[i]: make(block, f)
                    )
                    made += 1
        if not made:
            time.sleep(POLL)


@contextmanager
def _claimed(part: Path) -> Iterator[bool]:
    """Whether no other process holds the part; held until the context is left, or the process is gone."""
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except (
        Timeout,
        FileNotFoundError,
    ):  # held by another, or just cleared away because the whole is there
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
