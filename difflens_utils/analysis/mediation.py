"""How much of an attribute's effect on the picture passes a module (Pearl, 2001).

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

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
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
TOGETHER = 4  # modules whose outputs are kept at once: those of a large transformer take gigabytes


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
def through_modules(
    subject: Subject,
    exchange: Exchange,
    timesteps: tuple[float, ...],
    modules: Sequence[str],
    *,
    n: int,
    seed: int,
) -> dict[str, Mediation]:
    """The natural indirect effect of an attribute through each of some modules: {module: effect}.

    In a drawn world the two images differ in the attribute and what follows from it. Of labelled
    images they are two images, and whatever else tells them apart counts too; the control is then
    another image with the labels of the first. At each timestep the network answers twice per
    module, and three times more for every `TOGETHER` of them. Results are kept in the store, module
    by module. Raises ValueError for sizes <= 0, an unknown module or a subject without a world.
    """
    all_positive(n_pairs=n)
    for module in modules:
        hooks.find(subject.network, module)
    found: dict[str, Mediation] = {}
    for i in range(0, len(modules), TOGETHER):
        some = modules[i : i + TOGETHER]
        moved = _exchanged(subject, exchange, timesteps, some, n, seed)
        found |= {module: Mediation(*row) for module, row in zip(some, moved, strict=True)}
    return found


@artifacts.stored_each("mediation", "modules", reads=("data", "prompts"))
def _exchanged(
    subject: Subject,
    exchange: Exchange,
    timesteps: tuple[float, ...],
    modules: Sequence[str],
    n: int,
    seed: int,
) -> Tensor:
    """The fields of each module's `Mediation`: (modules, 3, T, n)."""
    world = subject.data
    before, after = (
        world.sample(n, seed, do={exchange.attribute: name})
        for name in (exchange.source, exchange.target)
    )
    scenes = (before, after, _control(world, before))
    texts = subject.describe(before)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, *subject.shape, generator=generator).to(subject.device)
    with full_precision(subject):
        images = [
            subject.encode(world.render(scene, subject.size).to(subject.device)) for scene in scenes
        ]
        moved = [_moved(subject, modules, images, noise, t, texts) for t in timesteps]
    return torch.stack(moved, 2).cpu()


def _control(world: World, before: Scenes) -> Scenes:
    if CONTROL not in world.factors:
        return replace(before, nuisance=-before.nuisance)
    other = (before.labels[CONTROL] + 1) % len(world.factors[CONTROL].classes)
    return replace(before, labels=before.labels | {CONTROL: other})


def _along(moved: Tensor, way: Tensor) -> Tensor:
    """How far images moved along a way, both (n, C, H, W), as a share of it: (n,)."""
    return (moved * way).sum((1, 2, 3)) / way.square().sum((1, 2, 3))


def _moved(
    subject: Subject,
    modules: Sequence[str],
    images: Sequence[Tensor],
    noise: Tensor,
    t: float,
    texts: list[str] | None,
) -> Tensor:
    """How far predicted clean images move at timestep t: (modules, 3, n), as in `Mediation`.

    `images` are x_0 of the source, the target and the control. All see the same texts.
    """
    keep, spread = subject.level(t)
    source, target, control = (keep * image + spread * noise for image in images)

    def clean(x: Tensor) -> Tensor:
        predicted = subject.predict(x, t, texts)
        return sampling.clean_image(predicted, x, keep, spread, subject.predicts)

    def along(end: Tensor) -> Tensor:
        return _along(end - start, images[1] - images[0])

    start = clean(source)
    with _outputs(subject, modules) as of_target:
        total = along(clean(target))
    with _outputs(subject, modules) as of_control:
        clean(control)
    found = []
    for module in modules:
        with _exchanging(subject, module, of_target[module][0]):
            through = along(clean(source))
        with _exchanging(subject, module, of_control[module][0]):
            found.append(torch.stack([total, through, along(clean(source))]))
    return torch.stack(found)


@contextmanager
def _outputs(subject: Subject, modules: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What each of the modules gives while the context is open, call by call."""
    with ExitStack() as stack:
        contexts = {module: hooks.record(subject.network, module) for module in modules}
        yield {module: stack.enter_context(context) for module, context in contexts.items()}


def _exchanging(subject: Subject, module: str, h: Tensor) -> AbstractContextManager[None]:
    """A context in which a module gives h whatever it sees."""
    return hooks.edit(subject.network, module, lambda _own, _call: h)
