"""A cell of Tables 1 and 2: how fair a set of images is, and what it has lost.

Each image counts under every edit that it drew from the plan, and each class as often as it occurs
among many unedited images (`metrics.strata`).

>>> import difflens_utils as dl
>>> from difflens_utils.analysis import scoring
>>> portraits = dl.open("portraits", device="cpu").subject
>>> scoring.unrelated(portraits, "tone")[:2]  # nothing of these depends on it
['gender', 'age']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .. import evaluators, metrics
from ..debiasing import Debiased, Mixture
from ..metrics import Estimate, Strata
from ..metrics.estimates import Array
from ..outcome import Outcome
from ..runtime import artifacts
from ..subjects.pipelines import Subject

STEPS_OF_THE_WAY = 200  # places along a way at which FD is taken


def unrelated(subject: Subject, *attributes: str) -> list[str]:
    """The factors that edits of attributes should leave alone, see `Subject.unrelated`."""
    each = [subject.unrelated(attribute) for attribute in attributes]
    return [factor for factor in each[0] if all(factor in own for own in each)]


def leak(subject: Subject, attributes: Sequence[str], before: Outcome, after: Outcome) -> Estimate:
    """The mean shift of the class shares of factors that edits of attributes should leave alone.

    `metrics.NOTHING` where there is none.
    """
    readings = {factor: before.scored[factor] for factor in unrelated(subject, *attributes)}
    if not readings:
        return metrics.NOTHING
    changes = metrics.class_changes(readings, after.scored)
    return metrics.bootstrap_means(metrics.total_variation, *changes.values())


@dataclass(frozen=True)
class Scale:
    """What sets of images are measured by that shall be fair in one attribute."""

    subject: Subject
    attribute: str
    target: Sequence[float]
    before: Outcome
    """The images without an edit."""
    strata: Strata
    """Their classes and prompts, and how often each occurs among many images."""
    of_data: Callable[[], Mapping[str, Tensor]]
    """Makes `references`, which not every figure needs."""
    of_many: Callable[[], Outcome]
    """Makes `many`."""

    @cached_property
    def references(self) -> Mapping[str, Tensor]:
        """Features of images of the data: {"reference": (N, F), "balanced": (N, F)}."""
        return self.of_data()

    @cached_property
    def many(self) -> Outcome:
        """Many other unedited images."""
        return self.of_many()

    @cached_property
    def unedited(self) -> Mixture:
        """The plan of no edit."""
        return Mixture([self.before], np.ones((len(self.before.images), 1)))

    @cached_property
    def strange(self) -> dict[str, Estimate]:
        """The mean cosine of two unedited images of a prompt, in either CLIP."""
        prompt = self.before.prompt
        return {
            "clip": metrics.strangers(self.before.clip, prompt),
            "second": metrics.strangers(self.before.second, prompt),
        }

    @cached_property
    def compared(self) -> dict[str, metrics.KernelReference]:
        """What sets are compared with by Kernel Distances: the references, and no edit."""
        sets = {**self.references, "unedited": self.before.features}
        return {name: metrics.KernelReference(features) for name, features in sets.items()}

    # ------------------------------------------------------------------ a row of the table

    def original(self) -> dict[str, Estimate]:
        """The figures of the unedited images."""
        return self._figures(self.unedited, self.before)

    def score(self, made: Debiased) -> dict[str, Estimate]:
        """The figures of a plan, by name; `_figures` says which."""
        figures = self._figures(made.mixture, made.outcome)
        figures["removed"] = self.removed(made.mixture)
        if "balanced" in self.references:
            figures["quality"] = self.quality(made.outcome)
        return figures

    def _figures(self, mixture: Mixture, drawn: Outcome) -> dict[str, Estimate]:
        """FD (Eq. 13), distances (Eq. 14), CLIP-I (Eq. 15), CLIP-T (Eq. 16), and leaks.

        `fd` is without the bias of its noise; `fd_soft` and `fd_hard` are those of one draw, as it
        is. `kept` is CLIP-I above strangers in the CLIP that no method has seen, and `kept_known`
        in the other one. The leak is the mean shift (total variation) of the factors that are
        `unrelated`, or the largest; `metrics.NOTHING` if there are none. Distances are those of
        the draw.
        """
        fairness = drawn.fairness(self.attribute, self.target)
        similar = self.similar(mixture, "clip")
        return {
            "fd": self.fd(mixture),
            "fd_soft": fairness.soft,
            "fd_hard": fairness.hard,
            **self._distances(drawn),
            "clip_i": similar,
            "clip_i_rescaled": metrics.combined(lambda cosine: (cosine + 1) / 2, similar),
            "kept": self.kept(mixture),
            "kept_known": self.kept(mixture, "clip"),
            **prompted(self.subject, drawn),
            "agreement": self.strata.mean(mixture.expected(self._agreed)),
            "leak": self.leak(mixture),
            "leak_worst": self.leak(mixture, worst=True),
        }

    def _distances(self, drawn: Outcome) -> dict[str, Estimate]:
        found = {}
        for name, reference in self.compared.items():
            found[f"frechet_{name}"] = metrics.frechet(drawn.features, reference.features)
            found[f"kernel_{name}"] = reference.distance(drawn.features)
        return found

    def _agreed(self, seen: Outcome) -> Array:
        scored, labelled = seen.scored[self.attribute], seen.labelled[self.attribute]
        same: Array = (scored.argmax(-1) == labelled.argmax(-1)).numpy().astype(float)
        return same

    # ------------------------------------------------------------------ single figures

    def fd_squared(self, mixture: Mixture) -> Estimate:
        """FD squared without the bias of its noise, see `Strata.fd_squared`."""
        return self.strata.fd_squared(self._probabilities(mixture), self.target)

    def fd(self, mixture: Mixture) -> Estimate:
        """FD (Eq. 13): the root of `fd_squared`, with its sign."""
        return metrics.combined(metrics.signed_root, self.fd_squared(mixture), monotone=True)

    def share(self, mixture: Mixture, target: int) -> Estimate:
        """The share of images whose likeliest class is `target`, over the prompts."""

        def hits(seen: Outcome) -> Array:
            hit: Array = (seen.scored[self.attribute].argmax(-1) == target).numpy().astype(float)
            return hit

        return self.strata.mean(mixture.expected(hits))

    def removed(self, mixture: Mixture) -> Estimate:
        """The share of the bias that is gone, see `metrics.removed`."""
        return metrics.removed(self.fd_squared(self.unedited), self.fd_squared(mixture))

    def similar(self, mixture: Mixture, clip: str) -> Estimate:
        """CLIP-I (Eq. 15) in the CLIP of a name: clip or second."""
        return self.strata.mean(mixture.expected(lambda seen: self._cosines(seen, clip)))

    def kept(self, mixture: Mixture, clip: str = "second") -> Estimate:
        """CLIP-I above strangers, see `metrics.kept`."""
        return metrics.kept(self.similar(mixture, clip), self.strange[clip])

    def clip_d(self, mixture: Mixture, target: int) -> Estimate:
        """CLIP-D (Eq. 17): the mean cosine of an image and the text of a class."""
        texts = self.subject.class_texts(self.attribute)
        text = self.subject.clip.text_features(texts)[target].cpu()

        def cosines(seen: Outcome) -> Array:
            found: Array = (seen.clip @ text).double().numpy()
            return found

        return self.strata.mean(mixture.expected(cosines))

    def _cosines(self, seen: Outcome, clip: str) -> Array:
        before, after = getattr(self.before, clip), getattr(seen, clip)
        cosines: Array = (before * after).sum(1).double().numpy()
        return cosines

    def _probabilities(self, mixture: Mixture) -> Array:
        return mixture.expected(lambda seen: seen.scored[self.attribute])

    def leak(self, mixture: Mixture, worst: bool = False) -> Estimate:
        """The mean shift of the class shares of unrelated factors, or the largest one."""
        changes = self._changes(mixture)
        if not changes:
            return metrics.NOTHING
        if worst:
            changes = sorted(changes, key=lambda change: -self._shift(change))[:1]

        def shift(*means: Array) -> Array:
            return metrics.total_variation(*(mean.mean(-2) for mean in means))

        return self.strata.figure(shift, *changes)

    def _shift(self, change: Array) -> float:
        return float(metrics.total_variation(self.strata.shares(change).mean(0)))

    def _changes(self, mixture: Mixture) -> list[Array]:
        """What each image adds to the change of each unrelated factor: (n, classes) each."""
        found = []
        for factor in unrelated(self.subject, self.attribute):
            before = self.before.scored[factor]

            def change(seen: Outcome, factor: str = factor, before: Tensor = before) -> Array:
                pair = metrics.class_changes({factor: before}, seen.scored)
                return pair[factor]

            found.append(mixture.expected(change))
        return found

    def quality(self, drawn: Outcome) -> Estimate:
        """How far a set has come from the unedited one to what balance can come to: 0 to 1.

        Both ends, and the set, are kernel distances to data with balanced classes. What balance can
        come to is that of many unedited images, weighted until their classes are balanced: no edit,
        and the same generator. It is `metrics.NOTHING` where a resample does not tell the ends
        apart, as of `metrics.removed`.
        """
        start, oracle = self._ends
        end = self.compared["balanced"].distance(drawn.features)
        way = metrics.combined(np.subtract, start, oracle)
        come = metrics.combined(np.subtract, end, oracle)
        return metrics.removed(way, come)  # 1 - (end - oracle) / (start - oracle)

    @cached_property
    def _ends(self) -> tuple[Estimate, Estimate]:
        """The Kernel Distances between which `quality` lies: the unedited one, and at balance."""
        balanced = self.compared["balanced"]
        start = balanced.distance(self.before.features)
        return start, balanced.distance(self.many.features, self._balancing())

    def _balancing(self) -> Array:
        """The weight of each of the many images that balances their classes under each prompt."""
        hot = metrics.one_hot(self.many.scored[self.attribute].numpy())
        member = metrics.members(self.many.prompt.numpy(), len(hot))
        cells = (member[:, :, None] * hot[:, None]).reshape(len(hot), -1)  # (n, G classes)
        wanted = np.tile(np.asarray(self.target), member.shape[1])
        weights: Array = cells @ (wanted / cells.sum(0).clip(1))
        return weights

    # ------------------------------------------------------------------ at the same fairness

    def matched(self, half: Mixture, full: Mixture, remaining: float) -> tuple[Estimate, Estimate]:
        """What is kept, and the leak, where just a share `remaining` of the unedited FD is left.

        The way leads from no edit over the plan `half`, which was made for that level, to the plan
        `full` for none. Who does not get there keeps nothing, and the leak is `metrics.NOTHING`.
        """
        way = [self.unedited, half, full]
        places = self._places(way, remaining)
        if np.isnan(places.value):
            nothing = np.zeros_like(self.strata.mean(np.zeros(len(self.before.images))).draws)
            return metrics.from_draws(0.0, nothing, len(self.before.images)), metrics.NOTHING
        kept = metrics.combined(_along, places, *map(self.kept, way))
        leaks = [self.leak(mixture) for mixture in way[1:]]
        if np.isnan(leaks[0].value):
            return kept, metrics.NOTHING
        none = metrics.combined(lambda leak: 0 * leak, leaks[0])
        return kept, metrics.combined(_along, places, none, *leaks)

    def _places(self, way: Sequence[Mixture], remaining: float) -> Estimate:
        """Where on a way FD comes to a share of what it is at its beginning: 0 to 2.

        nan where it does not. A resample that does not get there is counted at the end.
        """
        goal = np.asarray(self.target)

        def crossing(*nodes: Array) -> Array:  # (R, G, classes) each
            offsets = [node - goal for node in nodes]
            level = remaining**2 * (offsets[0] ** 2).sum(-1).mean(-1)
            places = np.linspace(0, 2, STEPS_OF_THE_WAY + 1)
            squares = np.stack([_squared(offsets, place) for place in places], -1)  # (R, places)
            return _first_crossing(squares, level, places)

        found = self.strata.figure(crossing, *map(self._probabilities, way))
        if np.isnan(found.value) or found.draws is None:
            return metrics.NOTHING
        draws = np.where(np.isnan(found.draws), 2.0, found.draws)
        return metrics.from_draws(found.value, draws, found.n)


def _squared(offsets: Sequence[Array], place: float) -> Array:
    """FD squared at a place of a way, 0 to 2, of the offsets (R, G, classes) at its nodes: (R,)."""
    first = min(int(place), 1)
    offset = offsets[first] + (place - first) * (offsets[first + 1] - offsets[first])
    squared: Array = (offset**2).sum(-1).mean(-1)
    return squared


def _first_crossing(squares: Array, level: Array, places: Array) -> Array:
    """Where squares (R, places) first come down to a level (R,): between two places, or nan."""
    below = squares <= level[:, None] + 1e-12
    after = below.argmax(1).clip(1)
    rows = np.arange(len(squares))
    high, low = squares[rows, after - 1], squares[rows, after]
    share = np.clip((high - level) / np.where(high > low, high - low, 1), 0, 1)
    step = places[1] - places[0]
    crossing: Array = np.where(below.any(1), places[after - 1] + share * step, np.nan)
    return crossing


def _along(place: Array, start: Array, half: Array, full: Array) -> Array:
    """A figure at places (R,) of a way, linear between its nodes."""
    near, far = np.clip(place, 0, 1), np.clip(place - 1, 0, 1)
    value: Array = start + near * (half - start) + far * (full - half)
    return value


def prompted(subject: Subject, images: Outcome) -> dict[str, Estimate]:
    """CLIP-T of each image and its prompt as {"clip_t": ...}; {} for a model without text."""
    texts = subject.texts()
    if not any(texts):
        return {}
    features = subject.clip.text_features(texts).cpu()[images.prompt]
    return {"clip_t": metrics.clip_t(features, images.clip).raw}


def references(subject: Subject, n: int, seed: int, fixed: Sequence[Mapping[str, str]]) -> Tensor:
    """The scorer's features of renders, as many of each set of fixed factors: (N, F).

    N is `n` or more, and 2,048 but for what the sets do not divide. They come from the store.
    """
    each = max(2048, n + len(fixed) - 1) // len(fixed)
    parts = [_rendered(subject, each, seed + i, do)["features"] for i, do in enumerate(fixed)]
    return torch.cat(parts)


@artifacts.stored("references", reads=("data", "prompts", "scorer"))
def _rendered(subject: Subject, n: int, seed: int, do: Mapping[str, str]) -> dict[str, Tensor]:
    return {"features": evaluators.embed(subject.scorer, subject.renders(n, seed, do))}
