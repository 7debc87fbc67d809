"""Which latents cause a class? Integrated gradients (Eq. 6, 8) with respect to two measures.

`through_head`: the paper's measure, the class probability of the h-classifier on the decoded latents. The head is linear
and the decoder affine, so the logits are affine along the path and the integral needs neither the network nor autograd.
A head can read what the image does not follow.

`through_image`: the log-probability that the labeller gives the predicted clean image, differentiated through all that
lies behind the module. It asks what an edit of h does to the picture at that very step.

Both give scores per class and latent; positive means: more of the latent, more of the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import artifacts, gpu, hooks, sampling
from .activations import Recording
from .errors import one_of
from .ksae import KSAE, map_to_vectors, vectors_to_map
from .probes import Heads
from .pipelines import Subject
from .precision import full_precision, planar


class Attribution(NamedTuple):
    """Scores of D latents for the classes of one attribute, averaged over the support set."""

    scores: Tensor  # (classes, D) summed over timesteps and positions
    by_step: Tensor  # (classes, T, D)
    by_position: Tensor  # (classes, P, D)
    gap: Tensor  # (classes,) |sum of the attributions - change of the measure| / |change of the measure|
    slope: Tensor | None = None  # (classes, T, P, D) mean d measure / d latent, where it was kept
    from_mean: Tensor | None = (
        None  # (classes, D) scores with the mean latents of the batch as the baseline, where they were kept
    )


RULES = ("gauss", "left")


def quadrature(points: int, rule: str = "gauss") -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]: Gauss-Legendre, exact for polynomials of degree 2 points - 1, or the left Riemann sum.

    Raises ValueError for an unknown rule.
    """
    one_of("rule", rule, RULES)
    if rule == "left":
        return torch.arange(points, dtype=torch.float64) / points, torch.full(
            (points,), 1 / points, dtype=torch.float64
        )
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


def linear_integral(logits0: Tensor, logits1: Tensor, points: int, rule: str = "gauss") -> Tensor:
    """Integral over alpha of the Jacobian d softmax(z) / dz along z = logits0 + alpha (logits1 - logits0).

    (B, classes) twice to (B, classes of the probability, classes of the logit).
    """
    nodes, weights = (x.to(logits1) for x in quadrature(points, rule))
    p = (logits0 + nodes[:, None, None] * (logits1 - logits0)).softmax(-1)  # (points, B, classes)
    weighted = weights[:, None, None] * p
    return torch.diag_embed(weighted.sum(0)) - torch.einsum("nbc,nbk->bck", weighted, p)


def through_head(
    heads: Heads,
    ksae: KSAE,
    recording: Recording,
    rows: Tensor,
    baseline: str = "zero",
    points: int = 32,
    rule: str = "gauss",
) -> Attribution:
    """Integrated gradients of every class probability with respect to the latents, in closed form (Eq. 6).

    `rows` (B,) are the support images; `baseline` is "zero" (the paper's) or "mean", the mean latents at that timestep and
    position. Raises ValueError for an unknown baseline or rule.
    """
    one_of("baseline", baseline, ("zero", "mean"))
    by_step, by_position, reached, asked = [], 0.0, 0.0, 0.0
    for step in range(len(heads.weight)):
        s = ksae.latents(map_to_vectors(recording.at(step, rows))).double()  # (B, P, D)
        start = torch.zeros_like(s[:1]) if baseline == "zero" else s.mean(0, keepdim=True)
        weight = map_to_vectors(heads.weight[step]).double()  # (classes, P, d)
        effect = weight @ ksae.directions.double().T  # (classes, P, D): d logit / d latent
        constant = heads.bias[step].double() + torch.einsum(
            "cpd,d->c", weight, ksae.decode(s.new_zeros(s.shape[-1]).float()).double()
        )
        z0, z1 = (constant + x.flatten(1) @ effect.flatten(1).T for x in (start, s))
        slope = linear_integral(z0, z1, points, rule)  # (B, classes, classes)
        moved = slope.flatten(1).T @ (s - start).flatten(
            1
        )  # (classes^2, P D): one product for all classes
        parts = (moved.unflatten(1, effect.shape[1:]).unflatten(0, slope.shape[1:]) * effect).sum(
            1
        ) / len(s)  # (classes, P, D)
        by_step.append(parts.sum(1))
        by_position = by_position + parts
        reached = reached + parts.sum((1, 2))
        asked = asked + (z1.softmax(-1) - z0.softmax(-1)).mean(0)
    stacked = torch.stack(by_step, 1)
    return Attribution(
        stacked.sum(1).float(),
        stacked.float(),
        by_position.float(),
        ((reached - asked) / asked).abs().float(),
    )


def slope_of_head(heads: Heads, ksae: KSAE) -> Tensor:
    """d (logit of the class - mean logit) / d latent of the h-classifier: (classes, T, P, D). What `towards` needs of this measure."""
    weight = heads.weight - heads.weight.mean(1, keepdim=True)  # (T, classes, *h)
    return torch.stack([map_to_vectors(w) @ ksae.directions.T for w in weight], 1)


Measure = Callable[
    [Tensor], Tensor
]  # predicted clean x_0 (B, C, H, W) -> (B, classes) log-probabilities


def through_image(
    subject: Subject,
    ksae: KSAE,
    attributes: tuple[str, ...],
    n: int,
    seed: int,
    steps: int,
    *,
    points: int = 1,
    batch: int = 64,
) -> dict[str, Attribution]:
    """Attribution to what the labeller sees in the predicted clean image, for every class of every attribute at once.

    Along generated trajectories (no edit is carried on), with the zero baseline. `points=1` takes the gradient where the
    model really is (alpha = 1): the derivative of the measure with respect to the scale beta of an intervention at beta = 1.
    More points integrate along the path, by Gauss-Legendre. Kept in the store.
    """
    artifacts.check_sizes(n_support=n, points=points)
    names = {a: subject.classes(a) for a in attributes}
    t = _through_image(subject, ksae, names, n, seed, steps, points, batch)
    parts = {
        k: dict(zip(attributes, v.split([len(c) for c in names.values()]), strict=True))
        for k, v in t.items()
    }
    return {
        a: Attribution(
            parts["by_step"][a].sum(1),
            *(parts[name][a] for name in ("by_step", "by_position", "gap", "slope", "from_mean")),
        )
        for a in attributes
    }


@artifacts.stored("attribution", reads=("texts", "labeller"))
def _through_image(
    subject: Subject,
    ksae: KSAE,
    names: dict[str, tuple[str, ...]],
    n: int,
    seed: int,
    steps: int,
    points: int,
    batch: int,
) -> dict[str, Tensor]:
    def measure(clean: Tensor) -> Tensor:
        logits = subject.labeller.logits(subject.decode(clean))
        return torch.cat([logits[a].log_softmax(-1) for a in names], 1)

    with planar(subject):
        return _image_scores(subject, ksae, measure, n, seed, steps, points, batch)


def _image_scores(
    subject: Subject,
    ksae: KSAE,
    measure: Measure,
    n: int,
    seed: int,
    steps: int,
    points: int,
    batch: int,
) -> dict[str, Tensor]:
    s = sampling.trajectory(subject, steps)
    nodes = (
        [(torch.ones(()), torch.ones(()))]
        if points == 1
        else list(zip(*quadrature(points), strict=True))
    )
    slopes: list = [0.0] * steps
    by_step: list = [0.0] * steps
    by_position, asked, from_mean = 0.0, 0.0, 0.0
    bar = tqdm(
        total=n * steps,
        desc="attribution through the image",
        unit="step",
        mininterval=1,
        leave=False,
    )
    for rows in torch.arange(n).split(batch):
        for index, x, _clean, texts in sampling.unedited(subject, rows, seed, s):
            total, slope, change, centred = _step_scores(
                subject, ksae, measure, x, texts, s, index, nodes
            )
            slopes[index] = slopes[index] + slope / n
            by_step[index] = by_step[index] + total.sum(1) / n
            by_position = by_position + total / n
            asked = asked + change / n
            from_mean = from_mean + centred / n
            bar.update(len(x))
    bar.close()
    reached = by_position.sum((1, 2))
    return {
        "by_step": torch.stack(by_step, 1),
        "by_position": by_position,
        "slope": torch.stack(slopes, 1),
        "gap": ((reached - asked) / asked).abs(),
        "from_mean": from_mean,
    }


def _step_scores(
    subject: Subject,
    ksae: KSAE,
    measure: Measure,
    x: Tensor,
    texts: list[str],
    s: sampling.Schedule,
    index: int,
    nodes: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of one batch: attributions and slopes (classes, P, D) summed over images, the change of the measure between all
    latents at zero and as they are (classes,), and the attributions from the batch's mean (classes, D)."""
    timestep = s.timesteps[index]

    def run(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf: list[Tensor] = []

        def replace(h: Tensor, _call: int) -> Tensor:
            leaf.append(change(h).detach().requires_grad_(True))
            return leaf[-1]

        with (
            torch.enable_grad(),
            hooks.edit(subject.network, subject.module, replace, subject.parts(len(x))),
        ):
            clean = sampling.predicted_clean(x, subject.predict(x, timestep, texts), s, index)
            return leaf[-1], measure(clean)

    h, outcome = run(lambda h: h)
    ksae = gpu.on(ksae, h.device)
    vectors = map_to_vectors(h.detach().float())
    latents = ksae.latents(vectors)  # (B, P, D)
    written = vectors_to_map(latents @ ksae.directions, h.shape)  # what the latents contribute to h
    total, slope, centred = 0.0, 0.0, 0.0
    for alpha, weight in nodes:
        a = alpha.item()
        leaf, p = (
            (h, outcome) if a == 1 else run(lambda h, a=a: h - ((1 - a) * written).to(h.dtype))
        )
        grads = [
            torch.autograd.grad(p[:, c].sum(), leaf, retain_graph=c + 1 < p.shape[1])[0]
            for c in range(p.shape[1])
        ]
        slopes = [map_to_vectors(g.float()) @ ksae.directions.T for g in grads]  # (B, P, D) each
        total = total + weight.item() * torch.stack([(latents * g).sum(0).cpu() for g in slopes])
        slope = slope + weight.item() * torch.stack([g.sum(0).cpu() for g in slopes])
        centred = centred + weight.item() * torch.stack(
            [((latents - latents.mean(0)) * g).sum((0, 1)).cpu() for g in slopes]
        )
    with torch.no_grad():
        bare = run(lambda h: h - written.to(h.dtype))[1] if len(nodes) > 1 else None
    change = (outcome - bare).sum(0).detach().cpu() if bare is not None else total.sum((1, 2))
    return total, slope, change, centred


def towards(slope: Tensor, contrast: Tensor) -> Tensor:
    """Attribution with the other classes as the baseline, to first order: (D,) scores of one class.

    `contrast` (T, P, D) is how far the latents of the class's images lie from the others' on average; `slope` (T, P, D) is what the
    measure gains per unit. A latent scores where images of the class have more of it AND more of it makes the class (or less and
    less): what is merely common to all images, and what the image does not follow, both come out near zero.
    """
    return (slope * contrast).sum((0, 1))


class Effect(NamedTuple):
    """Measured, not estimated: change of the class's log-probability in the predicted clean image, per feature."""

    mean: Tensor  # (N,)
    error: Tensor  # (N,) standard error over images


@torch.no_grad()
def measured(
    subject: Subject,
    ksae: KSAE,
    attribute: str,
    target: int,
    features: Tensor,
    unit: Tensor,
    *,
    n: int,
    seed: int,
    steps: int,
    at: tuple[int, ...],
    beta: float = 3.0,
    together: int = 4,
) -> Effect:
    """Edit one feature at a time at a few steps and look at the picture: does the class really become likelier?

    Each feature is moved by beta times its `unit` (T, P, N) at the sampling steps `at`, on `n` images of fresh seeds; the labeller reads
    the predicted clean images. Only what lies behind the module runs again, for `together` features at once. Kept in the store one by
    one: rankings have features in common.
    """
    if not len(features):
        return Effect(torch.empty(0), torch.empty(0))
    moves = list(zip(features.tolist(), unit.unbind(-1), strict=True))
    gain = _measured(subject, ksae, attribute, target, moves, n, seed, steps, at, beta, together)
    return Effect(gain.mean(1), gain.std(1) / n**0.5)


@artifacts.stored_each("measured", "moves", reads=("texts", "labeller"), ignoring=("together",))
def _measured(
    subject: Subject,
    ksae: KSAE,
    attribute: str,
    target: int,
    moves: Sequence[tuple[int, Tensor]],
    n: int,
    seed: int,
    steps: int,
    at: tuple[int, ...],
    beta: float,
    together: int,
) -> Tensor:
    """The gain of every image under each move, a feature and its unit (T, P): (M, n)."""
    features = torch.tensor([feature for feature, _ in moves])
    unit = torch.stack([moved for _, moved in moves], -1)
    s = sampling.trajectory(subject, steps)
    gains = []
    for index, x, _clean, texts in sampling.unedited(subject, torch.arange(n), seed, s):
        if index in at:
            with full_precision(subject):
                gains.append(
                    _gains(
                        subject,
                        ksae,
                        attribute,
                        target,
                        features,
                        unit[index] * beta,
                        x,
                        texts,
                        s,
                        index,
                        together,
                    )
                )
        if index == max(at):
            break
    return torch.stack(gains).mean(0)


def _gains(
    subject: Subject,
    ksae: KSAE,
    attribute: str,
    target: int,
    features: Tensor,
    unit: Tensor,
    x: Tensor,
    texts: list[str],
    s: sampling.Schedule,
    index: int,
    together: int,
) -> Tensor:
    """Change of the class's log-probability at one step, (N, B): each feature moved alone."""
    rows, ksae = [], gpu.on(ksae, x.device)
    for part in torch.arange(len(features)).split(together):

        def versions(h: Tensor, _call: int, part: Tensor = part) -> Tensor:
            latents = ksae.latents(map_to_vectors(h).float())
            moved = []
            for i in part.tolist():
                own = latents[..., features[i]]  # (B, P)
                change = (own + unit[:, i].to(own)).clamp_min(ksae.floor) - own
                moved.append(
                    h.float()
                    + vectors_to_map(change[..., None] * ksae.directions[features[i]], h.shape)
                )
            return torch.cat(moved).to(h.dtype)

        with hooks.fork(subject.network, subject.module, versions, subject.parts(len(x))) as forked:
            plain, edited = forked.split(subject.predict(x, s.timesteps[index], texts), len(x))
        read = lambda e, again: subject.labeller.logits(
            subject.decode(  # noqa: E731
                sampling.predicted_clean(x.repeat(again, 1, 1, 1), e, s, index)
            )
        )[attribute].log_softmax(-1)[:, target]
        rows.append((read(edited, len(part)).reshape(len(part), -1) - read(plain, 1)).cpu())
    return torch.cat(rows)


def select(
    scores: Tensor, n: int, density: Tensor | None = None, max_density: float = 1.0
) -> Tensor:
    """The N latents with the largest positive score: (<= n,) indices, best first (I_c of Eq. 6).

    Latents that fire on more than `max_density` of all vectors are left out: they carry what all images share, and
    pushing them takes images off the data's manifold.
    """
    scores = scores.clone()
    if density is not None:
        scores[density > max_density] = -torch.inf
    top = scores.topk(min(n, len(scores)))
    return top.indices[top.values > 0]
