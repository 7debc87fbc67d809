"""The page of notebook 04: the latents that cause a class.

`AttributionPage` ranks latents by attribution, compares the ranking with measured effects, and
describes the selected features: what they do when each is turned alone, which of them attributes
share, and which planted causes they track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from .. import edits, features, ksae, metrics, outcome
from ..analysis import factors
from ..analysis.factors import FactorSet, Tracked
from ..attribution import Attribution, Effect
from ..features import BiasFeatures
from ..metrics import Array, Estimate
from ..outcome import Outcome
from . import figures
from .page import Page
from .tables import key, table

if TYPE_CHECKING:
    from ..study import Study

ROOM, SHOWN = 4, 3  # images on a card: where the feature fires most, and under edits of it
TURNED = 32  # images on which a card measures what turning the feature does
TURN = 8.0  # by how many class differences it is turned
NAMED = 3  # factors that a card names
CLEAR = 0.65  # the AUROC from which a latent is said to track a factor
SURE = 2.0  # standard errors from zero, from which a latent is said to move a class
SETS = 200  # random sets
TRUTH = {  # what is measured of features and planted causes, and how a table calls it
    "precision": "features that track one",
    "precision.gain": "more than random latents",
    "coverage": "causes covered",
    "coverage_random": "by random latents",
}
Trial = tuple[Tensor, Effect]  # scores (N,) of candidates, and what each did when moved alone
Trials = Mapping[tuple[str, int], Trial]  # by the ranking and the class
Row = dict[str, object]  # of a table


class AttributionPage(Page):
    """Rankings of latents, their measured effects, and the features that are selected by them."""

    needs = ("n_probe",)

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.attribute = study.attributes[0]
        self.tracked: list[Tracked] = []  # of every latent
        self.told: dict[str, Array] = {}  # {factor: (D,) how well every latent tells it, as AUROC}

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
            rank = metrics.rank_correlation(scores, effect.mean)
            rows[f"{ranking} → {label}"] = _ranking(f"{rank:.2f}", effect)
            record = f"attribution.{key(ranking)}.{label}"
            self.add(f"{record}.sign_right", _sign_right(effect))
            n_measured = self.study.settings.n_measured
            self.add(f"{record}.effect_sum", effect.mean.sum().item(), n=n_measured)
        rows[f"random latents → {self.attribute.classes[0]}"] = _ranking("", random)
        return table(rows)

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
        rows = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                rows[f"{attribute}: {label}"] = self._overview(found, attribute, target)
                count = len(found.features[attribute][target])
                self.add(f"{attribute}.{label}.features", count)
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

    def moved(self, found: BiasFeatures) -> pd.DataFrame:
        """What candidates and features of every class do to it when each is moved alone."""
        rows: dict[str, Row] = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                scores = found.scores[attribute][target]
                tried = features.candidates(scores, found.density, self.study.settings)
                unit = found.gaps[attribute][target]
                effect = self.study.measured(found.ksae, attribute, target, tried, unit[..., tried])
                right, chosen = _sign_right(effect), found.features[attribute][target]
                moving = _moving(self._again(found, attribute, target, chosen, unit[..., chosen]))
                self.add(f"attribution.{attribute}.sign_right.{label}", right)
                self.add(f"attribution.{attribute}.moving.{label}", moving)
                row: Row = {"candidates": len(tried), "sign right": right}
                rows[f"{attribute}: {label}"] = row
                row |= {"features": len(chosen), "move it for sure": moving}
        return table(rows)

    def _again(
        self, found: BiasFeatures, attribute: str, target: int, chosen: Tensor, unit: Tensor
    ) -> Effect:
        """What features do when each is moved alone, on images that they were not chosen by."""
        return self.study.measured(found.ksae, attribute, target, chosen, unit, again=True)

    # ------------------------------------------------------------------ shared features

    def shared(self, found: BiasFeatures) -> Figure:
        """How many features each two classes have in common."""
        sets: dict[str, set[int]] = {}
        for attribute in self.study.attributes:
            for target, label in enumerate(attribute.classes):
                latents = found.features[attribute][target]
                sets[f"{attribute}: {label}"] = set(latents.tolist())
        counts = [[len(a & b) for b in sets.values()] for a in sets.values()]
        figure, axes = figures.panels(1, width=7.5, height=5.2)
        names = list(sets)
        matrix = pd.DataFrame(counts, names, names)
        figures.heat(
            axes[0], matrix, label="features in common", fmt="d", cmap="Blues", center=None
        )
        return figures.finish(figure, "How many bias features each two classes have in common")

    def excess(self, found: BiasFeatures) -> pd.DataFrame:
        """How many features several attributes share, beside random sets of equal density."""
        if len(self.study.attributes) == 1:
            print(f"{self.attribute} is the only attribute: no features can be shared.")
            for name in ("shared_between_attributes", "shared.excess"):
                self.add(f"attribution.{name}", metrics.NOTHING)
            return table({})
        sets = [_every(found, attribute) for attribute in self.study.attributes]
        shared, seed = len(_repeated(sets)), self.study.seeds.main
        by_chance = np.array([self._by_chance(found, sets, seed + r) for r in range(SETS)])
        excess = metrics.from_draws(shared - by_chance.mean(), shared - by_chance, SETS)
        self.add("attribution.shared_between_attributes", shared)
        self.add("attribution.shared.excess", excess)
        row: Row = {"shared": shared, "by chance": f"{by_chance.mean():.1f}", "excess": excess}
        return table({"features of several attributes": row})

    @staticmethod
    def _by_chance(found: BiasFeatures, sets: Sequence[Tensor], seed: int) -> int:
        """How many latents random sets share that are as large, and as dense, as given ones."""
        random = [
            features.random_set(latents, found.density, seed + SETS * number)
            for number, latents in enumerate(sets)
        ]
        return len(_repeated(random))

    def shared_causes(self, found: BiasFeatures) -> pd.DataFrame:
        """What each shared feature does to its attributes when it is moved alone."""
        sets = [_every(found, attribute) for attribute in self.study.attributes]
        rows: dict[str, Row] = {}
        moves = []
        for latent in _repeated(sets):
            effects = self._on_all(found, latent)
            moves.append(all(map(_sure, effects.values())))
            changes = [
                f"{aim} {effect.mean.item():+.2f} ± {SURE * effect.error.item():.2f}"
                for aim, effect in effects.items()
            ]
            row: Row = {"change of log P": ", ".join(changes)}
            rows[f"latent {latent}"] = row | {"moves all": "yes" if moves[-1] else "no"}
        both = metrics.share(moves) if moves else metrics.NOTHING
        self.add("attribution.shared.both", both)
        return table(rows | {"share that moves all": {"moves all": both}})

    def _on_all(self, found: BiasFeatures, latent: int) -> dict[str, Effect]:
        """The effect of one move of a latent on every attribute that it is a feature of.

        Of each attribute it is that on the class in whose list the latent stands highest, and the
        move is the class difference of the class where it does so among all attributes.
        """
        places = {
            attribute: _highest(found, attribute, latent)
            for attribute in self.study.attributes
            if latent in _every(found, attribute)
        }
        leading = min(places, key=lambda attribute: places[attribute])
        target = places[leading][1]
        chosen = torch.tensor([latent])
        unit = found.gaps[leading][target][..., chosen]
        return {
            f"{attribute}: {attribute.classes[c]}": self._again(found, attribute, c, chosen, unit)
            for attribute, (_, c) in places.items()
        }

    # ------------------------------------------------------------------ what features stand for

    def track(self, probe: FactorSet, found: BiasFeatures) -> pd.DataFrame:
        """The factors that latents track among images with independent factors.

        The table names the factors that most of the bias features track best.
        """
        response = factors.responses(found.ksae, probe)
        self.tracked = factors.best_factor(response, probe.labels, self.study.factors)
        self.told = factors.told(response, probe.labels, self.study.factors)
        used = torch.cat([_every(found, a) for a in self.study.attributes]).unique()
        clear = [j for j in used.tolist() if self.tracked[j].auroc >= CLEAR]
        counts = pd.Series([self.tracked[j].factor for j in clear], dtype=str).value_counts()
        counts["nothing clearly"] = len(used) - len(clear)
        return counts.rename_axis("factor").rename("features that track it best").to_frame()

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
        direction = "up" if gap.sum() > 0 else "down"
        aim = f"{self.attribute} → {self.attribute.classes[target]}"
        turned = self._turned(found, target, latent)
        return figures.card(
            recording.images[strongest],
            figures.grid(active[strongest]),
            f"{aim}: latent {latent}, turned {direction}; tracks {factor}: {name} ({auroc:.2f})",
            dict(zip(recording.timesteps, when.tolist(), strict=True)),
            {label: seen.images[:SHOWN] for label, seen in turned.items()},
            self._most_changed(turned["turned down"], turned["turned up"]),
        )

    def _turned(self, found: BiasFeatures, target: int, latent: int) -> dict[str, Outcome]:
        """The same images with one latent turned down, as they are, and with it turned up."""
        chosen = torch.tensor([latent])
        unit = found.gaps[self.attribute][target][..., chosen]
        turn = TURN if unit.sum() > 0 else -TURN
        strengths = {"turned down": -turn, "unedited": 0.0, "turned up": turn}
        return {
            label: self.study.draw(
                edits.steer(found.ksae, chosen, strength, "add", unit) if strength else None,
                n=TURNED,
                seed=self.study.seeds.shown,
            )
            for label, strength in strengths.items()
        }

    def _most_changed(self, before: Outcome, after: Outcome) -> dict[str, Estimate]:
        """The classes whose mean probability changes most, one of each factor."""
        changes = {}
        for factor, classes in self.study.factors.items():
            c, change = outcome.most_changed(before, after, factor)
            changes[f"{figures.spoken(factor)}: {classes[c]}"] = change
        order = sorted(changes, key=lambda name: -abs(changes[name].value))
        return {name: changes[name] for name in order[:NAMED]}

    # ------------------------------------------------------------------ the planted truth

    def truth(self, found: BiasFeatures) -> pd.DataFrame:
        """Whether features track planted causes, beside random latents of the same density."""
        rows: dict[str, Row] = {}
        for attribute in self.study.attributes:
            chosen, causes = _every(found, attribute), self._causes(attribute)
            tracks = np.stack([self.told[cause] >= CLEAR for cause in causes], 1)  # (D, causes)
            measured = dict.fromkeys(TRUTH, metrics.NOTHING)
            if len(chosen):
                random = self._random_sets(found, chosen)
                measured = _against_random(tracks[chosen.numpy()], tracks[random])
            rows[attribute] = {"features": len(chosen), "planted causes": len(causes)}
            for name, figure in measured.items():
                self.add(f"attribution.{attribute}.{name}", figure)
                rows[attribute][TRUTH[name]] = figure
        return table(rows)

    def _causes(self, attribute: str) -> list[str]:
        """An attribute and what depends on it."""
        return [str(attribute), *self.study.world.effects(attribute)]

    def _random_sets(self, found: BiasFeatures, chosen: Tensor) -> NDArray[np.int64]:
        """Random latents in the place of each of the `chosen` (N,): (SETS, N)."""
        seed = self.study.seeds.main
        return np.stack(
            [
                features.random_features(chosen, found.density, seed + r, chosen).numpy()
                for r in range(SETS)
            ]
        )

    def causes(self, probe: FactorSet, found: BiasFeatures) -> pd.DataFrame:
        """How well each planted cause is told: by a feature, by any latent, and by all of h."""
        read = factors.read_linearly(probe, self.study.factors)
        rows: dict[str, Row] = {}
        for attribute in self.study.attributes:
            chosen, causes = _every(found, attribute).numpy(), self._causes(attribute)
            best = {cause: self.told[cause].max() for cause in causes}
            for cause in causes:
                own = self.told[cause][chosen].max() if len(chosen) else metrics.NAN
                row: Row = {"its best feature": f"{own:.2f}"}
                row["the best of all latents"] = f"{best[cause]:.2f}"
                row["all of h"] = f"{read[cause]:.2f}"
                rows[f"{attribute}: {cause}"] = row
            latents = sum(best[cause] >= CLEAR for cause in causes)
            whole = sum(read[cause] >= CLEAR for cause in causes)
            self.add(f"attribution.{attribute}.coverage_latents", latents / len(causes))
            self.add(f"attribution.{attribute}.coverage_h", whole / len(causes))
        return table(rows)

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        gap = self.value("attribution.completeness_gap")
        by_head = self._right("h_classifier_zero_baseline")
        native = self.study.subject.native
        ranking = "h_classifier_other_classes" if native else "picture_other_classes"
        measure = "with the other classes as the baseline" if native else "through the picture"
        return [
            f"The closed form is complete to {gap:.1e} of the total. That says that the "
            "*arithmetic* is right, not that the answer is.",
            "Of the latents that the paper's measure ranks highest, this share really makes "
            f"the class likelier in the picture: {by_head}.",
            f"For attribution {measure} it is {self._right(ranking)}.",
            *map(self._about_causes, self.study.attributes),
        ]

    def _about_causes(self, attribute: str) -> str:
        """Which share of an attribute's planted causes is told, and by what."""
        names = ("coverage", "coverage_latents", "coverage_h")
        shares = [self.value(f"attribution.{attribute}.{name}") for name in names]
        covered, latents, whole = (f"{share:.2f}" for share in shares)
        return (
            f"Of the planted causes of {attribute}, its features track {covered}, and all latents "
            f"of the k-SAE together {latents}. A linear function of all of h tells {whole}."
        )

    def _right(self, ranking: str) -> str:
        """The share of a ranking's candidates whose sign is right, for each class."""
        shares = [
            (self.value(f"attribution.{ranking}.{label}.sign_right"), label)
            for label in self.attribute.classes
        ]
        return ", ".join(f"{share:.2f} ({label})" for share, label in shares)


def _every(found: BiasFeatures, attribute: str) -> Tensor:
    """The features of all classes of an attribute, each once: (N,)."""
    return torch.cat(found.features[attribute]).unique()


def _highest(found: BiasFeatures, attribute: str, latent: int) -> tuple[int, int]:
    """Where a feature stands highest among the lists of an attribute: its place, and the class."""
    lists = [latents.tolist() for latents in found.features[attribute]]
    return min((row.index(latent), c) for c, row in enumerate(lists) if latent in row)


def _repeated(sets: Sequence[Tensor]) -> list[int]:
    """The latents that are in several sets."""
    latents, counts = torch.cat(list(sets)).unique(return_counts=True)
    several: list[int] = latents[counts > 1].tolist()
    return several


def _sign_right(effect: Effect) -> Estimate:
    """The share of latents that made the class likelier."""
    return metrics.share(effect.mean > 0).within(0, 1) if len(effect.mean) else metrics.NOTHING


def _moving(effect: Effect) -> Estimate:
    """How many of N latents raise their class for sure, over resamples of the images."""
    gains = effect.gains.double().numpy().T  # (n, N)
    n = len(gains)
    if not gains.size:
        return metrics.mean(np.zeros(n))

    def count(mean: Array, square: Array) -> Array:
        variance = (square - mean**2).clip(0) / max(1, n - 1)  # of the mean
        number: Array = (mean > SURE * np.sqrt(variance)).sum(-1)
        return number

    return metrics.bootstrap_means(count, gains, gains**2).within(0, gains.shape[1])


def _sure(effect: Effect) -> bool:
    """Whether a latent moves a class, in whatever direction, by more than chance would."""
    return bool(abs(effect.mean.item()) > SURE * effect.error.item())


def _against_random(own: NDArray[np.bool_], random: NDArray[np.bool_]) -> dict[str, Estimate]:
    """How precise features are and what they cover, beside random latents; TRUTH names it.

    `own` (N, causes) says which cause each feature tracks, and `random` (SETS, N, causes) which
    the random latents in its place do.
    """
    covered = random.any(1).mean(1)
    return {
        "precision": metrics.share(own.any(1)),
        "precision.gain": metrics.mean(own.any(1) - random.any(2).mean(0)),
        "coverage": metrics.bootstrap_means(lambda shares: (shares > 0).mean(-1), own).within(0, 1),
        "coverage_random": metrics.from_draws(covered.mean(), covered, SETS).within(0, 1),
    }


def _ranking(rank: str, effect: Effect) -> Row:
    return {
        "sign right": _sign_right(effect),
        "rank correlation with the effect": rank,
        "sum of the effects": f"{effect.mean.sum():.3f}",
    }


def _scatter(axis: Axes, trial: Trial, label: str) -> None:
    scores, effect = trial
    relative = scores / scores.max() if len(scores) else scores
    error = 1.96 * effect.error
    axis.errorbar(relative, effect.mean, error, fmt="o", ms=4, lw=0.8, alpha=0.8, label=label)
