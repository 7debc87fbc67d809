"""A k-SAE on all timesteps of a recording, with its curves; trained once and then stored."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..recording import Recording
from ..runtime import artifacts
from . import training
from .config import KSAEConfig
from .model import KSAE
from .training import History

VALIDATION = 0.1  # the last share of a recording's images is kept from the training
VALIDATION_VECTORS = 4000  # of theirs that the curve is drawn from, about


def held_out(n: int) -> slice:
    """The rows of a recording of `n` images on which no k-SAE is trained."""
    return slice(int(n * (1 - VALIDATION)), n)


def _save(trained: tuple[KSAE, History], folder: Path) -> None:
    model, history = trained
    model.save(folder)
    (folder / "history.json").write_text(json.dumps(history._asdict()))


def _load(folder: Path) -> tuple[KSAE, History]:
    return KSAE.load(folder), History(**json.loads((folder / "history.json").read_text()))


@artifacts.stored("ksae", form=artifacts.Form(_save, _load))
def train(rec: Recording, config: KSAEConfig) -> tuple[KSAE, History]:
    """A k-SAE trained on all timesteps of a recording, with its curves; from the store."""
    rows = held_out(len(rec))
    vectors = torch.cat([rec.vectors(step, rows) for step in range(rec.h.shape[1])])
    stride = len(vectors) // VALIDATION_VECTORS
    if stride % 2 == 0:  # an odd one meets all positions, of which there is an even number
        stride += 1
    batches = rec.batches(config.batch, config.seed, rows.start)
    return training.train(config, batches, validation=vectors[::stride])
