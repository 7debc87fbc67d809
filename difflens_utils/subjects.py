"""Subjects: what is studied. A diffusers pipeline, the module to look into, and the evaluators that judge its images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from . import hooks, portraits
from .errors import one_of
from .evaluators import AttributeNet, PortraitClip

MODELS = Path(__file__).parents[1] / "models"


@dataclass
class Subject:
    """A diffusion model under study. `shape` is that of x_t, (C, H, W); images are `decode(x_0)`, in [-1, 1]."""

    name: str
    network: nn.Module
    scheduler: object
    module: str  # the module whose output is h
    shape: tuple[int, int, int]
    attributes: tuple[str, ...]  # the social attributes that are studied
    fingerprint: str  # identifies the weights and the precision in the keys of artifacts
    device: torch.device
    dtype: torch.dtype
    evaluators: Callable[[], tuple[AttributeNet, AttributeNet, PortraitClip]] = field(repr=False)
    world: ModuleType | None = None  # where the training data came from, if it is known: its factors and their shares

    @cached_property
    def _judges(self) -> tuple[AttributeNet, AttributeNet, PortraitClip]:
        return self.evaluators()

    @property
    def labeller(self) -> AttributeNet:
        """Labels the data that probes and attribution learn from; never scores a result."""
        return self._judges[0]

    @property
    def scorer(self) -> AttributeNet:
        """Scores results; its features give the Fréchet distance."""
        return self._judges[1]

    @property
    def clip(self) -> PortraitClip:
        return self._judges[2]

    @property
    def folder(self) -> Path:
        """Where what ships with the subject lies, if it is one that ships."""
        return MODELS / self.name

    @property
    def weights(self) -> str:
        """Identifies the weights alone, in whatever precision they run."""
        return self.fingerprint.rpartition("-")[0]

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Everything the evaluators read: {factor: classes}, the social attributes first."""
        return self.scorer.factors

    def classes(self, attribute: str) -> tuple[str, ...]:
        """The classes of a factor; ValueError with the known factors otherwise."""
        one_of("attribute", attribute, self.factors)
        return self.factors[attribute]

    def epsilon(self, x: Tensor, timestep: int) -> Tensor:
        """Predicted noise for x_t: (B, C, H, W) float32; learned variances, where a model has them, are cut off."""
        t = torch.full((len(x),), timestep, device=x.device)
        return self.network(x.to(self.dtype), t, return_dict=False)[0][:, : self.shape[0]].float()

    def decode(self, x: Tensor) -> Tensor:
        """x_0 to images: the identity for pixel-space models."""
        return x


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA where there is one, else the CPU."""
    one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; take device=cpu or install torch's CUDA build")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities()
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


def autocast(device: torch.device = torch.device("cpu")) -> torch.autocast:
    """`fast_dtype` for a training: bf16 products over float32 weights, or nothing where bf16 is only emulated."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) is torch.bfloat16)


@contextmanager
def full_precision(subject: Subject) -> Iterator[None]:
    """float32 for a while: one feature moves the picture by less than bf16 rounds epsilon. The weights' values stay."""
    dtype = subject.dtype
    cast = nn.Module.to  # diffusers' own `to` warns of models that this one is not
    cast(subject.network, torch.float32)
    subject.dtype = torch.float32
    try:
        yield
    finally:
        cast(subject.network, dtype)
        subject.dtype = dtype


def file_fingerprint(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def portrait_evaluators(device: torch.device) -> tuple[AttributeNet, AttributeNet, PortraitClip]:
    """Labeller, scorer and CLIP of the portraits world."""
    return (AttributeNet.load(MODELS / "evaluators/labeller").to(device), AttributeNet.load(MODELS / "evaluators/scorer").to(device),
            PortraitClip.load(MODELS / "clip").to(device))


def _portraits(device: torch.device, dtype: torch.dtype, folder: Path) -> Subject:
    from diffusers import DDIMPipeline

    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    try:
        pipeline = DDIMPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    except Exception as error:  # whatever a damaged file raises, the user needs its name and one line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"weights in {folder} are missing, damaged or foreign: {reason}") from None
    # channels_last: convolutions need no reordering of their inputs, a fifth of the time in float32 on a CPU
    network = pipeline.unet.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)
    size = network.config.sample_size
    return Subject("portraits", network, pipeline.scheduler, "mid_block", (network.config.in_channels, size, size),
                   portraits.ATTRIBUTES, f"{file_fingerprint(weights)}-{str(dtype)[6:]}", device, dtype,
                   lambda: portrait_evaluators(device), portraits)


SUBJECTS: dict[str, Callable[[torch.device, torch.dtype, Path], Subject]] = {"portraits": _portraits}


def load(name: str, device: str = "auto", *, module: str | None = None, dtype: torch.dtype | None = None,
         folder: Path | None = None) -> Subject:
    """Load a subject by name, ready to sample.

    `module` looks into another module than the bottleneck; `folder` takes the weights from elsewhere. Raises ValueError,
    in one line, for an unknown subject or module and for missing, damaged or foreign weights.
    """
    one_of("subject", name, SUBJECTS)
    where = pick_device(device)
    subject = SUBJECTS[name](where, dtype or fast_dtype(where), folder or MODELS / name)
    if module is not None:
        hooks.find(subject.network, module)
        subject.module = module
    return subject
