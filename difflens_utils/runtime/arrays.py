"""Arrays on disk, with all of their space from the beginning.

A file that is mapped into memory may have holes. Where the disk is full, the first write into one
ends the process without a word (SIGBUS). So the space is taken first, and a full disk is an OSError
like any other.

>>> import tempfile
>>> from pathlib import Path
>>> import numpy as np
>>> from difflens_utils.runtime import arrays
>>> path = Path(tempfile.mkdtemp()) / "x.npy"
>>> arrays.save(path, np.arange(3))
>>> np.load(path).tolist()
[0, 1, 2]
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def create(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """A new file of NumPy's format, mapped into memory. Raises OSError for a full disk."""
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):  # not on macOS
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def save(path: Path, array: NDArray[Any]) -> None:
    """Writes an array into a file of NumPy's format. Raises OSError for a full disk."""
    whole = create(path, array.dtype, array.shape)
    whole[...] = array
    whole.flush()
