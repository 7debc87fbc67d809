"""The page of notebook 08: several attributes at once.

`Multi` measures pairs of edits, all edits at once, and single features beside an attribute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import methods, metrics, outcome
from ..attribution import Aim
from ..debiasing import Arm, Search
from ..metrics import Array, Estimate, Strata
from ..outcome import Outcome
from . import figures
from .page import Page
from .tables import table

if TYPE_CHECKING:
    from ..study import Study

OURS = "DiffLens"
LEAST = 0.10  # that an edit gains, or that two would reach together, to be compared with
POSSIBLE = 0.05  # that a share may rise by, to tell whether it does
NOT_POSSIBLE = f"n/a: less than {POSSIBLE:.2f} is possible"
Pair = tuple[Aim, Aim]
Alone = Mapping[Aim, Outcome]
Together = Mapping[Pair, Outcome]
Sets = Mapping[str, Outcome]  # by the method
Steered = Mapping[str, Mapping[Aim | str, Outcome]]  # by the factor; "alone", or with an aim


class Multi(Page):
    """Pairs of edits, all edits at once, and single features beside an attribute."""

    needs = ("singles", "n_pair", "n_final", "n_single", "strength_single")

    def __init__(
        self, study: Study, notebook: str, singles: Mapping[str, str], **sizes: Any
    ) -> None:
        self.singles = dict(singles) if singles else study.world.singles
        """What is turned beside the first attribute: {factor: class}."""
        super().__init__(study, notebook, singles=self.singles, **sizes)
        self.aims = [Aim(a, c) for a in study.attributes for c in range(len(a.classes))]
        """Every class of every attribute."""
        self.first = [aim for aim in self.aims if aim.attribute == study.attributes[0]]
        """The classes of the first attribute."""
        pairs = combinations(self.aims, 2)
        self.pairs = [(x, y) for x, y in pairs if x.attribute != y.attribute]
        """Every two classes of different attributes."""
        self.lost = pd.DataFrame()
        """The share of its gain that an edit (row) loses beside another one (column)."""
        self.ratios: dict[Pair, float] = {}
        """How often both classes meet, as a share of what independent edits would give."""
        self.rises: dict[str, Estimate] = {}
        """Of each single feature beside each class, by its record."""

    def label(self, *aims: Aim) -> str:
        """Classes in words: "gender: male + age: old"."""
        return " + ".join(f"{aim.attribute}: {self.name(aim)}" for aim in aims)

    def name(self, aim: Aim) -> str:
        """The name of a class."""
        return self.study.subject.classes(aim.attribute)[aim.target]

    # ------------------------------------------------------------------ pairs

    def glance(self, sets: Mapping[str, Outcome]) -> Figure:
        """The same seeds under several edits."""
        rows = {label: images.images[: figures.ACROSS] for label, images in sets.items()}
        return figures.strips(rows, title="The same seeds, each edit alone and all together")

    def strengths(
        self, searches: Mapping[str, Search], arms: Mapping[Aim, Arm | None]
    ) -> pd.DataFrame:
        """The strongest usable edit towards each class, where there is one."""
        rows = {}
        for aim, arm in arms.items():
            if arm is not None:
                share = searches[aim.attribute].share(arm, aim.target)
                tuned = f"{share:.2f}"
                rows[self.label(aim)] = {"β": f"{arm.strength:g}", "share when tuned": tuned}
        return pd.DataFrame(rows).T

    def interference(self, unedited: Outcome, alone: Alone, together: Together) -> pd.DataFrame:
        """The share of what an edit gains for its class that is lost beside a second edit."""
        labels = [self.label(aim) for aim in self.aims]
        self.lost = pd.DataFrame(np.nan, labels, labels)
        gains, losses, shares, left_out = [], [], [], 0
        for (x, y), images in together.items():
            for aim, other in ((x, y), (y, x)):
                plain = _hits(alone[aim], aim)
                gain, loss = plain - _hits(unedited, aim), plain - _hits(images, aim)  # (n,)
                if gain.mean() < LEAST:
                    left_out += 1
                    continue
                gains.append(gain)
                losses.append(loss)
                shares.append(float(loss.mean() / gain.mean()))
                self.lost.loc[self.label(aim), self.label(other)] = shares[-1]
        mean, worst = _over_pairs(_mean_loss, losses, gains), max(shares, default=metrics.NAN)
        self.add("multi.interference.loss", mean)
        self.add("multi.interference.worst", worst, n=self.sizes["n_pair"])
        self.add("multi.interference.left_out", left_out, n=2 * len(together))
        if losses:
            self._heat()
        elif not self.pairs:
            print(f"{self.study.attributes[0]} is the only attribute: there are no pairs of edits.")
        row: dict[str, object] = {
            "mean loss": mean,
            "worst loss": f"{worst:.2f}",
        }
        row["pairs"] = len(losses)
        row[f"left out, as the edit alone gains less than {LEAST:.2f}"] = left_out
        return table({"a second edit": row})

    def _heat(self) -> None:
        figure, axes = figures.panels(1, width=8, height=5.6)
        label = "share of its gain that an edit loses"
        figures.heat(axes[0], self.lost, label=label, limits=(-1, 1))  # beyond is as bad as lost
        axes[0].set(xlabel="edit that is added", ylabel="class that is aimed at")
        figures.finish(figure, "What a second edit takes from the gain of the first")

    def joint(self, unedited: Outcome, alone: Alone, together: Together) -> pd.DataFrame:
        """The share of images with both classes, beside that which independent edits would give."""
        names = outcome.class_names({a: a.classes for a in self.study.attributes})
        rows: dict[str, dict[str, str]] = {}
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for (x, y), images in together.items():
            both = _hits(images, x) * _hits(images, y)  # (n,)
            single = _hits(alone[x], x), _hits(alone[y], y)
            before = _hits(unedited, x) * _hits(unedited, y)
            expected = float(single[0].mean() * single[1].mean())
            after = metrics.share(both)
            self.add(f"multi.pair.{names[x]}.{names[y]}.joint", after)
            row = {"unedited": f"{before.mean():.2f}", "both edits": str(after)}
            row["if independent"] = f"{expected:.2f}"
            row["ratio"] = "left out"
            if expected >= LEAST:
                self.ratios[x, y] = float(both.mean()) / expected
                row["ratio"] = f"{self.ratios[x, y]:.2f}"
                kept.append((both, *single))
            similar = metrics.clip_i(unedited.clip, images.clip).raw.value
            row["CLIP-I"] = f"{similar:.2f}"
            row["evaluators agree"] = f"{_agreement(images, x, y):.2f}"
            rows[self.label(x, y)] = row
        columns = list(zip(*kept, strict=True))  # both, the first class, the second: per pair
        self.add("multi.pair.ratio", _over_pairs(_mean_ratio, *columns))
        self.add("multi.pair.worst_decile", _over_pairs(_worst_decile, *columns))
        self.add("multi.pair.left_out", len(rows) - len(kept), n=len(rows))
        return pd.DataFrame(rows).T

    def strips(self, unedited: Outcome, alone: Alone, together: Together) -> Figure:
        """One edit towards each class of the first attribute, then a second one added."""
        rows = {"unedited": unedited.images[: figures.ACROSS]}
        for aim in self.first:
            rows[self.label(aim)] = alone[aim].images[: figures.ACROSS]
            for other in self.study.attributes[1:]:
                added = Aim(other, len(other.classes) - 1)
                label = f"{self.name(aim)} + {self.name(added)}"
                rows[label] = together[aim, added].images[: figures.ACROSS]
        return figures.strips(rows, title="The same seeds: one edit, and a second one added")

    # ------------------------------------------------------------------ all at once

    def balance(self, before: Outcome, sets: Sets) -> pd.DataFrame:
        """How near all combinations of classes are to equal shares, and what it costs."""
        removed = [self._removed(before, images) for images in sets.values()]
        lost = [self._disagreed(before, images) for images in sets.values()]
        rows = {"unedited": self._balance("unedited", before, before)}
        for name, images in sets.items():
            rows[name] = self._balance(name, before, images)
        together = zip(metrics.simultaneous(removed), metrics.simultaneous(lost), strict=True)
        for name, cells in zip(sets, together, strict=True):
            rows[name] |= dict(zip(("removed", "agreement lost"), cells, strict=True))
        for name, *found in zip(sets, removed, lost, strict=True):
            # The rules are about DiffLens, and about several attributes.
            judged = name == OURS and len(self.study.attributes) > 1
            record = "multi.joint" if judged else f"multi.joint.{methods.key(name)}"
            self.add(f"{record}.removed", found[0])
            self.add(f"{record}.agreement_loss", found[1])
        return table(rows)

    @property
    def _cells(self) -> int:
        """The number of combinations of classes."""
        return prod(len(a.classes) for a in self.study.attributes)

    def _joint(self, images: Outcome) -> np.ndarray:
        """The probability of each combination of classes: (n, cells)."""
        return metrics.joint(*[images.scored[a] for a in self.study.attributes])

    def _squared(self, images: Outcome) -> Estimate:
        """FD squared over all cells, without the bias of its noise."""
        cells = self._joint(images)
        return Strata.plain(images.prompt, len(cells)).fd_squared(cells)

    def _removed(self, before: Outcome, images: Outcome) -> Estimate:
        """The share of the bias of the joint distribution that is gone."""
        return metrics.removed(self._squared(before), self._squared(images))

    def _agreed(self, images: Outcome) -> Tensor:
        """Whether the evaluators agree on every attribute of each image: (n,)."""
        same = [
            images.scored[a].argmax(-1) == images.labelled[a].argmax(-1)
            for a in self.study.attributes
        ]
        return torch.stack(same).all(0).float()

    def _disagreed(self, before: Outcome, images: Outcome) -> Estimate:
        """The share of images on which the evaluators agreed before, minus that now."""
        return metrics.mean(self._agreed(before) - self._agreed(images))

    def _balance(self, name: str, before: Outcome, images: Outcome) -> dict[str, object]:
        fd = metrics.combined(metrics.signed_root, self._squared(images), monotone=True)
        present = int((metrics.shares(self._joint(images)) > 0).sum())
        n, record = self.sizes["n_final"], f"multi.joint.{methods.key(name)}"
        self.add(f"{record}.fd", fd)
        self.add(f"{record}.cells", present, n=n)
        row: dict[str, object] = {f"FD over {self._cells} cells": fd}
        row |= {"removed": "", f"cells that occur (n = {n})": present}
        for attribute in self.study.attributes:
            row[f"FD of {attribute}"] = f"{images.fairness(attribute).unbiased.value:.3f}"
        row["CLIP-I"] = metrics.clip_i(before.clip, images.clip).raw
        row["evaluators agree on all"] = f"{self._agreed(images).mean():.2f}"
        return row

    def bars(self, before: Outcome, sets: Sets) -> Figure:
        """The share of every combination of classes, and images of the same seeds."""
        classes = [a.classes for a in self.study.attributes]
        names = [" · ".join(cell) for cell in product(*classes)]
        every = {"unedited": before, **sets}
        figure, axes = figures.panels(len(every), width=12, height=3, sharey=True)
        for axis, (title, images) in zip(axes, every.items(), strict=True):
            shares = metrics.shares(self._joint(images))
            axis.bar(range(len(names)), shares, color=figures.BLUE)
            figures.note(axis, f"smallest {shares.min():.2f}, largest {shares.max():.2f}")
            axis.axhline(1 / len(names), color="black", lw=0.8, ls=":")
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axis.set(title=title)
            axis.set_yscale("symlog", linthresh=0.02)
        axes[0].set_ylabel("share of images")
        figures.describe(figure, "Shares of all combinations of classes, before and after")
        rows = {name: images.images[: figures.ACROSS] for name, images in every.items()}
        return figures.strips(rows, title="the same seeds, all attributes at once")

    # ------------------------------------------------------------------ single features

    def single(self, unedited: Outcome, alone: Alone, steered: Steered) -> pd.DataFrame:
        """Each factor turned alone, and together with each class of the first attribute."""
        rows = {}
        for factor, images in steered.items():
            name = self.singles[factor]
            sets = {"unedited": unedited, f"{name} alone": images["alone"]}
            rises = {f"{name} alone": self._rise(factor, unedited, images["alone"])}
            for aim in self.first:
                label = f"{self.label(aim)} + {factor}"
                sets[self.label(aim)], sets[label] = alone[aim], images[aim]
                rises[label] = self._rise(factor, alone[aim], images[aim])
                record = f"multi.single.{factor}.{self.name(aim)}"
                self.rises[f"{record}.rise"] = rises[label]
                self.add(f"{record}.rise", rises[label])
                self.add(f"{record}.attribute_change", images[aim].gain(alone[aim], *aim))
            for label, edited in sets.items():
                rows[f"{factor}: {label}"] = self._single(factor, edited, rises.get(label))
            strips = {label: edited.images[: figures.ACROSS] for label, edited in sets.items()}
            figures.strips(strips, title=f"{factor}: {name}")
        return table(rows)

    def _target(self, factor: str) -> Aim:
        """The class that a factor is turned to."""
        return Aim(factor, self.study.factors[factor].index(self.singles[factor]))

    def _rise(self, factor: str, before: Outcome, after: Outcome) -> Estimate:
        """What a factor's class gains, as a share of what is possible: up to a share of 1.

        `NOTHING` where hardly anything is possible.
        """
        start, end = (_hits(images, self._target(factor)) for images in (before, after))
        if 1 - start.mean() < POSSIBLE:
            return metrics.NOTHING
        return metrics.bootstrap_means(_rise, start, end)

    def _single(self, factor: str, edited: Outcome, rise: Estimate | None) -> dict[str, str]:
        share = edited.share(*self._target(factor))
        row = {f"share of {factor}: {self.singles[factor]}": str(share), "rise": ""}
        if rise is not None:
            row["rise"] = NOT_POSSIBLE if np.isnan(rise.value) else str(rise)
        for aim in self.first:
            row[f"share of {self.name(aim)}"] = f"{edited.share(*aim).value:.2f}"
        return row

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        found = self._of_pairs() if self.pairs else [self._alone()]
        if len(self.study.attributes) > 1:
            found.append(self._of_joint())
        if self.rises:
            found.append(self._of_singles())
        return found

    def _alone(self) -> str:
        return f"{self.study.attributes[0]} is the only attribute: there are no pairs."

    def _of_pairs(self) -> list[str]:
        loss = self.results.figures.get("multi.interference.loss", metrics.NOTHING)
        found = [
            f"A second edit costs the first {loss} of what it gains, on average over the pairs "
            f"(left out: {self.value('multi.interference.left_out'):.0f} of {2 * len(self.pairs)}, "
            f"in which the edit alone gains less than {LEAST:.2f})."
        ]
        values = self.lost.to_numpy()
        if np.isfinite(values).any():
            aim, other = np.unravel_index(int(np.nanargmax(values)), values.shape)
            names = list(self.lost.index)
            found.append(
                f"The most is lost by {names[aim]} with {names[other]} added: "
                f"{np.nanmax(values):.2f} of its gain."
            )
        if self.ratios:
            found.append(self._of_meetings())
        return found

    def _of_meetings(self) -> str:
        pair = min(self.ratios, key=self.ratios.__getitem__)
        return (
            f"Both classes meet in {self.value('multi.pair.ratio'):.2f} times as many images as "
            f"independent edits would give (mean over {len(self.ratios)} pairs), and in nine of "
            f"ten pairs in at least {self.value('multi.pair.worst_decile'):.2f} times as many; the "
            f"worst pair is {self.label(*pair)} ({self.ratios[pair]:.2f})."
        )

    def _of_joint(self) -> str:
        removed, lost = self.value("multi.joint.removed"), self.value("multi.joint.agreement_loss")
        guided = self.value("multi.joint.h_distribution.removed")
        before, after = (self.value(f"multi.joint.{n}.fd") for n in ("unedited", "difflens"))
        return (
            f"Over all {self._cells} cells FD goes from {before:.3f} to {after:.3f}: {removed:.0%} "
            f"of the bias is removed (H-Distribution: {guided:.0%}). The share of images on which "
            f"the evaluators agree on every attribute falls by {lost:.3f}."
        )

    def _of_singles(self) -> str:
        told = [rise.value for rise in self.rises.values() if not np.isnan(rise.value)]
        if not told:
            return "Single features had nowhere to rise beside the attribute."
        return (
            f"Beside the attribute single features rise by {min(told):.2f} to {max(told):.2f} of "
            f"what is possible ({len(told)} of {len(self.rises)} cases; in the others less than "
            f"{POSSIBLE:.2f} is possible)."
        )


def _hits(images: Outcome, aim: Aim) -> Tensor:
    """Which images the scorer puts into a class: (n,) of 0 and 1."""
    return (images.scored[aim.attribute].argmax(-1) == aim.target).float()


def _agreement(images: Outcome, *aims: Aim) -> float:
    """The agreement of the two evaluators on the attribute on which they agree less."""
    return min(images.agreement(aim.attribute).value for aim in aims)


def _over_pairs(function: Callable[..., Array], *columns: Sequence[Tensor]) -> Estimate:
    """A figure over pairs, each of whose columns has one value per image for each pair.

    All pairs have the same images, which are resampled as such. `NOTHING` without pairs.
    """
    if not columns or not columns[0]:
        return metrics.NOTHING
    return metrics.bootstrap_means(function, *(torch.stack(list(c), 1) for c in columns))


def _mean_loss(lost: Array, gained: Array) -> Array:
    """(R, pairs) each to (R,). A resample's gain counts as half of `LEAST` at least."""
    loss: Array = (lost / np.maximum(gained, LEAST / 2)).mean(-1)
    return loss


def _ratio(both: Array, first: Array, second: Array) -> Array:
    """(R, pairs) each to (R, pairs), of a denominator as in `_mean_loss`."""
    ratio: Array = both / np.maximum(first * second, LEAST / 2)
    return ratio


def _mean_ratio(both: Array, first: Array, second: Array) -> Array:
    return _ratio(both, first, second).mean(-1)


def _worst_decile(both: Array, first: Array, second: Array) -> Array:
    """The ratio that nine of ten pairs come up to: (R,)."""
    worst: Array = np.quantile(_ratio(both, first, second), 0.1, axis=-1)
    return worst


def _rise(start: Array, end: Array) -> Array:
    """(R,) each to (R,). In a resample half of `POSSIBLE` is possible at least."""
    rise: Array = (end - start) / np.maximum(1 - start, POSSIBLE / 2)
    return rise
