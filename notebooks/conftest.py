"""Settings for nbval, which runs the notebooks as tests."""

from __future__ import annotations

import nbval.kernel
import pytest

from workflow.execute import STARTS_WITHIN, through_files

nbval.kernel.KernelManager = through_files(nbval.kernel.KernelManager)


def pytest_configure(config: pytest.Config) -> None:
    """Kernels have as long to start as those of the book."""
    if hasattr(config.option, "nbval_kernel_startup_timeout"):
        config.option.nbval_kernel_startup_timeout = STARTS_WITHIN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives cells an hour for their output: nbval's 5 s are too short on a busy machine."""
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 3600
