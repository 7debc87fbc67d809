"""Whole studies small enough for unit tests: images, labels, evaluators, a CLIP and a model.

All weights are random.

Every notebook runs on them in this process, cell by cell, as a kernel would.
"""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import made
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import tiny
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    UNet2DModel,
)
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from difflens_utils import sampling
from difflens_utils.evaluators import AttributeNet, Clip
from difflens_utils.settings import Settings
from difflens_utils.subjects import registry
from difflens_utils.subjects.conditions import Prompts
from difflens_utils.subjects.pipelines import MODELS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
FEATURES = 4  # of the evaluators: Fréchet distances need more images
SIDE = 8  # pixels of an image, or of a latent


# ------------------------------------------------------------------------------------------
# Models


def unet() -> DDIMPipeline:
    """An unconditional U-Net in pixel space."""
    network = UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 12),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        attention_head_dim=4,
    )
    return DDIMPipeline(network, tiny.scheduler())


def class_conditional() -> DDIMPipeline:
    """A U-Net that is told one of two classes."""
    plain = unet()
    network = UNet2DModel(**{**plain.unet.config, "num_class_embeds": 2})
    pipeline = DDIMPipeline(network, plain.scheduler)
    pipeline.labels = {"red": 0, "blue": 1}
    return pipeline


def stable_diffusion() -> DiffusionPipeline:
    return tiny.text_subject().pipeline


def dit() -> DiTPipeline:
    """A transformer that reads classes, whose bottleneck is tokens."""
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=SIDE,
        patch_size=2,
        num_embeds_ada_norm=4,
        norm_num_groups=4,
    )
    for value in network.parameters():  # a DiT starts as the identity
        value.data += 0.1 * torch.randn_like(value)
    steps = DDIMScheduler(1000, clip_sample=False)
    return DiTPipeline(network, tiny.autoencoder(), steps, {0: "red fish", 1: "blue fish"})


def chroma() -> DiffusionPipeline:
    """A pipeline that samples by its own call."""
    return made.pipeline("chroma")


def shallow(features: int) -> nn.Sequential:
    """A trunk for `AttributeNet` that takes no time."""
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, features), nn.Tanh())


def clip() -> Clip:
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "clip")
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    width = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    vision = width | {"image_size": SIDE, "patch_size": 4}
    return Clip(
        CLIPModel(CLIPConfig(text_config=text | width, vision_config=vision, projection_dim=6)),
        tokenizer,
    )


# ------------------------------------------------------------------------------------------
# Studies


class Tiny(NamedTuple):
    """What a study consists of."""

    pipeline: DiffusionPipeline
    factors: Mapping[str, Sequence[str]]
    attributes: Sequence[str]
    prompts: Prompts = Prompts()
    never: tuple[str, ...] = ()  # classes that the evaluators see in no generated image


def write(study: Tiny, folder: Path) -> Path:
    """The folder of a study, as a user would make it."""
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i, cell in enumerate(list(itertools.product(*study.factors.values())) * 10):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(
            folder / f"images/{i}.png"
        )
        rows.append({"file": f"{i}.png", **dict(zip(study.factors, cell, strict=True))})
    pd.DataFrame(rows).to_csv(folder / "images/labels.csv", index=False)
    shares = {
        a: {c: 2 if i == 0 else 1 for i, c in enumerate(study.factors[a])} for a in study.attributes
    }
    shares = {a: {c: v / sum(own.values()) for c, v in own.items()} for a, own in shares.items()}
    about = {"images": "images", "attributes": list(study.attributes), "shares": shares}
    (folder / "study.yml").write_text(json.dumps(about))  # JSON is YAML
    study.pipeline.save_pretrained(folder)
    if labels := getattr(
        study.pipeline, "labels", None
    ):  # diffusers reads them and does not write them
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = {str(number): label for label, number in labels.items()}
        (folder / "model_index.json").write_text(json.dumps(index))
    clip().save(folder / "clip")
    _judges(study, folder)
    return folder


def _judges(study: Tiny, folder: Path) -> None:
    """Two random evaluators that see every class in generated images but those `never` there."""
    read = registry.door(folder)
    subject = read("tiny", folder, torch.device("cpu"), torch.float32, prompts=study.prompts)
    images = sampling.sample(subject, 64, 1, steps=2)
    for name in ("labeller", "scorer"):
        net = AttributeNet(
            "shallow", {f: tuple(c) for f, c in study.factors.items()}, FEATURES
        ).eval()
        net.requires_grad_(False)
        seen = net.features(images)
        net.head.weight *= 8 / seen.std(0)
        net.head.bias.copy_(-(net.head.weight @ seen.mean(0)))
        classes = [c for own in study.factors.values() for c in own]
        net.head.bias -= torch.tensor([1000.0 * (c in study.never) for c in classes])
        net.save(folder / "evaluators" / name)


# ------------------------------------------------------------------------------------------
# Notebooks


def parameters(name: str) -> dict[str, object]:
    """The parameters of a notebook with their defaults."""
    own: dict[str, object] = {}
    exec(next(source for source, tags in cells(name) if "parameters" in tags), own)  # noqa: S102
    return {k: v for k, v in own.items() if not k.startswith("__")}


def cells(name: str) -> list[tuple[str, list[str]]]:
    """The code cells of a notebook: source and tags of each."""
    found = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    return [
        ("".join(c["source"]), c["metadata"].get("tags", []))
        for c in found
        if c["cell_type"] == "code"
    ]


def settings() -> dict[str, object]:
    """The settings with their defaults."""
    return asdict(Settings())


def injected(name: str, values: Mapping[str, object]) -> dict[str, object]:
    """Values as the parameters cell of a notebook takes them: its own, and `settings`."""
    own = parameters(name)
    chosen = {k: v for k, v in values.items() if k in own}
    shared = {k: v for k, v in values.items() if k not in own}
    assert shared.keys() <= settings().keys(), f"{name} has no parameters {shared.keys()}"
    return chosen | ({"settings": shared} if "settings" in own else {})


def run(name: str, values: Mapping[str, object]) -> int:
    """Execute a notebook's code cells in one namespace, and show what each ends with.

    Unknown parameters are refused. Returns which code cell draws the first picture, from 1 on.
    """
    space: dict[str, object] = {
        "__name__": "__main__",
        "display": lambda *shown: [_show(s) for s in shown],
    }
    given = injected(name, values)
    first = 0
    for number, (source, tags) in enumerate(cells(name), 1):
        _execute(source, space, f"{name}, {source.splitlines()[0]}")
        if plt.get_fignums() and not first:
            first = number
        if "parameters" in tags:
            space |= given
    return first


def _execute(source: str, space: dict[str, object], where: str) -> None:
    body = ast.parse(source).body
    last = (
        body.pop() if isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";") else None
    )
    exec(compile(ast.Module(body, []), where, "exec"), space)  # noqa: S102
    if last is not None:
        _show(eval(compile(ast.Expression(last.value), where, "eval"), space))  # noqa: S307


def _show(value: object) -> None:
    """What a kernel does with the value of a cell."""
    for name in ("_repr_html_", "_repr_markdown_"):
        if hasattr(value, name):
            getattr(value, name)()
    repr(value)
