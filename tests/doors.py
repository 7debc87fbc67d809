"""How near the images of each door are to those of the pipelines themselves, on random weights.

`python tests/doors.py` writes results/pipelines.json, which the book shows as a table.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Before diffusers: the package mends a torchvision that was built for another torch.
from difflens_utils import sampling
from difflens_utils.sampling import native
from difflens_utils.subjects import registry
from difflens_utils.subjects.pipelines import Subject

# isort: split
import made
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

RESULT = Path(__file__).parents[1] / "results/pipelines.json"
SEED, STEPS = 4, 4
TEXTS = ["a man", "a cat"]
# The spacing at which `DDIMScheduler` itself steps to the next timestep of its list.
LEVELS = made.LATENT | {"steps_offset": 1, "timestep_spacing": "leading"}
# {name: the pipeline, another scheduler in its files, and how they are saved}
ROWS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    **{name: (name, None, {}) for name in (*made.MADE, *made.NATIVE)},
    "PNDM": ("stable_diffusion", PNDMScheduler(**LEVELS, skip_prk_steps=True), {}),
    "Euler": ("stable_diffusion", EulerDiscreteScheduler(**LEVELS), {}),
    "DPM-Solver": ("stable_diffusion", DPMSolverMultistepScheduler(**LEVELS), {}),
    'variant="fp16"': ("stable_diffusion", None, {"variant": "fp16"}),
    "in shards": ("sd3", None, {"max_shard_size": "20kB"}),
}


UNUSUAL = {"sd3_without_t5": "without T5"}


class Row(NamedTuple):
    """A row of the table: a pipeline and its door."""

    pipeline: str
    files: str  # what is unusual about its files
    door: str
    module: str  # where h is by default
    h: list[int]  # the shape of h of one image
    modules: int  # that can be looked into
    difference: float  # the largest, of images in [-1, 1]


def measured(name: str) -> Row:
    """Opens a pipeline from disk, and draws the same two images in both ways."""
    pipeline_name, scheduler, options = ROWS[name]
    pipeline = made.pipeline(pipeline_name)
    if name == "dit":  # diffusers takes class 1000 for none, whatever the network
        torch.manual_seed(1)
        pipeline = made.stirred(made.dit(1000))
    if scheduler is not None:
        pipeline.scheduler = scheduler
    with tempfile.TemporaryDirectory() as folder:
        made.saved(pipeline, Path(folder), **options)
        subject = registry.load(folder, "cpu", dtype=torch.float32)
    shapes = {module.name: module.shape for module in registry.describe(subject)}
    return Row(
        type(pipeline).__name__,
        UNUSUAL.get(name, name if scheduler or options else ""),
        "native" if subject.native else "own sampler",
        subject.module,
        list(shapes[subject.module]),
        len(shapes),
        float((ours(subject) - theirs(pipeline, subject)).abs().max()),
    )


def asked(subject: Subject) -> list[str]:
    """Two prompts of a subject, empty ones where it reads none."""
    if hasattr(subject.condition, "labels"):
        return ["groom", "ballplayer"]
    return TEXTS if "prompt" in type(subject.pipeline).__call__.__annotations__ else ["", ""]


def ours(subject: Subject) -> Tensor:
    """Two images as a subject draws them: (2, 3, H, W) in [-1, 1]."""
    return sampling.sample(subject, 2, SEED, steps=STEPS, prompts=asked(subject))


def theirs(pipeline: Any, subject: Subject, steps: int = STEPS) -> Tensor:
    """The same images as the pipeline draws them, by itself.

    A solver is taken at its first order, which is the study's step over the same noise levels.
    """
    pipeline, seeds = copy.copy(pipeline), sampling.image_seeds(2, SEED)
    if subject.native:
        return native.draw(subject, asked(subject), seeds, steps).clamp(-1, 1)
    kind = type(pipeline).__name__
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    options: dict[str, Any] = {"num_inference_steps": steps, "output_type": "np"}
    if kind == "SanaPipeline":
        config = pipeline.scheduler.config
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(config, solver_order=1)
    elif isinstance(subject.scheduler, DDIMScheduler):
        pipeline.scheduler = copy.deepcopy(subject.scheduler)
    if kind.startswith(("PixArt", "Sana")):
        options["use_resolution_binning"] = False
    if subject.guidance is not None:
        options["guidance_scale"] = subject.guidance
    if kind == "DDPMPipeline":
        pipeline = DDIMPipeline(_first_channels(pipeline.unet), pipeline.scheduler)
        options |= {"batch_size": 2, "use_clipped_model_output": True, "generator": generators}
        pipeline.set_progress_bar_config(disable=True)
        return _images(pipeline(**options))
    if kind == "DiTPipeline":
        return _images(pipeline([1, 3], generator=generators, **options))
    x = sampling.Noise(seeds, subject.shape, torch.device("cpu")).draw()
    options |= {"height": subject.size, "width": subject.size}
    if kind == "FluxPipeline":
        x = pipeline._pack_latents(x, *x.shape)
    return _images(pipeline(TEXTS, latents=x, **options))


def _first_channels(unet: Any) -> Any:
    """A U-Net with learned variances, which `DDIMPipeline` knows nothing of, without them."""
    unet = copy.deepcopy(unet)
    channels = unet.config.in_channels
    unet.conv_out.weight.data = unet.conv_out.weight.data[:channels]
    unet.conv_out.bias.data = unet.conv_out.bias.data[:channels]
    return unet


def _images(output: Any) -> Tensor:
    images: Tensor = torch.from_numpy(output.images).permute(0, 3, 1, 2) * 2 - 1
    return images.expand(-1, 3, -1, -1)


def rows() -> Iterator[Row]:
    for name in ROWS:
        yield measured(name)


if __name__ == "__main__":
    found = [row._asdict() for row in rows()]
    about = {"command": "python tests/doors.py", "seed": SEED, "steps": STEPS, "images": 2}
    RESULT.write_text(json.dumps({"about": about, "rows": found}, indent=1) + "\n")
