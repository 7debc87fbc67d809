"""Measures the latents of a subject's k-SAE one by one, for the page *Atlas* of the book:

    python -m models.atlas portraits

It writes results/atlas/<subject>/: `atlas.json`, and sheets of pictures. Every bias feature is
there, and the MOST other latents that fire most often. What is drawn is kept in artifacts/, so
that it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

import difflens_utils as dl
from difflens_utils import edits, ksae, outcome
from difflens_utils.analysis import dictionaries, factors
from difflens_utils.features import BiasFeatures
from difflens_utils.outcome import Outcome
from difflens_utils.pages import figures
from difflens_utils.study import Study
from models import sizes

ROOT = Path(__file__).resolve().parents[1]
MOST = 300  # latents beside the bias features
TOP, SHOWN = 6, 3  # images where it is most active, and images of a strength
LIKE = 16  # images whose mean is what a latent is turned up by
UP = 3.0  # times that
TURNED = 32  # images on which the change is measured
FACTORS = 1500  # images with independent factors that tell what a latent tracks
NEAREST = 5
SEEDS = (1, 2)  # of other k-SAEs
FOUND = 0.7  # the cosine of two directions from which one is found again in the other
PER_SHEET = 64  # latents
Bytes = NDArray[np.uint8]


class Activity(NamedTuple):
    """What a latent does in the recorded images."""

    by_step: Tensor  # (T,) its mean
    top: Tensor  # (TOP,) the images in which it is most active
    maps: Tensor  # (TOP, P) where, at the step at which it is most active
    like: Tensor  # (T, P) how far it lies above its mean in the LIKE strongest images


def chosen(found: BiasFeatures) -> list[int]:
    """The latents of the atlas: the bias features, then the others that fire most often."""
    own = dict.fromkeys(
        int(j) for rows in found.features.values() for latents in rows for j in latents
    )
    often = found.density.argsort(descending=True, stable=True).tolist()
    others = [j for j in often if j not in own and found.density[j] > 0]
    return [*own, *others[:MOST]]


def roles(study: Study, found: BiasFeatures, latent: int) -> list[dict[str, Any]]:
    """The classes that a latent is a feature of, with its rank among theirs from 1."""
    rows = []
    for attribute in study.attributes:
        for name, latents in zip(attribute.classes, found.features[attribute], strict=True):
            order = latents.tolist()
            if latent in order:
                rank = order.index(latent) + 1
                rows.append({"attribute": str(attribute), "class": name, "rank": rank})
    return rows


def activities(study: Study, latents: Sequence[int]) -> list[Activity]:
    """What each of some latents does in the recorded images."""
    rec, sae = study.recording("learn"), study.ksae()
    steps = range(study.settings.steps)
    layers = []
    for step in tqdm(steps, desc="activity"):
        chunks = (slice(i, i + 256) for i in range(0, len(rec), 256))
        codes = [sae.latents(ksae.map_to_vectors(rec.at(step, c)))[..., latents] for c in chunks]
        layers.append(torch.cat(codes).half())
    active = torch.stack(layers)  # (T, n, P, N)
    return [_activity(active[..., number].float()) for number in range(len(latents))]


def _activity(active: Tensor) -> Activity:
    """The activity of one latent (T, n, P)."""
    by_step = active.mean((1, 2))
    best = active[int(by_step.argmax())]  # (n, P)
    order = best.mean(1).argsort(descending=True, stable=True)
    like = active[:, order[:LIKE]].mean(1) - active.mean(1)
    return Activity(by_step, order[:TOP], best[order[:TOP]], like)


def tracks(study: Study, latents: Sequence[int]) -> list[dict[str, Any]]:
    """The class that each latent tells best, and how well it tells each factor, as AUROC."""
    probe = study.factor_set(FACTORS)
    response = factors.responses(study.ksae(), probe)[:, latents]
    best = factors.best_factor(response, probe.labels, study.factors)
    told = factors.told(response, probe.labels, study.factors)
    return [
        {
            "factor": row.factor,
            "class": row.name,
            "auroc": round(row.auroc, 3),
            "each": {factor: round(float(areas[i]), 3) for factor, areas in told.items()},
        }
        for i, row in enumerate(best)
    ]


def neighbours(study: Study, latents: Sequence[int]) -> list[list[tuple[int, float]]]:
    """The latents whose decoder directions are nearest to each, with the cosine."""
    directions = F.normalize(study.ksae().directions, dim=1)
    cosines = directions[latents] @ directions.T
    cosines[torch.arange(len(latents)), latents] = -math.inf
    near = cosines.topk(NEAREST)
    return [
        [(j, round(c, 3)) for j, c in zip(row, values, strict=True)]
        for row, values in zip(near.indices.tolist(), near.values.tolist(), strict=True)
    ]


def found_again(study: Study, latents: Sequence[int]) -> list[dict[str, float]]:
    """The cosine of each latent's direction to that of its partner in k-SAEs of other seeds."""
    directions = study.ksae().directions
    matched = {
        str(seed): dictionaries.matched_cosines(directions, study.ksae(seed=seed).directions)
        for seed in SEEDS
    }
    return [
        {seed: round(float(cosines[j]), 3) for seed, cosines in matched.items()} for j in latents
    ]


def turned(study: Study, latent: int, like: Tensor) -> dict[str, Outcome]:
    """The same images with one latent off, and turned up by UP times `like` (T, P)."""
    sae, which = study.ksae(), torch.tensor([latent])
    ways = {
        "off": edits.steer(sae, which, 0.0),
        "up": edits.steer(sae, which, UP, "add", like[..., None]),
    }
    seed = study.seeds.shown
    return {name: study.draw(edit, n=TURNED, seed=seed) for name, edit in ways.items()}


def changes(study: Study, before: Outcome, after: Outcome) -> dict[str, dict[str, Any]]:
    """By how much the likelihood of each factor's most changed class has changed: {factor: ...}."""
    rows = {}
    for factor, classes in study.factors.items():
        c, change = outcome.most_changed(before, after, factor)
        rounded = {name: round(value, 3) for name, value in change.numbers().items()}
        rows[factor] = {"class": classes[c], **rounded}
    return rows


def lit(images: Tensor, maps: Tensor) -> Tensor:
    """Images (n, 3, H, W), in colour where a latent is active (n, P) and dark elsewhere."""
    weight = F.interpolate(figures.grid(maps)[:, None], images.shape[-2:], mode="bilinear")
    weight = weight / maps.max().clamp_min(1e-6)
    grey = images.mean(1, keepdim=True) * 0.35 - 0.65
    return weight * images + (1 - weight) * grey


def strip(*rows: Tensor) -> Bytes:
    """Images (n, 3, H, W) side by side: (H, W', 3)."""
    return np.concatenate(list(figures.pixels(torch.cat(rows))), 1)


def measure(study: Study) -> tuple[dict[str, Any], list[Bytes]]:
    """What atlas.json holds, and the strip of every latent in its order."""
    found, images = study.features(), study.recording("learn").images
    latents = chosen(found)
    before = study.draw(n=TURNED, seed=study.seeds.shown)
    active = activities(study, latents)
    parts = zip(
        latents,
        active,
        tracks(study, latents),
        neighbours(study, latents),
        found_again(study, latents),
        strict=True,
    )
    rows, strips = [], []
    for latent, seen, tracked, near, again in tqdm(list(parts), desc="turning each alone"):
        after = turned(study, latent, seen.like)
        rows.append(
            {
                "latent": latent,
                "features": roles(study, found, latent),
                "density": float(f"{found.density[latent]:.3g}"),
                "by_step": [float(f"{value:.3g}") for value in seen.by_step],
                "tracks": tracked,
                "effect": {name: changes(study, before, o) for name, o in after.items()},
                "near": near,
                "found_again": again,
            }
        )
        top = images[seen.top].float()
        shown = [o.images[:SHOWN] for o in (after["off"], before, after["up"])]
        strips.append(strip(top, lit(top, seen.maps), *shown))
    return _told(study, rows), strips


def _told(study: Study, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The rows, with what they were measured with."""
    recording = study.recording("learn")
    return {
        "command": f"python -m models.atlas {study.subject.name}",
        "seed": study.seeds.shown,
        "n": TURNED,
        "up": UP,
        "factors": FACTORS,
        "found": FOUND,
        "images": len(recording),
        "size": study.subject.size,
        "ksae": study.ksae().fingerprint(),
        "timesteps": [float(t) for t in recording.timesteps],
        "classes": {factor: list(names) for factor, names in study.factors.items()},
        "attributes": [str(attribute) for attribute in study.attributes],
        "per_sheet": PER_SHEET,
        "top": TOP,
        "shown": SHOWN,
        "latents": list(rows),
    }


def save(told: Mapping[str, Any], strips: Sequence[Bytes], folder: Path) -> None:
    """Writes atlas.json and the sheets, PER_SHEET strips each below one another."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sheet-*.webp"):
        old.unlink()
    for first in range(0, len(strips), PER_SHEET):
        sheet = np.concatenate(strips[first : first + PER_SHEET])
        path = folder / f"sheet-{first // PER_SHEET}.webp"
        Image.fromarray(sheet).save(path, quality=80, method=6)
    (folder / "atlas.json").write_text(json.dumps(told, separators=(",", ":")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject")
    subject = parser.parse_args().subject
    study = dl.open(subject, **sizes.of_the_book(subject))
    told, strips = measure(study)
    save(told, strips, ROOT / "results/atlas" / study.subject.name)


if __name__ == "__main__":
    main()
