"""Settings for nbval, which runs the notebooks as tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(
            item, "output_timeout"
        ):  # 5 s by default, too short for the output of a cell on a busy machine
            item.output_timeout = 3600
