"""The page of notebook 04: the latents that cause a class.

`AttributionPage` ranks latents by attribution, compares the ranking with measured effects, and
describes the selected features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import features, ksae, metrics
from ..analysis import factors
from ..analysis.factors import FactorSet, Tracked
from ..attribution import Attribution, Effect
from ..features import BiasFeatures
from ..metrics import Estimate
from . import figures
from .page import Page
from .tables import key

if TYPE_CHECKING:
    from ..study import Study

ROOM = 8  # images on a card
CLEAR = 0.65  # the AUROC from which a latent is said to track a class
Trial = tuple[Tensor, Effect]  # scores (N,) of candidates, and what each did when moved alone
Trials = Mapping[tuple[str, int], Trial]  # by the ranking and the class


class AttributionPage(Page):
    """Rankings of latents, their measured effects, and the features that are selected by them."""

    needs = ("n_probe",)

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.attribute = study.attributes[0]
        self.found: BiasFeatures | None = None
        self.tracked: list[Tracked] = []  # of every latent
        self.smallest = 0  # features of the class with the fewest

    def random_latents(self, n: int) -> Tensor:
        """Latents drawn at random: (n,), or all if there are fewer."""
        generator = torch.Generator().manual_seed(self.study.seeds.main)
        order = torch.randperm(self.study.settings.latents, generator=generator)
        return order[:n]

    # ------------------------------------------------------------------ measures and rankings

    def ranked(self, by_head: Attribution) -> Figure:
        """The scores of all latents for each class, largest first."""
        figure, axes = figures.panels(1, width=7, height=3.2)
        for label, scores in zip(self.attribute.classes, by_head.scores, strict=True):
            ordered = scores.sort(descending=True).values
            axes[0].plot(range(1, len(ordered) + 1), ordered, label=label)
        axes[0].axhline(0, color="black", lw=0.8)
        axes[0].set(xscale="log", xlabel="rank of the latent", ylabel="attribution")
        axes[0].legend(title=self.attribute)
        return figures.finish(figure, "The attribution of every latent to each class, by rank")

    def completeness(self, by_head: Mapping[str, Attribution], n: int) -> pd.DataFrame:
        """How far attributions are from adding up to the change of the measure, as a share of it.

        `n` is the number of images.
        """
        rows = {}
        for attribute in self.study.attributes:
            gaps = by_head[attribute].gap.tolist()
            for label, gap in zip(attribute.classes, gaps, strict=True):
                rows[f"{attribute}: {label}"] = f"{gap:.1e}"
        worst = max(result.gap.max().item() for result in by_head.values())
        self.add("attribution.completeness_gap", worst, n=n)
        return pd.Series(rows, name="completeness gap").to_frame()

    def rankings(self, trials: Trials, random: Effect) -> pd.DataFrame:
        """The measured effects of each ranking's best candidates, and of random latents."""
        rows = {}
        for (ranking, target), (scores, effect) in trials.items():
            label = self.attribute.classes[target]
            right = metrics.proportion(_risen(effect), len(scores))
            rank = metrics.rank_correlation(scores, effect.mean)
            rows[f"{ranking} → {label}"] = _ranking(right, f"{rank:.2f}", effect)
            record = f"attribution.{key(ranking)}.{label}"
            self.add(f"{record}.sign_right", right)
            n_measured = self.study.settings.n_measured
            self.add(f"{record}.effect_sum", effect.mean.sum().item(), n=n_measured)
        right = metrics.wilson(_risen(random), len(random.mean))
        rows[f"random latents → {self.attribute.classes[0]}"] = _ranking(right, "", random)
        return pd.DataFrame(rows).T

    def effects(self, trials: Trials) -> Figure:
        """Attribution against the measured effect: a panel for each class."""
        classes = self.attribute.classes
        figure, axes = figures.panels(len(classes), width=10, height=3.4)
        for (ranking, target), trial in trials.items():
            _scatter(axes[target], trial, ranking)
        for axis, label in zip(axes, classes, strict=True):
            axis.axhline(0, color="black", lw=0.8)
            axis.set_xlabel("relative attribution")
            axis.set_ylabel(f"change of log P({label})")
            axis.set_title(f"towards {label}")
        axes[0].legend(fontsize=8)
        names = "; ".join(dict.fromkeys(ranking for ranking, _ in trials))
        return figures.finish(figure, f"Attribution and measured effect of candidates, by {names}")

    # ------------------------------------------------------------------ features

    def features(self, found: BiasFeatures) -> pd.DataFrame:
        """How many features each class has, how much they carry, and how often they fire."""
        self.found = found
        rows = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                rows[f"{attribute}: {label}"] = self._overview(found, attribute, target)
                count = len(found.features[attribute][target])
                self.add(f"{attribute}.{label}.features", count)
        self.smallest = min(int(row["features"]) for row in rows.values())
        return pd.DataFrame(rows).T

    @staticmethod
    def _overview(found: BiasFeatures, attribute: str, target: int) -> dict[str, str]:
        chosen = found.features[attribute][target]
        scores = found.scores[attribute][target]
        everything = scores.clamp_min(0).sum().clamp_min(1e-12)
        share = scores[chosen].sum() / everything
        density = f"{found.density[chosen].median():.4f}" if len(chosen) else ""
        best = ", ".join(map(str, chosen[:6].tolist()))
        row = {"features": str(len(chosen))}
        row["share of all positive attribution"] = f"{share:.2f}"
        row["median density"] = density
        row["the best"] = best
        return row

    def shared(self, found: BiasFeatures) -> Figure:
        """How many features each two classes have in common."""
        sets: dict[tuple[str, str], set[int]] = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                latents = found.features[attribute][target]
                sets[attribute, label] = set(latents.tolist())
        names = [f"{attribute}: {label}" for attribute, label in sets]
        counts = [[len(a & b) for b in sets.values()] for a in sets.values()]
        figure, axes = figures.panels(1, width=7.5, height=5.2)
        table = pd.DataFrame(counts, names, names)
        figures.heat(axes[0], table, label="features in common", fmt="d", cmap="Blues", center=None)
        self._add_shared(sets)
        return figures.finish(figure, "How many bias features each two classes have in common")

    def _add_shared(self, sets: Mapping[tuple[str, str], set[int]]) -> None:
        """Counts the features that classes of two attributes share."""
        if len(self.study.attributes) == 1:
            print(f"{self.attribute} is the only attribute: no features can be shared.")
            self.add("attribution.shared_between_attributes", metrics.NOTHING)
            return
        pairs = [(a, b) for a in sets for b in sets if a[0] < b[0]]
        across = sum(len(sets[a] & sets[b]) for a, b in pairs)
        self.add("attribution.shared_between_attributes", across)

    # ------------------------------------------------------------------ what features stand for

    def track(self, probe: FactorSet, found: BiasFeatures) -> pd.DataFrame:
        """The factor that each latent tracks best among images with independent factors.

        The table names the factors that most of the bias features track.
        """
        vectors = [ksae.map_to_vectors(h) for h in probe.h]
        layers = [found.ksae.latents(v).mean(1) for v in vectors]
        response = torch.stack(layers).mean(0).numpy()  # (n, D)
        self.tracked = factors.best_factor(response, probe.labels, self.study.factors)
        used = torch.cat([torch.cat(rows) for rows in found.features.values()]).unique()
        clear = self._clear(used)
        named = [self.tracked[j].factor for j in clear]
        counts = pd.Series(named, dtype=str).value_counts()
        counts["nothing clearly"] = len(used) - len(clear)
        return counts.rename_axis("factor").rename("features that track it").to_frame()

    def _clear(self, latents: Tensor) -> list[int]:
        """The latents that track a class well enough to say so."""
        return [j for j in latents.tolist() if self.tracked[j].auroc >= CLEAR]

    def card(self, found: BiasFeatures, target: int, latent: int) -> Figure:
        """One feature of a class of the first attribute."""
        slope = found.by_image[self.attribute].slope[target][..., latent]  # (T, P)
        gap = found.gaps[self.attribute][target][..., latent]
        when = (slope * gap).sum(1)
        recording = self.study.recording("learn")
        h = recording.at(int(when.argmax()))
        active = found.ksae.latents(ksae.map_to_vectors(h))[..., latent]  # (n, P)
        strongest = active.mean(1).topk(min(ROOM, len(active))).indices
        factor, name, auroc = self.tracked[latent]
        turned = "up" if gap.sum() > 0 else "down"
        aim = f"{self.attribute} → {self.attribute.classes[target]}"
        tracks = f"tracks {factor}: {name} (AUROC {auroc:.2f})"
        title = f"{aim}: latent {latent}, turned {turned}, {tracks}"
        images = recording.images[strongest]
        maps = figures.grid(active[strongest])
        return figures.card(images, maps, title, when.tolist(), recording.timesteps)

    def truth(self, found: BiasFeatures) -> pd.DataFrame:
        """Whether features track planted factors, beside random latents of the same density."""
        rows = {}
        for attribute in self.study.attributes:
            causes = {str(attribute), *self.study.world.effects(attribute)}
            chosen = torch.cat(found.features[attribute]).unique()
            control = chosen
            if len(chosen):
                seed = self.study.seeds.main
                control = features.random_features(chosen, found.density, seed, chosen)
            met = causes & self._factors(chosen)
            row = {"features": self._covered(attribute, "features", chosen, causes)}
            row["random latents"] = self._covered(attribute, "random_latents", control, causes)
            row["planted"] = ", ".join(sorted(causes))
            row["found"] = ", ".join(sorted(met))
            rows[str(attribute)] = row
        return pd.DataFrame(rows).T

    def _factors(self, latents: Tensor) -> set[str]:
        """The factors that latents track clearly."""
        return {self.tracked[j].factor for j in self._clear(latents)}

    def _covered(self, attribute: str, name: str, latents: Tensor, causes: set[str]) -> str:
        """Coverage and precision of some latents, recorded and in words."""
        tracked = [self.tracked[j].factor for j in self._clear(latents)]
        met = len(causes & set(tracked))
        right = sum(factor in causes for factor in tracked)
        precision = metrics.wilson(right, max(1, len(tracked)))
        self.add(f"attribution.{attribute}.{name}.coverage", metrics.wilson(met, len(causes)))
        self.add(f"attribution.{attribute}.{name}.precision", precision)
        return f"{met} of {len(causes)} covered; precision {precision}"

    # ------------------------------------------------------------------ verdicts

    def judge(self) -> None:
        gap = "attribution.completeness_gap"
        target = "gap below 1e-3 of the total"
        self.claim("the attribution is complete", gap, target, self.value(gap) < 1e-3)
        self._judge_signs()
        self._judge_precision()
        shared = "attribution.shared_between_attributes"
        across = self.value(shared)
        self.claim(
            "one attribute is driven by several features, some shared between attributes",
            shared,
            "at least 3 features in every class, at least 1 shared",
            across > 0 and self.smallest >= 3,
            across > 0,
        )
        super().judge()

    def _judge_signs(self) -> None:
        records = [f"attribution.picture_other_classes.{c}.sign_right" for c in self._classes]
        right = [self.value(record) >= 0.75 for record in records]
        self.claim(
            "attribution through the picture has the right sign in every direction of "
            f"{self.attribute}",
            records[0],
            "at least 75 % of 40 candidates in each direction",
            all(right),
            any(right),
        )

    def _judge_precision(self) -> None:
        record = f"attribution.{self.attribute}.features.precision"
        precision = self.records[record]
        control = self.records[f"attribution.{self.attribute}.random_latents.precision"]
        self.claim(
            f"the bias features of {self.attribute} track its planted causes",
            record,
            "above random latents, intervals apart",
            precision["low"] > control["high"],
            precision["value"] > control["value"],
            close=True,
        )

    @property
    def _classes(self) -> Sequence[str]:
        return self.attribute.classes

    def sentences(self) -> list[str]:
        gap = self.value("attribution.completeness_gap")
        by_head = self._right("h_classifier_zero_baseline")
        by_picture = self._right("picture_other_classes")
        return [
            f"The closed form is complete to {gap:.1e} of the total. That says that the "
            "*arithmetic* is right, not that the answer is.",
            "Of the 40 latents that the paper's measure ranks highest, this share really makes "
            f"the class likelier in the picture: {by_head}.",
            f"For attribution through the picture it is {by_picture}.",
        ]

    def _right(self, ranking: str) -> str:
        """The share of a ranking's candidates whose sign is right, for each class."""
        shares = [
            (self.value(f"attribution.{ranking}.{label}.sign_right"), label)
            for label in self._classes
        ]
        return ", ".join(f"{share:.2f} ({label})" for share, label in shares)


def _risen(effect: Effect) -> int:
    """The number of latents that made the class likelier."""
    return int((effect.mean > 0).sum())


def _ranking(right: Estimate, rank: str, effect: Effect) -> dict[str, str]:
    return {
        "sign right": str(right),
        "rank correlation with the effect": rank,
        "sum of the effects": f"{effect.mean.sum():.3f}",
    }


def _scatter(axis: Axes, trial: Trial, label: str) -> None:
    scores, effect = trial
    relative = scores / scores.max() if len(scores) else scores
    error = 1.96 * effect.error
    axis.errorbar(relative, effect.mean, error, fmt="o", ms=4, lw=0.8, alpha=0.8, label=label)
