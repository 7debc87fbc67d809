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

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import RidgeCV
from torch import Tensor

from .. import metrics, sampling
from ..ksae import Dictionary, map_to_vectors
from ..metrics import Array
from ..settings import Seeds
from ..subjects.pipelines import Subject
from ..worlds import Scenes

BATCH = 128
PLACES = (0.3, 0.5, 0.7, 0.9)  # of a generation, from noise to image, at which units are asked
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of a linear reader, in mean squared lengths of h


class FactorSet(NamedTuple):
    """h with known factors."""

    h: Tensor  # (S, n, *h) at S timesteps
    labels: dict[str, Tensor]  # {factor: (n,)}
    timesteps: tuple[float, ...]


def steps_of(steps: int) -> list[int]:
    """The steps of a generation at which units are asked, from the noisiest of them."""
    return [int(place * (steps - 1)) for place in PLACES]


def factor_labels(subject: Subject, n: int, seed: int) -> Scenes:
    """The images of `factor_set` before they are drawn: every factor uniform and independent."""
    return subject.data.sample(n, Seeds.of(seed).factors, balanced=True)


def factor_set(subject: Subject, n: int, seed: int, timesteps: tuple[float, ...]) -> FactorSet:
    """h of images in which every factor is uniform and independent, at chosen noise levels.

    Renders are noised to each timestep (Eq. 1) and passed through the network up to the module,
    with a prompt that names no attribute. No two factors are correlated here, so a unit that
    answers to two factors does so itself and not because the world ties them together.
    """
    return noised(subject, factor_labels(subject, n, seed), seed, timesteps)


def noised(subject: Subject, scenes: Scenes, seed: int, timesteps: tuple[float, ...]) -> FactorSet:
    """h of any scenes of the subject's world, noised to some timesteps by noise of a seed."""
    n = len(scenes)
    chunks = [scenes[slice(i, i + BATCH)] for i in range(0, n, BATCH)]
    with torch.no_grad():
        renders = [subject.data.render(chunk, subject.size) for chunk in chunks]
        clean = [subject.encode(images.to(subject.device)) for images in renders]
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *subject.shape, generator=generator).to(subject.device)
    batches = list(zip(clean, noise.split(BATCH), map(subject.describe, chunks), strict=True))
    layers = []
    for t in timesteps:
        keep, spread = subject.level(t)
        h = [
            sampling.activation(subject, keep * x + spread * z, t, texts) for x, z, texts in batches
        ]
        layers.append(torch.cat([part.float().cpu() for part in h]))
    return FactorSet(torch.stack(layers), scenes.labels, timesteps)


@torch.no_grad()
def responses(dictionary: Dictionary, probe: FactorSet) -> Array:
    """What each unit of a dictionary answers, on average over positions and timesteps: (n, U)."""
    layers = [dictionary.latents(map_to_vectors(h)).mean(1) for h in probe.h]
    mean: Array = torch.stack(layers).mean(0).numpy()
    return mean


class Tracked(NamedTuple):
    """The class that a unit tells best from the rest."""

    factor: str
    name: str
    auroc: float


def best_factor(
    response: ArrayLike, labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> list[Tracked]:
    """For each unit of `response` (n, U) the class that it tells best from the rest."""
    names, scores = _aurocs(response, labels, classes)
    best = [names[number] for number in scores.argmax(1)]
    return [
        Tracked(factor, name, float(score))
        for (factor, name), score in zip(best, scores.max(1), strict=True)
    ]


def told(
    response: ArrayLike, labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> dict[str, Array]:
    """How well each unit of `response` (n, U) tells each factor: {factor: (U,)}.

    It is the AUROC of the class of the factor that the unit tells best from the rest.
    """
    names, scores = _aurocs(response, labels, classes)
    return {factor: scores[:, _own(factor, names)].max(1) for factor in labels}


def read_linearly(probe: FactorSet, classes: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """How well a linear function of all of h tells each factor: {factor: AUROC}.

    It is that of the class and the timestep where it is best, on every fourth image, which the
    function (ridge regression) was not fitted to. `metrics.NAN` for a factor without a class that
    both kinds of images have and lack.
    """
    names, columns = _columns(probe.labels, classes)
    out = np.arange(len(columns)) % 4 == 3
    both = [columns[rows].any(0) & ~columns[rows].all(0) for rows in (out, ~out)]
    told = np.flatnonzero(both[0] & both[1])
    best = np.full(len(names), np.nan)
    for h in probe.h.flatten(2).double().numpy():
        centred = h - h[~out].mean(0)
        size = (centred[~out] ** 2).sum(1).mean()
        ridge = RidgeCV(alphas=[size * share for share in PENALTIES])
        ridge.fit(centred[~out], columns[~out].astype(float))
        scores = ridge.predict(centred[out])
        for j in told:
            area = metrics.auroc(scores[:, [j]], columns[out, j])[0]
            best[j] = np.fmax(best[j], area)
    found = {factor: best[_own(factor, names)] for factor in probe.labels}
    return {
        factor: float(np.nanmax(areas)) if np.isfinite(areas).any() else metrics.NAN
        for factor, areas in found.items()
    }


Names = list[tuple[str, str]]  # factors and their classes


def _own(factor: str, names: Names) -> list[int]:
    """The numbers of a factor's classes."""
    return [number for number, name in enumerate(names) if name[0] == factor]


def _columns(
    labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> tuple[Names, NDArray[np.bool_]]:
    """Every class of every factor, and whether each image is of it: (n, classes)."""
    names = [(factor, name) for factor in labels for name in classes[factor]]
    columns = [y == c for factor, y in labels.items() for c in range(len(classes[factor]))]
    return names, torch.stack(columns, 1).numpy()


def _aurocs(
    response: ArrayLike, labels: Mapping[str, Tensor], classes: Mapping[str, tuple[str, ...]]
) -> tuple[Names, Array]:
    """Every class of every factor, and how well each unit tells it from the rest: (U, classes)."""
    names, columns = _columns(labels, classes)
    return names, metrics.auroc(response, columns)
