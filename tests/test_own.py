"""From a folder of images with labels to a subject: what `make digits` does, with a few steps of each training."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from difflens_utils import evaluators, sampling, subjects


def call(recipe: str, *arguments: object) -> None:
    """`python models/<recipe>/train.py ...`, without a process of its own."""
    module = importlib.import_module(f"models.{recipe}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [recipe, *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one's own: 60 images of two shapes in two tints, two evaluators, a CLIP and a diffusion model that have seen little of them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    rows, rng = [], np.random.default_rng(0)
    for i in range(60):
        pixels = rng.integers(0, 40, (8, 8)) + (150 if i % 2 else 60) * (np.eye(8, dtype=int) if i // 2 % 2 else np.ones((8, 8), int))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{i}.png")
        rows.append({"file": f"{i}.png", "tint": ("dark", "light")[i % 2], "shape": ("full", "line")[i // 2 % 2]})
    pd.DataFrame(rows).to_csv(folder / "images/labels.csv", index=False)
    (folder / "study.yml").write_text("images: images\nattributes: [tint]\nshares: {tint: {dark: 0.8, light: 0.2}}\n")
    for name in ("labeller", "scorer"):
        call("evaluators.train", name, "--world", folder, "--images", 512)
    call("clip.train", "--world", folder, "--images", 128)
    call("own.train", folder, "--size", 8, "--images", 128)
    return folder


def test_a_folder_becomes_a_subject(folder: Path) -> None:
    study = subjects.load(str(folder), "cpu")
    assert study.attributes == ("tint",) and study.shape == (3, 8, 8) and study.planted("tint").tolist() == pytest.approx([0.8, 0.2])
    images = sampling.sample(study, 2, steps=2)
    assert images.shape == (2, 3, 8, 8) and images.abs().max() <= 1
    assert {k: v.shape for k, v in evaluators.read(study.scorer, images).items()} == {"tint": (2, 2), "shape": (2, 2)}
    assert evaluators.embed(study.clip, images).shape[0] == 2
    assert "mid_block" in str(subjects.describe(study))


@pytest.mark.parametrize(("recipe", "arguments", "told"), [
    ("own.train", [], "study.yml is missing"), ("own.train", ["--size", 10], "multiple of 4"), ("own.label", [], "holds no images"),
    ("evaluators.train", ["labeller", "--world"], "study.yml is missing"), ("clip.train", ["--world"], "study.yml is missing"),
])
def test_bad_input_is_refused_before_anything_is_trained(tmp_path: Path, recipe: str, arguments: list, told: str) -> None:
    arguments = [*arguments, tmp_path] if "--world" in arguments else [tmp_path, *arguments]
    with pytest.raises(SystemExit, match=told) as refused:
        call(recipe, *arguments)
    assert "\n" not in str(refused.value)
