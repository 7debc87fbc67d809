"""Latent editing: the learned edits of Asyrp (Kwon et al., 2023), a change of h per timestep and class.

    loss = 1 - cos(E_I(P~_t) - E_I(P_t), E_T(class) - E_T(others)) + weight |P~_t - P_t|_1

where P_t is the predicted clean image along an unedited trajectory and P~_t the same with h + delta_t: the directional CLIP loss and an
anchor. One delta for all images; `edits.push` adds it, and only the asymmetric step was what it was learned for.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import artifacts, hooks, sampling
from .evaluators import class_texts
from .pipelines import Subject
from .precision import halved

ANCHOR = 0.3  # weight of the L1 term
RATE = 0.05  # of Adam, in standard deviations of h
RECIPE = {"n": 128, "rounds": 6, "seed": 0, "batch": 32}  # of what ships


def text_directions(subject: Subject, attribute: str, classes: tuple[str, ...]) -> Tensor:
    """What CLIP's texts say turns another class into each: (classes, F), unit norm."""
    texts = subject.clip.text_features(class_texts(attribute, classes))
    others = (texts.sum(0) - texts) / (len(texts) - 1)
    return F.normalize(texts - others, dim=-1)


def learn(
    subject: Subject,
    attribute: str,
    *,
    n: int,
    rounds: int,
    seed: int,
    steps: int,
    batch: int = 32,
    progress: bool = True,
) -> Tensor:
    """Delta h of every class: (classes, T, *h), learned on `n` generated images seen `rounds` times.

    From the store, or from what ships with the subject, if it is there. Raises ValueError for sizes <= 0.
    """
    artifacts.check_sizes(n=n, rounds=rounds, steps=steps, batch=batch)
    classes = subject.classes(attribute)
    return _learn(subject, attribute, classes, n, rounds, seed, steps, batch, progress)[
        "delta"
    ].float()


@artifacts.stored(
    "latent_editing",
    reads=("texts", "clip"),
    shipped=lambda a: a["subject"].folder / "latent_editing" / a["attribute"],
)
def _learn(
    subject: Subject,
    attribute: str,
    classes: tuple[str, ...],
    n: int,
    rounds: int,
    seed: int,
    steps: int,
    batch: int,
    progress: bool,
) -> dict[str, Tensor]:
    return {
        "delta": halved(
            _trained(subject, attribute, classes, n, rounds, seed, steps, batch, progress)
        )
    }


def _trained(
    subject: Subject,
    attribute: str,
    classes: tuple[str, ...],
    n: int,
    rounds: int,
    seed: int,
    steps: int,
    batch: int,
    progress: bool,
) -> Tensor:
    """Delta h of every class: (classes, T, *h) float32."""
    directions = text_directions(subject, attribute, classes).detach()
    s = sampling.trajectory(subject, steps)
    states: list[
        tuple[Tensor, torch.optim.Adam]
    ] = []  # per timestep: delta (classes, *h) and its optimizer
    batches = torch.arange(n).split(batch)
    for rows in tqdm(
        [part for _ in range(rounds) for part in batches],
        desc=f"latent editing: {attribute}",
        disable=not progress,
    ):
        for index, x, clean, texts in sampling.unedited(subject, rows, seed, s):
            if len(states) == index:
                states.append(
                    _start(
                        sampling.activation(subject, x, s.timesteps[index], texts),
                        len(directions),
                        seed + index,
                    )
                )
            delta, optimizer = states[index]
            before = subject.clip.image_features(subject.decode(clean))
            optimizer.zero_grad()
            for c in range(
                len(directions)
            ):  # one class at a time bounds the memory at one backward pass
                _loss(
                    subject, x, texts, clean, before, delta[c], directions[c], s, index
                ).backward()
            optimizer.step()
    return torch.stack([delta.detach() for delta, _ in states], 1).cpu()


def _start(h: Tensor, classes: int, seed: int) -> tuple[Tensor, torch.optim.Adam]:
    """A small random delta (classes, *h), where the direction of an image's change is defined, and its optimizer."""
    spread = h.float().std().item()
    generator = torch.Generator().manual_seed(seed)
    delta = (
        (0.02 * spread * torch.randn(classes, *h.shape[1:], generator=generator))
        .to(h.device)
        .requires_grad_(True)
    )
    return delta, torch.optim.Adam([delta], lr=RATE * spread)


def _loss(
    subject: Subject,
    x: Tensor,
    texts: list[str],
    clean: Tensor,
    before: Tensor,
    delta: Tensor,
    direction: Tensor,
    s: sampling.Schedule,
    index: int,
) -> Tensor:
    """The loss of one class at one timestep, averaged over the batch: (). `before` are CLIP's features of `clean`."""
    with hooks.edit(
        subject.network,
        subject.module,
        lambda h, _call: (h.float() + delta).to(h.dtype),
        subject.parts(len(x)),
    ):
        predicted = subject.predict(x, s.timesteps[index], texts)
        edited = sampling.predicted_clean(x, predicted, s, index)
    moved = subject.clip.image_features(subject.decode(edited)) - before
    return (1 - F.cosine_similarity(moved, direction, dim=-1, eps=1e-4)).mean() + ANCHOR * (
        edited - clean
    ).abs().mean()
