"""H-Distribution (Parihar et al., 2024): a batch's distribution is moved towards the target.

The head below reads class 0 from a positive h, so a batch of class 0 alone is pulled down:

>>> import torch
>>> from difflens_utils import methods
>>> from difflens_utils.probes import Heads
>>> from difflens_utils.sampling import Step
>>> weight = torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1, 1)  # (T, classes, C, H, W)
>>> method = methods.guided(Heads(weight, torch.zeros(1, 2)), target=[0.5, 0.5])
>>> h = torch.full((4, 1, 1, 1), 2.0)
>>> bool((method.towards(0, 100.0)(h, Step(0, 900, torch.arange(4))) < h).all())
True
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import edits
from ..probes import Heads
from .base import GUIDED, Method

if TYPE_CHECKING:
    from ..study import Study


def rows(study: Study, attribute: str) -> list[Method]:
    """H-Distribution towards equal shares of the classes."""
    return [guided(study.heads()[attribute], study.attribute(attribute).uniform)]


NAME = "H-Distribution"


def guided(heads: Heads, target: Sequence[float], name: str = NAME) -> Method:
    """H-Distribution: the symmetric step, and the distribution itself as the aim.

    What ships under its name aims at equal shares, so another target is part of its recipe.
    """
    other = name == NAME and len(set(target)) > 1
    return Method(
        name,
        lambda _class, strength: edits.guide(heads, target, strength),
        GUIDED,
        asymmetric=False,
        whole=True,
        recipe={"target": list(target)} if other else {},
    )
