"""What each part of *DiffLens, best* gives, on tuning seeds, and what other steps would:

    python -m models.ingredients [SUBJECT ...]

For every attribute of a subject and every recipe, and for latent editing beside them, the cost in
CLIP-I of the cheapest plan that leaves half of the unedited FD (`debiasing.plan`), from a search of
its own. Nothing is reported on the images of these seeds. It is written to `ingredients.json` in
the folder of the subject, row by row: a row that is there is not measured again. A GPU does it in
minutes, two cores in a day. *DiffLens, best* takes the cheapest recipe of an attribute from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import difflens_utils as dl
from difflens_utils import debiasing, methods
from difflens_utils.debiasing import Search
from difflens_utils.methods import Method, best, latent_editing
from difflens_utils.study import Study

SIZES: dict[str, dict[str, Any]] = {
    "portraits": {},
    "portraits-t2i": {},
    "digits": {"latents": 512, "train_steps": 600},
}
REMAINING = 0.5


def tried(study: Study, attribute: str) -> dict[str, Callable[[], Method]]:
    """What makes each method whose cost is measured, by its name in the table."""
    steps = study.settings.steps
    found: dict[str, Callable[[], Method]] = {
        name: partial(best.best, study, attribute, made_of)
        for name, made_of in best.RECIPES.items()
    }

    def rival() -> Method:
        return latent_editing.rows(study, attribute)[0]

    found["latent editing"] = rival
    found["latent editing, in all ways"] = lambda: methods.in_all_ways(rival(), steps)
    ours = found["features and shares by the programme"]
    found["DiffLens, best, in all ways"] = lambda: methods.in_all_ways(ours(), steps)
    return found


def cost(study: Study, attribute: str, method: Method) -> dict[str, Any]:
    """The cost of a method's cheapest plan for half of the unedited FD."""
    s = study.settings
    arms = debiasing.respond(
        study.subject, method, attribute, n=s.n_tuned, seed=study.seeds.tuning, steps=s.steps
    )
    found = Search(method, attribute, arms, study.base[attribute], study.counted)
    uniform = study.attribute(attribute).uniform
    plans = debiasing.plans(found, uniform, method.network, REMAINING)
    expected = np.concatenate([plan.expected for plan in plans])
    fd = float(np.sqrt(((expected - np.asarray(uniform)) ** 2).sum(-1).mean()))
    return {"cost": float(np.mean([plan.cost for plan in plans])), "fd": fd}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("subjects", nargs="*", default=list(SIZES), metavar="SUBJECT")
    for subject in parser.parse_args().subjects:
        study = dl.open(subject, **SIZES.get(subject, {}))
        out = study.subject.folder / "ingredients.json"
        found = json.loads(out.read_text()) if out.exists() else {}
        for attribute in map(str, study.attributes):
            rows = found.setdefault(attribute, {})
            for name, make in tried(study, attribute).items():
                if name not in rows:
                    rows[name] = cost(study, attribute, make())
                    out.write_text(json.dumps(found, indent=1) + "\n")
                    print(subject, attribute, name, rows[name], flush=True)


if __name__ == "__main__":
    main()
