"""h on disk: the bottleneck along whole DDIM trajectories, streamed to a memory map, whatever the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import artifacts, hooks, ksae, sampling
from .sampling import Step
from .pipelines import Prompt, Subject


@dataclass(frozen=True)
class Recording:
    """h (n, T, C, H, W) or (n, T, tokens, C) float16 on disk, and the images that came of it (n, 3, H, W) float16."""

    key: str
    h: np.ndarray  # a read-only memory map
    images: Tensor  # float32 in [-1, 1]
    timesteps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.h)

    def at(self, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
        """h of one sampling step: (rows, C, H, W) float32."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        return torch.from_numpy(np.asarray(self.h[index, step], dtype=np.float32))

    def vectors(self, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
        """The same as the k-SAE sees it: (rows * positions, d)."""
        return ksae.map_to_vectors(self.at(step, rows)).flatten(0, 1)

    def batches(self, size: int, seed: int, rows: int | None = None) -> BatchStream:
        """Training batches for the k-SAE from the first `rows` images; batch i is a function of (seed, i)."""
        return BatchStream(self, size, seed, rows or len(self))


@dataclass(frozen=True)
class BatchStream:
    """Random (image, step) pairs, all positions of each: call with a step number, get (size, d) float32."""

    recording: Recording
    size: int
    seed: int
    rows: int

    def __call__(self, number: int) -> Tensor:
        h = self.recording.h
        per_map = int(np.prod(h.shape[2:])) // self._width
        pairs = max(1, self.size // per_map)
        rng = np.random.default_rng((self.seed, number))
        picked = h[np.sort(rng.integers(self.rows, size=pairs)), rng.integers(h.shape[1], size=pairs)]
        return ksae.map_to_vectors(torch.from_numpy(picked.astype(np.float32))).flatten(0, 1)

    @property
    def _width(self) -> int:
        return self.recording.h.shape[2] if self.recording.h.ndim == 5 else self.recording.h.shape[-1]


def record(subject: Subject, n: int, seed: int, steps: int, prompts: Sequence[Prompt] | None = None, eta: float = 0.0,
           batch: int = 64) -> Recording:
    """Generate `n` images, which take the prompts (by default the evaluation's) in turn, and keep h at every step; from the store if it is there."""
    artifacts.check_sizes(n_images=n, steps=steps)
    parameters = {"subject": subject.fingerprint, "module": subject.module, "n": n, "seed": seed, "steps": steps,
                  "eta": eta, **subject.asked(prompts), "code": artifacts.code_version(sampling, hooks)}
    folder = artifacts.cached("recording", parameters, lambda f: _write(subject, n, seed, steps, subject.texts(prompts), eta, batch, f))
    trajectory = sampling.trajectory(subject, steps, eta)
    return Recording(folder.name, np.load(folder / "h.npy", mmap_mode="r"),
                     torch.from_numpy(np.load(folder / "images.npy")).float(), trajectory.timesteps)


def _write(subject: Subject, n: int, seed: int, steps: int, texts: list[str], eta: float, batch: int, folder: Path) -> None:
    disk: dict[str, np.ndarray] = {}

    def watch(h: Tensor, _x: Tensor, step: Step) -> None:
        if not disk:  # the shape of h is known at the first call only
            shape = (n, steps, *h.shape[1:])
            disk["h"] = np.lib.format.open_memmap(folder / "h.npy", "w+", np.float16, shape)
        disk["h"][step.rows, step.index] = h.to("cpu", torch.float16).numpy()

    images = sampling.sample(subject, n, seed, steps=steps, eta=eta, prompts=texts, watch=watch, batch=batch, progress="recording h")
    disk["h"].flush()
    np.save(folder / "images.npy", images.half().numpy())
