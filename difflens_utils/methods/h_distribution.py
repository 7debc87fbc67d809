"""H-Distribution (Parihar et al., 2024): a batch's distribution is moved towards the target."""

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


def guided(heads: Heads, target: Sequence[float], name: str = "H-Distribution") -> Method:
    """H-Distribution: the symmetric step, and the distribution itself as the aim."""
    return Method(
        name,
        lambda _class, strength: edits.guide(heads, target, strength),
        GUIDED,
        asymmetric=False,
        whole=True,
    )
