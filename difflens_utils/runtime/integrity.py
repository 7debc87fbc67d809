"""Whether files are as they were written: those that ship, and those that a build has made.

`shipped.sha256` at the root lists all files that ship, as `sha256sum -c` reads them. A file that a
build has made holds its own checksum: it appears whole with it, and no second file can be lost.

>>> import json
>>> from difflens_utils.runtime import integrity
>>> text = integrity.sealed({"fd": 0.25})
>>> integrity.opened(text)["fd"]
0.25
>>> integrity.opened(text.replace("0.25", "0.35"))
Traceback (most recent call last):
    ...
ValueError: it is not as it was written
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIST = "shipped.sha256"
EMPTY = "0" * 64
SEAL = re.compile(r'"checksum": "([0-9a-f]{64})"')

# --------------------------------------------------------------------------------------------------
# What ships


def check_shipped(*folders: Path, root: Path = ROOT) -> None:
    """Checks the files in folders of the repository that ship. Others are not looked at.

    Raises ValueError, in one line, for the first that is not as it ships. One that was removed is
    none: whoever reads it makes it anew, or says that it is missing. Whoever makes what ships
    (`DIFFLENS_SHIP=1`) may replace it.
    """
    if os.environ.get("DIFFLENS_SHIP", "0") not in ("", "0"):
        return
    inside = tuple(f"{folder.relative_to(root).as_posix()}/" for folder in folders)
    for name, checksum in listed(root).items():
        if name.startswith(inside) and checksum_of(root / name) not in (checksum, ""):
            raise ValueError(
                f"{name} is damaged: git checkout brings back what ships; if you made it anew, "
                "make sums lists it as it is"
            )


def listed(root: Path = ROOT) -> dict[str, str]:
    """The files that ship, with their checksums; none where the list is not there."""
    path = root / LIST
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: checksum for checksum, _, name in (line.partition("  ") for line in lines)}


def write_list(names: Iterable[str], root: Path = ROOT) -> None:
    """Lists files, named from the root, as they are now."""
    lines = [f"{checksum_of(root / name)}  {name}\n" for name in sorted(names)]
    temporary = root / f".{LIST}"
    temporary.write_text("".join(lines))
    temporary.replace(root / LIST)


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file; "" if there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return _checksum(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@cache
def _checksum(path: Path, *_stamp: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --------------------------------------------------------------------------------------------------
# What a build has made


def sealed(content: Mapping[str, Any]) -> str:
    """JSON with a checksum of itself: of a notebook in its metadata, else beside the entries."""
    copied: dict[str, Any] = copy.deepcopy(dict(content))
    _holder(copied)["checksum"] = EMPTY
    text = json.dumps(copied, indent=1, ensure_ascii=False) + "\n"
    return text.replace(f'"checksum": "{EMPTY}"', f'"checksum": "{_digest(text)}"')


def opened(text: str) -> dict[str, Any]:
    """What stands in a sealed text. Raises ValueError if it is not as it was written."""
    found = SEAL.findall(text)
    if len(found) != 1 or _digest(text.replace(found[0], EMPTY)) != found[0]:
        raise ValueError("it is not as it was written")
    content: dict[str, Any] = json.loads(text)
    del _holder(content)["checksum"]
    return content


def read(path: Path) -> dict[str, Any]:
    """A sealed file. Raises ValueError, in one line, for one that is damaged, OSError for none."""
    try:
        return opened(path.read_text(encoding="utf-8"))
    except ValueError:  # it may be no text at all
        raise ValueError(
            f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path} is damaged: "
            "delete it, and make book makes it anew"
        ) from None


def damaged(paths: Iterable[Path]) -> Iterator[Path]:
    """Those of sealed files that are there and are not as they were written."""
    for path in paths:
        if path.exists():
            try:
                read(path)
            except ValueError:
                yield path


def _holder(content: dict[str, Any]) -> dict[str, Any]:
    """Where a checksum stands: a notebook's format knows no other entries than its own."""
    holder: dict[str, Any] = content.get("metadata", content)
    return holder


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
