"""h of images whose factors are known and independent: what does a unit track?

The first unit is higher in images of women, and the second in images with glasses:

>>> import torch
>>> from difflens_utils.analysis import factors
>>> response = [[9, 1], [8, 7], [2, 2], [1, 8]]  # (n, U)
>>> labels = {"gender": torch.tensor([0, 0, 1, 1]), "glasses": torch.tensor([0, 1, 0, 1])}
>>> classes = {"gender": ("female", "male"), "glasses": ("absent", "present")}
>>> [tracked[:2] for tracked in factors.best_factor(response, labels, classes)]
[('gender', 'female'), ('glasses', 'present')]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .. import metrics, sampling
from ..settings import Seeds
from ..subjects.pipelines import Subject
from ..worlds import Scenes

BATCH = 128


class FactorSet(NamedTuple):
    """h with known factors."""

    h: Tensor  # (S, n, *h) at S timesteps
    labels: dict[str, Tensor]  # {factor: (n,)}
    timesteps: tuple[int, ...]


def factor_labels(subject: Subject, n: int, seed: int) -> Scenes:
    """The images of `factor_set` before they are drawn: every factor uniform and independent."""
    return subject.data.sample(n, Seeds.of(seed).factors, balanced=True)


def factor_set(subject: Subject, n: int, seed: int, timesteps: tuple[int, ...]) -> FactorSet:
    """h of images in which every factor is uniform and independent, at chosen noise levels.

    Renders are noised to each timestep (Eq. 1) and passed through the network up to the module,
    with a prompt that names no attribute. No two factors are correlated here, so a unit that
    answers to two factors does so itself and not because the world ties them together.
    """
    scenes = factor_labels(subject, n, seed)
    chunks = [scenes[slice(i, i + BATCH)] for i in range(0, n, BATCH)]
    with torch.no_grad():
        renders = [subject.data.render(chunk, subject.size) for chunk in chunks]
        clean = [subject.encode(images.to(subject.device)) for images in renders]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *subject.shape, generator=generator).to(subject.device)
    batches = list(zip(clean, noise.split(BATCH), map(subject.describe, chunks), strict=True))
    layers = []
    for t in timesteps:
        alpha = subject.scheduler.alphas_cumprod[t]
        h = [
            sampling.activation(subject, alpha.sqrt() * x + (1 - alpha).sqrt() * z, t, texts)
            for x, z, texts in batches
        ]
        layers.append(torch.cat([part.float().cpu() for part in h]))
    return FactorSet(torch.stack(layers), scenes.labels, timesteps)


class Tracked(NamedTuple):
    """The class that a unit tells best from the rest."""

    factor: str
    name: str
    auroc: float


def best_factor(
    response: ArrayLike, labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> list[Tracked]:
    """For each unit of `response` (n, U) the class that it tells best from the rest."""
    names = [(factor, name) for factor in labels for name in classes[factor]]
    columns = [y == c for factor, y in labels.items() for c in range(len(classes[factor]))]
    scores = metrics.auroc(response, torch.stack(columns, 1).numpy())  # (U, classes)
    best = scores.argmax(1)
    return [
        Tracked(factor, name, float(score))
        for (factor, name), score in zip([names[b] for b in best], scores.max(1), strict=True)
    ]
