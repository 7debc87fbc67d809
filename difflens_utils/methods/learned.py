"""Gains that are learned: by how much each of a few features is moved at every step.

The edit stays what it is in DiffLens: N named latents of a class are moved along their class
differences, s_j <- s_j + b_tj u_j. Only the gains b (T, N) are learned, along edited trajectories,
by what they do to the predicted clean image:

    loss = hinge of the labeller's class + KEEP (1 - CLIP-I to the unedited image)
           + LEAK (change of the labeller's view of the factors that should stay)

x_t is detached: each step learns what it does at once. The same loss can learn a dense change of h
per step (T, *h), which is the control: it has hundreds of times the parameters.

Of two features that make the class, one changes the image more. Its gain is lowered:

>>> import torch
>>> from difflens_utils.methods import learned
>>> from difflens_utils.ksae import Neurons
>>> moves = learned.Sparse(Neurons(2), torch.tensor([0, 1]), torch.ones(1, 1, 2))
>>> moved = moves.apply(torch.zeros(1, 2, 1, 1), torch.tensor([2.0, 0.5]), index=0)
>>> moved.flatten().tolist()
[2.0, 0.5]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import sampling
from ..ksae import Dictionary, map_to_vectors, vectors_to_map
from ..runtime.precision import planar
from ..sampling import Moment
from ..sampling.sampler import Noise, image_seeds
from ..sampling.schedule import ddim_step
from ..subjects.pipelines import Subject

TEMPERATURE = 10.0  # the labeller's logits lie tens apart: undivided they would drown the rest


class Moves(Protocol):
    """A kind of edit with numbers that can be learned, some for each step."""

    def start(self, h: Tensor) -> Tensor:
        """The numbers of one step before anything is learned."""

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        """h (B, *h) moved by the numbers of step `index`; differentiable in them."""

    def project(self, numbers: Tensor) -> None:
        """Takes the numbers back, in place, to where they may be."""

    rate: float  # of Adam, as a share of the numbers' own scale


@dataclass(frozen=True)
class Sparse:
    """Gains (N,) >= 0 of latents that are moved along their class differences."""

    dictionary: Dictionary
    features: Tensor  # (N,)
    unit: Tensor  # (T, P, N)
    rate: float = 0.1

    def start(self, h: Tensor) -> Tensor:
        return torch.ones(len(self.features), device=h.device)

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        model = self.dictionary.on_device(h.device)
        chosen = self.features.to(h.device)
        s = model.latents(map_to_vectors(h).float())[..., chosen]  # (B, P, N)
        moved = (s + numbers * self.unit[index].to(s)).clamp_min(model.floor)
        change = (moved - s) @ model.directions[chosen]
        return (h.float() + vectors_to_map(change, h.shape)).to(h.dtype)

    def project(self, numbers: Tensor) -> None:
        numbers.clamp_(min=0)


@dataclass(frozen=True)
class Dense:
    """A change of h itself, (*h), which starts as a share of a direction (T, *h)."""

    direction: Tensor
    rate: float = 0.02

    def start(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h[0], dtype=torch.float32)

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        spread = self.direction[index].std().to(h.device)
        base = self.direction[index].to(h.device)
        return (h.float() + base + 10 * spread * numbers).to(h.dtype)

    def project(self, numbers: Tensor) -> None:
        pass


@dataclass(frozen=True)
class Recipe:
    """How gains are learned."""

    n: int = 128  # generated images
    rounds: int = 4  # how often each is seen
    seed: int = 0
    batch: int = 32
    keep: float = 4.0
    leak: float = 1.0
    margin: float = 10.0  # of the class's logit over the others', from which it counts as reached


RECIPE = Recipe()


def learn(
    subject: Subject,
    moves: Moves,
    attribute: str,
    target: int,
    others: Sequence[str],
    steps: int,
    recipe: Recipe = RECIPE,
) -> Tensor:
    """The numbers of every step towards one class: (T, ...). `others` are factors that should stay."""
    s = sampling.trajectory(subject, steps)
    learners: list[_Learner] = []
    with planar(subject):
        batches = torch.arange(recipe.n).split(recipe.batch) * recipe.rounds
        for rows in tqdm(batches, desc=f"gains: {attribute} {target}", mininterval=5):
            _walk(subject, s, rows, learners, moves, (attribute, target, tuple(others)), recipe)
    return torch.stack([learner.numbers.detach().cpu() for learner in learners])


class _Learner:
    def __init__(self, moves: Moves, h: Tensor) -> None:
        self.numbers = moves.start(h).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.numbers], lr=moves.rate)


def _walk(subject, s, rows, learners, moves, aim, recipe) -> None:
    seeds = image_seeds(int(rows.max()) + 1, recipe.seed)
    prompts = subject.texts()
    texts = [prompts[i % len(prompts)] for i in rows.tolist()]
    x = Noise([seeds[i] for i in rows.tolist()], subject.shape, subject.device).draw()
    plain_x = x
    for index in range(len(s)):
        with torch.no_grad():
            original = Moment(subject, plain_x, texts, s, index)
            before = original.clean(original.predict())
            moment = Moment(subject, x, texts, s, index)
            direction = moment.clean(moment.predict()) if index else before
        if len(learners) == index:
            h = sampling.activation(subject, x, moment.timestep, texts)
            learners.append(_Learner(moves, h))
        learner = learners[index]
        with torch.enable_grad():
            numbers = learner.numbers

            def function(h: Tensor, _call: int) -> Tensor:
                return moves.apply(h, numbers, index)

            with moment.editing(function):
                clean = moment.clean(moment.predict())
            loss = _loss(subject, clean, before, aim, recipe)
            learner.optimizer.zero_grad()
            loss.backward()
        learner.optimizer.step()
        with torch.no_grad():
            moves.project(learner.numbers)
        x = ddim_step(x, clean.detach(), direction, s, index)
        plain_x = ddim_step(plain_x, before, before, s, index)


def _loss(subject, clean, before, aim, recipe):
    attribute, target, others = aim
    image, original = subject.decode(clean), subject.decode(before).detach()
    logits = subject.labeller.logits(image)
    z = logits[attribute]
    rest = torch.cat([z[:, :target], z[:, target + 1 :]], 1)
    lead = z[:, target] - rest.amax(1)
    loss = (recipe.margin - lead).clamp_min(0).mean() / TEMPERATURE
    with torch.no_grad():
        known = subject.labeller.logits(original)
        e0 = subject.clip.image_features(original)
    e = subject.clip.image_features(image)
    loss = loss + recipe.keep * (1 - (e * e0).sum(1)).mean()
    for factor in others:
        p0 = (known[factor] / TEMPERATURE).softmax(-1)
        change = F.kl_div((logits[factor] / TEMPERATURE).log_softmax(-1), p0, reduction="batchmean")
        loss = loss + recipe.leak * change / len(others)
    return loss
