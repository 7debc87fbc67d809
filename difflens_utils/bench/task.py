"""What a submission is given, and what it may not see.

>>> import torch
>>> from difflens_utils.bench.task import Given
>>> given = Given(torch.zeros(4, 2, 8, 3, 3, dtype=torch.float16), seed=0)  # (n, T, C, H, W)
>>> given.vectors.shape  # n T H W of them, in random order
torch.Size([72, 8])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .. import evaluators, outcome, sampling
from ..ksae import KSAE, map_to_vectors
from ..runtime import keys
from ..sampling import Edit, Step
from ..settings import Seeds
from ..study import Study
from ..subjects.attribute import Attribute
from . import seeds

READABLE = ("labeller", "clip", "texts", "prompts")  # parts of a subject
REPORTED = "report draw sweep wanted held_out held_out_base combined joint".split()
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Given:
    """What a method of track 1 is given: activations, and nothing of what is in the pictures."""

    h: Tensor
    """(n, T, C, H, W), or (n, T, tokens, C): of n unedited generations, at every step."""
    seed: int
    """For whatever is random in the method."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of method.yml."""

    @cached_property
    def vectors(self) -> Tensor:
        """All of h as vectors in random order, float32: (N, d)."""
        layers = [map_to_vectors(layer.float()).flatten(0, 1) for layer in self.h.unbind(1)]
        every = torch.cat(layers)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(self.seed))
        return every[order]


@dataclass(frozen=True)
class Task(Given):
    """What a method of the other tracks is given beside."""

    study: Study = field(kw_only=True)
    """The model, and every stage of the study of it but what reports."""
    attribute: Attribute = field(kw_only=True)
    images: Tensor = field(kw_only=True)
    """(n, 3, H, W) the pictures of h."""
    labels: Tensor = field(kw_only=True)
    """(n,) the classes of the attribute in the pictures of h, as the labeller sees them."""
    dictionary: KSAE | None = field(kw_only=True)
    """The k-SAE that ships with the subject; None where none does, which has no track for it."""
    exchanged: tuple[int, int] = field(kw_only=True)
    """The classes that *locate* goes between: from the commonest one in the data to the rarest."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the attribute's classes."""
        return self.attribute.classes

    @property
    def blocks(self) -> list[str]:
        """The blocks of the network, which track 5 asks for."""
        return self.study.blocks

    def draw(self, n: int, seed: int, edit: Callable[..., Any] | None = None) -> Tensor:
        """Images (n, 3, H, W) of seeds that nothing is reported on, also under an edit."""
        steps, subject = self.study.settings.steps, self.study.subject
        batch = min(n, 64)
        return sampling.sample(subject, n, seed, steps=steps, edit=edit, batch=batch)

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """What the labeller sees in images (n, 3, H, W): {factor: (n, classes)} probabilities."""
        subject = self.study.subject
        return evaluators.read(subject.labeller, images, subject.device)


def reserved() -> frozenset[int]:
    """The seeds that no submission can draw from: those of the study's reports too."""
    study = Seeds()
    return frozenset(getattr(study, name) for name in REPORTED) | seeds.RESERVED


@contextmanager
def blind(name: str) -> Iterator[None]:
    """Within the block what results are measured by raises RuntimeError: it is code of others."""
    why = "which measures results: submissions may read the labeller and the first CLIP"
    known, kept = f"submission {name}", reserved()
    with keys.allowing(known, READABLE, why, kept), sampling.reserved(kept):
        yield


def blindly(name: str, function: Callable[P, R]) -> Callable[P, R]:
    """A function of a submission that is called within `blind`."""

    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with blind(name):
            return function(*args, **kwargs)

    return called


def edit_of(made: object, name: str, key: Mapping[str, Any]) -> Edit:
    """What a submission's `towards` makes, as an edit that is kept in the store under `key`.

    Raises ValueError, in one line, for what is neither an edit nor a function of (h, step).
    """
    if not callable(made):
        raise ValueError(f"towards of submission {name} must make an edit, got {made!r:.60}")
    edit = made if isinstance(made, Edit) else Edit(_of_h(made))
    if edit.changes_network:
        raise ValueError(f"submission {name} changes the network itself, which no track takes")
    return replace(edit, apply=blindly(name, edit.apply), key=dict(key))


def _of_h(function: Callable[..., Any]) -> Callable[[Tensor, Step], Tensor | None]:
    def apply(h: Tensor, step: Step) -> Tensor | None:
        new = function(h, step)
        if new is not None and not isinstance(new, Tensor):
            raise ValueError(f"an edit must return h or None, got {type(new).__name__}")
        return new

    return apply


def task(
    study: Study, attribute: str, dictionary: KSAE | None, given: Given, images: Tensor
) -> Task:
    """The task of an attribute, from what track 1 is given: h of these recorded images (n,).

    The study is a copy, which has looked at nothing yet.
    """
    return Task(
        given.h,
        given.seed,
        given.options,
        study=replace(study),
        attribute=study.attribute(attribute),
        images=study.recording("learn").images[images].float(),
        labels=study.labels("learn")[attribute][images],
        dictionary=dictionary,
        exchanged=outcome.extremes(study.planted(attribute)),
    )
