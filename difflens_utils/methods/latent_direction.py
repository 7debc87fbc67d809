"""Latent direction (Li et al., 2024, InterpretDiffusion): one vector per class, added to h.

    loss = |noise - e(x_t, t, prompt without the class; h + v)|^2

on images x_0 that were generated with the class in the prompt: v has to say what the text no longer
says. The vector is the same at every timestep. The method is for models that read text.

The method needs prompts that name the classes, and the same prompts without the names:

>>> from types import SimpleNamespace
>>> from difflens_utils.methods import latent_direction
>>> from difflens_utils.subjects.conditions import Prompt, Prompts
>>> names = ("female", "male")
>>> texts = [Prompt(f"a {name} nurse", {"gender": name}, "a nurse") for name in names]
>>> subject = SimpleNamespace(prompts=Prompts(learn=tuple(texts)), classes=lambda factor: names)
>>> latent_direction.learnable(subject, "gender"), latent_direction.learnable(subject, "age")
(True, False)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from .. import sampling
from ..runtime import artifacts
from ..runtime.errors import all_positive
from ..runtime.precision import full_precision
from ..sampling import hooks
from ..subjects.conditions import Prompt
from ..subjects.pipelines import Subject
from .base import DIRECTION, Method, pushed

if TYPE_CHECKING:
    from ..study import Study

RATE = 0.02  # of Adam, in standard deviations of h


@dataclass(frozen=True)
class Recipe:
    """How the vector of a class is learned."""

    n: int = 256  # generated images
    batches: int = 400
    seed: int = 0
    batch: int = 32


RECIPE = Recipe()  # of what ships


def rows(study: Study, attribute: str) -> list[Method]:
    """Latent direction, where the prompts name the classes of every attribute (Table 2)."""
    subject, steps = study.subject, study.settings.steps
    if subject.native or not all(learnable(subject, a) for a in subject.attributes):
        return []
    vectors = learn(subject, attribute, steps)
    along = vectors[:, None].expand(-1, steps, *vectors.shape[1:])  # the same at every timestep
    return [pushed("latent direction", list(along), DIRECTION, asymmetric=False)]


def _naming(subject: Subject, attribute: str) -> list[list[Prompt]]:
    """Per class of an attribute, the prompts that name it and that are known without the name."""
    known = [p for p in subject.prompts.learn if p.without]
    return [[p for p in known if p.given.get(attribute) == c] for c in subject.classes(attribute)]


def learnable(subject: Subject, attribute: str) -> bool:
    """Whether the prompts name every class of an attribute."""
    return all(_naming(subject, attribute))


def learn(subject: Subject, attribute: str, steps: int, recipe: Recipe | None = None) -> Tensor:
    """The vectors of all classes: (classes, *h).

    They come from the store, or from what ships with the subject, if they are there. Raises
    ValueError for sizes <= 0, and for a subject whose prompts do not name the classes.
    """
    recipe = recipe or RECIPE
    all_positive(n=recipe.n, batches=recipe.batches, steps=steps, batch=recipe.batch)
    named = _naming(subject, attribute)
    if not all(named):
        raise ValueError(
            f"subject {subject.name} has no prompts that name the classes of {attribute}; "
            "a latent direction is learned from those"
        )
    prompts = dict(zip(subject.classes(attribute), named, strict=True))
    return _learn(subject, str(attribute), prompts, recipe, steps)["vectors"]


@artifacts.stored(
    "latent_direction", shipped=lambda a: a["subject"].folder / "latent_direction" / a["attribute"]
)
def _learn(
    subject: Subject,
    attribute: str,
    prompts: Mapping[str, Sequence[Prompt]],
    recipe: Recipe,
    steps: int,
) -> dict[str, Tensor]:
    """The vectors of the classes that the `prompts` {class: prompts} name: (classes, *h)."""
    vectors = []
    with full_precision(subject):
        for c, (name, row) in enumerate(prompts.items()):
            texts = [p.text for p in row]
            images = sampling.sample(
                subject, recipe.n, recipe.seed + c + 700, steps=steps, prompts=texts
            )
            without = [row[i].without for i in sampling.assigned(recipe.n, len(row)).tolist()]
            bar = tqdm(range(recipe.batches), desc=f"latent direction: {attribute}: {name}")
            vectors.append(_vector(subject, images, without, recipe, recipe.seed + c, bar))
    return {"vectors": torch.stack(vectors)}


def _vector(
    subject: Subject, images: Tensor, texts: list[str], recipe: Recipe, seed: int, bar: tqdm
) -> Tensor:
    """The vector (*h) of images (n, 3, H, W) whose `texts` do not name their class."""
    with torch.no_grad():
        clean = torch.cat([subject.encode(part.to(subject.device)) for part in images.split(64)])
    total = subject.scheduler.config["num_train_timesteps"]
    generator = torch.Generator().manual_seed(seed)
    vector, optimizer = torch.empty(0), None
    for _ in bar:
        rows = torch.randperm(len(clean), generator=generator)[: recipe.batch]
        t = int(torch.randint(total, (1,), generator=generator))
        keep, spread = subject.level(t)
        noise = torch.randn(len(rows), *subject.shape, generator=generator).to(subject.device)
        x = keep * clean[rows] + spread * noise
        prompts = [texts[i] for i in rows.tolist()]
        if optimizer is None:
            h = sampling.activation(subject, x, t, prompts)
            vector = torch.zeros(h.shape[1:], device=h.device).requires_grad_(True)
            optimizer = torch.optim.Adam([vector], lr=RATE * h.float().std().item())
        with hooks.edit(subject.network, subject.module, _adding(vector)):
            loss = (subject.epsilon(x, t, prompts, guided=False) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vector.detach().cpu()


def _adding(vector: Tensor) -> hooks.HookEdit:
    return lambda h, _call: h + vector.to(h.dtype)
