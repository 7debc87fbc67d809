"""What each part of *DiffLens, best* gives, on tuning seeds, and what other steps would:

    python -m models.ingredients [SUBJECT ...]

For every attribute of a subject and every recipe, and for latent editing beside them: the cost in
CLIP-I of the cheapest plan that leaves half of the unedited FD, and the FD that the fairest plan
leaves (`debiasing.plan`), from a search of its own. Two recipes and latent editing are tried in all
ways too. Nothing is reported on the images of these seeds. It is written to `ingredients.json` in
the folder of the subject, row by row: a row that is there is not measured again. A GPU does it in
minutes, two cores in a day. *DiffLens, best* is chosen from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

import difflens_utils as dl
from difflens_utils import debiasing, methods
from difflens_utils.debiasing import Search
from difflens_utils.methods import Method, best, latent_editing
from difflens_utils.metrics import Array
from difflens_utils.study import Study
from models import sizes

SUBJECTS = ("portraits", "portraits-t2i", "digits")
REMAINING = 0.5
TWICE = ("DiffLens", "features and shares by the programme", "latent editing")  # also in all ways


def tried(study: Study, attribute: str) -> dict[str, Callable[[], Method]]:
    """What makes each method that is measured, by its name in the table."""
    found: dict[str, Callable[[], Method]] = {
        name: partial(best.best, study, attribute, made_of)
        for name, made_of in best.RECIPES.items()
    }
    found["latent editing"] = lambda: latent_editing.rows(study, attribute)[0]
    return found


def measure(study: Study, attribute: str, method: Method) -> dict[str, float]:
    """What a method's plans cost, and the FD that they leave."""
    s = study.settings
    arms = debiasing.respond(
        study.subject, method, attribute, n=s.n_tuned, seed=study.seeds.tuning, steps=s.steps
    )
    base, uniform = study.base[attribute], study.attribute(attribute).uniform
    found = Search(method, attribute, arms, base, study.counted)
    half = debiasing.plans(found, uniform, method.network, REMAINING)
    fairest = debiasing.plans(found, uniform, method.network)
    return {
        "cost": float(np.mean([plan.cost for plan in half])),
        "fd": _distance(np.concatenate([plan.expected for plan in half]), uniform),
        "fairest": _distance(np.concatenate([plan.expected for plan in fairest]), uniform),
        "unedited": _distance(base, uniform),
    }


def _distance(shares: Array, target: Sequence[float]) -> float:
    """FD of shares (G, classes)."""
    return float(np.sqrt(((shares - np.asarray(target)) ** 2).sum(-1).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", default=SUBJECTS, metavar="SUBJECT")
    for subject in parser.parse_args().subjects:
        study = dl.open(subject, **sizes.of_the_book(subject))
        out = study.subject.folder / "ingredients.json"
        found = json.loads(out.read_text()) if out.exists() else {}
        for attribute in map(str, study.attributes):
            for name, make in tried(study, attribute).items():
                for way in best.OWN_WAY, *([best.ALL_WAYS] if name in TWICE else []):
                    rows = found.setdefault(way, {}).setdefault(attribute, {})
                    if name in rows:
                        continue
                    method = make()
                    if way == best.ALL_WAYS:
                        method = methods.in_all_ways(method, study.settings.steps)
                    rows[name] = measure(study, attribute, method)
                    out.write_text(json.dumps(found, indent=1) + "\n")
                    print(subject, attribute, name, way, rows[name], flush=True)


if __name__ == "__main__":
    main()
