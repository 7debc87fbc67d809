"""What a GPU asks for: batches as large as its memory takes, copies that no one waits for, one card per worker, TensorFloat-32."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .workers import worker

if TYPE_CHECKING:
    from .pipelines import Subject

ON_CPU = 32  # images per batch: what they are on the way through the network stays in a processor's cache
MOST = 256  # images per batch on a GPU: larger ones gain little, and leave the workers fewer blocks to share
TRIAL = 8  # images of the batch whose memory is measured
SHARE = (
    0.5  # of the free memory; an edit with the asymmetric step repeats what lies behind the module
)


def take() -> torch.device:
    """This process's GPU, number i modulo their number for worker i; float32 products take TensorFloat-32 there."""
    torch.cuda.set_device(worker().number % torch.cuda.device_count())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


@contextmanager
def exact() -> Iterator[None]:
    """float32 products in float32 for a while. On a CPU they always are."""
    kept = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


class Memory(NamedTuple):
    """Bytes of a GPU: free ones before a trial, and the most that the trial took."""

    free: int
    taken: int


def largest_batch(memory: Memory, images: int = TRIAL) -> int:
    """The largest power of two, at most MOST, of images that fit where `images` of them took `memory.taken`.

    Raises MemoryError, in one line, if not even one fits.
    """
    fit = int(SHARE * memory.free * images / max(memory.taken, 1))
    if fit < 1:
        raise MemoryError(
            f"{memory.free >> 20} MiB of the GPU are free, too few for one image: free some, or take device=cpu"
        )
    return min(1 << fit.bit_length() - 1, MOST)


_measured: dict[
    tuple[str, ...], int
] = {}  # one batch size per process, subject and device, so that a run keeps its batches


def batch_size(subject: Subject, measure: Callable[[Subject], Memory] | None = None) -> int:
    """Images per batch: ON_CPU on the CPU; on a GPU what one trial batch leaves room for. `measure` reads the memory."""
    if measure is None and subject.device.type != "cuda":
        return ON_CPU
    key = (subject.fingerprint, str(subject.dtype), str(subject.device))
    if key not in _measured:
        _measured[key] = largest_batch((measure or _trial)(subject))
    return _measured[key]


@torch.no_grad()
def _trial(subject: Subject) -> Memory:
    """What TRIAL images take at their worst moment: one evaluation of the network, one decoding."""
    torch.cuda.empty_cache()  # what earlier work holds without need counts as free
    torch.cuda.reset_peak_memory_stats()
    before, (free, _) = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()
    x = torch.zeros(TRIAL, *subject.shape, device=subject.device)
    subject.decode(subject.epsilon(x, 0))
    return Memory(free, torch.cuda.max_memory_allocated() - before)


def send(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device, without waiting for what the device is doing."""
    return (
        value.to(device)
        if value.device == device or device.type == "cpu"
        else value.pin_memory().to(device, non_blocking=True)
    )


_elsewhere: WeakKeyDictionary[Any, dict[torch.device, Any]] = WeakKeyDictionary()


def on(thing: Any, device: torch.device) -> Any:
    """A k-SAE, or whatever else has `directions`, where h is: itself, or a copy that is made once per device."""
    if thing.directions.device == device:
        return thing
    copies = _elsewhere.setdefault(thing, {})
    if device not in copies:
        copies[device] = copy.deepcopy(thing)
        if isinstance(thing, nn.Module):
            copies[device].to(device)
        else:
            copies[device].directions = thing.directions.to(device)
    return copies[device]


class Copies:
    """Tensors on their way to the host. A copy starts at once and is written when the next one has started, so the GPU never idles.

    `write(tensor, *tags)` gets each tensor, on the CPU, in the order they came; `flush` before the results are read. `start` begins
    a copy and returns the tensor and what waits for it.
    """

    def __init__(
        self,
        write: Callable[..., None],
        start: Callable[[Tensor], tuple[Tensor, Callable[[], None]]] | None = None,
    ) -> None:
        self.write, self.start = write, start
        self.pending: tuple[Tensor, Callable[[], None], tuple[Any, ...]] | None = None

    def put(self, value: Tensor, *tags: Any) -> None:
        start = self.start or (_pinned if value.is_cuda else None)
        if start is None:
            self.write(value, *tags)
            return
        following = (*start(value), tags)
        self.flush()
        self.pending = following

    def flush(self) -> None:
        if self.pending is not None:
            host, wait, tags = self.pending
            self.pending = None
            wait()
            self.write(host, *tags)


def _pinned(value: Tensor) -> tuple[Tensor, Callable[[], None]]:
    host = torch.empty(
        value.shape, dtype=value.dtype, pin_memory=True
    )  # torch keeps pinned memory for the next one
    host.copy_(value, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return host, done.synchronize
