"""Makes torchvision importable even where it was built for another version of torch.

The package calls `mend` before anything imports diffusers. A second call changes nothing.

>>> from difflens_utils.runtime.torchvision import mend
>>> mend()
>>> import torchvision
>>> torchvision.ops.nms.__name__
'nms'
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

OPERATORS = ("nms", "qnms")
_kept: list[Any] = []  # definitions of operators live as long as the object that made them


def mend() -> None:
    """Defines the operators that such a torchvision misses. Nothing in the package uses them.

    A CUDA torchvision cannot load its extension beside a CPU torch. Then `torchvision::nms` does
    not exist, and the imports of torchvision, clean-fid and diffusers fail. The import of
    torchvision takes a second, so its extension alone is tried.
    """
    found = find_spec("torchvision")
    if _kept or found is None or not found.submodule_search_locations:
        return
    try:
        for extension in Path(found.submodule_search_locations[0]).glob("_C*"):
            torch.ops.load_library(str(extension))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
