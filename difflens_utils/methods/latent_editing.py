"""Latent editing (Asyrp, Kwon et al., 2023): a learned change of h per timestep and class.

    loss = 1 - cos(E_I(P~_t) - E_I(P_t), E_T(class) - E_T(others)) + weight |P~_t - P_t|_1

where P_t is the predicted clean image along an unedited trajectory and P~_t the same with
h + delta_t: the directional CLIP loss and an anchor. One delta serves all images; `edits.push` adds
it, with the asymmetric step that it was learned for.

A stand-in for CLIP gives each text a feature of its own. The direction to a class leads from the
other class's feature to its own:

>>> from types import SimpleNamespace
>>> import torch
>>> from difflens_utils.methods import latent_editing
>>> clip = SimpleNamespace(text_features=lambda texts: torch.eye(len(texts)))
>>> texts = ["a woman", "a man"]
>>> subject = SimpleNamespace(clip=clip, class_texts=lambda attribute: texts)
>>> directions = latent_editing.text_directions(subject, "gender")
>>> [[round(value, 3) for value in row] for row in directions.tolist()]
[[0.707, -0.707], [-0.707, 0.707]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import sampling
from ..runtime import artifacts
from ..runtime.errors import all_positive
from ..runtime.precision import halved
from ..sampling import Moment
from ..subjects.pipelines import Subject
from .base import Method, pushed
from .dense import differences, lengthened

if TYPE_CHECKING:
    from ..study import Study

ANCHOR = 0.3  # weight of the L1 term
RATE = 0.05  # of Adam, in standard deviations of h


@dataclass(frozen=True)
class Recipe:
    """How the deltas are learned."""

    n: int = 128  # generated images
    rounds: int = 6  # how often each is seen
    seed: int = 0
    batch: int = 32


RECIPE = Recipe()  # of what ships


def rows(study: Study, attribute: str) -> list[Method]:
    """Latent editing, its deltas at the length of the mean difference.

    None for a native subject: they are learned through the predicted clean image.
    """
    if study.subject.native:
        return []
    learned = learn(study.subject, attribute, study.settings.steps)
    return [pushed("latent editing", lengthened(list(learned), differences(study, attribute)))]


def text_directions(subject: Subject, attribute: str) -> Tensor:
    """CLIP's direction from the texts of the other classes to each: (classes, F), unit norm."""
    texts = subject.clip.text_features(subject.class_texts(attribute))
    others = (texts.sum(0) - texts) / (len(texts) - 1)
    return F.normalize(texts - others, dim=-1)


def learn(subject: Subject, attribute: str, steps: int, recipe: Recipe | None = None) -> Tensor:
    """Delta h of every class: (classes, T, *h).

    Taken from the store or from what ships with the subject if it is there, and learned otherwise.
    Raises ValueError for sizes <= 0.
    """
    recipe = recipe or RECIPE
    all_positive(n=recipe.n, rounds=recipe.rounds, steps=steps, batch=recipe.batch)
    classes = subject.classes(attribute)
    return _learn(subject, str(attribute), classes, recipe, steps)["delta"].float()


@artifacts.stored(
    "latent_editing",
    reads=("texts", "clip"),
    shipped=lambda a: a["subject"].folder / "latent_editing" / a["attribute"],
)
def _learn(
    subject: Subject, attribute: str, classes: tuple[str, ...], recipe: Recipe, steps: int
) -> dict[str, Tensor]:
    directions = text_directions(subject, attribute).detach()
    s = sampling.trajectory(subject, steps)
    learners: list[_Delta] = []  # one per timestep
    batches = torch.arange(recipe.n).split(recipe.batch) * recipe.rounds
    for rows in tqdm(batches, desc=f"latent editing: {attribute}"):
        for moment, clean in sampling.unedited(subject, rows, recipe.seed, s):
            if len(learners) == moment.index:
                learners.append(_Delta(moment, len(classes), recipe.seed + moment.index))
            learners[moment.index].update(moment, clean, directions)
    deltas = [learner.delta.detach() for learner in learners]
    return {"delta": halved(torch.stack(deltas, 1).cpu())}


class _Delta:
    """The deltas of all classes at one timestep, (classes, *h), and their optimizer.

    They start small and random: at zero the image does not change, and its change has no direction.
    """

    def __init__(self, moment: Moment, classes: int, seed: int) -> None:
        h = sampling.activation(moment.subject, moment.x, moment.timestep, moment.texts)
        spread = h.float().std().item()
        generator = torch.Generator().manual_seed(seed)
        start = 0.02 * spread * torch.randn(classes, *h.shape[1:], generator=generator)
        self.delta = start.to(h.device).requires_grad_(True)
        self.optimizer = torch.optim.Adam([self.delta], lr=RATE * spread)

    def update(self, moment: Moment, clean: Tensor, directions: Tensor) -> None:
        """One step of Adam on a batch with the predicted clean images `clean`."""
        subject = moment.subject
        before = subject.clip.image_features(subject.decode(clean))
        self.optimizer.zero_grad()
        for c, direction in enumerate(directions):
            # One class at a time bounds the memory at one backward pass.
            edited = _edited(moment, self.delta[c])
            moved = subject.clip.image_features(subject.decode(edited)) - before
            turned = 1 - F.cosine_similarity(moved, direction, dim=-1, eps=1e-4)
            loss = turned.mean() + ANCHOR * (edited - clean).abs().mean()
            loss.backward()
        self.optimizer.step()


def _edited(moment: Moment, delta: Tensor) -> Tensor:
    """The predicted clean images (B, C, H, W) with delta added to h."""
    with moment.editing(lambda h, _call: (h.float() + delta).to(h.dtype)):
        return moment.clean(moment.predict())
