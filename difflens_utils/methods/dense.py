"""Dense controls: the mean difference of h, and that at equal other factors.

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

import torch
from torch import Tensor

from .. import features
from .base import Method, of_length, pushed

if TYPE_CHECKING:
    from ..study import Study


def rows(study: Study, attribute: str) -> list[Method]:
    """The mean difference, and at its length the direction of a regression of h.

    It explains h by the class and the other factors.
    """
    difference = differences(study, attribute)
    return [
        pushed("mean difference", difference),
        pushed("regression direction", lengthened(partial(study, attribute), difference)),
    ]


def differences(study: Study, attribute: str) -> list[Tensor]:
    """The mean h of each class minus that of all others: (T, *h) each."""
    rec = study.recording("learn")
    labels = study.labels("learn")[attribute]
    classes = range(len(study.attribute(attribute).classes))
    return [features.mean_difference(rec, labels == c) for c in classes]


def partial(study: Study, attribute: str) -> list[Tensor]:
    """The difference that a class makes to h while other factors stay: (T, *h) per class.

    It is that of a linear model (`features.partial_weights`) of the factors that do not depend on
    the attribute.
    """
    rec = study.recording("learn")
    weights = features.adjusted(study.subject, rec, attribute)  # (n, classes)
    steps = range(rec.h.shape[1])
    found = [torch.tensordot(weights.T, rec.at(step), 1) for step in steps]  # (classes, *h) each
    return list(torch.stack(found, 1))


def lengthened(directions: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Directions (T, *h), each scaled per timestep to the length of another.

    A strength then means the same for all of them.
    """
    return [of_length(a, b) for a, b in zip(directions, like, strict=True)]
