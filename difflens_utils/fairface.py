"""FairFace (Karkkainen and Joo, 2021): gender, age and race of photographed faces, in the classes of the paper.

Two networks are published, both a ResNet-34 with 18 outputs. In one the first seven are races, in the other the first four. They are
trained apart, so one can label and the other score. Upstream reads races alone from the second, and says nothing of its other outputs;
they are taken to be gender and age as in the first, and the evaluators' agreement (notebook 00) shows whether they are. What the paper merges is merged in probability: a class is as likely as its
outputs together, and outputs that belong to no class (Latino Hispanic, Middle Eastern) are left out and the rest renormalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from . import checkpoints
from .evaluators import resized

Columns = Mapping[str, tuple[int, ...]]  # {class: outputs}

GENDER: Columns = {"female": (8,), "male": (7,)}
AGE: Columns = {
    "young": (9, 10, 11),
    "adult": (12, 13, 14, 15),
    "old": (16, 17),
}  # to 19, 20 to 59, from 60
RACE_OF_7: Columns = {"White": (0,), "Black": (1,), "Asian": (3, 4), "Indian": (5,)}
RACE_OF_4: Columns = {"White": (0,), "Black": (1,), "Asian": (2,), "Indian": (3,)}
OUTPUTS = 18
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on images in [0, 1]


class FairFace(nn.Module):
    """Implements `Evaluator` for images (B, 3, H, W) in [-1, 1], which are resized to 224x224."""

    def __init__(self, race: Columns, network: nn.Module) -> None:
        """`network` is a ResNet-34 with `OUTPUTS` outputs."""
        super().__init__()
        self.columns = {"gender": GENDER, "age": AGE, "race": race}
        self.factors = {factor: tuple(classes) for factor, classes in self.columns.items()}
        self.network = network
        self.head, self.network.fc = self.network.fc, nn.Identity()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 512)."""
        return self.network(((resized(images, 224) + 1) / 2 - self.mean) / self.std)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{factor: (B, classes)}; their softmax is the probability of each class's outputs together."""
        outputs = self.head(self.features(images))
        return {
            factor: torch.stack([outputs[:, list(own)].logsumexp(1) for own in classes.values()], 1)
            for factor, classes in self.columns.items()
        }

    @classmethod
    def load(cls, path: Path) -> FairFace:
        """Read a published checkpoint: `..._7_...pt` or `..._4_...pt`. ValueError, in one line, for a file that is missing, damaged or foreign."""
        from torchvision.models import resnet34  # seconds that a study of portraits can do without

        state, network = checkpoints.tensors(path), resnet34(num_classes=OUTPUTS)
        try:
            checkpoints.fill(network, state, path)
        except ValueError as error:
            expected = f"a ResNet-34 with {OUTPUTS} outputs"
            raise ValueError(f"no FairFace network, {expected}: {error}") from None
        race = RACE_OF_4 if "_4_" in path.name else RACE_OF_7
        return cls(race, network).eval().requires_grad_(False)
