"""Which latents cause a class? Integrated gradients (Eq. 6, 8) with respect to two measures.

`through_head` takes the paper's measure, the class probability of the h-classifier on the decoded
latents. The head is linear and the decoder affine, so the logits are affine along the path and the
integral needs neither the network nor autograd. A head can read from h what the image does not
follow.

A subject that samples by its own call has no predicted clean image. There the h-classifier ranks
the latents, and whole images tell what each does.

`through_image` takes the log-probability that the labeller gives the predicted clean image,
differentiated through all that lies behind the module. It asks what an edit of h does to the
picture at that very step.

Both give scores per class and latent. A positive score means that more of the latent makes more of
the class.

The third latent below differs most between the classes, but the image does not follow it:

>>> import torch
>>> from difflens_utils import attribution
>>> slope = torch.tensor([[[1.0, 2.0, 0.0]]])  # (T, P, D): gain of the class per unit of a latent
>>> contrast = torch.tensor([[[0.5, 1.0, 9.0]]])  # (T, P, D): surplus in images of the class
>>> scores = attribution.towards(slope, contrast)
>>> scores.tolist()
[0.5, 2.0, 0.0]
>>> attribution.select(scores, n=2).tolist()
[1, 0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import sampling
from .ksae import Dictionary, map_to_vectors, vectors_to_map
from .probes import Heads
from .recording import Recording
from .runtime import artifacts
from .runtime.errors import all_positive, one_of
from .runtime.precision import full_precision, planar
from .sampling import Edit, Moment, Step
from .settings import Seeds, Settings
from .subjects.pipelines import Subject


class Attribution(NamedTuple):
    """Scores of D latents for the classes of one attribute, averaged over the support images."""

    scores: Tensor  # (classes, D) summed over timesteps and positions
    by_step: Tensor  # (classes, T, D)
    by_position: Tensor  # (classes, P, D)
    gap: Tensor  # (classes,) |sum of attributions - change of the measure| / |that change|
    slope: Tensor = torch.empty(0)  # (classes, T, P, D) mean d measure / d latent, by the image
    from_mean: Tensor = torch.empty(0)  # (classes, D) scores with the batch's mean as the baseline


RULES = ("gauss", "left")


def quadrature(points: int, rule: str = "gauss") -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], (points,) float64 each.

    "gauss" is Gauss-Legendre, exact for polynomials of degree 2 points - 1; "left" is the left
    Riemann sum. Raises ValueError for an unknown rule.
    """
    one_of("rule", rule, RULES)
    if rule == "left":
        nodes = torch.arange(points, dtype=torch.float64) / points
        return nodes, torch.full((points,), 1 / points, dtype=torch.float64)
    x, weights = np.polynomial.legendre.leggauss(points)
    return torch.tensor((x + 1) / 2), torch.tensor(weights / 2)


def linear_integral(logits0: Tensor, logits1: Tensor, points: int, rule: str = "gauss") -> Tensor:
    """The integral over alpha of d softmax(z) / dz along z = logits0 + alpha (logits1 - logits0).

    (B, classes) twice to (B, classes of the probability, classes of the logit).
    """
    nodes, weights = (x.to(logits1) for x in quadrature(points, rule))
    p = (logits0 + nodes[:, None, None] * (logits1 - logits0)).softmax(-1)  # (points, B, classes)
    weighted = weights[:, None, None] * p
    return torch.diag_embed(weighted.sum(0)) - torch.einsum("nbc,nbk->bck", weighted, p)


def through_head(
    heads: Heads,
    ksae: Dictionary,
    recording: Recording,
    rows: Tensor | range,
    baseline: str = "zero",
    points: int = 32,
    rule: str = "gauss",
) -> Attribution:
    """Integrated gradients of every class probability for the latents, in closed form (Eq. 6).

    `rows` (B,) are the support images; the baseline is "zero" (the paper's), or "mean", the mean
    latents at that timestep and position. Raises ValueError for an unknown baseline or rule.
    """
    one_of("baseline", baseline, ("zero", "mean"))
    rows = torch.arange(len(recording))[torch.as_tensor(rows)]
    by_step = []  # (classes, D) each
    by_position = reached = change = torch.zeros(())
    zero = ksae.decode(torch.zeros(len(ksae.directions))).double()  # (d,)
    for step in range(len(heads.weight)):
        weight = map_to_vectors(heads.weight[step]).double()  # (classes, P, d)
        effect = weight @ ksae.directions.double().T  # (classes, P, D): d logit / d latent
        constant = heads.bias[step].double() + torch.einsum("cpd,d->c", weight, zero)
        start = torch.zeros_like(effect[:1])  # (1, P, D)
        if baseline == "mean":
            for s in _latents(ksae, recording, step, rows):
                start += s.sum(0) / len(rows)
        moved = torch.zeros(())  # (classes of the probability x of the logit, P x D)
        for s in _latents(ksae, recording, step, rows):
            z0, z1 = (constant + x.flatten(1) @ effect.flatten(1).T for x in (start, s))
            slope = linear_integral(z0, z1, points, rule)  # (B, classes, classes)
            moved = moved + slope.flatten(1).T @ (s - start).flatten(1)  # for all classes at once
            change = change + (z1.softmax(-1) - z0.softmax(-1)).sum(0) / len(rows)
        per_logit = moved.unflatten(1, effect.shape[1:]).unflatten(0, (len(effect), -1)) * effect
        scores = per_logit.sum(1) / len(rows)  # (classes, P, D)
        by_step.append(scores.sum(1))
        by_position = by_position + scores
        reached = reached + scores.sum((1, 2))
    stacked = torch.stack(by_step, 1).float()
    gap = ((reached - change) / change).abs().float()
    return Attribution(torch.stack(by_step, 1).sum(1).float(), stacked, by_position.float(), gap)


def _latents(ksae: Dictionary, recording: Recording, step: int, rows: Tensor) -> Iterator[Tensor]:
    """The latents of some images at a step, few at a time: (B, P, D) float64."""
    for vectors in recording.few(step, rows):
        yield ksae.latents(vectors).double()


def slope_of_head(heads: Heads, ksae: Dictionary) -> Tensor:
    """d (logit of the class - mean logit) / d latent of the h-classifier: (classes, T, P, D).

    `towards` takes it as the `slope` of this measure.
    """
    weight = heads.weight - heads.weight.mean(1, keepdim=True)  # (T, classes, *h)
    return torch.stack([map_to_vectors(w) @ ksae.directions.T for w in weight], 1)


def by_head(
    heads: Mapping[str, Heads], ksae: Dictionary, recording: Recording, n_support: int
) -> dict[str, Attribution]:
    """What `through_image` gives, by the h-classifiers {attribute: heads}.

    It is for subjects that have no predicted clean image (`Subject.native`). The closed form is
    cheap, so that it takes four times `n_support` images.
    """
    rows = torch.arange(min(len(recording), 4 * n_support))
    found = {}
    for attribute, own in heads.items():
        by_zero = through_head(own, ksae, recording, rows)
        by_mean = through_head(own, ksae, recording, rows, baseline="mean")
        slope = slope_of_head(own, ksae)
        found[attribute] = by_zero._replace(slope=slope, from_mean=by_mean.scores)
    return found


Measure = Callable[[Tensor], Tensor]  # predicted clean x_0 to (B, classes) log-probabilities


@dataclass(frozen=True)
class Support:
    """The images that latents are attributed on, and how finely the path is integrated."""

    n: int
    seed: int
    steps: int
    points: int = 1
    batch: int = 64

    @classmethod
    def of(cls, settings: Settings) -> Support:
        """That of a study."""
        return cls(settings.n_support, Seeds.of(settings.seed).support, settings.steps)


def through_image(
    subject: Subject,
    ksae: Dictionary,
    attributes: tuple[str, ...],
    support: Support,
) -> dict[str, Attribution]:
    """Attribution to what the labeller sees in the predicted clean image, for every class.

    It follows unedited trajectories, with the zero baseline: a change of h at one step is not
    carried on to the next. One point takes the gradient where the model really is (alpha = 1): the
    derivative of the measure with respect to the scale beta of an intervention at beta = 1. More
    points integrate along the path, by Gauss-Legendre. The scores are kept in the store.
    """
    all_positive(n_support=support.n, points=support.points)
    classes = {a: subject.classes(a) for a in attributes}
    tensors = _through_image(subject, ksae, classes, support)
    sizes = [len(names) for names in classes.values()]
    split = {name: dict(zip(classes, t.split(sizes), strict=True)) for name, t in tensors.items()}
    return {
        a: Attribution(
            split["by_step"][a].sum(1),
            split["by_step"][a],
            split["by_position"][a],
            split["gap"][a],
            split["slope"][a],
            split["from_mean"][a],
        )
        for a in attributes
    }


@artifacts.stored("attribution", reads=("texts", "labeller"))
def _through_image(
    subject: Subject, ksae: Dictionary, classes: dict[str, tuple[str, ...]], support: Support
) -> dict[str, Tensor]:
    with planar(subject):

        def measure(clean: Tensor) -> Tensor:
            logits = subject.labeller.logits(subject.decode(clean))
            return torch.cat([logits[a].log_softmax(-1) for a in classes], 1)

        return _image_scores(subject, ksae, measure, support)


def _image_scores(
    subject: Subject, ksae: Dictionary, measure: Measure, support: Support
) -> dict[str, Tensor]:
    n, steps = support.n, support.steps
    s = sampling.trajectory(subject, steps)
    nodes = [(1.0, 1.0)]
    if support.points > 1:
        alphas, weights = quadrature(support.points)
        nodes = list(zip(alphas.tolist(), weights.tolist(), strict=True))
    slopes = [torch.zeros(()) for _ in range(steps)]
    by_step = [torch.zeros(()) for _ in range(steps)]
    by_position = change = from_mean = torch.zeros(())
    bar = tqdm(
        total=n * steps,
        desc="attribution through the image",
        unit="step",
        mininterval=1,
        leave=False,
    )
    for rows in torch.arange(n).split(support.batch):
        for moment, _ in sampling.unedited(subject, rows, support.seed, s):
            scores = _step_scores(moment, ksae, measure, nodes)
            slopes[moment.index] = slopes[moment.index] + scores.slope / n
            by_step[moment.index] = by_step[moment.index] + scores.total.sum(1) / n
            by_position = by_position + scores.total / n
            change = change + scores.change / n
            from_mean = from_mean + scores.from_mean / n
            bar.update(len(rows))
    bar.close()
    reached = by_position.sum((1, 2))
    return {
        "by_step": torch.stack(by_step, 1),
        "by_position": by_position,
        "slope": torch.stack(slopes, 1),
        "gap": ((reached - change) / change).abs(),
        "from_mean": from_mean,
    }


class _StepScores(NamedTuple):
    """The scores of one step of one batch, summed over its images."""

    total: Tensor  # (classes, P, D) attributions
    slope: Tensor  # (classes, P, D)
    change: Tensor  # (classes,) of the measure, from all latents at zero to as they are
    from_mean: Tensor  # (classes, D) attributions with the batch's mean as the baseline


def _step_scores(
    moment: Moment, ksae: Dictionary, measure: Measure, nodes: list[tuple[float, float]]
) -> _StepScores:
    h, outcome = _measured_at(moment, measure, lambda h: h)
    ksae = ksae.on_device(h.device)
    latents = ksae.latents(map_to_vectors(h.detach().float()))  # (B, P, D)
    written = vectors_to_map(latents @ ksae.directions, h.shape)  # what the latents add to h
    centred = latents - latents.mean(0)
    total = slope = from_mean = torch.zeros(())
    for alpha, weight in nodes:
        leaf, p = h, outcome
        if alpha != 1:
            leaf, p = _measured_at(moment, measure, _less(written, 1 - alpha))
        slopes = [map_to_vectors(g.float()) @ ksae.directions.T for g in _gradients(p, leaf)]
        total = total + weight * torch.stack([(latents * g).sum(0).cpu() for g in slopes])
        slope = slope + weight * torch.stack([g.sum(0).cpu() for g in slopes])
        from_mean = from_mean + weight * torch.stack(
            [(centred * g).sum((0, 1)).cpu() for g in slopes]
        )
    change = total.sum((1, 2))
    if len(nodes) > 1:
        with torch.no_grad():
            bare = _measured_at(moment, measure, _less(written, 1.0))[1]
        change = (outcome - bare).sum(0).detach().cpu()
    return _StepScores(total, slope, change, from_mean)


def _less(written: Tensor, share: float) -> Callable[[Tensor], Tensor]:
    """A change of h that takes off a share of what the latents add to it."""
    return lambda h: h - (share * written).to(h.dtype)


def _measured_at(
    moment: Moment, measure: Measure, change: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The changed h (B, *h), as a leaf of the graph, and the measure of the image it leads to."""
    leaf: list[Tensor] = []

    def replace(h: Tensor, _call: int) -> Tensor:
        leaf.append(change(h).detach().requires_grad_(True))
        return leaf[-1]

    with torch.enable_grad(), moment.editing(replace):
        clean = moment.clean(moment.predict())
        return leaf[-1], measure(clean)


def _gradients(p: Tensor, leaf: Tensor) -> list[Tensor]:
    """The gradient of every column of p (B, classes), summed over images, at the leaf."""
    last = p.shape[1] - 1
    return [
        torch.autograd.grad(p[:, c].sum(), leaf, retain_graph=c < last)[0] for c in range(last + 1)
    ]


def towards(slope: Tensor, contrast: Tensor) -> Tensor:
    """Attribution with the other classes as the baseline, to first order: (D,) scores of a class.

    `contrast` (T, P, D) is how far the latents of the class's images lie from the others' on
    average; `slope` (T, P, D) is what the measure gains per unit. A latent scores where images of
    the class have more of it and more of it makes the class (or less and less). What is common to
    all images, and what the image does not follow, both come out near zero.
    """
    return (slope * contrast).sum((0, 1))


class Effect(NamedTuple):
    """The measured change of the class's log-probability in the predicted clean image."""

    mean: Tensor  # (N,)
    error: Tensor  # (N,) standard error over images
    gains: Tensor  # (N, n) of every image


class Aim(NamedTuple):
    """A class of an attribute that an edit is aimed at."""

    attribute: str
    target: int


@dataclass(frozen=True)
class Trial:
    """How single features are measured."""

    n: int  # images
    seed: int
    steps: int
    at: tuple[int, ...]  # the sampling steps at which a feature is moved
    beta: float = 3.0  # in its units


class Responses(NamedTuple):
    """What each of N features does when it is moved alone, per image, mean over the steps."""

    gain: Tensor  # (N, n) change of the class's log-probability
    leak: (
        Tensor  # (N, F) change of the log-probabilities of other factors' classes, mean over images
    )
    turned: Tensor  # (N, n, E) change of the CLIP features of the predicted clean image


@torch.no_grad()
def responses(
    subject: Subject,
    ksae: Dictionary,
    aim: Aim,
    moves: Sequence[tuple[int, Tensor]],
    trial: Trial,
) -> Responses:
    """`measured`, with what else each move does to the picture; from the store.

    `moves` are features with their units (T, P).
    """
    return Responses(**_responses(subject, ksae, aim, moves, trial))


@artifacts.stored("responses", reads=("texts", "labeller", "clip"))
def _responses(
    subject: Subject,
    ksae: Dictionary,
    aim: Aim,
    moves: Sequence[tuple[int, Tensor]],
    trial: Trial,
) -> dict[str, Tensor]:
    if subject.native:
        plain, *edited = _drawn(subject, ksae, moves, trial)
        parts = [_told(subject, aim, plain, images, 1) for images in edited]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    features = torch.tensor([feature for feature, _ in moves])
    change = trial.beta * torch.stack([unit for _, unit in moves], -1)
    seen: list[dict[str, Tensor]] = []
    for moment in _moments(subject, trial):
        with full_precision(subject):
            seen.append(_seen(moment, ksae, aim, features, change[moment.index]))
    return {name: torch.stack([part[name] for part in seen]).mean(0) for name in seen[0]}


def _moments(subject: Subject, trial: Trial) -> list[Moment]:
    """The steps of a trial, on unedited trajectories."""
    s = sampling.trajectory(subject, trial.steps)
    texts = sampling.texts_of(subject, torch.arange(trial.n))
    reached = _reached(subject, trial.n, trial.seed, trial.steps, trial.at)["x"]
    return [
        Moment(subject, x.to(subject.device), texts, s, index)
        for index, x in zip(trial.at, reached, strict=True)
    ]


@artifacts.stored("reached", reads=("texts",))
def _reached(
    subject: Subject, n: int, seed: int, steps: int, at: tuple[int, ...]
) -> dict[str, Tensor]:
    """x_t of unedited images at some steps, {"x": (at, n, C, H, W)}: the same for every trial."""
    s = sampling.trajectory(subject, steps)
    walk = islice(sampling.unedited(subject, torch.arange(n), seed, s), max(at) + 1)
    x = [moment.x.cpu() for moment, _ in walk]
    return {"x": torch.stack([x[index] for index in at])}


def _seen(
    moment: Moment, ksae: Dictionary, aim: Aim, features: Tensor, change: Tensor
) -> dict[str, Tensor]:
    """The fields of `Responses` at one step."""
    ksae = ksae.on_device(moment.x.device)
    parts = []
    for chosen, moved in zip(features.split(TOGETHER), change.split(TOGETHER, -1), strict=True):
        plain, edited = _pictures(moment, ksae, chosen, moved)
        parts.append(_told(moment.subject, aim, plain, edited, len(chosen)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _told(
    subject: Subject, aim: Aim, plain: Tensor, edited: Tensor, versions: int
) -> dict[str, Tensor]:
    """The fields of `Responses`, of pictures (n, 3, H, W) and edited versions (versions n, ...)."""
    before, after = subject.labeller.logits(plain), subject.labeller.logits(edited)
    gains = _change(before, after, aim.attribute, versions)  # (versions, n, classes)
    others = subject.unrelated(aim.attribute)
    leaks = [_change(before, after, factor, versions).mean(1) for factor in others]
    clip = subject.clip.image_features(edited).reshape(versions, len(plain), -1)
    return {
        "gain": gains[..., aim.target].cpu(),
        "leak": torch.cat(leaks, 1).cpu() if leaks else torch.zeros(versions, 0),
        "turned": (clip - subject.clip.image_features(plain)).cpu(),
    }


def _drawn(
    subject: Subject, ksae: Dictionary, moves: Sequence[tuple[int, Tensor]], trial: Trial
) -> Iterator[Tensor]:
    """Whole images of a native subject: unedited, then with each feature moved alone."""
    options: dict[str, Any] = {"steps": trial.steps, "asymmetric": False}
    yield sampling.sample(subject, trial.n, trial.seed, **options).to(subject.device)
    for feature, unit in moves:
        edit = _moved_alone(ksae, feature, trial.beta * unit, trial.at)
        images = sampling.sample(subject, trial.n, trial.seed, edit=edit, **options)
        yield images.to(subject.device)


def _moved_alone(ksae: Dictionary, feature: int, change: Tensor, at: Sequence[int]) -> Edit:
    """The edit that moves one feature by `change` (T, P) at some steps."""
    number = torch.tensor([feature])

    def move(h: Tensor, step: Step) -> Tensor | None:
        if step.index not in at:
            return None
        return _versions(h, ksae.on_device(h.device), number, change[step.index][:, None])

    return Edit(move)


def _change(
    before: dict[str, Tensor], after: dict[str, Tensor], factor: str, versions: int
) -> Tensor:
    """The change of a factor's log-probabilities: (versions, n, classes)."""
    start, end = before[factor].log_softmax(-1), after[factor].log_softmax(-1)
    return end.reshape(versions, len(start), -1) - start


def _pictures(
    moment: Moment, ksae: Dictionary, chosen: Tensor, moved: Tensor
) -> tuple[Tensor, Tensor]:
    """The predicted pictures as they are (B, 3, H, W), and with each feature moved alone (b B)."""

    def versions(h: Tensor, _call: int) -> Tensor:
        return _versions(h, ksae, chosen, moved)

    plain, edited = moment.answers(versions)
    subject = moment.subject
    return subject.decode(moment.clean(plain)), subject.decode(moment.clean(edited))


TOGETHER = 4  # features whose edited versions share a batch


@torch.no_grad()
def measured(
    subject: Subject, ksae: Dictionary, aim: Aim, features: Tensor, unit: Tensor, trial: Trial
) -> Effect:
    """Moves one feature at a time and measures how much likelier the picture's class becomes.

    Each of the `features` (N,) is moved by beta times its `unit` (T, P, N) at the steps of the
    trial; the labeller reads the predicted clean images. Only what lies behind the module runs
    again. Results are stored feature by feature, since rankings have features in common.
    """
    if not len(features):
        return Effect(torch.empty(0), torch.empty(0), torch.empty(0, trial.n))
    moves = list(zip(features.tolist(), unit.unbind(-1), strict=True))
    gain = _measured(subject, ksae, aim, moves, trial)
    return Effect(gain.mean(1), gain.std(1) / trial.n**0.5, gain)


@artifacts.stored_each("measured", "moves", reads=("texts", "labeller"))
def _measured(
    subject: Subject,
    ksae: Dictionary,
    aim: Aim,
    moves: Sequence[tuple[int, Tensor]],
    trial: Trial,
) -> Tensor:
    """The gain of every image under each move, a feature and its unit (T, P): (M, n).

    It is the mean over the steps of the trial.
    """
    if subject.native:
        plain, *edited = _drawn(subject, ksae, moves, trial)
        before = subject.labeller.logits(plain)
        rows = [
            _change(before, subject.labeller.logits(images), aim.attribute, 1)[..., aim.target]
            for images in edited
        ]
        return torch.cat(rows).cpu()
    features = torch.tensor([feature for feature, _ in moves])
    change = trial.beta * torch.stack([unit for _, unit in moves], -1)
    gains = []
    for moment in _moments(subject, trial):
        with full_precision(subject):
            gains.append(_gains(moment, ksae, aim, features, change[moment.index]))
    return torch.stack(gains).mean(0)


def _gains(moment: Moment, ksae: Dictionary, aim: Aim, features: Tensor, change: Tensor) -> Tensor:
    """Change of the class's log-probability at one step, each feature moved alone: (N, B)."""
    subject = moment.subject
    ksae = ksae.on_device(moment.x.device)
    rows = []
    for chosen, moved in zip(features.split(TOGETHER), change.split(TOGETHER, -1), strict=True):
        plain, edited = _pictures(moment, ksae, chosen, moved)
        before, after = subject.labeller.logits(plain), subject.labeller.logits(edited)
        rows.append(_change(before, after, aim.attribute, len(chosen))[..., aim.target].cpu())
    return torch.cat(rows)


def _versions(h: Tensor, ksae: Dictionary, features: Tensor, change: Tensor) -> Tensor:
    """h (B, *h) with each of N features moved alone by `change` (P, N): (N B, *h)."""
    latents = ksae.latents(map_to_vectors(h).float())
    moved = []
    for j, amount in zip(features.tolist(), change.unbind(-1), strict=True):
        active = latents[..., j]  # (B, P)
        added = (active + amount.to(active)).clamp_min(ksae.floor) - active
        moved.append(h.float() + vectors_to_map(added[..., None] * ksae.directions[j], h.shape))
    return torch.cat(moved).to(h.dtype)


def select(
    scores: Tensor, n: int, density: Tensor | None = None, max_density: float = 1.0
) -> Tensor:
    """I_c of Eq. 6: the latents with the largest positive scores, (<= n,) indices, best first.

    Latents that fire on more than `max_density` of all vectors are left out: they carry what all
    images share, and pushing them takes images off the data's manifold.
    """
    scores = scores.clone()
    if density is not None:
        scores[density > max_density] = -torch.inf
    top = scores.topk(min(n, len(scores)))
    return top.indices[top.values > 0]
