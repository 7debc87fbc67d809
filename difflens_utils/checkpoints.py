"""Reading weights by name, strictly, and without running any code of those who published them."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def tensors(path: Path) -> dict[str, Tensor]:
    """The state {name: tensor} of a checkpoint of PyTorch or safetensors, on the CPU.

    Raises ValueError, in one line, for a file that is missing or damaged, that holds more than tensors, or that would run code.
    """
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ValueError(f"{path} is damaged, or no checkpoint of tensors: {reason}") from None
    if not isinstance(state, Mapping) or not all(
        isinstance(value, Tensor) for value in state.values()
    ):
        raise ValueError(f"{path} holds something else than tensors by name")
    finite(path, state)
    return dict(state)


def fill(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors of a file into a network; ValueError unless it has exactly the network's."""
    wanted = network.state_dict()
    # Counters of batches matter to training alone, and files of old versions lack them.
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    shapes = {
        name: (tuple(value.shape), tuple(wanted[name].shape))
        for name, value in state.items()
        if name in wanted and value.shape != wanted[name].shape
    }
    complete(
        path,
        lacking=wanted.keys() - state.keys() - counters,
        unknown=state.keys() - wanted.keys(),
        shapes=shapes,
    )
    network.load_state_dict(state, strict=False)


def complete(
    path: Path,
    lacking: Collection[str],
    unknown: Collection[str],
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Raise ValueError, in one line, if a file lacks tensors, has unknown ones or other shapes.

    `shapes` are those that differ: {name: (in the file, in the network)}.
    """
    for what, names in (("lacks", lacking), ("has the unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{path} {what} {min(names)}{more}")
    for name, (theirs, ours) in sorted(shapes.items()):
        raise ValueError(f"{path}: {name} has shape {theirs} instead of {ours}")


def finite(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise ValueError, in one line, for the first tensor that holds NaN or infinity."""
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds values that are not finite")
