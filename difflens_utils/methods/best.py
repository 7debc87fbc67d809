"""DiffLens as well as this study can make it, from parts that can be left out one by one.

What it moves, and along what, stays as in DiffLens: features of a k-SAE that attribution through
the picture proposes, by their class differences. Each part of `Ingredients` mends one thing in how
that is done. Which recipe of RECIPES an attribute gets was chosen on tuning seeds, before anything
was reported (`models/ingredients.py`).

>>> import difflens_utils as dl
>>> from difflens_utils.methods import best
>>> subject = dl.open("digits", device="cpu").subject
>>> best.chosen(subject, "stroke") == best.RECIPES["features and shares by the programme"]
True
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from .. import attribution, edits, features
from ..attribution import Aim
from ..ksae import KSAE
from ..recording import Recording
from ..runtime import artifacts, keys
from ..sampling import Edit
from . import learned, programme
from .base import SPARSE, Method
from .dictionary import difflens

if TYPE_CHECKING:
    from ..study import Study
    from ..subjects.pipelines import Subject

CANDIDATES = 60  # latents per class that are measured alone
LEFT = 0.1  # of the bias, by the fairest plan of a recipe
OWN_WAY, ALL_WAYS = "in its own way", "in all ways"  # how the edits of a recipe were tried
SURE = 2.0  # standard errors that a class difference has to be from zero at a position


@dataclass(frozen=True)
class Ingredients:
    """What is done beside DiffLens."""

    balanced: int = 0
    """Images of every class that class differences are taken from; 0: as they come."""
    adjusted: bool = False
    """Class differences are those at equal other factors (`features.partial_weights`)."""
    shrunken: bool = False
    """Class differences are drawn towards their mean over positions as far as they are noise."""
    gated: bool = False
    """A feature is moved only at positions where its class difference is sure, and helps."""
    programme: bool = False
    """Features and their shares come from a quadratic programme over measured effects."""
    levels: bool = False
    """A feature is moved only as far as it is in images of the class."""
    gains: bool = False
    """The gain of each feature at each step is learned (`learned`)."""


ADJUSTED = Ingredients(adjusted=True)
BALANCED = replace(ADJUSTED, balanced=250)
SHRUNKEN = replace(BALANCED, shrunken=True)
GATED = replace(SHRUNKEN, gated=True)
PROGRAMME = replace(GATED, programme=True)
RECIPES = {  # each has all parts of those above it, up to the programme
    "DiffLens": Ingredients(),
    "differences adjusted for other factors": ADJUSTED,
    "from balanced images": BALANCED,
    "shrunken": SHRUNKEN,
    "gated by position": GATED,
    "features and shares by the programme": PROGRAMME,
    "with levels": replace(PROGRAMME, levels=True),
    "with learned gains": replace(PROGRAMME, gains=True),
}


def chosen(subject: Subject, attribute: str) -> Ingredients:
    """The recipe that was best on tuning seeds, as `ingredients.json` of the subject says.

    Of those whose fairest plan leaves at most a `LEFT` of the unedited FD squared it is the one
    with the cheapest plan for half of the FD, or else it is the fairest one. Where nothing was
    measured it has all parts up to the programme.
    """
    path = subject.folder / "ingredients.json"
    found = json.loads(path.read_text())[ALL_WAYS] if path.is_file() else {}
    rows = found.get(str(attribute), {})
    known = [name for name in RECIPES if name in rows]
    if not known:
        return PROGRAMME

    def rank(name: str) -> tuple[float, float]:
        left = remains(rows[name])
        return (0.0, rows[name]["cost"]) if left <= LEFT else (left, 0.0)

    return RECIPES[min(known, key=rank)]


def remains(row: Mapping[str, float]) -> float:
    """The share of the bias (FD squared) that the fairest plan of a measured recipe leaves."""
    return (row["fairest"] / row["unedited"]) ** 2


class Part(NamedTuple):
    """What is moved towards one class."""

    features: Tensor  # (N,)
    unit: Tensor  # (T, P, N) what is added at strength 1
    level: Tensor  # (T, P, N) the mean of images of the class
    gains: Tensor  # (T, N)


def rows(study: Study, attribute: str) -> list[Method]:
    """DiffLens with the parts that helped."""
    return [best(study, attribute)]


def best(
    study: Study,
    attribute: str,
    made_of: Ingredients | None = None,
    name: str = "DiffLens, best",
) -> Method:
    """DiffLens with some ingredients, or the `chosen` ones, towards every class of an attribute."""
    made_of = made_of or chosen(study.subject, attribute)
    if study.subject.native:
        made_of = replace(made_of, gains=False)  # they are learned through the predicted image
    if made_of == Ingredients():
        return replace(difflens(study.features(), str(attribute)), name=name)
    made, sae = parts(study, str(attribute), made_of), study.ksae()

    def towards(c: int, strength: float) -> Edit:
        part = made[c]
        if not len(part.features):
            return edits.identity()
        if made_of.levels:
            up = part.unit > 0
            return edits.approach(sae, part.features, strength, part.level, up, part.gains)
        unit = part.unit * part.gains[:, None]
        return edits.steer(sae, part.features, strength, "add", unit)

    return Method(name, towards, SPARSE, recipe={"parts": keys.digest(list(map(list, made)))})


def _save(parts: Sequence[Part], folder: Path) -> None:
    named = {f"{c}.{n}": t for c, part in enumerate(parts) for n, t in part._asdict().items()}
    artifacts.save_tensors(named, folder)


def _load(folder: Path) -> list[Part]:
    tensors = artifacts.load_tensors(folder)
    classes = range(len(tensors) // len(Part._fields))
    return [Part(*(tensors[f"{c}.{name}"] for name in Part._fields)) for c in classes]


@artifacts.stored(
    "best",
    form=artifacts.Form(_save, _load),
    reads=("texts", "prompts", "labeller", "clip"),
    describe={
        "study": lambda study: {"subject": study.subject, "recipe": study.recipe({})},
        "made_of": lambda made_of: {"made_of": asdict(made_of)},
    },
    shipped=lambda a: a["study"].subject.folder / "best" / a["attribute"],
    beyond=lambda a: a["study"].recording("learn").key,
)
def parts(study: Study, attribute: str, made_of: Ingredients) -> list[Part]:
    """What is moved towards each class of an attribute.

    It comes from what ships with the subject, or from the store, if it is there.
    """
    kitchen = _Kitchen(study, attribute, made_of)
    return [kitchen.part(c) for c in range(len(kitchen.classes))]


class _Kitchen:
    """What the parts of all classes of an attribute are made from."""

    def __init__(self, study: Study, attribute: str, made_of: Ingredients) -> None:
        self.study, self.attribute, self.made_of = study, attribute, made_of
        self.sae: KSAE = study.ksae()
        self.classes = study.attribute(attribute).classes
        self.slope = study.attribution(self.sae, (attribute,))[attribute].slope
        rec = self._recording()
        self.difference, self.variance = self._differences(rec)
        self.level = self._levels(rec)

    def _recording(self) -> Recording:
        if not self.made_of.balanced:
            return self.study.recording("learn")
        return self.study.balanced(self.attribute, self.made_of.balanced)

    def _differences(self, rec: Recording) -> tuple[Tensor, Tensor]:
        """The class differences of all latents and their variances, (classes, T, P, D) each."""
        subject = self.study.subject
        if self.made_of.adjusted:
            weights = features.adjusted(subject, rec, self.attribute)
        else:
            labels = features.labelled(subject, rec)[self.attribute]
            weights = features.partial_weights(labels, len(self.classes), [])
        found = features.differences(rec, self.sae, weights)
        mean, variance = found["mean"], found["variance"]
        if self.made_of.shrunken:
            mean = torch.stack(
                [features.shrunken(m, v) for m, v in zip(mean, variance, strict=True)]
            )
        return mean, variance

    def _levels(self, rec: Recording) -> Tensor:
        labels = {self.attribute: features.labelled(self.study.subject, rec)[self.attribute]}
        return features.class_means(rec, self.sae, labels, {self.attribute: len(self.classes)})[
            self.attribute
        ]

    def part(self, c: int) -> Part:
        """What is moved towards class c."""
        unit = self.difference[c]
        if self.made_of.gated:
            sure = unit.abs() > SURE * self.variance[c].sqrt()
            unit = unit * (sure & (unit * self.slope[c] > 0))
        scores = attribution.towards(self.slope[c], unit)
        chosen, shares = self._chosen(c, scores, unit)
        unit, level = unit[..., chosen] * shares, self.level[c][..., chosen]
        gains = torch.ones(len(unit), len(chosen))
        if self.made_of.gains and len(chosen):
            moves = learned.Sparse(self.sae, chosen, unit, level if self.made_of.levels else None)
            aim = Aim(self.attribute, c)
            gains = learned.learn(self.study.subject, moves, aim, self.study.settings.steps)
        return Part(chosen, unit, level, gains)

    def _chosen(self, c: int, scores: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The features of class c, (N,), and the share of its unit that each is moved by, (N,)."""
        s = self.study.settings
        density = self.study.density
        if not self.made_of.programme:
            number = s.n_features + s.n_features // 2
            candidates = attribution.select(scores, number, density, s.max_density)
            aim = Aim(self.attribute, c)
            kept = features.confirmed(self.study.subject, self.sae, aim, candidates, unit, s)
            return kept, torch.ones(len(kept))
        candidates = attribution.select(scores, CANDIDATES, density, s.max_density)
        if not len(candidates):
            return candidates, torch.ones(0)
        found = self.study.responses(self.sae, self.attribute, c, candidates, unit[..., candidates])
        shares = programme.shares(found.gain, found.leak, found.turned, s.n_features)
        return candidates[shares > 0], shares[shares > 0]
