"""Labels a folder of photographs of faces, from the root of the repository:

    python -m models.own.label weights/celebahq [--size 256]

FairFace's network of seven races reads them in the classes of the paper. `labels.csv`, beside the
images, gets the columns file, gender, age and race. A real subject whose reference images are
labelled has a world (difflens_utils/labelled.py), and every notebook runs on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from difflens_utils.evaluators import read
from difflens_utils.evaluators.fairface import FairFace
from difflens_utils.runtime import artifacts, names, precision
from difflens_utils.runtime.errors import at_least
from difflens_utils.subjects.real import weights
from difflens_utils.worlds import pictures

BATCH = 64


def labels(network: FairFace, paths: list[Path], size: int, device: torch.device) -> pd.DataFrame:
    """One row per image: the likeliest class of each factor."""
    rows: dict[str, list[str]] = {factor: [] for factor in network.factors}
    for start in tqdm(range(0, len(paths), BATCH), desc="labelling", unit="batch"):
        images = pictures.stack(paths[start : start + BATCH], size).to(device)
        for factor, p in read(network, images).items():
            rows[factor] += [network.factors[factor][c] for c in p.argmax(-1).tolist()]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--size", type=int, default=256, help="width and height that images are looked at"
    )
    args = parser.parse_args()
    device = precision.pick_device()
    try:
        at_least("--size", args.size)
        paths = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in names.IMAGES)
        if not paths:
            raise ValueError(f"{args.folder} holds no images ({', '.join(names.IMAGES)})")
        if (args.folder / "labels.csv").exists():
            raise ValueError(
                f"{args.folder}/labels.csv is there already; "
                "move it away to have the images labelled anew"
            )
        network = FairFace.load(*weights.require("fairface-7")).to(device)
        if faults := pictures.unreadable(paths):
            raise ValueError(next(iter(faults.values())))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    table = labels(network, paths, args.size, device)
    table.insert(0, "file", [str(p.relative_to(args.folder)) for p in paths])
    with artifacts.atomic(args.folder / "labels.csv") as temporary:
        table.to_csv(temporary, index=False)
    print(f"{len(table)} images")
    for factor in network.factors:
        counts = table[factor].value_counts()
        print(f"{factor}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))


if __name__ == "__main__":
    main()
