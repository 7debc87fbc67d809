"""h on disk: the bottleneck along whole DDIM trajectories, streamed to a memory map, whatever the number of images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import artifacts, gpu, keys, ksae, sampling, shards
from .pipelines import Prompt, Subject
from .sampling import Step


@dataclass(frozen=True)
class Recording:
    """h (n, T, C, H, W) or (n, T, tokens, C) on disk, and its images (n, 3, H, W) float16.

    h is float16, or float32 if it has values above 65,504, which float16 does not hold.
    """

    key: str
    h: np.ndarray  # a read-only memory map
    images: Tensor  # float32 in [-1, 1]
    timesteps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.h)

    @property
    def width(self) -> int:
        """Values per vector, d: the channels of h."""
        return self.h.shape[2] if self.h.ndim == 5 else self.h.shape[-1]

    def fingerprint(self) -> str:
        """What stands for it in the keys of what is computed from it."""
        return self.key

    def at(self, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
        """h of one sampling step: (rows, C, H, W) float32."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        values = self.h[index, step].astype(np.float32)  # a copy: the map is read-only
        return torch.from_numpy(values)

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
        per_map = int(np.prod(h.shape[2:])) // self.recording.width
        pairs = max(1, self.size // per_map)
        rng = np.random.default_rng((self.seed, number))
        picked = h[
            np.sort(rng.integers(self.rows, size=pairs)), rng.integers(h.shape[1], size=pairs)
        ]
        return ksae.map_to_vectors(torch.from_numpy(picked.astype(np.float32))).flatten(0, 1)


def record(
    subject: Subject,
    n: int,
    seed: int,
    steps: int,
    prompts: Sequence[Prompt] | None = None,
    eta: float = 0.0,
    batch: int | None = None,
) -> Recording:
    """Generate `n` images, which take the prompts (by default the evaluation's) in turn, and keep h at every step; from the store if it is there.

    Workers (`shards`) share the batches, which are as large as `gpu.batch_size` says by default.
    """
    artifacts.check_sizes(n_images=n, steps=steps)
    texts = subject.texts(prompts)
    parameters = keys.of(
        record,
        {"subject": subject, "n": n, "seed": seed, "steps": steps, "texts": texts, "eta": eta},
    )
    batch = batch or gpu.batch_size(subject)

    def make(block: slice | None, folder: Path) -> None:
        _write(subject, n, block or slice(0, n), seed, steps, texts, eta, batch, folder)

    folder = shards.shared("recording", parameters, shards.blocks(n, batch), make, _merge)
    trajectory = sampling.trajectory(subject, steps, eta)
    return Recording(
        folder.name,
        np.load(folder / "h.npy", mmap_mode="r"),
        torch.from_numpy(np.load(folder / "images.npy")).float(),
        trajectory.timesteps,
    )


def _write(
    subject: Subject,
    n: int,
    block: slice,
    seed: int,
    steps: int,
    texts: list[str],
    eta: float,
    batch: int,
    folder: Path,
) -> None:
    """Record the images `block` of a set of n."""
    file = _File(folder / "h.npy", block, steps, subject.module)
    copies = gpu.Copies(file.write)
    images = sampling.sample(
        subject,
        n,
        seed,
        steps=steps,
        eta=eta,
        prompts=texts,
        watch=lambda h, _x, step: copies.put(h, step),
        batch=batch,
        rows=torch.arange(block.start, block.stop),
        progress="recording h",
    )
    copies.flush()
    file.h.flush()
    np.save(folder / "images.npy", images.half().numpy())


class _File:
    """h of the images `block` on its way to disk: float16, or float32 once a value does not fit.

    Values that float16 holds are rounded to it in either, so what is stored does not depend on
    how images are shared out.
    """

    h: np.ndarray

    def __init__(self, path: Path, block: slice, steps: int, module: str) -> None:
        self.path, self.block, self.steps, self.module = path, block, steps, module

    def write(self, h: Tensor, step: Step) -> None:
        """Store h (B, *h), on the CPU, of one step. Raises ValueError where h is not finite."""
        values = h.half()
        if not hasattr(self, "h"):  # the shape of h is known at the first call only
            shape = (self.block.stop - self.block.start, self.steps, *h.shape[1:])
            self.h = np.lib.format.open_memmap(self.path, "w+", np.float16, shape)
        if not (fits := values.isfinite()).all():
            self._check(h, step)
            self._widen()
            values = torch.where(fits, values.float(), h.float())
        self.h[step.rows.numpy() - self.block.start, step.index] = values.numpy()

    def _check(self, h: Tensor, step: Step) -> None:
        damaged = ~h.flatten(1).isfinite().all(1)  # (B,)
        if damaged.any():
            image, value = step.rows[damaged][0], h[~h.isfinite()][0]
            raise ValueError(
                f"h of module {self.module} holds {value:g} at timestep {step.timestep}, in image "
                f"{image}: the model's own values overflow; check its weights and its scheduler"
            )

    def _widen(self) -> None:
        if self.h.dtype == np.float32:
            return
        wider = self.path.with_name(f"wide-{self.path.name}")
        h = np.lib.format.open_memmap(wider, "w+", np.float32, self.h.shape)
        for i, image in enumerate(self.h):
            h[i] = image
        os.replace(wider, self.path)
        self.h = h


def _merge(parts: list[Path], folder: Path) -> None:
    """One recording of those of its blocks, in order."""
    for name in ("h.npy", "images.npy"):
        blocks = [np.load(part / name, mmap_mode="r") for part in parts]
        shape = (sum(map(len, blocks)), *blocks[0].shape[1:])
        whole = np.lib.format.open_memmap(folder / name, "w+", np.result_type(*blocks), shape)
        start = 0
        for block in blocks:
            whole[start : start + len(block)] = block
            start += len(block)
        whole.flush()
