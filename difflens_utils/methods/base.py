"""The type of every method: an edit towards a class, at a strength.

>>> import torch
>>> from difflens_utils import methods
>>> from difflens_utils.sampling import Step
>>> directions = [torch.ones(1, 2, 1, 1), -torch.ones(1, 2, 1, 1)]  # per class (T, C, H, W)
>>> method = methods.pushed("mean difference", directions)
>>> h, step = torch.zeros(1, 2, 1, 1), Step(index=0, timestep=900, rows=torch.arange(1))
>>> method.towards(1, 0.5)(h, step).flatten().tolist()
[-0.5, -0.5]
>>> method.towards(1, 0.0)(h, step) is None
True
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from .. import edits
from ..ksae import Dictionary
from ..sampling import Edit

# Strengths that searches try. 1 is one difference between the class and the others.
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # beta - 1, where latents are scaled
SPARSE = (0.5, 1.0, 2.0, 3.0, 4.0)
DENSE = (0.125, 0.25, 0.5, 1.0, 1.5)
GUIDED = (125.0, 250.0, 500.0, 1e3, 2e3, 4e3, 8e3, 1.6e4)
DIRECTION = (0.5, 1.0, 1.5, 2.0, 3.0)
TUNED = (0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Method:
    """A name, and `towards(class, strength)`, which makes the edit; strength 0 is the identity."""

    name: str
    towards: Callable[[int, float], Edit] = field(repr=False)
    grid: Sequence[float] = SPARSE
    """Strengths to search."""
    asymmetric: bool = True
    """Whether only the predicted clean image feels the edit (Eq. 11)."""
    whole: bool = False
    """Whether it aims at a distribution and moves a whole set of images towards it."""
    network: bool = False
    """Whether it changes the network itself, with one strength for all prompts."""
    equal: bool = False
    """Whether it asks for every class equally often, at one strength, as the paper does."""
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Settings that it was made with and that differ from the study's."""
    variants: Sequence[Method] = field(default=(), repr=False)
    """Other ways to take its edits, such as the symmetric step; a plan may mix all of them."""

    @property
    def ways(self) -> tuple[Method, ...]:
        """The method and its variants."""
        return (self, *self.variants)

    @property
    def key(self) -> str:
        """The name in records and paths: act_at_l for Act@L."""
        return key(self.name)


def key(name: str) -> str:
    """What a method of this name is called in records and paths."""
    return re.sub(r"\W+", "_", name.lower().replace("@", " at "))


def shifted(
    name: str,
    dictionary: Dictionary,
    chosen: Sequence[Tensor],
    gaps: Sequence[Tensor],
    *,
    measured_on: Sequence[Tensor] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Method:
    """Per class, adds to the `chosen` latents (N,) their class difference in `gaps` (T, P, D).

    If `measured_on` names other latents, the differences of those are added. Towards a class
    without latents the edit is the identity.
    """
    places = chosen if measured_on is None else measured_on

    def towards(c: int, strength: float) -> Edit:
        if not len(chosen[c]):
            return edits.identity()
        return edits.steer(dictionary, chosen[c], strength, "add", gaps[c][..., places[c]])

    return Method(name, towards, recipe=recipe or {})


def pushed(
    name: str, directions: Sequence[Tensor], grid: Sequence[float] = DENSE, asymmetric: bool = True
) -> Method:
    """Per class, adds a dense direction (T, *h)."""
    return Method(name, lambda c, strength: edits.push(directions[c], strength), grid, asymmetric)


def of_length(direction: Tensor, like: Tensor) -> Tensor:
    """A direction (T, *h), scaled per timestep to the length of another."""
    norms = direction.flatten(1).norm(dim=1).clamp_min(1e-12)
    length = like.flatten(1).norm(dim=1) / norms
    return direction * length.reshape(-1, *[1] * (direction.ndim - 1))


def symmetric(method: Method, name: str = "symmetric step") -> Method:
    """The same edits in the symmetric step, in which both halves of Eq. 11 feel them."""
    return replace(method, name=name, asymmetric=False, variants=())


def late(method: Method, steps: int, share: float = 0.5, name: str = "late half") -> Method:
    """The same edits at the cleanest `share` of the `steps` only, as much stronger."""
    first = steps - max(1, round(share * steps))

    def towards(c: int, strength: float) -> Edit:
        return edits.only(method.towards(c, strength), range(first, steps))

    grid = [strength * steps / (steps - first) for strength in method.grid]
    return replace(method, name=name, towards=towards, grid=grid, variants=())


def in_all_ways(method: Method, steps: int) -> Method:
    """The method with the ways in which its edits may be taken beside its own.

    They are those with the symmetric step, and those at the cleaner half of the steps only, which
    Asyrp calls t_edit. A method that moves whole sets or the network has its own alone, and so has
    one that asks for every class equally often, as the paper does.
    """
    if method.whole or method.network or method.equal:
        return method
    return replace(method, variants=(symmetric(method), late(method, steps)))


def cleanest(method: Method, steps: int, name: str = "cleanest fifth") -> Method:
    """The same edits at the cleanest fifth of the `steps` only, four times as strong."""
    late = range(steps - max(1, steps // 5), steps)

    def towards(c: int, strength: float) -> Edit:
        return edits.only(method.towards(c, strength), late)

    grid = [4 * strength for strength in method.grid]
    return replace(method, name=name, towards=towards, grid=grid)
