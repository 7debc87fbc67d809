"""What sampling costs here, and what recording and editing add.

    python -m bench.rates [--subject portraits] [--quick] [--output FILE]

Images per second of the bare diffusers pipeline and of our sampling, alone, with h recorded to
disk, and with an edit (symmetric and asymmetric); activations per second. Interleaved like the
other benches. Writes results/rates.json, one entry per device and subject, from which the page on
scaling takes its hours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import difflens_utils  # noqa: F401 - first: it mends torchvision, which diffusers imports

# isort: split
import torch

from bench.run import quotient, rounds
from difflens_utils import edits, ksae, sampling
from difflens_utils import recording as activations
from difflens_utils.pages import results
from difflens_utils.runtime import artifacts, gpu, shards
from difflens_utils.subjects import registry

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "results/rates.json"
SEED = 0


@torch.no_grad()
def bare(subject: registry.Subject, n: int, steps: int) -> torch.Tensor:
    """The loop of diffusers' pipeline over network and scheduler, in the subject's precision.

    The pipelines as they come mix the precisions of our parts, or cannot turn bf16 into pictures.
    """
    text = subject.guidance is not None
    condition = {}
    if text:
        embedded = subject.embed([""] * n + [subject.texts()[0]] * n)
        condition = {name: value.to(subject.dtype) for name, value in embedded.items()}
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn(n, *subject.shape, generator=generator)
    x = x.to(subject.device, subject.dtype)
    subject.scheduler.set_timesteps(steps)
    for t in subject.scheduler.timesteps:
        if text:
            without, with_text = subject.network(torch.cat([x, x]), t, **condition).sample.chunk(2)
            epsilon = without + subject.guidance * (with_text - without)
        else:
            epsilon = subject.network(x, t).sample
        x = subject.scheduler.step(epsilon, t, x).prev_sample
    return subject.decode(x).float().cpu()


def finished(work: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The work, and waiting until the device has done it."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def width_of(subject: registry.Subject) -> tuple[int, int]:
    """(d, values of one h)."""
    h = sampling.activation(subject, torch.zeros(1, *subject.shape, device=subject.device), 0)
    return ksae.map_to_vectors(h.float()).shape[-1], h[0].numel()


def ways_of_sampling(
    subject: registry.Subject, n: int, steps: int, batch: int
) -> dict[str, Callable[[], object]]:
    """Every way of sampling n images, as functions by name."""
    width, _ = width_of(subject)
    config = ksae.KSAEConfig(width, 4 * width, min(32, width))
    steer = edits.steer(ksae.KSAE(config).requires_grad_(False), torch.arange(20), beta=2.0)

    def draw(**options: object) -> Callable[[], object]:
        return partial(sampling.sample, subject, n, SEED, steps=steps, batch=batch, **options)

    def recorded() -> None:
        with tempfile.TemporaryDirectory(
            dir=artifacts.STORE if artifacts.STORE.exists() else None
        ) as folder:
            run = activations.Run(subject, n, SEED, steps, subject.texts(), batch=batch)
            activations._record.__wrapped__(run, slice(0, n), Path(folder))

    def alone() -> None:
        for block in shards.blocks(n, batch):
            bare(subject, block.stop - block.start, steps)

    return {
        "bare pipeline": alone,
        "sampling": draw(),
        "recording": recorded,
        "symmetric edit": draw(edit=steer, asymmetric=False),
        "asymmetric edit": draw(edit=steer),
    }


def added(seconds: dict[str, list[float]], name: str) -> dict[str, float]:
    """What every other way costs more than the one named, in percent."""
    others = {other: s for other, s in seconds.items() if other != name}
    return {other: 100 * (quotient(s, seconds[name]) - 1) for other, s in others.items()}


def measure(subject: registry.Subject, n: int, steps: int, repeats: int) -> dict[str, Any]:
    """Rates of every way of sampling n images, and what each adds to plain sampling, in percent."""
    batch = min(n, gpu.batch_size(subject))
    ways = ways_of_sampling(subject, n, steps, batch)
    seconds = rounds({name: finished(way, subject.device) for name, way in ways.items()}, repeats)
    rates = {name: n / statistics.median(s) for name, s in seconds.items()}
    return {
        "subject": subject.name,
        "device": device_name(subject.device),
        "cuda": subject.device.type == "cuda",
        "threads": torch.get_num_threads(),
        "precision": str(subject.dtype)[6:],
        "images": n,
        "batch": batch,
        "steps": steps,
        "seed": SEED,
        "repeats": repeats,
        "images_per_second": rates,
        "activations_per_second": rates["recording"] * steps,
        "values_per_activation": width_of(subject)[1],
        "overhead_percent": added(seconds, "sampling"),
        "over_bare_percent": added(seconds, "bare pipeline"),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return str(torch.cpu.get_capabilities().get("cpu_name", "CPU"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--subject", default="portraits,portraits-t2i", help="subjects, comma-separated"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it runs, measures nothing"
    )
    parser.add_argument(
        "--output", type=Path, help="results/rates.json, or _build/rates.json for a quick run"
    )
    options = parser.parse_args()
    sizes = (4, 2, 1) if options.quick else (options.images, options.steps, options.repeats)
    output = options.output or (ROOT / "_build/rates.json" if options.quick else OUTPUT)
    try:
        measured = [
            measure(registry.load(name, options.device), *sizes)
            for name in options.subject.split(",")
        ]
    except ValueError as error:
        parser.error(str(error))
    write(measured, output)
    for m in measured:
        what = f"{m['subject']} on {m['device']}, {m['precision']}"
        print(f"{what}, batch {m['batch']}, {m['steps']} steps")
        for name, rate in m["images_per_second"].items():
            print(f"    {name:<16} {rate:8.2f} images/s")
    print(f"Written to {output}")


def write(measured: list[dict[str, Any]], output: Path) -> None:
    """Writes the rates, in place of earlier ones of the same subjects and devices."""
    kept = json.loads(output.read_text())["rates"] if output.exists() else []
    new = {(m["subject"], m["device"]) for m in measured}
    content = {
        "environment": results.environment(),
        "rates": [k for k in kept if (k["subject"], k["device"]) not in new] + measured,
    }
    with artifacts.atomic(output) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
