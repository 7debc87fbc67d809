"""A world: a causal model of images whose every factor, and every bias, is planted, with its renderer and its captions."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from . import keys
from .errors import one_of, positive


@dataclass(frozen=True)
class Factor:
    """One node of a causal model: a categorical factor and its probabilities given its parents."""

    name: str
    classes: tuple[str, ...]
    parents: tuple[str, ...]
    # One row per pattern of parent classes, first match wins, "*" matches any class; each row sums to 1.
    table: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...]

    def probabilities(self, given: Mapping[str, str]) -> tuple[float, ...]:
        """P(classes | parents), for parents given by class name."""
        values = tuple(given[p] for p in self.parents)
        for pattern, row in self.table:
            if all(a in ("*", b) for a, b in zip(pattern, values, strict=True)):
                return row
        raise KeyError(f"factor {self.name!r} has no row for {values}")


def root(name: str, **classes: float) -> Factor:
    """A factor that depends on nothing: its classes with their probabilities."""
    return Factor(name, tuple(classes), (), (((), tuple(classes.values())),))


def binary(name: str, parents: str, rows: Mapping[str, float]) -> Factor:
    """A factor that is absent or present; `rows` maps "class class ..." of the parents to P(present)."""
    table = tuple((tuple(pattern.split()), (round(1 - p, 10), p)) for pattern, p in rows.items())
    return Factor(name, ("absent", "present"), tuple(parents.split()), table)


@dataclass(frozen=True)
class Portraits:
    """A batch of portraits before rendering: `labels[factor]` (B,) int64, `nuisance` (B, nuisances) in [-1, 1]."""

    labels: dict[str, Tensor]
    nuisance: Tensor

    def __len__(self) -> int:
        return len(self.nuisance)

    def __getitem__(self, index: slice | Tensor) -> Portraits:
        return Portraits({k: v[index] for k, v in self.labels.items()}, self.nuisance[index])


class World:
    """Factors in topological order, the social attributes among them, and how a portrait is drawn.

    `render(portraits, size)` gives (B, 3, size, size) in [-1, 1]. Every factor that is neither an attribute nor an ancestor of one
    must have parents among those only: sampling, tables and exact marginals are derived from that.
    """

    conditions: tuple[str, ...] = ()  # the factors that prompts decide

    def __init__(
        self,
        model: Sequence[Factor],
        attributes: tuple[str, ...],
        nuisances: int,
        render: Callable[..., Tensor],
    ) -> None:
        self.factors = {f.name: f for f in model}
        self.attributes, self.nuisances, self.render = attributes, nuisances, render

    def fingerprint(self) -> object:
        """What stands for it in the keys of artifacts: its factors, and the code that draws them."""
        drawn_by = sys.modules[self.render.__module__]
        return keys.digest(
            {
                "factors": list(self.factors.values()),
                "attributes": self.attributes,
                "code": keys.code(drawn_by),
            }
        )

    @property
    def singles(self) -> dict[str, str]:
        """What is turned beside the first attribute where nothing is named: up to three other factors, the attributes
        last, each towards its rarest class."""
        free = [f for f in self.factors if f not in (*self.attributes, *self.conditions)]
        others = [*free, *self.attributes[1:]][:3]
        return {f: self.factors[f].classes[int(self.marginal(f).argmin())] for f in others}

    @property
    def wanted(self) -> dict[str, list[float]]:
        """What is asked for where no distribution is named: falling shares of each attribute's classes, such as
        [0.5, 0.33, 0.17]."""
        sizes = {a: len(self.factors[a].classes) for a in self.attributes}
        return {a: [2 * (n - i) / (n * (n + 1)) for i in range(n)] for a, n in sizes.items()}

    def sample(
        self,
        n: int,
        seed: int = 0,
        do: Mapping[str, str] | None = None,
        balanced: bool | tuple[str, ...] = False,
    ) -> Portraits:
        """Draw `n` portraits from the causal model by ancestral sampling.

        `do` fixes factors to a class whatever their parents (an intervention, Pearl's do), e.g. `{"gender": "male"}`;
        `balanced` cuts every arrow instead: all factors uniform and independent, so that no reader of factors can lean on
        their correlations; or the named factors only.
        Raises ValueError for n <= 0, an unknown factor or an unknown class.
        """
        positive("n", n)
        self._check(do or {})
        generator = torch.Generator().manual_seed(seed)
        labels: dict[str, Tensor] = {}
        for factor in self.factors.values():
            uniform = torch.rand(
                n, 1, generator=generator, dtype=torch.float64
            )  # always drawn, so `do` keeps the rest paired
            if do and factor.name in do:
                labels[factor.name] = torch.full((n,), factor.classes.index(do[factor.name]))
                continue
            table = self._table(factor.name)  # (parent classes ..., classes)
            rows = (
                table[tuple(labels[p] for p in factor.parents)]
                if factor.parents
                else table.expand(n, -1)
            )
            uniform_here = balanced if isinstance(balanced, bool) else factor.name in balanced
            rows = torch.full_like(rows, 1 / len(factor.classes)) if uniform_here else rows
            labels[factor.name] = (uniform > rows.cumsum(-1)[:, :-1]).sum(-1)
        return Portraits(labels, torch.rand(n, self.nuisances, generator=generator) * 2 - 1)

    def names(self, portraits: Portraits, index: int) -> dict[str, str]:
        """The class names of one portrait: {factor: class}."""
        return {k: self.factors[k].classes[int(v[index])] for k, v in portraits.labels.items()}

    def joint(self) -> dict[tuple[str, str], Tensor]:
        """Exact P(attribute class, factor class) for every social attribute and factor, by enumeration: (A, F) float64."""
        return {
            (a, name): self._probability((a, name))
            for a in self.attributes
            for name in self.factors
        }

    def marginal(self, factor: str, given: Mapping[str, str] | None = None) -> Tensor:
        """Exact planted P(factor | what is `given`): (classes,) float64."""
        one_of("factor", factor, self.factors)
        self._check(given or {})
        return self._probability((factor,), given or {})

    def arrows(self) -> dict[str, tuple[str, ...]]:
        """What each factor depends on: {factor: parents}."""
        return {name: f.parents for name, f in self.factors.items()}

    def planted_causes(self, attribute: str) -> tuple[str, ...]:
        """The factors whose planted probabilities depend on a social attribute directly."""
        one_of("attribute", attribute, self.attributes)
        return tuple(f.name for f in self.factors.values() if attribute in f.parents)

    def independent_factors(self) -> tuple[str, ...]:
        """The factors that have nothing to do with an attribute: the negative controls of every edit."""
        return tuple(
            name for name, f in self.factors.items() if not f.parents and name not in self._core
        )

    @cached_property
    def _core(self) -> tuple[str, ...]:
        """The attributes and their ancestors, in topological order."""
        needed = set(self.attributes)
        for factor in reversed(self.factors.values()):
            needed |= set(factor.parents) if factor.name in needed else set()
        return tuple(name for name in self.factors if name in needed)

    @cache  # noqa: B019 a world lives as long as the program
    def _table(self, name: str) -> Tensor:
        """A factor's probability table as a tensor of shape (*parent classes, classes)."""
        factor = self.factors[name]
        parents = [self.factors[p] for p in factor.parents]
        rows = [
            factor.probabilities(dict(zip(factor.parents, v, strict=True)))
            for v in itertools.product(*(p.classes for p in parents))
        ]
        return torch.tensor(rows, dtype=torch.float64).reshape(
            *(len(p.classes) for p in parents), len(factor.classes)
        )

    def _probability(
        self, wanted: tuple[str, ...], given: Mapping[str, str] | None = None
    ) -> Tensor:
        """Exact P(wanted | given), one axis per wanted factor in that order; one given twice is spread over its diagonal."""
        names = dict.fromkeys((*self._core, *wanted, *(given or {})))
        axes = {name: i for i, name in enumerate(names)}
        terms: list = []
        for name in axes:
            terms += [
                self._table(name),
                [*(axes[p] for p in self.factors[name].parents), axes[name]],
            ]
        for name, value in (given or {}).items():
            one_hot = torch.zeros(len(self.factors[name].classes), dtype=torch.float64)
            one_hot[self.factors[name].classes.index(value)] = 1
            terms += [one_hot, [axes[name]]]
        if len(set(wanted)) < len(wanted):  # the joint of a factor with itself
            p = torch.einsum(*terms, [axes[wanted[0]]]).diag()
        else:
            p = torch.einsum(*terms, [axes[w] for w in wanted])
        return p / p.sum()

    def _check(self, fixed: Mapping[str, str]) -> None:
        for name, value in fixed.items():
            one_of("factor", name, self.factors)
            one_of(name, value, self.factors[name].classes)
