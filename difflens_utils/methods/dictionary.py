"""DiffLens and its parts: other units, other pickers, random directions and latents (Table 3).

Neurons stand in for a k-SAE here. Towards class 1, neuron 0 is moved by twice its class difference:

>>> import torch
>>> from difflens_utils import features, ksae, methods, sampling
>>> chosen = {"gender": [torch.tensor([1]), torch.tensor([0])]}  # per class
>>> gaps = {"gender": [torch.zeros(1, 1, 2), torch.tensor([[[5.0, 7.0]]])]}  # (T, P, D)
>>> found = features.BiasFeatures(ksae.Neurons(2), chosen, gaps, {}, {}, torch.ones(2), {}, dict)
>>> edit = methods.difflens(found, "gender").towards(1, 2.0)
>>> edit(torch.zeros(1, 2, 1, 1), sampling.Step(0, 900, torch.arange(1))).flatten().tolist()
[10.0, 0.0]
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from torch import Tensor

from .. import attribution, edits, features
from ..features import BiasFeatures
from ..ksae import Neurons
from ..sampling import Edit
from .base import SCALES, Method, shifted

if TYPE_CHECKING:
    from ..study import Study


def rows(study: Study, attribute: str) -> list[Method]:
    """Act@L (the paper's *Activation*), DiffLens twice, and random features as its control.

    DiffLens as published comes before that of this book.
    """
    by_name = {method.name: method for method in dictionary_methods(study, attribute)}
    by_name["DiffLens, published"] = published(study, attribute)
    names = ("Act@L", "DiffLens, published", "DiffLens", "random features")
    return [by_name[name] for name in names]


def published(study: Study, attribute: str, n: int = 30) -> Method:
    """DiffLens as it was published: every choice is the paper's.

    The latents of a class are the `n` with the largest integrated gradients from zero of the
    h-classifier's probability (Eq. 6). They are scaled, s_j <- (1 + strength) s_j (Eq. 7), in the
    asymmetric step (Eq. 11). Every class is asked for equally often, at one strength (Appendix B).
    """
    scores = study.through_head(attribute).scores  # (classes, D)
    chosen = [attribution.select(row, n) for row in scores]
    sae = study.ksae()

    def towards(c: int, strength: float) -> Edit:
        return edits.steer(sae, chosen[c], 1 + strength) if len(chosen[c]) else edits.identity()

    return Method("DiffLens, published", towards, SCALES, equal=True)


def difflens(found: BiasFeatures, attribute: str, name: str = "DiffLens") -> Method:
    """DiffLens: the bias features of a class are moved by the class difference."""
    return shifted(
        name, found.ksae, found.features[attribute], found.gaps[attribute], recipe=found.recipe
    )


def scaled(found: BiasFeatures, attribute: str, name: str = "scale") -> Method:
    """The paper's intervention: s_j <- (1 + strength) s_j for the latents the class has more of.

    The others are turned down.
    """

    def towards(c: int, strength: float) -> Edit:
        latents = found.features[attribute][c]
        more = found.gaps[attribute][c].sum((0, 1))[latents] > 0
        halves = (latents[more], 1 + strength), (latents[~more], max(0.0, 1 - strength))
        return edits.compose(
            *[edits.steer(found.ksae, part, beta) for part, beta in halves if len(part)]
        )

    return Method(name, towards, recipe=found.recipe)


def dictionary_methods(study: Study, attribute: str) -> list[Method]:
    """Table 3: latents (S) or neurons (L), by attribution or by activation; and two controls.

    All are shifted by the class difference of what they shift, random latents by that of the
    features in whose place they stand. "By activation" takes what is largest on images of the
    class. "Random decoder" is DiffLens with a dictionary whose directions were never trained.
    """
    found, n = study.features(), study.settings.n_features
    neurons = Neurons(found.ksae.config.width)
    classes = range(len(found.features[attribute]))
    by_latent = study.class_means(found.ksae, attribute)  # (classes, T, P, D)
    by_neuron = study.class_means(neurons, attribute)
    gaps = [features.contrast(by_neuron, c, found.counts[attribute]) for c in classes]
    chosen = found.features[attribute]
    random = [found.random(attribute, c, study.seeds.main) for c in classes]

    @cache
    def attributed() -> list[Tensor]:
        slope = study.attribution(neurons, (attribute,))[attribute].slope
        scores = [attribution.towards(slope[c], gaps[c]) for c in classes]
        return [attribution.select(s, n) for s in scores]

    def attr_at_l(c: int, strength: float) -> Edit:
        return shifted("", neurons, attributed(), gaps).towards(c, strength)

    return [
        difflens(found, attribute),
        shifted("Act@S", found.ksae, _most_active(by_latent, n), found.gaps[attribute]),
        Method("Attr@L", attr_at_l),
        shifted("Act@L", neurons, _most_active(by_neuron, n), gaps),
        _random_decoder(study, attribute),
        shifted("random features", found.ksae, random, found.gaps[attribute], measured_on=chosen),
    ]


def _random_decoder(study: Study, attribute: str) -> Method:
    """DiffLens with a k-SAE of random directions, which is trained once an edit is asked for."""

    @cache
    def found() -> Method:
        return difflens(study.features(random_decoder=True), attribute)

    recipe = {"random_decoder": True}
    return Method("random decoder", lambda c, b: found().towards(c, b), recipe=recipe)


def _most_active(means: Tensor, n: int) -> list[Tensor]:
    """Per class the units with the largest mean activation (classes, T, P, D): (n,) each."""
    strength = [m.abs().mean((0, 1)) for m in means]
    return [row.topk(min(n, len(row))).indices for row in strength]
