"""Evaluators: networks that look at images and say what is in them.

Two independent attribute networks read every factor of a portrait: one labels the data of the h-classifiers, the other
scores the results, so that no result is judged by the network that helped to make it. They follow one protocol, which
evaluators of real photographs follow too:

    evaluator.factors                {factor: classes}
    evaluator.logits(images)         {factor: (B, classes)}, calibrated by a temperature per factor
    evaluator.features(images)       (B, F)

PortraitCLIP, or CLIP itself (`Clip` loads either), puts images and texts into one space:

    clip.image_features(images)      (B, F), unit norm
    clip.text_features(texts)        (B, F), unit norm

Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from transformers import CLIPModel, CLIPTokenizer

from . import checkpoints, keys, loading
from .errors import one_of
from .precision import halved


class Evaluator(Protocol):
    """What every attribute evaluator offers."""

    factors: dict[str, tuple[str, ...]]

    def logits(self, images: Tensor) -> dict[str, Tensor]: ...

    def features(self, images: Tensor) -> Tensor: ...


class _Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al., 2016)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(cin, cout, 3, stride, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 3, 1, 1, bias=False),
            nn.BatchNorm2d(cout),
        )
        same = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if same else nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (B, cin, H, W) -> (B, cout, H / stride, W / stride)
        return F.relu(self.body(x) + self.shortcut(x))


def _residual_trunk(features: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        _Residual(32, 64, 2),
        _Residual(64, 96, 2),
        _Residual(96, 128, 2),
        nn.Flatten(),
        nn.Linear(128 * 16, features),
        nn.ReLU(),
    )


def _strided_trunk(features: int) -> nn.Sequential:
    """No shortcuts, group norm, GELU, larger kernels: as unlike the residual trunk as convolutions get."""

    def layer(cin: int, cout: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(cin, cout, kernel, stride, padding), nn.GroupNorm(8, cout), nn.GELU()
        )

    return nn.Sequential(
        layer(3, 64, 5, 2, 2),
        layer(64, 96, 3, 1, 1),
        layer(96, 128, 4, 2, 1),
        layer(128, 128, 3, 1, 1),
        layer(128, 160, 4, 2, 1),
        nn.Flatten(),
        nn.Linear(160 * 16, features),
        nn.GELU(),
    )


ARCHITECTURES = {"residual": _residual_trunk, "strided": _strided_trunk}


class AttributeNet(nn.Module):
    """One trunk and a linear head per factor; implements `Evaluator`. Reads 32x32 images (others are resized)."""

    def __init__(
        self, architecture: str, factors: dict[str, tuple[str, ...]], features: int = 128
    ) -> None:
        super().__init__()
        one_of("architecture", architecture, ARCHITECTURES)
        self.config = {
            "architecture": architecture,
            "features": features,
            "factors": {k: list(v) for k, v in factors.items()},
        }
        self.factors = {k: tuple(v) for k, v in factors.items()}
        self.trunk = ARCHITECTURES[architecture](features)
        self.head = nn.Linear(features, sum(len(v) for v in factors.values()))
        self.register_buffer("temperature", torch.ones(len(factors)))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, features)."""
        return self.trunk(resized(images, 32).to(self.head.weight))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Calibrated logits: their softmax is meant to be the chance of being right (Guo et al., 2017)."""
        parts = self.head(self.features(images)).split(
            [len(v) for v in self.factors.values()], dim=1
        )
        return {k: z / t for k, z, t in zip(self.factors, parts, self.temperature, strict=True)}

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            name: halved(value).contiguous() if value.is_floating_point() else value
            for name, value in self.state_dict().items()
        }
        save_file(stored, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> AttributeNet:
        """Load weights saved by `save`. Raises ValueError, in one line, for missing, damaged or foreign files."""
        try:
            config = json.loads((folder / "config.json").read_text())
            net, path = cls(**config), folder / "model.safetensors"
            checkpoints.fill(net, checkpoints.tensors(path), path)
        except (
            Exception
        ) as error:  # whatever a damaged file raises, the user needs its name and one line
            raise _unreadable(folder, error) from None
        return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Preprocessing:
    """How a published CLIP wants its images: the shortest edge resized (bicubic), the centre cut out, mean and deviation (3,) of images in [0, 1]."""

    edge: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """From the `preprocessor_config.json` of transformers."""
        config = json.loads(path.read_text())
        for name, usual in {
            "do_resize": True,
            "do_center_crop": True,
            "do_normalize": True,
            "resample": 3,
        }.items():
            if config.get(name, usual) != usual:
                raise ValueError(
                    f"{path.name}: {name} is {config[name]!r}, and only {usual!r} can be honoured"
                )
        size, crop = config["size"], config["crop_size"]
        if isinstance(size, dict) and "shortest_edge" not in size:
            raise ValueError(f"{path.name}: size must name the shortest_edge, got {size}")
        return cls(
            size if isinstance(size, int) else size["shortest_edge"],
            (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"]),
            tuple(config["image_mean"]),
            tuple(config["image_std"]),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 3, *crop), differentiable."""
        height, width = images.shape[-2:]
        shortest = min(height, width)
        size = self.edge * height // shortest, self.edge * width // shortest
        images = (images.float() + 1) / 2
        for step in dict.fromkeys(
            ((height, size[1]), size)
        ):  # across, then down, clipped in between, as where pixels are bytes
            if step != images.shape[-2:]:
                images = F.interpolate(
                    images, step, mode="bicubic", antialias=True, align_corners=False
                ).clamp(0, 1)
        top, left = (size[0] - self.crop[0]) // 2, (size[1] - self.crop[1]) // 2
        images = images[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (images - mean) / std


class Clip:
    """Images and texts in one space: a `transformers.CLIPModel` with its tokenizer (Radford et al., 2021).

    `preprocessing` is that of a published model; ours takes images as they are, resized to its size.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing | None = None
    ) -> None:
        self.model, self.tokenizer, self.preprocessing = model, tokenizer, preprocessing
        self.size = model.config.vision_config.image_size
        self.context = model.config.text_config.max_position_embeddings

    def to(self, device: torch.device) -> Clip:
        self.model.to(device)
        return self

    def fingerprint(self) -> object:
        """What stands for it in the keys of artifacts: weights, vocabulary and preprocessing."""
        vocabulary = json.loads(self.tokenizer.backend_tokenizer.to_str())
        lasting = {
            name: part for name, part in vocabulary.items() if name not in ("padding", "truncation")
        }  # of the last call
        return keys.digest(
            {
                "model": self.model,
                "vocabulary": keys.key_of(keys.in_order(lasting)),
                "preprocessing": self.preprocessing,
                "size": self.size,
                "context": self.context,
            }
        )

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, F), unit norm; sizes other than the model's are resized."""
        images = self.preprocessing(images) if self.preprocessing else resized(images, self.size)
        images = images.to(self.model.device, self.model.dtype)
        return F.normalize(self.model.get_image_features(images).pooler_output, dim=-1)

    features = image_features  # what `embed` calls, in batches

    def text_features(self, texts: list[str]) -> Tensor:
        """B texts to (B, F), unit norm."""
        return F.normalize(
            self.model.get_text_features(**self.tokenise(texts)).pooler_output, dim=-1
        )

    def tokenise(self, texts: list[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, L) each; L is the longest text, cut at the model's context."""
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        )
        return dict(tokens.to(self.model.device))

    def save(self, folder: Path) -> None:
        """Write what `load` and transformers' own `from_pretrained` read: weights in half precision, vocab.json, merges.txt."""
        copy = CLIPModel(self.model.config)
        copy.load_state_dict(self.model.state_dict())
        copy.half().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.tokenizer.backend_tokenizer.model.save(str(folder))
        (folder / "tokenizer.json").unlink()  # the same once more

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """Load what `save` wrote, or a published CLIP. Raises ValueError, in one line, for missing, damaged or foreign files."""
        try:
            config = json.loads((folder / "config.json").read_text())
            if config.get("model_type") != "clip":
                raise ValueError(
                    f"config.json describes a {config.get('model_type')!r} model, not 'clip'"
                )
            model = loading.part(CLIPModel, folder, torch.float32)
            json.loads(
                (folder / "vocab.json").read_text()
            )  # without it the tokenizer would be built empty
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            loading.check_tokenizer(folder, tokenizer, model.config.text_config.vocab_size)
            published = folder / "preprocessor_config.json"
            preprocessing = Preprocessing.load(published) if published.exists() else None
        except Exception as error:
            raise _unreadable(folder, error) from None
        return cls(model.eval().requires_grad_(False), tokenizer, preprocessing)


# A text per class of an attribute: of zero-shot classification, and of the target class in CLIP-D (Eq. 17).
CLASS_TEXTS = {
    "gender": "a portrait of {article} {name} person",
    "age": "a portrait of {article} {name} person",
    "tone": "a portrait of a person with {name} skin",
    "race": "a portrait of {article} {name} person",
}


def class_texts(attribute: str, classes: tuple[str, ...]) -> list[str]:
    """One text per class of an attribute; of one that is none of portraits', its name and the class, such as "digit two"."""
    text = CLASS_TEXTS.get(attribute, attribute + " {name}")
    return [text.format(article="an" if c[0].lower() in "aeiou" else "a", name=c) for c in classes]


def resized(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) as (B, C, size, size), bilinear and without aliasing; those that have the size as they are."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _unreadable(folder: Path, error: Exception) -> ValueError:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(f"evaluator weights in {folder} are missing, damaged or foreign: {first}")


BATCH = 64  # images: with several hundred at once small networks wait for memory, on a CPU more than half of the time


@torch.inference_mode()
def read(evaluator: Evaluator, images: Tensor, batch: int = BATCH) -> dict[str, Tensor]:
    """Class probabilities of every factor: {factor: (B, classes)} on the CPU, in batches."""
    chunks = [evaluator.logits(part) for part in images.split(batch)]
    return {
        k: torch.cat([c[k].float().softmax(-1).cpu() for c in chunks]) for k in evaluator.factors
    }


@torch.inference_mode()
def embed(evaluator: Evaluator, images: Tensor, batch: int = BATCH) -> Tensor:
    """Features (B, F) on the CPU, in batches."""
    return torch.cat([evaluator.features(part).float().cpu() for part in images.split(batch)])
