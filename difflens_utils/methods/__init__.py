"""The methods that the book compares: DiffLens, the baselines, and the controls.

A method makes an edit towards a class. It is a module here with a function
`rows(study, attribute)`, and METHODS names them all. `base` and `planning` are no methods: they say
what a method is, and how its edits are mixed. `debiasing` finds the strengths and carries them out.

With a study, `rows(study, attribute)` makes them all. Variants of a method are methods too:

>>> import torch
>>> from difflens_utils import methods
>>> method = methods.pushed("mean difference", [torch.ones(10, 2, 1, 1)], grid=(0.5, 1.0))
>>> method.key, method.asymmetric, methods.symmetric(method).asymmetric
('mean_difference', True, False)
>>> methods.cleanest(method, steps=10).grid
[2.0, 4.0]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from . import finetuning, latent_direction, latent_editing
from .base import (
    DENSE,
    DIRECTION,
    GUIDED,
    SPARSE,
    TUNED,
    Method,
    cleanest,
    in_all_ways,
    key,
    late,
    pushed,
    shifted,
    symmetric,
)
from .dictionary import dictionary_methods, difflens, scaled
from .h_distribution import guided

if TYPE_CHECKING:
    from ..study import Study

METHODS = (
    "latent_editing",
    "h_distribution",
    "latent_direction",
    "finetuning",
    "dictionary",
    "best",
    "dense",
)
CONTROLS = (
    "mean difference",
    "regression direction",
    "random features",
)
ORDER = (  # of the rows of Tables 1 and 2; the controls stand last
    "latent editing",
    "H-Distribution",
    "Act@L",
    "latent direction",
    "finetuning",
    "DiffLens, published",
    "DiffLens",
    "DiffLens, best",
    *CONTROLS,
)


def rows(study: Study, attribute: str) -> list[Method]:
    """The rows of Table 1, and of Table 2 where the model reads prompts; controls last.

    Methods that neither table has stand before the controls.
    """
    found = []
    for name in METHODS:
        found += import_module(f".{name}", __package__).rows(study, attribute)
    new = [method.name for method in found if method.name not in ORDER]
    order = [*ORDER[: -len(CONTROLS)], *new, *CONTROLS]
    return sorted(found, key=lambda method: order.index(method.name))


__all__ = [
    "CONTROLS",
    "DENSE",
    "DIRECTION",
    "GUIDED",
    "METHODS",
    "Method",
    "ORDER",
    "SPARSE",
    "TUNED",
    "cleanest",
    "dictionary_methods",
    "difflens",
    "finetuning",
    "guided",
    "in_all_ways",
    "key",
    "late",
    "latent_direction",
    "latent_editing",
    "pushed",
    "rows",
    "scaled",
    "shifted",
    "symmetric",
]
