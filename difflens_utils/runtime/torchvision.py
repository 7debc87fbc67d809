"""Makes torchvision importable even where it was built for another version of torch.

The package calls `mend` before it imports diffusers. A second call changes nothing.

>>> from difflens_utils.runtime.torchvision import mend
>>> mend()
>>> import torchvision
>>> torchvision.ops.nms.__name__
'nms'
"""

from __future__ import annotations

from typing import Any

_kept: list[Any] = []  # definitions of operators live as long as the object that made them


def mend() -> None:
    """Defines the operators that such a torchvision misses. Nothing in the package uses them.

    The import of a CUDA torchvision beside a CPU torch fails, because `torchvision::nms` does not
    exist. The imports of clean-fid and diffusers then fail too.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        import torchvision  # noqa: F401
