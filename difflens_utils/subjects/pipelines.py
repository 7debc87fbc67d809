"""A diffusion model under study, and how a pipeline of diffusers becomes one.

Every subject has a network that predicts noise, a module of it whose output is h, and a decoder
from x_0 to images. Subjects differ in what the network reads beside x_t and t (`Condition`), in
whether x_t is an image or a latent of an autoencoder, and in what the network predicts: epsilon,
x_0, or the velocity of a diffusion or of a flow.

>>> import torch
>>> from difflens_utils.subjects import pipelines, schedulers
>>> network = torch.nn.Module()
>>> network.mid_block = torch.nn.Identity()
>>> module = pipelines.bottleneck(network)
>>> grey = pipelines.Subject("grey", network, schedulers.ddim(), module, (1, 8, 8), "")
>>> grey.module, grey.predicts, grey.size
('mid_block', 'epsilon', 8)
>>> grey.decode(torch.zeros(2, 1, 8, 8)).shape
torch.Size([2, 3, 8, 8])
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor, nn

from .. import evaluators
from ..evaluators import Clip, Evaluator
from ..runtime import keys, placement, precision
from ..runtime.errors import one_of
from ..sampling import hooks
from ..sampling.schedule import trajectory
from ..worlds import Scenes, World
from . import loading, opening, schedulers, unread, upsampling
from .conditions import (
    Classes,
    Condition,
    Prompt,
    Prompts,
    Texts,
    Texts3,
    TextsFlux,
    TextsGemma,
    TextsT5,
    TextsXL,
    UNetClasses,
)
from .paper import Table
from .schedulers import Level, Scheduler

HOST = torch.device("cpu")
MODELS = Path(__file__).parents[2] / "models"
# The settings of a scheduler that decide how DDIM steps are taken.
SAMPLER = """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    prediction_type timestep_spacing steps_offset set_alpha_to_one clip_sample clip_sample_range
    thresholding dynamic_thresholding_ratio sample_max_value
""".split()
FLOW_SAMPLER = ("num_train_timesteps", "shift", "prediction_type", "timestep_spacing")


class Judges(NamedTuple):
    """The networks that look at a subject's images."""

    labeller: Evaluator
    scorer: Evaluator
    clip: Clip
    second: Clip | None = None


# --------------------------------------------------------------------------------------------------
# The model under study


class About(TypedDict, total=False):
    """Fields of a subject that the files of its pipeline do not hold."""

    attributes: tuple[str, ...]
    evaluators: Callable[[], Judges]
    world: World | None
    prompts: Prompts
    guidance: float | None
    condition: Condition
    paper: Table
    reference: Path | None
    measures: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Subject:
    """A diffusion model under study.

    x_t has the `shape` (C, H, W); images are `decode(x_0)`, (B, 3, `size`, `size`) in [-1, 1].
    With guidance (Ho and Salimans, 2022),

        epsilon = e(x, "") + guidance (e(x, text) - e(x, "")),

    the network sees every image twice, [without text; with]. Edits act on the half with the text,
    or on both. Raises ValueError for an attribute that the condition decides.
    """

    native: ClassVar[bool] = False  # whether its pipeline's own call samples it

    name: str
    network: nn.Module
    scheduler: Scheduler  # of `schedulers.studied`
    module: str  # the module whose output is h
    shape: tuple[int, int, int]
    fingerprint: str  # identifies the files that it was read from: weights and configurations
    attributes: tuple[str, ...] = ()  # the attributes whose bias is studied
    condition: Condition = field(default_factory=Condition)
    guidance: float | None = None
    edit_both: bool = False
    pipeline: Any = None  # the `DiffusionPipeline` whose encoders and autoencoder are used, if any
    evaluators: Callable[[], Judges] | None = field(default=None, repr=False)
    world: World | None = None  # the factors of the training data and their shares, if known
    prompts: Prompts = Prompts()
    paper: Table = field(default_factory=dict)  # what the paper reports of what it stands for
    reference: Path | None = None  # a folder of the images that its images should be like
    # Honest names of its measures: FID and CLIP mean Inception and ViT-L/14.
    measures: tuple[str, str] = ("Fréchet distance (its scorer)", "CLIP-I (its CLIP)")
    placed: torch.device | None = None  # where a network computes whose weights are on the host
    waiting: tuple[nn.Module, ...] = ()  # parts that come to the device for as long as they run
    opened: list[object] = field(default_factory=list, repr=False)  # its weights, see `identity`

    def __post_init__(self) -> None:
        if not self.opened:
            self.opened.extend(self._state())
        if decided := set(self.condition.decided(self.world)) & set(self.attributes):
            raise ValueError(
                f"{self.name} is told its {min(decided)}, an attribute under study: its shares "
                "would be the prompts'; leave it out of attributes"
            )

    def _state(self) -> list[object]:
        """A value that changes with the weights in memory, and not with their precision."""
        components = self.pipeline.components.values() if self.pipeline else ()
        networks = [part for part in components if isinstance(part, nn.Module)]
        if self.placed is not None:  # each pass puts other tensors in the places of its weights
            return [keys.state_of(part.parameters()) for part in networks if part != self.network]
        return [keys.state_of(network.parameters()) for network in (self.network, *networks)]

    @property
    def device(self) -> torch.device:
        return self.placed or next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network and of the autoencoder, see `precision.full_precision`."""
        return next(self.network.parameters()).dtype

    @cached_property
    def _judges(self) -> Judges:
        if self.evaluators is None:
            raise ValueError(
                f"subject {self.name} has no evaluators: it can be described and sampled; to judge "
                "its images put a study.yml beside the model (book/howto.md, Bring your own model)"
            )
        return Judges(*self.evaluators())

    @property
    def labeller(self) -> Evaluator:
        """Labels the data that probes and attribution learn from; never scores a result."""
        keys.reading("labeller")
        return self._judges.labeller

    @property
    def scorer(self) -> Evaluator:
        """Scores results; its features give the Fréchet distance."""
        keys.reading("scorer")
        return self._judges.scorer

    @property
    def clip(self) -> Clip:
        """Gives the features of CLIP-T and CLIP-D, and the CLIP-I that strengths are tried by."""
        keys.reading("clip")
        return self._judges.clip

    @property
    def second_clip(self) -> Clip:
        """Tells what edits keep of an image; no method learns from it, or is planned with it.

        It is `clip` where there is no second one, and `second_measure` says so.
        """
        keys.reading("second_clip")
        judges = self._judges
        return judges.clip if judges.second is None else judges.second

    @property
    def second_measure(self) -> str:
        """The honest name of CLIP-I by `second_clip`: which CLIP it is."""
        if self._judges.second is None:
            return f"{self.measures[1]}, which methods learn from"
        return "CLIP-I (a second CLIP, which no method learns from)"

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Everything that the evaluators read: {factor: classes}, the attributes first.

        `keys.reading` does not guard it: a stage that depends on classes takes them as an argument.
        """
        return self._judges.scorer.factors

    def classes(self, attribute: str) -> tuple[str, ...]:
        """The classes of a factor. Raises ValueError, with the known factors, for another name."""
        one_of("attribute", attribute, self.factors)
        return self.factors[attribute]

    def class_texts(self, attribute: str) -> list[str]:
        """One text per class, as captions of the data say it where they are known."""
        if self.world is not None and attribute in self.world.factors:
            return self.world.class_texts(attribute)
        return evaluators.class_texts(attribute, self.classes(attribute))

    def unrelated(self, attribute: str) -> list[str]:
        """The factors that an edit of an attribute should leave alone.

        They are neither the attribute nor, where the causes are known, its effects.
        """
        caused = set(self.world.effects(attribute)) if self.world else set()
        return [f for f in self.factors if f != attribute and f not in caused]

    def identity(self, reads: Sequence[str] = ()) -> dict[str, object]:
        """Returns what determines the images, and the parts of the subject that a stage `reads`.

        It is part of the keys of artifacts; `reads` are among `keys.PARTS`. `runtime` may differ
        between machines for what ships: the precision, and the configuration that diffusers made of
        the files. Raises ValueError for a subject whose weights were changed in memory: its results
        would be stored under the files, which no longer describe it.
        """
        if self._state() != self.opened:
            raise ValueError(
                f"weights of {self.name} were changed since it was opened: save the pipeline to a "
                "folder of its own and open that, or use sampling.sample, which stores nothing"
            )
        parts = {name: self._part(name) for name in reads}
        judges = [parts.get(name) for name in keys.JUDGES]
        identity: dict[str, object] = {
            "files": self.fingerprint,
            "module": self.module,
            "sampler": {name: self.scheduler.config[name] for name in self._sampler},
            "runtime": {
                "dtype": str(self.dtype),
                "scheduler": keys.configuration(self.scheduler),
                "network": keys.configuration(self.network),
            },
            **parts,
            "code": [keys.code_of(judge) for judge in judges if judge is not None],
        }
        if self.guidance is not None:
            identity |= {"guidance": self.guidance, "edit_both": self.edit_both}
        return identity | self.condition.identity()

    @property
    def _sampler(self) -> Sequence[str]:
        return FLOW_SAMPLER if schedulers.is_flow(self.scheduler) else SAMPLER

    def _part(self, name: str) -> object:
        one_of("reads", name, keys.PARTS)
        if name == "data":
            keys.reading("data")
            return self.world
        return self.texts() if name == "texts" else getattr(self, name)

    @property
    def folder(self) -> Path:
        """The folder of what ships with the subject, if it is one that ships."""
        return MODELS / self.name

    def texts(self, prompts: Sequence[Prompt] | None = None) -> list[str]:
        """The texts of some prompts, by default those that results are reported on.

        Images take them in turn.
        """
        if prompts is None:
            keys.reading("texts")
            prompts = self.prompts.evaluate
        return [p.text for p in prompts]

    def describe(self, batch: Scenes) -> list[str] | None:
        """What a prompt says of each image of a world, without naming an attribute.

        None for a model that reads no prompts.
        """
        return self.condition.describe(self, batch)

    @property
    def data(self) -> World:
        """The world. Raises ValueError, in one line, where none is known."""
        keys.reading("data")
        if self.world is None:
            raise ValueError(
                f"nothing is known of the data behind subject {self.name}: this compares with them;"
                " put a study.yml beside the model, or label its reference images "
                "(models/own/label.py)"
            )
        return self.world

    def _known(self, given: Mapping[str, str]) -> dict[str, str]:
        """The entries that are factors of the data. Photographs, for one, have no occupation."""
        return {factor: name for factor, name in given.items() if factor in self.data.factors}

    def planted(self, factor: str, prompt: int | None = None) -> Tensor:
        """P(factor) that a perfect model of the world would show under one prompt: (classes,).

        Without a prompt it is the average over those of the evaluation.
        """
        prompts = self.prompts.evaluate if prompt is None else [self.prompts.evaluate[prompt]]
        shares = [self.data.marginal(factor, self._known(p.given)) for p in prompts]
        return torch.stack(shares).mean(0)

    def renders(self, n: int, seed: int, do: Mapping[str, str] | None = None) -> Tensor:
        """Returns `n` new images of the world: (n, 3, H, W).

        They show what the prompts of the evaluation state, in turn. `do` fixes some factors.
        """
        prompts = self.prompts.evaluate
        images = torch.empty(n, 3, self.size, self.size)
        for i, prompt in enumerate(prompts):
            count = len(range(i, n, len(prompts)))
            fixed = self._known(dict(prompt.given) | dict(do or {}))
            batch = self.data.sample(count, seed + 10_000 * i, do=fixed)
            images[i :: len(prompts)] = self.data.render(batch, self.size)
        return images

    def parts(self, images: int) -> tuple[slice, ...]:
        """The slices of the network's batch that an edit acts on, of one row per image each."""
        if self.guidance is None:
            return hooks.WHOLE
        halves = slice(0, images), slice(images, 2 * images)
        return halves if self.edit_both else halves[1:]

    def embed(self, texts: Sequence[str]) -> dict[str, Any]:
        """What the network reads of B texts: {name of its argument: (B, ...)}.

        Of Stable Diffusion that is {"encoder_hidden_states": (B, L, F)}.
        """
        return self.condition.arguments(self, texts)

    def times(self, steps: int, eta: float = 0.0) -> tuple[float, ...]:
        """The timesteps of a generation, the noisiest first."""
        return trajectory(self, steps, eta).timesteps

    def pass_once(self, images: int = 1) -> None:
        """Runs network and decoder once, for what hooks see of them and the memory they take."""
        x = torch.zeros(images, *self.shape, device=self.device)
        self.decode(self.predict(x, self.scheduler.config["num_train_timesteps"] // 2))

    def level(self, t: float) -> Level:
        """The noise level at a timestep: x_t = keep x_0 + spread epsilon."""
        return schedulers.level(self.scheduler, t)

    def predict(
        self, x: Tensor, timestep: float, texts: Sequence[str] | None = None, guided: bool = True
    ) -> Tensor:
        """Returns the prediction of the network for x_t: (B, C, H, W) float32.

        `predicts` names what it predicts. `texts` are one per image. None stands for empty texts,
        or, for a model without an empty text, for those of the evaluation in turn. `guided` uses
        guidance, where there is any, and otherwise the text alone. Learned variances, where a model
        has them, are cut off. Behind a fork (`hooks.fork`) the batch is [plain; edited],
        (copies B, ...).
        """
        if texts is None:
            texts = self.condition.default_texts(self, len(x))
        if self.guidance is None or not guided:
            return self._run(x, timestep, texts)
        out = self._run(torch.cat([x, x]), timestep, [*[""] * len(x), *texts])
        return self._guide(out, len(x), self.guidance)

    def epsilon(
        self, x: Tensor, timestep: float, texts: Sequence[str] | None = None, guided: bool = True
    ) -> Tensor:
        """Returns the prediction of the network as noise: (B, C, H, W) float32.

        With x_t = keep x_0 + spread epsilon, x_0 becomes (x_t - keep x_0) / spread, the velocity v
        of a diffusion spread x_t + keep v (Salimans and Ho, 2022), and that of a flow x_t + keep v.
        """
        predicted = self.predict(x, timestep, texts, guided)
        if self.predicts == "epsilon":
            return predicted
        keep, spread = self.level(timestep)
        x = x.repeat(len(predicted) // len(x), 1, 1, 1)
        if self.predicts == "sample":
            return (x - keep * predicted) / spread
        if self.predicts == schedulers.FLOW:
            return x + keep * predicted
        return keep * predicted + spread * x

    def _run(self, x: Tensor, timestep: float, texts: Sequence[str]) -> Tensor:
        return self.condition.answer(self, x, timestep, texts)[:, : self.shape[0]].float()

    def _guide(self, out: Tensor, images: int, scale: float) -> Tensor:
        without, text, edited = out[:images], out[images : 2 * images], out[2 * images :]
        plain = without + scale * (text - without)
        if len(edited) == 0:
            return plain
        if self.edit_both:
            base, edited = edited.chunk(2)
        else:
            base = without.repeat(len(edited) // images, 1, 1, 1)
        return torch.cat([plain, base + scale * (edited - base)])

    @property
    def predicts(self) -> str:
        """What the network predicts: epsilon, v_prediction, sample (x_0), or flow_prediction."""
        return str(self.scheduler.config["prediction_type"])

    @property
    def spacing(self) -> str:
        """The spacing of the timesteps that the model is sampled at, see `sampling.timesteps`."""
        return str(self.scheduler.config["timestep_spacing"])

    @property
    def autoencoder(self) -> Any:
        """The autoencoder of a latent diffusion model, or None for a model in pixel space."""
        return getattr(self.pipeline, "vae", None)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules that compute in `dtype`."""
        return (self.network, self.autoencoder) if self.autoencoder else (self.network,)

    @property
    def size(self) -> int:
        """Width and height of an image."""
        if self.autoencoder is None:
            return self.shape[-1]
        config = self.autoencoder.config
        widths = config.get("block_out_channels") or config["encoder_block_out_channels"]
        return int(self.shape[-1] * 2 ** (len(widths) - 1))

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to x_0, (B, C, H', W').

        In pixel space x_0 is the image, or the mean of its channels where images are grey. In
        latent space it is the mean of the scaled latents.
        """
        vae = self.autoencoder
        images = images.float()  # those that are stored are float16
        if vae is None:
            return images.mean(1, keepdim=True) if self.shape[0] == 1 else images
        encoded = vae.encode(images.to(self.dtype))
        latents: Tensor = encoded.latent_dist.mean if "latent_dist" in encoded else encoded.latent
        return (latents.float() - self._shift) * float(vae.config.scaling_factor)

    def decode(self, x: Tensor) -> Tensor:
        """x_0 to images (B, 3, H, W). Grey images get three equal channels."""
        vae = self.autoencoder
        if vae is None:
            return x.expand(-1, 3, -1, -1) if self.shape[0] == 1 else x
        latents = x / vae.config.scaling_factor + self._shift
        images: Tensor = vae.decode(latents.to(self.dtype)).sample
        return images.float()

    @property
    def _shift(self) -> float:
        """What the autoencoder's latents are moved by before they are scaled."""
        return float(self.autoencoder.config.get("shift_factor") or 0.0)


# --------------------------------------------------------------------------------------------------
# From a pipeline on disk


class Kind(NamedTuple):
    """How a pipeline of diffusers is read."""

    parts: Mapping[str, tuple[str, ...]]  # {part with weights: its classes}, the network first
    condition: Callable[[], Condition] | None = None  # None: its files tell, see `_condition`
    options: Mapping[str, Any] = {}  # of the pipeline: None for what is not run
    side: int | None = None  # width of x_t, where the network's settings do not tell it
    packed: int = 1  # channels of the network's input per channel of x_t
    spacing: str = "linspace"  # the grid of a flow's sigmas


_PIXELS = Kind({"unet": ("UNet2DModel",)})
_LATENT = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}
_XL = _LATENT | {"text_encoder_2": ("CLIPTextModelWithProjection",)}
_DIT = {"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",)}
_KL = ("AutoencoderKL",)
_T5 = ("T5EncoderModel",)
_CLIP = ("CLIPTextModelWithProjection",)
_SD3 = {
    "transformer": ("SD3Transformer2DModel",),
    "vae": _KL,
    "text_encoder": _CLIP,
    "text_encoder_2": _CLIP,
    "text_encoder_3": _T5,
}
_FLUX = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": _KL,
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": _T5,
}
_PIXART = {
    "transformer": ("PixArtTransformer2DModel", "Transformer2DModel"),
    "vae": _KL,
    "text_encoder": _T5,
}
_SANA = {
    "transformer": ("SanaTransformer2DModel",),
    "vae": ("AutoencoderDC",),
    "text_encoder": ("Gemma2Model", "Gemma2ForCausalLM"),
}
_UNUSED: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}
KINDS = {
    "DDPMPipeline": _PIXELS,
    "DDIMPipeline": _PIXELS,
    "StableDiffusionPipeline": Kind(_LATENT, Texts, _UNUSED | _UNCHECKED),
    "StableDiffusionXLPipeline": Kind(_XL, TextsXL, _UNUSED),
    "DiTPipeline": Kind(_DIT),
    "StableDiffusion3Pipeline": Kind(_SD3, Texts3, _UNUSED),
    "FluxPipeline": Kind(_FLUX, TextsFlux, _UNUSED, side=128, packed=4, spacing="trailing"),
    "PixArtAlphaPipeline": Kind(_PIXART, TextsT5),
    "PixArtSigmaPipeline": Kind(_PIXART, TextsT5),
    "SanaPipeline": Kind(_SANA, TextsGemma),
}
# Parts that a pipeline may go without, and what goes with them.
OPTIONAL = {"text_encoder_3": "tokenizer_3"}
LARGE = 256  # pixels a side from which on the autoencoder takes images one by one, for its memory
# Parts that no image of the study depends on.
UNREAD = {"safety_checker", "feature_extractor", "image_encoder"}
READABLE = {".json", ".txt", ".model"}  # suffixes of settings and vocabularies


def read(
    name: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    module: str | None = None,
    **about: Unpack[About],
) -> Subject:
    """A pipeline from disk as a subject; `about` are further fields of it.

    Raises ValueError, in one line, for files that are missing, damaged or foreign, for a kind of
    pipeline or scheduler that cannot be studied, and where no module is named and no bottleneck is
    found.
    """
    index = opening.index(folder, KINDS)
    kind = KINDS[index["_class_name"]]
    parts = [part for part in kind.parts if part not in OPTIONAL or any(index.get(part) or ())]
    classes = {part: opening.declared(folder, index, part, kind.parts[part]) for part in parts}
    config = opening.network(folder, index, parts, kind.side, kind.packed)
    condition = about.get("condition") or _condition(kind, folder, index, config)
    pipeline, placed = _pipeline(folder, index, classes, device, dtype)
    network = getattr(pipeline, parts[0])
    known: About = {"guidance": condition.guidance, "prompts": Prompts(), **about}
    known["condition"] = condition
    if known["prompts"] == Prompts():
        known["prompts"] = condition.prompts(known.get("world"))
    shape = opening.shape(config)
    tokens = (shape[-1] // config.get("patch_size", 1)) ** 2 // kind.packed
    scheduler = schedulers.studied(pipeline.scheduler, f"scheduler of {name}", tokens, kind.spacing)
    subject = Subject(
        name,
        network,
        scheduler,
        module or bottleneck(network),
        shape,
        fingerprint(folder, parts),
        pipeline=pipeline,
        placed=device if placed.streamed else None,
        waiting=tuple(getattr(pipeline, part) for part in placed.waiting),
        **known,
    )
    if placement.worth_compiling(network, device) and not placed.streamed:
        placement.compile_blocks(network, subject.module)
    if subject.autoencoder is not None and subject.size >= LARGE:
        subject.autoencoder.enable_slicing()
    return subject


def _pipeline(
    folder: Path,
    index: opening.Config,
    classes: Mapping[str, type],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Any, placement.Placement]:
    """The `DiffusionPipeline` of a folder, its parts {name: class} ready to be run in `dtype`.

    Beside it stands what of it waits on the host.
    """
    path = opening.place(folder, "scheduler") / "scheduler_config.json"
    scheduler = loading.scheduler(path, *opening.scheduler(folder, index))
    schedulers.check(scheduler, path)
    parts: dict[str, Any] = {"scheduler": scheduler}
    for part, kind in classes.items():
        parts[part] = loading.part(kind, opening.place(folder, part), dtype)
    name = index["_class_name"]
    for part, tokenizer in OPTIONAL.items():
        if part in KINDS[name].parts and part not in classes:
            parts |= {part: None, tokenizer: None}
    pipeline = loading.pipeline(folder, name, **parts, **KINDS[name].options)
    placed = placed_on(pipeline, list(classes), device)
    for part in classes:
        module = getattr(pipeline, part)
        waits = part in placed.waiting
        away = waits or (placed.streamed and part == next(iter(classes)))
        ready(module, device, away)
        if part.startswith("text_encoder") and not waits:  # it runs once per text
            precision.move(module, dtype=torch.float32)
    if placed.streamed:
        placement.stream(getattr(pipeline, next(iter(classes))), device)
    return pipeline, placed


def placed_on(pipeline: Any, parts: Sequence[str], device: torch.device) -> placement.Placement:
    """What of a pipeline waits on the host, because the GPU has too little memory for it."""
    if device.type != "cuda":
        return placement.Placement((), False)
    sizes = {part: placement.weight(getattr(pipeline, part)) for part in parts}
    return placement.plan(sizes, torch.cuda.mem_get_info()[0])


def _condition(
    kind: Kind, folder: Path, index: opening.Config, config: opening.Config
) -> Condition:
    """What the network of a pipeline reads beside x_t and t."""
    if kind.condition is not None:
        return kind.condition()
    if count := config.get("num_embeds_ada_norm"):
        return Classes(opening.labels(folder, index, count), count)
    if count := config.get("num_class_embeds"):
        return UNetClasses(opening.labels(folder, index, count), count)
    return Condition()


def ready(network: nn.Module, device: torch.device, away: bool = False) -> nn.Module:
    """The network on the device where it is run, to be run and not trained; if `away`, on the host.

    In channels_last convolutions need not reorder their inputs, which saves a fifth of the time in
    float32 on a CPU. What no weight reads is left out. Upsamplings are merged with the convolutions
    behind them in float32 on a CPU: there it is measured to save time, and sums are not rounded.
    """
    unread.leave_out(network)
    dtypes = {weight.dtype for weight in network.parameters()}
    if device.type == "cpu" and dtypes == {torch.float32}:
        upsampling.merge(network)
    precision.move(network, device=HOST if away else device)
    precision.move(network, memory_format=torch.channels_last)
    return network.eval().requires_grad_(False)


def bottleneck(network: nn.Module) -> str:
    """Returns the module whose output is h by default: the middle of a U-Net or of a transformer.

    Raises ValueError, in one line, for a network that has neither.
    """
    if getattr(network, "mid_block", None) is not None:
        return "mid_block"
    children = dict(network.named_children())
    blocks = children.get("transformer_blocks")
    if isinstance(blocks, nn.ModuleList) and len(blocks) > 0:
        return f"transformer_blocks.{len(blocks) // 2}"
    raise ValueError(
        f"{type(network).__name__} has neither mid_block nor transformer_blocks to look into; name "
        f"a module of it as parameter module: {', '.join(children)}"
    )


def fingerprint(folder: Path, parts: Collection[str]) -> str:
    """16 hex digits that stand for all files of a pipeline that its images depend on: weights,
    configurations, tokenizers.
    """
    index = json.loads((folder / "model_index.json").read_text())
    entries = {name: value for name, value in index.items() if isinstance(value, list)}
    named = [name for name, value in entries.items() if any(value) and name not in UNREAD]
    components = dict.fromkeys([*parts, *sorted(named)])
    weighty = {opening.place(folder, part) for part in parts}
    files: list[Path] = []
    for place in dict.fromkeys(opening.place(folder, name) for name in components):
        files += loading.files(place).paths if place in weighty else ()
        files += sorted(path for path in place.iterdir() if path.suffix in READABLE)
    files = [path for path in files if path.name != "model_index.json"]
    settings = {k: v for k, v in index.items() if k not in entries and k not in keys.UNSAID}
    return keys.key_of({"files": keys.of_files(files), "about": keys.in_order(settings)})
