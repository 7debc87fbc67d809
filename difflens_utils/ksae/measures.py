"""The error that a k-SAE leaves, and how often its latents fire.

The mean of the data explains nothing of their variation, and the data themselves explain all:

>>> import torch
>>> from difflens_utils import ksae
>>> x = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
>>> ksae.fvu(lambda x: x.mean(0).expand_as(x), [x]), ksae.fvu(lambda x: x, [x])
(1.0, 0.0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .model import KSAE

CHUNK = 8192  # vectors encoded at once by the measures: bounds their memory at CHUNK·D values


@dataclass
class ErrorSums:
    """Running sums over vectors, in float64, from which FVU follows for any mean."""

    n: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # (d,)
    squares: float = 0.0
    errors: float = 0.0

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Adds vectors x and their reconstructions, (n, d) each."""
        wide = x.double()
        self.n += len(x)
        self.total = self.total + wide.sum(0)
        self.squares += wide.square().sum().item()
        self.errors += (wide - x_hat.double()).square().sum().item()

    def spread(self, mean: Tensor) -> float:
        """Σ ‖x − mean‖², for a mean (d,)."""
        return self.squares - 2 * float(mean @ self.total) + self.n * float(mean @ mean)

    def variation(self, where: str = "") -> float:
        """Σ ‖x − mean of all x‖². Raises ValueError if all vectors are the same."""
        variation = self.spread(self.total / self.n)
        # Below the rounding of float64 sums the vectors are the same, and a quotient means nothing.
        if variation <= 1e-12 * self.squares:
            raise ValueError(f"batches hold no variation{where}: FVU is undefined")
        return variation


def chunks(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Tensors (..., d) as chunks (n <= CHUNK, d), not empty. Raises ValueError for no vectors."""
    empty = True
    for batch in batches:
        for chunk in torch.split(batch.reshape(-1, batch.shape[-1]), CHUNK):
            if len(chunk):
                empty = False
                yield chunk
    if empty:
        raise ValueError("batches hold no vectors")


@torch.no_grad()
def fvu(ksae: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> float:
    """Eq. 12, pooled: Σ ‖x − x̂‖² / Σ ‖x − mean‖² over all vectors (..., d), summed in float64.

    `ksae` is anything that maps x (n, d) to x̂ (n, d). Raises ValueError for no vectors, and for
    vectors without variation.
    """
    sums = ErrorSums()
    for x in chunks(batches):
        sums.add(x, ksae(x))
    return sums.errors / sums.variation()


@torch.no_grad()
def density(ksae: KSAE, batches: Iterable[Tensor]) -> Tensor:
    """(D,) float64: the share of vectors (..., d) on which each latent is above 0."""
    fired = torch.zeros(ksae.config.latents, dtype=torch.long)
    count = 0
    for x in chunks(batches):
        values, indices = ksae.encode(x)
        fired += torch.bincount(indices[values > 0], minlength=ksae.config.latents).cpu()
        count += len(x)
    return fired.double() / count
