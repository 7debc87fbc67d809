"""Reading what others have published as PyTorch checkpoints, without running any of their code."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def tensors(path: Path) -> dict[str, Tensor]:
    """The state {name: tensor} that a checkpoint holds, on the CPU.

    Raises ValueError, in one line, for a file that is missing or damaged, that holds more than tensors, or that would run code.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no checkpoint of tensors: {(str(error).splitlines() or [''])[0][:200]}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds something else than tensors by name")
    return dict(state)
