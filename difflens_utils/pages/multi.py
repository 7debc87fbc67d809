"""The page of notebook 08: several attributes at once.

`Multi` measures pairs of edits, all edits at once, and single features beside an attribute.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, product
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .. import metrics, outcome
from ..attribution import Aim
from ..debiasing import Arm, Search
from ..metrics import Estimate
from ..outcome import Outcome
from . import figures
from .page import Page
from .tables import joined, table

if TYPE_CHECKING:
    from ..study import Study

STRIP = 12  # images of a strip
SPARED = -0.10  # a second edit that takes more from a share than this interferes
Pair = tuple[Aim, Aim]
Alone = Mapping[Aim, Outcome]
Together = Mapping[Pair, Outcome]
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
        self.matrix = pd.DataFrame()
        self.moved: list[tuple[Estimate, Estimate]] = []
        """What each factor gained, and what the attribute lost."""

    def label(self, *aims: Aim) -> str:
        """Classes in words: "gender: male + age: old"."""
        return " + ".join(f"{aim.attribute}: {self.name(aim)}" for aim in aims)

    def name(self, aim: Aim) -> str:
        """The name of a class."""
        return self.study.subject.classes(aim.attribute)[aim.target]

    # ------------------------------------------------------------------ pairs

    def glance(self, sets: Mapping[str, Outcome]) -> Figure:
        """The same seeds under several edits."""
        rows = {label: images.images[:STRIP] for label, images in sets.items()}
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

    def interference(self, alone: Alone, together: Together) -> pd.DataFrame:
        """The change that a second edit makes to the share of the class that the first aims at."""
        labels = [self.label(aim) for aim in self.aims]
        self.matrix = pd.DataFrame(np.nan, labels, labels)
        changes = []
        for (x, y), images in together.items():
            for aim, other in ((x, y), (y, x)):
                edited, plain = _hits(images, aim), _hits(alone[aim], aim)
                change = edited.float() - plain.float()  # (n,)
                changes.append(change)
                self.matrix.loc[self.label(aim), self.label(other)] = change.mean().item()
        mean, untouched, worst = self._interference(changes)
        self.add("multi.interference.mean", mean)
        self.add("multi.interference.untouched", untouched)
        self.add("multi.interference.worst", worst, n=self.sizes["n_pair"])
        if changes:
            self._heat()
        else:
            print(f"{self.study.attributes[0]} is the only attribute: there are no pairs of edits.")
        row = {"mean change of the share": mean, "worst change": f"{worst:.2f}"}
        row["pairs in which it falls by at most 0.10"] = untouched
        return table({"a second edit": row})

    def _interference(self, changes: list[Tensor]) -> tuple[Estimate, Estimate, float]:
        """The mean change, the share of pairs without interference, and the worst change."""
        values = self.matrix.to_numpy()
        spared = int((values >= SPARED).sum())
        untouched = metrics.proportion(spared, int(np.isfinite(values).sum()))
        if not changes:
            return metrics.NOTHING, untouched, metrics.NAN
        mean = metrics.mean(torch.stack(changes).mean(0))  # one value per seed: pairs share seeds
        return mean, untouched, float(np.nanmin(values))

    def _heat(self) -> None:
        figure, axes = figures.panels(1, width=8, height=5.6)
        figures.heat(axes[0], self.matrix, label="share with both edits minus share with one")
        axes[0].set(xlabel="edit that is added", ylabel="class that is aimed at")
        text = "What a second edit changes about the class that the first aims at"
        figures.finish(figure, text)

    def joint(self, unedited: Outcome, alone: Alone, together: Together) -> pd.DataFrame:
        """The share of images with both classes, beside that which independent edits would give."""
        names = outcome.class_names({a: a.classes for a in self.study.attributes})
        rows: dict[str, dict[str, str]] = {}
        reached, independent = [], []
        for (x, y), images in together.items():
            before, after = (_both(o, x, y) for o in (unedited, images))
            expected = alone[x].share(*x).value * alone[y].share(*y).value
            reached.append(after.value)
            independent.append(expected)
            self.add(f"multi.pair.{names[x]}.{names[y]}.joint", after)
            similar = metrics.clip_i(unedited.clip, images.clip).raw.value
            agreement = _agreement(images, x, y)
            row = {"unedited": f"{before.value:.2f}", "both edits": str(after)}
            row["if independent"] = f"{expected:.2f}"
            row["CLIP-I"] = f"{similar:.2f}"
            row["evaluators agree"] = f"{agreement:.2f}"
            rows[self.label(x, y)] = row
        n = self.sizes["n_pair"]
        self.add("multi.pair.mean", _mean(reached), n=n)
        self.add("multi.pair.if_independent", _mean(independent), n=n)
        return pd.DataFrame(rows).T

    def strips(self, unedited: Outcome, alone: Alone, together: Together) -> Figure:
        """One edit towards each class of the first attribute, then a second one added."""
        rows = {"unedited": unedited.images[:STRIP]}
        for aim in self.first:
            rows[self.label(aim)] = alone[aim].images[:STRIP]
            for other in self.study.attributes[1:]:
                added = Aim(other, len(other.classes) - 1)
                label = f"{self.name(aim)} + {self.name(added)}"
                rows[label] = together[aim, added].images[:STRIP]
        return figures.strips(rows, title="The same twelve seeds: one edit, and a second one added")

    # ------------------------------------------------------------------ all at once

    def balance(self, before: Outcome, after: Outcome) -> pd.DataFrame:
        """How near all combinations of classes are to equal shares, and the cost in fidelity."""
        rows = {"unedited": self._balance("unedited", before, before)}
        rows["all plans composed"] = self._balance("all", before, after)
        count = self._cells
        n, prompts, seed = self.sizes["n_final"], len(self.study.texts), self.study.seeds.main
        noise = metrics.expected_fd([1 / count] * count, n, groups=prompts, seed=seed)
        rows["sampling noise alone"] = {"hard": noise}
        return table(rows)

    @property
    def _cells(self) -> int:
        """The number of combinations of classes."""
        return prod(len(a.classes) for a in self.study.attributes)

    def _joint(self, images: Outcome) -> np.ndarray:
        """The probability of each combination of classes: (n, cells)."""
        return metrics.joint(*[images.scored[a] for a in self.study.attributes])

    def _balance(self, record: str, before: Outcome, images: Outcome) -> dict[str, object]:
        cells = self._joint(images)
        fd = metrics.fairness_discrepancy(cells, groups=images.prompt)
        present = int((metrics.shares(cells) > 0).sum())
        n = self.sizes["n_final"]
        self.add(f"multi.joint.{record}.fd", fd.soft)
        self.add(f"multi.joint.{record}.fd_hard", fd.hard)
        self.add(f"multi.joint.{record}.cells", present, n=n)
        attributes = self.study.attributes
        agreement = [images.agreement(a).value for a in attributes]
        row: dict[str, object] = {f"FD over {self._cells} cells": fd.soft, "hard": fd.hard}
        row[f"cells that occur (n = {n})"] = present
        for attribute in attributes:
            single = images.fairness(attribute).soft.value
            row[f"FD of {attribute}"] = f"{single:.3f}"
        row["CLIP-I"] = metrics.clip_i(before.clip, images.clip).raw
        row["evaluators agree"] = joined(agreement)
        return row

    def bars(self, before: Outcome, after: Outcome) -> Figure:
        """The share of every combination of classes, and images of the same seeds."""
        classes = [a.classes for a in self.study.attributes]
        names = [" · ".join(cell) for cell in product(*classes)]
        figure, axes = figures.panels(2, width=11, height=3, sharey=True)
        titles = ("unedited", "all plans composed")
        for axis, title, images in zip(axes, titles, (before, after), strict=True):
            shares = metrics.shares(self._joint(images))
            axis.bar(range(len(names)), shares, color=figures.BLUE)
            figures.note(axis, f"smallest {shares.min():.2f}, largest {shares.max():.2f}")
            axis.axhline(1 / len(names), color="black", lw=0.8, ls=":")
            axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
            axis.set(title=title)
            axis.set_yscale("symlog", linthresh=0.02)
        axes[0].set_ylabel("share of images")
        figures.describe(figure, "Shares of all combinations of classes, before and after")
        rows = {"unedited": before.images[:14], "all at once": after.images[:14]}
        return figures.strips(rows, title="the same seeds")

    # ------------------------------------------------------------------ single features

    def single(self, unedited: Outcome, alone: Alone, steered: Steered) -> pd.DataFrame:
        """Each factor turned alone, and together with each class of the first attribute."""
        rows = {}
        for factor, images in steered.items():
            name = self.singles[factor]
            sets = {"unedited": unedited, f"{name} alone": images["alone"]}
            for aim in self.first:
                sets[self.label(aim)] = alone[aim]
                sets[f"{self.label(aim)} + {factor}"] = images[aim]
                self._add_single(factor, aim, alone[aim], images[aim])
            for label, edited in sets.items():
                rows[f"{factor}: {label}"] = self._single(factor, edited)
            strips = {label: edited.images[:STRIP] for label, edited in sets.items()}
            figures.strips(strips, title=f"{factor}: {name}")
        return table(rows)

    def _target(self, factor: str) -> int:
        """The number of the class that a factor is turned to."""
        return self.study.factors[factor].index(self.singles[factor])

    def _single(self, factor: str, edited: Outcome) -> dict[str, str]:
        share = edited.share(factor, self._target(factor))
        row = {f"share of {factor}: {self.singles[factor]}": str(share)}
        for aim in self.first:
            row[f"share of {self.name(aim)}"] = f"{edited.share(*aim).value:.2f}"
        return row

    def _add_single(self, factor: str, aim: Aim, without: Outcome, edited: Outcome) -> None:
        gain = edited.gain(without, factor, self._target(factor))
        lost = edited.gain(without, *aim)
        self.moved.append((gain, lost))
        record = f"multi.single.{factor}.{self.name(aim)}"
        self.add(f"{record}.gain", gain)
        self.add(f"{record}.attribute_change", lost)

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        untouched = self.value("multi.interference.untouched")
        self.claim(
            "a second attribute does not interfere",
            "multi.interference.untouched",
            "in 90 % of all pairs of edits the share of the first one's class falls by at most "
            "0.10",
            untouched >= 0.9,
            untouched >= 0.5,
            close=True,
        )
        mean, independent = self.value("multi.pair.mean"), self.value("multi.pair.if_independent")
        self.claim(
            "two attributes meet in the same image",
            "multi.pair.mean",
            "at least 90 % of what independent edits would give",
            mean >= 0.9 * independent,
            mean >= 0.7 * independent,
            close=True,
        )
        if len(self.study.attributes) > 1:
            self._judge_joint()
        if self.moved:
            self._judge_single()
        else:
            print("No factor beside the attributes is read: no single features were turned.")
        super().judge()

    def _judge_joint(self) -> None:
        start, end = self.records["multi.joint.unedited.fd"], self.records["multi.joint.all.fd"]
        self.claim(
            "the joint distribution of the attributes comes nearer to balance",
            "multi.joint.all.fd",
            f"at most half of the unedited {start['value']:.3f}",
            end["value"] <= 0.5 * start["value"],
            end["high"] < start["low"],
        )

    def _judge_single(self) -> None:
        steered = [gain.value >= 0.15 and lost.value >= -0.10 for gain, lost in self.moved]
        factor = next(iter(self.singles))
        self.claim(
            "single features are steered together with an attribute",
            f"multi.single.{factor}.{self.name(self.first[0])}.gain",
            "each rises by at least 0.15, the attribute falls by at most 0.10",
            all(steered),
            any(steered),
            close=True,
        )

    def sentences(self) -> list[str]:
        found = self._of_pairs()
        before, after = self.value("multi.joint.unedited.fd"), self.value("multi.joint.all.fd")
        occur = int(self.value("multi.joint.all.cells"))
        occurred = int(self.value("multi.joint.unedited.cells"))
        found.append(
            f"Over all {self._cells} cells FD goes from {before:.3f} to {after:.3f}, and {occur} "
            f"cells occur instead of {occurred}."
        )
        if self.moved:
            gains = [gain.value for gain, _ in self.moved]
            losses = [lost.value for _, lost in self.moved]
            found.append(
                f"With single features the factor rises by {min(gains):.2f} to {max(gains):.2f}, "
                f"and the attribute changes by {min(losses):.2f} to {max(losses):.2f}."
            )
        return found

    def _of_pairs(self) -> list[str]:
        if not self.pairs:
            return [f"{self.study.attributes[0]} is the only attribute: there are no pairs."]
        change = self.records["multi.interference.mean"]
        interval = f"{change['value']:.3f} [{change['low']:.3f}, {change['high']:.3f}]"
        untouched = self.value("multi.interference.untouched")
        place = int(np.nanargmin(self.matrix.to_numpy()))
        labels = list(self.matrix.index)
        aim, other = np.unravel_index(place, self.matrix.shape)
        worst = self.value("multi.interference.worst")
        mean = self.value("multi.pair.mean")
        independent = self.value("multi.pair.if_independent")
        return [
            "Adding a second edit changes the share of the class that the first one aims at by "
            f"{interval} on average, and by at least -0.10 in {untouched:.0%} of all ordered "
            f"pairs; the worst is {labels[aim]} with {labels[other]} added "
            f"({worst:.2f}).",
            f"Both classes are in the same image in {mean:.2f} of the images (mean over "
            f"{len(self.pairs)} pairs); edits that succeed independently would give "
            f"{independent:.2f}.",
        ]


def _hits(images: Outcome, aim: Aim) -> Tensor:
    """Which images the scorer puts into a class: (n,)."""
    return images.scored[aim.attribute].argmax(-1) == aim.target


def _both(images: Outcome, x: Aim, y: Aim) -> Estimate:
    """The share of images that are in both classes."""
    hits = _hits(images, x) & _hits(images, y)
    return metrics.wilson(int(hits.sum()), len(hits))


def _agreement(images: Outcome, *aims: Aim) -> float:
    """The agreement of the two evaluators on the attribute on which they agree less."""
    return min(images.agreement(aim.attribute).value for aim in aims)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else metrics.NAN
