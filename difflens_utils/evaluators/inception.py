"""The features of FID: clean-fid's Inception and its resizing (Parmar et al., 2022).

>>> import torch
>>> from pathlib import Path
>>> from difflens_utils.evaluators.inception import Inception
>>> Inception(Path("nowhere.pt"), torch.device("cpu"))  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
ValueError: nowhere.pt is missing, damaged or not clean-fid's Inception: ...
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor

from ..runtime import keys
from ..subjects.real import checkpoints
from . import Evaluator


class Inception:
    """The 2,048 pooled features of images (B, 3, H, W) in [-1, 1].

    It is not differentiable: images are rounded to bytes, as files are.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        """Reads clean-fid's own file.

        Raises ValueError, in one line, for a file that is missing, damaged or foreign.
        """
        try:
            self.network = InceptionV3W(str(path.parent), download=False).to(device).eval()
        except Exception as error:  # torch.jit raises many kinds; its last line says the reason
            reason = str(error).strip().splitlines()[-1][:200]
            raise ValueError(
                f"{path} is missing, damaged or not clean-fid's Inception: {reason}"
            ) from None
        checkpoints.finite(path, self.network.state_dict())
        self.device = device
        self.resize = build_resizer("clean")

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """(B, 2048) float32."""
        pixels = (images.float().clamp(-1, 1) * 127.5 + 127.5).round().byte()
        files = pixels.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
        resized = torch.from_numpy(np.stack([self.resize(image) for image in files]))
        features: Tensor = self.network(resized.permute(0, 3, 1, 2).to(self.device))
        return features.float()


class Scorer:
    """Implements `Evaluator`: one network reads classes, another gives the Fréchet features."""

    def __init__(self, classifier: Evaluator, features: Callable[[Tensor], Tensor]) -> None:
        self.classifier = classifier
        self.factors = classifier.factors
        self.logits = classifier.logits
        self.features = features

    def look(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The logits {factor: (B, classes)} of one network and the features (B, F) of the other."""
        return self.logits(images), self.features(images)

    def fingerprint(self) -> object:
        """The entry in the keys of artifacts: the classifier and the network of features."""
        owner = getattr(self.features, "__self__", self.features)  # of a bound method
        network = getattr(owner, "network", owner)
        return keys.digest({"reader": self.classifier, "features": network})
