"""What steering can keep, against what passes the module that is steered:

    python -m models.law [portraits portraits-open portraits-open@mid_block ...]

For every attribute of a subject, with h taken from its own module or from one named after an `@`,
this measures the mediated share of notebook 03, which takes forward passes alone, and what DiffLens
keeps at half of the unedited FD as in notebook 06, which takes the whole study. It is written to
results/law.json, row by row: a row that is there is not measured again. A GPU does it in minutes,
two cores in hours.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import difflens_utils as dl
from difflens_utils import features, outcome
from difflens_utils.metrics import Estimate
from difflens_utils.runtime import artifacts
from difflens_utils.study import Study

PLACES = (
    "portraits",
    "portraits-open",
    "portraits-open@up_blocks.0",
    "portraits-open@mid_block",
    "portraits-t2i",
    "digits",
)
SIZES = {"digits": {"latents": 512, "train_steps": 600}}  # as in the book
PAIRS, IMAGES, REMAINING = 64, 304, 0.5


def measure(study: Study, attribute: str) -> dict[str, Any]:
    """The mediated share, and what DiffLens and latent editing keep, for one attribute."""
    known = study.attribute(attribute)
    common, rare = outcome.extremes(study.planted(attribute))
    share = study.mediated(attribute, common, rare, PAIRS).share(
        features.deciding_steps(study.settings.steps)
    )
    row = {"mediated": _numbers(share)}
    before = study.draw(n=IMAGES)
    scale = study.scale(attribute, before)
    for method in (dl.methods.difflens(study.features([attribute]), attribute),):
        made = study.compared(method, attribute, REMAINING, n=IMAGES)
        kept, leak = scale.matched(made.half, made.full.mixture, REMAINING)
        row["kept"], row["leak"] = _numbers(kept), _numbers(leak)
        row["fd"] = _numbers(scale.fd(made.full.mixture))
        row["fd unedited"] = _numbers(scale.fd(scale.unedited))
    return row | {"classes": list(known.classes)}


def _numbers(estimate: Estimate) -> dict[str, float]:
    return {name: getattr(estimate, name) for name in ("value", "low", "high", "n")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="*", default=PLACES, metavar="SUBJECT[@MODULE]")
    parser.add_argument("--out", type=Path, default=artifacts.ROOT / "results/law.json")
    args = parser.parse_args()
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    for place in args.places:
        subject, _, module = place.partition("@")
        study = dl.open(subject, module=module, **SIZES.get(subject, {}))
        key = f"{subject}@{study.subject.module}"
        rows = found.setdefault(key, {"settings": asdict(study.settings), "attributes": {}})
        for attribute in map(str, study.attributes):
            if attribute not in rows["attributes"]:
                rows["attributes"][attribute] = measure(study, attribute)
                args.out.write_text(json.dumps(found, indent=1) + "\n")
                print(key, attribute, json.dumps(rows["attributes"][attribute]), flush=True)


if __name__ == "__main__":
    main()
