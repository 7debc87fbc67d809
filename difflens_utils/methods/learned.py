"""Gains that are learned: by how much each of a few features is moved at every step.

The edit stays what it is in DiffLens: N named latents of a class are moved along their class
differences, s_j <- s_j + b_tj u_j. Only the gains b (T, N) are learned, by what they do to the
predicted clean image P~_t beside that of the unedited image, P_t:

    loss = hinge of the class's lead in the labeller's logits
           + KEEP (1 - CLIP-I of P_t and P~_t) + LEAK (divergence of the factors that should stay)

The images walk along edited trajectories, with the asymmetric step. x_t is detached, so each step
learns what it does at once. `Dense` learns a change of h itself with the same loss, (T, *h): the
control, which has hundreds of times the parameters and no names.

A gain of 2 moves neuron 0 by twice its class difference:

>>> import torch
>>> from difflens_utils.methods import learned
>>> from difflens_utils.ksae import Neurons
>>> moves = learned.Sparse(Neurons(2), torch.tensor([0, 1]), torch.ones(1, 1, 2))
>>> moves.apply(torch.zeros(1, 2, 1, 1), torch.tensor([2.0, 0.5]), index=0).flatten().tolist()
[2.0, 0.5]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import sampling
from ..attribution import Aim
from ..ksae import Dictionary, map_to_vectors, vectors_to_map
from ..runtime import artifacts
from ..runtime.errors import all_positive
from ..runtime.precision import planar
from ..sampling import Moment, Schedule
from ..subjects.pipelines import Subject

TEMPERATURE = 10.0  # the labeller's logits lie tens apart: undivided they would drown the rest


class Moves(Protocol):
    """A kind of edit with numbers that can be learned, some for each step."""

    @property
    def rate(self) -> float:
        """The learning rate of Adam, in the numbers' own scale."""

    def start(self, h: Tensor) -> Tensor:
        """The numbers of one step before anything is learned, for h (B, *h)."""

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        """h (B, *h) moved by the numbers of step `index`; differentiable in them."""

    def project(self, numbers: Tensor) -> None:
        """Takes the numbers back, in place, to where they may be."""


@dataclass(frozen=True)
class Sparse:
    """Gains (N,) >= 0 of features: of their class differences, or of the way to a level."""

    dictionary: Dictionary
    features: Tensor  # (N,)
    unit: Tensor  # (T, P, N) class differences, whose signs say which way a level is approached
    level: Tensor | None = None  # (T, P, N) where images of the class are; None: add `unit`
    rate: float = 0.1

    def start(self, h: Tensor) -> Tensor:
        return torch.ones(len(self.features), device=h.device)

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        model = self.dictionary.on_device(h.device)
        chosen = self.features.to(h.device)
        s = model.latents(map_to_vectors(h).float())[..., chosen]  # (B, P, N)
        moved = (s + numbers * self._way(s, index)).clamp_min(model.floor)
        change = (moved - s) @ model.directions[chosen]
        return (h.float() + vectors_to_map(change, h.shape)).to(h.dtype)

    def _way(self, s: Tensor, index: int) -> Tensor:
        """What a gain of 1 adds to latents s (B, P, N)."""
        unit = self.unit[index].to(s)
        if self.level is None:
            return unit.expand_as(s)
        missing = self.level[index].to(s) - s
        return torch.where(unit > 0, missing.clamp_min(0), missing.clamp_max(0))

    def project(self, numbers: Tensor) -> None:
        numbers.clamp_(min=0)


@dataclass(frozen=True)
class Dense:
    """A change of h, (*h), beside a direction (T, *h) from which learning starts.

    It is given in standard deviations of the direction.
    """

    direction: Tensor
    rate: float = 0.2

    def start(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h[0], dtype=torch.float32)

    def apply(self, h: Tensor, numbers: Tensor, index: int) -> Tensor:
        direction = self.direction[index].to(h.device)
        return (h.float() + direction + direction.std() * numbers).to(h.dtype)

    def project(self, numbers: Tensor) -> None:
        """Any number is allowed."""

    def learned(self, numbers: Tensor) -> Tensor:
        """The direction with what was learned (T, *h)."""
        spread = self.direction.flatten(1).std(1).reshape(-1, *[1] * (self.direction.ndim - 1))
        return self.direction + spread * numbers


@dataclass(frozen=True)
class Recipe:
    """How gains are learned: on as many images, seen as often, as those of latent editing."""

    n: int = 128  # generated images
    rounds: int = 6  # how often each is seen
    seed: int = 0
    batch: int = 32
    keep: float = 4.0
    leak: float = 1.0
    lead: float = 10.0  # of the class's logit over the others', from which it counts as reached


RECIPE = Recipe()


def learn(
    subject: Subject, moves: Moves, aim: Aim, steps: int, recipe: Recipe | None = None
) -> Tensor:
    """The numbers of every step towards a class: (T, ...); from the store.

    Raises ValueError for sizes <= 0.
    """
    recipe = recipe or RECIPE
    all_positive(n=recipe.n, rounds=recipe.rounds, batch=recipe.batch, steps=steps)
    return _learn(subject, moves, aim, steps, recipe)["numbers"]


@artifacts.stored("gains", reads=("texts", "labeller", "clip"))
def _learn(
    subject: Subject, moves: Moves, aim: Aim, steps: int, recipe: Recipe
) -> dict[str, Tensor]:
    lesson = _Lesson(subject, moves, aim, recipe, sampling.trajectory(subject, steps))
    batches = torch.arange(recipe.n).split(recipe.batch) * recipe.rounds
    with planar(subject):
        for rows in tqdm(batches, desc=f"gains: {aim.attribute} {aim.target}", mininterval=5):
            lesson.take(rows)
    return {"numbers": torch.stack([learner.numbers.detach().cpu() for learner in lesson.learners])}


class _Learner:
    """The numbers of one step, and their optimizer."""

    def __init__(self, moves: Moves, h: Tensor) -> None:
        self.numbers = moves.start(h).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.numbers], lr=moves.rate)


class _Lesson:
    """Walks batches along edited trajectories, and learns at every step."""

    def __init__(
        self, subject: Subject, moves: Moves, aim: Aim, recipe: Recipe, schedule: Schedule
    ) -> None:
        self.subject, self.moves, self.aim = subject, moves, aim
        self.recipe, self.schedule = recipe, schedule
        self.others = subject.unrelated(aim.attribute)
        self.learners: list[_Learner] = []

    def take(self, rows: Tensor) -> None:
        """One batch, the images `rows` (B,), from noise to image."""
        x = torch.empty(0)
        for original, before in sampling.unedited(
            self.subject, rows, self.recipe.seed, self.schedule
        ):
            if original.index == 0:
                x = original.x
            moment = Moment(self.subject, x, original.texts, self.schedule, original.index)
            with torch.no_grad():
                direction = moment.clean(moment.predict())
            edited = self._step(moment, before)
            x = sampling.advance(x, edited, direction, self.schedule, original.index)

    def _step(self, moment: Moment, before: Tensor) -> Tensor:
        """One step of Adam; returns the edited clean images (B, C, H, W) before it."""
        if len(self.learners) == moment.index:
            h = sampling.activation(moment.subject, moment.x, moment.timestep, moment.texts)
            self.learners.append(_Learner(self.moves, h))
        learner = self.learners[moment.index]

        def move(h: Tensor, _call: int) -> Tensor:
            return self.moves.apply(h, learner.numbers, moment.index)

        with torch.enable_grad(), moment.editing(move):
            edited = moment.clean(moment.predict())
            loss = self._loss(edited, before)
        learner.optimizer.zero_grad()
        loss.backward()
        learner.optimizer.step()
        with torch.no_grad():
            self.moves.project(learner.numbers)
        return edited.detach()

    def _loss(self, edited: Tensor, before: Tensor) -> Tensor:
        """The loss of edited clean images (B, C, H, W) beside the unedited ones."""
        subject, recipe = self.subject, self.recipe
        image, original = subject.decode(edited), subject.decode(before)
        logits = subject.labeller.logits(image)
        with torch.no_grad():
            known = subject.labeller.logits(original)
            anchor = subject.clip.image_features(original)
        lost = 1 - (subject.clip.image_features(image) * anchor).sum(1)
        loss = self._missing(logits[self.aim.attribute]) + recipe.keep * lost.mean()
        leaks = [_divergence(known[factor], logits[factor]) for factor in self.others]
        return loss + recipe.leak * torch.stack(leaks).mean() if leaks else loss

    def _missing(self, logits: Tensor) -> Tensor:
        """What the class's logit lacks of the lead that is asked for, logits (B, classes)."""
        target = self.aim.target
        rivals = torch.cat([logits[:, :target], logits[:, target + 1 :]], 1).amax(1)
        missing = self.recipe.lead - (logits[:, target] - rivals)
        return missing.clamp_min(0).mean() / TEMPERATURE


def _divergence(before: Tensor, after: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of classes from those before, logits (B, classes) each."""
    start = (before / TEMPERATURE).softmax(-1)
    end = (after / TEMPERATURE).log_softmax(-1)
    return F.kl_div(end, start, reduction="batchmean")
