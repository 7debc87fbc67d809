"""The methods that the book compares, each the same kind of thing: an edit towards a class, at a strength.

`debiasing` finds the strengths and carries them out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from . import attribution, edits, finetuning, latent_direction, stages
from .activations import Recording
from .edits import Edit
from .ksae import KSAE, Neurons
from .probes import Heads
from .stages import Found
from .pipelines import Subject

SPARSE, DENSE, GUIDED = (
    (0.5, 1.0, 2.0, 3.0, 4.0),
    (0.125, 0.25, 0.5, 1.0, 1.5),
    (125.0, 250.0, 500.0, 1e3, 2e3, 4e3, 8e3, 1.6e4),
)
DIRECTION, TUNED = (0.5, 1.0, 1.5, 2.0, 3.0), (0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Method:
    """`towards(class, strength)` is the edit; strength 0 is the identity, and 1 is one difference between the class and the others.

    `whole` methods take a distribution and move the set towards it as one, whatever the class; those that change the `network` itself
    have one strength for all prompts.
    """

    name: str
    towards: Callable[[int, float], Edit]
    grid: Sequence[float] = SPARSE  # strengths to search
    asymmetric: bool = True
    whole: bool = False
    network: bool = False

    @property
    def key(self) -> str:
        """The name in records and paths: act_at_l for Act@L."""
        return re.sub(r"\W+", "_", self.name.lower().replace("@", " at "))


def shifted(
    name: str,
    dictionary: KSAE | Neurons,
    chosen: Sequence[Tensor],
    gaps: Sequence[Tensor],
    *,
    measured_on: Sequence[Tensor] | None = None,
    asymmetric: bool = True,
) -> Method:
    """Per class, add to the `chosen` latents (N,) the class difference `gaps` (T, P, D).

    It is that of other latents if `measured_on` names them. Towards a class without latents the edit is the identity.
    """
    on = chosen if measured_on is None else measured_on

    def towards(c: int, strength: float) -> Edit:
        if not len(chosen[c]):
            return edits.compose()
        return edits.steer(dictionary, chosen[c], strength, "add", gaps[c][..., on[c]])

    return Method(name, towards, asymmetric=asymmetric)


def scaled(name: str, sae: KSAE, chosen: Sequence[Tensor], gaps: Sequence[Tensor]) -> Method:
    """The paper's intervention: s_j <- (1 + strength) s_j for the latents of which the class has more; the others are turned down."""

    def towards(c: int, strength: float) -> Edit:
        more = gaps[c].sum((0, 1))[chosen[c]] > 0
        halves = (chosen[c][more], 1 + strength), (chosen[c][~more], max(0.0, 1 - strength))
        return edits.compose(
            *[edits.steer(sae, latents, beta) for latents, beta in halves if len(latents)]
        )

    return Method(name, towards)


def dictionary_methods(
    subject: Subject,
    sae: KSAE,
    rec: Recording,
    found: Found,
    attribute: str,
    *,
    n_features: int,
    n_support: int,
    seed: int,
    steps: int,
) -> list[Method]:
    """Table 3: latents (S) or neurons (L), picked by attribution or by activation; and latents picked at random.

    All are shifted by the class difference of what they shift, the random ones by that of the features in whose place they stand. "By
    activation" takes what is largest on images of the class.
    """
    neurons, classes, counts = (
        Neurons(sae.config.width),
        range(len(subject.classes(attribute))),
        found.counts[attribute],
    )
    sizes, labels = {attribute: len(classes)}, {attribute: found.labels[attribute]}
    by_latent, by_neuron = (
        stages.class_means(rec, d, labels, sizes)[attribute] for d in (sae, neurons)
    )  # (classes, T, P, D)
    gaps = found.gaps[attribute], [stages.contrast(by_neuron, c, counts) for c in classes]

    features = found.features[attribute]
    random = [
        edits.random_features(features[c], found.density, seed, torch.cat(features))
        for c in classes
    ]
    active = [
        [
            means[c].abs().mean((0, 1)).topk(min(n_features, means.shape[-1])).indices
            for c in classes
        ]
        for means in (by_latent, by_neuron)
    ]

    @cache
    def attributed() -> list[Tensor]:
        slope = attribution.through_image(
            subject, neurons, (attribute,), n_support, seed + 10, steps
        )[attribute].slope
        return [
            attribution.select(attribution.towards(slope[c], gaps[1][c]), n_features)
            for c in classes
        ]

    return [
        shifted("DiffLens", sae, features, gaps[0]),
        shifted("Act@S", sae, active[0], gaps[0]),
        Method(
            "Attr@L",
            lambda c, strength: shifted("", neurons, attributed(), gaps[1]).towards(c, strength),
        ),
        shifted("Act@L", neurons, active[1], gaps[1]),
        shifted("random features", sae, random, gaps[0], measured_on=features),
    ]


def dense_methods(
    rec: Recording, found: Found, heads: Heads, learned: Tensor, attribute: str
) -> list[Method]:
    """Edits that add one vector to all of h: the mean difference, the h-classifier's direction, and what latent editing learned.

    The latter two are scaled, per timestep, to the length of the mean difference, so that strengths mean the same.
    """
    labels = found.labels[attribute]
    difference = [stages.mean_difference(rec, labels == c) for c in range(len(heads.weight[0]))]

    def like(direction: Tensor, c: int) -> Tensor:
        length = difference[c].flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1).clamp_min(
            1e-12
        )
        return direction * length.reshape(-1, *[1] * (direction.ndim - 1))

    def head(c: int) -> Tensor:  # (T, *h): towards class c, away from the mean of the classes
        return heads.weight[:, c] - heads.weight.mean(1)

    return [
        Method("mean difference", lambda c, strength: edits.push(difference[c], strength), DENSE),
        Method(
            "h-classifier direction",
            lambda c, strength: edits.push(like(head(c), c), strength),
            DENSE,
        ),
        Method(
            "latent editing", lambda c, strength: edits.push(like(learned[c], c), strength), DENSE
        ),
    ]


def guided(heads: Heads, target: Sequence[float]) -> Method:
    """H-Distribution: the symmetric step, and the distribution itself as the aim."""
    return Method(
        "H-Distribution",
        lambda _class, strength: edits.guide(heads, target, strength),
        GUIDED,
        asymmetric=False,
        whole=True,
    )


def text_methods(subject: Subject, attribute: str, steps: int) -> list[Method]:
    """What only models that read prompts (texts, or names of classes) have (Table 2); none for others.

    Latent direction, where the prompts name the classes of every attribute, and finetuning for all
    attributes at once.
    """
    if not any(subject.texts()):
        return []
    fair = {a: [1 / len(subject.classes(a))] * len(subject.classes(a)) for a in subject.attributes}
    change = finetuning.learn(subject, fair, steps=steps, **finetuning.RECIPE)
    finetuned = Method(
        "finetuning",
        lambda _class, strength: edits.adapt(change, strength),
        TUNED,
        asymmetric=False,
        whole=True,
        network=True,
    )
    if not all(latent_direction.learnable(subject, a) for a in subject.attributes):
        return [finetuned]
    vectors = latent_direction.learn(subject, attribute, steps=steps, **latent_direction.RECIPE)
    along = vectors[:, None].expand(-1, steps, *vectors.shape[1:])
    return [
        Method(
            "latent direction",
            lambda c, strength: edits.push(along[c], strength),
            DIRECTION,
            asymmetric=False,
        ),
        finetuned,
    ]
