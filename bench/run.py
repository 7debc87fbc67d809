"""Speed and memory beside other libraries.

    python -m bench.run [--quick] [--only ksae,sampling] [--output FILE]

Every comparison is interleaved (ours, theirs, ours, theirs ...) and its ratio is the median of the
rounds' ratios, so a machine that drifts or is shared moves both sides alike. Prints a table and
writes one JSON file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import difflens_utils  # noqa: F401 - first: it mends torchvision, which diffusers imports

# isort: split
import numpy as np
import torch
from diffusers import DDIMPipeline
from diffusers.utils import logging
from torch.utils.flop_counter import FlopCounterMode

from bench import peers
from difflens_utils import attribution, edits, ksae, sampling
from difflens_utils.pages import results
from difflens_utils.probes import Heads
from difflens_utils.recording import Recording
from difflens_utils.runtime import artifacts, gpu
from difflens_utils.sampling import hooks
from difflens_utils.subjects import registry
from workflow.execute import names_of

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One comparison.

    `ratio` is what the target speaks of; None where the other side could not run.
    """

    what: str
    ours: float | None
    beside: float | None
    ratio: float | None
    target: str
    met: bool | None
    note: str = ""


def row(
    what: str,
    ours: float | None,
    beside: float | None,
    ratio: float | None,
    target: str,
    note: str = "",
) -> Row:
    """A row whose `target`, such as ">= 2" or "<= 1.05", is checked against the ratio."""
    relation, bound = target.split()
    met = None
    if ratio is not None:
        met = ratio >= float(bound) if relation == ">=" else ratio <= float(bound)
    return Row(what, ours, beside, ratio, target, met, note)


def rounds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function in each round, after one call to warm up; the order alternates."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats):
        for name in list(functions) if turn % 2 else reversed(functions):
            start = time.perf_counter()
            functions[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def quotient(above: list[float], below: list[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


@cache
def pipeline_folder() -> Path:
    """The shipped subject, or where it is missing its architecture with random weights, as fast."""
    if (registry.MODELS / "portraits/model_index.json").exists():
        return registry.MODELS / "portraits"
    spec = importlib.util.spec_from_file_location("recipe", registry.MODELS / "portraits/train.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    folder = Path(tempfile.mkdtemp(prefix="difflens-bench-"))
    DDIMPipeline(recipe.network().half(), recipe.scheduler()).save_pretrained(folder)
    return folder


def sampling_rows(quick: bool) -> Iterator[Row]:
    """Sampling against diffusers' pipeline and against bare calls of the network.

    The pipeline is at the subject's precision and, where that is another, in float32, as it comes.
    """
    n, steps, repeats = (8, 3, 1) if quick else (64, 10, 5)
    subject = registry.load("portraits", folder=pipeline_folder())
    own = str(subject.dtype)[6:]
    targets = {own: (">= 1.5", f"both {own}")}
    if own != "float32":
        targets["float32"] = (">= 2.5", likeness(subject, n))
    batch = gpu.batch_size(subject)  # as the study samples
    x, t = torch.randn(n, *subject.shape).to(subject.dtype), torch.full((n,), 500)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(steps):
                subject.network(x, t, return_dict=False)

    seconds = rounds(
        {
            "ours": lambda: sampling.sample(subject, n, steps=steps, batch=batch),
            **{precision: pipeline_at(precision, n, steps) for precision in targets},
            "whole": lambda: sampling.sample(subject, n, steps=steps, batch=n),
            "bare": bare,
        },
        repeats,
    )
    rate = {name: n / statistics.median(s) for name, s in seconds.items()}
    for precision, (target, note) in targets.items():
        yield row(
            f"sampling, images/s ({steps} steps), beside DDIMPipeline in {precision}",
            rate["ours"],
            rate[precision],
            quotient(seconds[precision], seconds["ours"]),
            target,
            note,
        )
    each = {name: statistics.median(s) / steps * 1e3 for name, s in seconds.items()}
    yield row(
        f"sampling, ms per network evaluation (batch {n}), beside bare unet(x, t)",
        each["whole"],
        each["bare"],
        quotient(seconds["whole"], seconds["bare"]),
        "<= 1.03",
        f"both {own}",
    )


def product_rows(quick: bool) -> Iterator[Row]:
    """The network against what this processor does at most: how much could still be won."""
    size, repeats = (128, 1) if quick else (2048, 9)
    subject = registry.load("portraits", folder=pipeline_folder())
    n = gpu.batch_size(subject)
    x = torch.randn(n, *subject.shape)
    matrix = torch.randn(size, size, dtype=subject.dtype)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        subject.predict(x, 500)

    def network() -> None:
        with torch.no_grad():
            subject.predict(x, 500)

    seconds = rounds({"network": network, "product": lambda: matrix @ matrix}, repeats)
    work = {"network": counter.get_total_flops(), "product": 2 * size**3}
    speed = {name: work[name] / statistics.median(s) / 1e9 for name, s in seconds.items()}
    share = quotient(seconds["product"], seconds["network"]) * work["network"] / work["product"]
    yield row(
        f"network evaluation, GFLOP/s (batch {n}), beside a matrix product",
        speed["network"],
        speed["product"],
        share,
        ">= 0.6",
        f"{work['network'] / n / 1e9:.2f} GFLOP per image and step, product of {size:,} x {size:,}",
    )


def import_rows(quick: bool) -> Iterator[Row]:
    """What every process of the study pays first."""
    command = [sys.executable, "-c", "import difflens_utils"]
    run = partial(subprocess.run, command, check=True, cwd=ROOT)
    [seconds] = rounds({"import": run}, 1 if quick else 5).values()
    median = statistics.median(seconds)
    yield row("import of the package, seconds, beside 2 s", median, 2, median / 2, "<= 1")


def pipeline_at(precision: str, n: int, steps: int) -> Callable[[], object]:
    """What draws n images by diffusers' pipeline at a precision, such as "float32"."""
    dtype = getattr(torch, precision)
    pipeline = DDIMPipeline.from_pretrained(pipeline_folder(), torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=n, num_inference_steps=steps, output_type="pt")


def likeness(subject: registry.Subject, n: int) -> str:
    """How near images in the subject's precision come to float32, in words."""
    single = registry.load("portraits", dtype=torch.float32, folder=pipeline_folder())
    fast = sampling.sample(subject, n, steps=20)
    exact = sampling.sample(single, n, steps=20)
    ratio = 10 * (4 / (fast - exact).square().mean()).log10()
    return f"{str(subject.dtype)[6:]} against float32, same seeds: PSNR {ratio:.1f} dB"


def edit_rows(quick: bool) -> Iterator[Row]:
    """One edited step, symmetric and asymmetric, against one unedited step."""
    steps, repeats = (2, 1) if quick else (5, 9)
    subject = registry.load("portraits", folder=pipeline_folder())
    batch = gpu.batch_size(subject)
    n = 8 if quick else 2 * batch
    width = subject.network.config.block_out_channels[-1]
    change = edits.steer(
        ksae.KSAE(ksae.KSAEConfig(width, 1024, 32)).requires_grad_(False),
        torch.arange(20),
        beta=2.0,
    )

    def run(edit: sampling.Edit | None, asymmetric: bool) -> Callable[[], object]:
        return lambda: sampling.sample(
            subject, n, steps=steps, edit=edit, asymmetric=asymmetric, batch=batch
        )

    seconds = rounds(
        {
            "plain": run(None, False),
            "symmetric": run(change, False),
            "asymmetric": run(change, True),
        },
        repeats,
    )
    step = {name: statistics.median(s) / steps * 1e3 for name, s in seconds.items()}
    repeated = f"{behind(subject):.0%} of the network's multiplications"
    twice = f"; {repeated} lie behind the module and run twice"
    for name, target, note in (("symmetric", "<= 1.05", ""), ("asymmetric", "<= 1.6", twice)):
        yield row(
            f"one edited step, {name}, ms ({n} images), beside an unedited one",
            step[name],
            step["plain"],
            quotient(seconds[name], seconds["plain"]),
            target,
            f"20 features of 1,024, k = 32{note}",
        )


@torch.no_grad()
def behind(subject: registry.Subject) -> float:
    """The share of a network evaluation's multiplications that lie behind the studied module."""
    x = torch.randn(1, *subject.shape)
    with FlopCounterMode(display=False) as whole:
        subject.epsilon(x, 500)
    with (
        FlopCounterMode(display=False) as front,
        hooks.record(subject.network, subject.module, stop=True),
    ):
        subject.epsilon(x, 500)
    return 1 - front.get_total_flops() / whole.get_total_flops()


def ksae_rows(quick: bool) -> Iterator[Row]:
    """k-SAE training: seconds to the same held-out FVU as each peer reaches."""
    sizes = ((128, 1024, 300, 2048, 10), (512, 4096, 60, 2048, 6))
    for d, latents, steps, batch, turns in (
        ((64, 256, 12, 256, 3), (128, 512, 6, 256, 2)) if quick else sizes
    ):
        curves, missing = peers.race(peers.Size(d, latents, 32, steps, batch), turns)
        ours = curves.pop("ours")
        what = f"k-SAE training, d = {d}, D = {latents}, seconds to equal FVU"
        speed = {
            name: steps * batch / c.seconds[-1] for name, c in {"ours": ours, **curves}.items()
        }
        ratios = {}
        for name, curve in curves.items():
            # The better one is stopped where the other ends.
            target = max(ours.fvu[-1], curve.fvu[-1])
            mine, other = ours.time_to(target), curve.time_to(target)
            ratios[name] = other / mine
            precisions = f"{ours.precision} / {curve.precision}"
            reached = f"{ours.fvu[-1]:.3f} / {curve.fvu[-1]:.3f}"
            speeds = f"{speed['ours']:,.0f} / {speed[name]:,.0f} vectors/s"
            note = f"FVU {target:.3f} ({precisions}); in {steps} steps {reached}; {speeds}"
            yield row(f"{what}, beside {name}", mine, other, ratios[name], ">= 1", note)
        for name, reason in missing.items():
            yield row(
                f"{what}, beside {name}", ours.seconds[-1], None, None, ">= 1", f"{name}: {reason}"
            )
        if ratios and d == 512:
            fastest = min(ratios, key=ratios.__getitem__)
            yield row(
                f"{what}, beside the fastest peer", None, None, ratios[fastest], ">= 1.5", fastest
            )


def attribution_rows(quick: bool) -> Iterator[Row]:
    """Integrated gradients of one attribute's classes: closed form against captum, same points."""
    sizes = (4, 24, 96, 2, 8, 1) if quick else (64, 192, 1024, 4, 32, 3)
    n, d, latents, side, points, repeats = sizes
    classes = 2
    size = f"{n} images, {side * side} positions, {latents} latents, {points} points"
    what = f"attribution, seconds ({size}), beside captum"
    g = torch.Generator().manual_seed(0)
    h = torch.randn(n, 1, d, side, side, generator=g)
    model = ksae.KSAE(ksae.KSAEConfig(d, latents, 16)).requires_grad_(False)
    recording = Recording("bench", h.numpy().astype(np.float16), torch.empty(0), (500,))
    weight = torch.randn(1, classes, d, side, side, generator=g) / (d * side) ** 0.5
    heads = Heads(weight, torch.zeros(1, classes))
    rows = torch.arange(n)
    try:
        from captum.attr import IntegratedGradients
    except ImportError:
        yield row(what, None, None, None, ">= 50", "captum: not installed")
        return

    def probabilities(s: torch.Tensor) -> torch.Tensor:  # (B, P, D) -> (B, classes)
        decoded = ksae.vectors_to_map(model.decode(s), (len(s), d, side, side))
        return heads.logits(decoded, 0).softmax(-1)

    def captum() -> torch.Tensor:  # -> (classes, D)
        s = model.latents(recording.vectors(0).view(n, -1, d))
        method = IntegratedGradients(probabilities)
        options = {"n_steps": points, "method": "gausslegendre"}
        scores = [method.attribute(s, target=c, **options) for c in range(classes)]
        return torch.stack([score.mean(0).sum(0) for score in scores])

    def ours() -> torch.Tensor:
        return attribution.through_head(heads, model, recording, rows, points=points).scores

    gap = ((ours() - captum()).abs().max() / captum().abs().max()).item()
    seconds = rounds({"ours": ours, "captum": captum}, repeats)
    mine, other = (statistics.median(seconds[name]) for name in ("ours", "captum"))
    ratio = quotient(seconds["captum"], seconds["ours"])
    yield row(what, mine, other, ratio, ">= 50", f"scores equal to {gap:.1e} of the largest")


def memory_rows(quick: bool) -> Iterator[Row]:
    """Peak resident size of recording and training few and many images, each in a process."""
    counts, steps = ((8, 32), 3) if quick else ((500, 5000), 100)
    peaks = []
    for images in counts:
        with tempfile.TemporaryDirectory() as store:
            environment = os.environ | {"DIFFLENS_ARTIFACTS": store, "PYTHONPATH": str(ROOT)}
            command = [
                sys.executable,
                "-m",
                "bench.memory",
                str(pipeline_folder()),
                str(images),
                str(steps),
            ]
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
        peaks.append(float(done.stdout.split()[-1]))
    what = (
        f"peak memory of recording and training, MiB, at {counts[1]:,} images beside {counts[0]:,}"
    )
    yield row(
        what,
        peaks[1],
        peaks[0],
        peaks[1] / peaks[0],
        "<= 1.1",
        "4 sampling steps recorded; 1,024 latents",
    )
    yield row("peak memory, GiB, beside 4 GiB", max(peaks) / 1024, 4, max(peaks) / 4096, "<= 1")


SECTIONS = {
    "sampling": sampling_rows,
    "edits": edit_rows,
    "product": product_rows,
    "import": import_rows,
    "ksae": ksae_rows,
    "attribution": attribution_rows,
    "memory": memory_rows,
}


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def show(item: Row) -> None:
    verdict = {True: "met", False: "MISSED", None: "not measured"}[item.met]
    values = f"{number(item.ours):>8} {number(item.beside):>8}"
    against = f"ratio {number(item.ratio):<6} target {item.target:<8} {verdict}"
    note = f"   {item.note}" if item.note else ""
    print(f"{item.what}\n    {values}   {against}{note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes: shows that every row runs, measures nothing",
    )
    parser.add_argument(
        "--only",
        default=",".join(SECTIONS),
        help=f"sections, comma-separated: {', '.join(SECTIONS)}",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="results/bench.json for a whole run, _build/bench.json otherwise",
    )
    options = parser.parse_args()
    chosen = names_of(parser, "--only", options.only, SECTIONS)
    measure(options.quick, chosen, options.output)


def measure(quick: bool, chosen: list[str], output: Path | None) -> None:
    """Shows the rows of the chosen sections, and writes them after each section."""
    logging.disable_progress_bar()
    whole = not quick and set(chosen) == set(SECTIONS)
    output = output or ROOT / ("results/bench.json" if whole else "_build/bench.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = results.environment() | peers.versions() | {"quick": quick}
    environment["weights"] = (
        "shipped" if pipeline_folder().is_relative_to(ROOT) else "random, of the same architecture"
    )
    done: list[Row] = []
    for section in chosen:
        for item in SECTIONS[section](quick):
            show(item)
            done.append(item)
        content = {"environment": environment, "rows": [asdict(item) for item in done]}
        with artifacts.atomic(output) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"Written to {output}")


if __name__ == "__main__":
    main()
