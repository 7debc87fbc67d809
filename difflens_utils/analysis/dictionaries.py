"""Measures of a dictionary: what it loses, how often its latents fire, how directions overlap.

>>> import torch
>>> from difflens_utils.analysis import dictionaries
>>> directions = torch.eye(4)
>>> dictionaries.matched_cosines(directions, directions.flip(0)).tolist()  # in another order
[1.0, 1.0, 1.0, 1.0]
>>> density = torch.tensor([0.5, 0.25, 0.25, 0.0])  # how often each latent fires
>>> dictionaries.l0(density), dictionaries.dead_share(density)
(1.0, 0.25)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..ksae import KSAE, ErrorSums, chunks
from ..metrics import Array, Estimate, bootstrap_means
from ..runtime.errors import positive


class GroupFVU(NamedTuple):
    """FVU by group (for instance by timestep), against two means."""

    within: dict[Any, float]
    """‖x − x̂‖² / ‖x − mean of the group‖²: how much of the group's own variation is lost."""
    pooled: dict[Any, float]
    """‖x − x̂‖² / ‖x − mean of all‖²: the same error against the spread around the common mean."""
    all: float
    """Eq. 12 over all groups together."""


@torch.no_grad()
def fvu_per_group(
    ksae: Callable[[Tensor], Tensor], groups: Iterable[tuple[Hashable, Tensor]]
) -> GroupFVU:
    """FVU of every group in a stream of (group, vectors (..., d)), in any order, also in pieces.

    `ksae` is anything that maps x (n, d) to x̂ (n, d). Raises ValueError for groups without vectors
    or without variation.
    """
    sums: dict[Hashable, ErrorSums] = {}
    for group, batch in groups:
        for x in chunks([batch]):
            sums.setdefault(group, ErrorSums()).add(x, ksae(x))
    if not sums:
        raise ValueError("batches hold no vectors")
    count = sum(s.n for s in sums.values())
    mean = torch.stack([s.total for s in sums.values()]).sum(0) / count  # (d,)
    within, pooled, common = {}, {}, 0.0
    for group, s in sums.items():
        spread = s.spread(mean)
        common += spread
        within[group] = s.errors / s.variation(f" in group {group!r}")
        pooled[group] = s.errors / spread
    return GroupFVU(within, pooled, sum(s.errors for s in sums.values()) / common)


@torch.no_grad()
def fvu_over_images(ksae: Callable[[Tensor], Tensor], vectors: Tensor) -> Estimate:
    """FVU of vectors (n, P, d), P of each image, with its interval over the images.

    Of the same images the resamples are the same, whatever the k-SAE.
    """
    positions = vectors.shape[1]
    lost = [(x.double() - ksae(x).double()).square().sum(1) for x in chunks([vectors])]
    errors = torch.cat(lost).reshape(len(vectors), positions).sum(1)
    centred = vectors.double() - vectors.double().mean((0, 1))
    squares = centred.square().sum((1, 2))

    def fvu(errors: Array, squares: Array, means: Array) -> Array:
        share: Array = errors / (squares - positions * (means**2).sum(-1))
        return share

    return bootstrap_means(fvu, errors, squares, centred.mean(1))


def l0(density: Tensor) -> float:
    """Mean number of latents above 0 per vector, from their `ksae.density` (D,)."""
    return density.sum().item()


def dead_share(density: Tensor) -> float:
    """Share of latents that never fire, from their `ksae.density` (D,)."""
    return (density == 0).double().mean().item()


@torch.no_grad()
def decoder_cosine(ksae: KSAE, block: int = 1024) -> dict[str, float]:
    """|cos(d_i, d_j)| over all pairs i ≠ j: {"mean", "max"}.

    Computed in blocks of rows, so that (D, D) is never held.
    """
    positive("block", block)
    directions = F.normalize(ksae.W_dec, dim=1)
    total = largest = 0.0
    for start in range(0, len(directions), block):
        cosines = (directions[start : start + block] @ directions.T).abs()  # (block, D)
        cosines[:, start:].fill_diagonal_(0)
        total += cosines.sum(dtype=torch.float64).item()
        largest = max(largest, cosines.max().item())
    pairs = len(directions) * (len(directions) - 1)
    return {"mean": total / max(pairs, 1), "max": largest}


def matched_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of the directions `a` (N, d) with their partners in `b` (M, d), M >= N: (N,).

    They tell whether the same directions are found again. Partners are the one-to-one assignment
    with the largest sum of cosines (the Hungarian method). Raises ValueError for M < N.
    """
    if len(b) < len(a):
        raise ValueError(f"b must hold at least as many directions as a ({len(a)}), got {len(b)}")
    cosines = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[rows, columns]
