"""The package's own account of its floors is true: data flows one way."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import difflens_utils
from difflens_utils.runtime import keys

PACKAGE = Path(difflens_utils.__file__).parent


def floors(account: str) -> dict[str, int]:
    """The floor of each entry of an account, whose last indented lines name a floor each.

    An entry is a module (`sampling`), a folder with all that it holds (`worlds/`), or a module of a
    folder that has a floor of its own (`worlds.base`).
    """
    block = re.findall(r"(?:^    \S.*\n)+", account, re.MULTILINE)[-1]
    lines = block.splitlines()
    return {entry: i for i, line in enumerate(lines) for entry in re.findall(r"[\w.]+/?", line)}


def entry_of(file: Path, floor: dict[str, int]) -> str:
    """The entry of a file: its own, or that of its folder."""
    name = keys.dotted(file)
    folder = file.relative_to(keys.package_of(file)).parts[0]
    return name if name in floor else f"{folder}/"


def faults(package: Path, account: str) -> list[str]:
    """What the account does not tell, or tells wrongly; and circles within an entry."""
    floor = floors(account)
    files = [file for file in package.rglob("*.py") if file != package / "__init__.py"]
    entries = {file: entry_of(file, floor) for file in files}
    found = [f"{keys.dotted(f)} has no floor" for f, entry in entries.items() if entry not in floor]
    found += [f"{entry} is not there" for entry in floor if entry not in entries.values()]
    if found:
        return found
    inside: dict[Path, list[Path]] = {}
    for file, entry in entries.items():
        for other in keys.imports(file):
            if entries.get(other) == entry:
                inside.setdefault(file, []).append(other)
            elif other not in entries or floor[entries[other]] >= floor[entry]:
                found.append(f"{keys.dotted(file)} imports {keys.dotted(other)}")
    TopologicalSorter(inside).prepare()  # raises CycleError
    return found


def test_a_module_imports_only_from_the_floors_above_its_own() -> None:
    assert not faults(PACKAGE, difflens_utils.__doc__ or "")


def made(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "made"
    for name, text in {"__init__.py": "", "worlds/__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


ACCOUNT = """A package.

    worlds.base
    metrics
    worlds/, sampling
"""
FILES = {
    "worlds/base.py": "",
    "metrics.py": "from .worlds import base\n",
    "worlds/drawn.py": "from ..metrics import mean\nfrom .base import World\n",
    "worlds/other.py": "from . import drawn\n",
    "sampling.py": "from .metrics import mean\n",
}


def test_folders_have_floors_too(tmp_path: Path) -> None:
    assert faults(made(tmp_path, FILES), ACCOUNT) == []


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("metrics.py", "from .worlds.drawn import x\n", "metrics imports worlds.drawn"),
        ("worlds/other.py", "from .. import sampling\n", "worlds.other imports sampling"),
        ("worlds/base.py", "from .drawn import x\n", "worlds.base imports worlds.drawn"),
        ("new.py", "", "new has no floor"),
    ],
)
def test_what_the_account_does_not_tell_is_found(
    file: str, text: str, fault: str, tmp_path: Path
) -> None:
    assert faults(made(tmp_path, FILES | {file: text}), ACCOUNT) == [fault]


def test_a_circle_in_a_folder_is_found(tmp_path: Path) -> None:
    circle = {"worlds/drawn.py": "from . import other\n"}
    with pytest.raises(CycleError):
        faults(made(tmp_path, FILES | circle), ACCOUNT)


def test_an_account_names_nothing_that_is_not_there(tmp_path: Path) -> None:
    account = ACCOUNT.replace("metrics", "metrics, gone, away/")
    expected = ["gone is not there", "away/ is not there"]
    assert faults(made(tmp_path, FILES), account) == expected
