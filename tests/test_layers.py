"""The package's own account of its layers is true: data flows one way."""

from __future__ import annotations

import re
from pathlib import Path

import difflens_utils
from difflens_utils import keys

PACKAGE = Path(difflens_utils.__file__).parent


def test_a_module_imports_only_from_the_floors_above_its_own() -> None:
    account = "\n".join(re.findall(r"^    .*", difflens_utils.__doc__ or "", re.MULTILINE))
    floors = [re.findall(r"\w+", floor) for floor in account.split("->")]
    floor = {name: number for number, names in enumerate(floors) for name in names}
    modules = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    assert floor.keys() == modules.keys()
    for name, path in modules.items():
        lower = [
            other for other in keys._imports(path) & modules.keys() if floor[other] >= floor[name]
        ]
        assert not lower, f"{name} imports {lower}"
