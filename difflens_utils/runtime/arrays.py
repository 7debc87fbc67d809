"""Arrays on disk, with all of their space from the beginning.

A file that is mapped into memory may have holes. Where the disk is full, the first write into one
ends the process without a word (SIGBUS). So the space is taken first, and a full disk is an OSError
like any other.

>>> import tempfile
>>> from pathlib import Path
>>> import numpy as np
>>> from difflens_utils.runtime import arrays
>>> path = Path(tempfile.mkdtemp()) / "x.npy"
>>> arrays.write(path, 3, [np.array([0, 1]), np.array([2])])
>>> arrays.mapped(path)
tensor([0, 1, 2])
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from torch import Tensor


def create(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new file of NumPy's format, mapped into memory. Raises OSError for a full disk."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def write(path: Path, length: int, parts: Iterable[NDArray[Any]]) -> None:
    """Writes an array of so many rows as its parts come, of which one is in memory at a time.

    The file is NumPy's. Raises OSError for a full disk, and ValueError for another number of rows.
    """
    whole, start = None, 0
    for part in parts:
        if whole is None:
            whole = create(path, part.dtype, (length, *part.shape[1:]))
        whole[start : start + len(part)] = part
        start += len(part)
    if whole is None or start != length:
        raise ValueError(f"{path.name} gets {start} rows, not {length}")
    whole.flush()


def mapped(path: Path) -> Tensor:
    """The array of a file, which stays on disk: changes of the tensor do not reach it."""
    return torch.from_numpy(np.load(path, mmap_mode="c"))
