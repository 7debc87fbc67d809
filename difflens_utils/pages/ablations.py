"""The page of notebook 07: which of DiffLens's choices carry the result.

`Ablations` compares variants of the method, k-SAEs and rankings of latents. The tables of the paper
are made for every attribute, and the rest for the first.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor

from .. import attribution, methods, metrics
from ..analysis import dictionaries
from ..analysis.scoring import Scale
from ..attribution import Attribution
from ..debiasing import Debiased
from ..features import BiasFeatures
from ..ksae import History
from ..methods import Method, best
from ..metrics import Array, Estimate
from ..outcome import Outcome
from . import figures
from .page import Page

if TYPE_CHECKING:
    from ..study import Study

OURS, RANDOM = "DiffLens", "random decoder"
TABLE_3 = (OURS, "Attr@L", "Act@S", "Act@L", RANDOM)
PAPER_ON = "gender"  # the attribute of the paper's Tables 3, 5 and 6
PAPER = {  # FD, FID, and CLIP-I as (cos + 1) / 2
    "Act@L": (0.190, 34.27, 0.806),
    "Act@S": (0.303, 32.70, 0.939),
    "Attr@L": (0.072, 41.68, 0.860),
    "DiffLens": (0.002, 31.93, 0.948),
    "k = 32": (0.002, 31.93, 0.948),
    "k = 64": (0.005, 31.94, 0.952),
    "k = 128": (0.008, 32.24, 0.911),
    "N = 10": (0.003, 33.01, 0.945),
    "N = 20": (0.001, 32.94, 0.947),
    "N = 30": (0.002, 31.93, 0.948),
}
EFFECTS = {  # of a choice, in rows of Table 3 with it and without it
    "ksae": ("latents, not neurons", ((OURS, "Attr@L"), ("Act@S", "Act@L"))),
    "attribution": ("attribution, not activation", ((OURS, "Act@S"), ("Attr@L", "Act@L"))),
    "learned": ("learned directions, not random ones", ((OURS, RANDOM),)),
}
COLUMNS = {
    "fd": "FD",
    "removed": "removed",
    "kept": "kept at the same fairness",
    "leak": "leak there",
    "frechet": "Fréchet distance to the data",
}
FEW = (10, 30)  # features that suffice in the paper
RULES = {"left": "left sum", "gauss": "Gauss-Legendre"}
MEASURES = ("h-classifier", "picture")  # of attributions
PICKED = 30  # latents of each ranking that are moved one at a time
NO_WORK = (
    "No latent is dead at any logged step of the training. So AuxK has nothing to do, and without "
    "it the k-SAE is the same."
)
ByRule = Mapping[tuple[str, int], Attribution]  # by rule and number of points
Found = Mapping[str, BiasFeatures]  # by the label of the k-SAE
Rankings = Mapping[str, Sequence[Tensor] | Tensor]  # by name, per class the score of each latent


class Row(NamedTuple):
    """What a row of the tables measures; `COLUMNS` names the figures."""

    fd: Estimate
    removed: Estimate
    kept: Estimate
    leak: Estimate
    frechet: Estimate
    images: Tensor

    @property
    def reached(self) -> bool:
        """Whether it comes down to the FD at which rows are compared."""
        return self.kept.draws is not None and bool(self.kept.draws.any())


class Ablations(Page):
    """Tables of variants, of k-SAEs and of rankings."""

    frechet = ("n_final",)
    needs = ("ks", "counts", "seeds", "n_final", "matched")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.attribute = study.attributes[0]
        self.before: Outcome  # unedited images
        self.scales: dict[str, Scale] = {}  # by attribute
        self.rows: dict[str, dict[str, Row]] = {a: {} for a in study.attributes}  # by method
        self.groups: dict[str, list[list[str]]] = {a: [] for a in study.attributes}  # of rows
        self.gaps: dict[tuple[str, int], float] = {}  # of completeness, by rule and points
        self.reached: dict[tuple[str, int], Estimate] = {}  # effect, by ranking and class

    # ------------------------------------------------------------------ rows

    def unedited(self, before: Outcome) -> pd.DataFrame:
        """Images before any edit, and the figures that every row starts from."""
        self.before = before
        figures.show(before.images[: 3 * figures.ACROSS], title="unedited images, not selected")
        table = {}
        for attribute in self.study.attributes:
            scale = self.study.scale(attribute, before)
            self.scales[attribute] = scale
            fd = scale.fd(scale.unedited)
            distance = self._frechet(scale, before)
            self.add(f"ablation.{attribute}.original.fd", fd)
            self.add(f"ablation.{attribute}.original.frechet", distance)
            row = {COLUMNS["fd"]: str(fd)}
            row["rows are compared at"] = f"{self.sizes['matched'] * fd.value:.3f}"
            row[COLUMNS["frechet"]] = _rounded(distance)
            table[attribute] = row
        return pd.DataFrame(table).T

    def _frechet(self, scale: Scale, images: Outcome) -> Estimate:
        """The Fréchet distance of images to images of the data, if the subject has any."""
        if "reference" not in scale.references:
            return metrics.NOTHING
        seed = self.study.seeds.main
        return metrics.frechet(images.features, scale.references["reference"], seed=seed)

    def row(self, made: Debiased) -> None:
        """Takes the figures of a method, and some of its images; the others are not kept.

        Rows are compared on the straight way from no edit to the plan.
        """
        search, mixture = made.search, made.mixture
        scale = self.scales[search.attribute]
        kept, leak = scale.matched(mixture, mixture, self.sizes["matched"])
        row = Row(
            scale.fd(mixture),
            scale.removed(mixture),
            kept,
            leak,
            self._frechet(scale, made.outcome),
            made.outcome.images[: figures.ACROSS],
        )
        self.rows[search.attribute][search.method.name] = row
        for name in COLUMNS:
            record = f"ablation.{search.attribute}.{search.method.key}.{name}"
            self.add(record, getattr(row, name))

    def _kept(self, attribute: str, label: str) -> Estimate:
        return self.rows[attribute][label].kept

    # ------------------------------------------------------------------ tables

    def table_3(self, attribute: str) -> pd.DataFrame:
        """Two dictionaries, two pickers and a random dictionary, beside what the paper reports."""
        for name, (_, pairs) in EFFECTS.items():
            kept = [self._kept(attribute, label) for pair in pairs for label in pair]
            self.add(f"ablation.{attribute}.effect.{name}", metrics.combined(_ahead, *kept))
        return self._table(attribute, {label: label for label in TABLE_3})

    def effects(self) -> pd.DataFrame:
        """What each choice of Table 3 adds to what is kept at the same fairness."""
        table: dict[str, dict[str, str]] = {}
        for attribute in self.rows:
            records = [f"ablation.{attribute}.effect.{name}" for name in EFFECTS]
            found = [self.results.figures.get(r, metrics.NOTHING) for r in records]
            together = metrics.simultaneous(found)
            labels = [label for label, _ in EFFECTS.values()]
            table[attribute] = dict(zip(labels, map(str, together), strict=True))
        return pd.DataFrame(table)

    def table_5(self, attribute: str) -> pd.DataFrame:
        """The numbers of active latents, in their order."""
        labels = self._numbered("k", self.sizes["ks"], self.study.settings.k)
        for smaller, k in itertools.pairwise(labels):
            kept = [self._kept(attribute, labels[number]) for number in (k, smaller)]
            self.add(f"ablation.{attribute}.gain.k_{k}", metrics.difference(*kept))
        return self._table(attribute, {f"k = {k}": label for k, label in labels.items()})

    def table_6(self, attribute: str) -> pd.DataFrame:
        """The numbers of features per class, in their order."""
        labels = self._numbered("N", self.sizes["counts"], self.study.settings.n_features)
        for n, label in labels.items():
            if FEW[0] <= n <= FEW[1]:
                removed = self.rows[attribute][label].removed
                self.add(f"ablation.{attribute}.removed.n_{n}", removed)
        if len(labels) > 1:
            kept = [self._kept(attribute, label) for label in labels.values()]
            slope = metrics.combined(_slope(list(labels)), *kept)
            self.add(f"ablation.{attribute}.slope_of_n", slope)
        return self._table(attribute, {f"N = {n}": label for n, label in labels.items()})

    def _numbered(self, name: str, others: Sequence[int], own: int) -> dict[int, str]:
        """The rows that differ in a number, in its order: {number: label}."""
        labels = {number: f"{name} = {number}" for number in others} | {own: OURS}
        return dict(sorted(labels.items()))

    def compare(self, attribute: str, variants: Sequence[Method]) -> pd.DataFrame:
        """DiffLens and variants of it."""
        return self._table(attribute, {name: name for name in (OURS, *(m.name for m in variants))})

    def _table(self, attribute: str, labels: Mapping[str, str]) -> pd.DataFrame:
        """Rows by the label that is shown. Their intervals hold for all of them together."""
        rows = {shown: self.rows[attribute][label] for shown, label in labels.items()}
        known = {label for group in self.groups[attribute] for label in group}
        if new := [label for label in labels.values() if label not in known]:
            self.groups[attribute].append(new)
        columns = {}
        for name, title in COLUMNS.items():
            together = metrics.simultaneous([getattr(row, name) for row in rows.values()])
            shown = map(_rounded if name == "frechet" else str, together)
            columns[title] = dict(zip(rows, shown, strict=True))
        for label, row in rows.items():
            if not row.reached:
                columns[COLUMNS["kept"]][label] = "not reached"
        if attribute == PAPER_ON:
            columns |= _reported(list(labels))
        return pd.DataFrame(columns).fillna("").rename_axis(str(attribute), axis=1)

    # ------------------------------------------------------------------ pictures

    def figure_16(self, attribute: str) -> Figure:
        """The same seeds, unedited and balanced by every row of Table 3."""
        strips = {"unedited": self.before.images[: figures.ACROSS]}
        for label in TABLE_3:
            strips[label] = self.rows[attribute][label].images
        return figures.strips(strips, title=f"{attribute}, balanced")

    def forest(self, attribute: str) -> Figure:
        """What every row keeps at the same fairness, table by table."""
        groups = self.groups[attribute]
        labels = [label for group in groups for label in group]
        rows = [self.rows[attribute][label] for label in labels]
        missed = ["" if row.reached else " (not reached)" for row in rows]
        shown = [label + note for label, note in zip(labels, missed, strict=True)]
        together = metrics.simultaneous([row.kept for row in rows])
        figure, axis = plt.subplots(figsize=(7.5, 0.27 * len(rows) + 1.1))
        ours = self._kept(attribute, OURS).value
        kept = dict(zip(shown, together, strict=True))
        figures.forest(axis, kept, COLUMNS["kept"], zero=ours)
        height = len(rows) - 0.5
        for group in groups[:-1]:
            height -= len(group)
            axis.axhline(height, color="black", lw=0.6)
        axis.set_title(str(attribute), loc="left")
        return figures.finish(figure, f"What is kept at the same fairness of {attribute}, by row")

    # ------------------------------------------------------------------ k-SAEs

    def ingredients(self, history: History) -> dict[str, dict[str, Any]]:
        """What is taken away from the k-SAE, by name: changes that `Study.ksae` takes.

        AuxK is left in, and a line says why, where the `history` shows no dead latent.
        """
        changes: dict[str, dict[str, Any]] = {"no pre-bias": {"pre_bias": False}}
        if max(history.dead) > 0:
            return {"no AuxK": {"auxk": 0.0}} | changes
        print(NO_WORK)
        return changes

    def parts_of_the_best(self) -> pd.DataFrame | Markdown:
        """What each part of *DiffLens, best* gave on tuning seeds.

        The cost in CLIP-I of the cheapest plan for half of the unedited FD, with a dagger where the
        fairest plan leaves more than a tenth of the bias, by `python -m models.ingredients`.
        """
        path = self.study.subject.folder / "ingredients.json"
        if not path.is_file():
            return Markdown("Nothing has been measured: run `python -m models.ingredients`.")
        found = json.loads(path.read_text())
        columns = {}
        for attribute in found[best.OWN_WAY]:
            rows = [(w, n, row) for w in found for n, row in found[w][attribute].items()]
            columns[attribute] = {(way, name): _cost(row) for way, name, row in rows}
        return pd.DataFrame(columns).fillna("–")

    def quality(self, found: Found, curves: Mapping[str, History]) -> pd.DataFrame:
        """How well each k-SAE reconstructs, and how many of its latents are silent."""
        settings = self.study.settings
        table = {}
        for name, features in found.items():
            fvu = curves[name].validation_fvu[-1]
            silent = (features.density == 0).float().mean().item()
            record = f"ablation.ksae.{methods.key(name)}"
            self.add(f"{record}.fvu", fvu, n=settings.n_images // 10)
            self.add(f"{record}.silent", silent, n=settings.latents)
            numbers = [str(len(latents)) for latents in features.features[self.attribute]]
            row = {"FVU": f"{fvu:.3f}", "silent on 256 images": f"{silent:.3f}"}
            row["features"] = " / ".join(numbers)
            table[name] = row
        return pd.DataFrame(table).T

    def pairing(self, found: BiasFeatures, others: Mapping[int, BiasFeatures]) -> pd.DataFrame:
        """The mean cosine of directions of one k-SAE with their partners in another's."""
        directions = found.ksae.directions
        every = [latents for classes in found.features.values() for latents in classes]
        features = torch.cat(every).unique()
        seed = self.study.settings.seed
        table = {}
        for other, again in others.items():
            for name, rows in (("all", directions), ("cosine", directions[features])):
                cosine = _paired(rows, again.ksae.directions)
                self.add(f"ablation.seeds.{name}.seed{other}", cosine)
                kind = "all latents" if name == "all" else "bias features"
                table[f"{kind}, seed {seed} and {other}"] = str(cosine)
        # A stream of its own: the k-SAE of this seed started from that of the seed itself.
        generator = torch.Generator().manual_seed(self.study.seeds.directions)
        random = torch.randn(directions.shape, generator=generator)
        cosine = _paired(directions[features], random)
        self.add("ablation.seeds.random", cosine)
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
        table: dict[str, dict[str, str]] = {name: {} for name in rankings}
        for target, label in enumerate(self.attribute.classes):
            scores = {name: by_class[target] for name, by_class in rankings.items()}
            best = {name: self._best(found, s) for name, s in scores.items()}
            candidates = torch.cat(list(best.values())).unique()
            gains = self._gains(found, target, candidates)
            places = {n: torch.searchsorted(candidates, latents) for n, latents in best.items()}
            for name, latents in best.items():
                moved = gains.mean(0)[places[name]]
                right = metrics.proportion(int((moved > 0).sum()), len(moved))
                agreement = metrics.rank_correlation(scores[name][latents], moved)
                reached = _of_attainable(gains, places[name])
                self.reached[name, target] = reached
                record = f"ablation.ranking.{_key(name)}.{methods.key(label)}"
                self.add(f"{record}.sign_right", right)
                self.add(f"{record}.reached", reached)
                row = table[name]
                row[f"{label}: sign right"] = str(right)
                row[f"{label}: rank correlation"] = f"{agreement:.2f}"
                row[f"{label}: reached"] = str(reached)
            self._add_gains(label, gains, places)
        self._draw_reached(list(rankings))
        return pd.DataFrame(table).T

    def _add_gains(self, label: str, gains: Tensor, places: Mapping[str, Tensor]) -> None:
        """What the other classes as the baseline find more of the effect than zero does."""
        for measure in MEASURES:
            if f"{measure}, zero" not in places:  # of a pipeline that samples by itself
                continue
            chosen = (places[f"{measure}, {baseline}"] for baseline in ("other classes", "zero"))
            name = f"{methods.key(measure)}_{methods.key(label)}"
            self.add(f"ablation.ranking.gain.{name}", _of_attainable(gains, *chosen))

    def _best(self, found: BiasFeatures, scores: Tensor) -> Tensor:
        density = self.study.settings.max_density
        return attribution.select(scores, PICKED, found.density, density)

    def _gains(self, found: BiasFeatures, target: int, latents: Tensor) -> Tensor:
        """What each latent (N,), moved alone, does to a class on each image: (n, N)."""
        unit = found.gaps[self.attribute][target][..., latents]
        return self.study.measured(found.ksae, self.attribute, target, latents, unit).gains.T

    def _draw_reached(self, names: Sequence[str]) -> None:
        classes = self.attribute.classes
        size = (4 + 3 * len(classes), 2.8)
        figure, axes = plt.subplots(1, len(classes), figsize=size, sharey=True)
        upwards = list(reversed(names))
        of_picture = [name.startswith("picture") for name in upwards]
        colours = [figures.BLUE if picture else figures.GREY for picture in of_picture]
        for target, axis in enumerate(axes):
            shares = [self.reached[name, target].value for name in upwards]
            axis.barh(upwards, shares, color=colours)
            axis.set(title=f"towards {classes[target]}", xlabel="share of the attainable effect")
            axis.axvline(0, color="black", lw=0.8)
        figures.describe(figure, f"What each ranking reaches of the effect: {'; '.join(names)}")
        figure.tight_layout()

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        """What rows keep at the same fairness, for each attribute; then seeds and integration."""
        found = [self._about(attribute) for attribute in self.rows]
        return [
            *found,
            f"**Seeds**: {self._about_seeds()}",
            f"**Integration**: {self._about_integration()}",
        ]

    def _about(self, attribute: str) -> str:
        effects = []
        for name, (label, _) in EFFECTS.items():
            effects.append(f"{label}, {self.value(f'ablation.{attribute}.effect.{name}'):+.3f}")
        tables = [
            ", ".join(self._told(attribute, label) for label in g) for g in self.groups[attribute]
        ]
        return (
            f"**{attribute}**: kept at the same fairness {'; '.join(tables)}. What a choice adds: "
            f"{'; '.join(effects)}."
        )

    def _told(self, attribute: str, label: str) -> str:
        row = self.rows[attribute][label]
        return f"{label} {row.kept.value:.3f}" if row.reached else f"{label} not reached"

    def _about_seeds(self) -> str:
        again = [self.value(f"ablation.seeds.cosine.seed{seed}") for seed in self.sizes["seeds"]]
        random = self.value("ablation.seeds.random")
        cosines = ", ".join(f"{cosine:.2f}" for cosine in again)
        return (
            f"bias features meet directions of other seeds at a mean cosine of {cosines}, and "
            f"random directions at {random:.2f}."
        )

    def _about_integration(self) -> str:
        left, gauss = self.gaps["left", 10], self.gaps["gauss", 20]
        same = self.value("ablation.ig.left.p10.same")
        return (
            f"ten points from the left leave a completeness gap of {left:.1e} and pick {same:.0%} "
            f"of the same features; twenty Gauss-Legendre points leave {gauss:.1e}."
        )


def _reported(labels: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the paper reports of rows: {column: {label: figure}}, empty if it has none of them."""
    known = {label: PAPER[label] for label in labels if label in PAPER}
    if not known:
        return {}
    return {
        "the paper: FD": {label: f"{fd:.3f}" for label, (fd, _, _) in known.items()},
        "its FID": {label: f"{fid:.2f}" for label, (_, fid, _) in known.items()},
        "its CLIP-I, (cos + 1) / 2": {label: f"{c:.3f}" for label, (_, _, c) in known.items()},
    }


def _ahead(*kept: Array) -> Array:
    """The mean lead of the first, third, ... of figures over the one that follows it."""
    lead: Array = np.mean(kept[::2], axis=0) - np.mean(kept[1::2], axis=0)
    return lead


def _slope(counts: Sequence[int]) -> Callable[..., Array]:
    """The least-squares slope on log10 of the counts of one figure for each."""
    steps = np.log10(counts) - np.log10(counts).mean()

    def slope(*figures_: Array) -> Array:
        found: Array = steps @ np.stack(figures_) / (steps @ steps)
        return found

    return slope


def _of_attainable(gains: Tensor, places: Tensor, less: Tensor | None = None) -> Estimate:
    """The effect of some candidates, as a share of that of the best as many as `PICKED` of all.

    `gains` (n, N) are the candidates' effects on n images, and `places` the numbers of some. The
    share of `less`, others of them, is taken off.
    """
    if not gains.numel():
        return metrics.NOTHING

    def share(effects: Array) -> Array:  # (R, N)
        attainable = np.sort(effects, axis=1)[:, -PICKED:].sum(1)
        found = effects[:, places.numpy()].sum(1)
        if less is not None:
            found = found - effects[:, less.numpy()].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            reached: Array = np.where(attainable > 0, found / attainable, np.nan)
        return reached

    return metrics.bootstrap_means(share, gains)


def _rounded(estimate: Estimate) -> str:
    """A distance, which is large, without decimals."""
    if np.isnan(estimate.value):
        return str(estimate)
    return f"{estimate.value:.0f} [{estimate.low:.0f}, {estimate.high:.0f}]"


def _key(ranking: str) -> str:
    """The name of a ranking in records: its measure and its baseline."""
    return ".".join(methods.key(part) for part in ranking.split(", "))


def _paired(rows: Tensor, directions: Tensor) -> Estimate:
    """The mean matched cosine of rows (N, d) with directions (D, d), or nothing without rows."""
    cosines = dictionaries.matched_cosines(rows, directions)
    return metrics.mean(cosines) if len(cosines) else metrics.NOTHING


def _cost(row: Mapping[str, float]) -> str:
    """What the plan of a recipe costs, with a mark where none of its plans is fair."""
    return f"{row['cost']:.3f}{'' if best.remains(row) <= best.LEFT else ' †'}"
