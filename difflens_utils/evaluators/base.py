"""Evaluators: networks that look at images and say what is in them.

Two independent networks follow the protocol `Evaluator`. One labels the data of the h-classifiers,
and the other scores the results. So no result is judged by the network that helped to make it.
`AttributeNet` is trained here. FairFace (`fairface`) reads photographs of faces. `Clip` puts images
and texts into one space. Images are (B, 3, H, W) in [-1, 1].

>>> import torch
>>> from difflens_utils import evaluators
>>> network = evaluators.AttributeNet("residual", {"colour": ("red", "blue")}).eval()
>>> probabilities = evaluators.read(network, torch.zeros(5, 3, 32, 32))
>>> probabilities["colour"].shape
torch.Size([5, 2])
>>> evaluators.class_texts("colour", ("red", "blue"))
['colour red', 'colour blue']
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer

from ..runtime import keys
from ..runtime.errors import line, one_of
from ..runtime.precision import halved
from ..subjects import loading
from ..subjects.real import checkpoints


class Embedder(Protocol):
    """An object that computes features of images."""

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, F)."""
        ...


class Evaluator(Embedder, Protocol):
    """An object that reads classes off images."""

    factors: dict[str, tuple[str, ...]]  # {factor: classes}

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{factor: (B, classes)} of images (B, 3, H, W) in [-1, 1]."""
        ...

    def look(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The logits and the features, in one pass where one network gives both."""
        ...


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


def _residual_trunk(features: int) -> nn.Sequential:  # (B, 3, 32, 32) -> (B, features)
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
    """(B, 3, 32, 32) to (B, features), with nothing in common with the residual trunk.

    It has group norm, GELU and larger kernels, and no shortcuts.
    """

    def layer(cin: int, cout: int, kernel: int, stride: int, padding: int) -> nn.Sequential:
        convolution = nn.Conv2d(cin, cout, kernel, stride, padding)
        return nn.Sequential(convolution, nn.GroupNorm(8, cout), nn.GELU())

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


ARCHITECTURES: dict[str, Callable[[int], nn.Sequential]] = {
    "residual": _residual_trunk,
    "strided": _strided_trunk,
}


class AttributeNet(nn.Module):
    """One trunk and a linear head per factor; implements `Evaluator`.

    It reads images of 32x32; others are resized.
    """

    temperature: Tensor  # (factors,)

    def __init__(
        self, architecture: str, factors: dict[str, tuple[str, ...]], features: int = 128
    ) -> None:
        super().__init__()
        one_of("architecture", architecture, ARCHITECTURES)
        self.config = {
            "architecture": architecture,
            "features": features,
            "factors": {name: list(classes) for name, classes in factors.items()},
        }
        self.factors = {name: tuple(classes) for name, classes in factors.items()}
        self.trunk = ARCHITECTURES[architecture](features)
        self.head = nn.Linear(features, sum(len(classes) for classes in factors.values()))
        self.register_buffer("temperature", torch.ones(len(factors)))

    def features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, features)."""
        features: Tensor = self.trunk(resized(images, 32).to(self.head.weight))
        return features

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """{factor: (B, classes)}, calibrated: divided by a temperature per factor.

        Their softmax is meant to be the probability of being right (Guo et al., 2017).
        """
        return self.look(images)[0]

    def look(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The logits {factor: (B, classes)} and the features (B, features), in one pass."""
        features = self.features(images)
        sizes = [len(classes) for classes in self.factors.values()]
        logits = torch.split(self.head(features), sizes, dim=1)
        named = zip(self.factors, logits, self.temperature, strict=True)
        return {factor: z / temperature for factor, z, temperature in named}, features

    def save(self, folder: Path) -> None:
        """Writes model.safetensors, in half precision where that holds, and config.json."""
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            name: halved(value).contiguous() if value.is_floating_point() else value
            for name, value in self.state_dict().items()
        }
        save_file(stored, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(self.config, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> AttributeNet:
        """Reads what `save` wrote.

        Raises ValueError, in one line, for missing, damaged or foreign files.
        """
        path = folder / "model.safetensors"
        try:
            net = cls(**json.loads((folder / "config.json").read_text()))
            checkpoints.fill(net, checkpoints.tensors(path), path)
        except Exception as error:  # a foreign config.json raises many kinds
            raise _unreadable(folder, error) from None
        return net.eval().requires_grad_(False)


# What `Preprocessing` does, as entries of `preprocessor_config.json`; 3 is bicubic.
HONOURED = {"do_resize": True, "do_center_crop": True, "do_normalize": True, "resample": 3}


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a published CLIP: resize, cut out the centre, normalise."""

    edge: int  # the shortest edge after resizing, bicubic
    crop: tuple[int, int]  # height and width of the centre
    mean: tuple[float, ...]  # (3,) of images in [0, 1]
    std: tuple[float, ...]  # (3,)

    @classmethod
    def load(cls, path: Path) -> Preprocessing:
        """Reads the `preprocessor_config.json` of transformers.

        Raises ValueError for settings that cannot be honoured.
        """
        config = json.loads(path.read_text())
        for name, usual in HONOURED.items():
            if config.get(name, usual) != usual:
                raise ValueError(
                    f"{path.name}: {name} is {config[name]!r}, and only {usual!r} can be honoured"
                )
        size, crop = config["size"], config["crop_size"]
        if isinstance(size, int):
            size = {"shortest_edge": size}
        if isinstance(crop, int):
            crop = {"height": crop, "width": crop}
        if "shortest_edge" not in size:
            raise ValueError(f"{path.name}: size must name the shortest_edge, got {size}")
        return cls(
            edge=size["shortest_edge"],
            crop=(crop["height"], crop["width"]),
            mean=tuple(config["image_mean"]),
            std=tuple(config["image_std"]),
        )

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, 3, *crop), differentiable."""
        height, width = images.shape[-2:]
        shortest = min(height, width)
        new_height, new_width = self.edge * height // shortest, self.edge * width // shortest
        images = (images.float() + 1) / 2
        # Across, then down, and clipped in between: as where pixels are bytes.
        images = _bicubic(images, height, new_width)
        images = _bicubic(images, new_height, new_width)
        top, left = (new_height - self.crop[0]) // 2, (new_width - self.crop[1]) // 2
        images = images[..., top : top + self.crop[0], left : left + self.crop[1]]
        mean = images.new_tensor(self.mean)[:, None, None]
        std = images.new_tensor(self.std)[:, None, None]
        return (images - mean) / std


def _bicubic(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    resized_images = F.interpolate(
        images, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized_images.clamp(0, 1)


class Clip:
    """CLIP (Radford et al., 2021) puts images and texts into one space.

    It consists of a `transformers.CLIPModel` and its tokenizer. `preprocessing` is that of a
    published model. Models that are trained here only resize images to their size.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        config = model.config.to_dict()
        self.size: int = config["vision_config"]["image_size"]  # pixels
        self.context: int = config["text_config"]["max_position_embeddings"]  # tokens

    def to(self, device: torch.device) -> Clip:
        """The same object, with its model on a device."""
        nn.Module.to(self.model, device)
        return self

    def fingerprint(self) -> object:
        """The entry in the keys of artifacts: weights, vocabulary and preprocessing."""
        vocabulary = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for setting_of_last_call in ("padding", "truncation"):
            vocabulary.pop(setting_of_last_call, None)
        return keys.digest(
            {
                "model": self.model,
                "vocabulary": keys.key_of(keys.in_order(vocabulary)),
                "preprocessing": self.preprocessing,
                "size": self.size,
                "context": self.context,
            }
        )

    def image_features(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, F), unit norm; other sizes are resized."""
        if self.preprocessing is not None:
            images = self.preprocessing(images)
        else:
            images = resized(images, self.size)
        images = images.to(self.model.device, self.model.dtype)
        return F.normalize(self.model.get_image_features(images).pooler_output, dim=-1)

    features = image_features  # implements `Embedder`

    def text_features(self, texts: list[str]) -> Tensor:
        """B texts to (B, F), unit norm."""
        output = self.model.get_text_features(**self.tokenise(texts))
        return F.normalize(output.pooler_output, dim=-1)

    def tokenise(self, texts: list[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, L) each.

        L is the length of the longest text, cut at the model's context.
        """
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.context, return_tensors="pt"
        )
        return dict(tokens.to(self.model.device))

    def save(self, folder: Path) -> None:
        """Writes what `load` and transformers' own `from_pretrained` read.

        The weights are in half precision; the vocabulary is in vocab.json and merges.txt.
        """
        half = CLIPModel(self.model.config)
        half.load_state_dict(self.model.state_dict())
        nn.Module.half(half).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.tokenizer.backend_tokenizer.model.save(str(folder))
        (folder / "tokenizer.json").unlink()  # holds the same vocabulary once more

    @classmethod
    def load(cls, folder: Path) -> Clip:
        """Reads what `save` wrote, or a published CLIP.

        Raises ValueError, in one line, for missing, damaged or foreign files.
        """
        try:
            config = json.loads((folder / "config.json").read_text())
            if config.get("model_type") != "clip":
                kind = config.get("model_type")
                raise ValueError(f"config.json describes a {kind!r} model, not 'clip'")
            model = loading.part(CLIPModel, folder, torch.float32)
            assert isinstance(model, CLIPModel)
            json.loads((folder / "vocab.json").read_text())  # else the tokenizer would be empty
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
            words = model.config.to_dict()["text_config"]["vocab_size"]
            loading.check_tokenizer(folder, tokenizer, words)
            published = folder / "preprocessor_config.json"
            preprocessing = Preprocessing.load(published) if published.exists() else None
        except Exception as error:  # a foreign file raises many kinds
            raise _unreadable(folder, error) from None
        return cls(model.requires_grad_(False), tokenizer, preprocessing)


def class_texts(attribute: str, classes: tuple[str, ...]) -> list[str]:
    """One text per class: for zero-shot classification and the target of CLIP-D (Eq. 17).

    A class of people gets a sentence. Any other gets the attribute's name before it: "digit two".
    """
    if attribute in ("gender", "age", "race"):
        return [f"a portrait of {with_article(name)} person" for name in classes]
    if attribute == "tone":
        return [f"a portrait of a person with {name} skin" for name in classes]
    return [f"{attribute} {name}" for name in classes]


def with_article(words: str) -> str:
    """The words with "an" before them where they begin with a vowel, else with "a"."""
    article = "an" if words[0].lower() in "aeiou" else "a"
    return f"{article} {words}"


def resized(images: Tensor, size: int) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), bilinear and without aliasing."""
    if images.dtype == torch.float16:  # as images are stored; a CPU resizes none of these
        images = images.float()
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(
        f"evaluator weights in {folder} are missing, damaged or foreign: {line(error)}"
    )


# Images: with several hundred at once, small networks on a CPU wait for memory half of the time.
BATCH = 64
PIXELS = BATCH * 256**2  # of larger images fewer are looked at together


@torch.inference_mode()
def read(
    evaluator: Evaluator,
    images: Tensor,
    device: torch.device | None = None,
    batch: int = BATCH,
) -> dict[str, Tensor]:
    """Probabilities of every factor's classes, on the CPU: {factor: (n, classes)}.

    Images (n, 3, H, W) of any precision go to the `device` of the evaluator batch by batch, by
    default where they are: those that are stored may be more than fit into memory.
    """
    logits = evaluator.logits
    said = _batched(lambda some: _probabilities(evaluator, logits(some)), images, device, batch)
    return _by_factor(evaluator, said)


@torch.inference_mode()
def look(
    evaluator: Evaluator,
    images: Tensor,
    device: torch.device | None = None,
    batch: int = BATCH,
) -> tuple[dict[str, Tensor], Tensor]:
    """What `read` and `embed` give, in one pass."""

    def both(some: Tensor) -> Tensor:
        logits, features = evaluator.look(some)
        return torch.cat([_probabilities(evaluator, logits), features.float()], 1)

    said = _batched(both, images, device, batch)
    classes = sum(map(len, evaluator.factors.values()))
    return _by_factor(evaluator, said[:, :classes]), said[:, classes:].contiguous()


def _probabilities(evaluator: Evaluator, logits: Mapping[str, Tensor]) -> Tensor:
    """Those of every factor's classes, side by side: (B, classes of all)."""
    return torch.cat([logits[factor].float().softmax(-1) for factor in evaluator.factors], 1)


def _by_factor(evaluator: Evaluator, columns: Tensor) -> dict[str, Tensor]:
    parts = columns.split([len(classes) for classes in evaluator.factors.values()], 1)
    return {f: part.contiguous() for f, part in zip(evaluator.factors, parts, strict=True)}


@torch.inference_mode()
def embed(
    evaluator: Embedder,
    images: Tensor,
    device: torch.device | None = None,
    batch: int = BATCH,
) -> Tensor:
    """Features (n, F) on the CPU, of images as in `read`."""
    return _batched(evaluator.features, images, device, batch)


def _batched(
    function: Callable[[Tensor], Tensor],
    images: Tensor,
    device: torch.device | None,
    batch: int,
) -> Tensor:
    """What a function says of images, float32, batch by batch: (n, F) float32 on the CPU."""
    together = max(1, min(batch, PIXELS // max(1, images.shape[-2:].numel())))
    parts = images.split(together)
    whole = torch.empty(0)
    for i, some in enumerate(parts):
        said = function(some.to(device=device, dtype=torch.float32)).float().cpu()
        if not i:  # all of the place at once: many small pieces scatter the memory
            whole = torch.empty(len(images), said.shape[1])
        whole[i * together : i * together + len(said)] = said
    return whole
