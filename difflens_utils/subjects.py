"""Subjects: what is studied. A diffusers pipeline, the module to look into, what it is asked for, and the evaluators that judge it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from . import gpu, hooks, occupations, portraits
from .errors import one_of
from .evaluators import AttributeNet, PortraitClip
from .paper import TABLE_1, TABLE_2, Table
from .worlds import Portraits, World

MODELS = Path(__file__).parents[1] / "models"


@dataclass(frozen=True)
class Prompt:
    """A text, and what it states of the world: {factor: class}. The empty one is that of a model without text."""

    text: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    without: str = ""  # the same text without the class that it names


@dataclass(frozen=True)
class Prompts:
    """What each stage asks for (Appendices B.1 and C.1). A model without text is asked for nothing throughout."""

    evaluate: tuple[Prompt, ...] = (Prompt(),)  # what results are reported on
    learn: tuple[Prompt, ...] = (Prompt(),)  # what the k-SAE and the features are learned from
    probe: tuple[Prompt, ...] = (Prompt(),)  # what the h-classifiers are learned from
    held_out: tuple[Prompt, ...] = ()  # what nothing is learned from or tuned on


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
    world: World | None = None  # where the training data came from, if it is known: its factors and their shares
    prompts: Prompts = Prompts()
    paper: Table = field(default_factory=dict)  # what the paper reports of the model that it stands for

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

    def asked(self, prompts: Sequence[Prompt] | None = None) -> dict[str, object]:
        """What a model with text is asked for, and how, for the keys of artifacts; nothing for others."""
        return {}

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

    def texts(self, prompts: Sequence[Prompt] | None = None) -> list[str]:
        """The texts of some prompts, by default those that results are reported on; images take them in turn."""
        return [p.text for p in (self.prompts.evaluate if prompts is None else prompts)]

    def describe(self, batch: Portraits) -> list[str] | None:
        """What a prompt says of rendered portraits without naming an attribute; None for a model without text."""
        return None

    def planted(self, factor: str, prompt: int | None = None) -> Tensor:
        """P(factor) that a perfect model of the world would show under one prompt, or on average over those of the evaluation: (classes,)."""
        asked = self.prompts.evaluate if prompt is None else [self.prompts.evaluate[prompt]]
        return torch.stack([self.world.marginal(factor, p.given) for p in asked]).mean(0)

    def renders(self, n: int, seed: int, do: Mapping[str, str] | None = None) -> Tensor:
        """`n` fresh renders of what the prompts of the evaluation ask for, in turn, with some factors fixed: (n, 3, H, W)."""
        asked = [dict(p.given) | dict(do or {}) for p in self.prompts.evaluate]
        counts = [len(range(g, n, len(asked))) for g in range(len(asked))]
        images = torch.empty(n, 3, self.size, self.size)
        for g, (fixed, count) in enumerate(zip(asked, counts, strict=True)):
            images[g :: len(asked)] = self.world.render(self.world.sample(count, seed + 10_000 * g, do=fixed), self.size)
        return images

    def parts(self, images: int) -> tuple[slice, ...]:
        """Where in the batch that the network sees for so many images an edit acts: slices with one row per image."""
        return hooks.WHOLE

    def epsilon(self, x: Tensor, timestep: int, texts: Sequence[str] | None = None) -> Tensor:
        """Predicted noise for x_t: (B, C, H, W) float32; learned variances, where a model has them, are cut off.

        `texts` are one per image; None is the empty one, and a model without text reads none.
        """
        t = torch.full((len(x),), timestep, device=x.device)
        return self.network(x.to(self.dtype), t, return_dict=False)[0][:, : self.shape[0]].float()

    def encode(self, images: Tensor) -> Tensor:
        """Images to x_0: the identity for pixel-space models."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """x_0 to images: the identity for pixel-space models."""
        return x

    @property
    def size(self) -> int:
        """Width and height of an image."""
        return self.shape[-1]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What computes in `dtype`."""
        return (self.network,)


@dataclass
class TextSubject(Subject):
    """A latent diffusion model with text and classifier-free guidance (Rombach et al., 2022; Ho and Salimans, 2022).

        epsilon = e(x, "") + guidance (e(x, text) - e(x, ""))

    The network sees every image twice, [without text; with]. Edits act on the half with the text, or on both.
    """

    pipeline: object = None  # a `StableDiffusionPipeline`
    guidance: float = 2.0
    edit_both: bool = False
    _embedded: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def asked(self, prompts: Sequence[Prompt] | None = None) -> dict[str, object]:
        return {"texts": self.texts(prompts), "guidance": self.guidance, "edit_both": self.edit_both}

    def parts(self, images: int) -> tuple[slice, ...]:
        halves = slice(0, images), slice(images, 2 * images)
        return halves if self.edit_both else halves[1:]

    def describe(self, batch: Portraits) -> list[str]:
        occupation = self.world.factors["occupation"].classes
        return [occupations.neutral(occupation[i]) for i in batch.labels["occupation"].tolist()]

    def embed(self, texts: Sequence[str]) -> Tensor:
        """What the text encoder makes of B texts: (B, L, F)."""
        if unknown := [text for text in dict.fromkeys(texts) if text not in self._embedded]:
            tokeniser = self.pipeline.tokenizer
            tokens = tokeniser(unknown, padding="max_length", max_length=tokeniser.model_max_length, truncation=True, return_tensors="pt")
            with torch.no_grad():
                states = self.pipeline.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state.float()
            self._embedded.update(zip(unknown, states, strict=True))
        return torch.stack([self._embedded[text] for text in texts])

    def epsilon(self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, guided: bool = True) -> Tensor:
        """Predicted noise with guidance, or what the network says with the text alone: (B, C, H, W) float32.

        Behind a fork (`hooks.fork`) its batch is [plain; edited], (copies B, ...).
        """
        texts = [""] * len(x) if texts is None else texts
        condition = self.embed([*[""] * len(x), *texts] if guided else texts).to(self.dtype)
        seen = torch.cat([x, x]) if guided else x
        t = torch.full((len(seen),), timestep, device=x.device)
        out = self.network(seen.to(self.dtype), t, condition, return_dict=False)[0].float()
        return self._guide(out, len(x)) if guided else out

    def _guide(self, out: Tensor, images: int) -> Tensor:
        without, text, edited = out[:images], out[images : 2 * images], out[2 * images :]
        plain = without + self.guidance * (text - without)
        if len(edited) == 0:
            return plain
        if self.edit_both:
            base, edited = edited.chunk(2)
        else:
            base = without.repeat(len(edited) // images, 1, 1, 1)
        return torch.cat([plain, base + self.guidance * (edited - base)])

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the means of their scaled latents, x_0."""
        vae = self.pipeline.vae
        return vae.encode(images.to(self.dtype)).latent_dist.mean.float() * vae.config.scaling_factor

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode((x / vae.config.scaling_factor).to(self.dtype)).sample.float()

    @property
    def size(self) -> int:
        return self.pipeline.vae.config.sample_size

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network, self.pipeline.vae)


def pick_device(device: str = "auto") -> torch.device:
    """"auto" is CUDA where there is one, else the CPU."""
    one_of("device", device, ("auto", "cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but torch sees no GPU; take device=cpu or install torch's CUDA build")
    return gpu.take() if device != "cpu" and torch.cuda.is_available() else torch.device("cpu")


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

    def cast(to: torch.dtype) -> None:
        for module in subject.modules:
            nn.Module.to(module, to)  # diffusers' own `to` warns of models that this one is not
        subject.dtype = to

    cast(torch.float32)
    try:
        with gpu.exact():
            yield
    finally:
        cast(dtype)


def file_fingerprint(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        for chunk in iter(lambda: f.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def portrait_evaluators(device: torch.device, networks: Path = MODELS / "evaluators", clip: Path = MODELS / "clip",
                        ) -> tuple[AttributeNet, AttributeNet, PortraitClip]:
    """Labeller, scorer and CLIP of a world of portraits."""
    return (*(AttributeNet.load(networks / name).to(device) for name in ("labeller", "scorer")), PortraitClip.load(clip).to(device))


def _read(pipeline: type, folder: Path, dtype: torch.dtype, **options: object) -> object:
    """A diffusers pipeline from disk; ValueError, in one line, for whatever is wrong with its files."""
    try:
        return pipeline.from_pretrained(folder, dtype=dtype, local_files_only=True, **options)
    except Exception as error:  # whatever a damaged file raises, the user needs its name and one line
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"weights in {folder} are missing, damaged or foreign: {reason}") from None


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    # channels_last: convolutions need no reordering of their inputs, a fifth of the time in float32 on a CPU
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _portraits(device: torch.device, dtype: torch.dtype, folder: Path) -> Subject:
    from diffusers import DDIMPipeline

    pipeline = _read(DDIMPipeline, folder, dtype)
    network = _ready(pipeline.unet, device)
    size = network.config.sample_size
    return Subject("portraits", network, pipeline.scheduler, "mid_block", (network.config.in_channels, size, size),
                   portraits.ATTRIBUTES, _fingerprint(dtype, folder / "unet"), device, dtype,
                   lambda: portrait_evaluators(device), portraits.WORLD,
                   paper=TABLE_1)


def _fingerprint(dtype: torch.dtype, *folders: Path) -> str:
    """That of the weights in some folders of a pipeline, and of the precision they run in."""
    files = [file for folder in folders for file in sorted(folder.glob("*.safetensors"))]
    return f"{'.'.join(file_fingerprint(file)[: 16 // len(files)] for file in files)}-{str(dtype)[6:]}"


_EVALUATED = ("doctor", "firefighter", "nurse", "receptionist")  # the paper's
_LEARNED = (*_EVALUATED, "builder", "farmer", "waiter", "athlete")  # the others are held out


def _occupation_prompts() -> Prompts:
    """Those of the paper: "a face of a {occupation}", "a face photo of a(an) {class} {occupation}", "a {gender} {age} {tone} person"."""
    classes = {a: occupations.WORLD.factors[a].classes for a in occupations.ATTRIBUTES}
    neutral = {o: Prompt(occupations.neutral(o), {"occupation": o}) for o in occupations.OCCUPATIONS}
    learn = tuple(Prompt(f"a face photo of {occupations.phrase({a: c}, o)}", {"occupation": o, a: c}, f"a face photo of {occupations.phrase({}, o)}")
                  for a, names in classes.items() for c in names for o in _LEARNED)
    probe = tuple(Prompt(occupations.phrase(named), {"occupation": "none", **named})
                  for named in (dict(zip(classes, v, strict=True)) for v in itertools.product(*classes.values())))
    return Prompts(tuple(neutral[o] for o in _EVALUATED), learn, probe, tuple(p for o, p in neutral.items() if o not in _LEARNED))


def _portraits_t2i(device: torch.device, dtype: torch.dtype, folder: Path) -> Subject:
    from diffusers import StableDiffusionPipeline

    pipeline = _read(StableDiffusionPipeline, folder, dtype, safety_checker=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    network = _ready(pipeline.unet, device)
    _ready(pipeline.vae, device)
    nn.Module.to(pipeline.text_encoder, device=device, dtype=torch.float32).eval().requires_grad_(False)  # it runs once per text
    size = network.config.sample_size
    return TextSubject("portraits-t2i", network, pipeline.scheduler, "mid_block", (network.config.in_channels, size, size),
                       occupations.ATTRIBUTES, _fingerprint(dtype, folder / "unet", folder / "vae", folder / "text_encoder"), device, dtype,
                       lambda: portrait_evaluators(device, MODELS / "portraits-t2i/evaluators", MODELS / "portraits-t2i/clip"),
                       occupations.WORLD, _occupation_prompts(), TABLE_2, pipeline)


SUBJECTS: dict[str, Callable[[torch.device, torch.dtype, Path], Subject]] = {"portraits": _portraits, "portraits-t2i": _portraits_t2i}


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
