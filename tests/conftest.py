"""Every test starts from the same seeds and leaves the machine's cores to others."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from difflens_utils.runtime import artifacts

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of artifacts."""
    monkeypatch.setattr(artifacts, "STORE", tmp_path)
    monkeypatch.setattr(artifacts, "_verified", set())
    return tmp_path
