"""The page of notebook 03: when attributes can be read off h, and what passes h.

`Probes` shows the accuracy of the heads along the generation, the positions that they read, and how
far images follow the h of another image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .. import ksae
from ..analysis.mediation import Mediation
from ..features import deciding_steps
from ..metrics import Estimate
from ..outcome import extremes
from ..probes import Fit
from ..recording import Recording
from . import figures
from .page import Page

if TYPE_CHECKING:
    from ..study import Study
    from ..subjects.attribute import Attribute

STATED = "not asked: the prompts name the class"
CURVES = {  # of the mediation: what they are called, their colour and line
    "total": ("everything exchanged", figures.GREY, "-"),
    "through": ("h exchanged", figures.BLUE, "-"),
    "control": ("h exchanged, control", figures.BLUE, "--"),
}


class Probes(Page):
    """Accuracy along the generation, where heads look, and what passes the bottleneck."""

    needs = ("n_pairs", "n_swept")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.accuracy: dict[str, list[Estimate]] = {}  # by attribute, at every step
        self.share: dict[str, Estimate] = {}  # what passes h at the deciding steps

    def _panels(self, size: tuple[float, float]) -> tuple[Figure, dict[Attribute, Axes]]:
        """A figure with a panel for every attribute, on one vertical scale."""
        attributes = self.study.attributes
        figure, axes = plt.subplots(1, len(attributes), figsize=size, sharey=True, squeeze=False)
        return figure, dict(zip(attributes, axes[0], strict=True))

    # ------------------------------------------------------------------ labels

    def labelled(self, recording: Recording, labels: Mapping[str, Tensor]) -> pd.DataFrame:
        """Some images of each class, and how many images each class has."""
        table, rows = {}, {}
        for attribute in self.study.attributes:
            for c, name in enumerate(attribute.classes):
                members = labels[attribute] == c
                table[f"{attribute}: {name}"] = {"images": int(members.sum())}
                if members.any():
                    rows[f"{attribute}: {name}"] = recording.images[members][: figures.ACROSS]
        figures.strips(rows, title="generated images by their label")
        return pd.DataFrame(table).T

    # ------------------------------------------------------------------ h-classifiers

    def readable(
        self, recording: Recording, fits: Mapping[str, Fit], shuffled: Fit
    ) -> pd.DataFrame:
        """Draws the accuracy of the heads at every timestep, and returns it at some of them.

        `shuffled` is the control of the first attribute.
        """
        timesteps = recording.timesteps
        steps = range(len(timesteps))
        figure, panels = self._panels((11, 3.4))
        for attribute, axis in panels.items():
            accuracy = [fits[attribute].accuracy(s) for s in steps]
            self.accuracy[attribute] = accuracy
            figures.curve(axis, timesteps, accuracy, "h-classifier", figures.BLUE)
            axis.axhline(1 / len(attribute.classes), color="black", lw=0.8)
            axis.set(title=attribute, xlabel="timestep t (noisy → clean)", ylim=(0, 1.02))
            axis.invert_xaxis()
            for t, estimate in zip(timesteps, accuracy, strict=True):
                self.add(f"probes.{attribute}.accuracy.t{t:.0f}", estimate)
        first = panels[self.study.attributes[0]]
        control = [shuffled.accuracy(s) for s in steps]
        figures.curve(first, timesteps, control, "shuffled labels", figures.GREY, "--", "")
        first.set_ylabel("balanced accuracy, held out")
        first.legend(loc="lower right")
        figures.describe(figure, "How well h-classifiers read each attribute along the generation")
        figure.tight_layout()
        return self._accuracies(timesteps, fits)

    def _accuracies(self, timesteps: Sequence[float], fits: Mapping[str, Fit]) -> pd.DataFrame:
        """The accuracy at four steps of the generation, beside chance, and what is read late."""
        steps = len(timesteps)
        table = {}
        for attribute in self.study.attributes:
            row = {}
            for s in (0, steps // 4, steps // 2, steps - 1):
                row[f"t = {timesteps[s]:.0f}"] = str(self.accuracy[attribute][s])
            row["chance"] = f"{1 / len(attribute.classes):.3f}"
            table[attribute] = row | self._late(attribute, fits[attribute])
        return pd.DataFrame(table).T

    def _late(self, attribute: Attribute, fit: Fit) -> dict[str, str]:
        """How much is read late, beside chance and what is read early.

        Where a prompt states the class, h has it from the first step on: that it is read better
        later is then no statement about the model, and there is no record of it.
        """
        gain, slope = fit.gain(), fit.slope()
        self.add(f"probes.{attribute}.gain", gain)
        stated = any(attribute in prompt.given for prompt in self.study.prompts.probe)
        if not stated:
            self.add(f"probes.{attribute}.slope", slope)
        return {
            "late, minus chance": str(gain),
            "late, minus early": STATED if stated else str(slope),
        }

    def positions(self, recording: Recording, fits: Mapping[str, Fit]) -> None:
        """How much each head depends on each position of h at the last step."""
        last = recording.h.shape[1] - 1
        spread = recording.at(last).std(0)
        figure, panels = self._panels((2.7 * len(self.study.attributes), 2.6))
        for attribute, axis in panels.items():
            weight = fits[attribute].heads.weight[last]  # (classes, *h)
            scaled = (weight - weight.mean(0)) * spread
            size = ksae.map_to_vectors(scaled).square().sum((0, 2)).sqrt()  # (positions,)
            axis.imshow(figures.grid(size), cmap="magma")
            axis.set(title=attribute, xticks=[], yticks=[])
        figures.describe(figure, "Where in h the h-classifier of each attribute looks")
        figure.tight_layout()

    # ------------------------------------------------------------------ mediation

    @property
    def exchanged(self) -> tuple[Attribute, ...]:
        """The attributes whose h can be exchanged: none where the pipeline samples by itself."""
        return () if self.study.subject.native else self.study.attributes

    def mediation(
        self, recording: Recording, mediated: Mapping[Attribute, Mediation]
    ) -> pd.DataFrame:
        """Draws how far images follow another one's h, and returns its share at deciding steps."""
        if not mediated:
            return pd.DataFrame()
        figure, panels = self._panels((11, 3.4))
        for attribute, axis in panels.items():
            for name, (label, colour, line) in CURVES.items():
                curve = mediated[attribute].curve(name)
                figures.curve(axis, recording.timesteps, curve, label, colour, line, "")
            axis.set(
                title=f"{attribute}: {' → '.join(self._ends(attribute))}",
                xlabel="timestep t (noisy → clean)",
            )
            axis.invert_xaxis()
        first = panels[self.study.attributes[0]]
        first.set_ylabel("how far P_t follows")
        figures.describe(figure, "How far images follow another image whose h they get")
        figure.tight_layout()
        drawn = first.get_legend_handles_labels()
        figure.legend(*drawn, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3)
        deciding = deciding_steps(len(recording.timesteps))
        table = {}
        for attribute, effect in mediated.items():
            share, control = effect.share(deciding), effect.share(deciding, "control")
            self.share[attribute] = share
            self.add(f"mediation.{attribute}.share", share)
            self.add(f"mediation.{attribute}.control", control)
            table[attribute] = {
                "through the bottleneck / all": str(share),
                "control / all": str(control),
            }
        return pd.DataFrame(table).T

    def modules(
        self, recording: Recording, swept: Mapping[Attribute, Mapping[str, Mediation]]
    ) -> pd.DataFrame:
        """Draws what passes each block at each timestep, and returns its share at deciding steps.

        A share is of the whole effect; at steps where that is next to nothing there is none.
        """
        if not swept:
            return pd.DataFrame()
        deciding = deciding_steps(len(recording.timesteps))
        figure, panels = self._panels((11, 1.2 + 0.28 * len(self.study.blocks)))
        table: dict[str, dict[str, str]] = {}
        for attribute, axis in panels.items():
            shares = {name: _shares(effect) for name, effect in swept[attribute].items()}
            columns = [f"{t:.0f}" for t in recording.timesteps]
            cells = pd.DataFrame(shares, index=columns).T
            figures.heat(
                axis,
                cells,
                label="share",
                cmap="viridis",
                center=None,
                limits=(0, 1),
                annotated=False,
                each=3,
            )
            axis.set(title=str(attribute), xlabel="timestep t (noisy → clean)")
            for name, effect in swept[attribute].items():
                share = effect.share(deciding)
                self.add(f"mediation.{attribute}.{name.replace('.', '_')}.share", share)
                table.setdefault(name, {})[str(attribute)] = str(share)
        figures.describe(figure, "What passes each block of the network, of an attribute's effect")
        figure.tight_layout()
        return pd.DataFrame(table).T

    def _ends(self, attribute: Attribute) -> list[str]:
        """The commonest and the rarest class of the data."""
        ends = extremes(self.study.planted(attribute))
        return [attribute.classes[c] for c in ends]

    # ------------------------------------------------------------------ what was found

    def sentences(self) -> list[str]:
        found = []
        for attribute in self.study.attributes:
            accuracy = self.accuracy[attribute]
            best = max(accuracy, key=_value)
            sentence = (
                f"**{attribute}**: a linear head reads it with a balanced accuracy of "
                f"{accuracy[0].value:.2f} at the noisiest step and {best.value:.2f} at its best "
                f"one (chance: {1 / len(attribute.classes):.2f})."
            )
            if attribute in self.share:
                common, rare = self._ends(attribute)
                sentence += (
                    f" Of what turns {common} into {rare}, {self.share[attribute].value:.2f} "
                    "passes the bottleneck while the picture is being decided."
                )
            found.append(sentence)
        return found


def _shares(effect: Mediation) -> list[float]:
    """The mediated share at every timestep; nan where the whole effect is below a tenth."""
    through, total = effect.through.mean(1), effect.total.mean(1)
    shares = torch.where(total.abs() < 0.1, torch.nan, through / total)
    found: list[float] = shares.tolist()
    return found


def _value(estimate: Estimate) -> float:
    return estimate.value
