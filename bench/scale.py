"""How time grows with images, latents, modules and workers, each doubled four times.

    python -m bench.scale [--quick] [--output FILE]

The exponent is the slope of log seconds on log size: 1.0 is twice the time for twice the work, and
for workers -1.0 is half the time for twice as many. Writes results/scale.json, from which the page
on scaling takes what a worker costs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import difflens_utils as dl  # first: it mends torchvision, which diffusers imports

# isort: split
import numpy as np
import torch

from difflens_utils import ksae, sampling
from difflens_utils.pages import results
from difflens_utils.runtime import artifacts
from difflens_utils.study import Study

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "results/scale.json"
SUBJECT = "digits"
DOUBLINGS, REPEATS = 4, 3
STEPS = 10
BATCH = 32  # of workers: there are as many batches as the most workers
SHARED = 2048  # images that workers share


def slope(seconds: Mapping[int, float]) -> float:
    """The exponent of seconds in size, by least squares on logarithms.

    >>> from bench.scale import slope
    >>> round(slope({1: 2.0, 2: 4.0, 4: 8.0}), 3)
    1.0
    """
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def timed(work: Callable[[int], object], sizes: list[int], repeats: int) -> dict[int, float]:
    """Seconds of the fastest of some runs at each size, after one run to warm up.

    What else runs on a machine only adds.
    """
    work(sizes[0])
    seconds = dict.fromkeys(sizes, float("inf"))
    for _ in range(repeats):
        for size in sizes:
            began = time.perf_counter()
            work(size)
            seconds[size] = min(seconds[size], time.perf_counter() - began)
    return seconds


def doubled(first: int, times: int) -> list[int]:
    return [first * 2**i for i in range(times + 1)]


def images(study: Study) -> Callable[[int], object]:
    """Sampling so many images."""
    return lambda n: sampling.sample(study.subject, n, steps=STEPS, batch=BATCH)


def latents(study: Study) -> Callable[[int], object]:
    """Encoding and decoding vectors of h with so many latents."""
    h = sampling.activation(study.subject, torch.zeros(1, *study.subject.shape), 0)
    width = ksae.map_to_vectors(h.float()).shape[-1]
    x = torch.randn(4096, width, generator=torch.Generator().manual_seed(0))

    def work(number: int) -> None:
        config = ksae.KSAEConfig(width=width, latents=number, k=32)
        model = ksae.KSAE(config).requires_grad_(False)
        for _ in range(8):
            model.decode(model.latents(x))

    return work


def modules(study: Study) -> Callable[[int], object]:
    """Mediated shares of so many modules, the network's blocks in turn, one by one."""
    blocks = study.blocks
    seed = iter(range(10**6))

    def work(number: int) -> None:
        attribute = str(study.attributes[0])
        for i in range(number):
            changed = dl.open(SUBJECT, device="cpu", steps=STEPS, seed=1000 * (next(seed) + 1))
            changed.swept(attribute, 0, 1, 8, [blocks[i % len(blocks)]])

    return work


def workers(n: int, count: int, folder: Path) -> float:
    """Seconds from the start of so many processes until `n` images are drawn by all of them."""
    command = [sys.executable, "-m", "bench.scale", "--draw", str(n)]
    began = time.perf_counter()
    environment = os.environ | {
        "DIFFLENS_ARTIFACTS": str(folder),
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONPATH": str(ROOT),
    }
    running = [
        subprocess.Popen(command, cwd=ROOT, env=environment | {"DIFFLENS_WORKER": f"{i}/{count}"})
        for i in range(count)
    ]
    if any([process.wait() for process in running]):
        raise RuntimeError("a worker failed")
    return time.perf_counter() - began


def draw(n: int) -> None:
    """What each worker does."""
    study = dl.open(SUBJECT, device="cpu", steps=STEPS)
    dl.outcome.draw(study.subject, None, n, 0, STEPS, batch=BATCH)


def of_workers(n: int, counts: list[int]) -> dict[int, float]:
    """Seconds of each number of workers, each with an empty store."""
    seconds = {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            seconds[count] = workers(n, count, Path(folder))
    return seconds


def measure(quick: bool) -> dict[str, Any]:
    """All four, with the machine."""
    times, repeats = (1, 1) if quick else (DOUBLINGS, REPEATS)
    study = dl.open(SUBJECT, device="cpu", steps=STEPS)
    kinds = {
        "images": timed(images(study), doubled(32, times), repeats),
        "latents": timed(latents(study), doubled(512, times), repeats),
    }
    with tempfile.TemporaryDirectory() as folder:
        artifacts.STORE = Path(folder)
        kinds["modules"] = timed(modules(study), doubled(1, times), 1)
    cores = os.cpu_count() or 1
    shared = 64 if quick else SHARED
    kinds["workers"] = of_workers(shared, doubled(1, times))
    none = of_workers(1, [1])[1]  # what a worker takes to start, to load, and to draw one image
    rows = []
    for name, seconds in kinds.items():
        used = {size: s for size, s in seconds.items() if name != "workers" or size <= cores}
        exponent = slope(used) if len(used) > 1 else None
        rows.append({"what": name, "seconds": seconds, "exponent": exponent})
        shown = "not measured: one core" if exponent is None else f"{exponent:.2f}"
        ideal = -1.0 if name == "workers" else 1.0
        print(f"{name}: exponent {shown} beside {ideal}   {seconds}", flush=True)
    return {
        "command": "python -m bench.scale",
        "environment": results.environment() | {"cores": cores},
        "subject": SUBJECT,
        "steps": STEPS,
        "shared": shared,
        "start": none,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: measures nothing")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        return draw(options.draw)
    torch.set_num_threads(1)
    output = options.output or (ROOT / "_build/scale.json" if options.quick else OUTPUT)
    found = measure(options.quick)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
