"""What a network reads beside x_t and t: nothing, texts or classes.

Each kind of pipeline has its own way to embed texts and to call its network; this file holds them
all. `Condition.answer` is the one place at which a network runs.

>>> from difflens_utils.subjects.conditions import Prompt, Prompts
>>> prompts = Prompts(evaluate=(Prompt("a nurse", {"occupation": "nurse"}),))
>>> prompts.evaluate[0].text
'a nurse'
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..runtime import keys, placement
from ..runtime.errors import one_of
from ..worlds import Scenes, World

if TYPE_CHECKING:
    from .pipelines import Subject


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

    def answer(self, subject: Subject, x: Tensor, t: float, texts: Sequence[str]) -> Tensor:
        """The network's output for x_t (B, C, H, W) and B texts: (B, C or more, H, W)."""
        times = torch.full((len(x),), t, device=x.device)
        read = self.arguments(subject, texts)
        out: Tensor = subject.network(
            x.to(subject.dtype), timestep=times, **read, return_dict=False
        )[0]
        return out

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

    guidance: ClassVar[float | None] = 7.5

    def __init__(self) -> None:
        self.embedded: dict[str, dict[str, Tensor]] = {}  # each text is encoded once

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        new = [text for text in dict.fromkeys(texts) if text not in self.embedded]
        if new:
            with torch.no_grad(), placement.visiting(subject.waiting, subject.device):
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


class Texts3(Texts):
    """Texts for Stable Diffusion 3 (Esser et al., 2024), which reads two CLIPs and T5.

    A pipeline without T5 reads zeros in its place, `length` of them, as many as diffusers takes
    where it is not told another `max_sequence_length`.
    """

    guidance = 7.0

    def __init__(self, length: int = 256) -> None:
        super().__init__()
        self.length = length

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        states, _, pooled, _ = subject.pipeline.encode_prompt(
            texts, None, None, subject.device, 1, False, max_sequence_length=self.length
        )
        return {"encoder_hidden_states": states, "pooled_projections": pooled}

    def identity(self) -> dict[str, object]:
        return {"length": self.length}


class TextsFlux(Texts):
    """Texts for Flux (Black Forest Labs, 2024).

    Its network sees 2 x 2 places of a latent as one token, with the place of each, and reads the
    scale of a guidance that was distilled into it. So it runs once per image.
    """

    guidance = None
    distilled = 3.5  # the pipeline's own

    def answer(self, subject: Subject, x: Tensor, t: float, texts: Sequence[str]) -> Tensor:
        pipeline, (n, channels, height, width) = subject.pipeline, x.shape
        read = self.arguments(subject, texts)
        network: Any = subject.network
        like: dict[str, Any] = {"device": x.device, "dtype": subject.dtype}
        if network.config.guidance_embeds:
            read["guidance"] = torch.full((n,), self.distilled, device=x.device)
        out = network(
            pipeline._pack_latents(x.to(subject.dtype), n, channels, height, width),
            timestep=torch.full((n,), t / 1000, **like),
            txt_ids=torch.zeros(read["encoder_hidden_states"].shape[1], 3, **like),
            img_ids=pipeline._prepare_latent_image_ids(n, height // 2, width // 2, **like),
            **read,
            return_dict=False,
        )[0]
        # a scale of 1: the height and width are given in places of the latent
        unpacked: Tensor = pipeline._unpack_latents(out, height, width, 1)
        return unpacked

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        states, pooled, _ = subject.pipeline.encode_prompt(texts, None, subject.device)
        return {"encoder_hidden_states": states, "pooled_projections": pooled}


class TextsT5(Texts):
    """Texts for PixArt (Chen et al., 2024), as T5 embeds them, and which of the tokens are there.

    PixArt-alpha of 1024 pixels reads the size of the image too.
    """

    guidance = 4.5

    def arguments(self, subject: Subject, texts: Sequence[str]) -> dict[str, Any]:
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if getattr(subject.network, "use_additional_conditions", False):
            like: dict[str, Any] = {"device": subject.device, "dtype": subject.dtype}
            sides = torch.full((len(texts), 2), subject.size, **like)
            added = {"resolution": sides, "aspect_ratio": torch.ones(len(texts), 1, **like)}
        return super().arguments(subject, texts) | {"added_cond_kwargs": added}

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        states, mask, _, _ = subject.pipeline.encode_prompt(texts, False, device=subject.device)
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


class TextsGemma(Texts):
    """Texts for Sana (Xie et al., 2025): Gemma reads them behind an instruction of the pipeline's.

    The empty text goes without it.
    """

    guidance = 4.5

    def answer(self, subject: Subject, x: Tensor, t: float, texts: Sequence[str]) -> Tensor:
        network: Any = subject.network
        return super().answer(subject, x, t * network.config.timestep_scale, texts)

    def _encode(self, subject: Subject, texts: list[str]) -> dict[str, Tensor]:
        pipeline = subject.pipeline
        own = inspect.signature(type(pipeline).__call__).parameters["complex_human_instruction"]
        rows = []
        for text in texts:  # one by one: the empty one is encoded in another way
            states, mask, _, _ = pipeline.encode_prompt(
                [text],
                False,
                device=subject.device,
                complex_human_instruction=own.default if text else None,
            )
            rows.append((states, mask))
        states, mask = (torch.cat(parts) for parts in zip(*rows, strict=True))
        return {"encoder_hidden_states": states, "encoder_attention_mask": mask}


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
