"""h on disk: the bottleneck's output along whole DDIM trajectories.

It is streamed to a memory map, so that the number of images is not bounded by the memory.

Two images, three steps, and an h of 4 channels at 2 x 2 positions give 2 * 4 vectors per step:

>>> import numpy as np
>>> import torch
>>> from difflens_utils.recording import Recording
>>> h = np.zeros((2, 3, 4, 2, 2), np.float16)  # (n, T, C, H, W)
>>> recording = Recording("made-up", h, torch.zeros(2, 3, 8, 8), timesteps=(600, 300, 0))
>>> recording.at(step=1).shape, recording.vectors(step=1).shape
(torch.Size([2, 4, 2, 2]), torch.Size([8, 4]))
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import ksae, sampling
from .runtime import arrays, gpu, shards
from .runtime.errors import all_positive, within
from .sampling import Step
from .subjects.conditions import Prompt
from .subjects.pipelines import Subject

AT_ONCE = 64  # images whose h is in memory


@dataclass(frozen=True)
class Recording:
    """h (n, T, C, H, W) or (n, T, tokens, C) on disk, and its images (n, 3, H, W) float16.

    h is float16, or float32 if it has values above 65,504, which float16 does not hold.
    """

    key: str
    h: np.ndarray  # a read-only memory map
    images: Tensor  # in [-1, 1], on disk too
    timesteps: tuple[float, ...]
    run: Run | None = field(default=None, repr=False, compare=False)
    """What it is the whole of; None for a part of a recording, and for one made by hand."""

    def __len__(self) -> int:
        return len(self.h)

    @property
    def width(self) -> int:
        """The channels of h, d."""
        return int(self.h.shape[2 if self.h.ndim == 5 else -1])

    @property
    def positions(self) -> int:
        """The vectors of an image at a step, P."""
        return int(np.prod(self.h.shape[2:])) // self.width

    def fingerprint(self) -> str:
        """What stands for it in the keys of what is computed from it."""
        return self.key

    def made(self) -> dict[str, Any]:
        """What it was made from. Results that ship with the repository are known by it."""
        run = self.run
        return (
            {} if run is None else {f.name: getattr(run, f.name) for f in fields(run) if f.compare}
        )

    def at(self, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
        """h of one sampling step: (rows, C, H, W) float32."""
        index = rows.numpy() if isinstance(rows, Tensor) else rows
        values = self.h[index, step].astype(np.float32)  # a copy: the map is read-only
        return torch.from_numpy(values)

    def vectors(self, step: int, rows: slice | Tensor = slice(None)) -> Tensor:
        """h of one sampling step as the k-SAE sees it: (rows * positions, d)."""
        return ksae.map_to_vectors(self.at(step, rows)).flatten(0, 1)

    def few(self, step: int, rows: Tensor) -> Iterator[Tensor]:
        """h of some images (m,) at a step as the k-SAE sees it, AT_ONCE at a time: (B, P, d)."""
        for some in rows.split(AT_ONCE):
            yield ksae.map_to_vectors(self.at(step, some))

    def only(self, step: int) -> Recording:
        """The recording of one sampling step alone. Raises ValueError for a step that is not there.

        h stays on disk.
        """
        within("step", step, 0, len(self.timesteps) - 1)
        chosen = slice(step, step + 1)
        return replace(
            self,
            key=f"{self.key}-{step}",
            h=self.h[:, chosen],
            timesteps=self.timesteps[chosen],
            run=None,
        )

    def batches(self, size: int, seed: int, rows: int | None = None) -> BatchStream:
        """Training batches for the k-SAE from the first `rows` images.

        Batch i is a function of (seed, i).
        """
        return BatchStream(self, size, seed, rows or len(self))


@dataclass(frozen=True)
class BatchStream:
    """Random (image, step) pairs, all positions of each.

    Called with a step number it gives (size, d) float32.
    """

    recording: Recording
    size: int
    seed: int
    rows: int

    def __call__(self, number: int) -> Tensor:
        h = self.recording.h
        pairs = max(1, self.size // self.recording.positions)
        rng = np.random.default_rng((self.seed, number))
        images = np.sort(rng.integers(self.rows, size=pairs))
        steps = rng.integers(h.shape[1], size=pairs)
        picked = torch.from_numpy(h[images, steps].astype(np.float32))
        return ksae.map_to_vectors(picked).flatten(0, 1)


@dataclass(frozen=True)
class Run:
    """Some, or all, of `n` images, which take the texts in turn."""

    subject: Subject
    n: int
    seed: int
    steps: int
    texts: Sequence[str]
    eta: float = 0.0
    rows: Tensor | None = None  # the images that are recorded; None: all of them
    batch: int = field(kw_only=True, compare=False)  # it changes no value

    @property
    def recorded(self) -> Tensor:
        """The numbers of the images that are recorded, (m,)."""
        return torch.arange(self.n) if self.rows is None else self.rows

    @property
    def blocks(self) -> list[slice]:
        """The batches, which workers share."""
        return shards.blocks(len(self.recorded), self.batch)

    def batches(self, rows: Tensor, **options: Any) -> Iterator[np.ndarray]:
        """The images `rows` as they are stored, batch by batch: (B, 3, H, W) float16.

        `options` are those of `sampling.sample`.
        """
        drawn = sampling.batches(
            self.subject,
            self.n,
            self.seed,
            steps=self.steps,
            eta=self.eta,
            prompts=self.texts,
            batch=self.batch,
            rows=rows,
            **options,
        )
        return (images.half().numpy() for images in drawn)


def record(
    subject: Subject,
    n: int,
    seed: int,
    steps: int,
    prompts: Sequence[Prompt] | None = None,
    eta: float = 0.0,
    batch: int | None = None,
    rows: Tensor | None = None,
) -> Recording:
    """Generates `n` images and keeps h at every step; from the store if it is there.

    The images take the prompts in turn, by default those of the evaluation. `rows` (m,) keeps these
    of the n images alone, in their order. Workers (`shards`) share the batches, which are as large
    as `gpu.batch_size` says by default. Raises ValueError for sizes that are not greater than 0.
    """
    all_positive(n_images=n, steps=steps)
    batch = batch or gpu.batch_size(subject)
    texts = subject.texts(prompts or subject.prompts.evaluate)
    run = Run(subject, n, seed, steps, texts, eta, rows, batch=batch)
    folder = _record(run)
    return Recording(
        folder.name,
        np.load(folder / "h.npy", mmap_mode="r"),
        arrays.mapped(folder / "images.npy"),
        subject.times(steps, eta),
        run,
    )


@shards.shared("recording")
def _record(run: Run, block: slice, folder: Path) -> None:
    """Write h.npy and images.npy of the images `block` of a run."""
    rows = run.recorded[block]
    file = _File(folder / "h.npy", rows, run.steps, run.subject.module)
    copies = gpu.HostCopies(file.write)
    images = run.batches(
        rows,
        watch=lambda h, _x, step: copies.put(h, step),
        progress="recording h",
    )
    arrays.write(folder / "images.npy", len(rows), images)
    copies.flush()
    file.h.flush()


class _File:
    """h of the images `recorded` (m,) on its way to disk.

    It is float16, or float32 once a value does not fit.

    Values that float16 holds are rounded to it in either, so what is stored does not depend on
    how images are shared out.
    """

    h: np.memmap

    def __init__(self, path: Path, recorded: Tensor, steps: int, module: str) -> None:
        self.path, self.recorded, self.steps, self.module = path, recorded, steps, module

    def write(self, h: Tensor, step: Step) -> None:
        """Store h (B, *h), on the CPU, of one step. Raises ValueError where h is not finite."""
        rows = torch.as_tensor(step.rows)  # the numbers of the images
        values = h.half()
        if not hasattr(self, "h"):  # the shape of h is known at the first call only
            shape = (len(self.recorded), self.steps, *h.shape[1:])
            self.h = arrays.create(self.path, np.float16, shape)
        fits = values.isfinite()
        if not fits.all():
            finite = h.isfinite()
            if not finite.all():
                image = rows[~finite.flatten(1).all(1)][0]
                raise ValueError(
                    f"h of module {self.module} holds {h[~finite][0]:g} at timestep "
                    f"{step.timestep}, in image {image}: the model's own values overflow; "
                    "check its weights and its scheduler"
                )
            self._widen()
            values = torch.where(fits, values.float(), h.float())
        places = torch.searchsorted(self.recorded, rows)
        self.h[places.numpy(), step.index] = values.numpy()

    def _widen(self) -> None:
        if self.h.dtype == np.float32:
            return
        path = self.path.with_name(f"wide-{self.path.name}")
        wider = arrays.create(path, np.float32, self.h.shape)
        for i, image in enumerate(self.h):
            wider[i] = image
        os.replace(path, self.path)
        self.h = wider
