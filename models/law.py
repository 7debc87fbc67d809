"""What steering can keep, against what passes the module that is steered:

    python -m models.law [portraits portraits-open portraits-open@mid_block portraits=FOLDER ...]

A place is a subject, weights of its own after a `=`, and a module after an `@`. For every attribute
this measures two numbers. The *mediated share* of notebook 03 takes forward passes alone. What
*DiffLens keeps* at half of the unedited FD, as in notebook 06, takes the whole study.

The law, written down before it was measured: over places and attributes, DiffLens keeps more where
more is mediated. It holds if Spearman's rank correlation is above zero with 95 % of the resamples
of whole places. The figures go to results/law.json, place by place: one that is there is not
measured again. A GPU takes a minute for a place, two cores take an hour.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

import difflens_utils as dl
from difflens_utils import Settings, Study, features, outcome
from difflens_utils.methods import Method, dense
from difflens_utils.runtime import artifacts
from difflens_utils.subjects import registry
from models import sizes
from models.portraits.train import readers_of_skips

PLACES = ("portraits", "portraits-open@mid_block", "portraits-t2i", "digits")
PAIRS, IMAGES, REMAINING, RESAMPLES = 64, 264, 0.5, 2000


def opened(place: str) -> Study:
    """The study of a place, `SUBJECT[=FOLDER][@MODULE]`."""
    rest, _, module = place.partition("@")
    name, _, folder = rest.partition("=")  # of the weights
    settings = Settings(module=module, **sizes.of_the_book(name))
    where = Path(folder) if folder else None
    return Study(registry.load(name, module=module or None, folder=where), settings)


def openness(study: Study) -> str:
    """How many of the resnets that can read a skip connection do: "2 of 8"."""
    readers = readers_of_skips(study.subject.network)
    reading = [bool(resnet.conv1.weight[:, below:].any()) for resnet, below in readers]
    return f"{sum(reading)} of {len(reading)}"


def measure(study: Study, attribute: str) -> dict[str, Any]:
    """The mediated share, and what two methods keep, for one attribute.

    DiffLens moves features, and the mean difference all of h: what it cannot keep, the place loses
    and not the dictionary.
    """
    common, rare = outcome.extremes(study.planted(attribute))
    share = study.mediated(attribute, common, rare, PAIRS).share(
        features.deciding_steps(study.settings.steps)
    )
    rows = {row.name: row for row in dense.rows(study, attribute)}
    steered = dl.methods.difflens(study.features(), attribute), rows["mean difference"]
    return {"mediated": share.numbers()} | {
        method.name: kept(study, attribute, method) for method in steered
    }


def kept(study: Study, attribute: str, method: Method) -> dict[str, Any]:
    """What a method keeps where half of the unedited FD is left, and how much bias it removes."""
    before, target = study.draw(n=IMAGES), study.attribute(attribute).uniform
    search = study.search(dl.methods.in_all_ways(method, study.settings.steps), attribute)
    scale = study.scale(attribute, before)
    half = study.nearer(search, target, REMAINING, n=IMAGES)
    full = study.debias(search, target, n=IMAGES).mixture
    found = dict(zip(("kept", "leak"), scale.matched(half, full, REMAINING), strict=True))
    found |= {"removed": scale.removed(full), "fd": scale.fd(scale.unedited)}
    return {name: estimate.numbers() for name, estimate in found.items()}


def law(places: dict[str, dict[str, Any]], method: str = "DiffLens") -> dict[str, float]:
    """Spearman's rank correlation of what is mediated and what is kept, over places and attributes.

    Its interval is that of resamples of whole places, whose attributes share their weights.
    """
    pairs = [
        [(row["mediated"]["value"], row[method]["kept"]["value"]) for row in place["rows"].values()]
        for place in places.values()
    ]
    generator = np.random.default_rng(0)
    drawn = generator.integers(len(pairs), size=(RESAMPLES, len(pairs)))
    draws = [_correlation([pairs[i] for i in some]) for some in drawn]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "correlation": _correlation(pairs),
        "low": float(low),
        "high": float(high),
        "places": len(pairs),
        "n": sum(map(len, pairs)),
    }


def _correlation(pairs: list[list[tuple[float, float]]]) -> float:
    mediated, kept_ = zip(*(pair for place in pairs for pair in place), strict=True)
    return float(stats.spearmanr(mediated, kept_).statistic)


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes the places and the law over them."""
    places = found["places"]
    found["law"] = {name: law(places, name) for name in ("DiffLens", "mean difference")}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", default=PLACES, metavar="SUBJECT[=FOLDER][@MODULE]")
    parser.add_argument("--out", type=Path, default=artifacts.ROOT / "results/law.json")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {"places": {}}
    for place in args.places:
        if place in found["places"]:
            continue
        study = opened(place)
        rows = {str(a): measure(study, str(a)) for a in study.attributes}
        settings = asdict(study.settings) | {"module": study.subject.module}
        found["places"][place] = {"settings": settings, "open": openness(study), "rows": rows}
        write(args.out, found)
        print(place, json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
