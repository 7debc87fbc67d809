"""The methods that the book compares, each the same kind of thing: an edit towards a class.

`debiasing` finds the strengths and carries them out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import attribution, edits, features, finetuning, latent_direction, latent_editing
from .edits import Edit
from .features import BiasFeatures
from .ksae import Dictionary, Neurons
from .probes import Heads

if TYPE_CHECKING:
    from .study import Study

# Strengths that searches try. 1 is one difference between the class and the others.
SPARSE = (0.5, 1.0, 2.0, 3.0, 4.0)
DENSE = (0.125, 0.25, 0.5, 1.0, 1.5)
GUIDED = (125.0, 250.0, 500.0, 1e3, 2e3, 4e3, 8e3, 1.6e4)
DIRECTION = (0.5, 1.0, 1.5, 2.0, 3.0)
TUNED = (0.25, 0.5, 0.75, 1.0, 1.25)
ORDER = (  # of the rows of Tables 1 and 2; the controls stand last
    "latent editing",
    "H-Distribution",
    "Act@L",
    "latent direction",
    "finetuning",
    "DiffLens",
    "mean difference",
    "h-classifier direction",
    "random features",
)
CONTROLS = ORDER[-3:]


@dataclass(frozen=True)
class Method:
    """`towards(class, strength)` is the edit; strength 0 is the identity."""

    name: str
    towards: Callable[[int, float], Edit] = field(repr=False)
    grid: Sequence[float] = SPARSE
    """Strengths to search."""
    asymmetric: bool = True
    """Whether only the predicted clean image feels the edit (Eq. 11)."""
    whole: bool = False
    """Whether it takes a distribution and moves the set towards it as one, whatever the class."""
    network: bool = False
    """Whether it changes the network itself, with one strength for all prompts."""
    recipe: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Settings that it was made with and that differ from the study's."""

    @property
    def key(self) -> str:
        """The name in records and paths: act_at_l for Act@L."""
        return re.sub(r"\W+", "_", self.name.lower().replace("@", " at "))


def rows(study: Study, attribute: str) -> list[Method]:
    """The rows of Table 1, and of Table 2 where the model reads prompts; controls last."""
    found = [*distribution_methods(study, attribute), *dense_methods(study, attribute)]
    found += [*text_methods(study, attribute), *dictionary_methods(study, attribute)]
    by_name = {method.name: method for method in found}
    return [by_name[name] for name in ORDER if name in by_name]


def shifted(
    name: str,
    dictionary: Dictionary,
    chosen: Sequence[Tensor],
    gaps: Sequence[Tensor],
    *,
    measured_on: Sequence[Tensor] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> Method:
    """Per class, add to the `chosen` latents (N,) the class difference `gaps` (T, P, D).

    It is that of other latents if `measured_on` names them. Towards a class without latents the
    edit is the identity.
    """
    places = chosen if measured_on is None else measured_on

    def towards(c: int, strength: float) -> Edit:
        if not len(chosen[c]):
            return edits.identity()
        return edits.steer(dictionary, chosen[c], strength, "add", gaps[c][..., places[c]])

    return Method(name, towards, recipe=recipe or {})


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
    """Table 3: latents (S) or neurons (L), by attribution or by activation; and random latents.

    All are shifted by the class difference of what they shift, the random ones by that of the
    features in whose place they stand. "By activation" takes what is largest on images of the
    class.
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
        shifted("random features", found.ksae, random, found.gaps[attribute], measured_on=chosen),
    ]


def _most_active(means: Tensor, n: int) -> list[Tensor]:
    """Per class the units with the largest mean activation (classes, T, P, D): (n,) each."""
    strength = [m.abs().mean((0, 1)) for m in means]
    return [row.topk(min(n, len(row))).indices for row in strength]


def dense_methods(study: Study, attribute: str) -> list[Method]:
    """Edits that add one vector to all of h.

    They are the mean difference, the h-classifier's direction, and what latent editing learned. The
    latter two are scaled, per timestep, to the length of the mean difference, so that strengths
    mean the same.
    """
    rec = study.recording("learn")
    labels = study.features().labels[attribute]
    heads = study.heads()[attribute]
    classes = range(heads.weight.shape[1])
    difference = [features.mean_difference(rec, labels == c) for c in classes]
    steps = study.settings.steps
    learned = latent_editing.learn(study.subject, attribute, steps)
    toward = [heads.weight[:, c] - heads.weight.mean(1) for c in classes]  # (T, *h) each
    heads_like = [_of_length(toward[c], difference[c]) for c in classes]
    learned_like = [_of_length(learned[c], difference[c]) for c in classes]
    return [
        pushed("mean difference", difference),
        pushed("h-classifier direction", heads_like),
        pushed("latent editing", learned_like),
    ]


def pushed(
    name: str, directions: Sequence[Tensor], grid: Sequence[float] = DENSE, asymmetric: bool = True
) -> Method:
    """Per class, add a dense direction (T, *h)."""
    return Method(name, lambda c, strength: edits.push(directions[c], strength), grid, asymmetric)


def _of_length(direction: Tensor, like: Tensor) -> Tensor:
    """A direction (T, *h), scaled per timestep to the length of another."""
    norms = direction.flatten(1).norm(dim=1).clamp_min(1e-12)
    length = like.flatten(1).norm(dim=1) / norms
    return direction * length.reshape(-1, *[1] * (direction.ndim - 1))


def distribution_methods(study: Study, attribute: str) -> list[Method]:
    """H-Distribution towards equal shares of the classes."""
    return [guided(study.heads()[attribute], study.attribute(attribute).uniform)]


def guided(heads: Heads, target: Sequence[float], name: str = "H-Distribution") -> Method:
    """H-Distribution: the symmetric step, and the distribution itself as the aim."""
    return Method(
        name,
        lambda _class, strength: edits.guide(heads, target, strength),
        GUIDED,
        asymmetric=False,
        whole=True,
    )


def text_methods(study: Study, attribute: str) -> list[Method]:
    """What only models that read prompts (texts, or names of classes) have (Table 2).

    Finetuning, for all attributes at once, and latent direction where the prompts name the classes
    of every attribute. Empty for other models.
    """
    subject, steps = study.subject, study.settings.steps
    if not any(subject.texts()):
        return []
    fair = {str(a): a.uniform for a in study.attributes}
    change = finetuning.learn(subject, fair, steps)
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
    vectors = latent_direction.learn(subject, attribute, steps)
    along = vectors[:, None].expand(-1, steps, *vectors.shape[1:])  # the same at every timestep
    return [pushed("latent direction", list(along), DIRECTION, False), finetuned]
