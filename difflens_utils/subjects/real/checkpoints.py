"""Reads weights from files: complete, of the right shapes, finite, and without running code.

>>> import torch
>>> from pathlib import Path
>>> from difflens_utils.subjects.real import checkpoints
>>> layer = torch.nn.Linear(2, 1)
>>> checkpoints.fill(layer, {"weight": torch.ones(1, 2)}, Path("layer.pt"))
Traceback (most recent call last):
    ...
ValueError: layer.pt lacks bias
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...runtime.errors import line

UNREADABLE = (
    pickle.UnpicklingError,
    SafetensorError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)  # what torch and safetensors raise for a file that they cannot read


def tensors(path: Path) -> dict[str, Tensor]:
    """The state {name: tensor} in a file of PyTorch or safetensors, on the CPU.

    Raises ValueError, in one line, for a file that is missing or damaged, that holds more than
    tensors, or that would run code.
    """
    if not path.exists():
        raise ValueError(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = line(error)[:200]
        raise ValueError(f"{path} is damaged, or no checkpoint of tensors: {reason}") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    finite(path, state)
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Puts the tensors of a file into a network.

    Raises ValueError, in one line, unless the file has exactly the network's tensors.
    """
    wanted = network.state_dict()
    # Counters of batches matter to training alone, and files of old versions lack them.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    lacking = wanted.keys() - state.keys() - counters
    unknown = state.keys() - wanted.keys()
    complete(path, lacking, unknown, other_shapes(state, wanted))
    network.load_state_dict(state, strict=False)


Shapes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # {name: (in the file, expected)}


def other_shapes(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Shapes:
    """The shapes of the tensors that both have, where they differ."""
    shared = state.keys() & wanted.keys()
    pairs = {name: (tuple(state[name].shape), tuple(wanted[name].shape)) for name in shared}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def complete(
    source: Path | str, lacking: Collection[str], unknown: Collection[str], shapes: Shapes
) -> None:
    """Raises ValueError, in one line, if a file lacks tensors, has unknown ones or other shapes."""
    for what, names in (("lacks", lacking), ("has the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{source} {what} {min(names)}{more}")
    for name, (found, expected) in sorted(shapes.items()):
        raise ValueError(f"{source}: {name} has shape {found} instead of {expected}")


def finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises ValueError, in one line, for the first tensor that holds NaN or infinity."""
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
