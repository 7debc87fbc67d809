"""The page of notebook 07: which of DiffLens's choices carry the result.

`Ablations` compares variants of the method, k-SAEs and rankings of latents, all for the first
attribute.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch import Tensor

from .. import attribution, methods, metrics
from ..analysis import dictionaries
from ..attribution import Attribution
from ..debiasing import Debiased, Search
from ..features import BiasFeatures
from ..ksae import History
from ..metrics import Estimate
from ..outcome import Outcome
from . import figures
from .page import Page

if TYPE_CHECKING:
    from ..study import Study

PAPER = {  # Tables 3 and 6: FD, and CLIP-I as (cos + 1) / 2
    "Act@L": (0.190, 0.806),
    "Act@S": (0.303, 0.939),
    "Attr@L": (0.072, 0.860),
    "DiffLens": (0.002, 0.948),
    "N = 10": (0.003, 0.945),
    "N = 20": (0.001, 0.947),
    "N = 30": (0.002, 0.948),
}
RULES = {"left": "left sum", "gauss": "Gauss-Legendre"}
OF_BALANCE = "FD with each is one that balance itself would give at this size"
PICKED = 30  # latents of each ranking that are moved one at a time
Rows = Mapping[str, Debiased]  # by the label of the row
ByRule = Mapping[tuple[str, int], Attribution]  # by rule and number of points
Cells = dict[str, str]  # of a row of a table
Found = Mapping[str, BiasFeatures]  # by the label of the k-SAE
Rankings = Mapping[str, Sequence[Tensor] | Tensor]  # by name, per class the score of each latent


class Row(NamedTuple):
    """What a row of the tables measures."""

    fd: Estimate
    clip_i: Estimate
    matched_clip_i: Estimate
    matched_leak: Estimate
    search: Search

    @property
    def reached(self) -> bool:
        """Whether the row comes down to the FD at which rows are compared."""
        return not np.isnan(self.matched_clip_i.value)


class Ablations(Page):
    """Tables of variants, of k-SAEs and of rankings, all for the first attribute."""

    needs = ("ks", "counts", "seeds", "n_final", "matched")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.attribute = study.attributes[0]
        self.before: Outcome  # unedited images
        self.level: float  # the FD at which rows are compared
        self.rows: dict[str, Row] = {}  # by label
        self.gaps: dict[tuple[str, int], float] = {}  # of completeness, by rule and points
        self.reached: dict[tuple[str, int], float] = {}  # effect, by ranking and class

    def unedited(self, before: Outcome) -> None:
        """Images before any edit, and the FD that every row starts from."""
        fd = before.fairness(self.attribute).soft
        self.before, self.level = before, self.sizes["matched"] * fd.value
        self.add("ablation.original.fd", fd)
        figures.show(before.images[:36], 18, f"unedited; FD of {self.attribute} {fd}")

    # ------------------------------------------------------------------ variants

    def table_3(self, rows: Rows) -> pd.DataFrame:
        """Variants beside what the paper reports of them."""
        return self._beside_paper(self.compare(rows))

    def by_number(self, name: str, rows: Mapping[int, Debiased]) -> pd.DataFrame:
        """Variants that differ in one number, such as k, in its order."""
        labelled = {f"{name} = {number}": rows[number] for number in sorted(rows)}
        return self._beside_paper(self.compare(labelled))

    def _beside_paper(self, table: pd.DataFrame) -> pd.DataFrame:
        reported = [PAPER.get(label, ("", "")) for label in table.index]
        if any(fd for fd, _ in reported):
            table["the paper: FD"] = [fd for fd, _ in reported]
            table["its CLIP-I, (cos + 1) / 2"] = [similar for _, similar in reported]
        return table

    def compare(self, rows: Rows) -> pd.DataFrame:
        """One table and one picture of a group of rows."""
        found = {label: self._measured(label, made) for label, made in rows.items()}
        size = (11, 0.32 * len(found) + 2.2)
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=size, width_ratios=[1, 1, 1.2])
        figures.forest(left, {name: row.fd for name, row in found.items()}, "FD after balancing")
        kept = {name: row.matched_clip_i for name, row in found.items() if row.reached}
        figures.forest(middle, kept, "CLIP-I at the same FD", figures.ORANGE, zero=1.0)
        self._paths(right, found)
        names = ", ".join(found)
        figures.describe(figure, f"FD, CLIP-I at the same FD, and the search, for {names}")
        figure.tight_layout()
        table = {name: self._shown(row) for name, row in found.items()}
        return pd.DataFrame(table).T

    def _measured(self, label: str, made: Debiased) -> Row:
        """A row's figures; those of a method that was measured before are not taken again."""
        key = made.search.method.key
        for row in self.rows.values():
            if row.search is made.search:
                self.rows[label] = row
                return row
        after = made.outcome
        fd = after.fairness(self.attribute).soft
        similar = metrics.clip_i(self.before.clip, after.clip).raw
        kept, leak = self.study.matched(self.before, after, self.attribute, self.level)
        row = Row(fd, similar, kept, leak, made.search)
        self.rows[label] = row
        for name in ("fd", "clip_i", "matched_clip_i", "matched_leak"):
            estimate = getattr(row, name)
            if not np.isnan(estimate.value):
                self.add(f"ablation.{key}.{name}", estimate)
        return row

    def _shown(self, row: Row) -> Cells:
        cells = {"FD": str(row.fd), "CLIP-I": str(row.clip_i)}
        kept = str(row.matched_clip_i) if row.reached else "not reached"
        cells[f"CLIP-I at FD {self.level:.2f}"] = kept
        leak = row.matched_leak
        cells["leak there"] = "" if np.isnan(leak.value) else str(leak)
        return cells

    def _paths(self, axis: Axes, rows: Mapping[str, Row]) -> None:
        """What each strength towards the last class reaches and costs."""
        last = len(self.attribute.classes) - 1
        for number, (label, row) in enumerate(rows.items()):
            path = row.search.towards(last)
            costs = [1 - arm.similar.value for arm in path]
            shares = [row.search.share(arm, last) for arm in path]
            colour = figures.PALETTE[number % 8]
            dashes = "-" if number < 8 else "--"
            axis.plot(costs, shares, dashes, marker="o", ms=3, lw=1.2, label=label, color=colour)
        share = f"share of {self.attribute.classes[last]} (n = {self.study.settings.n_tuned})"
        axis.set(xlabel="1 − CLIP-I", ylabel=share, ylim=(0, 1))
        axis.legend(fontsize=7)

    # ------------------------------------------------------------------ k-SAEs

    def quality(self, found: Found, curves: Mapping[str, History]) -> pd.DataFrame:
        """How well each k-SAE reconstructs, and how many of its latents are silent."""
        settings = self.study.settings
        table = {}
        for name, features in found.items():
            fvu = curves[name].validation_fvu[-1]
            dead = (features.density == 0).float().mean().item()
            record = f"ablation.{methods.key(name)}"
            self.add(f"{record}.fvu", fvu, n=settings.n_images // 10)
            self.add(f"{record}.dead", dead, n=settings.latents)
            numbers = [str(len(latents)) for latents in features.features[self.attribute]]
            row = {"FVU": f"{fvu:.3f}", "silent on 256 images": f"{dead:.3f}"}
            row["features"] = " / ".join(numbers)
            table[name] = row
        return pd.DataFrame(table).T

    def pairing(self, found: BiasFeatures, others: Mapping[int, BiasFeatures]) -> pd.DataFrame:
        """The mean cosine of directions of one k-SAE with their partners in another's."""
        directions = found.ksae.directions
        features = torch.cat(found.features[self.attribute]).unique()
        seed = self.study.settings.seed
        table = {}
        for other, again in others.items():
            pairs = {"all latents": directions, "bias features": directions[features]}
            for name, rows in pairs.items():
                cosine = _paired(rows, again.ksae.directions)
                self.add(f"ablation.seeds.{methods.key(name)}.cosine.seed{other}", cosine)
                table[f"{name}, seed {seed} and {other}"] = str(cosine)
        # A stream of its own: the k-SAE of this seed started from that of the seed itself.
        generator = torch.Generator().manual_seed(self.study.seeds.directions)
        random = torch.randn(directions.shape, generator=generator)
        cosine = _paired(directions[features], random)
        self.add("ablation.seeds.random.cosine", cosine)
        table["bias features and random directions"] = str(cosine)
        return pd.DataFrame({"mean matched cosine": table})

    # ------------------------------------------------------------------ attribution

    def integration(self, exact: Attribution, by_rule: ByRule) -> pd.DataFrame:
        """How far sums of few points are from the integral, and whether both select the same."""
        settings = self.study.settings
        images = min(settings.n_images, 4 * settings.n_support)
        n = settings.n_features
        table = {}
        for (rule, points), found in by_rule.items():
            gap = found.gap.max().item()
            same = self._same_picks(exact, found)
            self.gaps[rule, points] = gap
            record = f"ablation.ig.{rule}.p{points}"
            self.add(f"{record}.gap", gap, n=images)
            self.add(f"{record}.same", same, n=n)
            row = {"completeness gap": f"{gap:.1e}"}
            row[f"share of the {n} features"] = f"{same:.2f}"
            table[f"{RULES[rule]}, {points}"] = row
        self._draw_gaps()
        return pd.DataFrame(table).T

    def _same_picks(self, exact: Attribution, found: Attribution) -> float:
        """The share of the exact integral's features that an approximation picks, per class."""
        n = self.study.settings.n_features
        shares = []
        for right, scores in zip(exact.scores, found.scores, strict=True):
            wanted = set(attribution.select(right, n).tolist())
            picked = set(attribution.select(scores, n).tolist())
            if wanted:
                shares.append(len(wanted & picked) / len(wanted))
        return float(np.mean(shares)) if shares else metrics.NAN

    def _draw_gaps(self) -> None:
        figure, axis = plt.subplots(figsize=(5.5, 3))
        for rule, marker in (("left", "o-"), ("gauss", "s--")):
            points = [number for name, number in self.gaps if name == rule]
            gaps = [self.gaps[rule, number] for number in points]
            axis.loglog(points, gaps, marker, label=RULES[rule])
        axis.set(xlabel="points", ylabel="completeness gap (relative)")
        axis.legend()
        figures.describe(figure, "The completeness gap of two rules of integration")

    def rankings(self, found: BiasFeatures, rankings: Rankings) -> pd.DataFrame:
        """The measured effects of the best latents of every ranking, moved one at a time."""
        table: dict[str, Cells] = {name: {} for name in rankings}
        for target, label in enumerate(self.attribute.classes):
            scores = {name: by_class[target] for name, by_class in rankings.items()}
            best = {name: self._best(found, s) for name, s in scores.items()}
            candidates = torch.cat(list(best.values())).unique()
            effects = self._effects(found, target, candidates)
            attainable = sum(sorted(effects.values())[-PICKED:])
            for name, latents in best.items():
                moved = np.array([effects[latent] for latent in latents.tolist()])
                reached = moved.sum() / attainable if attainable else metrics.NAN
                right = metrics.proportion(int((moved > 0).sum()), len(moved))
                agreement = metrics.rank_correlation(scores[name][latents], moved)
                self.reached[name, target] = reached
                self._add_ranking(f"{_key(name)}.{label}", right, reached)
                row = table[name]
                row[f"{label}: sign right"] = str(right)
                row[f"{label}: rank correlation"] = f"{agreement:.2f}"
                row[f"{label}: reached"] = f"{reached:.2f}"
        self._draw_reached(list(rankings))
        return pd.DataFrame(table).T

    def _add_ranking(self, name: str, right: Estimate, reached: float) -> None:
        record = f"ablation.ranking.{name}"
        self.add(f"{record}.sign_right", right)
        self.add(f"{record}.reached", reached, n=self.study.settings.n_measured)

    def _best(self, found: BiasFeatures, scores: Tensor) -> Tensor:
        density = self.study.settings.max_density
        return attribution.select(scores, PICKED, found.density, density)

    def _effects(self, found: BiasFeatures, target: int, latents: Tensor) -> dict[int, float]:
        """What each of the latents, moved alone, does to a class: {latent: effect}."""
        unit = found.gaps[self.attribute][target][..., latents]
        effect = self.study.measured(found.ksae, self.attribute, target, latents, unit)
        return dict(zip(latents.tolist(), effect.mean.tolist(), strict=True))

    def _draw_reached(self, names: Sequence[str]) -> None:
        classes = self.attribute.classes
        size = (4 + 3 * len(classes), 2.8)
        figure, axes = plt.subplots(1, len(classes), figsize=size, sharey=True)
        upwards = list(reversed(names))
        of_picture = [name.startswith("picture") for name in upwards]
        colours = [figures.BLUE if picture else figures.GREY for picture in of_picture]
        for target, axis in enumerate(axes):
            shares = [self.reached[name, target] for name in upwards]
            axis.barh(upwards, shares, color=colours)
            axis.set(title=f"towards {classes[target]}", xlabel="share of the attainable effect")
            axis.axvline(0, color="black", lw=0.8)
        figures.describe(figure, f"What each ranking reaches of the effect: {'; '.join(names)}")
        figure.tight_layout()

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        """Decides what the choices are worth, by CLIP-I at the same FD wherever that is reached."""
        self._judge_dictionary()
        self._judge_k()
        self._judge_counts()
        self._judge_seeds()
        self._judge_baseline()
        super().judge()

    def _figure(self, row: str, metric: str = "matched_clip_i", end: str = "value") -> float:
        """A figure of a row. It is minus infinity if the FD of the comparison was not reached."""
        record = self.records.get(f"ablation.{row}.{metric}")
        return -math.inf if record is None else float(record[end])

    def _ahead(self, a: str, b: str) -> bool:
        return self._figure(a) > self._figure(b)

    def _kept(self, row: str) -> str:
        """The record of CLIP-I at the same FD, or of plain CLIP-I where that FD is not reached."""
        matched = f"ablation.{row}.matched_clip_i"
        return matched if matched in self.records else f"ablation.{row}.clip_i"

    def _judge_dictionary(self) -> None:
        claim = "the k-SAE raises coherence: more CLIP-I at the same FD than with neurons"
        rule = "latents above neurons, picked either way"
        by_attribution = self._ahead("difflens", "attr_at_l")
        by_activation = self._ahead("act_at_s", "act_at_l")
        self._judge_pairs(claim, rule, by_attribution, by_activation)
        claim = "attribution raises precision: more CLIP-I at the same FD than by activation"
        rule = "attribution above activation, in either dictionary"
        of_latents = self._ahead("difflens", "act_at_s")
        of_neurons = self._ahead("attr_at_l", "act_at_l")
        self._judge_pairs(claim, rule, of_latents, of_neurons)

    def _judge_pairs(self, claim: str, rule: str, *ahead: bool) -> None:
        record = self._kept("difflens")
        self.claim(claim, record, rule, all(ahead), any(ahead), close=True)

    def _judge_k(self) -> None:
        rows = {k: f"k_{k}" for k in self.sizes["ks"]}
        rows[self.study.settings.k] = "difflens"
        least, most = min(rows), max(rows)
        if least < most:
            low = self._figure(rows[most], end="low")
            holds = low <= self._figure(rows[least])
            record = self._kept(rows[most])
            rule = f"k = {most} not above k = {least} by more than its interval"
            self.claim("a larger k debiases no better", record, rule, holds)

    def _judge_counts(self) -> None:
        rows = {n: f"n_{n}" for n in self.sizes["counts"]}
        rows[self.study.settings.n_features] = "difflens"
        few = [row for n, row in rows.items() if 10 <= n <= 30]
        if few:
            noise = self._noise()
            balanced = [self._figure(row, "fd") <= noise for row in few]
            record = f"ablation.{few[0]}.fd"
            rule = f"{OF_BALANCE} (95 %: below {noise:.3f})"
            holds, partly = all(balanced), any(balanced)
            self.claim("10 to 30 features suffice", record, rule, holds, partly, close=True)
        most = max(rows)
        if 10 in rows and most > 10:
            record = self._kept(rows[most])
            rule = f"N = {most} above N = 10 at the same FD"
            holds = self._ahead(rows[most], rows[10])
            claim = "more features keep more of the images"
            self.claim(claim, record, rule, holds, close=True)

    def _noise(self) -> float:
        """The upper end of the FD that perfectly balanced images have at this size."""
        n, prompts = self.sizes["n_final"], len(self.study.texts)
        seed = self.study.settings.seed
        return metrics.expected_fd(self.attribute.uniform, n, groups=prompts, seed=seed).high

    def _judge_seeds(self) -> None:
        names = [f"ablation.seeds.bias_features.cosine.seed{s}" for s in self.sizes["seeds"]]
        found = [self.records[name] for name in names]
        random = self.records["ablation.seeds.random.cosine"]
        alike = all(record["value"] >= 0.7 for record in found)
        above = all(record["low"] > random["high"] for record in found)
        claim = "the same bias features are found with other seeds"
        rule = "mean matched cosine at least 0.7, and above random directions"
        self.claim(claim, names[0], rule, alike, above, close=True)

    def _judge_baseline(self) -> None:
        classes = self.attribute.classes
        leads = []
        for measure in ("h-classifier", "picture"):
            others = [self.reached[f"{measure}, other classes", c] for c in range(len(classes))]
            zero = [self.reached[f"{measure}, zero", c] for c in range(len(classes))]
            leads.append(min(others) - max(zero))
        claim = "attribution against the other classes finds more of the effect than against zero"
        record = f"ablation.ranking.picture.other_classes.{classes[0]}.reached"
        rule = "with either measure, in its worst direction more than the other in its best"
        self.claim(claim, record, rule, bool(np.min(leads) > 0))

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        """CLIP-I at the same FD, group by group; then seeds and integration."""
        variants = ["DiffLens", "Attr@L", "Act@S", "Act@L"]
        edits = ["DiffLens", "scale", "symmetric step", "cleanest fifth"]
        ingredients = ["DiffLens", "no AuxK", "no pre-bias"]
        return [
            f"**Dictionary and picker** (CLIP-I at the same FD): {self._told(variants)}.",
            f"**k**: {self._numbered('k = ')}. **N**: {self._numbered('N = ')}.",
            f"**Intervention**: {self._told(edits)}.",
            f"**The k-SAE**: {self._told(ingredients)}. **Seeds**: {self._about_seeds()}",
            f"**Integration**: {self._about_integration()}",
        ]

    def _about_seeds(self) -> str:
        seed = self.sizes["seeds"][0]
        again = self.value(f"ablation.seeds.bias_features.cosine.seed{seed}")
        random = self.value("ablation.seeds.random.cosine")
        return (
            f"{self._numbered('seed = ')}. Bias features of one seed meet those of another at a "
            f"mean cosine of {again:.2f}, random directions at {random:.2f}."
        )

    def _about_integration(self) -> str:
        left, gauss = self.gaps["left", 10], self.gaps["gauss", 20]
        same = self.value("ablation.ig.left.p10.same")
        return (
            f"ten points from the left leave a completeness gap of {left:.1e} and pick {same:.0%} "
            f"of the same features; twenty Gauss-Legendre points leave {gauss:.1e}."
        )

    def _numbered(self, beginning: str) -> str:
        """The rows whose labels have this beginning, as they were compared."""
        return self._told([label for label in self.rows if label.startswith(beginning)])

    def _told(self, labels: Sequence[str]) -> str:
        shown = []
        for label in labels:
            row = self.rows[label]
            kept = f"{row.matched_clip_i.value:.3f}" if row.reached else "not reached"
            shown.append(f"{label} {kept}")
        return ", ".join(shown)


def _key(ranking: str) -> str:
    """The name of a ranking in records: its measure and its baseline."""
    return ".".join(methods.key(part) for part in ranking.split(", "))


def _paired(rows: Tensor, directions: Tensor) -> Estimate:
    """The mean matched cosine of rows (N, d) with directions (D, d), or nothing without rows."""
    cosines = dictionaries.matched_cosines(rows, directions)
    return metrics.mean(cosines) if len(cosines) else metrics.NOTHING
