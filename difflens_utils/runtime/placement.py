"""Big pipelines on a GPU: which parts stay there, and whose blocks are compiled.

What does not fit waits on the host. Text encoders come to the GPU for as long as they read, once
per text. A network that does not fit beside nothing is streamed through the GPU layer by layer.

>>> from difflens_utils.runtime import placement
>>> sizes = {"transformer": 24, "vae": 1, "text_encoder": 10}  # GiB
>>> placement.plan(sizes, free=80)
Placement(waiting=(), streamed=False)
>>> placement.plan(sizes, free=40)
Placement(waiting=('text_encoder',), streamed=False)
>>> placement.plan(sizes, free=16)
Placement(waiting=('text_encoder',), streamed=True)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
from torch import nn

ROOM = 0.7  # of the free memory: the rest is for images
BIG = 500_000_000  # weights of a network whose blocks are worth compiling


class Placement(NamedTuple):
    """The parts that wait on the host, and whether the network is streamed."""

    waiting: tuple[str, ...]
    streamed: bool


def plan(sizes: Mapping[str, int], free: int) -> Placement:
    """Where the parts of a pipeline go, by their sizes and the free memory, in one unit."""
    room = ROOM * free
    if sum(sizes.values()) <= room:
        return Placement((), False)
    encoders = tuple(part for part in sizes if part.startswith("text_encoder"))
    stay = sum(size for part, size in sizes.items() if part not in encoders)
    return Placement(encoders, stay > room)


def weight(module: nn.Module) -> int:
    """The bytes of a module's weights."""
    return sum(value.numel() * value.element_size() for value in module.parameters())


@contextmanager
def visiting(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Within the block the modules are on the device. They leave for the host again."""
    try:
        for module in modules:
            nn.Module.to(module, device)
        yield
    finally:
        for module in modules:
            nn.Module.to(module, "cpu")


def stream(network: nn.Module, device: torch.device) -> None:
    """Keeps the weights on the host. Each layer fetches its own for as long as it runs."""
    from accelerate import cpu_offload

    cpu_offload(network, execution_device=device)


# --------------------------------------------------------------------------------------------------
# Compiled blocks

_compiled: WeakSet[nn.Module] = WeakSet()


def is_compiled(module: nn.Module) -> bool:
    """Whether `compile_blocks` has compiled a module. Hooks on its inside are not called."""
    return module in _compiled


def worth_compiling(network: nn.Module, device: torch.device) -> bool:
    """Whether a network is big, on a GPU, and a compiler is there."""
    count = sum(value.numel() for value in network.parameters())
    return device.type == "cuda" and count >= BIG and shutil.which("cc") is not None


def compile_blocks(network: nn.Module, module: str, backend: str = "inductor") -> None:
    """Compiles the forward pass of each block, but of those that hold the `module` inside.

    A hook on a block itself is called as ever, because only what it calls is compiled.
    """
    compiler: Callable[..., Any] = torch.compile
    for name, block in _blocks(network).items():
        if module.startswith(f"{name}."):
            continue
        block.forward = compiler(block.forward, backend=backend)
        _compiled.add(block)


def _blocks(network: nn.Module) -> dict[str, nn.Module]:
    """The parts of the network's lists of blocks, and its middle block."""
    found: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f"{name}.{i}": block for i, block in enumerate(child)}
        elif name == "mid_block":
            found[name] = child
    return found
