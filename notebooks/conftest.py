"""Settings for nbval, which runs the notebooks as tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives cells an hour for their output: nbval's 5 s are too short on a busy machine."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 3600
