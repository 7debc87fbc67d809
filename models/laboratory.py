"""Draws what the page *Laboratory* of the book shows: portraits with the shares that are asked for.

    python -m models.laboratory

For every method, and every pair of shares of two attributes, the same images are drawn by plans as
in notebook 06. And the BEST features of every class are moved alone. The figures are of N images;
the first SHOWN of them are shown. It writes results/laboratory.json, and to results/laboratory a
sheet of images for each method and each feature.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import difflens_utils as dl
from difflens_utils import debiasing, edits, methods, metrics
from difflens_utils.analysis import scoring
from difflens_utils.debiasing import Search
from difflens_utils.methods import Method, planning
from difflens_utils.metrics import Estimate
from difflens_utils.outcome import Outcome
from difflens_utils.pages import figures
from difflens_utils.sampling import Edit
from difflens_utils.study import Study

RESULTS = Path(__file__).resolve().parents[1] / "results"
FOLDER = RESULTS / "laboratory"  # of the sheets
SUBJECT = "portraits"
ASKED = {  # of the last class of each attribute; the others share the rest equally
    "gender": (0.1, 0.3, 0.5, 0.7, 0.9),
    "age": (0.1, 0.33, 0.6),
}
COMPARED = ("DiffLens", "DiffLens, best", "latent editing", "H-Distribution")
N, SHOWN, COLUMNS = 132, 12, 4
BEST = 2  # features of every class
STRENGTHS = (-2, -1, 0, 1, 2, 4)  # class differences that each is moved by
Bytes = NDArray[np.uint8]


class Cell(NamedTuple):
    """The images of one place of the controls, and what was measured of them."""

    images: Bytes  # SHOWN of them, COLUMNS in a row
    told: dict[str, Any]


def compared(study: Study, attribute: str) -> dict[str, Method]:
    """The methods of the page, by name."""
    steps = study.settings.steps
    rows = {row.name: row for row in methods.rows(study, attribute)}
    return {name: methods.in_all_ways(rows[name], steps) for name in COMPARED}


def edit(study: Study, search: Search, asked: Sequence[float], seed: int) -> Edit:
    """The edit that gives the images of a run the shares asked for, as far as the plan can.

    Each image draws its strength from the plan. A method that moves whole batches has one strength.
    """
    own = study.retarget(search, asked).in_one_way()
    if own.method.whole:
        return _on_all(own, asked)
    return debiasing.edit_of(own, debiasing.plans(own, asked), N, seed)


def _on_all(search: Search, asked: Sequence[float]) -> Edit:
    arms = [arm for arm in search.arms if debiasing.clear(arm, search.arms[0])]
    shares = np.stack([arm.shares(search.base) for arm in arms])
    costs = [1 - arm.similar.value for arm in arms]
    best = arms[int(planning.single(shares, costs, asked).weights.argmax())]
    if best.target == debiasing.UNEDITED:
        return edits.identity()
    return search.method.towards(best.target, best.strength)


def cells(study: Study, name: str) -> Iterator[Cell]:
    """The cells of a method: the shares of the first attribute change slowest."""
    searches = {a: study.search(compared(study, a)[name], a) for a in ASKED}
    seed, steps = study.seeds.combined, study.settings.steps
    before = study.draw(n=N, seed=seed)
    wishes = {study.attribute(a): shares for a, shares in ASKED.items()}
    made = {
        asked: [
            edit(study, searches[asked], asked.with_last(share), study.seeds.joint + number)
            for share in shares
        ]
        for number, (asked, shares) in enumerate(wishes.items())
    }
    first, second = ASKED
    method = searches[first].method
    pairs = [(one, two) for one in made[first] for two in made[second]]
    for pair in tqdm(pairs, desc=name):
        edited = edits.compose(*pair)
        images = debiasing.draw(study.subject, method, edited, N, seed, steps)
        yield _cell(study, before, study.judge(images))


def _cell(study: Study, before: Outcome, after: Outcome) -> Cell:
    picture = figures.mosaic(after.images[:SHOWN], COLUMNS, scale=1, gap=0)
    return Cell(picture, told(study, before, after))


class Feature(NamedTuple):
    """A bias feature: one of the best of a class."""

    attribute: str
    target: int
    place: int  # among the features of the class, from 0


def best(study: Study) -> dict[str, Feature]:
    """The best features of every class of the attributes of the page, by what they are called."""
    found = study.features()
    named = {}
    for attribute in ASKED:
        for target, name in enumerate(study.attribute(attribute).classes):
            for place, latent in enumerate(found.features[attribute][target][:BEST].tolist()):
                called = f"{attribute}: {name}, no. {place + 1} (latent {latent})"
                named[called] = Feature(attribute, target, place)
    return named


def moved(study: Study, feature: Feature) -> list[Cell]:
    """The cells of a feature: one for each of the STRENGTHS."""
    found, seed = study.features(), study.seeds.combined
    chosen = slice(feature.place, feature.place + 1)
    latent = found.features[feature.attribute][feature.target][chosen]
    unit = found.unit(feature.attribute, feature.target)[..., chosen]
    before = study.draw(n=N, seed=seed)
    drawn = [edits.steer(found.ksae, latent, float(b), "add", unit) for b in STRENGTHS]
    return [_cell(study, before, study.draw(edited, n=N, seed=seed)) for edited in drawn]


def told(study: Study, before: Outcome, after: Outcome) -> dict[str, Any]:
    """Class shares of every factor, what is kept of the images, and how much else has changed."""
    shares = {
        factor: [round(float(share), 3) for share in metrics.shares(after.scored[factor])]
        for factor in study.factors
    }
    leak = scoring.leak(study.subject, list(ASKED), before, after)
    kept = metrics.clip_i(before.second, after.second).raw
    return {
        "shares": shares,
        "leak": _rounded(leak),
        "clip_i": _rounded(kept),
    }


def _rounded(figure: Estimate) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figure.numbers().items()}


Cells = Mapping[str, Sequence[Cell]]


def save(study: Study, found: Cells, features: Cells) -> None:
    """Writes the figures, and a sheet of each method and feature with its cells as a table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    _sheets(found, "method", len(list(ASKED.values())[1]))
    _sheets(features, "feature", len(STRENGTHS))
    before = study.draw(n=N, seed=study.seeds.combined)
    content = {
        "command": "python -m models.laboratory",
        "subject": SUBJECT,
        "seed": study.seeds.combined,
        "n": N,
        "shown": SHOWN,
        "columns": COLUMNS,
        "size": study.subject.size,
        "asked": ASKED,
        "before": told(study, before, before)["shares"],
        "classes": {factor: list(names) for factor, names in study.factors.items()},
        "methods": _all_told(found),
        "strengths": STRENGTHS,
        "features": _all_told(features),
    }
    text = json.dumps(content, separators=(",", ":"))
    (RESULTS / "laboratory.json").write_text(text + "\n")


def _sheets(found: Cells, kind: str, across: int) -> None:
    """Writes the sheets of a kind, so many cells in a row."""
    for number, rows in enumerate(found.values()):
        lines = [
            np.concatenate([cell.images for cell in rows[i : i + across]], 1)
            for i in range(0, len(rows), across)
        ]
        sheet = Image.fromarray(np.concatenate(lines))
        sheet.save(FOLDER / f"{kind}-{number}.webp", quality=88, method=6)


def _all_told(found: Cells) -> dict[str, list[dict[str, Any]]]:
    return {name: [cell.told for cell in rows] for name, rows in found.items()}


def main() -> None:
    study = dl.open(SUBJECT)
    features = {
        name: moved(study, feature) for name, feature in tqdm(best(study).items(), desc="features")
    }
    save(study, {name: list(cells(study, name)) for name in COMPARED}, features)


if __name__ == "__main__":
    main()
