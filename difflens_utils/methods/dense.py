"""Dense controls: the mean difference of h, and the direction of the h-classifier.

A direction of length 5 gets the length 10 of another:

>>> import torch
>>> from difflens_utils.methods import dense
>>> direction = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)  # (T, C, H, W)
>>> difference = torch.tensor([0.0, 10.0]).reshape(1, 2, 1, 1)
>>> dense.lengthened([direction], like=[difference])[0].flatten().tolist()
[6.0, 8.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from .. import features
from .base import Method, of_length, pushed

if TYPE_CHECKING:
    from ..study import Study


def rows(study: Study, attribute: str) -> list[Method]:
    """The mean difference, and the h-classifier's weights at its length."""
    heads = study.heads()[attribute]
    difference = differences(study, attribute)
    mean = heads.weight.mean(1)
    toward = [heads.weight[:, c] - mean for c in range(heads.weight.shape[1])]  # (T, *h) each
    return [
        pushed("mean difference", difference),
        pushed("h-classifier direction", lengthened(toward, difference)),
    ]


def differences(study: Study, attribute: str) -> list[Tensor]:
    """The mean h of each class minus that of all others: (T, *h) each."""
    rec = study.recording("learn")
    labels = study.labels("learn")[attribute]
    classes = range(len(study.attribute(attribute).classes))
    return [features.mean_difference(rec, labels == c) for c in classes]


def lengthened(directions: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Directions (T, *h), each scaled per timestep to the length of another.

    A strength then means the same for all of them.
    """
    return [of_length(a, b) for a, b in zip(directions, like, strict=True)]
