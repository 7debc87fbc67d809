"""FairFace (Karkkainen and Joo, 2021): gender, age and race of photographed faces.

The classes are those of the paper. Two networks are published, both a ResNet-34 with 18 outputs.
The first seven outputs of one network are races, and the first four of the other. They are trained
apart, so one can label and the other score. Upstream reads only races from the second and does not
describe its other outputs. They are taken to be gender and age, as in the first. Notebook 00 shows
how far the two networks agree.

A class that joins several outputs has the sum of their probabilities. Outputs that belong to no
class (Latino Hispanic, Middle Eastern) are left out, and the rest is renormalised.

>>> from pathlib import Path
>>> from difflens_utils.evaluators import fairface
>>> fairface.RACE_OF_7["Asian"]  # East Asian and Southeast Asian
(3, 4)
>>> fairface.FairFace.load(Path("nowhere.pt"))
Traceback (most recent call last):
    ...
ValueError: nowhere.pt is missing
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..subjects.real import checkpoints
from . import resized

Columns = Mapping[str, tuple[int, ...]]  # {class: outputs}

GENDER: Columns = {"female": (8,), "male": (7,)}
# Up to 19 years, 20 to 59, from 60.
AGE: Columns = {"young": (9, 10, 11), "adult": (12, 13, 14, 15), "old": (16, 17)}
RACE_OF_7: Columns = {"White": (0,), "Black": (1,), "Asian": (3, 4), "Indian": (5,)}
RACE_OF_4: Columns = {"White": (0,), "Black": (1,), "Asian": (2,), "Indian": (3,)}
OUTPUTS = 18
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, on images in [0, 1]


class FairFace(nn.Module):
    """Implements `Evaluator` for images (B, 3, H, W) in [-1, 1], which are resized to 224x224."""

    mean: Tensor  # (3, 1, 1)
    std: Tensor  # (3, 1, 1)

    def __init__(self, race: Columns, network: nn.Module) -> None:
        """`network` is a ResNet-34 with `OUTPUTS` outputs."""
        super().__init__()
        self.columns: dict[str, Columns] = {"gender": GENDER, "age": AGE, "race": race}
        self.factors = {factor: tuple(classes) for factor, classes in self.columns.items()}
        self.network = network
        self.head = network.get_submodule("fc")
        self.network.fc = nn.Identity()
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 512)."""
        pixels = (resized(images, 224) + 1) / 2
        features: Tensor = self.network((pixels - self.mean) / self.std)
        return features

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{factor: (B, classes)}: the logarithm of the summed exponentials of a class's outputs."""
        return self.look(images)[0]

    def look(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The logits {factor: (B, classes)} and the features (B, 512), in one pass."""
        features = self.features(images)
        outputs = self.head(features)
        logits = {}
        for factor, columns in self.columns.items():
            classes = [outputs[:, list(indices)].logsumexp(1) for indices in columns.values()]
            logits[factor] = torch.stack(classes, 1)
        return logits, features

    @classmethod
    def load(cls, path: Path) -> FairFace:
        """Reads a published checkpoint, `..._7_...pt` or `..._4_...pt`.

        Raises ValueError, in one line, for a file that is missing, damaged or foreign.
        """
        from torchvision.models import resnet34  # takes seconds, and few subjects need it

        state = checkpoints.tensors(path)
        network = resnet34(num_classes=OUTPUTS)
        try:
            checkpoints.fill(network, state, path)
        except ValueError as error:
            expected = f"a ResNet-34 with {OUTPUTS} outputs"
            raise ValueError(f"no FairFace network, {expected}: {error}") from None
        race = RACE_OF_4 if "_4_" in path.name else RACE_OF_7
        return cls(race, network).eval().requires_grad_(False)
