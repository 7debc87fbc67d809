"""What tracks 2 and 5 are measured against: effects of single latents, and of single blocks.

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
from .seeds import MEASURED

LATENTS, IMAGES, PAIRS = 48, 96, 32
MOST = 2 / 3  # of the latents, those that write most
LEAST = 1e-12  # of a probability, whose logarithm is taken
UP = 3.0  # times what a latent is
SEED = 6200  # of the choice of latents


@dataclass(frozen=True)
class Truth:
    """What was measured on one subject, for its first attribute."""

    attribute: str
    ksae: str  # the fingerprint of the k-SAE whose latents these are; "" where none ships
    latents: Tensor  # (L,), none without a k-SAE
    halves: Tensor  # (2, classes, L) effects on two halves of the images
    passed: Mapping[str, Array]  # {block: (T,)} how far the picture follows

    @property
    def effects(self) -> Tensor:
        """By how much the log-odds of a class rise from off to turned up: (classes, L)."""
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
            "passed": {b: [round(float(s), 4) for s in row] for b, row in self.passed.items()},
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
                torch.tensor(content["latents"], dtype=torch.int64),
                torch.tensor(content["halves"], dtype=torch.float64),
                {
                    block: torch.tensor(row).double().numpy()
                    for block, row in content["passed"].items()
                },
            )
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no truth of the benchmark: {line(error)}") from None


def measure(study: Study, sae: KSAE | None, h: Tensor) -> Truth:
    """Measures a subject: the latents of its k-SAE that `chosen` takes, and all its blocks.

    Without a k-SAE it has blocks alone.
    """
    attribute = str(study.attributes[0])
    if sae is None:
        none = torch.zeros(2, len(study.attribute(attribute).classes), 0)
        return Truth(attribute, "", torch.zeros(0).long(), none, passed(study, attribute))
    latents = chosen(sae, h)
    halves = torch.stack([effect(study, sae, attribute, int(j)) for j in latents], -1)
    return Truth(attribute, sae.fingerprint(), latents, halves, passed(study, attribute))


@torch.no_grad()
def chosen(sae: KSAE, h: Tensor) -> Tensor:
    """The latents (L,) that are measured: MOST of them write most into h (n, T, *h), others any.

    What a latent writes is its mean activation times the length of its direction.
    """
    layers = [map_to_vectors(layer.float()).flatten(0, 1) for layer in h[:64].unbind(1)]
    active = torch.stack([sae.latents(layer).mean(0) for layer in layers]).mean(0)  # (D,)
    writes = active * sae.directions.norm(dim=1)
    order = writes.argsort(descending=True)
    alive = order[writes[order] > 0]
    first = round(MOST * LATENTS)
    most, rest = alive[:first], alive[first:]
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED))
    return torch.cat([most, rest[drawn[: LATENTS - len(most)]]]).sort().values


def effect(study: Study, sae: KSAE, attribute: str, latent: int) -> Tensor:
    """What one latent does to the log-odds of the classes, on halves of the images: (2, classes).

    Images take the prompts in turn, and either half has all of them.
    """
    which = torch.tensor([latent])
    seen = [
        log_odds(
            study.draw(edits.steer(sae, which, beta), n=IMAGES, seed=MEASURED).scored[attribute]
        )
        for beta in (0.0, UP)
    ]
    change = seen[1] - seen[0]
    half = torch.arange(len(change)) // len(study.subject.texts()) % 2
    return torch.stack([change[half == side].mean(0) for side in (0, 1)])


def log_odds(probabilities: Tensor) -> Tensor:
    """log p - log(1 - p) of probabilities (n, classes): these move where a sure class does not.

    >>> import torch
    >>> from difflens_utils.bench import truth
    >>> truth.log_odds(torch.tensor([[0.5, 0.25, 0.25]])).exp().tolist()[0][0]
    1.0
    """
    own = probabilities.double()
    others = own.sum(-1, keepdim=True) - own
    return own.clamp_min(LEAST).log() - others.clamp_min(LEAST).log()


def passed(study: Study, attribute: str) -> dict[str, Array]:
    """How far the picture follows at each timestep when a block is exchanged: {block: (T,)}.

    0 is the picture of the commonest class as planted, 1 that of the rarest.
    """
    source, target = outcome.extremes(study.planted(attribute))
    swept = study.swept(attribute, source, target, PAIRS)
    return {block: moved.through.mean(1).double().numpy() for block, moved in swept.items()}
