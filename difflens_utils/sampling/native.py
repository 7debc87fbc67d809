"""Images of a pipeline's own call: its sampler and its guidance, whatever they are.

Nothing is known of the steps but how many there are. So an edit takes part in the whole step (the
symmetric one), and is called at every step that the pipeline's scheduler takes.

With guidance a network sees each image several times. In one batch these are
[without the text; with it; ...], and the part with the text is what is recorded and edited:

>>> from difflens_utils.sampling import native
>>> native.part(seen=8, images=4)
slice(4, 8, None)

Some pipelines call the network once for each of them instead. Then every call is edited, and the
first of a step is recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..runtime.errors import line
from . import hooks

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject

Look = Callable[[Tensor, "Tick"], Tensor | None]
"""From h (B, ...) of B images and the moment to the new h, or None: unchanged."""


@dataclass(frozen=True)
class Tick:
    """The moment of a call: at which step it is, and whether it is the first call there."""

    index: int
    timestep: float
    first: bool


class _Stop(Exception):
    """Raised before the network first runs, when the timesteps are set."""


def part(seen: int, images: int) -> slice:
    """The rows of the network's batch that belong to the images with their texts.

    Raises ValueError for a batch that is no multiple of the images.
    """
    if seen % images:
        raise ValueError(f"the module saw {seen} rows for {images} images; choose another module")
    return slice(0, images) if seen == images else slice(images, 2 * images)


def _levels(scheduler: Any) -> list[float]:
    """The noise levels of a generation. Some solvers call the network twice at one of them."""
    return list(dict.fromkeys(float(t) for t in scheduler.timesteps))


class _Clock:
    """Counts the steps of a scheduler, and the calls at each noise level."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.taken = 0
        self.last = -1

    def tick(self) -> Tick:
        times = self.scheduler.timesteps
        timestep = float(times[min(self.taken, len(times) - 1)])
        index = _levels(self.scheduler).index(timestep)
        tick = Tick(index, timestep, index != self.last)
        self.last = index
        return tick

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Counts while the context is open."""
        step = self.scheduler.step

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.taken += 1
            return step(*args, **kwargs)

        self.scheduler.step = counted
        try:
            yield
        finally:
            del self.scheduler.step


def draw(
    subject: Subject,
    texts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    look: Look | None = None,
) -> Tensor:
    """Images of B texts and B seeds: (B, 3, H, W) in [-1, 1], on the CPU.

    `look` sees h of the images at every call of the subject's module. Raises RuntimeError where the
    sampler takes no step that can be counted.
    """
    if look is None:
        return _call(subject, texts, seeds, steps)
    clock = _Clock(subject.pipeline.scheduler)

    def function(h: Tensor, _call: int) -> Tensor | None:
        rows = part(len(h), len(texts))
        new = look(h[rows].clone(), clock.tick())
        if new is None:
            return None
        hooks.same_kind(h[rows], new, subject.module)
        h[rows] = new
        return h

    with clock.counting(), hooks.edit(subject.network, subject.module, function):
        images = _call(subject, texts, seeds, steps)
    if not clock.taken:
        raise RuntimeError(f"{subject.name}: its pipeline never called its scheduler's step")
    return images


def times(subject: Subject, steps: int) -> tuple[float, ...]:
    """The timesteps of a generation. The pipeline is left before its network first runs.

    Raises ValueError for a solver that goes through more noise levels than it is asked for.
    """
    with _stopped(subject.network):
        _call(subject, subject.texts()[:1], [0], steps)
    levels = _levels(subject.pipeline.scheduler)
    if len(levels) != steps:
        raise ValueError(
            f"{type(subject.pipeline.scheduler).__name__} of {subject.name} goes through "
            f"{len(levels)} noise levels in {steps} steps; put another scheduler there"
        )
    return tuple(levels)


@contextmanager
def _stopped(network: nn.Module) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _Stop

    handle = network.register_forward_pre_hook(stop)
    try:
        yield
    except _Stop:
        pass
    finally:
        handle.remove()


def _sides(pipeline: Any, network: Any) -> dict[str, int]:
    """The height and width of images where the network's settings tell them, else nothing."""
    side = getattr(network.config, "sample_size", None)
    scale = getattr(pipeline, "vae_scale_factor", None)
    if not isinstance(side, int) or not isinstance(scale, int):
        return {}
    return {"height": side * scale, "width": side * scale}


@torch.no_grad()
def _call(subject: Subject, texts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
    """The pipeline's own images: (B, 3, H, W) in [-1, 1]."""
    pipeline = subject.pipeline
    accepted = inspect.signature(type(pipeline).__call__).parameters
    given: dict[str, Any] = {
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "num_inference_steps": steps,
        "output_type": "np",
    }
    given |= {"prompt": list(texts)} if "prompt" in accepted else {"batch_size": len(texts)}
    if "height" in accepted:
        given |= _sides(pipeline, subject.network)
    if subject.guidance is not None:
        given["guidance_scale"] = subject.guidance
    try:
        images = pipeline(**given).images
    except (_Stop, torch.OutOfMemoryError):
        raise
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{type(pipeline).__name__} of {subject.name} cannot be called with texts and seeds "
            f"alone, or returns no images: {line(error)}"
        ) from None
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1
