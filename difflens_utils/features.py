"""Bias features: the latents that cause a class, and what is needed to steer with them.

Attribution through the picture, with the other classes as the baseline, proposes candidates
(Eq. 6). Each candidate is then moved alone, and stays if it makes the class likelier.

The mean is 6 in class 0. Of the other images 10 have a mean of 1 and 30 a mean of 3, which makes
a mean of 2.5 for all 40 others:

>>> import torch
>>> from difflens_utils import features
>>> means = torch.tensor([6.0, 1.0, 3.0]).reshape(3, 1, 1, 1)  # (classes, T, P, D)
>>> features.contrast(means, target=0, counts=torch.tensor([8, 10, 30])).item()
3.5
>>> features.deciding_steps(10)
(4, 5)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from . import attribution, evaluators, ksae
from .attribution import Aim, Attribution, Support, Trial
from .ksae import KSAE, Dictionary
from .probes import Heads
from .recording import Recording
from .runtime import artifacts
from .settings import Seeds, Settings
from .subjects.pipelines import Subject

FINDING = ("n_support", "n_measured", "n_features", "max_density")  # settings


@artifacts.stored("class_means")
def class_means(
    rec: Recording,
    sae: Dictionary,
    labels: Mapping[str, Tensor],
    classes: Mapping[str, int],
) -> dict[str, Tensor]:
    """Mean latents of each class's images: {attribute: (classes, T, P, D)}; from the store."""
    weights = {a: one_hot(y, classes[a]).float() for a, y in labels.items()}  # (n, classes)
    weights = {a: w / w.sum(0).clamp_min(1) for a, w in weights.items()}
    means: dict[str, list[Tensor]] = {a: [] for a in labels}
    chunks = [slice(i, i + 256) for i in range(0, len(rec), 256)]
    for step in range(rec.h.shape[1]):
        summed = dict.fromkeys(labels, torch.zeros(()))
        for chunk in chunks:
            s = sae.latents(ksae.map_to_vectors(rec.at(step, chunk)))  # (256, P, D)
            for a, w in weights.items():
                summed[a] = summed[a] + (w[chunk].T @ s.flatten(1)).reshape(-1, *s.shape[1:])
        for a, mean in summed.items():
            means[a].append(mean)
    return {a: torch.stack(m, 1) for a, m in means.items()}


def contrast(means: Tensor, target: int, counts: Tensor) -> Tensor:
    """How far a class's mean latents (classes, T, P, D) lie from all other images': (T, P, D).

    It is zero where one of the two sides has no images: the difference is unknown then.
    """
    others = [c for c in range(len(means)) if c != target and counts[c] > 0]
    if not others or counts[target] == 0:
        return torch.zeros_like(means[target])
    weight = counts[others].float() / counts[others].sum()
    return means[target] - torch.einsum("c,c...->...", weight, means[others])


def partial_weights(labels: Tensor, classes: int, others: Sequence[Tensor]) -> Tensor:
    """Weights of images with which a sum becomes a class difference at equal other factors.

    (n, classes): the least-squares coefficient of each class less the mean of the others', in a
    linear model of the classes and of `others`, labels (n,) of factors each. So a class is not
    credited with what merely comes with it. A class without images has weights of zero.
    """
    columns = [one_hot(labels, classes), *(one_hot(y)[:, 1:] for y in others)]
    design = torch.cat(columns, 1).double()
    inverse = torch.linalg.pinv(design.T @ design, hermitian=True)
    counts = labels.bincount(minlength=classes)
    contrasts = torch.zeros(len(inverse), classes, dtype=torch.float64)
    for c in range(classes):
        rest = [other for other in range(classes) if other != c and counts[other] > 0]
        if rest and counts[c] > 0:
            contrasts[c, c] = 1.0
            contrasts[rest, c] = -counts[rest].double() / counts[rest].sum()
    return (design @ inverse @ contrasts).float()


def adjusted(subject: Subject, rec: Recording, attribute: str) -> Tensor:
    """`partial_weights` of recorded images (n, classes), at equal factors that are unrelated."""
    seen = labelled(subject, rec)
    others = [seen[factor] for factor in subject.unrelated(attribute)]
    return partial_weights(seen[attribute], len(subject.classes(attribute)), others)


@artifacts.stored("differences")
def differences(rec: Recording, sae: Dictionary, weights: Tensor) -> dict[str, Tensor]:
    """Weighted sums of latents over recorded images, and the variance of their noise.

    `weights` (n, K) to {"mean": (K, T, P, D), "variance": (K, T, P, D)}; from the store. The
    variance is that of White (1980): the sum of w_i^2 s_i^2, since most latents are silent.
    """
    means, variances = [], []
    chunks = [slice(i, i + 256) for i in range(0, len(rec), 256)]
    for step in range(rec.h.shape[1]):
        mean = variance = torch.zeros(())
        for chunk in chunks:
            s = sae.latents(ksae.map_to_vectors(rec.at(step, chunk)))  # (b, P, D)
            w = weights[chunk]
            mean = mean + torch.einsum("bk,bpd->kpd", w, s)
            variance = variance + torch.einsum("bk,bpd->kpd", w.square(), s.square())
        means.append(mean)
        variances.append(variance)
    return {"mean": torch.stack(means, 1), "variance": torch.stack(variances, 1)}


def shrunken(mean: Tensor, variance: Tensor) -> Tensor:
    """Differences (T, P, D), each drawn towards its mean over positions as far as it is noise.

    The share that stays is that of the spread over positions which the noise does not explain
    (empirical Bayes; Efron and Morris, 1973).
    """
    centre = mean.mean(1, keepdim=True)
    spread = (mean - centre).square().mean(1, keepdim=True)
    noise = variance.mean(1, keepdim=True)
    stays = (1 - noise / spread.clamp_min(1e-12)).clamp(0, 1)
    return centre + stays * (mean - centre)


def mean_difference(rec: Recording, inside: Tensor) -> Tensor:
    """The mean h of the images `inside` (n,) a class minus that of all others: (T, *h).

    It is the dense control, and zero where one of the two sides has no images.
    """
    if inside.all() or not inside.any():
        return torch.zeros(rec.h.shape[1:])
    steps = range(rec.h.shape[1])
    return torch.stack([rec.at(s, inside).mean(0) - rec.at(s, ~inside).mean(0) for s in steps])


def deciding_steps(steps: int) -> tuple[int, ...]:
    """The steps at which single features are measured: when the picture is being decided.

    At the noisiest steps the predicted clean image is epsilon's rounding error times
    1 / sqrt(alpha-bar), and an evaluator reads noise.
    """
    return tuple(sorted({int(f * (steps - 1)) for f in (0.5, 0.65)}))


@dataclass(frozen=True)
class BiasFeatures:
    """The bias features of every class, found with one k-SAE."""

    ksae: KSAE
    features: dict[str, list[Tensor]]  # {attribute: per class the latents I_c, best first}
    gaps: dict[str, list[Tensor]]  # {attribute: per class (T, P, D), its difference to all others}
    labels: dict[str, Tensor]  # the labeller's classes of the recorded images, (n,)
    counts: dict[str, Tensor]  # images per class
    density: Tensor  # (D,) the share of vectors on which a latent fires
    scores: dict[str, list[Tensor]]  # {attribute: per class (D,)}
    attributed: Callable[[], dict[str, Attribution]]  # what gives `by_image`
    recipe: dict[str, Any] = field(default_factory=dict)  # settings that differ from the study's
    measure: str = "picture"  # what attribution is to: the picture, or the h-classifier

    @cached_property
    def by_image(self) -> dict[str, Attribution]:
        """Attribution through the picture, with the zero baseline, by attribute.

        It comes from the store, or takes a backward pass per class and step when it is asked for.
        """
        return self.attributed()

    def steerable(self, attribute: str) -> list[int]:
        """The classes that have features."""
        return [c for c, latents in enumerate(self.features[attribute]) if len(latents)]

    def unit(self, attribute: str, target: int) -> Tensor:
        """The unit of mode "add": (T, P, N), the class difference of each bias feature."""
        return self.gaps[attribute][target][..., self.features[attribute][target]]

    def best(self, n: int) -> BiasFeatures:
        """The best `n` features of every class (Table 6)."""
        kept = {a: [latents[:n] for latents in rows] for a, rows in self.features.items()}
        return replace(self, features=kept, recipe=self.recipe | {"n_features": n})

    def random(self, attribute: str, target: int, seed: int) -> Tensor:
        """As many random latents as a class has features, of the same density: (N,)."""
        every = torch.cat(self.features[attribute])
        return random_features(self.features[attribute][target], self.density, seed, every)


def find(
    subject: Subject,
    sae: KSAE,
    rec: Recording,
    settings: Settings,
    attributes: Sequence[str] | Mapping[str, str] | None = None,
    heads: Mapping[str, Heads] | None = None,
) -> BiasFeatures:
    """The bias features of all attributes of a subject, or of those named.

    A mapping {attribute: class} measures the candidates of these classes alone; the others get no
    features. `heads` are the h-classifiers of a native subject, which rank its latents.
    """
    only = attributes if isinstance(attributes, Mapping) else {}
    classes = {a: subject.classes(a) for a in attributes or subject.attributes}
    seen = labelled(subject, rec)
    labels = {a: seen[a] for a in classes}
    counts = {a: y.bincount(minlength=len(classes[a])) for a, y in labels.items()}
    attributed = partial(_attributed, subject, sae, rec, settings, tuple(classes), heads)
    means = class_means(rec, sae, labels, {a: len(names) for a, names in classes.items()})
    density = ksae.density(sae, (rec.vectors(s, slice(0, 256)) for s in range(settings.steps)))
    gaps = {
        a: [contrast(means[a], c, counts[a]) for c in range(len(names))]
        for a, names in classes.items()
    }
    wanted = {a: (only[a],) if a in only else names for a, names in classes.items()}
    found = _chosen(subject, sae, rec, settings, wanted, Latents(gaps, density, heads))
    features, scores = (
        {a: [found[f"{kind}.{a}.{name}"] for name in names] for a, names in classes.items()}
        for kind in ("latents", "scores")
    )
    measure = "picture" if heads is None else "h-classifier"
    return BiasFeatures(
        sae, features, gaps, labels, counts, density, scores, attributed, measure=measure
    )


class Latents(NamedTuple):
    """What is known of all latents before any of them is moved."""

    gaps: Mapping[str, Sequence[Tensor]]  # {attribute: per class (T, P, D)}
    density: Tensor  # (D,)
    heads: Mapping[str, Heads] | None = None  # the h-classifiers of a native subject


def _attributed(
    subject: Subject,
    sae: KSAE,
    rec: Recording,
    settings: Settings,
    attributes: tuple[str, ...],
    heads: Mapping[str, Heads] | None,
) -> dict[str, Attribution]:
    """Attribution through the picture, or through the h-classifiers where they are given."""
    if heads is None:
        return attribution.through_image(subject, sae, attributes, Support.of(settings))
    return attribution.by_head({a: heads[a] for a in attributes}, sae, rec, settings.n_support)


def _place(arguments: Mapping[str, Any]) -> Path | None:
    """Where features ship: by the k-SAE, their number, and the attributes if those are not all.

    Features of single classes do not.
    """
    subject, wanted = arguments["subject"], arguments["wanted"]
    if any(tuple(wanted[a]) != tuple(subject.classes(a)) for a in wanted):
        return None
    name = [arguments["sae"].fingerprint(), f"n_{arguments['settings'].n_features}"]
    name += [] if tuple(wanted) == tuple(subject.attributes) else list(wanted)
    return Path(subject.folder, "features", "-".join(name))


@artifacts.stored(
    "features",
    reads=("texts", "labeller"),
    describe={
        "rec": Recording.made,
        "settings": lambda s: {name: getattr(s, name) for name in ("seed", "steps", *FINDING)},
    },
    ignoring=("latents",),  # they follow from the others
    shipped=_place,
    beyond=lambda a: a["rec"].key,
)
def _chosen(
    subject: Subject,
    sae: KSAE,
    rec: Recording,
    settings: Settings,
    wanted: Mapping[str, Sequence[str]],
    latents: Latents,
) -> dict[str, Tensor]:
    """The scores of every class (D,), and its features (N,), none for a class that is not `wanted`.

    They come from what ships with the subject, or from the store, if they are there.
    """
    by_image = _attributed(subject, sae, rec, settings, tuple(wanted), latents.heads)
    found: dict[str, Tensor] = {}
    for a in wanted:
        for c, name in enumerate(subject.classes(a)):
            gap = latents.gaps[a][c]
            scores = attribution.towards(by_image[a].slope[c], gap)
            stay = torch.empty(0, dtype=torch.long)
            if name in wanted[a]:
                tried = candidates(scores, latents.density, settings)
                stay = confirmed(subject, sae, Aim(a, c), tried, gap, settings)
            found |= {f"scores.{a}.{name}": scores, f"latents.{a}.{name}": stay}
    return found


@artifacts.stored("labels", reads=("labeller",))
def labelled(subject: Subject, rec: Recording) -> dict[str, Tensor]:
    """The labeller's classes of recorded images: {factor: (n,)}; from the store."""
    probabilities = evaluators.read(subject.labeller, rec.images, subject.device)
    return {factor: p.argmax(-1) for factor, p in probabilities.items()}


def candidates(scores: Tensor, density: Tensor, settings: Settings) -> Tensor:
    """The latents that are measured for a class by its scores (D,), best first: (N,).

    They are one and a half times as many as may stay.
    """
    n = settings.n_features + settings.n_features // 2
    return attribution.select(scores, n, density, settings.max_density)


def confirmed(
    subject: Subject,
    sae: KSAE,
    aim: Aim,
    candidates: Tensor,
    gap: Tensor,
    settings: Settings,
) -> Tensor:
    """I_c: the candidates (N,) that make the class likelier when each is moved alone.

    They move by the class difference `gap` (T, P, D). At most `n_features` stay, in their order.
    """
    trial = Trial(
        settings.n_measured,
        Seeds.of(settings.seed).measured,
        settings.steps,
        deciding_steps(settings.steps),
    )
    effect = attribution.measured(subject, sae, aim, candidates, gap[..., candidates], trial)
    return candidates[effect.mean > 0][: settings.n_features]


def random_features(
    features: Tensor, density: Tensor, seed: int, exclude: Tensor | None = None
) -> Tensor:
    """The negative control: each feature's place is taken by a latent of nearly the same density.

    It is drawn among the 20 nearest latents that are in neither `features` (N,) nor `exclude`.
    Raises ValueError where no latents are left to draw.
    """
    taken = set(features.tolist())
    if exclude is not None:
        taken |= set(exclude.tolist())
    return _as_dense(features, density, seed, taken)


def random_set(features: Tensor, density: Tensor, seed: int) -> Tensor:
    """A set as large as `features` (N,) whose latents fire as often: (N,).

    Unlike `random_features` it may hold some of them, as chance would have it.
    """
    return _as_dense(features, density, seed, set())


def _as_dense(features: Tensor, density: Tensor, seed: int, taken: set[int]) -> Tensor:
    """For each feature one of the 20 latents of the nearest density that are not `taken`: (N,)."""
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    for j in features.tolist():
        by_distance = (density - density[j]).abs().argsort().tolist()
        free = (i for i in by_distance if i not in taken and i not in chosen)
        near = list(islice(free, 20))
        if not near:
            raise ValueError(
                f"latents must be more than {len(density)}: none is left as a random control"
            )
        chosen.append(near[int(torch.randint(len(near), (1,), generator=generator))])
    return torch.tensor(chosen, dtype=torch.int64)
