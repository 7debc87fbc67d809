"""What tracks 2 and 5 are measured against: effects of single latents, and shares per block.

They take minutes per subject and are the same for everyone, so they ship (`results/bench`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import edits, outcome
from ..ksae import KSAE, map_to_vectors
from ..metrics import Array
from ..runtime.artifacts import atomic
from ..runtime.errors import line
from ..study import Study
from . import VERSION
from .task import MEASURED

LATENTS, IMAGES, PAIRS = 96, 32, 32
UP = 3.0  # times what a latent is
SEED = 6200  # of the choice of latents


@dataclass(frozen=True)
class Truth:
    """What was measured on one subject, for its first attribute."""

    attribute: str
    ksae: str  # the fingerprint of the k-SAE whose latents these are
    latents: Tensor  # (L,)
    halves: Tensor  # (2, classes, L) effects on the even and on the odd images
    shares: Mapping[str, Array]  # {block: (T,)}

    @property
    def effects(self) -> Tensor:
        """By how much a class becomes likelier between a latent off and turned up: (classes, L)."""
        return self.halves.mean(0)

    def save(self, path: Path, command: str) -> None:
        """Writes the file as JSON, with the command that made it."""
        content: dict[str, Any] = {
            "version": VERSION,
            "command": command,
            "attribute": self.attribute,
            "ksae": self.ksae,
            "images": IMAGES,
            "pairs": PAIRS,
            "up": UP,
            "latents": self.latents.tolist(),
            "halves": [
                [[round(e, 5) for e in row] for row in half] for half in self.halves.tolist()
            ],
            "shares": {b: [round(float(s), 4) for s in row] for b, row in self.shares.items()},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content) + "\n")

    @classmethod
    def load(cls, path: Path) -> Truth:
        """Raises ValueError, in one line, for a file that is missing, damaged or of other rules."""
        try:
            content = json.loads(path.read_text())
            if content["version"] != VERSION:
                raise ValueError(f"it is of version {content['version']}, this is {VERSION}")
            return cls(
                content["attribute"],
                content["ksae"],
                torch.tensor(content["latents"]),
                torch.tensor(content["halves"]),
                {
                    block: torch.tensor(row).double().numpy()
                    for block, row in content["shares"].items()
                },
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no truth of the benchmark: {line(error)}") from None


def measure(study: Study, sae: KSAE, h: Tensor) -> Truth:
    """Measures a subject: the latents of its k-SAE that `chosen` takes, and all its blocks."""
    attribute = str(study.attributes[0])
    latents = chosen(sae, h)
    halves = torch.stack([effect(study, sae, attribute, int(j)) for j in latents], -1)
    return Truth(attribute, sae.fingerprint(), latents, halves, shares(study, attribute))


@torch.no_grad()
def chosen(sae: KSAE, h: Tensor) -> Tensor:
    """The latents (L,) that are measured: half write most into h (n, T, *h), half are any others.

    What a latent writes is its mean activation times the length of its direction.
    """
    layers = [map_to_vectors(layer.float()).flatten(0, 1) for layer in h[:64].unbind(1)]
    active = torch.stack([sae.latents(layer).mean(0) for layer in layers]).mean(0)  # (D,)
    writes = active * sae.directions.norm(dim=1)
    order = writes.argsort(descending=True)
    alive = order[writes[order] > 0]
    most, rest = alive[: LATENTS // 2], alive[LATENTS // 2 :]
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED))
    return torch.cat([most, rest[drawn[: LATENTS - len(most)]]]).sort().values


def effect(study: Study, sae: KSAE, attribute: str, latent: int) -> Tensor:
    """What one latent does to the classes' probabilities, on even and odd images: (2, classes)."""
    which = torch.tensor([latent])
    seen = [
        study.draw(edits.steer(sae, which, beta), n=IMAGES, seed=MEASURED).scored[attribute]
        for beta in (0.0, UP)
    ]
    change = seen[1] - seen[0]
    return torch.stack([change[::2].mean(0), change[1::2].mean(0)])


def shares(study: Study, attribute: str) -> dict[str, Array]:
    """The share of the attribute's effect that passes each block at each timestep: {block: (T,)}.

    It is between the commonest and the rarest class as planted.
    """
    source, target = outcome.extremes(study.planted(attribute))
    found = {}
    for block in study.blocks:
        moved = study.mediated(attribute, source, target, PAIRS, block)
        share = moved.through.mean(1) / moved.total.mean(1)
        found[block] = share.double().numpy()
    return found
