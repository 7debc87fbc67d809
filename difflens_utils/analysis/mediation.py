"""How much of an attribute's effect on the picture passes the studied module (Pearl, 2001).

A probe shows that h tells an attribute. Whether the picture takes it from there is another
question: a U-Net has skip connections around its bottleneck. Here two images of the data differ in
one attribute and in what depends on it, and share everything else and the noise. h of the one is
put into the forward pass of the other, and the predicted clean image tells how far it follows.

A quarter of the effect passes the module here:

>>> import torch
>>> from difflens_utils.analysis.mediation import Mediation
>>> total = torch.full((2, 5), 0.8)  # (T, n)
>>> found = Mediation(total, through=total / 4, control=torch.zeros(2, 5))
>>> round(found.share(steps=(0, 1)).value, 3)
0.25
>>> found.curve("control")[0].value
0.0
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .. import metrics, sampling
from ..metrics import Estimate
from ..runtime import artifacts
from ..runtime.errors import all_positive
from ..runtime.precision import full_precision
from ..sampling import hooks
from ..subjects.pipelines import Subject
from ..worlds import Scenes, World

CONTROL = "background"  # the factor that the control changes: it depends on no attribute


class Mediation(NamedTuple):
    """How far the predicted clean image moves from the source's image (0) to the target's (1).

    (T, n) each: one row per timestep.
    """

    total: Tensor  # with everything that the network sees exchanged
    through: Tensor  # with h alone exchanged
    control: Tensor  # with h of the source's image before another background

    def curve(self, name: str) -> list[Estimate]:
        """The mean of one of the three at every timestep, with its interval over images."""
        return [metrics.mean(row) for row in getattr(self, name)]

    def share(self, steps: tuple[int, ...], name: str = "through") -> Estimate:
        """What passes the module, as a share of the whole effect, at some steps together."""
        part, whole = (getattr(self, n)[list(steps)].mean(0) for n in (name, "total"))
        return metrics.bootstrap_means(lambda a, b: a / b, part, whole)


class Exchange(NamedTuple):
    """Two classes of an attribute between whose images h is exchanged."""

    attribute: str
    source: str
    target: str


@torch.no_grad()
def through_module(
    subject: Subject, exchange: Exchange, timesteps: tuple[float, ...], *, n: int, seed: int
) -> Mediation:
    """The natural indirect effect of an attribute through the subject's module.

    In a drawn world the two images differ in the attribute and what follows from it. Of labelled
    images they are two images, and whatever else tells them apart counts too; the control is then
    another image with the labels of the first. The result is kept in the store. Raises ValueError
    for sizes <= 0 or a subject without a world.
    """
    all_positive(n_pairs=n)
    return Mediation(**_exchanged(subject, exchange, timesteps, n, seed))


@artifacts.stored("mediation", reads=("data", "prompts"))
def _exchanged(
    subject: Subject, exchange: Exchange, timesteps: tuple[float, ...], n: int, seed: int
) -> dict[str, Tensor]:
    """The fields of `Mediation`."""
    world = subject.data
    before, after = (
        world.sample(n, seed, do={exchange.attribute: name})
        for name in (exchange.source, exchange.target)
    )
    scenes = (before, after, _control(world, before))
    texts = subject.describe(before)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *subject.shape, generator=generator).to(subject.device)
    moves = []
    with full_precision(subject):
        images = [
            subject.encode(world.render(scene, subject.size).to(subject.device)) for scene in scenes
        ]
        way = images[1] - images[0]
        for t in timesteps:
            *ends, start = _clean_images(subject, images, noise, t, texts)
            moves.append([_along(end - start, way) for end in ends])
    columns = zip(*moves, strict=True)
    names = Mediation._fields
    return {name: torch.stack(c).cpu() for name, c in zip(names, columns, strict=True)}


def _control(world: World, before: Scenes) -> Scenes:
    if CONTROL not in world.factors:
        return replace(before, nuisance=-before.nuisance)
    other = (before.labels[CONTROL] + 1) % len(world.factors[CONTROL].classes)
    return replace(before, labels=before.labels | {CONTROL: other})


def _along(moved: Tensor, way: Tensor) -> Tensor:
    """How far images moved along a way, both (n, C, H, W), as a share of it: (n,)."""
    return (moved * way).sum((1, 2, 3)) / way.square().sum((1, 2, 3))


def _clean_images(
    subject: Subject, images: list[Tensor], noise: Tensor, t: float, texts: list[str] | None
) -> list[Tensor]:
    """Predicted clean images, (n, C, H, W) each, at timestep t.

    `images` are x_0 of the source, the target and the control. The answers are those with
    everything exchanged, with h exchanged, with h of the control, and of the source itself. All see
    the same texts.
    """
    keep, spread = subject.level(t)

    def clean(x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []

        def exchange(own: Tensor, _call: int) -> Tensor | None:
            seen.append(own)
            return h

        with hooks.edit(subject.network, subject.module, exchange):
            predicted = subject.predict(x, t, texts)
        return sampling.clean_image(predicted, x, keep, spread, subject.predicts), seen[0]

    source, target, control = (keep * image + spread * noise for image in images)
    from_source, _ = clean(source)
    from_target, h = clean(target)
    _, h_of_control = clean(control)
    return [from_target, clean(source, h)[0], clean(source, h_of_control)[0], from_source]
