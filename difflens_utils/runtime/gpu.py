"""The GPU of a worker, the number of images that fit on it, and asynchronous copies.

Half of the free memory is used. Of 20 GiB that is 10 GiB, which holds ten images of 1 GiB each.
The largest power of two below ten is eight.

>>> from difflens_utils.runtime import gpu
>>> gpu.largest_batch(gpu.Memory(free=20 * 2**30, taken=2**30), images=1)
8
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .workers import worker

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject

# Images whose intermediate values stay in a processor's cache. The asymmetric step doubles them.
# From 64 on diffusers turns the memory layout round in every upsampling, where none is merged.
CPU_BATCH = 31
MAX_BATCH = 256  # images: larger batches gain little and leave fewer blocks for the workers
TRIAL = 8  # images of the batch whose memory is measured
# Of the free memory: the asymmetric step of an edit repeats what lies behind the module.
MEMORY_SHARE = 0.5


def use_gpu() -> torch.device:
    """This process's GPU: worker i gets number i modulo their number.

    Products of float32 values use TensorFloat-32 from then on.
    """
    torch.cuda.set_device(worker().number % torch.cuda.device_count())
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the block, float32 values are multiplied in float32. A CPU always does so."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = False, False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class Memory(NamedTuple):
    """Bytes of a GPU: those free before a trial, and the most that the trial took."""

    free: int
    taken: int


def largest_batch(memory: Memory, images: int = TRIAL) -> int:
    """Returns the largest power of two of images that fit, at most MAX_BATCH.

    `memory.taken` is what `images` images took. Raises MemoryError, in one line, if none fits.
    """
    fit = int(MEMORY_SHARE * memory.free * images / max(memory.taken, 1))
    if fit < 1:
        raise MemoryError(
            f"{memory.free >> 20} MiB of the GPU are free, too few for one image: "
            "free some, or take device=cpu"
        )
    batch = MAX_BATCH
    while batch > fit:
        batch //= 2
    return batch


# One batch size per process, subject and device, so that a run keeps its batches.
_measured: dict[tuple[str, ...], int] = {}


def batch_size(subject: Subject, measure: Callable[[Subject], Memory] | None = None) -> int:
    """Returns the images per batch: CPU_BATCH on a CPU, or on a GPU as many as fit.

    `measure` runs a trial batch and returns the memory that it took.
    """
    if measure is None and subject.device.type != "cuda":
        return CPU_BATCH
    key = (subject.fingerprint, str(subject.dtype), str(subject.device))
    if key not in _measured:
        _measured[key] = largest_batch((measure or _trial)(subject))
    return _measured[key]


@torch.no_grad()
def _trial(subject: Subject) -> Memory:
    """The most memory that TRIAL images take, in one evaluation of the network and one decoding."""
    torch.cuda.empty_cache()  # what earlier work holds without need counts as free
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    free, _ = torch.cuda.mem_get_info()
    subject.pass_once(TRIAL)
    return Memory(free, torch.cuda.max_memory_allocated() - before)


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device, without waiting for the work of the device."""
    if value.device == device or device.type == "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


Wait = Callable[[], None]


class HostCopies:
    """Copies tensors to the host while the GPU computes.

    A copy starts at once. It is written when the next one has started, so the GPU never idles.
    """

    def __init__(
        self,
        write: Callable[..., None],
        start: Callable[[Tensor], tuple[Tensor, Wait]] | None = None,
    ) -> None:
        """`write(tensor, *tags)` gets each tensor, on the CPU, in the order they came.

        `start` begins a copy, and returns the tensor and a function that waits for it.
        """
        self.write = write
        self.start = start
        self.pending: tuple[Tensor, Wait, tuple[Any, ...]] | None = None

    def put(self, value: Tensor, *tags: Any) -> None:
        """Starts the copy of a tensor, and writes the tensor before it."""
        if self.start is None and not value.is_cuda:
            self.write(value, *tags)
            return
        host, wait = (self.start or _pinned)(value)
        self.flush()
        self.pending = host, wait, tags

    def flush(self) -> None:
        """Writes the last tensor. Call it before the results are read."""
        if self.pending is not None:
            host, wait, tags = self.pending
            self.pending = None
            wait()
            self.write(host, *tags)


def _pinned(value: Tensor) -> tuple[Tensor, Wait]:
    # torch keeps pinned memory for the next one
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    host.copy_(value, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return host, done.synchronize
