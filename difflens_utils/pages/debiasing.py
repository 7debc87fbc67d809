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
from ..debiasing import UNEDITED, Debiased, Search
from ..metrics import Estimate
from ..outcome import Outcome
from ..sampling import Edit
from . import figures
from .page import Page
from .tables import joined

if TYPE_CHECKING:
    from ..study import Study
    from ..subjects.attribute import Attribute

Sets = Mapping[str, Debiased]  # by the name of the method, in the order of the table
Sweep = Mapping[tuple[str, float], Debiased]  # by method and ratio
AllSets = Mapping[str, Sets]  # by attribute
Cells = dict[str, str]  # a row of a table
OURS = "DiffLens"
STRIP = 14  # images of a strip
AGREE = 0.9  # the evaluators agree on so large a share of images under every strength that is used
UNUSED = f"Crosses: the evaluators agree on fewer than {AGREE:.0%}, so no plan uses the strength"
TIMED = 16  # images on which a method is timed
LEVELS = 6  # of FD along which a method is drawn
ORIGINAL = ("fd", "fd_hard", "frechet_reference", "frechet_balanced", "clip_t")  # records
FAITHFUL = "(cos + 1) / 2 at least 0.9 (the paper: 0.91 to 0.95 without text, 0.85 to 0.91 with)"
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
        self.kept: dict[tuple[str, str], Estimate] = {}  # CLIP-I at the matched FD
        self.shares: dict[tuple[str, float], Estimate] = {}  # of the sweep, by method and ratio
        self.similar: dict[tuple[str, float], Estimate] = {}  # CLIP-I of the sweep

    # ------------------------------------------------------------------ before anything is edited

    def unedited(self, before: Outcome) -> pd.DataFrame:
        """Images that the model draws by itself, and how far their shares are from equal ones."""
        figures.show(before.images[:36], 18, "unedited images, not selected")
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
        figures.describe(figure, f"What each strength reaches and costs: {_listed(self.order)}")
        figure.tight_layout()

    # ------------------------------------------------------------------ the table

    def tables(self, attribute: Attribute, before: Outcome, sets: Sets) -> list[pd.DataFrame]:
        """Table 1 or 2 for one attribute: fairness and fidelity, then quality and leak."""
        references = self.study.references(attribute, self.sizes["n_final"])
        original = self.study.score(before, before, attribute, references)
        self.scores[attribute, "original"] = original
        fair = {"original": _fair(attribute, before, original)}
        rest = {"original": _rest(original, edited=False)}
        for name, made in sets.items():
            score = self.study.score(before, made.outcome, attribute, references)
            self.scores[attribute, name] = score
            self._add_row(attribute, made, score)
            fair[name] = _fair(attribute, made.outcome, score, made)
            fair[name] |= self._paper(attribute, name)
            rest[name] = _rest(score)
        for metric in ORIGINAL:
            if metric in original:
                self.add(f"{attribute}.original.{metric}", original[metric])
        fair["balance itself"] = {"FD, hard": str(self.noise(attribute.uniform, "n_final"))}
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
        """FD where every image draws its edit, and where every batch does."""
        fd = batched.outcome.fairness(attribute).soft
        self.add(f"{attribute}.difflens.fd_per_batch", fd)
        each = sets[OURS].outcome.fairness(attribute).soft
        return pd.DataFrame({"every image draws": [str(each)], "every batch": [str(fd)]}, ["FD"])

    # ------------------------------------------------------------------ pictures

    def strips(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """The same seeds, unedited and balanced by each method."""
        images = {"unedited": before.images[:STRIP]}
        for name, made in sets.items():
            images[name] = made.outcome.images[:STRIP]
        figures.strips(images, title=f"{attribute}, balanced")

    def strips_by_prompt(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """The same strips for each prompt, where there are several."""
        for number, text in enumerate(self.study.texts):
            images = {"unedited": before.of(number).images[:STRIP]}
            for name, made in sets.items():
                images[name] = made.outcome.of(number).images[:STRIP]
            title = f"{attribute}, balanced"
            figures.strips(images, title=f"{title}: {text}" if text else title)

    # ------------------------------------------------------------------ prompts

    def plans(
        self, before: Outcome, sets: AllSets, together: Mapping[str, Debiased]
    ) -> pd.DataFrame:
        """FD of DiffLens with a plan per prompt, and with one for all."""
        table = {}
        for name, made in together.items():
            each = sets[name][OURS].outcome
            row = {"original": self._prompted(name, "original", before)}
            row["a plan per prompt"] = self._prompted(name, "per_prompt", each)
            row["one plan"] = self._prompted(name, "one_plan", made.outcome)
            table[name] = row
        return _nonempty(table)

    def held_out(self, fresh: Mapping[str, tuple[Outcome, Debiased]]) -> pd.DataFrame:
        """FD of unedited images, and of DiffLens, under prompts that nothing was learned from."""
        table = {}
        for name, (unseen, made) in fresh.items():
            row = {"original": self._prompted(name, "held_out_original", unseen)}
            row["balanced"] = self._prompted(name, "held_out", made.outcome)
            table[name] = row
        return _nonempty(table)

    def _prompted(self, attribute: str, name: str, drawn: Outcome) -> str:
        fd = drawn.fairness(attribute).soft
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

    def level(self, attribute: str) -> float:
        """The FD at which methods are compared: a share of the unedited one."""
        unedited = self.scores[attribute, "original"]["fd"]
        return float(self.sizes["matched"] * unedited.value)

    def on_the_way(self, before: Outcome, sets: AllSets) -> None:
        """CLIP-I and leak while more and more images take a method's edit."""
        figure, axes = plt.subplots(2, len(sets), figsize=(10, 6), sharex="col", squeeze=False)
        for column, attribute in zip(axes.T, sets, strict=True):
            for made in sets[attribute].values():
                self._way(column, attribute, before, made)
            for axis in column:
                axis.axvline(self.level(attribute), color="black", lw=0.7, ls=":")
            column[0].set_title(str(attribute))
            column[1].set_xlabel("FD (soft)")
        axes[0, 0].set_ylabel("CLIP-I")
        axes[1, 0].set_ylabel("leak")
        _legend(figure, axes[0, 0], 4)
        figures.describe(figure, f"What is kept on the way to a lower FD: {_listed(self.order)}")
        figure.tight_layout()

    def matched(self, before: Outcome, sets: AllSets) -> pd.DataFrame:
        """CLIP-I and leak of every method at the same FD."""
        columns: dict[str, Cells] = {}
        for attribute, by_name in sets.items():
            level = self.level(attribute)
            similar = columns.setdefault(f"{attribute}: CLIP-I at FD {level:.2f}", {})
            leaks = columns.setdefault(f"{attribute}: leak", {})
            for name, made in by_name.items():
                kept, leak = self.study.matched(before, made.outcome, attribute, level)
                self.kept[attribute, name] = kept
                similar[name], leaks[name] = "not reached", ""
                if not np.isnan(kept.value):
                    similar[name], leaks[name] = str(kept), str(leak)
                    row = f"{attribute}.{methods.key(name)}.matched"
                    self.add(f"{row}.clip_i", kept)
                    self.add(f"{row}.leak", leak)
        return pd.DataFrame(columns)

    # ------------------------------------------------------------------ other targets

    def sweep(self, attribute: Attribute, plain: Outcome, swept: Sweep) -> None:
        """The drawn share of the last class against the requested one, and CLIP-I."""
        last = len(attribute.classes) - 1
        for (name, ratio), made in swept.items():
            share = made.outcome.share(attribute, last)
            similar = metrics.clip_i(plain.clip, made.outcome.clip).raw
            self.shares[name, ratio], self.similar[name, ratio] = share, similar
            row = f"sweep.{methods.key(name)}"
            self.add(f"{row}.share.r{ratio:g}", share)
            self.add(f"{row}.clip_i.r{ratio:g}", similar)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
        self._curves(left, self.shares)
        self._curves(right, self.similar)
        left.plot([0, 1], [0, 1], color="black", lw=0.7, ls=":")
        asked = f"share of {attribute.classes[last]} asked for"
        left.set(xlabel=asked, ylabel="share reached", ylim=(0, 1))
        n_sweep = self.sizes["n_sweep"]
        right.set(xlabel=asked, ylabel=f"CLIP-I (n = {n_sweep} per point)")
        left.legend()
        figures.describe(figure, "What comes out when a ratio is asked for, and what is kept")
        figure.tight_layout()

    def _curves(self, axis: Axes, found: Mapping[tuple[str, float], Estimate]) -> None:
        """A curve over the ratios for every method of the sweep."""
        ratios = self.sizes["ratios"]
        for name in dict.fromkeys(name for name, _ in found):
            estimates = [found[name, ratio] for ratio in ratios]
            figures.curve(axis, ratios, estimates, name, _colour(name))

    def wanted(self, plain: Outcome, made: Sets) -> pd.DataFrame:
        """Requested distributions by attribute, and the drawn shares."""
        table = {}
        for name, got in made.items():
            attribute, target = self.study.attribute(name), got.target
            before = plain.fairness(name, target).hard
            after = got.outcome.fairness(name, target).hard
            self.add(f"wanted.{name}.fd_before", before)
            self.add(f"wanted.{name}.fd", after)
            row: Cells = {"asked for": joined(target)}
            row["unedited"] = _shares(plain, attribute)
            row["planned"] = joined(got.expected.mean(0))
            row["reached"] = _shares(got.outcome, attribute)
            row["FD (hard) before"] = str(before)
            row["after"] = str(after)
            row["noise alone"] = str(self.noise(target, "n_wanted"))
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

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        """Decides what holds of DiffLens: for each attribute, the sweep and other targets."""
        for attribute in self.study.attributes:
            self._judge_balance(attribute)
            self._judge_fidelity(attribute)
            self._judge_frechet(attribute)
            self._judge_matched(attribute)
            self._judge_random(attribute)
        self._judge_sweep()
        self._judge_wanted()
        super().judge()

    def _judge_balance(self, attribute: Attribute) -> None:
        record = f"{attribute}.difflens.fd"
        fd = self.value(record)
        start = self.value(f"{attribute}.original.fd")
        claim = f"DiffLens balances {attribute}"
        half = fd <= 0.5 * start
        if attribute == self.first:
            rule = "FD at most 0.05 (the paper: 0.002 without text, 0.046 with)"
            self.claim(claim, record, rule, fd <= 0.05, half, close=True)
        else:
            rule = f"at most half of the original's {start:.3f}"
            self.claim(claim, record, rule, half, fd <= 0.75 * start)

    def _judge_fidelity(self, attribute: Attribute) -> None:
        record = f"{attribute}.difflens.clip_i_rescaled"
        claim = f"DiffLens keeps CLIP-I high: {attribute}"
        holds = self.value(record) >= 0.9
        close = attribute in self.study.attributes[1:2]
        self.claim(claim, record, FAITHFUL, holds, close=close)

    def _judge_frechet(self, attribute: Attribute) -> None:
        kinds = {"reference": "the biased data", "balanced": "data with balanced classes"}
        for reference, kind in kinds.items():
            original = self.records[f"{attribute}.original.frechet_{reference}"]
            limit = original["high"]
            record = f"{attribute}.difflens.frechet_{reference}"
            claim = f"balancing does not raise the Fréchet distance to {kind}: {attribute}"
            rule = f"not above the upper end of the unedited set's interval, {limit:.0f}"
            holds = self.value(record) <= limit
            self.claim(claim, record, rule, holds, close=attribute == self.first)

    def _judge_matched(self, attribute: Attribute) -> None:
        ours = self.kept[attribute, OURS].value
        if np.isnan(ours):
            return
        apart = (OURS, *methods.CONTROLS)
        names = [name for name in self.order if name not in apart]
        rivals = [self.kept[attribute, name].value for name in names]
        beaten = [np.isnan(rival) or ours > rival for rival in rivals]
        nearest = abs(ours - np.nanmax([0.0, *rivals]))
        close = attribute == self.first or bool(nearest < 0.01)
        claim = f"at the same FD, DiffLens keeps more CLIP-I than every baseline: {attribute}"
        record = f"{attribute}.difflens.matched.clip_i"
        rule = f"above {_listed(names)}, or they do not get there"
        self.claim(claim, record, rule, all(beaten), any(beaten), close)

    def _judge_random(self, attribute: Attribute) -> None:
        found = self.study.features().features[attribute]
        if not any(map(len, found)):
            return  # no features, so none at random in their place
        record = f"{attribute}.random_features.fd"
        start = self.value(f"{attribute}.original.fd")
        holds = self.value(record) > 0.75 * start
        claim = f"random features do not balance {attribute}"
        rule = "FD above three quarters of the original's"
        self.claim(claim, record, rule, holds, close=attribute != self.first)

    def _judge_sweep(self) -> None:
        n, record = self.sizes["n_sweep"], "sweep.difflens.worst_miss"
        misses = []
        for ratio in self.sizes["ratios"]:
            reached = self.shares[OURS, ratio].value
            misses.append(abs(reached - ratio))
        miss = max(misses)
        self.add(record, miss, n=n)
        claim, rule = "any ratio that is asked for comes out", "within 0.08 at every ratio"
        self.claim(claim, record, rule, miss <= 0.08, miss <= 0.16, close=True)
        leads = [self._least_lead(name) for name in ("latent editing", "H-Distribution")]
        least, record = min(leads), "sweep.difflens.least_lead"
        self.add(record, least, n=n)
        claim = "fidelity falls less than with latent editing or H-Distribution"
        rule = "CLIP-I above both from balance to nine in ten"
        self.claim(claim, record, rule, least > 0, max(leads) > 0, close=True)

    def _least_lead(self, name: str) -> float:
        """The least lead of DiffLens in CLIP-I over another method, at balance and beyond."""
        leads = []
        for ratio in self.sizes["ratios"]:
            if ratio >= 0.5:
                ours = self.similar[OURS, ratio].value
                theirs = self.similar[name, ratio].value
                leads.append(ours - theirs)
        return min(leads, default=metrics.NAN)

    def _judge_wanted(self) -> None:
        rests = []
        for attribute in self.sizes["wanted"]:
            before = self.value(f"wanted.{attribute}.fd_before")
            after = self.value(f"wanted.{attribute}.fd")
            if before > 0:
                rests.append(after / before)
        worst, record = max(rests, default=metrics.NAN), "wanted.worst_rest"
        self.add(record, worst, n=self.sizes["n_wanted"])
        claim = "the planner reaches distributions that are not uniform"
        rule = "FD at most half of the unedited one, for each"
        self.claim(claim, record, rule, worst <= 0.5, worst <= 0.75)

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        """FD and CLIP-I at the same FD for each attribute, then the results under other prompts."""
        found = [self._ranking(attribute) for attribute in self.study.attributes]
        if self.study.prompts.held_out:
            found.append(self._about_prompts())
        return found

    def _ranking(self, attribute: Attribute) -> str:
        start = self.value(f"{attribute}.original.fd")
        falls = []
        for name in (OURS, "latent editing", "H-Distribution"):
            fd = self.value(f"{attribute}.{methods.key(name)}.fd")
            falls.append(f"{fd:.3f} with {name}")
        kept = {name: self.kept[attribute, name].value for name in self.order}
        there = [name for name in self.order if not np.isnan(kept[name])]
        there.sort(key=lambda name: -kept[name])
        missing = [name for name in self.order if name not in there]
        ranked = [f"{name} ({kept[name]:.3f})" for name in there]
        level = f"FD {self.level(attribute):.2f}"
        most = f" At {level} the most CLIP-I is left by {', then '.join(ranked)}." if ranked else ""
        rest = f" {level} is not reached by {_listed(missing)}." if missing else ""
        return f"**{attribute}**: FD falls from {start:.3f} to {_listed(falls)}.{most}{rest}"

    def _about_prompts(self) -> str:
        obeyed = []
        for attribute in self.study.attributes:
            obeyed.append(self.value(f"prompts.{attribute}.difflens.obeyed"))
        return (
            f"**Prompts**: with a plan per prompt FD is {self._fds('per_prompt')}; with one plan "
            f"for all it is {self._fds('one_plan')}. Under prompts that nothing was learned from "
            f"it falls from {self._fds('held_out_original')} to {self._fds('held_out')}. After "
            f"DiffLens what the prompt names shows in at least {min(obeyed):.3f} of the images."
        )

    def _fds(self, name: str) -> str:
        """FD of every attribute, by the way in which prompts were planned for."""
        found = []
        for attribute in self.study.attributes:
            fd = self.value(f"prompts.{attribute}.{name}.fd")
            found.append(f"{fd:.3f} ({attribute})")
        return _listed(found)

    def _way(self, axes: Sequence[Axes], attribute: str, before: Outcome, made: Debiased) -> None:
        """One method's CLIP-I and leak, from no edit to its own FD."""
        name = made.search.method.name
        colour, dashes = _colour(name), _dashes(name)
        start = self.scores[attribute, "original"]["fd"].value
        end = self.scores[attribute, name]["fd"].value
        levels = np.linspace(start, max(end, 0.001), LEVELS)
        heights = []
        for level in levels:
            kept, leak = self.study.matched(before, made.outcome, attribute, level, n_boot=1)
            heights.append((kept.value, leak.value))
        for axis, curve in zip(axes, np.transpose(heights), strict=True):
            axis.plot(levels, curve, dashes, color=colour, label=name)
            axis.plot(levels[-1], curve[-1], "o", ms=4, color=colour)


# ---------------------------------------------------------------------------------------------


def _colour(name: str) -> str:
    """The colour of a method. A method that is not in the tables is grey."""
    known = dict(zip(methods.ORDER, figures.PALETTE, strict=True))
    return known.get(name, figures.GREY)


def _dashes(name: str) -> str:
    """The style of a method's line: controls are dashed."""
    return "--" if name in methods.CONTROLS else "-"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _shares(drawn: Outcome, attribute: str) -> str:
    return joined(metrics.shares(drawn.scored[attribute]))


def _legend(figure: Figure, axis: Axes, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=columns, bbox_to_anchor=(0.5, 0))


def _path(axis: Axes, search: Search, target: int) -> None:
    """Draws a method's strengths towards a class, with crosses where the evaluators disagree."""
    name, path = search.method.name, search.towards(target)
    costs = [1 - arm.similar.value for arm in path]
    shares = [search.share(arm, target) for arm in path]
    colour, dashes = _colour(name), _dashes(name)
    axis.plot(costs, shares, dashes, color=colour, marker="o", ms=3.5, lw=1.2, label=name)
    for arm, cost, share in zip(path, costs, shares, strict=True):
        if arm.target == target and arm.agreement.value < AGREE:
            axis.plot(cost, share, "x", ms=7, color="black")


def _first_edit(made: Debiased) -> Edit | None:
    """The first edit that a plan uses, or None if it leaves all images unedited."""
    method, weights = made.search.method, made.plans[0].weights
    for arm, weight in zip(made.search.arms, weights, strict=True):
        if weight > 0 and arm.target != UNEDITED:
            return method.towards(arm.target, arm.strength)
    return None


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
    row = {"FD, soft": str(score["fd"]), "FD, hard": str(score["fd_hard"])}
    row["FD planned"] = ""
    if made is not None:
        misses = np.linalg.norm(made.expected - attribute.uniform, axis=1)
        row["FD planned"] = f"{misses.mean():.3f}"
    classes = " / ".join(attribute.classes)
    row[f"shares: {classes}"] = _shares(drawn, attribute)
    row["CLIP-I"] = str(score["clip_i"])
    row["(cos + 1) / 2"] = f"{score['clip_i_rescaled'].value:.3f}"
    if "clip_t" in score:
        row["CLIP-T"] = str(score["clip_t"])
    return row


def _rest(score: Scores, edited: bool = True) -> Cells:
    """The row of the second table."""
    row = {"Fréchet to the data": _rounded(score["frechet_reference"])}
    row["to balanced data"] = _rounded(score["frechet_balanced"])
    row["to the unedited"] = _rounded(score["frechet_unedited"]) if edited else ""
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
