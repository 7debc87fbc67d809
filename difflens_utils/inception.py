"""The features of FID: clean-fid's Inception, resized as clean-fid resizes (Parmar et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor

from . import checkpoints, keys
from .evaluators import Evaluator


class Inception:
    """Images (B, 3, H, W) in [-1, 1] to the 2,048 pooled features of each. Not differentiable: images are rounded to bytes, as files are."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """`path` is clean-fid's own file. ValueError, in one line, for one that is missing, damaged or foreign."""
        try:
            self.network = InceptionV3W(str(path.parent), download=False).to(device).eval()
        except (
            Exception
        ) as error:  # whatever a damaged file raises, the user needs its name and one line
            raise ValueError(
                f"{path} is missing, damaged or not clean-fid's Inception: {str(error).strip().splitlines()[-1][:200]}"
            ) from None
        checkpoints.finite(path, self.network.state_dict())
        self.device, self.resize = device, build_resizer("clean")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 2048) float32."""
        pixels = (
            (images.float().clamp(-1, 1) * 127.5 + 127.5)
            .round()
            .byte()
            .permute(0, 2, 3, 1)
            .cpu()
            .numpy()
        )  # (B, H, W, 3)
        resized = np.stack([self.resize(image) for image in pixels])
        return self.network(torch.from_numpy(resized).permute(0, 3, 1, 2).to(self.device)).float()


class Scorer:
    """An evaluator that reads classes with one network, and whose features, for the Fréchet distance, are those of another."""

    def __init__(self, reader: Evaluator, features: Callable[[Tensor], Tensor]) -> None:
        self.factors, self.logits, self.features, self.reader = (
            reader.factors,
            reader.logits,
            features,
            reader,
        )

    def fingerprint(self) -> object:
        """What stands for it in the keys of artifacts: the reader, and the network behind the features."""
        behind = getattr(self.features, "__self__", self.features)
        return keys.digest({"reader": self.reader, "features": getattr(behind, "network", behind)})
