"""Any other pipeline of diffusers that makes images of texts, or of nothing: the native door.

Its own call and scheduler draw the images (`sampling.native`). Recordings and symmetric edits work
on any of its modules. What needs one answer of the network at one noise level does not: the
asymmetric step, which keeps the noise of the unedited image (Eq. 11), methods that are learned
through it, and measures on images of the world that are noised first.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Unpack

import torch
from torch import Tensor, nn

from ..sampling import native
from . import loading, opening, pipelines
from .conditions import Condition, Prompted, Prompts
from .pipelines import About, Subject
from .schedulers import Level

NETWORKS = ("transformer", "unet", "decoder", "prior")  # what a pipeline calls its network
LIBRARIES = ("diffusers", "transformers")
# Parameters of a call by which a pipeline starts from something that the study does not have, and
# by which it makes something that is no image.
NEEDED = ("image", "video", "mask_image", "control_image", "image_embeds")
OTHER = ("num_frames", "video_length", "audio_length_in_s", "audio_end_in_s", "frame_size")


class OwnTexts(Prompted):
    """Texts that the pipeline embeds itself."""


@dataclass(frozen=True, eq=False)
class Native(Subject):
    """A subject whose pipeline samples by itself. `scheduler` is the pipeline's own."""

    native: ClassVar[bool] = True

    @property
    def _sampler(self) -> Sequence[str]:
        return ()  # all of the scheduler's settings are among the files

    def _missing(self, what: str) -> NoReturn:
        raise ValueError(
            f"{self.name} is sampled by the call of its {type(self.pipeline).__name__}, which has "
            f"no {what}; record it, and edit it with asymmetric=False (book/pipelines.md)"
        )

    def predict(
        self, x: Tensor, timestep: float, texts: Sequence[str] | None = None, guided: bool = True
    ) -> Tensor:
        self._missing("answer of the network at one noise level")

    def level(self, t: float) -> Level:
        self._missing("noise level of its own")

    def encode(self, images: Tensor) -> Tensor:
        self._missing("way from images to x_0")

    def decode(self, x: Tensor) -> Tensor:
        self._missing("way from x_0 to images")

    def times(self, steps: int, eta: float = 0.0) -> tuple[float, ...]:
        return native.times(self, steps)

    def pass_once(self, images: int = 1) -> None:
        texts = self.texts()
        native.draw(self, [texts[i % len(texts)] for i in range(images)], list(range(images)), 1)

    @cached_property
    def size(self) -> int:
        """Width and height of an image: those of one that is drawn in one step."""
        return native.draw(self, self.texts()[:1], [0], 1).shape[-1]


def read(
    name: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    module: str | None = None,
    **about: Unpack[About],
) -> Native:
    """A pipeline from disk as a subject that samples by itself.

    Raises ValueError, in one line, for a pipeline that needs more than texts, for code that would
    come with the files, and for files that are missing, damaged or foreign.
    """
    index = opening.read_json(folder / "model_index.json")
    kind = _kind(folder, index)
    parts = _parts(folder, index)
    loaded: dict[str, Any] = {part: None for part, entry in index.items() if entry == [None, None]}
    for part, of in parts.items():
        loaded[part] = loading.part(of, folder / part, dtype)
    pipeline = loading.pipeline(folder, kind.__name__, **loaded)
    for part in parts:
        pipelines.ready(getattr(pipeline, part), device, away=True)
    _place(pipeline, list(parts), device)
    network = _network(folder, pipeline)
    accepted = inspect.signature(kind.__call__).parameters
    condition: Condition = OwnTexts() if "prompt" in accepted else Condition()
    if about.get("guidance") is not None and "guidance_scale" not in accepted:
        raise ValueError(f"{folder / 'study.yml'}: {kind.__name__} takes no guidance")
    known: About = {"prompts": Prompts(), **about, "condition": condition}
    return Native(
        name,
        network,
        pipeline.scheduler,
        module or pipelines.bottleneck(network),
        (0, 0, 0),  # of x_t, which only the pipeline sees
        pipelines.fingerprint(folder, list(parts)),
        pipeline=pipeline,
        **known,
    )


def _place(pipeline: Any, parts: Sequence[str], device: torch.device) -> None:
    """Puts the parts on the device, or has them take turns there where they do not all fit."""
    if any(pipelines.placed_on(pipeline, parts, device)):
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)


def _kind(folder: Path, index: opening.Config) -> type:
    """The class of the pipeline. It must make images of texts, or of nothing."""
    import diffusers

    path, name = folder / "model_index.json", str(index.get("_class_name"))
    kind: type | None = getattr(diffusers, name, None)
    if kind is None or not issubclass(kind, diffusers.DiffusionPipeline):
        raise ValueError(f"{path}: {name} is no pipeline of diffusers {diffusers.__version__}")
    accepted = inspect.signature(kind.__call__).parameters
    if missing := [parameter for parameter in NEEDED if parameter in accepted]:
        raise ValueError(
            f"{path}: {name} starts from {missing[0]}; pipelines can be studied that make images "
            "of texts, or of nothing"
        )
    if set(OTHER) & accepted.keys():
        raise ValueError(f"{path}: {name} makes no images; only pipelines that do can be studied")
    if not {"prompt", "batch_size"} & accepted.keys() or "generator" not in accepted:
        raise ValueError(f"{path}: {name} takes neither texts nor a number of images")
    return kind


def _parts(folder: Path, index: opening.Config) -> dict[str, type]:
    """The parts with weights, and their classes."""
    import diffusers
    import transformers

    libraries = {"diffusers": diffusers, "transformers": transformers}
    found = {}
    for part, entry in index.items():
        if not isinstance(entry, list) or not any(entry):
            continue
        library, name = entry
        if library not in LIBRARIES:
            raise ValueError(
                f"{folder / 'model_index.json'}: {part} is a {name} of {library}, whose code would "
                f"come with the files; only parts of {' and '.join(LIBRARIES)} can be studied"
            )
        kind = getattr(libraries[library], name, None)
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            found[part] = kind
    return found


def _network(folder: Path, pipeline: Any) -> nn.Module:
    """The network of a pipeline that is called at every step."""
    for name in NETWORKS:
        network = pipeline.components.get(name)
        if isinstance(network, nn.Module):
            return network
    raise ValueError(
        f"{folder / 'model_index.json'} names no network: none of {', '.join(NETWORKS)}"
    )
