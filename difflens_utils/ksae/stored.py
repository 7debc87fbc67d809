"""A k-SAE on all timesteps of a recording, with its curves; trained once and then stored.

Those of the book ship with its subjects, in `ksae/`, beside the searches that were made with them:
the last bits of a k-SAE differ between machines, and a search holds for one k-SAE.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

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
    model.save(folder, half=True)
    (folder / "history.json").write_text(json.dumps(history._asdict()))


def _load(folder: Path) -> tuple[KSAE, History]:
    return KSAE.load(folder), History(**json.loads((folder / "history.json").read_text()))


def _place(rec: Recording, config: KSAEConfig) -> Path | None:
    """Where a k-SAE ships: `ksae/k_32`, and `ksae/k_32-seed_1` of one with another seed."""
    if rec.run is None:
        return None
    usual = KSAEConfig(
        config.width, config.latents, config.k, batch=config.batch, steps=config.steps
    )
    named = {f.name: getattr(config, f.name) for f in fields(config)}
    changed = [f"{name}_{value}" for name, value in named.items() if value != getattr(usual, name)]
    return rec.run.subject.folder / "ksae" / "-".join([f"k_{config.k}", *changed])


@artifacts.stored(
    "ksae",
    form=artifacts.Form(_save, _load),
    describe={"rec": Recording.made},
    shipped=lambda a: _place(a["rec"], a["config"]),
    beyond=lambda a: a["rec"].key,
)
def train(rec: Recording, config: KSAEConfig) -> tuple[KSAE, History]:
    """A k-SAE trained on all timesteps of a recording, with its curves.

    It comes from what ships with the subject, or from the store, if it is there. Its weights are
    those that half precision holds.
    """
    rows = held_out(len(rec))
    batches = rec.batches(config.batch, config.seed, rows.start)
    return training.train(config, batches, validation=_validation(rec, rows))


def _validation(rec: Recording, rows: slice) -> Tensor:
    """Vectors (m, d) of some images at all steps, in equal distances: about VALIDATION_VECTORS."""
    images = torch.arange(rows.start, rows.stop)
    stride = rec.h.shape[1] * len(images) * rec.positions // VALIDATION_VECTORS
    if stride % 2 == 0:  # an odd one meets all positions, of which there is an even number
        stride += 1
    found, seen = [], 0
    for step in range(rec.h.shape[1]):
        for few in rec.few(step, images):
            vectors = few.flatten(0, 1)
            found.append(vectors[-seen % stride :: stride].clone())  # without the others
            seen += len(vectors)
    return torch.cat(found)
