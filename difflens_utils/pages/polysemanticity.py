"""The page of notebook 01: the factors that neurons and latents respond to.

`Polysemanticity` compares neurons, components and latents by their AUROC for each class, by scores
of disentanglement, and by the cosines between directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.decomposition import PCA, FastICA
from torch import Tensor
from torch.nn.functional import one_hot

from .. import metrics
from ..analysis import dictionaries, disentanglement
from ..analysis.factors import FactorSet
from ..ksae import KSAE
from ..metrics import Estimate
from ..recording import Recording
from . import figures
from .page import Page

Array = NDArray[Any]

PAPER_COSINE = {"mean |cos|": "0.04", "max |cos|": "0.17"}  # Appendix E.2, d = 512
LEAST_DENSITY = 0.01
MANY = 6  # classes of a factor that one histogram shows apart
MOST = 6  # factors tracked by a unit, in the histogram: this many or more
POOLED = slice(0, 200)  # images whose vectors PCA and ICA are fitted to
STRIDE = 3  # of their vectors every third
DENSE = ("neurons", "PCA", "ICA")  # the dictionaries that the k-SAE is compared with


def record_name(units: str) -> str:
    """The name of a kind of units in records: "neurons of h" are "neurons"."""
    first, *_, last = units.split()
    return last if first == "k-SAE" else first


def dictionary_name(dictionary: str) -> str:
    """The name of a dictionary in records: "k-SAE, 192 latents" is "ksae_192"."""
    name = dictionary.lower().removesuffix(" latents")
    return name.replace(", ", "_").replace("-", "")


class Polysemanticity(Page):
    """AUROC of units and classes, scores of disentanglement, cosines of directions."""

    needs = ("n_probe", "threshold")

    # ------------------------------------------------------------------ units and factors

    def alive(self, latents: Tensor) -> Tensor:
        """The columns of latents (n, D) that are above 0 on more than 1 % of the images.

        A dictionary that hardly fires is shown whole.
        """
        fires = latents.gt(0).float().mean(0) > LEAST_DENSITY
        return latents[:, fires] if fires.sum() >= 2 else latents

    def reading(self, units: Tensor, probe: FactorSet) -> Array:
        """How well each unit (n, U) tells each factor: (U, factors).

        It is the AUROC of the factor's best class, in either direction.
        """
        columns = []
        for factor, labels in probe.labels.items():
            hot = one_hot(labels, len(self.study.factors[factor])).bool()
            auroc = metrics.auroc(units.numpy(), hot.numpy())  # (U, classes)
            columns.append(np.maximum(auroc, 1 - auroc).max(1))
        return np.stack(columns, 1)

    def one_unit(self, responses: Tensor, scores: Array, probe: FactorSet) -> None:
        """How the unit (of n, U) with the highest score (U, factors) answers to each class.

        Of a factor with many classes it is the one that it tells best, beside all others.
        """
        unit, best = np.unravel_index(scores.argmax(), scores.shape)
        factor = list(probe.labels)[best]
        answers = responses[:, unit].numpy()
        bins = np.histogram_bin_edges(answers, 16).tolist()
        figure, axis = plt.subplots(figsize=(7, 2.8))
        labels = probe.labels[factor].numpy()
        for name, values in _by_class(answers, labels, self.study.factors[factor]).items():
            _histogram(axis, values, bins, name, density=True)
        axis.set(xlabel=f"answer of unit {unit}", ylabel="density of images")
        axis.set_title(f"{factor.replace('_', ' ')}: AUROC {scores.max():.2f}")
        axis.legend()
        figures.describe(figure, "How one unit answers to images of each class of a factor")

    def tracked(self, scores: Mapping[str, Array]) -> pd.DataFrame:
        """How many factors units track, and how selectively: two histograms and a table.

        The others are compared with the first kind of units.
        """
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
        table: dict[str, dict[str, str]] = {}
        found: list[Estimate] = []
        for name, aurocs in scores.items():
            counts = metrics.tracked_factors(aurocs, self.sizes["threshold"])
            selective = _selectivity(aurocs[counts > 0])
            _draw(axes, counts, selective, name)
            found.append(_mean(selective, seed=len(found)))
            gain = _lead(found[-1], found[0]) if table else metrics.NOTHING
            table[name] = self._tracking(name, counts, found[-1], gain)
        axes[0].set(
            xlabel=f"factors tracked by a unit (AUROC ≥ {self.sizes['threshold']})",
            ylabel="share of units",
            xticks=range(MOST + 1),
            xticklabels=[*map(str, range(MOST)), f"{MOST}+"],
        )
        axes[1].set_xlabel("selectivity: lead of the best factor over the second")
        axes[1].set_ylabel("density (units that track something)")
        axes[0].legend()
        figures.describe(figure, "What units track, and how selectively: " + ", ".join(table))
        figure.tight_layout()
        return pd.DataFrame(table).T

    def _tracking(
        self, name: str, counts: Array, selectivity: Estimate, gain: Estimate
    ) -> dict[str, str]:
        """A row of the table, and its records.

        `counts` (U,) are the factors that units track. Those that track any have the mean
        `selectivity`, and lead over the first kind by `gain`.
        """
        tracking = counts > 0
        measured = np.isfinite(selectivity.value)
        several = metrics.share(counts[tracking] > 1) if measured else metrics.NOTHING
        self.add(f"polysemanticity.{record_name(name)}.several", several)
        self.add(f"polysemanticity.{record_name(name)}.selectivity", selectivity)
        self.add(f"polysemanticity.{record_name(name)}.gain", gain)
        return {
            "units": str(len(counts)),
            "track something": f"{tracking.mean():.2f}",
            "of these: several factors": str(several),
            "selectivity": str(selectivity),
            "selectivity, minus the first row": str(gain),
        }

    def best(self, scores: Mapping[str, Array], probe: FactorSet) -> None:
        """How well the best unit of each kind reads each factor."""
        columns = {name: aurocs.max(0) for name, aurocs in scores.items()}
        table = pd.DataFrame(columns, index=[f.replace("_", " ") for f in probe.labels])
        figure, axis = plt.subplots(figsize=(7, 1.6 + 0.24 * len(table)))
        figures.heat(axis, table, label="AUROC of the best unit", cmap="viridis", center=None)
        figures.describe(figure, "How well the best unit of each dictionary reads each factor")
        figure.tight_layout()
        for name, column in columns.items():
            record = f"polysemanticity.{record_name(name)}.best_auroc_mean"
            self.add(record, float(column.mean()), self.sizes["n_probe"])

    # ------------------------------------------------------------------ dictionaries

    def components(self, recording: Recording, neurons: Tensor) -> dict[str, Array]:
        """Principal and independent components of neurons (n, d), fitted to recorded vectors.

        There are as many components as neurons, or as vectors if these are fewer.
        """
        steps = range(recording.h.shape[1])
        pool = torch.cat([recording.vectors(s, POOLED)[::STRIDE] for s in steps]).numpy()
        rank = min(pool.shape)
        seed = self.study.seeds.main
        pca = PCA(rank, random_state=seed)
        ica = FastICA(rank, whiten="unit-variance", max_iter=100, tol=1e-2, random_state=seed)
        components = {}
        for name, basis in {"PCA": pca, "ICA": ica}.items():
            components[name] = basis.fit(pool).transform(neurons.numpy())
        return components

    def disentangled(self, bases: Mapping[str, Array], probe: FactorSet) -> pd.DataFrame:
        """MIG and DCI of the units (n, U) of each dictionary, and the lead of the k-SAE."""
        factors = {factor: labels.numpy() for factor, labels in probe.labels.items()}
        seed = self.study.seeds.main
        table, found = {}, {}
        for number, (name, units) in enumerate(bases.items()):
            gap = disentanglement.mig(units, factors)
            dci = disentanglement.dci(units, factors, seed=seed, resampling=number)
            found[name] = dci.disentanglement
            scores = {"mig": gap, **dci._asdict()}
            for measure, score in scores.items():
                self.add(f"dictionaries.{dictionary_name(name)}.{measure}", score)
            table[name] = {
                "units": str(units.shape[1]),
                "MIG": str(gap),
                "DCI: disentanglement": str(dci.disentanglement),
                "completeness": str(dci.completeness),
                "informativeness": str(dci.informativeness),
                "disentanglement of the k-SAE, minus this": "",
            }
        wide = found[f"k-SAE, {self.study.settings.latents} latents"]
        for name in DENSE:
            gain = _lead(wide, found[name])
            self.add(f"dictionaries.gain.{dictionary_name(name)}", gain)
            table[name]["disentanglement of the k-SAE, minus this"] = str(gain)
        return pd.DataFrame(table).T

    def directions(self, sae: KSAE) -> pd.DataFrame:
        """Cosines between the decoder's directions, beside those of random ones."""
        cosine = dictionaries.decoder_cosine(sae)
        for name, value in cosine.items():
            self.add(f"polysemanticity.decoder_cosine.{name}", value, sae.config.latents)
        random = (2 / np.pi / sae.config.width) ** 0.5
        table = {
            "this k-SAE": {f"{name} |cos|": f"{value:.3f}" for name, value in cosine.items()},
            "random directions": {"mean |cos|": f"{random:.3f}", "max |cos|": ""},
            "the paper (d = 512)": PAPER_COSINE,
        }
        return pd.DataFrame(table).T

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        neurons = self._tracked("neurons", "several")
        latents = self._tracked("latents", "several")
        several = (
            f"Of the neurons that track anything, a share of {neurons} tracks several "
            f"*independent* factors. Of the latents {latents} do."
        )
        neurons = self._tracked("neurons", "selectivity")
        rotated = self._tracked("rotated", "selectivity")
        latents = self._tracked("latents", "selectivity")
        lead = (
            f"The lead of a unit's best factor over its second is {neurons} for neurons, "
            f"{rotated} after a random rotation of them, and {latents} for latents."
        )
        return [several, lead]

    def _tracked(self, units: str, measure: str) -> str:
        value = self.value(f"polysemanticity.{units}.{measure}")
        return f"{value:.2f}"


def _selectivity(aurocs: Array) -> Array:
    """How far the best factor of each unit (U, factors) leads over the second: (U,).

    0 is no lead, and 1 a second factor at chance. Empty where there is one factor alone.
    """
    if aurocs.shape[1] == 1:
        return np.empty(0)
    second, best = np.sort(aurocs, 1)[:, -2:].T
    return (best - second) / (best - 0.5)


def _mean(values: Array, seed: int) -> Estimate:
    """The mean of one value per unit (U,), with resamples of units by a seed."""
    if not len(values):
        return metrics.NOTHING
    return metrics.bootstrap_means(lambda m: m, values, seed=seed)


def _lead(a: Estimate, b: Estimate) -> Estimate:
    """a - b of different units: resampled by seeds of their own, they vary independently."""
    return metrics.combined(np.subtract, a, b)


def _draw(axes: Sequence[Axes], counts: Array, selective: Array, label: str) -> None:
    capped = np.minimum(counts, MOST)
    _histogram(axes[0], capped, [i - 0.5 for i in range(MOST + 2)], label, density=False)
    if len(selective):
        _histogram(axes[1], selective, [i / 15 for i in range(16)], label, density=True)


def _by_class(answers: Array, labels: Array, classes: Sequence[str]) -> dict[str, Array]:
    """Answers (n,) by class; of more than `MANY` classes that which differs most, and the rest."""
    by_class = {c: answers[labels == i] for i, c in enumerate(classes) if (labels == i).any()}
    if len(by_class) <= MANY:
        return by_class
    told = max(by_class, key=lambda name: abs(float(by_class[name].mean() - answers.mean())))
    return {told: by_class[told], "all others": answers[labels != list(classes).index(told)]}


def _histogram(axis: Axes, values: Array, bins: list[float], label: str, density: bool) -> None:
    """Shares of the values, or their density."""
    weights = None if density else np.full(len(values), 1 / len(values))
    axis.hist(values, bins, density=density, weights=weights, histtype="step", lw=2, label=label)
