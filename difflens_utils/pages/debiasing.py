"""The page of notebook 06: every method on the same seeds.

`Debiasing` shows the search, the plan and the table of every method, and compares the methods at
the same fairness.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import methods, metrics, outcome, sampling
from ..analysis import scoring
from ..analysis.scoring import Scale
from ..debiasing import UNEDITED, Debiased, Mixture, Search, clear
from ..metrics import Estimate
from ..metrics.estimates import Array
from ..outcome import Outcome
from ..sampling import Edit
from . import figures
from .descriptions import listed
from .page import Page
from .tables import joined

if TYPE_CHECKING:
    from ..study import Study
    from ..subjects.attribute import Attribute

Sets = Mapping[str, Debiased]  # by the name of the method, in the order of the table
Halves = Mapping[str, Mixture]  # images by the plans for the matched FD, by method
AllSets = Mapping[str, Sets]  # by attribute
AllHalves = Mapping[str, Halves]
Sweep = Mapping[tuple[str, float], Debiased]  # by method and ratio
Cells = dict[str, str]  # a row of a table
OURS, PUBLISHED, BEST = "DiffLens", "DiffLens, published", "DiffLens, best"
UNUSED = "Crosses: the evaluators agree less than on unedited images, so no plan uses the strength"
TIMED = 16  # images on which a method is timed
LEVELS = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.2)  # shares of the unedited FD, of a method's curve
ORIGINAL = (  # records of the unedited images
    "fd",
    "fd_soft",
    "fd_hard",
    "frechet_reference",
    "frechet_balanced",
    "kernel_balanced",
    "clip_t",
)
Scores = dict[str, Estimate]


class Debiasing(Page):
    """Search, plan and table of every method, and the cost of each at the same fairness."""

    frechet = ("n_final",)
    needs = ("n_final", "n_sweep", "n_wanted", "ratios", "wanted", "matched")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.first = study.attributes[0]
        self.order: list[str] = []  # the methods, as they stand in the table
        self.scores: dict[tuple[str, str], Scores] = {}  # by attribute and row of the table
        self.kept: dict[tuple[str, str], Estimate] = {}  # at the matched FD
        self.scales: dict[str, Scale] = {}  # by attribute

    # ------------------------------------------------------------------ before anything is edited

    def unedited(self, before: Outcome) -> pd.DataFrame:
        """Images that the model draws by itself, and how far their shares are from equal ones."""
        figures.show(before.images[: 3 * figures.ACROSS], title="unedited images, not selected")
        table = {}
        for attribute in self.study.attributes:
            row: Cells = {"classes": " / ".join(attribute.classes)}
            row["shares"] = _shares(before, attribute)
            row["asked for"] = joined(attribute.uniform)
            row["FD"] = str(before.fairness(attribute).soft)
            table[attribute] = row
        return pd.DataFrame(table).T

    def strengths(self, attribute: Attribute, target: int, edited: Mapping[float, Outcome]) -> None:
        """The same images under one edit of growing strength."""
        rows = {}
        for strength, drawn in edited.items():
            share = drawn.share(attribute, target)
            hits = round(share.value * share.n)
            rows[f"{strength:g}: {hits} of {share.n}"] = drawn.images
        name = attribute.classes[target]
        figures.strips(rows, title=f"{OURS} towards {name}. Strength: images that are {name}")

    # ------------------------------------------------------------------ the search

    def searches(self, searches: Mapping[Attribute, Mapping[str, Search]]) -> None:
        """What each strength reaches and costs: a panel for every class."""
        self.order = list(searches[self.first])
        panels = [(a, c) for a in searches for c in range(len(a.classes))]
        height = (len(panels) + 2) // 3
        size = (10, 3 * height)
        figure, axes = plt.subplots(
            height, 3, figsize=size, sharex=True, sharey=True, squeeze=False
        )
        for axis, (attribute, target) in zip(axes.flat, panels, strict=False):
            for search in searches[attribute].values():
                if not search.method.whole:  # such a one is aimed at no class
                    _path(axis, search, target)
            axis.set_title(f"{attribute}: {attribute.classes[target]}")
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        axes[0, 0].set_ylim(-0.03, 1.03)
        figure.supxlabel("what it costs: 1 − CLIP-I", fontsize=10)
        n_tuned = self.study.settings.n_tuned
        figure.supylabel(f"share of the class (n = {n_tuned} per point)", fontsize=10)
        _legend(figure, axes[0, 0], 3)
        figure.suptitle(UNUSED, fontsize=10)
        drawn = listed(axes[0, 0].get_legend_handles_labels()[1])
        figures.describe(figure, f"What each strength reaches and costs: {drawn}")
        figure.tight_layout()

    # ------------------------------------------------------------------ the table

    def scale(self, attribute: str, before: Outcome) -> Scale:
        """What the sets of an attribute are measured by."""
        if attribute not in self.scales:
            self.scales[attribute] = self.study.scale(attribute, before)
        return self.scales[attribute]

    def tables(self, attribute: Attribute, before: Outcome, sets: Sets) -> list[pd.DataFrame]:
        """Table 1 or 2 for one attribute: fairness and fidelity, then quality and leak."""
        scale = self.scale(attribute, before)
        original = scale.original()
        self.scores[attribute, "original"] = original
        fair = {"original": _fair(attribute, before, original)}
        rest = {"original": _rest(original, edited=False)}
        for name, made in sets.items():
            score = scale.score(made)
            self.scores[attribute, name] = score
            self._add_row(attribute, made, score)
            fair[name] = _fair(attribute, made.outcome, score, made)
            fair[name] |= self._paper(attribute, name)
            rest[name] = _rest(score)
        for metric in ORIGINAL:
            if metric in original:
                self.add(f"{attribute}.original.{metric}", original[metric])
        fair["balance itself"] = {"FD, of one draw": str(self.noise(attribute.uniform, "n_final"))}
        return [_table(attribute, rows) for rows in (fair, rest)]

    def noise(self, target: Sequence[float], size: str) -> Estimate:
        """The FD (hard) that sampling noise alone gives a set of this size."""
        n, prompts = self.sizes[size], len(self.study.texts)
        return metrics.expected_fd(target, n, groups=prompts, seed=self.study.seeds.main)

    def _add_row(self, attribute: Attribute, made: Debiased, score: Scores) -> None:
        row = f"{attribute}.{made.search.method.key}"
        for metric, estimate in score.items():
            self.add(f"{row}.{metric}", estimate)
        short = outcome.short_names(self.study.texts)
        for number, text in enumerate(self.study.texts):
            if text:
                scored = made.outcome.of(number).scored[attribute]
                fairness = metrics.fairness_discrepancy(scored)
                self.add(f"{row}.fd.{short[text]}", fairness.soft)

    def _paper(self, attribute: str, name: str) -> Cells:
        """What the paper reports of the same row, if it has one."""
        reported = self.study.subject.paper.get(attribute, {})
        if name not in reported:
            return {}
        cell = reported[name]
        similar = "" if cell.clip_i is None else f"{cell.clip_i:.4f}"
        return {"the paper: FD": f"{cell.fd:.3f}", "its (cos + 1) / 2": similar}

    def cost(self, sets: Sets) -> pd.DataFrame:
        """Milliseconds per image while every image takes the method's edit."""
        warm_up = next(iter(sets.values()))
        self._milliseconds(warm_up)
        times = {}
        for name, made in sets.items():
            times[name] = f"{self._milliseconds(made):.0f}"
        return pd.DataFrame({"ms per edited image": times})

    def _milliseconds(self, made: Debiased) -> float:
        study, edit = self.study, _first_edit(made)
        began = time.perf_counter()
        sampling.sample(
            study.subject,
            TIMED,
            study.seeds.main,
            steps=study.settings.steps,
            edit=edit,
            asymmetric=made.search.method.asymmetric,
        )
        return (time.perf_counter() - began) / TIMED * 1000

    def per_batch(self, attribute: Attribute, sets: Sets, batched: Debiased) -> pd.DataFrame:
        """FD of one draw, where every image draws its edit, and where every batch does."""
        fd = batched.outcome.fairness(attribute).unbiased
        self.add(f"{attribute}.difflens_best.fd_per_batch", fd)
        each = sets[BEST].outcome.fairness(attribute).unbiased
        return pd.DataFrame({"every image draws": [str(each)], "every batch": [str(fd)]}, ["FD"])

    # ------------------------------------------------------------------ pictures

    def strips(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """The same seeds, unedited and balanced by each method."""
        images = {"unedited": before.images[: figures.ACROSS]}
        for name, made in sets.items():
            images[name] = made.outcome.images[: figures.ACROSS]
        figures.strips(images, title=f"{attribute}, balanced")

    def strips_by_prompt(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """The same strips for each prompt, where there are several."""
        for number, text in enumerate(self.study.texts):
            images = {"unedited": before.of(number).images[: figures.ACROSS]}
            for name, made in sets.items():
                images[name] = made.outcome.of(number).images[: figures.ACROSS]
            title = f"{attribute}, balanced"
            figures.strips(images, title=f"{title}: {text}" if text else title)

    # ------------------------------------------------------------------ prompts

    def plans(
        self, before: Outcome, sets: AllSets, together: Mapping[str, Debiased]
    ) -> pd.DataFrame:
        """FD of DiffLens with a plan per prompt, and with one for all."""
        table = {}
        for name, made in together.items():
            scale = self.scale(name, before)
            row = {"original": self._prompted(name, "original", scale, scale.unedited)}
            each = sets[name][BEST].mixture
            row["a plan per prompt"] = self._prompted(name, "per_prompt", scale, each)
            row["one plan"] = self._prompted(name, "one_plan", scale, made.mixture)
            table[name] = row
        return _nonempty(table)

    def held_out(self, fresh: Mapping[str, tuple[Outcome, Debiased]]) -> pd.DataFrame:
        """FD of unedited images, and of DiffLens, under prompts that nothing was learned from."""
        table = {}
        for name, (unseen, made) in fresh.items():
            scale = self.study.scale(name, unseen, of=made.search)
            row = {"original": self._prompted(name, "held_out_original", scale, scale.unedited)}
            row["balanced"] = self._prompted(name, "held_out", scale, made.mixture)
            removed = scale.removed(made.mixture)
            self.add(f"prompts.{name}.held_out.removed", removed)
            table[name] = row | {"removed": str(removed)}
        return _nonempty(table)

    def _prompted(self, attribute: str, name: str, scale: Scale, mixture: Mixture) -> str:
        fd = scale.fd(mixture)
        self.add(f"prompts.{attribute}.{name}.fd", fd)
        return str(fd)

    def obeyed(self, before: Outcome, sets: AllSets) -> pd.DataFrame:
        """The share of images that show what their prompt names, after each method."""
        table = {}
        for attribute, by_name in sets.items():
            row = {"original": self._obeyed(f"{attribute}.original", before)}
            for name, made in by_name.items():
                record = f"{attribute}.{methods.key(name)}"
                row[name] = self._obeyed(record, made.outcome)
            table[attribute] = row
        return _nonempty(table).T

    def _obeyed(self, row: str, drawn: Outcome) -> str:
        shown = outcome.obeyed(drawn, self.study.prompts.evaluate, self.study.factors)
        first = next(iter(shown.values()), metrics.NOTHING)
        self.add(f"prompts.{row}.obeyed", first)
        return str(first)

    # ------------------------------------------------------------------ at the same fairness

    def on_the_way(self, before: Outcome, sets: AllSets, halves: AllHalves) -> None:
        """What is kept, and the leak, at lower and lower FD."""
        figure, axes = plt.subplots(2, len(sets), figsize=(10, 6), sharex="col", squeeze=False)
        for column, attribute in zip(axes.T, sets, strict=True):
            for name, made in sets[attribute].items():
                self._way(column, self.scale(attribute, before), halves[attribute][name], made)
            for axis in column:
                axis.axvline(self.sizes["matched"], color="black", lw=0.7, ls=":")
                axis.invert_xaxis()
            column[0].set_title(str(attribute))
            column[1].set_xlabel("FD, as a share of the unedited one")
        axes[0, 0].set_ylabel("kept")
        axes[1, 0].set_ylabel("leak")
        _legend(figure, axes[0, 0], 4)
        drawn = listed(axes[0, 0].get_legend_handles_labels()[1])
        figures.describe(figure, f"What is kept on the way to a lower FD: {drawn}")
        figure.tight_layout()

    def _way(self, axes: Sequence[Axes], scale: Scale, half: Mixture, made: Debiased) -> None:
        """One method's curves, as far as it gets."""
        name = made.search.method.name
        points = []
        for level in LEVELS:
            kept, leak = scale.matched(half, made.mixture, level)
            if kept.value > 0:
                points.append((level, kept.value, leak.value))
        levels, *curves = np.transpose([(1.0, 1.0, 0.0), *points])
        for axis, curve in zip(axes, curves, strict=True):
            axis.plot(levels, curve, _dashes(name), color=_colour(name), label=name)
            axis.plot(levels[-1], curve[-1], "o", ms=4, color=_colour(name))

    def matched(self, before: Outcome, sets: AllSets, halves: AllHalves) -> pd.DataFrame:
        """What every method keeps, and its leak, at the same FD."""
        columns: dict[str, Cells] = {}
        for attribute, by_name in sets.items():
            scale = self.scale(attribute, before)
            kept_cells = columns.setdefault(f"{attribute}: kept", {})
            leak_cells = columns.setdefault(f"{attribute}: leak", {})
            for name, made in by_name.items():
                half = halves[attribute][name]
                kept, leak = scale.matched(half, made.mixture, self.sizes["matched"])
                self.kept[attribute, name] = kept
                row = f"{attribute}.{methods.key(name)}.matched"
                self.add(f"{row}.kept", kept)
                self.add(f"{row}.leak", leak)
                kept_cells[name] = str(kept) if kept.value > 0 else "not reached"
                leak_cells[name] = str(leak)
        return pd.DataFrame(columns)

    def leads(self) -> pd.DataFrame:
        """How much more DiffLens at its best keeps than each other method, at the same FD.

        Paired differences, with intervals that hold for all of an attribute together.
        """
        columns: dict[str, Cells] = {}
        for attribute in self.study.attributes:
            others = [name for name in self.order if name != BEST]
            ours = self.kept[attribute, BEST]
            found = [metrics.difference(ours, self.kept[attribute, name]) for name in others]
            cells = columns.setdefault(f"{attribute}: kept more than", {})
            together = metrics.simultaneous(found)
            for name, lead, shown in zip(others, found, together, strict=True):
                self.add(f"{attribute}.lead.{_kind(name)}", lead)
                cells[name] = str(shown)
        return pd.DataFrame(columns)

    # ------------------------------------------------------------------ other targets

    def sweep(self, attribute: Attribute, plain: Outcome, swept: Sweep) -> None:
        """The drawn share of the last class against the requested one, and what images lose.

        That is what is kept, how well they go with the text of the class (CLIP-D, Eq. 17), and the
        kernel distance to the data, where there are some.
        """
        last = len(attribute.classes) - 1
        scale = self.study.scale(attribute, plain)
        found: dict[str, dict[tuple[str, float], Estimate]] = {}
        for (name, ratio), made in swept.items():
            for figure, value in self._swept(scale, made, last).items():
                found.setdefault(figure, {})[name, ratio] = value
                self.add(f"sweep.{methods.key(name)}.{figure}.r{ratio:g}", value)
        self._add_sweep(scale.share(scale.unedited, last), found["share"], found["kept"])
        self._draw_sweep(found, attribute.classes[last])

    @staticmethod
    def _swept(scale: Scale, made: Debiased, target: int) -> dict[str, Estimate]:
        figures_ = {
            "share": scale.share(made.mixture, target),
            "kept": scale.kept(made.mixture),
            "clip_d": scale.clip_d(made.mixture, target),
        }
        if "reference" in scale.references and len(made.outcome.features) > 1:
            reference = scale.compared["reference"]
            figures_["kernel"] = reference.distance(made.outcome.features)
        return figures_

    def _draw_sweep(
        self, found: Mapping[str, Mapping[tuple[str, float], Estimate]], label: str
    ) -> None:
        labels = {
            "share": "share reached",
            "kept": f"kept (n = {self.sizes['n_sweep']} per point)",
            "clip_d": f"CLIP-D: cosine to the text of {label}",
            "kernel": "kernel distance to the data",
        }
        rows = (len(found) + 1) // 2
        figure, axes = plt.subplots(rows, 2, figsize=(10, 3.5 * rows), squeeze=False)
        for axis, (name, points) in zip(axes.flat, found.items(), strict=False):
            self._curves(axis, points)
            axis.set(xlabel=f"share of {label} asked for", ylabel=labels[name])
        for axis in axes.flat[len(found) :]:
            axis.set_axis_off()
        first = axes[0, 0]
        first.plot([0, 1], [0, 1], color="black", lw=0.7, ls=":")
        first.set(ylim=(0, 1))
        first.legend()
        text = (
            "What comes out when a ratio is asked for, what is kept, and how it fits text and data"
        )
        figures.describe(figure, text)
        figure.tight_layout()

    def _curves(self, axis: Axes, found: Mapping[tuple[str, float], Estimate]) -> None:
        """A curve over the ratios for every method of the sweep."""
        ratios = self.sizes["ratios"]
        for name in dict.fromkeys(name for name, _ in found):
            estimates = [found[name, ratio] for ratio in ratios]
            figures.curve(axis, ratios, estimates, name, _colour(name))

    def _add_sweep(
        self,
        start: Estimate,
        shares: Mapping[tuple[str, float], Estimate],
        kept: Mapping[tuple[str, float], Estimate],
    ) -> None:
        """Records the miss of DiffLens (RMS over the ratios), and its leads at equal shares."""
        ratios = np.array(self.sizes["ratios"])

        def miss(*reached: Array) -> Array:
            misses = np.stack(reached, -1) - ratios
            rms: Array = np.sqrt((misses**2).mean(-1))
            return rms

        ours = [shares[BEST, ratio] for ratio in ratios]
        self.add("sweep.difflens_best.miss", metrics.combined(miss, *ours))
        upper = [ratio for ratio in self.sizes["ratios"] if ratio >= 0.5]
        untouched = metrics.combined(lambda share: np.ones_like(share), start)
        for name in dict.fromkeys(name for name, _ in shares if name != BEST):
            paths = []
            for method in (BEST, name):
                paths += [start, *(shares[method, ratio] for ratio in upper)]
                paths += [untouched, *(kept[method, ratio] for ratio in upper)]
            lead = metrics.combined(_lead_at_equal_shares, *paths)
            self.add(f"sweep.lead.{methods.key(name)}", lead)

    def wanted(self, plain: Outcome, made: Sets) -> pd.DataFrame:
        """Requested distributions by attribute, and the drawn shares."""
        table = {}
        for name, got in made.items():
            attribute, target = self.study.attribute(name), got.target
            scale = self.study.scale(name, plain, target)
            before, after = scale.fd(scale.unedited), scale.fd(got.mixture)
            removed = scale.removed(got.mixture)
            self.add(f"wanted.{name}.fd_before", before)
            self.add(f"wanted.{name}.fd", after)
            self.add(f"wanted.{name}.removed", removed)
            row: Cells = {"asked for": joined(target)}
            row["unedited"] = _shares(plain, attribute)
            row["planned"] = joined(got.expected.mean(0))
            row["reached"] = _shares(got.outcome, attribute)
            row |= {"FD before": str(before), "after": str(after), "removed": str(removed)}
            classes = " / ".join(attribute.classes)
            table[f"{name}: {classes}"] = row
        return pd.DataFrame(table).T

    # ------------------------------------------------------------------ what else moved

    def moved(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """How far each method moves every other factor. Planted effects are listed first."""
        seed = self.study.seeds.main
        effects = list(self.study.world.effects(attribute))
        moved = {}
        for name, made in sets.items():
            leaks = metrics.leakage(before.scored, made.outcome.scored, seed=seed)
            shifts = {leak.factor: leak.shift.value for leak in leaks}
            mean = float(np.mean([shifts[f] for f in effects])) if effects else 0.0
            record = f"{attribute}.{methods.key(name)}.causes_moved"
            self.add(record, mean, n=self.sizes["n_final"])
            moved[name] = shifts
        others = scoring.unrelated(self.study.subject, attribute)
        table = pd.DataFrame(moved).loc[[*effects, *others]]
        if table.empty:
            print(f"{attribute} is the only factor that is read: nothing else could move.")
        else:
            _draw_moved(table, effects)

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        """FD and what is kept at the same FD for each attribute, then results by prompts."""
        found = [self._ranking(attribute) for attribute in self.study.attributes]
        if self.study.prompts.held_out:
            found.append(self._about_prompts())
        return found

    def _ranking(self, attribute: Attribute) -> str:
        start = self.value(f"{attribute}.original.fd")
        falls = []  # of methods, whose names may have commas
        for name in (BEST, OURS, PUBLISHED, "latent editing", "H-Distribution"):
            if name not in self.order:  # as of a pipeline that samples by itself
                continue
            fd = self.value(f"{attribute}.{methods.key(name)}.fd")
            falls.append(f"{name} {fd:.3f}")
        kept = {name: self.kept[attribute, name].value for name in self.order}
        there = [name for name in self.order if kept[name] > 0]
        there.sort(key=lambda name: -kept[name])
        missing = [name for name in self.order if name not in there]
        ranked = "; ".join(f"{name} {kept[name]:.3f}" for name in there)
        level = f"{self.sizes['matched']:.0%} of this FD"
        most = f" At {level} methods keep: {ranked}." if ranked else ""
        rest = f" {level} is not reached by {'; '.join(missing)}." if missing else ""
        fds = f"FD is {start:.3f} unedited. It falls to: {'; '.join(falls)}."
        return f"**{attribute}**: {fds}{most}{rest}"

    def _about_prompts(self) -> str:
        obeyed = []
        for attribute in self.study.attributes:
            obeyed.append(self.value(f"prompts.{attribute}.difflens_best.obeyed"))
        return (
            f"**Prompts**: with a plan per prompt FD is {self._fds('per_prompt')}; with one plan "
            f"for all it is {self._fds('one_plan')}. Under prompts that nothing was learned from "
            f"it falls from {self._fds('held_out_original')} to {self._fds('held_out')}. After "
            f"DiffLens what the prompt names shows in at least {min(obeyed):.0%} of the images."
        )

    def _fds(self, name: str) -> str:
        """FD of every attribute, by the way in which prompts were planned for."""
        found = []
        for attribute in self.study.attributes:
            fd = self.value(f"prompts.{attribute}.{name}.fd")
            found.append(f"{fd:.3f} ({attribute})")
        return ", ".join(found)


# ---------------------------------------------------------------------------------------------


def _colour(name: str) -> str:
    """The colour of a method. A method that is not in the tables is grey."""
    return figures.OF_METHODS.get(name, figures.GREY)


def _dashes(name: str) -> str:
    """The style of a method's line: controls are dashed."""
    return "--" if name in methods.CONTROLS else "-"


def _shares(drawn: Outcome, attribute: str) -> str:
    return joined(metrics.shares(drawn.scored[attribute]))


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=columns, bbox_to_anchor=(0.5, 0))


def _path(axis: Axes, search: Search, target: int) -> None:
    """Draws a method's strengths towards a class, with crosses where the evaluators disagree."""
    name = search.method.name
    path = [arm for arm in search.towards(target) if arm.way == 0]
    costs = [1 - arm.similar.value for arm in path]
    shares = [search.share(arm, target) for arm in path]
    colour, dashes = _colour(name), _dashes(name)
    axis.plot(costs, shares, dashes, color=colour, marker="o", ms=3.5, lw=1.2, label=name)
    for arm, cost, share in zip(path, costs, shares, strict=True):
        if not clear(arm, path[0]):
            axis.plot(cost, share, "x", ms=7, color="black")


def _first_edit(made: Debiased) -> Edit | None:
    """The first edit that a plan uses, or None if it leaves all images unedited."""
    method, weights = made.search.method, made.plans[0].weights
    for arm, weight in zip(made.search.arms, weights, strict=True):
        if weight > 0 and arm.target != UNEDITED:
            return method.ways[arm.way].towards(arm.target, arm.strength)
    return None


def _kind(name: str) -> str:
    """Where the lead over a method stands among the records: what kind of rival it is."""
    if name == "random features":
        return "random"
    if name in (OURS, PUBLISHED):
        return {OURS: "before", PUBLISHED: "published"}[name]
    kind = "control" if name in methods.CONTROLS else "baseline"
    return f"{kind}.{methods.key(name)}"


def _lead_at_equal_shares(*paths: Array) -> Array:
    """How much more the first of two methods keeps at equal shares, on average: (R,).

    `paths` are the shares that the first reaches, what it keeps there, and the same of the second,
    (R,) each. The average is over the shares, from the unedited one upwards, that both reach.
    """
    first, kept, second, theirs = np.split(np.stack(paths, -1), 4, axis=-1)  # (R, places)
    leads = []
    for rows in zip(first, kept, second, theirs, strict=True):
        x, y, u, v = rows
        order, other = np.argsort(x), np.argsort(u)
        places = np.linspace(max(x.min(), u.min()), min(x.max(), u.max()), 50)
        ours, rival = np.interp(places, x[order], y[order]), np.interp(places, u[other], v[other])
        leads.append((ours - rival).mean())
    return np.array(leads)


def _draw_moved(table: pd.DataFrame, effects: Sequence[str]) -> None:
    """Draws a matrix of factors by methods, with an arrow at every planted effect."""
    labels = {}
    for factor in table.index:
        arrow = " ←" if factor in effects else ""
        labels[factor] = factor.replace("_", " ") + arrow
    shown = table.rename(index=labels)
    figure, axis = plt.subplots(figsize=(8, 2 + 0.22 * len(table)))
    figures.heat(axis, shown, label="total variation of shares", cmap="Oranges", center=None)
    axis.axhline(len(effects), color="black", lw=1.5)
    figures.describe(figure, "How far each method moves planted effects (←) and other factors")
    figure.tight_layout()


def _fair(
    attribute: Attribute, drawn: Outcome, score: Scores, made: Debiased | None = None
) -> Cells:
    """The row of the first table."""
    row = {"FD": str(score["fd"]), "FD planned": ""}
    if made is not None:
        misses = np.linalg.norm(made.expected - attribute.uniform, axis=1)
        row["FD planned"] = f"{misses.mean():.3f}"
        row["removed"] = str(score["removed"])
    row["FD, of one draw"] = f"{score['fd_soft'].value:.3f}"
    classes = " / ".join(attribute.classes)
    row[f"shares: {classes}"] = _shares(drawn, attribute)
    row["CLIP-I"] = str(score["clip_i"])
    row["(cos + 1) / 2"] = f"{score['clip_i_rescaled'].value:.3f}"
    row["kept"] = str(score["kept"]) if made is not None else ""
    if "clip_t" in score:
        row["CLIP-T"] = str(score["clip_t"])
    return row


def _rest(score: Scores, edited: bool = True) -> Cells:
    """The row of the second table."""
    row = {"Fréchet to the data": _rounded(score["frechet_reference"])}
    row["to balanced data"] = _rounded(score["frechet_balanced"])
    row["kernel to balanced data"] = str(score["kernel_balanced"])
    row["to the unedited"] = _rounded(score["frechet_unedited"]) if edited else ""
    row["quality"] = str(score["quality"]) if edited else ""
    row["leak"] = str(score["leak"]) if edited else ""
    row["evaluators agree"] = f"{score['agreement'].value:.2f}"
    return row


def _rounded(estimate: Estimate) -> str:
    return f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"


def _table(attribute: str, rows: Mapping[str, Cells]) -> pd.DataFrame:
    """Rows as a table, with the attribute in its corner."""
    table = pd.DataFrame(rows).T.fillna("")
    return table.rename_axis(str(attribute), axis=1)


def _nonempty(rows: Mapping[str, Cells]) -> pd.DataFrame:
    """A table with a row per attribute, or one that says why it has none."""
    if not rows:
        return pd.DataFrame({"": {"": "this model has no prompts that were held out"}})
    return pd.DataFrame(rows).T
