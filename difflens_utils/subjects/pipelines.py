"""A diffusion model under study, and how a pipeline of diffusers becomes one.

Every subject has a network that predicts noise, a module of it whose output is h, and a decoder
from x_0 to images. Subjects differ in what the network reads beside x_t and t (`Condition`), in
whether x_t is an image or a latent of an autoencoder, and in what the network predicts: epsilon,
the velocity or x_0.

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

from ..evaluators import Clip, Evaluator
from ..runtime import keys, precision
from ..runtime.errors import one_of
from ..sampling import hooks
from ..worlds import Scenes, World
from . import loading, opening, schedulers, unread
from .paper import Table
from .schedulers import Scheduler

MODELS = Path(__file__).parents[2] / "models"
# The settings of a scheduler that decide how DDIM steps are taken.
SAMPLER = """
    num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr
    prediction_type timestep_spacing steps_offset set_alpha_to_one clip_sample clip_sample_range
    thresholding dynamic_thresholding_ratio sample_max_value
""".split()


class Judges(NamedTuple):
    """The networks that look at a subject's images."""

    labeller: Evaluator
    scorer: Evaluator
    clip: Clip
    second: Clip | None = None


# --------------------------------------------------------------------------------------------------
# What a network is conditioned on


@dataclass(frozen=True)
class Prompt:
    """A text and what it states of the image, {factor: class}.

    The empty prompt is that of a model that reads no text.
    """

    text: str = ""
    given: Mapping[str, str] = field(default_factory=dict)
    without: str = ""  # the same text without the class that it names


@dataclass(frozen=True)
class Prompts:
    """The prompts of each stage (Appendices B.1 and C.1)."""

    evaluate: tuple[Prompt, ...] = (Prompt(),)  # results are reported on these
    learn: tuple[Prompt, ...] = (Prompt(),)  # the k-SAE and the features are learned from these
    probe: tuple[Prompt, ...] = (Prompt(),)  # the h-classifiers are learned from these
    held_out: tuple[Prompt, ...] = ()  # nothing is learned from or tuned on these

    def neutral(self, names: Mapping[str, str]) -> str:
        """Describes an image of the classes {factor: class} where no prompt does."""
        return ""


class Condition:
    """What the network reads beside x_t and t. The base class reads nothing, subclasses more."""

    guidance: ClassVar[float | None] = None  # the default scale; None: no guidance is possible

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        """The network's further arguments for B texts: {name: (B, ...)}."""
        return {}

    def default_texts(self, subject: Subject, images: int) -> list[str]:
        """The texts of a number of images, where none are given."""
        return [""] * images

    def describe(self, subject: Subject, batch: Scenes) -> list[str] | None:
        """See `Subject.describe`."""
        return None

    def prompts(self, world: World | None) -> Prompts:
        """The prompts where none are given."""
        return Prompts()

    def decided(self, world: World | None) -> tuple[str, ...]:
        """The factors of a world that the condition decides in every image."""
        return ()

    def identity(self) -> dict[str, object]:
        """What the condition adds to `Subject.identity`."""
        return {}


class Prompted(Condition):
    """A text for each image, which may be empty, so that guidance is possible."""

    def describe(self, subject: Subject, batch: Scenes) -> list[str]:
        keys.reading("prompts")
        return [_true_prompt(subject, subject.data.names(batch, i)) for i in range(len(batch))]


def _true_prompt(subject: Subject, names: Mapping[str, str]) -> str:
    """Returns the text of the first prompt of the evaluation that is true of these classes.

    The prompt states something, and no attribute. Without such a prompt it is the neutral text.
    """
    for prompt in subject.prompts.evaluate:
        states_attribute = prompt.given.keys() & set(subject.attributes)
        if prompt.given and not states_attribute and prompt.given.items() <= names.items():
            return prompt.text
    return subject.prompts.neutral(names)


class Texts(Prompted):
    """Texts, as the encoder of a `StableDiffusionPipeline` embeds them (Rombach et al., 2022)."""

    guidance = 7.5

    def __init__(self) -> None:
        self.embedded: dict[str, dict[str, Tensor]] = {}  # each text is encoded once

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        new = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        if new:
            with torch.no_grad():
                encoded = self._encode(subject, new)
            for i, text in enumerate(new):
                self.embedded[text] = {name: rows[i] for name, rows in encoded.items()}
        rows = [self.embedded[text] for text in texts]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {name: value.to(subject.dtype) for name, value in stacked.items()}

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        states = subject.pipeline.encode_prompt(texts, subject.device, 1, False)[0]
        return {"encoder_hidden_states": states}


class TextsXL(Texts):
    """Texts for Stable Diffusion XL (Podell et al., 2023).

    Its network reads the states of two text encoders, the pooled output of the second, and the size
    of the image.
    """

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        read = super().arguments(subject, texts)
        side = subject.size
        sizes = [side, side, 0, 0, side, side]  # original size, crop, target size
        times = torch.tensor(sizes, device=subject.device).expand(len(texts), -1)
        added = {"text_embeds": read.pop("text_embeds"), "time_ids": times}
        return read | {"added_cond_kwargs": added}

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        pipeline = subject.pipeline
        states, _, pooled, _ = pipeline.encode_prompt(texts, None, subject.device, 1, False)
        if pipeline.config.force_zeros_for_empty_prompt:  # so it was trained
            named = torch.tensor([bool(text) for text in texts], device=subject.device)
            states = states * named[:, None, None]
            pooled = pooled * named[:, None]
        return {"encoder_hidden_states": states, "text_embeds": pooled}


@dataclass(frozen=True, eq=False)
class Classes(Prompted):
    """Classes of a DiT (Peebles and Xie, 2023), by name or number; the empty text is no class.

    h of a transformer is (B, tokens, C).
    """

    guidance: ClassVar[float | None] = 4.0
    labels: Mapping[str, int]  # {name: number}, the main name of a class first
    count: int

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        numbers = [self._number(subject, text) for text in texts]
        return {"class_labels": torch.tensor(numbers, device=subject.device)}

    def _number(self, subject: Subject, text: str) -> int:
        return self._find(text, "class") if text else self.count

    def _find(self, text: str, parameter: str) -> int:
        numbers = {str(i): i for i in range(self.count)} | dict(self.labels)
        if text not in numbers:
            one_of(parameter, text, self.labels or numbers)
        return numbers[text]


class UNetClasses(Classes):
    """Classes of a U-Net in pixels. Every image has one: there is no empty text, and no guidance.

    Where no prompts are given, images have all classes in turn.
    """

    guidance = None

    @property
    def names(self) -> list[str]:
        """The main name of each class, in the order of their numbers."""
        names: dict[int, str] = {}
        for name, number in self.labels.items():
            names.setdefault(number, name)
        return [names.get(i, str(i)) for i in range(self.count)]

    def _number(self, subject: Subject, text: str) -> int:
        return self._find(
            text, f"class of {subject.name}, which cannot be asked for anything else,"
        )

    def default_texts(self, subject: Subject, images: int) -> list[str]:
        texts = subject.texts()
        return [texts[i % len(texts)] for i in range(images)]

    def decided(self, world: World | None) -> tuple[str, ...]:
        factors = {} if world is None else world.factors
        classes = set(self.names)
        return tuple(name for name, factor in factors.items() if set(factor.classes) == classes)

    def prompts(self, world: World | None) -> Prompts:
        decided = self.decided(world)
        every = tuple(Prompt(name, dict.fromkeys(decided, name)) for name in self.names)
        return Prompts(every, every, every)

    def describe(self, subject: Subject, batch: Scenes) -> list[str]:
        """The class that is drawn where the data have it as a factor, else all classes in turn."""
        for factor in self.decided(subject.world):
            classes = subject.data.factors[factor].classes
            return [classes[i] for i in batch.labels[factor].tolist()]
        names = self.names
        return [names[i % len(names)] for i in range(len(batch))]

    def identity(self) -> dict[str, object]:
        return {"labels": dict(self.labels)}


# --------------------------------------------------------------------------------------------------
# The model under study


class About(TypedDict, total=False):
    """Fields of a subject that the files of its pipeline do not hold."""

    attributes: tuple[str, ...]
    evaluators: Callable[[], Judges]
    world: World | None
    prompts: Prompts
    guidance: float | None
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

    name: str
    network: nn.Module
    scheduler: Scheduler  # a `DDIMScheduler`
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
        return [keys.state_of(network.parameters()) for network in (self.network, *networks)]

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

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
            "sampler": {name: self.scheduler.config[name] for name in SAMPLER},
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

    def predict(
        self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, guided: bool = True
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
        self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, guided: bool = True
    ) -> Tensor:
        """Returns the prediction of the network as noise: (B, C, H, W) float32.

        A velocity v becomes sqrt(a) v + sqrt(1 - a) x_t (Salimans and Ho, 2022), and x_0 becomes
        (x_t - sqrt(a) x_0) / sqrt(1 - a).
        """
        predicted = self.predict(x, timestep, texts, guided)
        if self.predicts == "epsilon":
            return predicted
        a = float(self.scheduler.alphas_cumprod[timestep])
        keep: float = a**0.5
        spread: float = (1 - a) ** 0.5
        x = x.repeat(len(predicted) // len(x), 1, 1, 1)
        if self.predicts == "sample":
            return (x - keep * predicted) / spread
        return keep * predicted + spread * x

    def _run(self, x: Tensor, timestep: int, texts: Sequence[str]) -> Tensor:
        t = torch.full((len(x),), timestep, device=x.device)
        out: Tensor = self.network(x.to(self.dtype), t, **self.embed(texts), return_dict=False)[0]
        return out[:, : self.shape[0]].float()

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
        """What the network predicts: epsilon, v_prediction, or sample, which is x_0."""
        return str(self.scheduler.config["prediction_type"])

    @property
    def spacing(self) -> str:
        """The spacing of the timesteps that the model is sampled at, see `sampling.timesteps`."""
        return str(self.scheduler.config["timestep_spacing"])

    @property
    def autoencoder(self) -> Any:
        """The `AutoencoderKL` of a latent diffusion model, or None for a model in pixel space."""
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
        halvings = len(self.autoencoder.config.block_out_channels) - 1
        return int(self.shape[-1] * 2**halvings)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to x_0, (B, C, H', W').

        In pixel space x_0 is the image, or the mean of its channels where images are grey. In
        latent space it is the mean of the scaled latents.
        """
        vae = self.autoencoder
        if vae is None:
            return images.mean(1, keepdim=True) if self.shape[0] == 1 else images
        latents: Tensor = vae.encode(images.to(self.dtype)).latent_dist.mean.float()
        return latents * float(vae.config.scaling_factor)

    def decode(self, x: Tensor) -> Tensor:
        """x_0 to images (B, 3, H, W). Grey images get three equal channels."""
        vae = self.autoencoder
        if vae is None:
            return x.expand(-1, 3, -1, -1) if self.shape[0] == 1 else x
        images: Tensor = vae.decode((x / vae.config.scaling_factor).to(self.dtype)).sample
        return images.float()


# --------------------------------------------------------------------------------------------------
# From a pipeline on disk


class Kind(NamedTuple):
    """How a pipeline of diffusers is read."""

    parts: Mapping[str, tuple[str, ...]]  # {part with weights: its classes}, the network first
    options: Mapping[str, Any] = {}  # of the pipeline: None for what is not run


_PIXELS = Kind({"unet": ("UNet2DModel",)})
_LATENT = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}
_XL = _LATENT | {"text_encoder_2": ("CLIPTextModelWithProjection",)}
_DIT = {"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",)}
_UNUSED: dict[str, Any] = {"feature_extractor": None, "image_encoder": None}
_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}
KINDS = {
    "DDPMPipeline": _PIXELS,
    "DDIMPipeline": _PIXELS,
    "StableDiffusionPipeline": Kind(_LATENT, _UNUSED | _UNCHECKED),
    "StableDiffusionXLPipeline": Kind(_XL, _UNUSED),
    "DiTPipeline": Kind(_DIT),
}
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
    classes = {part: opening.declared(folder, index, part, kind.parts[part]) for part in kind.parts}
    config = opening.network(folder, index, list(kind.parts))
    condition = _condition(folder, index, config)
    pipeline = _pipeline(folder, index, classes, device, dtype)
    network = getattr(pipeline, next(iter(kind.parts)))
    known: About = {"guidance": condition.guidance, "prompts": Prompts(), **about}
    if known["prompts"] == Prompts():
        known["prompts"] = condition.prompts(known.get("world"))
    subject = Subject(
        name,
        network,
        schedulers.as_ddim(pipeline.scheduler, f"scheduler of {name}"),
        module or bottleneck(network),
        opening.shape(config),
        _fingerprint(folder, kind.parts),
        condition=condition,
        pipeline=pipeline,
        **known,
    )
    if subject.autoencoder is not None and subject.size >= LARGE:
        subject.autoencoder.enable_slicing()
    return subject


def _pipeline(
    folder: Path,
    index: opening.Config,
    classes: Mapping[str, type],
    device: torch.device,
    dtype: torch.dtype,
) -> Any:
    """The `DiffusionPipeline` of a folder, its parts {name: class} ready to be run in `dtype`."""
    path = opening.place(folder, "scheduler") / "scheduler_config.json"
    scheduler = loading.scheduler(path, *opening.scheduler(folder, index))
    schedulers.check(scheduler, path)
    parts: dict[str, Any] = {"scheduler": scheduler}
    for part, kind in classes.items():
        parts[part] = loading.part(kind, opening.place(folder, part), dtype)
    name = index["_class_name"]
    pipeline = loading.pipeline(folder, name, **parts, **KINDS[name].options)
    for part in classes:
        ready(getattr(pipeline, part), device)
        if part.startswith("text_encoder"):  # it runs once per text
            precision.move(getattr(pipeline, part), dtype=torch.float32)
    return pipeline


def _condition(folder: Path, index: opening.Config, config: opening.Config) -> Condition:
    """What the network of a pipeline reads beside x_t and t."""
    if "text_encoder_2" in index:
        return TextsXL()
    if "text_encoder" in index:
        return Texts()
    if count := config.get("num_embeds_ada_norm"):
        return Classes(opening.labels(folder, index, count), count)
    if count := config.get("num_class_embeds"):
        return UNetClasses(opening.labels(folder, index, count), count)
    return Condition()


def ready(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, to be run and not trained.

    In channels_last convolutions need not reorder their inputs, which saves a fifth of the time in
    float32 on a CPU. What no weight reads is left out.
    """
    unread.leave_out(network)
    precision.move(network, device=device)
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


def _fingerprint(folder: Path, parts: Collection[str]) -> str:
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
