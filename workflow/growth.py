"""What more work and more workers cost, for the page on scaling.

`python -m bench.scale` measures it, and writes results/scale.json. For numbers of workers that it
had no cores for, the page has the model

    seconds = start + images x seconds per image / workers

with a start of its own for every worker, which is measured with one image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workflow import verdicts

WORKERS = (1, 8, 64)
IMAGES = 10_000  # of a page, for which workers are counted
SAID = {
    "images": "images that are sampled",
    "latents": "latents of a k-SAE that encodes and decodes",
    "modules": "modules whose mediated share is measured, one by one",
    "workers": "workers on one sampling, up to the cores there are",
}


def text(found: Mapping[str, Any]) -> str:
    """The exponents, and what an image costs with more workers."""
    about = found["environment"]
    return "\n\n".join(
        [
            "## Twice the work, twice the time?",
            "Each was doubled four times. An exponent of 1 is twice the time for twice the work, "
            "and for workers −1 is half the time for twice as many. Images and latents have the "
            "fastest of three runs, modules and workers one run each, so no intervals.",
            exponents(found),
            "## What a worker costs",
            f"Measured: {found['shared']:,} images of `{found['subject']}` in {found['steps']} "
            f"steps. A worker takes {found['start']:.1f} s to start, to load the model and to draw "
            "one image. The model is: start + images × "
            f"{1000 * per_image(found):.1f} ms / workers.",
            rehearsed(found),
            f"By the model, for {IMAGES:,} images, each worker with a core of its own:",
            predicted(found),
            f"Command: `{found['command']}`, on {about['cores']} cores of {about['processor']}. No "
            "more workers than these were measured; what a shared disk adds is not in the model.",
        ]
    )


def _seconds(found: Mapping[str, Any], what: str) -> dict[int, float]:
    row = next(row for row in found["rows"] if row["what"] == what)
    return {int(size): seconds for size, seconds in row["seconds"].items()}


def exponents(found: Mapping[str, Any]) -> str:
    """The exponent of each kind of work, with the seconds of the least and the most of it."""
    lines = [["what was doubled", "exponent", "beside", "least", "most"]]
    for row in found["rows"]:
        workers = row["what"] == "workers"
        most = found["environment"]["cores"] if workers else float("inf")
        sizes = sorted((n, s) for n, s in _seconds(found, row["what"]).items() if n <= most)
        ideal = "−1" if workers else "1"
        told = "–" if row["exponent"] is None else f"{row['exponent']:.2f}".replace("-", "−")
        ends = [f"{size:,}: {seconds:.2f} s" for size, seconds in (sizes[0], sizes[-1])]
        lines.append([SAID[row["what"]], told, ideal, *ends])
    return verdicts.table(lines)


def per_image(found: Mapping[str, Any]) -> float:
    """Seconds of one worker per image, without its start."""
    seconds: float = (_seconds(found, "workers")[1] - found["start"]) / found["shared"]
    return seconds


def modelled(found: Mapping[str, Any], images: int, workers: int) -> float:
    """Seconds until images are drawn by so many workers, each with a core of its own."""
    seconds: float = found["start"] + images * per_image(found) / workers
    return seconds


def rehearsed(found: Mapping[str, Any]) -> str:
    """Measured seconds of each number of workers, beside those of the model for the cores."""
    cores = found["environment"]["cores"]
    lines = [["workers", "measured", "by the model"]]
    for count, seconds in sorted(_seconds(found, "workers").items()):
        model = f"{modelled(found, found['shared'], count):.1f} s" if count <= cores else "no cores"
        lines.append([str(count), f"{seconds:.1f} s", model])
    return verdicts.table(lines)


def predicted(found: Mapping[str, Any]) -> str:
    """Seconds, and core-seconds per thousand images, at WORKERS."""
    lines = [["workers", "seconds", "core-seconds per 1,000 images"]]
    for count in WORKERS:
        seconds = modelled(found, IMAGES, count)
        lines.append([str(count), f"{seconds:.0f}", f"{1000 * seconds * count / IMAGES:.1f}"])
    return verdicts.table(lines)
