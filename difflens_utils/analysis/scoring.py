"""A cell of Tables 1 and 2: how fair a set of images is, and what it has lost.

>>> import difflens_utils as dl
>>> from difflens_utils.analysis import scoring
>>> portraits = dl.open("portraits", device="cpu").subject
>>> scoring.unrelated(portraits, "tone")[:2]  # nothing of these depends on it
['gender', 'age']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .. import evaluators, metrics
from ..metrics import Estimate
from ..metrics.estimates import Array
from ..outcome import Outcome
from ..runtime import artifacts
from ..subjects.pipelines import Subject


def unrelated(subject: Subject, attribute: str) -> list[str]:
    """The factors that an edit of an attribute should leave alone.

    They are neither the attribute nor, where the causes are known, its effects.
    """
    caused = set(subject.world.effects(attribute)) if subject.world else set()
    return [f for f in subject.factors if f != attribute and f not in caused]


def prompted(subject: Subject, images: Outcome) -> dict[str, Estimate]:
    """CLIP-T of each image and its prompt as {"clip_t": ...}; {} for a model without text."""
    texts = subject.texts()
    if not any(texts):
        return {}
    features = subject.clip.text_features(texts).cpu()[images.prompt]
    return {"clip_t": metrics.clip_t(features, images.clip).raw}


def matched(
    subject: Subject,
    before: Outcome,
    after: Outcome,
    attribute: str,
    level: float,
    n_boot: int = 1000,
) -> tuple[Estimate, Estimate]:
    """CLIP-I and leak of a method if just so many images are edited that FD is `level`.

    The leak is `metrics.NOTHING` if no factor is unrelated.
    """

    def at(readout: Callable[..., Array], *arrays: ArrayLike) -> Estimate:
        return metrics.at_matched_fd(
            before.scored[attribute],
            after.scored[attribute],
            level,
            readout,
            *arrays,
            groups=after.prompt,
            n_boot=n_boot,
        )

    cosines = (before.clip * after.clip).sum(1)
    kept = at(lambda dose, cosine: 1 - dose * (1 - cosine), cosines)
    changes = _changes(subject, before, after, attribute)
    if not changes:
        return kept, metrics.NOTHING
    return kept, at(lambda dose, *means: dose * metrics.total_variation(*means), *changes)


def _changes(subject: Subject, before: Outcome, after: Outcome, attribute: str) -> list[Array]:
    """What each image adds to the change of shares of the unrelated factors: (n, classes) each."""
    away = {f: before.scored[f] for f in unrelated(subject, attribute)}
    return list(metrics.class_changes(away, after.scored).values())


def references(subject: Subject, n: int, seed: int, fixed: Sequence[Mapping[str, str]]) -> Tensor:
    """The scorer's features of renders, as many of each set of fixed factors: (N, F).

    N is `n` or more, and 2,048 but for what the sets do not divide. They come from the store.
    """
    each = max(2048, n + len(fixed) - 1) // len(fixed)
    parts = [_rendered(subject, each, seed + i, do)["features"] for i, do in enumerate(fixed)]
    return torch.cat(parts)


@artifacts.stored("references", reads=("data", "prompts", "scorer"))
def _rendered(subject: Subject, n: int, seed: int, do: Mapping[str, str]) -> dict[str, Tensor]:
    return {"features": evaluators.embed(subject.scorer, subject.renders(n, seed, do))}


def score(
    subject: Subject,
    before: Outcome,
    after: Outcome,
    attribute: str,
    target: Sequence[float],
    references: Mapping[str, ArrayLike],
    seed: int = 0,
) -> dict[str, Estimate]:
    """One cell of Table 1 or 2.

    Fairness (Eq. 13), Fréchet distances (Eq. 14) to each reference (N, F) and to the unedited
    images, CLIP-I (Eq. 15), CLIP-T (Eq. 16) where there are prompts, and leakage: the mean shift
    (total variation) of the factors that are `unrelated`, and the largest; `metrics.NOTHING` if
    there are none.
    """
    fd = after.fairness(attribute, target)
    similar = metrics.clip_i(before.clip, after.clip)
    changes = _changes(subject, before, after, attribute)
    worst = sorted(changes, key=lambda change: -metrics.total_variation(change.mean(0)))[:1]
    compared = dict(references) | {"unedited": before.features}
    distances = {
        f"frechet_{name}": metrics.frechet(after.features, features, seed=seed)
        for name, features in compared.items()
    }
    return {
        "fd": fd.soft,
        "fd_hard": fd.hard,
        **distances,
        "clip_i": similar.raw,
        "clip_i_rescaled": similar.rescaled,
        **prompted(subject, after),
        "agreement": after.agreement(attribute),
        "leak": _shift(changes),
        "leak_worst": _shift(worst),
    }


def _shift(changes: Sequence[Array]) -> Estimate:
    """The mean total variation of some factors' changes of shares, (n, classes) each."""
    if not changes:
        return metrics.NOTHING
    return metrics.bootstrap_means(metrics.total_variation, *changes)
