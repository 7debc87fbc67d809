"""From a folder of images with labels to a subject.

That is what `make digits` does, here with a few steps of each training.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from PIL import Image

from difflens_utils import evaluators, sampling
from difflens_utils.subjects import registry
from difflens_utils.subjects.conditions import Prompt


def call(recipe: str, *arguments: object) -> None:
    """`python -m models.<recipe> ...`, in this process."""
    module = importlib.import_module(f"models.{recipe}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [recipe, *map(str, arguments)])
        module.main()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one's own, and its evaluators, trained little on 60 images.

    They show two shapes in two tints.
    """
    folder = tmp_path_factory.mktemp("own")
    (folder / "images").mkdir()
    rows, rng = [], np.random.default_rng(0)
    for i in range(60):
        ink = np.eye(8, dtype=int) if i // 2 % 2 else np.ones((8, 8), int)
        pixels = rng.integers(0, 40, (8, 8)) + (150 if i % 2 else 60) * ink
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{i}.png")
        rows.append(
            {
                "file": f"{i}.png",
                "tint": ("dark", "light")[i % 2],
                "shape": ("full", "line")[i // 2 % 2],
            }
        )
    pd.DataFrame(rows).to_csv(folder / "images/labels.csv", index=False)
    (folder / "study.yml").write_text(
        "images: images\nattributes: [tint]\nshares: {tint: {dark: 0.8, light: 0.2}}\n"
    )
    for name in ("labeller", "scorer"):
        call("evaluators.train", name, "--world", folder, "--images", 512)
    call("clip.train", "--world", folder, "--images", 128)
    out = folder / "clip/second"
    call("clip.train", "--world", folder, "--images", 128, "--seed", 37, "--out", out)
    call("own.train", folder, "--size", 8, "--images", 128)
    return folder


def test_a_folder_becomes_a_subject(folder: Path) -> None:
    study = registry.load(str(folder), "cpu")
    assert (
        study.attributes == ("tint",)
        and study.shape == (3, 8, 8)
        and study.planted("tint").tolist() == pytest.approx([0.8, 0.2])
    )
    images = sampling.sample(study, 2, steps=2)
    assert images.shape == (2, 3, 8, 8) and images.abs().max() <= 1
    assert {k: v.shape for k, v in evaluators.read(study.scorer, images).items()} == {
        "tint": (2, 2),
        "shape": (2, 2),
    }
    assert evaluators.embed(study.clip, images).shape[0] == 2
    assert "mid_block" in str(registry.describe(study))


def weights(clip: evaluators.Clip) -> dict[str, torch.Tensor]:
    """The matrices: what else there is begins with ones and zeros."""
    return {name: value for name, value in clip.model.named_parameters() if value.ndim > 1}


def test_a_second_clip_differs_in_all_that_is_random(folder: Path) -> None:
    study = registry.load(str(folder), "cpu")
    paths = [folder / name / "card.json" for name in ("clip", "clip/second")]
    cards = [json.loads(path.read_text()) for path in paths]
    assert [card["seed"] for card in cards] == [31, 37]
    assert [card["held_out"]["planted"]["seed"] for card in cards] == [231, 237]
    first, second = weights(study.clip), weights(study.second_clip)
    assert all(not value.equal(second[name]) for name, value in first.items())


def test_a_second_clip_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    text = (folder / "study.yml").read_text()
    for place, told in ((folder / "clip", None), (tmp_path, "evaluator weights in .* are missing")):
        (folder / "study.yml").write_text(f"{text}second_clip: {place}\n")
        study = registry.load(str(folder), "cpu")
        if told is None:
            first, second = weights(study.clip), weights(study.second_clip)
            assert all(value.equal(second[name]) for name, value in first.items())
        else:
            with pytest.raises(ValueError, match=told):
                _ = study.second_clip
    (folder / "study.yml").write_text(text)


@pytest.mark.parametrize(
    ("recipe", "arguments", "told"),
    [
        ("own.train", [], "study.yml is missing"),
        ("own.train", ["--size", 10], "multiple of 4"),
        ("own.label", [], "holds no images"),
        ("own.label", ["--size", 0], "--size must be at least 1, got 0"),
        ("own.train", ["--images", 63], "--images must be at least 64 .one batch., got 63"),
        ("own.train", ["--images", -1], "--images must be at least 64"),
        ("own.train", ["--open-blocks", 4], "--open-blocks must be between 0 and 3, got 4"),
        ("evaluators.train", ["labeller", "--world"], "study.yml is missing"),
        ("clip.train", ["--world"], "study.yml is missing"),
        (
            "evaluators.train",
            ["scorer", "--images", 255, "--world"],
            "--images must be at least 256 .one batch., got 255",
        ),
        (
            "clip.train",
            ["--images", 127, "--world"],
            "--images must be at least 128 .one batch., got 127",
        ),
        ("clip.train", ["--seed", -1, "--world"], "--seed must be at least 0, got -1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    tmp_path: Path, recipe: str, arguments: list, told: str
) -> None:
    arguments = [*arguments, tmp_path] if "--world" in arguments else [tmp_path, *arguments]
    with pytest.raises(SystemExit, match=told) as refused:
        call(recipe, *arguments)
    assert "\n" not in str(refused.value)


def test_a_state_of_other_data_or_another_size_is_not_gone_on_with(folder: Path) -> None:
    """The network of another size has weights of the same shapes: nothing else would notice."""
    with pytest.raises(
        SystemExit, match="was made with size 8, .* remove it, or name another file with --state"
    ) as refused:
        call("own.train", folder, "--size", 16, "--images", 128)
    assert "\n" not in str(refused.value)
    call(
        "own.train", folder, "--size", 8, "--images", 128
    )  # the same again goes on, from the end to the end
    name = folder / "images/0.png"
    before = name.read_bytes()
    Image.new("L", (8, 8), 77).save(name)
    with pytest.raises(SystemExit, match="was made with"):
        call("own.train", folder, "--size", 8, "--images", 128)
    name.write_bytes(before)


def test_evaluators_of_another_table_or_order_are_not_listened_to(folder: Path) -> None:
    """Else the shares of one class would be read as those of the other."""
    text = (folder / "study.yml").read_text()
    (folder / "study.yml").write_text(
        text.replace("{dark: 0.8, light: 0.2}", "{light: 0.2, dark: 0.8}")
    )
    with pytest.raises(
        ValueError,
        match="labeller reads tint as dark, light, and the study says light, dark; train it again",
    ) as refused:
        _ = registry.load(str(folder), "cpu").labeller
    assert "\n" not in str(refused.value)
    (folder / "study.yml").write_text(text)
    assert registry.load(str(folder), "cpu").labeller.factors["tint"] == ("dark", "light")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("guidance: 2", "guidance must not be there"),
        ("prompts: {evaluate: [a cup]}", "prompts must not be there"),
    ],
)
def test_prompts_beside_a_model_that_reads_none_are_refused(
    folder: Path, entry: str, told: str
) -> None:
    text = (folder / "study.yml").read_text()
    (folder / "study.yml").write_text(text + entry)
    with pytest.raises(ValueError, match=told) as refused:
        registry.load(str(folder), "cpu")
    assert "\n" not in str(refused.value)
    (folder / "study.yml").write_text(text)


def test_ten_batches_are_as_good_as_nine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tenth of the steps is one, the schedule of the rate divided by zero."""
    recipe = importlib.import_module("models.clip.train")
    source = recipe.SOURCES["portraits"]
    monkeypatch.setattr(recipe, "BATCH", 2)
    for batches in (1, 9, 10, 11):
        assert recipe.train(2 * batches, source).model.logit_scale.isfinite()


def test_no_caption_is_cut_off(folder: Path, tmp_path: Path) -> None:
    """Classes of twelve words and numbers: more than the twenty tokens that others need."""
    recipe = importlib.import_module("models.clip.train")
    words = {
        "dark": "as dark as a night in the winter of 1885-86",
        "light": "as light as a day in the summer of 1885-86",
    }
    for image in (folder / "images").glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    table = pd.read_csv(folder / "images/labels.csv").assign(tint=lambda t: t["tint"].map(words))
    table.to_csv(tmp_path / "labels.csv", index=False)
    (tmp_path / "study.yml").write_text("images: .\nattributes: [tint]")
    source = recipe.source_of(str(tmp_path))
    tokens = recipe.tokenizer(source)
    captions = [
        source.full({"tint": t, "shape": s}, None) for t in words.values() for s in ("full", "line")
    ]
    assert 20 < max(len(tokens(text).input_ids) for text in captions) == tokens.model_max_length
    assert recipe.source_of(str(folder)).context == 20  # as it was


# ------------------------------------------------------------------------------------------------
# Models that read text, or classes

PROMPTS = """
prompts:
  evaluate:
    - {text: a face of a doctor, given: {shape: line}}
    - a face of a nurse
guidance: 3
"""


@pytest.fixture
def beside(folder: Path, tmp_path: Path) -> Path:
    """The study of the folder, for another pipeline."""
    (tmp_path / "study.yml").write_text(
        f"images: {folder}/images\nattributes: [tint]\nevaluators: {folder}/evaluators\n"
        f"clip: {folder}/clip" + PROMPTS
    )
    return tmp_path


def test_a_text_model_of_ones_own_is_asked_for_its_prompts(beside: Path) -> None:
    tiny.text_subject().pipeline.save_pretrained(beside)
    study = registry.load(str(beside), "cpu")
    assert study.guidance == 3 and study.texts() == ["a face of a doctor", "a face of a nurse"]
    assert study.prompts.learn[1] == Prompt(
        "a face of a nurse, dark", {"tint": "dark"}, "a face of a nurse"
    )
    assert {tuple(p.given.items()) for p in study.prompts.probe} == {
        ((*g, ("tint", c))) for g in ((("shape", "line"),), ()) for c in ("dark", "light")
    }
    images = sampling.sample(study, 2, 0, steps=2)
    other = tiny.text_subject(prompts=study.prompts, guidance=3.0)
    assert torch.allclose(images, sampling.sample(other, 2, 0, steps=2), atol=0.1)
    assert study.planted("tint", 0).sum().item() == pytest.approx(1) and study.renders(
        4, 0
    ).shape == (4, 3, 16, 16)
    (beside / "study.yml").write_text(
        (beside / "study.yml")
        .read_text()
        .replace(
            "evaluate:", "learn: [one, two]\n  probe: [three]\n  held_out: [four]\n  evaluate:"
        )
    )
    asked = registry.load(str(beside), "cpu").prompts
    assert [[p.text for p in stage] for stage in (asked.learn, asked.probe, asked.held_out)] == [
        ["one", "two"],
        ["three"],
        ["four"],
    ]


def test_a_model_of_classes_learns_from_the_classes_that_it_is_asked_for(beside: Path) -> None:
    (beside / "model_index.json").write_text(
        '{"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]}'
    )
    asked = registry.about(beside, torch.device("cpu"))
    assert (
        asked["guidance"] == 3
        and asked["prompts"].learn == asked["prompts"].probe == asked["prompts"].evaluate
    )
    (beside / "model_index.json").write_text(
        '{"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}'
    )
    (beside / "unet").mkdir()
    (beside / "unet/config.json").write_text('{"num_class_embeds": 10}')
    with pytest.raises(
        ValueError,
        match="guidance must not be there: the pipeline beside it has no classifier-free guidance",
    ):
        registry.about(beside, torch.device("cpu"))
    (beside / "study.yml").write_text((beside / "study.yml").read_text().replace("guidance: 3", ""))
    assert len(registry.about(beside, torch.device("cpu"))["prompts"].learn) == 2


def test_labels_that_are_there_are_not_overwritten(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / "labels.csv").write_text("file,tint\n0.png,dark\n")
    with pytest.raises(SystemExit, match=r"labels.csv is there already; move it away"):
        call("own.label", tmp_path)
    assert (tmp_path / "labels.csv").read_text() == "file,tint\n0.png,dark\n"
