"""The page of notebook 05: features are turned up and down while images are generated.

`Interventions` draws dose-response curves, shows progressive edits and reversed ratios beside those
of rivals, and measures which other factors move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import evaluators, methods, metrics, outcome
from ..analysis import scoring
from ..analysis.scoring import Scale
from ..debiasing import Debiased, Mixture
from ..features import BiasFeatures
from ..methods import Method, h_distribution, latent_editing
from ..metrics import Estimate, Leakage
from ..outcome import Outcome
from . import figures
from .page import Page
from .tables import joined, key, table

if TYPE_CHECKING:
    from ..study import Study
    from ..subjects.attribute import Attribute

OURS = "DiffLens"
RANDOM = "random features"
SLIDER = 24  # images of the slider
SAVED = "leaks more than DiffLens by"
LEAST = 0.01  # the least share of a class in a ratio that is asked for
Doses = Mapping[float, Outcome]  # by strength
Curves = Mapping[tuple[int, str], Doses]  # by the class that is aimed at, and by the method
Ends = Mapping[int, Outcome]  # by the class that is aimed at
Sets = Mapping[str, Debiased]  # by the name of the method
Row = dict[str, object]  # of a table


class Interventions(Page):
    """Dose-response curves, progressive edits, ratios, and what else moves."""

    frechet = ("n_curve", "n_final")
    needs = ("betas", "strong", "n_curve", "n_final", "target_share")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        n_curve, n_final = sizes["n_curve"], sizes["n_final"]
        if n_curve > n_final:  # `every_class` pairs their images
            raise ValueError(f"n_curve must be at most n_final ({n_final}), got {n_curve}")
        self.attribute = study.attributes[0]
        self.betas: list[float] = sizes["betas"]
        self.last = len(self.attribute.classes) - 1
        self.reference: Mapping[int, Tensor] = {}
        """Features of images of the data, by their class: (N, F) each."""
        self.moved: list[str] = []
        """The factors whose shifts were measured."""

    @cached_property
    def found(self) -> BiasFeatures:
        """The bias features of every class."""
        return self.study.features()

    def ours(self, attribute: str) -> Method:
        """DiffLens, as this page uses it throughout."""
        return methods.difflens(self.found, attribute, OURS)

    def baselines(self, attribute: str) -> list[Method]:
        """What is planned beside DiffLens: latent editing and H-Distribution."""
        return [
            *latent_editing.rows(self.study, attribute),
            *h_distribution.rows(self.study, attribute),
        ]

    @staticmethod
    def at_a_quarter(method: Method) -> Method:
        """A method whose strength is a quarter of beta: those that move all of h move more."""
        return replace(method, towards=lambda c, beta: method.towards(c, beta / 4))

    def name(self, target: int) -> str:
        """The name of a class of the first attribute."""
        return self.attribute.classes[target]

    def share(self, images: Outcome, target: int) -> Estimate:
        """The share of a class of the first attribute."""
        return metrics.share(images.scored[self.attribute].argmax(-1) == target)

    # ------------------------------------------------------------------ one attribute, both ways

    def features(self, found: BiasFeatures) -> pd.DataFrame:
        """How many features each class has."""
        rows: dict[str, int] = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                rows[f"{attribute}: {label}"] = len(found.features[attribute][target])
        return pd.Series(rows, name="features").to_frame()

    def glance(self, before: Outcome, after: Outcome, target: int, beta: float) -> Figure:
        """The same seeds without and with an edit."""
        edited = f"β = {beta:g}"
        rows = {"unedited": before.images[: figures.ACROSS], edited: after.images[: figures.ACROSS]}
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
        for method in methods:
            doses, colour = curves[target, method], figures.OF_METHODS.get(method, figures.GREY)
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

    def both_ways(self, curves: Curves, method: str = OURS) -> Figure:
        """The same seeds, from the strongest edit to the first class down to that to the last."""
        sets = self._ordered(curves, method)
        rows = {label: images.images[: figures.ACROSS] for label, images in sets.items()}
        return figures.strips(rows, title=f"The same seeds: {method}")

    def _ordered(self, curves: Curves, method: str) -> dict[str, Outcome]:
        """The images by their labels, from the first class over no edit to the last."""
        first, last = curves[0, method], curves[self.last, method]
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
        """The share of every class, before and after an edit towards it."""
        names = outcome.class_names({a: a.classes for a in self.study.attributes})
        strong = f"β = {self.sizes['strong']:g}"
        beta = f"beta{self.sizes['strong']:g}"
        gains: dict[str, list[Estimate]] = {attribute: [] for attribute in self.study.attributes}
        rows: dict[str, Row] = {}
        for (attribute, target), images in edited.items():
            before, after = (o.share(attribute, target) for o in (fresh, images))
            similar = metrics.clip_i(fresh.clip[: len(images.clip)], images.clip).raw
            gain = images.gain(fresh, attribute, target)
            gains[attribute].append(gain)
            name = names[attribute, target]
            self.add(f"interventions.{name}.original.share", before)
            self.add(f"interventions.{name}.features.share.{beta}", after)
            self.add(f"interventions.{name}.features.clip_i.{beta}", similar)
            label = self.study.attribute(attribute).classes[target]
            row: Row = {"before": before, strong: after, "gain": gain, "CLIP-I": similar}
            rows[f"{attribute}: {label}"] = row
        for attribute, own in gains.items():
            self.add(f"interventions.most.{attribute}.gain", _largest(own))
        return table(rows)

    # ------------------------------------------------------------------ as far as it goes; ratios

    def beyond(self, fresh: Outcome, final: Ends, strengths: Mapping[int, float]) -> pd.DataFrame:
        """Images of fresh seeds at the strongest edit of each class, with all figures."""
        strips = {"unedited": fresh.images[: figures.ACROSS]}
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
            strips[f"→ {label}"] = images.images[: figures.ACROSS]
            rows[f"towards {label}"] = {"β": strengths[target]}
            rows[f"towards {label}"] |= self._beyond(fresh, images, target)
        figures.strips(strips, title="the same seeds, pushed both ways")
        return table(rows)

    def _beyond(self, fresh: Outcome, images: Outcome, target: int) -> Row:
        label = self.name(target)
        share = self.share(images, target)
        agree = images.agreement(self.attribute)
        loss = metrics.difference(fresh.agreement(self.attribute), agree)
        distance = self._distance(images, target)
        similar = metrics.clip_i(fresh.clip, images.clip).raw
        self.add(f"interventions.{label}.share_max", share)
        self.add(f"interventions.{label}.agreement", agree)
        self.add(f"interventions.{label}.agreement_loss", loss)
        self.add(f"interventions.{label}.frechet_to_class", distance)
        self.add(f"interventions.{label}.clip_i", similar)
        row: Row = {"share": f"{label} {share}", "agree": agree, "agree less often by": loss}
        return row | {"Fréchet to the class": distance, "CLIP-I": similar}

    # ------------------------------------------------------------------ reversed ratios

    def asked(self, attribute: Attribute) -> list[float]:
        """The reversed ratio of an attribute, as class shares.

        Of the first attribute the last class gets `target_share`. Of another one the commonest and
        the rarest class exchange their planted shares, of which none counts less than `LEAST`.
        """
        if attribute == self.attribute:
            return attribute.with_last(self.sizes["target_share"])
        shares = self.study.planted(attribute).clamp_min(LEAST)
        common, rare = outcome.extremes(shares)
        shares[[common, rare]] = shares[[rare, common]]
        return [round(share, 9) for share in (shares / shares.sum()).tolist()]

    def ratios(self, fresh: Outcome, made: Mapping[str, Sets]) -> pd.DataFrame:
        """How near each method comes to a reversed ratio, and what else it moves.

        `made` is {attribute: {name of the method: its images}}.
        """
        rows: dict[str, Row] = {}
        for attribute, sets in made.items():
            target = next(iter(sets.values())).target
            scale = self.study.scale(attribute, fresh, target)
            rows[f"{attribute}: asked for"] = {"shares": joined(target)}
            rows[f"{attribute}: unedited"] = _reached(scale, scale.unedited)
            leaks = {name: scale.leak(found.mixture) for name, found in sets.items()}
            for name, found in sets.items():
                measured = {"FD": _fd(scale, found.mixture), "leak": leaks[name]}
                measured["the worst leak"] = scale.leak(found.mixture, worst=True)
                if name != OURS:
                    measured[SAVED] = metrics.difference(leaks[name], leaks[OURS])
                self._add_ratio(attribute, name, measured)
                rows[f"{attribute}: {name}"] = _reached(scale, found.mixture) | measured
        return table(rows)

    def _add_ratio(self, attribute: str, name: str, measured: Mapping[str, Estimate]) -> None:
        record, rival = f"interventions.reversed.{attribute}", methods.key(name)
        own = record if name == OURS else f"{record}.{rival}"
        self.add(f"{own}.fd", measured["FD"])
        self.add(f"{own}.leak", measured["leak"])
        self.add(f"{own}.leak_worst", measured["the worst leak"])
        if SAVED in measured:
            self.add(f"{record}.leak_saved.{rival}", measured[SAVED])

    def strips(self, attribute: str, fresh: Outcome, sets: Sets) -> Figure:
        """The same seeds, unedited and at the reversed ratio of every method."""
        rows = {"unedited": fresh.images[: figures.ACROSS]}
        rows |= {name: found.outcome.images[: figures.ACROSS] for name, found in sets.items()}
        target = next(iter(sets.values())).target
        classes = self.study.attribute(attribute).classes
        asked = ", ".join(
            f"{c} {100 * share:.3g} %" for c, share in zip(classes, target, strict=True)
        )
        return figures.strips(rows, title=f"{attribute}, reversed: {asked}")

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
        self.moved = list(shifts)
        free = [shift for f in self._independent() for shift in shifts[f].values()]
        self.add("leakage.independent.worst", max(free, default=metrics.NAN), len(fresh.images))
        for factor, shift in shifts.items():
            shift["ratio reversed"] = kept.get(factor, metrics.NOTHING).value
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
        sets = self._ordered(curves, OURS)
        name = self.name(self.last)
        frames, captions = {}, {}
        for label, images in sets.items():
            frames[label] = images.images[:SLIDER]
            share = self.share(images, self.last).value
            of = f"of {len(images.images)} images"
            captions[label] = f"· share of {name}: {share:.2f} {of}"
        return HTML(figures.slider(frames, captions, columns=8, start=len(self.betas)))

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        found = []
        for target in dict.fromkeys((0, self.last)):
            label = self.name(target)
            share = self.value(f"interventions.{label}.share_max")
            agree = self.value(f"interventions.{label}.agreement")
            agreed = f"the two evaluators agree on {agree:.2f} of these images"
            found.append(f"On fresh seeds the share of {label} reaches {share:.2f}; {agreed}.")
        for attribute in self.study.attributes:
            fd = self.value(f"interventions.reversed.{attribute}.fd")
            ratio = (
                f"When the ratio of {attribute} is reversed, FD to the ratio asked for is {fd:.2f}"
            )
            record = f"interventions.reversed.{attribute}.leak_worst"
            leak = f"{self.value(record):.2f}"
            most = f"the unrelated factor that moves most moves by {leak} (total variation)"
            found.append(f"{ratio}." if leak == "–" else f"{ratio}, and {most}.")
        if "leakage.independent.worst" in self.records:
            worst = self.value("leakage.independent.worst")
            most = f"Of the factors that do not depend on {self.attribute}, the one that moves most"
            found.append(f"{most} moves by {worst:.2f} as its classes are pushed to the end.")
        return found


def _largest(gains: Sequence[Estimate]) -> Estimate:
    """The largest of some gains on the same images; `metrics.NOTHING` if there is none."""
    return metrics.combined(lambda *g: np.max(g, axis=0), *gains) if gains else metrics.NOTHING


def _reached(scale: Scale, mixture: Mixture) -> Row:
    """The class shares of a plan, as they are expected of it, and their FD."""
    expected = mixture.expected(lambda seen: seen.scored[scale.attribute])
    return {"shares": joined(scale.strata.shares(expected).mean(0)), "FD": _fd(scale, mixture)}


def _fd(scale: Scale, mixture: Mixture) -> Estimate:
    """FD of a plan, without the bias of its noise."""
    return metrics.combined(metrics.signed_root, scale.fd_squared(mixture), monotone=True)
