"""Worlds: causal models of images in which every factor, and every bias, is known.

A world consists of factors. Here a picture is light or dark, and light ones more often have a
frame.

>>> from difflens_utils.worlds import binary, root
>>> shade = root("shade", dark=0.8, light=0.2)
>>> frame = binary("frame", "shade", {"dark": 0.1, "light": 0.6})
>>> frame.classes
('absent', 'present')
>>> frame.probabilities({"shade": "light"})
(0.4, 0.6)
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import evaluators
from ..runtime import keys
from ..runtime.errors import one_of, positive


@dataclass(frozen=True)
class Factor:
    """One node of a causal model: a categorical factor and its probabilities given its parents."""

    name: str
    classes: tuple[str, ...]
    parents: tuple[str, ...]
    # One row per pattern of parent classes. The first match counts, "*" matches any class, and
    # each row sums to 1.
    table: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...]

    def probabilities(self, given: Mapping[str, str]) -> tuple[float, ...]:
        """Returns P(classes | parents), for parents given by class name."""
        values = tuple(given[parent] for parent in self.parents)
        for pattern, row in self.table:
            pairs = zip(pattern, values, strict=True)
            if all(allowed in ("*", value) for allowed, value in pairs):
                return row
        raise KeyError(f"factor {self.name!r} has no row for {values}")


def categorical(
    name: str, classes: str, parents: str, rows: Mapping[str, Iterable[float]]
) -> Factor:
    """Returns a factor whose classes, parents and patterns are written as words in one text.

    `rows` maps "class class ..." of the parents to the probabilities of the classes.
    """
    table = tuple((tuple(pattern.split()), tuple(row)) for pattern, row in rows.items())
    return Factor(name, tuple(classes.split()), tuple(parents.split()), table)


def root(name: str, **classes: float) -> Factor:
    """Returns a factor that depends on nothing: its classes with their probabilities."""
    return categorical(name, " ".join(classes), "", {"": classes.values()})


def binary(name: str, parents: str, rows: Mapping[str, float]) -> Factor:
    """Returns a factor that is absent or present; `rows` holds P(present)."""
    both = {pattern: (round(1 - present, 10), present) for pattern, present in rows.items()}
    return categorical(name, "absent present", parents, both)


@dataclass(frozen=True)
class Scenes:
    """A batch of images before rendering: what is in each.

    `labels[factor]` are class numbers (B,) int64, `nuisance` (B, nuisances) lies in [-1, 1].
    """

    labels: dict[str, Tensor]
    nuisance: Tensor

    def __len__(self) -> int:
        return len(self.nuisance)

    def __getitem__(self, index: slice | Tensor) -> Scenes:
        labels = {factor: numbers[index] for factor, numbers in self.labels.items()}
        return Scenes(labels, self.nuisance[index])


class World(ABC):
    """A causal model and how its images are drawn. A subclass gives both:

    >>> class Squares(World):
    ...     shade = root("shade", dark=0.8, light=0.2)
    ...     frame = binary("frame", "shade", {"dark": 0.1, "light": 0.6})
    ...     model = (shade, frame)
    ...     attributes = ("shade",)
    ...
    ...     def render(self, scenes, size=8):
    ...         images = torch.zeros(len(scenes), 3, size, size)
    ...         images += scenes.labels["shade"].reshape(-1, 1, 1, 1)
    ...         images[:, :, 0] -= scenes.labels["frame"].reshape(-1, 1, 1)
    ...         return images
    >>> world = Squares()
    >>> world.marginal("frame").tolist()
    [0.8, 0.2]
    >>> world.effects("shade")
    ('frame',)
    >>> world.render(world.sample(5, do={"shade": "light"})).shape
    torch.Size([5, 3, 8, 8])
    """

    model: Sequence[Factor]
    """The factors, each behind its parents. A factor that is neither an attribute nor an ancestor
    of one has parents among those only: samples and exact marginals are derived from that."""
    attributes: tuple[str, ...]
    """The factors whose bias is under study."""
    conditions: tuple[str, ...] = ()
    """The factors that prompts decide."""
    nuisances: tuple[str, ...] = ()
    """What varies continuously inside a class, uniformly in [-1, 1]."""

    @abstractmethod
    def render(self, scenes: Scenes, size: int) -> Tensor:
        """Returns RGB images (B, 3, size, size) in [-1, 1]."""

    @cached_property
    def factors(self) -> dict[str, Factor]:
        """The factors of the model by name."""
        return {factor.name: factor for factor in self.model}

    def fingerprint(self) -> object:
        """The entry in the keys of artifacts: the factors, and the code that draws."""
        parts = {"factors": self.model, "attributes": self.attributes, "code": keys.code_of(self)}
        return keys.digest(parts)

    @property
    def singles(self) -> dict[str, str]:
        """The classes that edits aim at beside the first attribute, where nothing is named.

        These are up to three other factors, the attributes last, each with its rarest class.
        """
        decided = {*self.attributes, *self.conditions}
        free = [name for name in self.factors if name not in decided]
        chosen = [*free, *self.attributes[1:]][:3]
        return {name: self._rarest(name) for name in chosen}

    def _rarest(self, name: str) -> str:
        return self.factors[name].classes[int(self.marginal(name).argmin())]

    @property
    def wanted(self) -> dict[str, list[float]]:
        """The distributions that edits aim at, where none is named.

        These are falling shares of each attribute's classes, such as [0.5, 0.33, 0.17].
        """
        shares = {}
        for name in self.attributes:
            n = len(self.factors[name].classes)
            shares[name] = [2 * (n - i) / (n * (n + 1)) for i in range(n)]
        return shares

    def sample(
        self,
        n: int,
        seed: int = 0,
        do: Mapping[str, str] | None = None,
        balanced: bool | tuple[str, ...] = False,
    ) -> Scenes:
        """Draws `n` scenes from the causal model by ancestral sampling.

        `do` fixes factors to a class whatever their parents (an intervention, Pearl's do), such as
        {"gender": "male"}. `balanced` cuts every arrow instead: all factors, or the named ones, are
        uniform and independent, so that no reader of factors can lean on their correlations.
        Raises ValueError for n <= 0, an unknown factor or an unknown class.
        """
        positive("n", n)
        fixed = do or {}
        self._check(fixed)
        generator = torch.Generator().manual_seed(seed)
        labels: dict[str, Tensor] = {}
        for name, factor in self.factors.items():
            # Fixed factors draw a number too, so that all others are paired with and without `do`.
            number = torch.rand(n, 1, generator=generator, dtype=torch.float64)
            if name in fixed:
                labels[name] = torch.full((n,), factor.classes.index(fixed[name]))
                continue
            parents = tuple(labels[parent] for parent in factor.parents)
            rows = self._tables[name][parents]  # (B, classes), or (classes,) of a root
            if balanced is True or (balanced and name in balanced):
                rows = torch.full_like(rows, 1 / len(factor.classes))
            labels[name] = (number > rows.cumsum(-1)[..., :-1]).sum(-1)
        uniform = torch.rand(n, len(self.nuisances), generator=generator)
        return Scenes(labels, uniform * 2 - 1)

    def to_learn(self, n: int, seed: int = 0, balanced: bool | tuple[str, ...] = False) -> Scenes:
        """Draws `n` scenes that networks may be trained on, as `sample` does.

        A world that holds combinations out overrides it.
        """
        return self.sample(n, seed, balanced=balanced)

    def kept_out(self, n: int, seed: int = 0, balanced: bool | tuple[str, ...] = False) -> Scenes:
        """Draws `n` scenes that nothing was trained on: by default any, of a seed of their own."""
        return self.sample(n, seed, balanced=balanced)

    def names(self, scenes: Scenes, index: int) -> dict[str, str]:
        """Returns the class names of one scene: {factor: class}."""
        labels = scenes.labels.items()
        return {name: self.factors[name].classes[int(row[index])] for name, row in labels}

    def marginal(self, factor: str, given: Mapping[str, str] | None = None) -> Tensor:
        """Returns P(factor | what is `given`), exact: (classes,) float64.

        Raises ValueError for an unknown factor or an unknown class.
        """
        fixed = given or {}
        one_of("factor", factor, self.factors)
        self._check(fixed)
        names = dict.fromkeys((*self._core, factor, *fixed))
        axes = {name: axis for axis, name in enumerate(names)}
        operands: list[Tensor | list[int]] = []
        for name in axes:
            scope = (*self.factors[name].parents, name)
            operands += [self._tables[name], [axes[member] for member in scope]]
        for name, value in fixed.items():
            classes = self.factors[name].classes
            one_hot = torch.zeros(len(classes), dtype=torch.float64)
            one_hot[classes.index(value)] = 1
            operands += [one_hot, [axes[name]]]
        p = torch.einsum(*operands, [axes[factor]])
        return p / p.sum()

    def class_texts(self, factor: str) -> list[str]:
        """One text per class, for zero-shot classification and the target of CLIP-D (Eq. 17)."""
        return evaluators.class_texts(factor, self.factors[factor].classes)

    def arrows(self) -> dict[str, tuple[str, ...]]:
        """Returns what each factor depends on: {factor: parents}."""
        return {name: factor.parents for name, factor in self.factors.items()}

    def effects(self, attribute: str) -> tuple[str, ...]:
        """Returns the factors that depend on an attribute, by its planted probabilities."""
        one_of("attribute", attribute, self.attributes)
        return tuple(factor.name for factor in self.model if attribute in factor.parents)

    def independent_factors(self) -> tuple[str, ...]:
        """Returns the factors that no attribute bears on: the negative controls of every edit."""
        roots = (factor.name for factor in self.model if not factor.parents)
        return tuple(name for name in roots if name not in self._core)

    @cached_property
    def _core(self) -> tuple[str, ...]:
        """The attributes and their ancestors, in causal order."""
        needed = set(self.attributes)
        for factor in reversed(self.model):
            if factor.name in needed:
                needed.update(factor.parents)
        return tuple(name for name in self.factors if name in needed)

    @cached_property
    def _tables(self) -> dict[str, Tensor]:
        """The probabilities of each factor, (*parent classes, classes) float64."""
        return {factor.name: self._table(factor) for factor in self.model}

    def _table(self, factor: Factor) -> Tensor:
        parents = [self.factors[parent].classes for parent in factor.parents]
        rows = []
        for values in itertools.product(*parents):
            given = dict(zip(factor.parents, values, strict=True))
            rows.append(factor.probabilities(given))
        table = torch.tensor(rows, dtype=torch.float64)
        return table.reshape(*map(len, parents), len(factor.classes))

    def _check(self, fixed: Mapping[str, str]) -> None:
        for name, value in fixed.items():
            one_of("factor", name, self.factors)
            one_of(name, value, self.factors[name].classes)
