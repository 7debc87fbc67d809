"""The methods that the book compares, each the same kind of thing: an edit towards a class, at a strength.

A method edits one class at a time. `respond` measures on a tuning seed what each strength does, `planning.mixture` then finds
which edits to mix for a target distribution, and `debias` carries the plan out on other seeds. H-Distribution alone takes the target
itself (`edits.guide`) and needs no plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import attribution, edits, metrics, planning, stages
from .activations import Recording
from .edits import Edit
from .ksae import KSAE, Neurons
from .metrics import Estimate
from .planning import Plan
from .probes import Heads
from .stages import Found, Outcome
from .subjects import Subject


@dataclass(frozen=True)
class Method:
    """`towards(class, strength)` is the edit; strength 0 is the identity, and 1 is one difference between the class and the others."""

    name: str
    towards: Callable[[int, float], Edit]
    asymmetric: bool = True


class Arm(NamedTuple):
    """What one edit did to a set of images: the class shares and mean CLIP-I, and whether both evaluators still agree."""

    target: int  # class, or -1 for no edit
    strength: float
    shares: Tensor  # (classes,)
    similar: Estimate  # CLIP-I to the unedited images
    agreement: Estimate


def dictionary_methods(subject: Subject, sae: KSAE, rec: Recording, found: Found, attribute: str, *, n_features: int, n_support: int,
                       seed: int, steps: int) -> list[Method]:
    """Table 3: latents (S) or neurons (L), picked by attribution or by activation; and latents picked at random.

    All are shifted by the class difference of what they shift, the random ones by that of the features in whose place they stand. "By
    activation" takes what is largest on images of the class.
    """
    neurons, classes, counts = Neurons(sae.config.width), range(len(subject.classes(attribute))), found.counts[attribute]
    sizes, labels = {attribute: len(classes)}, {attribute: found.labels[attribute]}
    by_latent, by_neuron = (stages.class_means(rec, d, labels, sizes)[attribute] for d in (sae, neurons))  # (classes, T, P, D)
    gaps = found.gaps[attribute], [stages.contrast(by_neuron, c, counts) for c in classes]
    slope = attribution.through_image(subject, neurons, (attribute,), n_support, seed + 10, steps)[attribute].slope

    features = found.features[attribute]
    random = [edits.random_features(features[c], found.density, seed, torch.cat(features)) for c in classes]
    active = [[means[c].abs().mean((0, 1)).topk(n_features).indices for c in classes] for means in (by_latent, by_neuron)]
    attributed = [attribution.select(attribution.towards(slope[c], gaps[1][c]), n_features) for c in classes]

    def shifted(name: str, dictionary: KSAE | Neurons, chosen: list[Tensor], gap: list[Tensor], measured_on: list[Tensor]) -> Method:
        return Method(name, lambda c, strength: edits.steer(dictionary, chosen[c], strength, "add", gap[c][..., measured_on[c]]))

    return [shifted("DiffLens", sae, features, gaps[0], features),
            shifted("Act@S", sae, active[0], gaps[0], active[0]),
            shifted("Attr@L", neurons, attributed, gaps[1], attributed),
            shifted("Act@L", neurons, active[1], gaps[1], active[1]),
            shifted("random features", sae, random, gaps[0], features)]


def dense_methods(rec: Recording, found: Found, heads: Heads, learned: Tensor, attribute: str) -> list[Method]:
    """Edits that add one vector to all of h: the mean difference, the h-classifier's direction, and what latent editing learned.

    The latter two are scaled, per timestep, to the length of the mean difference, so that strengths mean the same.
    """
    labels = found.labels[attribute]
    difference = [stages.mean_difference(rec, labels == c) for c in range(len(heads.weight[0]))]

    def like(direction: Tensor, c: int) -> Tensor:
        length = difference[c].flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1).clamp_min(1e-12)
        return direction * length.reshape(-1, *[1] * (direction.ndim - 1))

    def head(c: int) -> Tensor:  # (T, *h): towards class c, away from the mean of the classes
        return heads.weight[:, c] - heads.weight.mean(1)

    return [Method("mean difference", lambda c, strength: edits.push(difference[c], strength)),
            Method("h-classifier direction", lambda c, strength: edits.push(like(head(c), c), strength)),
            Method("latent editing", lambda c, strength: edits.push(like(learned[c], c), strength))]


def respond(subject: Subject, method: Method, attribute: str, strengths: Mapping[int, Sequence[float]], *, n: int, seed: int,
            steps: int) -> list[Arm]:
    """What a method does to `n` images at each strength, per class of `strengths`; the first arm is no edit."""
    plain = stages.judge(subject, stages.generate(subject, None, n, seed, steps))
    arms = [arm(plain, plain, attribute, -1, 0.0)]
    for c, grid in strengths.items():
        for strength in grid:
            images = stages.generate(subject, method.towards(c, strength), n, seed, steps, asymmetric=method.asymmetric,
                                     progress=f"{method.name}: {subject.classes(attribute)[c]}, {strength:g}")
            arms.append(arm(plain, stages.judge(subject, images), attribute, c, strength))
    return arms


def arm(plain: Outcome, edited: Outcome, attribute: str, target: int, strength: float) -> Arm:
    return Arm(target, strength, torch.from_numpy(metrics.shares(edited.scored[attribute])), metrics.clip_i(plain.clip, edited.clip).raw,
               edited.agreement(attribute))


def plan(arms: Sequence[Arm], target: Sequence[float], least_agreement: float = 0.9) -> Plan:
    """The mixture of arms that comes nearest to `target` at the least loss of CLIP-I.

    Arms on which the two evaluators agree on less than `least_agreement` of the images are left out: washed-out images
    fool one evaluator. No edit always stays.
    """
    kept = [a.target < 0 or a.agreement.value >= least_agreement for a in arms]
    usable = [a for a, keep in zip(arms, kept, strict=True) if keep]
    found = planning.mixture(torch.stack([a.shares for a in usable]), [1 - a.similar.value for a in usable], target)
    weights = torch.zeros(len(arms), dtype=torch.float64)
    weights[torch.tensor(kept)] = torch.from_numpy(found.weights)
    return Plan(weights.numpy(), found.expected, found.cost)


def debias(method: Method, arms: Sequence[Arm], planned: Plan, n: int, seed: int) -> Edit:
    """The edit that carries a plan out on n images: each draws its arm."""
    drawn = edits.draw_classes(n, planned.weights.tolist(), seed)
    used = [i for i, a in enumerate(arms) if a.target >= 0 and planned.weights[i] > 0]
    return edits.per_image({i: method.towards(arms[i].target, arms[i].strength) for i in used}, drawn)
