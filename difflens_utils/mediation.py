"""How much of an attribute's effect on the picture passes the studied module: causal mediation (Pearl, 2001).

A probe shows that h tells an attribute. Whether the picture takes it from there is another question: a U-Net has skip
connections around its bottleneck. Here two portraits differ in one attribute and in what depends on it, and share
everything else and the noise; h of the one is put into the pass of the other, and the predicted clean image tells how far
it goes along.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from . import artifacts, hooks, metrics, sampling
from .metrics import Estimate
from .pipelines import Subject
from .precision import full_precision
from .worlds import Portraits, World

CONTROL = "background"  # the factor that the control changes: it depends on no attribute


class Mediation(NamedTuple):
    """How far the predicted clean image moves from the source's portrait to the target's: 0 not at all, 1 all the way.

    One row per image and timestep, (T, n) each: with everything the network sees exchanged, with h alone, and, as the
    control, with h of the source's portrait in which only a factor that depends on nothing (the background) is another.
    """

    total: Tensor
    through: Tensor
    control: Tensor

    def curve(self, name: str) -> list[Estimate]:
        """The mean of one of the three at every timestep, with its bootstrap interval over images."""
        return [metrics.mean(row) for row in getattr(self, name)]

    def share(self, steps: tuple[int, ...], name: str = "through") -> Estimate:
        """What passes the module (or what the control moves), as a share of the whole effect, at some of the timesteps together."""
        part, whole = (getattr(self, n)[list(steps)].mean(0) for n in (name, "total"))
        return metrics.bootstrap_means(lambda a, b: a / b, part, whole)


@torch.no_grad()
def through_module(
    subject: Subject,
    attribute: str,
    source: int,
    target: int,
    timesteps: tuple[int, ...],
    *,
    n: int,
    seed: int,
) -> Mediation:
    """The natural indirect effect of an attribute through the subject's module, by exchanging h between paired renders.

    `source` and `target` are classes of the attribute. In a drawn world the two renders differ in the attribute and what follows from it; of
    labelled images they are two images, and whatever else tells them apart counts too. The control is the first render before another
    background, or another image with the labels of the first. Kept in the store. Raises ValueError for sizes <= 0 or a subject without a world.
    """
    artifacts.check_sizes(n_pairs=n)
    classes = subject.classes(attribute)
    return Mediation(
        **_exchanged(subject, attribute, classes[source], classes[target], timesteps, n, seed)
    )


@artifacts.stored("mediation", reads=("data", "prompts"))
def _exchanged(
    subject: Subject,
    attribute: str,
    source: str,
    target: str,
    timesteps: tuple[int, ...],
    n: int,
    seed: int,
) -> dict[str, Tensor]:
    """The fields of `Mediation`, between two classes by name."""
    world = subject.data
    before, after = (world.sample(n, seed, do={attribute: name}) for name in (source, target))
    other = _control(world, before)
    noise = torch.randn(n, *subject.shape, generator=torch.Generator().manual_seed(seed)).to(
        subject.device
    )
    with full_precision(subject):
        a, b, control = (
            subject.encode(world.render(p, subject.size).to(subject.device))
            for p in (before, after, other)
        )
        rows = [
            _moves(subject, a, b, control, noise, subject.describe(before), t) for t in timesteps
        ]
    return {
        name: torch.stack(values).cpu()
        for name, values in zip(Mediation._fields, zip(*rows, strict=True), strict=True)
    }


def _control(world: World, before: Portraits) -> Portraits:
    if CONTROL not in world.factors:
        return replace(before, nuisance=-before.nuisance)
    return replace(
        before,
        labels=before.labels
        | {CONTROL: (before.labels[CONTROL] + 1) % len(world.factors[CONTROL].classes)},
    )


def _moves(
    subject: Subject,
    a: Tensor,
    b: Tensor,
    control: Tensor,
    noise: Tensor,
    texts: list[str] | None,
    t: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """How far P_t moves along b - a, (n,) each: everything exchanged, h exchanged, h of the control. All see the same `texts`."""
    keep, spread = (
        subject.scheduler.alphas_cumprod[t].sqrt().item(),
        (1 - subject.scheduler.alphas_cumprod[t]).sqrt().item(),
    )
    x_a, x_b, x_control = (keep * image + spread * noise for image in (a, b, control))

    def clean(x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def exchange(own: Tensor, _call: int) -> Tensor | None:
            seen.append(own)
            return h

        with hooks.edit(subject.network, subject.module, exchange):
            predicted = subject.predict(x, t, texts)
        return sampling.clean_image(predicted, x, keep, spread, subject.predicts), seen[0]

    from_a, _ = clean(x_a)
    from_b, h_b = clean(x_b)
    way = b - a
    moved = (from_b, clean(x_a, h_b)[0], clean(x_a, clean(x_control)[1])[0])
    return tuple(((m - from_a) * way).sum((1, 2, 3)) / way.square().sum((1, 2, 3)) for m in moved)
