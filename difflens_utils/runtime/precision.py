"""The device that computes, and the precision that it computes in.

bf16 and TF32 are used where the hardware is faster with them. float32 is used where rounding would
hide the effect of an edit.

>>> import torch
>>> from difflens_utils.runtime import precision
>>> precision.pick_device("cpu")
device(type='cpu')
>>> precision.halved(torch.tensor([0.5, 60_000.0])).dtype
torch.float16
>>> precision.halved(torch.tensor([0.5, 70_000.0])).dtype
torch.float32
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import gpu
from .errors import one_of

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject

CHOICES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# `Module.to` itself: that of diffusers warns of other models than these. The annotation of torch
# lacks `memory_format` alone.
move: Callable[..., nn.Module] = nn.Module.to


def pick_device(device: str = "auto") -> torch.device:
    """Returns the device of a name; "auto" is CUDA where there is a GPU, else the CPU.

    On CUDA, float32 values are multiplied in TF32 from then on. Raises ValueError for an unknown
    name, and for CUDA without a GPU.
    """
    one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, but torch sees no GPU; take device=cpu or install torch's CUDA build"
        )
    return gpu.use_gpu() if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """Returns bf16 where the hardware multiplies it faster than float32, else float32.

    Of the processors with avx512_bf16 AMD's do so, and Intel's only with AMX: a portrait
    of a batch of 64 takes 7.1 ms per step in bf16 and 4.8 in float32 on a thread of a Xeon whose
    AMX is off. The environment variable DIFFLENS_PRECISION, `float32` or `bfloat16`, decides it
    instead; ValueError for anything else.
    """
    if chosen := os.environ.get("DIFFLENS_PRECISION"):
        one_of("DIFFLENS_PRECISION", chosen, CHOICES)
        return CHOICES[chosen]
    if device.type == "cuda":  # torch counts the emulation of older GPUs as support too
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        units = torch.cpu.get_capabilities()
        amd = str(units.get("cpu_name", "")).startswith("AMD")
        able = units.get("amx_bf16") or (units.get("avx512_bf16") and amd)
    return torch.bfloat16 if able else torch.float32


def autocast(device: torch.device = torch.device("cpu")) -> torch.autocast:  # noqa: B008
    """Returns the context to train a network in: bf16 products over float32 weights.

    It does nothing where bf16 is no faster.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)


def halved(value: Tensor) -> Tensor:
    """Returns float16 for the disk, or float32 where a value above 65,504 would become inf."""
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value.float()


@contextmanager
def full_precision(subject: Subject) -> Iterator[Subject]:
    """Yields the subject in float32, without TF32. The weights keep their values.

    The effect of one feature is smaller than the rounding error of epsilon in bf16 or TF32.
    """
    dtype = subject.dtype
    try:
        _move(subject, dtype=torch.float32)
        with gpu.without_tf32():
            yield subject
    finally:
        _move(subject, dtype=dtype)


@contextmanager
def planar(subject: Subject) -> Iterator[Subject]:
    """Yields the subject with channels before pixels in memory.

    On a CPU the backward pass of group norm takes many times as long in channels_last.
    """
    layers = [layer for module in subject.modules for layer in module.modules()]
    norms = [layer for layer in layers if isinstance(layer, nn.GroupNorm)]
    handles = [norm.register_forward_pre_hook(_contiguous) for norm in norms]
    _move(subject, memory_format=torch.contiguous_format)
    try:
        yield subject
    finally:
        _move(subject, memory_format=torch.channels_last)
        for handle in handles:
            handle.remove()


def _contiguous(_norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input of a group norm in the order of its axes, which attention turns round."""
    return (args[0].contiguous(), *args[1:])


def _move(subject: Subject, **to: torch.dtype | torch.memory_format) -> None:
    for module in subject.modules:
        move(module, **to)
