"""The page of notebook 05: features are turned up and down while images are generated.

`Interventions` draws dose-response curves, shows progressive edits and edits to a ratio, and
measures which other factors move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import evaluators, metrics, outcome
from ..analysis import scoring
from ..features import BiasFeatures
from ..metrics import Estimate, Leakage
from ..outcome import Outcome
from . import figures
from .page import Page
from .tables import key, table

if TYPE_CHECKING:
    from ..study import Study

OURS = "DiffLens features"
RANDOM = "random features"
STRIP = 12  # images of a strip
SLIDER = 24  # images of the slider
Doses = Mapping[float, Outcome]  # by beta
Curves = Mapping[tuple[int, str], Doses]  # by the class that is aimed at, and by the method
Ends = Mapping[int, Outcome]  # by the class that is aimed at


class Interventions(Page):
    """Dose-response curves, progressive edits, ratios, and what else moves."""

    frechet = ("n_curve", "n_final")
    needs = ("betas", "strong", "n_curve", "n_final", "target_share")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        n_curve, n_final = sizes["n_curve"], sizes["n_final"]
        if len(study.attributes) > 1 and n_curve > n_final:  # `every_class` pairs their images
            raise ValueError(f"n_curve must be at most n_final ({n_final}), got {n_curve}")
        self.attribute = study.attributes[0]
        self.betas: list[float] = sizes["betas"]
        self.last = len(self.attribute.classes) - 1
        self.reference: Mapping[int, Tensor] = {}
        """Features of images of the data, by their class: (N, F) each."""
        self.without: set[int] = set()
        """The classes of the first attribute that have no features."""
        self.moved: list[str] = []
        """The factors whose shifts were measured."""
        self.gains: dict[str, list[Estimate]] = {}
        """How much the share of a class of another attribute has risen, by attribute."""

    def name(self, target: int) -> str:
        """The name of a class of the first attribute."""
        return self.attribute.classes[target]

    def share(self, images: Outcome, target: int) -> Estimate:
        """The share of a class of the first attribute."""
        return images.share(self.attribute, target)

    # ------------------------------------------------------------------ one attribute, both ways

    def features(self, found: BiasFeatures) -> pd.DataFrame:
        """How many features each class has."""
        rows: dict[str, int] = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                rows[f"{attribute}: {label}"] = len(found.features[attribute][target])
        steerable = found.steerable(self.attribute)
        self.without = set(range(self.last + 1)) - set(steerable)
        return pd.Series(rows, name="features").to_frame()

    def glance(self, before: Outcome, after: Outcome, target: int, beta: float) -> Figure:
        """The same seeds without and with an edit."""
        edited = f"β = {beta:g}"
        rows = {"unedited": before.images[:STRIP], edited: after.images[:STRIP]}
        return figures.strips(rows, title=f"The same seeds, pushed towards {self.name(target)}")

    def doses(self, curves: Curves) -> Figure:
        """Dose-response curves: a panel for each of the two classes."""
        targets = list(dict.fromkeys(target for target, _ in curves))
        figure, axes = figures.panels(len(targets), height=3.8, sharey=True)
        for axis, target in zip(axes, targets, strict=True):
            self._panel(axis, curves, target)
        axes[0].set_ylabel(f"share of the class (n = {self.sizes['n_curve']} per point)")
        axes[0].legend(fontsize=8)
        text = "Dose-response curves of each method, towards either class"
        return figures.finish(figure, text)

    def _panel(self, axis: Axes, curves: Curves, target: int) -> None:
        label = self.name(target)
        methods = [method for aim, method in curves if aim == target]
        for method, colour in zip(methods, figures.PALETTE, strict=False):
            doses = curves[target, method]
            shares = [self.share(images, target) for images in doses.values()]
            line = "--" if method == RANDOM else "-"
            figures.curve(axis, list(doses), shares, method, colour, line)
            for beta, share in zip(doses, shares, strict=True):
                self.add(f"interventions.{label}.{key(method)}.share.beta{beta:g}", share)
        axis.axhline(0.9, color="black", lw=0.7, ls=":")
        axis.set(title=f"towards {label}", xlabel="β (class differences)", ylim=(0, 1.02))

    def fidelity(self, curves: Curves, renders: Mapping[int, Tensor]) -> pd.DataFrame:
        """Quality of edited images at the least and the largest strength.

        `renders` are images of the data of each class, (N, 3, H, W).
        """
        scorer = self.study.subject.scorer
        self.reference = {c: evaluators.embed(scorer, images) for c, images in renders.items()}
        rows = {}
        for (target, method), doses in curves.items():
            unedited = doses[0.0]
            aim = f"→ {self.name(target)}"
            if method == OURS:
                rows[f"{aim}, unedited, β = 0"] = self._fidelity(unedited, unedited, target)
            for beta in dict.fromkeys((self.betas[0], self.betas[-1])):
                if beta in doses:
                    row = self._fidelity(unedited, doses[beta], target)
                    rows[f"{aim}, {method}, β = {beta:g}"] = row
        return table(rows)

    def _fidelity(self, before: Outcome, after: Outcome, target: int) -> dict[str, Estimate]:
        similar = metrics.clip_i(before.clip, after.clip)
        return {
            "share": self.share(after, target),
            "evaluators agree": after.agreement(self.attribute),
            "Fréchet to the class": self._distance(after, target),
            "CLIP-I": similar.raw,
        }

    def _distance(self, images: Outcome, target: int) -> Estimate:
        """The Fréchet distance to images of one class in the data."""
        seed = self.study.seeds.main
        return metrics.frechet(images.features, self.reference[target], seed=seed)

    # ------------------------------------------------------------------ progressive edits

    def both_ways(self, curves: Curves) -> Figure:
        """The same seeds, from the strongest edit to the first class down to that to the last."""
        sets = self._ordered(curves)
        rows = {label: images.images[:STRIP] for label, images in sets.items()}
        n_features, latents = self.study.settings.n_features, self.study.settings.latents
        features = f"{n_features} of {latents:,} features turned"
        return figures.strips(rows, title=f"The same twelve seeds, with {features}")

    def _ordered(self, curves: Curves) -> dict[str, Outcome]:
        """The images by their labels, from the first class over no edit to the last."""
        first, last = curves[0, OURS], curves[self.last, OURS]
        sets = {}
        for beta in reversed(self.betas):
            sets[f"{self.name(0)}, β = {beta:g}"] = first[beta]
        sets["unedited"] = first[0.0]
        for beta in self.betas:
            sets[f"{self.name(self.last)}, β = {beta:g}"] = last[beta]
        return sets

    def progressive(self, attribute: str, target: int, path: Sequence[Outcome]) -> Figure:
        """One strip per seed: unedited, then growing strengths."""
        label = self.study.attribute(attribute).classes[target]
        stack = torch.stack([images.images for images in path], 1)  # (seeds, strengths, 3, H, W)
        rows = {f"seed {i}": images for i, images in enumerate(stack)}
        columns = ["unedited", *(f"β = {beta:g}" for beta in self.betas)]
        return figures.strips(rows, columns, f"{attribute}: towards {label}", width=6)

    def every_class(
        self, fresh: Outcome, edited: Mapping[tuple[str, int], Outcome]
    ) -> pd.DataFrame:
        """The share of each class of the other attributes, before and after an edit towards it."""
        names = outcome.class_names({a: a.classes for a in self.study.attributes})
        strong = f"β = {self.sizes['strong']:g}"
        beta = f"beta{self.sizes['strong']:g}"
        rows = {}
        for (attribute, target), images in edited.items():
            before, after = (o.share(attribute, target) for o in (fresh, images))
            similar = metrics.clip_i(fresh.clip[: len(images.clip)], images.clip).raw
            gain = images.gain(fresh, attribute, target)
            self.gains.setdefault(attribute, []).append(gain)
            name = names[attribute, target]
            self.add(f"interventions.{name}.original.share", before)
            self.add(f"interventions.{name}.features.share.{beta}", after)
            self.add(f"interventions.{name}.features.clip_i.{beta}", similar)
            label = self.study.attribute(attribute).classes[target]
            row = {"before": before, strong: after, "gain": gain, "CLIP-I": similar}
            rows[f"{attribute}: {label}"] = row
        return table(rows)

    # ------------------------------------------------------------------ as far as it goes; ratios

    def beyond(self, fresh: Outcome, final: Ends, strengths: Mapping[int, float]) -> pd.DataFrame:
        """Images of fresh seeds at the strongest edit of each class, with all figures."""
        strips = {"unedited": fresh.images[:STRIP]}
        distances = [str(self._distance(fresh, target)) for target in final]
        unedited = {
            "β": 0,
            "share": f"{self.name(0)} {self.share(fresh, 0)}",
            "agree": fresh.agreement(self.attribute),
            "Fréchet to the class": " / ".join(distances),
        }
        rows: dict[str, dict[str, object]] = {"unedited": unedited}
        for target, images in final.items():
            label = self.name(target)
            strips[f"→ {label}"] = images.images[:STRIP]
            rows[f"towards {label}"] = {"β": strengths[target]}
            rows[f"towards {label}"] |= self._beyond(fresh, images, target)
        figures.strips(strips, title="the same seeds, pushed both ways")
        return table(rows)

    def _beyond(self, fresh: Outcome, images: Outcome, target: int) -> dict[str, object]:
        label = self.name(target)
        share = self.share(images, target)
        agree = images.agreement(self.attribute)
        distance = self._distance(images, target)
        similar = metrics.clip_i(fresh.clip, images.clip).raw
        self.add(f"interventions.{label}.share_max", share)
        self.add(f"interventions.{label}.agreement", agree)
        self.add(f"interventions.{label}.frechet_to_class", distance)
        self.add(f"interventions.{label}.clip_i", similar)
        row = {"agree": agree, "Fréchet to the class": distance, "CLIP-I": similar}
        return {"share": f"{label} {share}", **row}

    def ratio(self, fresh: Outcome, reversed_: Outcome, balanced: Outcome) -> pd.DataFrame:
        """The drawn shares for a requested ratio, and for equal shares."""
        label = self.name(self.last)
        before, after = (self.share(images, self.last) for images in (fresh, reversed_))
        self.add("interventions.reversed.share", after)
        fd = [images.fairness(self.attribute).soft for images in (fresh, balanced)]
        self.add("interventions.original.fd", fd[0])
        self.add("interventions.balanced.fd", fd[1])
        prompts, seed = len(self.study.texts), self.study.seeds.main
        uniform, n_final = self.attribute.uniform, self.sizes["n_final"]
        noise = metrics.expected_fd(uniform, n_final, groups=prompts, seed=seed)
        strips = {"before": fresh.images[:14], "after": reversed_.images[:14]}
        change = f"{before.value:.2f} becomes {after.value:.2f}"
        figures.strips(strips, title=f"share of {label}: {change}")
        asked = f"{self.sizes['target_share']:.0%}"
        rows: dict[str, dict[str, object]] = {}
        rows[f"share of {label}"] = {"before": before, "after": after, "asked for": asked}
        rows["FD to equal shares"] = {"before": fd[0], "after": fd[1], "asked for": 0}
        rows["FD of sampling noise alone"] = {"after": noise}
        return table(rows)

    # ------------------------------------------------------------------ what else moved

    def leakage(self, fresh: Outcome, final: Ends, reversed_: Outcome) -> pd.DataFrame:
        """How far each edit moved the factors that it is not aimed at."""
        shifts: dict[str, dict[str, float]] = {}
        rows: dict[str, dict[str, str]] = {}
        for target, images in final.items():
            label = f"→ {self.name(target)}"
            for leak in self._leaks(fresh, images):
                self._add_leak(leak, target)
                shifts.setdefault(leak.factor, {})[label] = leak.shift.value
                row = rows.setdefault(leak.factor, {})
                row[label] = str(leak.shift)
                row[f"images changed {label}"] = f"{leak.changed.value:.2f}"
                row[f"chance {label}"] = f"{leak.chance:.3f}"
        kept = self._unrelated(fresh, reversed_)
        for factor, shift in shifts.items():
            shift["ratio reversed"] = kept.get(factor, metrics.NOTHING).value
        worst = max(kept.values(), key=_value, default=metrics.NOTHING)
        self.add("leakage.reversed.worst", worst)
        self.moved = list(shifts)
        notes = self._notes()
        if shifts:
            self._heat(pd.DataFrame(shifts).T.loc[list(notes)].rename(index=notes))
        else:
            print(f"{self.attribute} is the only factor that is read: nothing else could move.")
        return pd.DataFrame(rows).T.loc[list(notes)]

    def _leaks(self, before: Outcome, after: Outcome) -> list[Leakage]:
        """The factors that moved beside the first attribute."""
        leaks = metrics.leakage(before.scored, after.scored, seed=self.study.seeds.main)
        return [leak for leak in leaks if leak.factor != self.attribute]

    def _add_leak(self, leak: Leakage, target: int) -> None:
        record = f"leakage.{self.name(target)}.{leak.factor}"
        self.add(record, leak.shift)
        self.add(f"{record}.changed", leak.changed)

    def _unrelated(self, before: Outcome, after: Outcome) -> dict[str, Estimate]:
        """The shifts of the factors that have nothing to do with the first attribute."""
        unrelated = scoring.unrelated(self.study.subject, self.attribute)
        leaks = self._leaks(before, after)
        return {leak.factor: leak.shift for leak in leaks if leak.factor in unrelated}

    def _independent(self) -> list[str]:
        """The factors that depend on nothing in the data and that the evaluators read."""
        return [f for f in self.study.world.independent_factors() if f in self.moved]

    def _notes(self) -> dict[str, str]:
        """Names of factors in the matrix. Those that depend on the attribute are listed first."""
        caused = self.study.world.effects(self.attribute)
        depending = {f: f"{f} (depends on {self.attribute})" for f in caused if f in self.moved}
        free = {f: f"{f} (independent)" for f in self._independent() if f not in depending}
        others = {f: f for f in self.moved if f not in depending and f not in free}
        return depending | others | free

    @staticmethod
    def _heat(table: pd.DataFrame) -> None:
        figure, axes = figures.panels(1, 5.4, 1.6 + 0.2 * len(table))
        label = "total variation of shares"
        figures.heat(axes[0], table, label=label, cmap="Oranges", center=None)
        text = "How far each edit moves the factors that it is not aimed at"
        figures.finish(figure, text)

    def slider(self, curves: Curves) -> HTML:
        """The same seeds under edits from the first class, over no edit, to the last class."""
        sets = self._ordered(curves)
        name = self.name(self.last)
        frames, captions = {}, {}
        for label, images in sets.items():
            frames[label] = images.images[:SLIDER]
            share = self.share(images, self.last).value
            captions[label] = f"· share of {name}: {share:.2f}"
        return HTML(figures.slider(frames, captions, columns=8, start=len(self.betas)))

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        for target in dict.fromkeys((0, self.last)):
            self._judge_share(target)
            self._judge_random(target)
        self._judge_independent()
        self._judge_ratio()
        self._judge_others()
        super().judge()

    def _judge_share(self, target: int) -> None:
        label = self.name(target)
        share = self.value(f"interventions.{label}.share_max")
        agree = self.value(f"interventions.{label}.agreement")
        self.claim(
            f"the share of {label} can be pushed beyond 90 % while evaluators agree",
            f"interventions.{label}.share_max",
            "share above 90 % and agreement of both evaluators at least 95 %",
            share > 0.9 and agree >= 0.95,
            share > 0.9,
        )

    def _judge_random(self, target: int) -> None:
        """Judges the random control. A class without features has no control."""
        label = self.name(target)
        curve = f"interventions.{label}.{key(RANDOM)}.share"
        record = f"{curve}.beta{self.betas[-1]:g}"
        if target in self.without:
            return
        risen = self.value(record) - self.value(f"{curve}.beta0")
        self.claim(
            f"random features do not steer towards {label}",
            record,
            "share at most 15 points above the unedited one",
            risen <= 0.15,
        )

    def _judge_independent(self) -> None:
        ends = [self.name(target) for target in (0, self.last)]
        free = self._independent()
        leaks = [self.value(f"leakage.{end}.{factor}") for end in ends for factor in free]
        worst = max(leaks, default=metrics.NAN)
        self.add("leakage.independent.worst", worst, n=self.sizes["n_final"])
        self.claim(
            f"factors that are independent of {self.attribute} survive",
            "leakage.independent.worst",
            "total variation at most 0.10",
            worst <= 0.10,
            bool(leaks) and float(np.median(leaks)) <= 0.10,
            close=True,
        )

    def _judge_ratio(self) -> None:
        wanted = self.sizes["target_share"]
        missed = abs(self.value("interventions.reversed.share") - wanted)
        self.claim(
            f"the ratio of {self.attribute} can be reversed",
            "interventions.reversed.share",
            f"within 0.08 of the {wanted} asked for",
            missed <= 0.08,
        )
        worst = self.value("leakage.reversed.worst")
        self.claim(
            f"what has nothing to do with {self.attribute} survives a reversed ratio",
            "leakage.reversed.worst",
            "total variation at most 0.10 for every factor",
            worst <= 0.10,
            worst <= 0.20,
            close=True,
        )

    def _judge_others(self) -> None:
        best = [max(gains, key=_value) for gains in self.gains.values()]  # of each attribute
        least = min(best, key=_value, default=metrics.NOTHING)
        self.add("interventions.least_attribute.gain", least)
        complete = len(best) == len(self.study.attributes) - 1
        self.claim(
            "every other attribute follows its features",
            "interventions.least_attribute.gain",
            "each has a class that gains at least 15 points",
            complete and least.value >= 0.15,
            any(gain.value >= 0.15 for gain in best),
            close=True,
        )

    def sentences(self) -> list[str]:
        found = []
        for target in dict.fromkeys((0, self.last)):
            label = self.name(target)
            share = self.value(f"interventions.{label}.share_max")
            agree = self.value(f"interventions.{label}.agreement")
            agreed = f"the two evaluators agree on {agree:.2f} of these images"
            found.append(f"On fresh seeds the share of {label} reaches {share:.2f}; {agreed}.")
        label, wanted = self.name(self.last), self.sizes["target_share"]
        reached = self.value("interventions.reversed.share")
        asked = f"When a share of {wanted:.2f} of {label} is asked for"
        found.append(f"{asked}, {reached:.2f} comes out.")
        if "leakage.independent.worst" in self.records:
            worst = self.value("leakage.independent.worst")
            most = f"Of the factors that do not depend on {self.attribute}, the one that moves most"
            found.append(f"{most} moves by {worst:.2f} (total variation).")
        if "interventions.least_attribute.gain" in self.records:
            gain = self.value("interventions.least_attribute.gain")
            least = "Of the other attributes, the one that follows least"
            found.append(f"{least} gains {gain:.2f} in its best class.")
        return found


def _value(estimate: Estimate) -> float:
    return estimate.value
