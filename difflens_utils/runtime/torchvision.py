"""A guard: a torchvision that was built for another torch can be imported all the same."""

from __future__ import annotations

from typing import Any

_kept: list[Any] = []  # definitions of operators live as long as the object that made them


def mend() -> None:
    """Define the operators that such a torchvision misses; nothing here uses them.

    A CUDA torchvision beside a CPU torch registers `torchvision::nms` as missing and then fails to
    import, and takes clean-fid and diffusers down with it.
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
