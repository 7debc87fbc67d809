"""Work that several processes share. Each process computes blocks that no other has claimed.

The processes (`workers`) may run on several machines that see the same store. No block is assigned
beforehand. A worker claims a block by a lock. The system releases the lock if the worker dies, and
another worker then computes the block, so one worker alone finishes the work too. A block is one
batch. Therefore the batches, and with them the results bit for bit, are those of a process that
works alone.

>>> from difflens_utils.runtime import shards
>>> shards.blocks(10, batch=4)
[slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from . import arrays, artifacts, keys, tally
from .artifacts import Artifact
from .workers import worker

POLL = 0.2  # seconds between two looks at blocks that others are making


class Job(Protocol):
    """Work that consists of blocks: a dataclass, whose fields are in the key of the result."""

    @property
    def blocks(self) -> Sequence[slice]:
        """Consecutive rows of the result."""


J = TypeVar("J", bound=Job)
Write = Callable[[J, slice, Path], None]  # write a block of a job into a folder


def blocks(n: int, batch: int) -> list[slice]:
    """Returns the rows of each batch of n images."""
    return [slice(i, min(i + batch, n)) for i in range(0, n, batch)]


def shared(stage: str, *, reads: Sequence[str] = ()) -> Callable[[Write[J]], Callable[[J], Path]]:
    """Decorates a function that writes a block of a job: it returns the folder of the whole.

    The function writes arrays as .npy files, with one row for each row of the block. A process that
    works alone calls it once for all rows. Workers call it side by side, for one block after
    another. Damaged blocks are made again. All blocks are removed once the whole exists. `reads` is
    that of `artifacts.stored`.
    """

    def decorate(write: Write[J]) -> Callable[[J], Path]:
        @wraps(write)
        def call(job: J) -> Path:
            whole = Artifact.of(stage, keys.of(write, {"job": job}, reads))
            split = job.blocks
            scratch = artifacts.STORE / "parts" / f"{stage}-{whole.folder.name}"
            if len(split) < 2 or (worker().count == 1 and not scratch.exists()):
                rows = slice(split[0].start, split[-1].stop)
                return artifacts.make(whole, lambda folder: write(job, rows, folder))

            parts = [_part(whole, block, scratch) for block in split]
            while not artifacts.exists(whole.folder):
                with artifacts.lock(whole.folder):
                    if not artifacts.intact(whole.folder):
                        artifacts.discard(whole.folder)
                _make_all(whole, parts, lambda i, folder: write(job, split[i], folder))
                with suppress(_Damaged):
                    artifacts.make(whole, lambda folder: _together(parts, folder))
            shutil.rmtree(scratch, ignore_errors=True)
            artifacts.recall(whole.folder)  # another worker may have made it
            return whole.folder

        return call

    return decorate


def _part(whole: Artifact, block: slice, scratch: Path) -> Artifact:
    parameters = {"of": whole.parameters, "block": [block.start, block.stop]}
    return Artifact(whole.stage, parameters, scratch / f"{block.start:07d}-{block.stop:07d}")


def _make_all(
    whole: Artifact, parts: Sequence[Artifact], write: Callable[[int, Path], None]
) -> None:
    """Makes the missing parts. Returns when every part, or the whole, exists.

    Worker i of w starts at part i n / w of n. `write(number, folder)` fills the folder of a part.
    """
    number, count = worker()
    first = number * len(parts) // count
    order = [*range(first, len(parts)), *range(first)]
    while not whole.folder.exists():
        missing = [i for i in order if not parts[i].folder.exists()]
        if not missing:
            return
        made = 0
        for i in missing:
            with _claimed(parts[i].folder) as claimed:
                # Parts go only after the whole is there: as long as it is not, a missing part was
                # never made.
                if claimed and not whole.folder.exists() and not parts[i].folder.exists():
                    with tally.aside():  # the whole counts what its parts did
                        artifacts.fill(parts[i], partial(write, i))
                    made += 1
        if not made:
            time.sleep(POLL)


@contextmanager
def _claimed(part: Path) -> Iterator[bool]:
    """Yields whether this process holds the part now.

    It holds the part until the block ends or the process dies.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except (Timeout, FileNotFoundError):  # held by another, or removed because the whole is there
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class _Damaged(Exception):
    """A part was damaged. It has been removed and must be made again."""


def _together(parts: Sequence[Artifact], target: Path) -> None:
    """Merges parts. If some are damaged, removes these instead and raises `_Damaged`."""
    damaged = [part.folder for part in parts if not artifacts.intact(part.folder)]
    for folder in damaged:
        shutil.rmtree(folder, ignore_errors=True)
    if damaged:
        raise _Damaged
    for part in parts:
        artifacts.recount(part.folder)
    merge([part.folder for part in parts], target)


def merge(folders: Sequence[Path], target: Path) -> None:
    """Concatenates the arrays of blocks, in order, in the folder `target`."""
    for path in folders[0].glob("*.npy"):
        blocks_ = [np.load(folder / path.name, mmap_mode="r") for folder in folders]
        shape = (sum(map(len, blocks_)), *blocks_[0].shape[1:])
        dtype = np.result_type(*blocks_)
        whole = arrays.create(target / path.name, dtype, shape)
        np.concatenate(blocks_, out=whole)
        whole.flush()
