"""Pipelines: a diffusers pipeline as the study sees it, whatever its kind.

Every one is a network that predicts noise, a module to look into, and a way from x_0 to images. What differs is what the network reads
beside x_t: nothing, texts or classes, and what it predicts of it: epsilon, velocity or x_0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from . import hooks, keys, loading, occupations, opening, schedulers
from .errors import one_of
from .evaluators import Evaluator, Clip
from .paper import Table
from .worlds import Portraits, World

MODELS = Path(__file__).parents[1] / "models"
SAMPLER = (  # settings of a scheduler that decide how DDIM steps are taken
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
    "set_alpha_to_one",
    "clip_sample",
    "clip_sample_range",
    "thresholding",
    "dynamic_thresholding_ratio",
    "sample_max_value",
)
Judges = tuple[Evaluator, Evaluator, Clip]  # labeller, scorer, CLIP


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
    fingerprint: str  # identifies the files that it was read from: weights and configurations
    device: torch.device
    dtype: torch.dtype
    evaluators: Callable[[], Judges] | None = field(default=None, repr=False)
    world: World | None = (
        None  # where the training data came from, if it is known: its factors and their shares
    )
    prompts: Prompts = Prompts()
    paper: Table = field(
        default_factory=dict
    )  # what the paper reports of the model that it stands for
    reference: Path | None = None  # a folder of the images that it should be like, if there is one
    measures: tuple[str, str] = (
        "Fréchet distance (its scorer)",
        "CLIP-I (its CLIP)",
    )  # honest names: FID and CLIP mean Inception and ViT-L/14

    def __post_init__(self) -> None:
        self.scheduler = schedulers.as_ddim(self.scheduler, f"scheduler of {self.name}")
        self._opened = self._state()

    def _state(self) -> list[object]:
        """What changes when a weight of the subject is changed in memory, and not with its precision."""
        return [keys.state_of(network.parameters()) for network in self._networks]

    @property
    def _networks(self) -> list[nn.Module]:
        """Everything with weights that images depend on."""
        return [self.network]

    @cached_property
    def _judges(self) -> Judges:
        if self.evaluators is None:
            raise ValueError(
                f"subject {self.name} has no evaluators: it can be described and sampled; to judge its images put a study.yml "
                "beside the model (book/howto.md, Bring your own model)"
            )
        return self.evaluators()

    @property
    def labeller(self) -> Evaluator:
        """Labels the data that probes and attribution learn from; never scores a result."""
        keys.reading("labeller")
        return self._judges[0]

    @property
    def scorer(self) -> Evaluator:
        """Scores results; its features give the Fréchet distance."""
        keys.reading("scorer")
        return self._judges[1]

    @property
    def clip(self) -> Clip:
        keys.reading("clip")
        return self._judges[2]

    def identity(self, reads: Sequence[str] = ()) -> dict[str, object]:
        """What determines the images, for the keys of artifacts, and the parts of it that a stage `reads`, among `keys.PARTS`.

        `runtime` is what may differ between machines for what ships: the precision, and the configuration that diffusers
        made of the files. Raises ValueError for a subject whose weights were changed in memory: nothing that is filed
        under its files would be its own.
        """
        if self._state() != self._opened:
            raise ValueError(
                f"weights of {self.name} were changed since it was opened: save the pipeline to a folder of "
                "its own and open that, or use sampling.sample, which stores nothing"
            )
        parts = {part: self._part(part) for part in reads}
        sampler = {name: self.scheduler.config[name] for name in SAMPLER}
        own = {
            "files": self.fingerprint,
            "module": self.module,
            "sampler": sampler,
            "runtime": self._runtime(),
        }
        code = [
            keys.code_of(parts[name])
            for name in ("labeller", "scorer", "clip")
            if parts.get(name) is not None
        ]
        return own | parts | {"code": code}

    def _part(self, name: str) -> object:
        one_of("reads", name, keys.PARTS)
        if name == "data":
            keys.reading("data")
            return self.world
        return self.texts() if name == "texts" else getattr(self, name)

    def _runtime(self) -> dict[str, object]:
        configured = {
            name: keys.configuration(part)
            for name, part in (("scheduler", self.scheduler), ("network", self.network))
        }
        return {"dtype": str(self.dtype), **configured}

    @property
    def folder(self) -> Path:
        """Where what ships with the subject lies, if it is one that ships."""
        return MODELS / self.name

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Everything the evaluators read: {factor: classes}, the social attributes first.

        `keys.reading` does not guard it: a stage that depends on classes takes them as an argument.
        """
        return self._judges[1].factors

    def classes(self, attribute: str) -> tuple[str, ...]:
        """The classes of a factor; ValueError with the known factors otherwise."""
        one_of("attribute", attribute, self.factors)
        return self.factors[attribute]

    def texts(self, prompts: Sequence[Prompt] | None = None) -> list[str]:
        """The texts of some prompts, by default those that results are reported on; images take them in turn."""
        if prompts is None:
            keys.reading("texts")
        return [p.text for p in (self.prompts.evaluate if prompts is None else prompts)]

    def describe(self, batch: Portraits) -> list[str] | None:
        """What a prompt says of rendered portraits without naming an attribute; None for a model without text."""
        return None

    @property
    def data(self) -> World:
        """The world, for what cannot do without; ValueError, in one line, where none is known."""
        keys.reading("data")
        if self.world is None:
            raise ValueError(
                f"nothing is known of the data behind subject {self.name}: this compares with them; put a study.yml beside the model, "
                "or label its reference images (models/own/label.py)"
            )
        return self.world

    def _known(self, given: Mapping[str, str]) -> dict[str, str]:
        """What of this the data have a factor for: of photographs nobody knows the occupation."""
        return {factor: name for factor, name in given.items() if factor in self.data.factors}

    def planted(self, factor: str, prompt: int | None = None) -> Tensor:
        """P(factor) that a perfect model of the world would show under one prompt, or on average over those of the evaluation: (classes,)."""
        asked = self.prompts.evaluate if prompt is None else [self.prompts.evaluate[prompt]]
        return torch.stack([self.data.marginal(factor, self._known(p.given)) for p in asked]).mean(
            0
        )

    def renders(self, n: int, seed: int, do: Mapping[str, str] | None = None) -> Tensor:
        """`n` fresh renders of what the prompts of the evaluation ask for, in turn, with some factors fixed: (n, 3, H, W)."""
        asked = [dict(p.given) | dict(do or {}) for p in self.prompts.evaluate]
        counts = [len(range(g, n, len(asked))) for g in range(len(asked))]
        images = torch.empty(n, 3, self.size, self.size)
        for g, (fixed, count) in enumerate(zip(asked, counts, strict=True)):
            images[g :: len(asked)] = self.data.render(
                self.data.sample(count, seed + 10_000 * g, do=self._known(fixed)), self.size
            )
        return images

    def parts(self, images: int) -> tuple[slice, ...]:
        """Where in the batch that the network sees for so many images an edit acts: slices with one row per image."""
        return hooks.WHOLE

    def predict(self, x: Tensor, timestep: int, texts: Sequence[str] | None = None) -> Tensor:
        """What the network says of x_t, which is what `predicts` names: (B, C, H, W) float32.

        `texts` are one per image; None is the empty one, and a model without text reads none.
        Learned variances, where a model has them, are cut off. Behind a fork (`hooks.fork`) the
        batch is [plain; edited], (copies B, ...).
        """
        return self._run(x, timestep)

    def epsilon(
        self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, **how: bool
    ) -> Tensor:
        """`predict` as noise: (B, C, H, W) float32."""
        return self._as_noise(self.predict(x, timestep, texts, **how), x, timestep)

    def _run(self, x: Tensor, timestep: int, **condition: Tensor) -> Tensor:
        """What the network says of x_t: (B, C, H, W) float32."""
        t = torch.full((len(x),), timestep, device=x.device)
        return self.network(x.to(self.dtype), t, **condition, return_dict=False)[0][
            :, : self.shape[0]
        ].float()

    @property
    def predicts(self) -> str:
        """What the network predicts: epsilon, v_prediction, or sample, which is x_0."""
        return self.scheduler.config.prediction_type

    @property
    def spacing(self) -> str:
        """How the timesteps lie that the model is sampled at, see `sampling.timesteps`."""
        return self.scheduler.config.timestep_spacing

    def _as_noise(self, said: Tensor, x: Tensor, timestep: int) -> Tensor:
        """Epsilon, of what a network says of x_t: (B, C, H, W).

        That is sqrt(a) v + sqrt(1 - a) x_t of a velocity (Salimans and Ho, 2022), and
        (x_t - sqrt(a) x_0) / sqrt(1 - a) of x_0.
        """
        if self.predicts == "epsilon":
            return said
        a = self.scheduler.alphas_cumprod[timestep].item()
        x = x.repeat(len(said) // len(x), 1, 1, 1)
        if self.predicts == "sample":
            return (x - a**0.5 * said) / (1 - a) ** 0.5
        return a**0.5 * said + (1 - a) ** 0.5 * x

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to x_0: the identity for pixel-space models, their mean where those are grey."""
        return images.mean(1, keepdim=True) if self.shape[0] == 1 else images

    def decode(self, x: Tensor) -> Tensor:
        """x_0 to images (B, 3, H, W): the identity for pixel-space models, three times the same where those are grey."""
        return x.expand(-1, 3, -1, -1) if self.shape[0] == 1 else x

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
    guidance: float = 7.5
    edit_both: bool = False
    _embedded: dict[str, dict[str, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def _networks(self) -> list[nn.Module]:
        parts = getattr(self.pipeline, "components", {}).values()
        return [self.network, *(part for part in parts if isinstance(part, nn.Module))]

    def identity(self, reads: Sequence[str] = ()) -> dict[str, object]:
        return super().identity(reads) | {"guidance": self.guidance, "edit_both": self.edit_both}

    def parts(self, images: int) -> tuple[slice, ...]:
        halves = slice(0, images), slice(images, 2 * images)
        return halves if self.edit_both else halves[1:]

    def describe(self, batch: Portraits) -> list[str]:
        keys.reading("prompts")
        if self.data is occupations.WORLD:
            occupation = self.data.factors["occupation"].classes
            return [occupations.neutral(occupation[i]) for i in batch.labels["occupation"].tolist()]
        return [self._says(self.data.names(batch, i)) for i in range(len(batch))]

    def _says(self, names: Mapping[str, str]) -> str:
        """The first prompt of the evaluation that states something of an image with these classes, all of it true and
        nothing of it an attribute; the neutral one if there is none."""
        told = (
            p
            for p in self.prompts.evaluate
            if p.given and not p.given.keys() & set(self.attributes)
        )
        return next((p.text for p in told if p.given.items() <= names.items()), self._neutral)

    @property
    def _neutral(self) -> str:
        """What is said of an image of which nothing else is known: of faces that they are some, else nothing."""
        faces = any(
            p.text == occupations.neutral(p.given.get("occupation", "none"))
            for p in self.prompts.evaluate
        )
        return occupations.neutral("none") if faces else ""

    def embed(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """What the network reads of B texts: {name of its argument: (B, ...)}, such as {"encoder_hidden_states": (B, L, F)}."""
        if unknown := [text for text in dict.fromkeys(texts) if text not in self._embedded]:
            with torch.no_grad():
                new = self._encode(unknown)
            self._embedded.update(
                (text, {k: v[i] for k, v in new.items()}) for i, text in enumerate(unknown)
            )
        return {
            name: torch.stack([self._embedded[text][name] for text in texts])
            for name in self._embedded[texts[0]]
        }

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        """`embed` of texts that are new."""
        return {
            "encoder_hidden_states": self.pipeline.encode_prompt(texts, self.device, 1, False)[0]
        }

    def predict(
        self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, guided: bool = True
    ) -> Tensor:
        """What the network says with guidance, or with the text alone: (B, C, H, W) float32."""
        texts = [""] * len(x) if texts is None else texts
        read = self.embed([*[""] * len(x), *texts] if guided else texts)
        condition = {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in read.items()}
        said = self._run(torch.cat([x, x]) if guided else x, timestep, **condition)
        return self._guide(said, len(x)) if guided else said

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
        return (
            vae.encode(images.to(self.dtype)).latent_dist.mean.float() * vae.config.scaling_factor
        )

    def decode(self, x: Tensor) -> Tensor:
        vae = self.pipeline.vae
        return vae.decode((x / vae.config.scaling_factor).to(self.dtype)).sample.float()

    @property
    def size(self) -> int:
        return self.shape[-1] * 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return (self.network, self.pipeline.vae)


@dataclass
class XLSubject(TextSubject):
    """Stable Diffusion XL (Podell et al., 2023): two text encoders, the second one's pooled output, and the size of the image."""

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = self.pipeline.encode_prompt(texts, None, self.device, 1, False)
        if self.pipeline.config.force_zeros_for_empty_prompt:  # so it was trained
            named = torch.tensor([bool(text) for text in texts], device=self.device)
            states, pooled = states * named[:, None, None], pooled * named[:, None]
        return {"encoder_hidden_states": states, "text_embeds": pooled}

    def _run(self, x: Tensor, timestep: int, **condition: Tensor) -> Tensor:
        times = torch.tensor(
            [self.size, self.size, 0, 0, self.size, self.size], device=x.device
        )  # original size, crop, target size
        pooled = condition.pop("text_embeds")
        return super()._run(
            x,
            timestep,
            **condition,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": times.expand(len(x), -1)},
        )


@dataclass
class ClassSubject(TextSubject):
    """A DiT (Peebles and Xie, 2023): a transformer, so h is (B, tokens, C), and prompts are names of classes; the empty one is no class."""

    guidance: float = 4.0

    def _encode(self, texts: list[str]) -> dict[str, Tensor]:
        none = self.network.config.num_embeds_ada_norm
        labels = self.pipeline.labels
        numbers = [_number("class", text, labels, none) if text else none for text in texts]
        return {"class_labels": torch.tensor(numbers, device=self.device)}


@dataclass
class LabelledSubject(Subject):
    """A U-Net in pixels that is told a class. Prompts are names of classes.

    By default all classes are asked for in turn. There is no class for nothing: no empty prompt,
    and no guidance.
    """

    labels: Mapping[str, int] = field(default_factory=dict)  # {name: number}, the main name first

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts == Prompts():
            every = tuple(Prompt(name, self._given(name)) for name in self._names.values())
            self.prompts = Prompts(every, every, every)
        if told := self._given("").keys() & set(self.attributes):
            raise ValueError(
                f"{self.name} is told its {min(told)}, an attribute under study: its shares would be "
                "the prompts'; leave it out of attributes"
            )

    @property
    def _names(self) -> dict[int, str]:
        """One name of each class: {number: name}, in the order of the numbers."""
        names = {number: name for name, number in reversed(self.labels.items())}
        return {i: names.get(i, str(i)) for i in range(self.network.config.num_class_embeds)}

    def _given(self, name: str) -> dict[str, str]:
        """What a class states of the data: {factor: class}, if a factor has these classes."""
        factors = self.world.factors if self.world is not None else {}
        return {
            factor: name
            for factor, known in factors.items()
            if set(known.classes) == set(self._names.values())
        }

    def identity(self, reads: Sequence[str] = ()) -> dict[str, object]:
        return super().identity(reads) | {"labels": dict(self.labels)}

    def describe(self, batch: Portraits) -> list[str]:
        """The class that is drawn where the data have it as a factor, else all classes in turn."""
        names = list(self._names.values())
        for factor in self._given(names[0]):
            classes = self.data.factors[factor].classes
            return [classes[i] for i in batch.labels[factor].tolist()]
        return [names[i % len(names)] for i in range(len(batch))]

    def predict(
        self, x: Tensor, timestep: int, texts: Sequence[str] | None = None, guided: bool = False
    ) -> Tensor:
        """What the network says of x_t of the classes `texts`: (B, C, H, W) float32.

        None is those of the evaluation, in turn. There is no guidance, so `guided` changes nothing.
        """
        if texts is None:
            own = self.texts()
            texts = [own[i % len(own)] for i in range(len(x))]
        asked = f"class of {self.name}, which cannot be asked for anything else,"
        count = self.network.config.num_class_embeds
        numbers = [_number(asked, text, self.labels, count) for text in texts]
        return self._run(x, timestep, class_labels=torch.tensor(numbers, device=x.device))


def _number(parameter: str, text: str, labels: Mapping[str, int], count: int) -> int:
    """The number of one of `count` classes, by its name or number; ValueError for others."""
    numbers = {str(i): i for i in range(count)}
    if text not in labels and text not in numbers:
        one_of(parameter, text, labels or numbers)
    return {**numbers, **labels}[text]


def bottleneck(network: nn.Module) -> str:
    """The module to look into where none is named: the middle of a U-Net or of a transformer.

    ValueError, in one line, for a network that has neither.
    """
    if getattr(network, "mid_block", None) is not None:
        return "mid_block"
    if blocks := len(getattr(network, "transformer_blocks", ())):
        return f"transformer_blocks.{blocks // 2}"
    there = ", ".join(name for name, _ in network.named_children())
    raise ValueError(
        f"{type(network).__name__} has neither mid_block nor transformer_blocks to look into; name a module of it as parameter module: {there}"
    )


class Kind(NamedTuple):
    """How a pipeline of diffusers is read."""

    subject: type[Subject]
    parts: Mapping[str, tuple[str, ...]]  # {part with weights: its classes}, the network first
    options: Mapping[str, object] = {}  # of the pipeline: None for what is not run


_PIXELS = Kind(Subject, {"unet": ("UNet2DModel",)})  # LabelledSubject, if it is told a class
_LATENT = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}
_XL = _LATENT | {"text_encoder_2": ("CLIPTextModelWithProjection",)}
_DIT = {"transformer": ("DiTTransformer2DModel", "Transformer2DModel"), "vae": ("AutoencoderKL",)}
_UNUSED = {"feature_extractor": None, "image_encoder": None}
_UNCHECKED = {"safety_checker": None, "requires_safety_checker": False}
KINDS = {
    "DDPMPipeline": _PIXELS,
    "DDIMPipeline": _PIXELS,
    "StableDiffusionPipeline": Kind(TextSubject, _LATENT, _UNUSED | _UNCHECKED),
    "StableDiffusionXLPipeline": Kind(XLSubject, _XL, _UNUSED),
    "DiTPipeline": Kind(ClassSubject, _DIT),
}
LARGE = 256  # pixels a side: images from this size on pass the autoencoder one by one, which bounds its memory


def read(
    name: str,
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    module: str | None = None,
    **about: object,
) -> Subject:
    """A pipeline from disk as a subject; `about` are further fields of it.

    Raises ValueError, in one line, for files that are missing, damaged or foreign, for a kind of pipeline or scheduler that cannot be
    studied, and where no module is named and no bottleneck is found.
    """
    kind, pipeline, fields = _from_disk(folder, dtype)
    for part in kind.parts:
        if part.startswith("text_encoder"):
            nn.Module.to(
                getattr(pipeline, part), device=device, dtype=torch.float32
            ).eval().requires_grad_(False)  # it runs once per text
        else:
            ready(getattr(pipeline, part), device)
    network = getattr(pipeline, next(iter(kind.parts)))
    about = (
        {"attributes": ()}
        | about
        | ({"pipeline": pipeline} if issubclass(kind.subject, TextSubject) else {})
    )
    subject = kind.subject(
        name=name,
        network=network,
        scheduler=pipeline.scheduler,
        module=module or bottleneck(network),
        fingerprint=_fingerprint(folder, kind.parts),
        device=device,
        dtype=dtype,
        **fields,
        **about,
    )
    if "vae" in kind.parts and subject.size >= LARGE:
        pipeline.vae.enable_slicing()
    return subject


def _from_disk(folder: Path, dtype: torch.dtype) -> tuple[Kind, object, dict[str, object]]:
    """A pipeline, what kind it is, and fields of its subject.

    Raises ValueError, in one line, for whatever is wrong with its files.
    """
    index = opening.index(folder, KINDS)
    kind = KINDS[index["_class_name"]]
    classes = {
        part: opening.declared(folder, index, part, names) for part, names in kind.parts.items()
    }
    path, *others = (opening.place(folder, part) / "config.json" for part in kind.parts)
    config, latent = opening.read_json(path), opening.read_json(others[0]) if others else None
    opening.check_network(path, index["_class_name"], config, latent)
    if latent is not None:
        opening.check_autoencoder(others[0], latent)
    size = opening.size(path, config)
    fields: dict[str, object] = {"shape": (config["in_channels"], size, size)}
    if kind is _PIXELS and (count := config.get("num_class_embeds")):
        kind = kind._replace(subject=LabelledSubject)
        fields["labels"] = opening.labels(folder, index, count)
    scheduler = opening.scheduler(folder, index)
    parts = {
        part: loading.part(cls, opening.place(folder, part), dtype) for part, cls in classes.items()
    }
    pipeline = opening.pipeline(folder, index, scheduler=scheduler, **parts, **kind.options)
    return kind, pipeline, fields


def ready(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, to be run and not trained."""
    # channels_last: convolutions need no reordering of their inputs, a fifth of the time in float32 on a CPU
    return network.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)


UNREAD = {
    "safety_checker",
    "feature_extractor",
    "image_encoder",
}  # parts that no image of the study depends on


def _fingerprint(folder: Path, parts: Sequence[str]) -> str:
    """16 hex digits that stand for all files of a pipeline that its images depend on: weights, configurations, tokenizers."""
    index = json.loads((folder / "model_index.json").read_text())
    named = [
        name
        for name, value in index.items()
        if isinstance(value, list) and any(value) and name not in UNREAD
    ]
    components = dict.fromkeys([*parts, *sorted(named)])
    places = dict.fromkeys(opening.place(folder, name) for name in components)
    files = [
        file
        for place in places
        for file in _files(place, any(opening.place(folder, part) == place for part in parts))
    ]
    about = {
        name: value
        for name, value in index.items()
        if not isinstance(value, list) and name not in keys.UNSAID
    }
    return keys.key_of({"files": keys.of_files(files), "about": keys.in_order(about)})


def _files(place: Path, weighty: bool) -> list[Path]:
    """The files of one part of a pipeline: the weights that are loaded, if it has some, and what else it reads."""
    weights = list(loading.files(place).paths) if weighty else []
    texts = [
        file
        for file in place.iterdir()
        if file.suffix in {".json", ".txt", ".model"} and file.name != "model_index.json"
    ]
    return weights + sorted(texts)
