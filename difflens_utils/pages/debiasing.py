"""The page of notebook 06: every method on the same seeds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .. import debiasing, figures, methods, metrics, outcome, paper, sampling
from ..debiasing import UNEDITED, Arm, Debiased, Search
from ..metrics import Estimate
from ..outcome import Outcome
from .page import Page
from .tables import joined

if TYPE_CHECKING:
    from ..study import Attribute, Study

Sets = Mapping[str, Debiased]  # by the name of the method, in the order of the table
OURS = "DiffLens"
STRIP = 14  # images of a strip
AGREE = 0.9  # the evaluators agree on so large a share of images under every strength that is used
TIMED = 16  # images on which a method is timed
LEVELS = 6  # of FD along which a method is drawn
Scores = dict[str, Estimate]


class Debiasing(Page):
    """Search, plan and table of every method, and what each does at the same fairness."""

    frechet = ("n_final",)

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.order: list[str] = []  # the methods, as they stand in the table
        self.scores: dict[tuple[str, str], Scores] = {}  # by attribute and row of the table
        self.kept: dict[tuple[str, str], Estimate] = {}  # CLIP-I at the matched FD
        self.reached: dict[tuple[str, float], tuple[Estimate, Estimate]] = {}  # of the sweep

    # ------------------------------------------------------------------ before anything is edited

    def unedited(self, before: Outcome) -> pd.DataFrame:
        """Images that the model draws by itself, and how far their shares are from equal ones."""
        figures.show(before.images[:36], 18, "unedited images, not selected")
        rows = {
            attribute: {
                "classes": " / ".join(attribute.classes),
                "shares": joined(metrics.shares(before.scored[attribute])),
                "asked for": joined(attribute.uniform),
                "FD": str(before.fairness(attribute).soft),
            }
            for attribute in self.study.attributes
        }
        return pd.DataFrame(rows).T

    def strengths(self, attribute: Attribute, target: int, edited: Mapping[float, Outcome]) -> None:
        """The same images under one edit of growing strength."""
        rows = {}
        for strength, drawn in edited.items():
            hits = drawn.scored[attribute].argmax(-1) == target
            rows[f"{strength:g}: {int(hits.sum())} of {len(hits)}"] = drawn.images
        name = attribute.classes[target]
        figures.strips(rows, title=f"{OURS} towards {name}. Strength: images that are {name}")

    # ------------------------------------------------------------------ the search

    def searches(self, searches: Mapping[Attribute, Mapping[str, Search]]) -> None:
        """What each strength reaches and costs: a panel for every class."""
        self.order = list(searches[self.study.attributes[0]])
        panels = [(a, c) for a in searches for c in range(len(a.classes))]
        height = (len(panels) + 2) // 3
        figure, axes = plt.subplots(
            height, 3, figsize=(10, 3 * height), sharex=True, sharey=True, squeeze=False
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
        agreement = f"the two evaluators agree on fewer than {AGREE:.0%} of these images"
        figure.suptitle(f"Crosses: {agreement}, so the strength is not used", fontsize=10)
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
            fair[name] = _fair(attribute, made.outcome, score, made) | self._paper(attribute, name)
            rest[name] = _rest(score)
        for metric in ("fd", "fd_hard", "frechet_reference", "frechet_balanced", "clip_t"):
            if metric in original:
                self.add(f"{attribute}.original.{metric}", original[metric])
        fair["balance itself"] = {"FD, hard": str(self.noise(attribute.uniform, "n_final"))}
        tables = (pd.DataFrame(rows).T.fillna("") for rows in (fair, rest))
        return [table.rename_axis(str(attribute), axis=1) for table in tables]

    def noise(self, target: Sequence[float], size: str) -> Estimate:
        """The FD (hard) that sampling noise alone gives a set of this size."""
        n, prompts = self.sizes[size], len(self.study.texts)
        return metrics.expected_fd(target, n, groups=prompts, seed=self.study.seeds.main)

    def _add_row(self, attribute: Attribute, made: Debiased, score: Scores) -> None:
        row = f"{attribute}.{made.search.method.key}"
        for metric, estimate in score.items():
            self.add(f"{row}.{metric}", estimate)
        short = outcome.short_names(self.study.texts)
        prompts = [text for text in self.study.texts if text]
        for number, text in enumerate(prompts):
            scored = made.outcome.of(number).scored[attribute]
            fd = metrics.fairness_discrepancy(scored).soft
            self.add(f"{row}.fd.{short[text]}", fd)

    def _paper(self, attribute: str, name: str) -> dict[str, str | float]:
        """What the paper reports of the same row, if it has one."""
        cell: paper.Cell | None = self.study.subject.paper.get(attribute, {}).get(name)
        if cell is None:
            return {}
        return {"the paper: FD": cell.fd, "its (cos + 1) / 2": cell.clip_i or ""}

    def cost(self, sets: Sets) -> pd.DataFrame:
        """Milliseconds per image while every image takes the method's edit."""
        self._milliseconds(next(iter(sets.values())))  # the first run warms up
        times = {name: f"{self._milliseconds(made):.0f}" for name, made in sets.items()}
        return pd.DataFrame({"ms per edited image": times}).T

    def _milliseconds(self, made: Debiased) -> float:
        method = made.search.method
        used = [
            arm
            for arm, weight in zip(made.search.arms, made.plans[0].weights, strict=True)
            if weight > 0 and arm.target != UNEDITED
        ]
        edit = method.towards(used[0].target, used[0].strength) if used else None
        began = time.perf_counter()
        sampling.sample(
            self.study.subject,
            TIMED,
            self.study.seeds.main,
            steps=self.study.settings.steps,
            edit=edit,
            asymmetric=method.asymmetric,
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
        images |= {name: made.outcome.images[:STRIP] for name, made in sets.items()}
        figures.strips(images, title=f"{attribute}, balanced")

    def strips_by_prompt(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """The same prompt by prompt, where there are several."""
        for number, text in enumerate(self.study.texts):
            images = {"unedited": before.of(number).images[:STRIP]}
            for name, made in sets.items():
                images[name] = made.outcome.of(number).images[:STRIP]
            title = f"{attribute}, balanced"
            figures.strips(images, title=f"{title}: {text}" if text else title)

    # ------------------------------------------------------------------ prompts

    def plans(
        self, before: Outcome, sets: Mapping[str, Sets], together: Mapping[str, Debiased]
    ) -> pd.DataFrame:
        """FD of DiffLens with a plan per prompt, and with one for all."""
        table = {}
        for name, made in together.items():
            each = sets[name][OURS]
            table[name] = {
                "original": self._prompted(name, "original", before),
                "a plan per prompt": self._prompted(name, "per_prompt", each.outcome),
                "one plan": self._prompted(name, "one_plan", made.outcome),
            }
        return _nonempty(table)

    def held_out(self, fresh: Mapping[str, tuple[Outcome, Debiased]]) -> pd.DataFrame:
        """FD of unedited images, and of DiffLens, under prompts that nothing was learned from."""
        table = {}
        for name, (unseen, made) in fresh.items():
            table[name] = {
                "original": self._prompted(name, "held_out_original", unseen),
                "balanced": self._prompted(name, "held_out", made.outcome),
            }
        return _nonempty(table)

    def _prompted(self, attribute: str, name: str, drawn: Outcome) -> str:
        fd = drawn.fairness(attribute).soft
        self.add(f"prompts.{attribute}.{name}.fd", fd)
        return str(fd)

    def obeyed(self, before: Outcome, sets: Mapping[Attribute, Sets]) -> pd.DataFrame:
        """The share of images that show what their prompt names, after each method."""
        table: dict[str, dict[str, str]] = {}
        for attribute, by_name in sets.items():
            drawn = {"original": before}
            drawn |= {name: made.outcome for name, made in by_name.items()}
            table[attribute] = {
                name: self._obeyed(attribute, methods.key(name), images)
                for name, images in drawn.items()
            }
        return pd.DataFrame(table)

    def _obeyed(self, attribute: str, key: str, drawn: Outcome) -> str:
        shown = outcome.obeyed(drawn, self.study.prompts.evaluate, self.study.factors)
        first = next(iter(shown.values()), metrics.NOTHING)
        self.add(f"prompts.{attribute}.{key}.obeyed", first)
        return str(first)

    # ------------------------------------------------------------------ at the same fairness

    def level(self, attribute: str) -> float:
        """The FD at which methods are compared: a share of the unedited one."""
        return float(self.sizes["matched"] * self.scores[attribute, "original"]["fd"].value)

    def on_the_way(self, before: Outcome, sets: Mapping[Attribute, Sets]) -> None:
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

    def matched(self, before: Outcome, sets: Mapping[Attribute, Sets]) -> pd.DataFrame:
        """CLIP-I and leak of every method at the same FD."""
        table: dict[str, dict[str, str]] = {name: {} for name in self.order}
        for attribute, by_name in sets.items():
            level = self.level(attribute)
            for name, made in by_name.items():
                kept, leak = self.study.matched(before, made.outcome, attribute, level)
                self.kept[attribute, name] = kept
                reached = not np.isnan(kept.value)
                shown = str(kept) if reached else "not reached"
                table[name][f"{attribute}: CLIP-I at FD {level:.2f}"] = shown
                table[name][f"{attribute}: leak"] = str(leak) if reached else ""
                if reached:
                    row = f"{attribute}.{made.search.method.key}.matched"
                    self.add(f"{row}.clip_i", kept)
                    self.add(f"{row}.leak", leak)
        return pd.DataFrame(table).T

    # ------------------------------------------------------------------ other targets

    def sweep(
        self, attribute: Attribute, plain: Outcome, swept: Mapping[tuple[str, float], Debiased]
    ) -> None:
        """The share of the last class that comes out where one is asked for, and CLIP-I."""
        last = len(attribute.classes) - 1
        for (name, ratio), made in swept.items():
            share = made.outcome.share(attribute, last)
            similar = metrics.clip_i(plain.clip, made.outcome.clip).raw
            self.reached[name, ratio] = share, similar
            self.add(f"sweep.{methods.key(name)}.share.r{ratio:g}", share)
            self.add(f"sweep.{methods.key(name)}.clip_i.r{ratio:g}", similar)
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
        ratios = self.sizes["ratios"]
        for name in dict.fromkeys(name for name, _ in swept):
            shares, similar = zip(*[self.reached[name, ratio] for ratio in ratios], strict=True)
            figures.curve(left, ratios, shares, name, _colour(name))
            figures.curve(right, ratios, similar, name, _colour(name))
        left.plot([0, 1], [0, 1], color="black", lw=0.7, ls=":")
        asked = f"share of {attribute.classes[-1]} asked for"
        left.set(xlabel=asked, ylabel="share reached", ylim=(0, 1))
        right.set(xlabel=asked, ylabel=f"CLIP-I (n = {self.sizes['n_sweep']} per point)")
        left.legend()
        figures.describe(figure, "What comes out when a ratio is asked for, and what is kept")
        figure.tight_layout()

    def wanted(self, plain: Outcome, made: Mapping[str, Debiased]) -> pd.DataFrame:
        """Distributions that were asked for, and what came out."""
        rows = {}
        for attribute, got in made.items():
            before = plain.fairness(attribute, got.target).hard
            after = got.outcome.fairness(attribute, got.target).hard
            self.add(f"wanted.{attribute}.fd_before", before)
            self.add(f"wanted.{attribute}.fd", after)
            classes = " / ".join(self.study.attribute(attribute).classes)
            rows[f"{attribute}: {classes}"] = {
                "asked for": joined(got.target),
                "unedited": joined(metrics.shares(plain.scored[attribute])),
                "planned": joined(got.expected.mean(0)),
                "reached": joined(metrics.shares(got.outcome.scored[attribute])),
                "FD (hard) before": str(before),
                "after": str(after),
                "noise alone": str(self.noise(got.target, "n_wanted")),
            }
        return pd.DataFrame(rows).T

    # ------------------------------------------------------------------ what else moved

    def moved(self, attribute: Attribute, before: Outcome, sets: Sets) -> None:
        """How far each method moves every other factor; planted effects stand above."""
        seed = self.study.seeds.main
        moved = {}
        for name, made in sets.items():
            leaks = metrics.leakage(before.scored, made.outcome.scored, seed=seed)
            moved[name] = {leak.factor: leak.shift.value for leak in leaks}
        effects = list(self.study.world.planted_causes(attribute))
        for name, shifts in moved.items():
            mean = float(np.mean([shifts[f] for f in effects])) if effects else 0.0
            row = f"{attribute}.{methods.key(name)}"
            self.add(f"{row}.causes_moved", mean, n=self.sizes["n_final"])
        others = debiasing.unrelated(self.study.subject, attribute)
        table = pd.DataFrame(moved).loc[[*effects, *others]]
        if table.empty:
            print(f"{attribute} is the only factor that is read: nothing else could move.")
            return
        labels = {f: f.replace("_", " ") + (" ←" if f in effects else "") for f in table.index}
        figure, axis = plt.subplots(figsize=(8, 2 + 0.22 * len(table)))
        label = "total variation of shares"
        figures.heat(axis, table.rename(index=labels), label=label, cmap="Oranges", center=None)
        axis.axhline(len(effects), color="black", lw=1.5)
        figures.describe(figure, "How far each method moves planted effects (←) and other factors")
        figure.tight_layout()

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        """Decide what holds of DiffLens for every attribute, of the sweep and of other targets."""
        for attribute in self.study.attributes:
            self._judge_balance(attribute)
            self._judge_frechet(attribute)
            self._judge_matched(attribute)
            self._judge_random(attribute)
        self._judge_sweep()
        self._judge_wanted()
        super().judge()

    def _judge_balance(self, attribute: Attribute) -> None:
        fd, start = (self.value(f"{attribute}.{row}.fd") for row in ("difflens", "original"))
        claim, record = f"DiffLens balances {attribute}", f"{attribute}.difflens.fd"
        if attribute == self.study.attributes[0]:
            rule = "FD at most 0.05 (the paper: 0.002 without text, 0.046 with)"
            self.claim(claim, record, rule, fd <= 0.05, fd <= 0.5 * start, close=True)
        else:
            rule = f"at most half of the original's {start:.3f}"
            self.claim(claim, record, rule, fd <= 0.5 * start, fd <= 0.75 * start)
        record = f"{attribute}.difflens.clip_i_rescaled"
        self.claim(
            f"DiffLens keeps CLIP-I high: {attribute}",
            record,
            "(cos + 1) / 2 at least 0.9 (the paper: 0.91 to 0.95 without text, 0.85 to 0.91 with)",
            self.value(record) >= 0.9,
            close=attribute in self.study.attributes[1:2],
        )

    def _judge_frechet(self, attribute: Attribute) -> None:
        kinds = {"reference": "the biased data", "balanced": "data with balanced classes"}
        for reference, kind in kinds.items():
            limit = self.records[f"{attribute}.original.frechet_{reference}"]["high"]
            record = f"{attribute}.difflens.frechet_{reference}"
            self.claim(
                f"balancing does not raise the Fréchet distance to {kind}: {attribute}",
                record,
                f"not above the upper end of the unedited set's interval, {limit:.0f}",
                self.value(record) <= limit,
                close=attribute == self.study.attributes[0],
            )

    def _judge_matched(self, attribute: Attribute) -> None:
        ours = self.kept[attribute, OURS].value
        if np.isnan(ours):
            return
        names = [name for name in self.order if name not in (OURS, *methods.CONTROLS)]
        rivals = [self.kept[attribute, name].value for name in names]
        beaten = [np.isnan(rival) or ours > rival for rival in rivals]
        nearest = abs(ours - np.nanmax([0.0, *rivals]))
        self.claim(
            f"at the same FD, DiffLens keeps more CLIP-I than every baseline: {attribute}",
            f"{attribute}.difflens.matched.clip_i",
            f"above {', '.join(names)}, or they do not get there",
            all(beaten),
            any(beaten),
            close=attribute == self.study.attributes[0] or bool(nearest < 0.01),
        )

    def _judge_random(self, attribute: Attribute) -> None:
        if not any(map(len, self.study.features().features[attribute])):
            return  # no features, so none at random in their place
        record = f"{attribute}.random_features.fd"
        self.claim(
            f"random features do not balance {attribute}",
            record,
            "FD above three quarters of the original's",
            self.value(record) > 0.75 * self.value(f"{attribute}.original.fd"),
            close=attribute != self.study.attributes[0],
        )

    def _judge_sweep(self) -> None:
        ratios, n = self.sizes["ratios"], self.sizes["n_sweep"]
        miss = max(abs(self.reached[OURS, ratio][0].value - ratio) for ratio in ratios)
        self.add("sweep.difflens.worst_miss", miss, n=n)
        self.claim(
            "any ratio that is asked for comes out",
            "sweep.difflens.worst_miss",
            "within 0.08 at every ratio",
            miss <= 0.08,
            miss <= 0.16,
            close=True,
        )
        leads = [self._least_lead(name) for name in ("latent editing", "H-Distribution")]
        self.add("sweep.difflens.least_lead", min(leads), n=n)
        self.claim(
            "fidelity falls less than with latent editing or H-Distribution",
            "sweep.difflens.least_lead",
            "CLIP-I above both from balance to nine in ten",
            min(leads) > 0,
            max(leads) > 0,
            close=True,
        )

    def _least_lead(self, name: str) -> float:
        """By how much more CLIP-I DiffLens keeps than another method, from balance on."""
        leads = []
        for ratio in self.sizes["ratios"]:
            if ratio >= 0.5:
                ours, theirs = (self.reached[row, ratio][1].value for row in (OURS, name))
                leads.append(ours - theirs)
        return min(leads, default=metrics.NAN)

    def _judge_wanted(self) -> None:
        rests = []
        for attribute in self.sizes["wanted"]:
            before = self.value(f"wanted.{attribute}.fd_before")
            if before > 0:
                rests.append(self.value(f"wanted.{attribute}.fd") / before)
        worst = max(rests, default=metrics.NAN)
        self.add("wanted.worst_rest", worst, n=self.sizes["n_wanted"])
        self.claim(
            "the planner reaches distributions that are not uniform",
            "wanted.worst_rest",
            "FD at most half of the unedited one, for each",
            worst <= 0.5,
            worst <= 0.75,
        )

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        """FD and what is left at the same FD, per attribute; then what came of other prompts."""
        found = [self._ranking(attribute) for attribute in self.study.attributes]
        if self.study.prompts.held_out:
            found.append(self._about_prompts())
        return found

    def _ranking(self, attribute: Attribute) -> str:
        rows = ("original", "difflens", "latent_editing", "h_distribution")
        start, ours, latent, h_distribution = (self.value(f"{attribute}.{r}.fd") for r in rows)
        kept = {name: self.kept[attribute, name].value for name in self.order}
        there = [name for name in self.order if not np.isnan(kept[name])]
        ranked = sorted(there, key=lambda name: -kept[name])
        most = ", then ".join(f"{name} ({kept[name]:.3f})" for name in ranked)
        missing = [name for name in self.order if name not in there]
        rest = f" It is not reached by {', '.join(missing)}." if missing else ""
        return (
            f"**{attribute}**: FD falls from {start:.3f} to {ours:.3f} with DiffLens, "
            f"{latent:.3f} with latent editing and {h_distribution:.3f} with H-Distribution. "
            f"At half the unedited FD the most CLIP-I is left by {most or 'none'}.{rest}"
        )

    def _about_prompts(self) -> str:
        def fds(name: str) -> str:
            values = {a: self.value(f"prompts.{a}.{name}.fd") for a in self.study.attributes}
            return ", ".join(f"{value:.3f} ({a})" for a, value in values.items())

        obeyed = min(self.value(f"prompts.{a}.difflens.obeyed") for a in self.study.attributes)
        return (
            f"**Prompts**: with a plan per prompt FD is {fds('per_prompt')}; with one plan for all "
            f"it is {fds('one_plan')}. Under prompts that nothing was learned from it falls from "
            f"{fds('held_out_original')} to {fds('held_out')}. After DiffLens what the prompt "
            f"names shows in at least {obeyed:.3f} of the images."
        )

    def _way(self, axes: Sequence[Axes], attribute: str, before: Outcome, made: Debiased) -> None:
        """One method's CLIP-I and leak, from no edit to its own FD."""
        name = made.search.method.name
        start, end = (self.scores[attribute, row]["fd"].value for row in ("original", name))
        levels = np.linspace(start, max(end, 0.001), LEVELS)
        points = [
            self.study.matched(before, made.outcome, attribute, level, n_boot=1) for level in levels
        ]
        for axis, estimates in zip(axes, zip(*points, strict=True), strict=True):
            heights = [estimate.value for estimate in estimates]
            axis.plot(levels, heights, _dashes(name), color=_colour(name), label=name)
            axis.plot(levels[-1], heights[-1], "o", ms=4, color=_colour(name))


# ---------------------------------------------------------------------------------------------


def _colour(name: str) -> str:
    return figures.PALETTE[methods.ORDER.index(name)]


def _dashes(name: str) -> str:
    """Controls are dashed."""
    return "--" if name in methods.CONTROLS else "-"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _legend(figure: plt.Figure, axis: Axes, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=columns, bbox_to_anchor=(0.5, 0))


def _path(axis: Axes, search: Search, target: int) -> None:
    """A method's strengths towards a class; crosses where the evaluators disagree."""
    path = search.towards(target)
    name = search.method.name

    def places(arms: Sequence[Arm]) -> tuple[list[float], list[float]]:
        costs = [1 - arm.similar.value for arm in arms]
        return costs, [search.share(arm, target) for arm in arms]

    style = {"color": _colour(name), "ls": _dashes(name), "marker": "o", "ms": 3.5, "lw": 1.2}
    axis.plot(*places(path), label=name, **style)
    poor = [arm for arm in path if arm.target == target and arm.agreement.value < AGREE]
    axis.plot(*places(poor), "x", ms=7, color="black")


def _fair(
    attribute: Attribute, drawn: Outcome, score: Scores, made: Debiased | None = None
) -> dict[str, str | float]:
    """The row of the first table."""
    planned = ""
    if made is not None:
        misses = np.linalg.norm(made.expected - attribute.uniform, axis=1)
        planned = f"{misses.mean():.3f}"
    row = {
        "FD, soft": str(score["fd"]),
        "FD, hard": str(score["fd_hard"]),
        "FD planned": planned,
        f"shares: {' / '.join(attribute.classes)}": joined(metrics.shares(drawn.scored[attribute])),
        "CLIP-I": str(score["clip_i"]),
        "(cos + 1) / 2": f"{score['clip_i_rescaled'].value:.3f}",
    }
    return row | ({"CLIP-T": str(score["clip_t"])} if "clip_t" in score else {})


def _rest(score: Scores, edited: bool = True) -> dict[str, str]:
    """The row of the second table."""

    def shown(name: str) -> str:
        value, low, high = score[name][:3]
        return f"{value:.0f} [{low:.0f}, {high:.0f}]"

    return {
        "Fréchet to the data": shown("frechet_reference"),
        "to balanced data": shown("frechet_balanced"),
        "to the unedited": shown("frechet_unedited") if edited else "",
        "leak": str(score["leak"]) if edited else "",
        "evaluators agree": f"{score['agreement'].value:.2f}",
    }


def _nonempty(table: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
    """A table with a row per attribute, or one that says why it has none."""
    if not table:
        return pd.DataFrame({"": ["this model reads no prompts that were held out"]})
    return pd.DataFrame(table).T
