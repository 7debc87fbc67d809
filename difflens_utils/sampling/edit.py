"""A change of h at every step of a generation.

>>> import torch
>>> from difflens_utils.sampling import Edit, Step
>>> louder_at_first = Edit(lambda h, step: 2 * h if step.index == 0 else None)
>>> h, images = torch.ones(1, 3, 1, 1), torch.arange(1)
>>> louder_at_first(h, Step(0, 900, images)).flatten().tolist()
[2.0, 2.0, 2.0]
>>> louder_at_first(h, Step(1, 800, images)) is None
True
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """The moment of a generation at which an edit is called."""

    index: int  # 0 is the noisiest step, T - 1 the cleanest
    timestep: float  # training timestep t; that of a flow is no whole number
    rows: Tensor  # (B,) which of the requested images are in this batch
    prompt: Tensor | None = None  # (B,) the number of each image's prompt; None if all have one

    def at(self, chosen: Tensor) -> Step:
        """The same step for the images `chosen` (b,) of the batch."""
        prompt = None if self.prompt is None else self.prompt[chosen.cpu()]
        return replace(self, rows=self.rows[chosen.cpu()], prompt=prompt)


Apply = Callable[[Tensor, Step], Tensor | None]


def _unchanged(_network: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of h at every step of a generation. Call it like a function: `edit(h, step)`.

    h is (B, C, H, W), or (B, tokens, C) in a transformer. The answer has the same shape, or is None
    where nothing changes; the sampler then does exactly what it does without an edit.
    """

    apply: Apply
    key: Any = None
    """Plain values that tell what the edit does; images are stored under them."""
    rows: Tensor | None = None
    """The images of the run that the edit changes, (m,); None: all of them."""
    images: int | None = None
    """The number of images of the runs that the edit is for; None: any number."""
    around: Callable[[nn.Module], AbstractContextManager[None]] = _unchanged
    """A context that holds a change of the network itself, for the symmetric step."""
    moves_batches: bool = False
    """Whether an image's change depends on the batch that it is in."""

    def __call__(self, h: Tensor, step: Step) -> Tensor | None:
        return self.apply(h, step)

    @property
    def changes_network(self) -> bool:
        """Whether the edit changes the network instead of h."""
        return self.around is not _unchanged

    def fingerprint(self) -> Any:
        """What stands for the edit in the key of a result. Raises TypeError if it has no key."""
        if self.key is None:
            raise TypeError("edit has no key: make it with a function of difflens_utils.edits")
        return self.key if self.rows is None else [self.key, self.rows.tolist()]

    def check_run(self, n: int) -> None:
        """Raises ValueError, in one line, unless the edit is for a run of `n` images."""
        if self.images not in (None, n):
            raise ValueError(f"edit is for runs of {self.images} images, got n={n}")
