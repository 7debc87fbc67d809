"""Every test starts from the same seeds and leaves the machine's cores to others."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from difflens_utils.runtime import artifacts

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
# What `make` hands to its commands: a test that starts one says these itself.
for said in ("PROFILE", "SUBJECT", "METHOD"):
    os.environ.pop(said, None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for a module: small networks would wait for others longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of artifacts."""
    monkeypatch.setattr(artifacts, "STORE", tmp_path)
    monkeypatch.setattr(artifacts, "_verified", set())
    return tmp_path
