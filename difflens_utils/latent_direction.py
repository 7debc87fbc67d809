"""Latent direction (Li et al., 2024, InterpretDiffusion): one vector per class, the same at every timestep, added to h under a prompt.

    loss = |noise - e(x_t, t, prompt without the class; h + v)|^2

on images x_0 that were generated with the class in the prompt: what the text no longer says, v has to. Only for models that read text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import artifacts, hooks, sampling
from .pipelines import Prompt, Subject
from .precision import full_precision

RATE = 0.02  # of Adam, in standard deviations of h
RECIPE = {"n": 256, "batches": 400, "seed": 0, "batch": 32}  # of what ships


def _naming(subject: Subject, attribute: str) -> list[list[Prompt]]:
    """The prompts that name each class of an attribute, and of which it is known how they read without."""
    known = [p for p in subject.prompts.learn if p.without]
    return [[p for p in known if p.given.get(attribute) == c] for c in subject.classes(attribute)]


def learnable(subject: Subject, attribute: str) -> bool:
    """Whether the prompts name every class of an attribute."""
    return all(_naming(subject, attribute))


def learn(
    subject: Subject,
    attribute: str,
    *,
    n: int,
    batches: int,
    seed: int,
    steps: int,
    batch: int = 32,
    progress: bool = True,
) -> Tensor:
    """The vectors of all classes, (classes, *h), each learned in so many batches of its `n` generated images.

    From the store, or from what ships with the subject, if it is there. Raises ValueError for sizes <= 0, and for a subject whose
    prompts do not name the classes.
    """
    artifacts.check_sizes(n=n, batches=batches, steps=steps, batch=batch)
    asked = _naming(subject, attribute)
    if not all(asked):
        raise ValueError(
            f"subject {subject.name} has no prompts that name the classes of {attribute}; a latent direction is learned from those"
        )
    prompts = dict(zip(subject.classes(attribute), asked, strict=True))
    return _learn(subject, attribute, prompts, n, batches, seed, steps, batch, progress)["vectors"]


@artifacts.stored(
    "latent_direction", shipped=lambda a: a["subject"].folder / "latent_direction" / a["attribute"]
)
def _learn(
    subject: Subject,
    attribute: str,
    prompts: Mapping[str, Sequence[Prompt]],
    n: int,
    batches: int,
    seed: int,
    steps: int,
    batch: int,
    progress: bool,
) -> dict[str, Tensor]:
    """The vectors of the classes that the `prompts` {class: prompts} name: {"vectors": (classes, *h)}."""
    vectors = []
    with full_precision(subject):
        for c, (name, row) in enumerate(prompts.items()):
            shown = f"{attribute}: {name}" if progress else None
            texts, without = [p.text for p in row], [p.without for p in row]
            vectors.append(
                _vector(subject, texts, without, n, batches, seed + c, steps, batch, shown)
            )
    return {"vectors": torch.stack(vectors)}


def _vector(
    subject: Subject,
    texts: list[str],
    without: list[str],
    n: int,
    batches: int,
    seed: int,
    steps: int,
    batch: int,
    progress: str | None,
) -> Tensor:
    images = sampling.sample(subject, n, seed + 700, steps=steps, prompts=texts)
    with torch.no_grad():
        clean = torch.cat([subject.encode(part.to(subject.device)) for part in images.split(64)])
    own = [without[i] for i in sampling.assigned(n, len(texts)).tolist()]
    alphas, generator = subject.scheduler.alphas_cumprod, torch.Generator().manual_seed(seed)
    vector: Tensor | None = None
    for _ in tqdm(
        range(batches), desc=f"latent direction: {progress}", disable=progress is None, leave=False
    ):
        rows = torch.randperm(n, generator=generator)[:batch]
        t = int(torch.randint(len(alphas), (1,), generator=generator))
        noise = torch.randn(len(rows), *subject.shape, generator=generator).to(subject.device)
        x, said = (
            alphas[t].sqrt() * clean[rows] + (1 - alphas[t]).sqrt() * noise,
            [own[i] for i in rows.tolist()],
        )
        if vector is None:
            h = sampling.activation(subject, x, t, said)
            vector = torch.zeros(h.shape[1:], device=h.device).requires_grad_(True)
            optimizer = torch.optim.Adam([vector], lr=RATE * h.float().std().item())
        with hooks.edit(
            subject.network, subject.module, lambda h, _call, v=vector: h + v.to(h.dtype)
        ):
            loss = (subject.epsilon(x, t, said, guided=False) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vector.detach().cpu()
