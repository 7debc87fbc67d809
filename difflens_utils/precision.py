"""Where to compute, and how exactly: bf16 and TF32 where the hardware has them, float32 where rounding would hide the effect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import gpu
from .errors import one_of

if TYPE_CHECKING:
    from .pipelines import Subject


def pick_device(device: str = "auto") -> torch.device:
    """ "auto" is CUDA where there is one, else the CPU. On CUDA what is float32 is multiplied in TF32 from here on."""
    one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is cuda, but torch sees no GPU; take device=cpu or install torch's CUDA build"
        )
    return gpu.take() if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":  # torch counts the emulation of older GPUs as support too
        able = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if able else torch.float32
    units = torch.cpu.get_capabilities()
    able = units.get("avx512_bf16") or units.get("amx_bf16")
    return torch.bfloat16 if able else torch.float32


def autocast(device: torch.device = torch.device("cpu")) -> torch.autocast:
    """`fast_dtype` for a training: bf16 products over float32 weights, or nothing where bf16 is only emulated."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)


def halved(value: Tensor) -> Tensor:
    """float16 for the disk; float32 where a value is above 65,504 and would become inf."""
    half = value.half()
    return half if torch.equal(half.isfinite(), value.isfinite()) else value.float()


@contextmanager
def full_precision(subject: Subject) -> Iterator[None]:
    """float32 for a while, without TF32: one feature moves the picture by less than either rounds epsilon. The weights' values stay."""
    dtype = subject.dtype

    def cast(to: torch.dtype) -> None:
        _cast(subject, dtype=to)
        subject.dtype = to

    cast(torch.float32)
    try:
        with gpu.exact():
            yield
    finally:
        cast(dtype)


@contextmanager
def planar(subject: Subject) -> Iterator[None]:
    """Channels before pixels for a while: on a CPU the backward pass of group norm takes many times as long in channels_last."""
    norms = [
        m for module in subject.modules for m in module.modules() if isinstance(m, nn.GroupNorm)
    ]
    handles = [
        m.register_forward_pre_hook(lambda _norm, args: (args[0].contiguous(), *args[1:]))
        for m in norms
    ]  # attention turns them round
    _cast(subject, memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        _cast(subject, memory_format=torch.channels_last)
        for handle in handles:
            handle.remove()


def _cast(subject: Subject, **to: torch.dtype | torch.memory_format) -> None:
    for module in subject.modules:
        nn.Module.to(module, **to)  # diffusers' own `to` warns of models that this one is not
