"""The page of notebook 02: one k-SAE for all timesteps, and images generated through it.

`Sparse` draws the training curves, measures what each k-SAE loses at every timestep, and makes
Table 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from torch import Tensor

from .. import ksae, metrics
from ..analysis import dictionaries
from ..analysis.dictionaries import GroupFVU
from ..ksae import KSAE, History
from ..metrics import Estimate
from ..outcome import Outcome
from ..recording import Recording
from . import figures
from .page import Page
from .tables import key

if TYPE_CHECKING:
    from ..study import Study

EXCESS = "ksae.shared.excess."  # begins the records of timesteps
LEAST_DENSITY = 1e-5  # where latents that never fire stand in the histogram


class Loss(NamedTuple):
    """What a k-SAE loses of the vectors that it was not trained on, and how often latents fire."""

    fvu: GroupFVU  # by timestep
    density: Tensor  # (D,) the share of vectors on which each latent fires
    worst: Estimate  # FVU within the timestep where it is largest


class Sparse(Page):
    """Training curves, what is lost at every timestep, and Table 4."""

    frechet = ("n_reconstructed",)
    needs = ("ks", "n_reconstructed")

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        self.losses: dict[int, Loss] = {}  # by k

    @property
    def ks(self) -> list[int]:
        """The numbers of active latents per vector. Each belongs to one k-SAE."""
        return list(self.sizes["ks"])

    def chosen(self, recording: Recording) -> list[int]:
        """The first, a middle and the last step."""
        steps = recording.h.shape[1]
        return sorted({0, steps // 2, steps - 1})

    # ------------------------------------------------------------------ what it reads and writes

    def inside(self, recording: Recording) -> None:
        """h of one image at the first, the middle and the last step: a row per position."""
        chosen = self.chosen(recording)
        figure, axes = plt.subplots(1, len(chosen), figsize=(10, 2.8), squeeze=False)
        for axis, step in zip(axes[0], chosen, strict=True):
            vectors = recording.vectors(step, slice(0, 1))
            largest = float(vectors.abs().max())
            axis.imshow(vectors, aspect="auto", cmap="vlag", vmin=-largest, vmax=largest)
            axis.set(title=f"t = {recording.timesteps[step]:.0f}", xlabel="channel of h")
            axis.grid(visible=False)
        axes[0, 0].set_ylabel("position")
        figures.describe(figure, "h of one image at several timesteps: one row is one vector")
        figure.tight_layout()

    def curves(self, histories: Mapping[int, History]) -> None:
        """FVU on held-out images and the share of dead latents during training."""
        figure, axes = plt.subplots(1, 2, figsize=(10, 3.3))
        for k, history in histories.items():
            axes[0].plot(history.step, history.validation_fvu, label=f"k = {k}")
            axes[1].plot(history.step, history.dead, label=f"k = {k}")
        axes[0].set(yscale="log", xlabel="training step", ylabel="FVU on held-out images")
        axes[1].set(xlabel="training step", ylabel="share of dead latents", ylim=(-0.02, 1))
        axes[0].legend()
        last = [f"{h.validation_fvu[-1]:.3f} (k = {k})" for k, h in histories.items()]
        figures.describe(figure, "Training curves of the k-SAEs. Last FVU: " + ", ".join(last))
        figure.tight_layout()

    def one_vector(self, h: Tensor, s: Tensor, h_hat: Tensor) -> None:
        """A vector (d,), its latents (D,) and its reconstruction (d,)."""
        figure, axes = plt.subplots(1, 2, figsize=(10, 2.8), width_ratios=[3, 2])
        axes[0].plot(h, color=figures.GREY, lw=3, alpha=0.6, label="h")
        axes[0].plot(h_hat, color=figures.BLUE, lw=1, label="its reconstruction")
        axes[0].set(xlabel="channel of h", ylabel="value")
        axes[0].legend()
        active = s.nonzero()[:, 0]
        axes[1].vlines(active, 0, s[active], color=figures.BLUE)
        axes[1].set(xlim=(0, len(s)), xlabel=f"latent, of {len(s)}", ylabel="activation")
        axes[1].set_title(f"{len(active)} latents are active")
        figures.describe(figure, "One vector of h beside its reconstruction, and its latents")
        figure.tight_layout()

    # ------------------------------------------------------------------ measures of the k-SAEs

    def timesteps(
        self, recording: Recording, saes: Mapping[int, KSAE], untrained: KSAE
    ) -> pd.DataFrame:
        """Draws the FVU at every timestep, and returns the measures of each k-SAE as a table."""
        self.losses = {k: self._loss(recording, sae) for k, sae in saes.items()}
        figure, axis = plt.subplots(figsize=(7, 3.3))
        for k, loss in self.losses.items():
            axis.plot(*_curve(loss.fvu), marker="o", ms=4, label=f"k = {k}")
        control = self._fvu(recording, untrained)
        axis.plot(*_curve(control), "--", color=figures.GREY, label="untrained")
        axis.set(
            yscale="log", xlabel="timestep t (noisy → clean)", ylabel="FVU within the timestep"
        )
        axis.invert_xaxis()
        axis.legend()
        worst = [f"{loss.worst.value:.3f} (k = {k})" for k, loss in self.losses.items()]
        figures.describe(figure, "FVU at every timestep. At the worst: " + ", ".join(worst))
        n = sum(len(vectors) for _, vectors in self._held_out(recording))
        table = {f"k = {k}": self._measures(k, sae, n) for k, sae in saes.items()}
        return pd.DataFrame(table).T.round(3)

    def _held_out(self, recording: Recording) -> Iterator[tuple[float, Tensor]]:
        """Yields each timestep with the vectors that no k-SAE was trained on."""
        rows = self.study.held_out()
        for step, timestep in enumerate(recording.timesteps):
            yield timestep, recording.vectors(step, rows)

    def _fvu(self, recording: Recording, sae: KSAE) -> GroupFVU:
        return dictionaries.fvu_per_group(sae, self._held_out(recording))

    def _at(self, recording: Recording, step: int, sae: KSAE) -> Estimate:
        """FVU at one step, with its interval over the held-out images."""
        h = recording.at(step, self.study.held_out())
        return dictionaries.fvu_over_images(sae, ksae.map_to_vectors(h))

    def _loss(self, recording: Recording, sae: KSAE) -> Loss:
        density = ksae.density(sae, (vectors for _, vectors in self._held_out(recording)))
        fvu = self._fvu(recording, sae)
        worst = max(fvu.within, key=fvu.within.__getitem__)
        step = recording.timesteps.index(worst)
        return Loss(fvu, density, self._at(recording, step, sae))

    def _measures(self, k: int, sae: KSAE, n: int) -> dict[str, float]:
        """A row of the table. Its first four figures are recorded; n counts vectors."""
        loss = self.losses[k]
        l0 = dictionaries.l0(loss.density)
        dead = dictionaries.dead_share(loss.density)
        self.add(f"ksae.k{k}.fvu", loss.fvu.all, n)
        self.add(f"ksae.k{k}.fvu_worst_timestep", loss.worst)
        self.add(f"ksae.k{k}.l0", l0, n)
        self.add(f"ksae.k{k}.dead", dead, n)
        cosine = dictionaries.decoder_cosine(sae)
        return {
            "FVU": loss.fvu.all,
            "worst timestep": loss.worst.value,
            "L0": l0,
            "dead": dead,
            "fire on > 50 %": (loss.density > 0.5).double().mean().item(),
            "mean |cos|": cosine["mean"],
            "max |cos|": cosine["max"],
        }

    def shared(self, recording: Recording, sae: KSAE, alone: Mapping[int, KSAE]) -> pd.DataFrame:
        """FVU of the k-SAE of all timesteps, beside that of a k-SAE of one step alone.

        `alone` has the k-SAEs of single steps: {step: k-SAE}.
        """
        table = {}
        for step, own in alone.items():
            t = recording.timesteps[step]
            together, single = (self._at(recording, step, model) for model in (sae, own))
            excess = metrics.combined(np.divide, together, single)
            self.add(f"ksae.shared.fvu.t{t:.0f}", together)
            self.add(f"ksae.alone.fvu.t{t:.0f}", single)
            self.add(f"{EXCESS}t{t:.0f}", excess)
            table[f"t = {t:.0f}"] = {
                "FVU, one k-SAE for all": str(together),
                "FVU, a k-SAE of this timestep": str(single),
                "ratio": str(excess),
            }
        return pd.DataFrame(table).T

    def densities(self) -> None:
        """A histogram of how often latents fire."""
        figure, axis = plt.subplots(figsize=(7, 2.8))
        for k, loss in self.losses.items():
            values = loss.density.clamp_min(LEAST_DENSITY).log10()
            axis.hist(values, bins=40, histtype="step", lw=2, label=f"k = {k}")
        axis.set(xlabel="log10 of the share of vectors on which a latent fires", ylabel="latents")
        names = ", ".join(f"k = {k}" for k in self.losses)
        figures.describe(figure, f"How often latents fire, for {names}")
        axis.legend()

    # ------------------------------------------------------------------ images through the k-SAE

    def strips(self, untouched: Outcome, through: Mapping[str, Outcome]) -> None:
        """The same images, untouched and generated through each k-SAE."""
        rows = {"untouched": untouched.images[: figures.ACROSS]}
        for name, drawn in through.items():
            rows[name] = drawn.images[: figures.ACROSS]
        figures.strips(rows, title="generated through the k-SAE at every step")

    def table_4(self, untouched: Outcome, sets: Mapping[str, Outcome]) -> pd.DataFrame:
        """How far sets of images are from the untouched ones, and what a larger k gains."""
        distance_name, similarity_name = self.study.subject.measures
        table, similar = {}, {}
        for name, drawn in sets.items():
            similarity = metrics.clip_i(untouched.clip, drawn.clip)
            similar[name] = similarity.raw
            distance = metrics.frechet(
                drawn.features, untouched.features, seed=self.study.seeds.main
            )
            record = key(name.replace("k = ", "k"))
            self.add(f"reconstruction.{record}.frechet", distance)
            self.add(f"reconstruction.{record}.clip_i", similarity.raw)
            table[name] = {
                distance_name: str(distance),
                f"{similarity_name}, cosine": str(similarity.raw),
                "rescaled": f"{similarity.rescaled.value:.4f}",
                "cosine, minus that of the next smaller k": "",
            }
        for smaller, k in itertools.pairwise(self.ks):
            gain = metrics.difference(similar[f"k = {k}"], similar[f"k = {smaller}"])
            self.add(f"reconstruction.gain.k{k}", gain)
            table[f"k = {k}"]["cosine, minus that of the next smaller k"] = str(gain)
        return pd.DataFrame(table).T

    # ------------------------------------------------------------------ what was found

    @property
    def middle(self) -> int:
        """The middle k. Statements about one k-SAE are about this one."""
        return self.ks[len(self.ks) // 2]

    def _each(self, record: str) -> list[float]:
        """A record of every k-SAE, such as "ksae.k{}.fvu"."""
        return [self.value(record.format(k)) for k in self.ks]

    def sentences(self) -> list[str]:
        k = self.middle
        fvu = self.value(f"ksae.k{k}.fvu")
        worst = self.value(f"ksae.k{k}.fvu_worst_timestep")
        clips = self._each("reconstruction.k{}.clip_i")
        each = ", ".join(f"{c:.3f} (k = {k})" for c, k in zip(clips, self.ks, strict=True))
        untrained = self.value("reconstruction.untrained_k_SAE.clip_i")
        excess = [r["value"] for name, r in self.records.items() if name.startswith(EXCESS)]
        return [
            f"With k = {k} the k-SAE leaves {fvu:.3f} of the variation of h unexplained, and "
            f"{worst:.3f} at the timestep where it does worst.",
            f"With k = {self.study.settings.k}, as in later notebooks, it leaves {min(excess):.2f} "
            f"to {max(excess):.2f} times what a k-SAE of one timestep alone leaves there.",
            f"Images generated through it keep a CLIP-I of {each} to the untouched ones. "
            f"Through the *untrained* k-SAE it is {untrained:.3f}.",
        ]


def _curve(fvu: GroupFVU) -> tuple[list[int], list[float]]:
    """Timesteps, and FVU within each."""
    return list(fvu.within), list(fvu.within.values())
