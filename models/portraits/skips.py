"""Measures what passes the bottleneck, with the skips open and closed:

    python -m models.portraits.skips OPEN CLOSED

OPEN and CLOSED are folders of pipelines. The measure is that of notebook 03. It is written to
results/skips.json, from where the model card and the book take their figures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from difflens_utils import features, sampling
from difflens_utils.analysis import mediation
from difflens_utils.runtime import artifacts
from difflens_utils.subjects import registry

STEPS, PAIRS, SEED = 10, 64, 30  # notebook 03's defaults


def shares(folder: Path) -> dict[str, dict]:
    """Per attribute, the share of its effect that passes h at the deciding steps.

    The effect is that of the commonest class turned into the rarest.
    """
    subject = registry.load("portraits", folder=folder)
    times = sampling.trajectory(subject, STEPS).timesteps
    rows = {}
    for attribute in subject.attributes:
        planted = subject.world.marginal(attribute)
        classes = subject.classes(attribute)
        ends = classes[int(planted.argmax())], classes[int(planted.argmin())]
        exchange = mediation.Exchange(attribute, *ends)
        moved = mediation.through_module(subject, exchange, times, n=PAIRS, seed=SEED)
        share = moved.share(features.deciding_steps(STEPS))
        rows[attribute] = {key: getattr(share, key) for key in ("value", "low", "high", "n")}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs=2, metavar=("OPEN", "CLOSED"))
    open_folder, closed_folder = parser.parse_args().folders
    found = {"open": shares(open_folder), "closed": shares(closed_folder)}
    content = {"steps": STEPS, "pairs": PAIRS, "seed": SEED, "share": found}
    (artifacts.ROOT / "results/skips.json").write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
