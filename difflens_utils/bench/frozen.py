"""Frozen activations: h of one subject, with what is in each picture, as one file.

`h` comes from unedited generations, and methods learn from it. Probes are images of the data whose
factors are known, noised and passed through the network (`analysis.factors`), and methods never see
them. They tie the factors together in up to three ways:

- independent: every factor is uniform and independent of all others;
- planted: as in the training data;
- reversed: as planted, but what comes with one class of an attribute comes with its opposite.

A file is read without this package:

>>> import tempfile
>>> from pathlib import Path
>>> import torch
>>> from safetensors import safe_open
>>> from difflens_utils.bench.frozen import Frozen, Probe
>>> probe = Probe(torch.zeros(4, 1, 8, 2, 2), {"gender": torch.tensor([0, 1, 0, 1])})
>>> classes = {"gender": ("female", "male")}
>>> frozen = Frozen("tiny", torch.zeros(3, 5, 8, 2, 2), classes, {"independent": probe})
>>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
>>> frozen.save(path)
>>> with safe_open(path, "pt") as file:
...     h = file.get_tensor("h")  # (n, T, *h)
...     probed = file.get_tensor("independent.h")  # (m, S, *h)
...     gender = file.get_tensor("independent.gender")  # (m,)
...     names = file.metadata()["classes"]
>>> h.shape, probed.shape, gender.tolist()
(torch.Size([3, 5, 8, 2, 2]), torch.Size([4, 1, 8, 2, 2]), [0, 1, 0, 1])
>>> names
'{"gender": ["female", "male"]}'
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from ..analysis import factors
from ..ksae import map_to_vectors
from ..metrics import Array
from ..recording import Recording
from ..runtime import artifacts
from ..runtime.artifacts import atomic
from ..runtime.errors import line
from ..study import Study
from ..subjects.pipelines import Subject
from ..worlds import Scenes, World
from ..worlds.labelled import LabelledImages
from . import seeds

BYTES = {"h": 24e6, "independent": 12e6, "planted": 6e6, "reversed": 6e6}  # under 50 MB together
MOST = 1500  # images of a probe
CHUNK = 64  # images whose units are computed at once

Units = Callable[[Tensor], Tensor]  # vectors (..., d) -> units (..., U)


class Probe(NamedTuple):
    """Images whose factors are known."""

    h: Tensor  # (m, S, *h) at S timesteps
    labels: dict[str, Tensor]  # {factor: (m,)}


@dataclass(frozen=True)
class Frozen:
    """What a method learns from, and what it is measured on."""

    subject: str
    h: Tensor  # (n, T, *h)
    classes: Mapping[str, tuple[str, ...]]  # {factor: classes}
    probes: Mapping[str, Probe]

    def save(self, path: Path) -> None:
        """Writes the file, h in half precision."""
        tensors = {"h": self.h.half().contiguous()}
        for way, probe in self.probes.items():
            tensors[f"{way}.h"] = probe.h.half().contiguous()
            tensors |= {f"{way}.{factor}": labels for factor, labels in probe.labels.items()}
        metadata = {"subject": self.subject, "classes": json.dumps(self.classes)}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_bytes(serialize(tensors, metadata))

    @classmethod
    def load(cls, path: Path) -> Frozen:
        """Reads a file. Raises ValueError, in one line, for one that is missing or damaged."""
        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata()
            classes = {f: tuple(names) for f, names in json.loads(metadata["classes"]).items()}
            probes = {way: _probe(tensors, way, classes) for way in BYTES if f"{way}.h" in tensors}
            return cls(metadata["subject"], tensors["h"], classes, probes)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path} holds no frozen activations ({line(error)}): make bench-data makes them"
            ) from None


def _probe(tensors: Mapping[str, Tensor], way: str, classes: Mapping[str, object]) -> Probe:
    labels = {factor: tensors[f"{way}.{factor}"] for factor in classes}
    return Probe(tensors[f"{way}.h"], labels)


def freeze(study: Study, seed: int = seeds.CURRENT.probes) -> Frozen:
    """The frozen activations of a study: of its first recorded images, and its probes of a seed.

    They come from the store.
    """
    return _frozen(study.subject, study.recording("learn"), seed)


def _written(frozen: Frozen, folder: Path) -> None:
    frozen.save(folder / "frozen.safetensors")


def _read(folder: Path) -> Frozen:
    return Frozen.load(folder / "frozen.safetensors")


@artifacts.stored("frozen", form=artifacts.Form(_written, _read), reads=("data", "prompts"))
def _frozen(subject: Subject, recording: Recording, seed: int) -> Frozen:
    one = 2 * recording.h[0, 0].size  # bytes of an h
    rows = min(len(recording), int(BYTES["h"] / (one * len(recording.timesteps))))
    h = torch.from_numpy(recording.h[:rows].copy())
    world, probes = subject.data, {}
    known = {name: found for name, found in subject.factors.items() if name in world.factors}
    times = recording.timesteps
    steps = tuple(times[step] for step in factors.steps_of(len(times)))
    for number, way in enumerate(WAYS):
        n = min(MOST, int(BYTES[way] / (one * len(steps))))
        scenes = WAYS[way](world, n, seed + number)
        if scenes is not None:
            found = factors.noised(subject, scenes, seed + number, steps)
            labels = {factor: found.labels[factor] for factor in known}
            probes[way] = Probe(found.h.transpose(0, 1), labels)
    return Frozen(subject.name, h, known, probes)


def _independent(world: World, n: int, seed: int) -> Scenes:
    return world.sample(n, seed, balanced=True)


def _planted(world: World, n: int, seed: int) -> Scenes:
    return world.sample(n, seed)


def _reversed(world: World, n: int, seed: int) -> Scenes | None:
    """Scenes whose attributes are turned into their opposites once all else is drawn.

    None for images that were labelled: nobody can draw what they do not hold.
    """
    if isinstance(world, LabelledImages):
        return None
    scenes = world.sample(n, seed)
    opposite = {}
    for attribute in world.attributes:
        last = len(world.factors[attribute].classes) - 1
        opposite[attribute] = last - scenes.labels[attribute]
    return replace(scenes, labels=scenes.labels | opposite)


WAYS: dict[str, Callable[[World, int, int], Scenes | None]] = {
    "independent": _independent,
    "planted": _planted,
    "reversed": _reversed,
}


@torch.no_grad()
def answers(units: Units, h: Tensor) -> Array:
    """What each unit answers to images h (m, S, *h), mean over positions and timesteps: (m, U).

    Raises ValueError, in one line, for units of a wrong shape or that are not finite.
    """
    parts = []
    for chunk in h.split(CHUNK):
        vectors = torch.stack([map_to_vectors(layer.float()) for layer in chunk.unbind(1)], 1)
        found = units(vectors)  # (B, S, P, d) -> (B, S, P, U)
        if not isinstance(found, Tensor) or found.shape[:-1] != vectors.shape[:-1]:
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"units must be {tuple(vectors.shape[:-1])} and U, got {got}")
        parts.append(found.float().mean((1, 2)))
    every = torch.cat(parts)
    if not every.isfinite().all():
        raise ValueError("units must be finite")
    answered: Array = every.double().numpy()
    return answered
