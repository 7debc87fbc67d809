"""The paper's subjects and evaluators, from random weights in the published formats."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from cleanfid import fid
from cleanfid.inception_torchscript import InceptionV3W
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from guided import guided
from PIL import Image
from torch import nn
from torchvision.models import resnet34
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from difflens_utils import evaluators, sampling
from difflens_utils.evaluators import Clip, Preprocessing
from difflens_utils.evaluators.inception import Inception
from difflens_utils.subjects import registry
from difflens_utils.subjects.pipelines import MODELS
from difflens_utils.subjects.real import guided_diffusion, weights

REAL = {
    name: place
    for name, place in (
        ("p2-celebahq", "celebahq_p2.pt"),
        ("ddpm-celebahq", "ddpm-celebahq-256"),
        ("sd-v1-5", "stable-diffusion-v1-5"),
        ("sdxl", "stable-diffusion-xl-base-1.0"),
        ("dit-imagenet", "DiT-XL-2-256"),
    )
}
OPENAI = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


class PooledColour(nn.Module):
    """In the place of Inception: 2,048 features, in the layout that clean-fid expects."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2048))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights that has all that judges faces, and the two small pipelines."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    for races in (7, 4):
        torch.save(
            resnet34(num_classes=18).state_dict(),
            folder / f"res34_fair_align_multi_{races}_20190809.pt",
        )
    torch.jit.script(PooledColour().eval()).save(str(folder / "inception-2015-12-05.pt"))
    clip = folder / "clip-vit-large-patch14"
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "clip")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    Clip(
        CLIPModel(
            CLIPConfig(
                text_config=sizes
                | {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
                vision_config=sizes | {"image_size": 224, "patch_size": 56},
                projection_dim=8,
            )
        ),
        tokenizer,
    ).save(clip)
    (clip / "preprocessor_config.json").write_text(json.dumps(OPENAI))
    network = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        attention_head_dim=8,
    )
    DDPMPipeline(network, DDPMScheduler(1000)).save_pretrained(folder / REAL["ddpm-celebahq"])
    tiny.text_subject().pipeline.save_pretrained(folder / REAL["sd-v1-5"])
    for name in ("ffhq/00000", "celebahq"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "1.png")
    return folder


# --------------------------------------------------------------------------------------------------
# Subjects


def test_p2_from_the_released_format_to_a_judged_image(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full width and size, by the names of the released checkpoint.

    It is sampled as it was: x_0 clipped, timesteps evenly spaced from 0 to T - 1.
    """
    theirs = guided(guided_diffusion.P2)
    torch.save(theirs.state_dict(), root / "celebahq_p2.pt")
    monkeypatch.setattr(weights, "ROOT", root)
    subject = registry.load("p2-celebahq", "cpu", dtype=torch.float32)
    (root / "celebahq_p2.pt").unlink()  # 374 MB
    s = sampling.trajectory(subject, 2)
    assert s.timesteps == (999, 0) and s.clip == 1.0 and s.keep[-1] == 1.0
    betas = np.linspace(1e-4, 0.02, 1000)
    expected = np.cumprod(1 - betas)[[999, 0]]
    assert s.keep[:-1].numpy() ** 2 == pytest.approx(expected, rel=1e-4)
    small = replace(
        subject, shape=(3, 64, 64)
    )  # convolutions take any size, and a sixteenth of the pixels is enough for the comparison
    x, alphas = (
        sampling.Noise(sampling.image_seeds(1, 0), small.shape, torch.device("cpu")).draw(),
        s.keep.float() ** 2,
    )
    clean = (
        (x - (1 - alphas[0]).sqrt() * theirs(x, torch.tensor([999]))[0][:, :3]) / alphas[0].sqrt()
    ).clamp(-1, 1)
    x = (
        alphas[1].sqrt() * clean
        + (1 - alphas[1]).sqrt() * (x - alphas[0].sqrt() * clean) / (1 - alphas[0]).sqrt()
    )
    last = (
        (x - (1 - alphas[1]).sqrt() * theirs(x, torch.tensor([0]))[0][:, :3]) / alphas[1].sqrt()
    ).clamp(-1, 1)
    torch.testing.assert_close(
        sampling.sample(small, 1, 0, steps=2), last, atol=1e-3, rtol=0
    )  # at t = 999 epsilon's rounding is multiplied by 157
    images = sampling.sample(subject, 1, 0, steps=2)
    assert images.shape == (1, 3, 256, 256) and subject.module == "mid_block"
    assert subject.factors == subject.labeller.factors == registry.FACE_CLASSES
    read = evaluators.read(subject.scorer, images)
    assert {k: v.shape for k, v in read.items()} == {
        "gender": (1, 2),
        "age": (1, 3),
        "race": (1, 4),
    }
    assert evaluators.embed(subject.scorer, images).shape == (1, 2048) and evaluators.embed(
        subject.clip, images
    ).shape == (1, 8)
    assert subject.paper["race"]["DiffLens"].fd == 0.447 and subject.reference == root / "celebahq"


def test_other_subjects_are_found_in_the_folder_of_weights(root: Path) -> None:
    ddpm, text = (
        registry.load(name, "cpu", folder=root, dtype=torch.float32)
        for name in ("ddpm-celebahq", "sd-v1-5")
    )
    assert (ddpm.shape, ddpm.spacing, ddpm.reference) == ((3, 16, 16), "leading", root / "celebahq")
    assert (text.guidance, text.reference, text.attributes) == (
        7.5,
        root / "ffhq",
        ("gender", "age", "race"),
    )
    assert text.texts() == [
        f"a face of a {o}" for o in ("doctor", "firefighter", "nurse", "receptionist")
    ]
    assert {"a face photo of an Asian nurse", "a face photo of an old doctor"} <= {
        p.text for p in text.prompts.learn
    }
    assert (
        "a female young White person" in {p.text for p in text.prompts.probe}
        and len(text.prompts.probe) == 24
    )
    assert sampling.sample(text, 2, 0, steps=1).shape == (2, 3, 16, 16)
    assert (
        set(text.paper) == {"gender", "age", "race"}
        and text.scorer.factors == registry.FACE_CLASSES
    )


@pytest.mark.parametrize("name", REAL)
def test_all_that_is_missing_is_said_in_one_line_before_anything_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "ROOT", tmp_path / "w")
    with pytest.raises(
        ValueError, match="^5 of the 5 files that are needed are missing: fetch "
    ) as error:
        registry.load(name)
    told = str(error.value)
    assert (
        "\n" not in told
        and "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/" in told
        and "/metrics/inception-2015-12-05.pt" in told
    )
    for place in (
        REAL[name],
        "res34_fair_align_multi_7_20190809.pt",
        "res34_fair_align_multi_4_20190809.pt",
        "clip-vit-large-patch14",
        "inception-2015-12-05.pt",
    ):
        assert str(tmp_path / "w" / place) in told


def test_one_missing_file_is_named_with_its_source_and_its_place(root: Path) -> None:
    with pytest.raises(ValueError) as error:
        registry.load("sdxl", folder=root)
    name = "stable-diffusion-xl-base-1.0"
    assert str(error.value).startswith(
        "1 of the 5 files that are needed is missing: fetch Stable Diffusion XL (Podell et al., "
        f"2023) from https://huggingface.co/stabilityai/{name} with: hf download "
        f"stabilityai/{name} --local-dir {root}/{name} --exclude '*.ckpt' "
    )


@pytest.mark.parametrize("name", weights.ASSETS)
def test_every_asset_says_what_to_fetch_from_where_and_where_to(name: str, tmp_path: Path) -> None:
    asset = weights.ASSETS[name]
    with pytest.raises(ValueError, match="1 of the 1 files that are needed is missing") as error:
        weights.require(name, root=tmp_path)
    assert all(
        part in str(error.value) for part in (asset.what, asset.source, str(tmp_path / asset.place))
    )
    path = (
        tmp_path / asset.place / "a" / "image.jpg"
        if asset.holds == weights.IMAGES
        else tmp_path / asset.place / asset.holds
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    assert weights.require(name, root=tmp_path) == [tmp_path / asset.place]


# --------------------------------------------------------------------------------------------------
# Evaluators


@pytest.mark.parametrize("size", [(256, 256), (224, 224), (300, 240), (64, 64)])
def test_clip_sees_what_its_own_processor_shows_it(root: Path, size: tuple[int, int]) -> None:
    """On pictures with large and small shapes.

    The processor rounds to bytes after resizing, which is up to half a step of 1/255.
    """
    grid = torch.stack(torch.meshgrid(*(torch.linspace(0, 9, s) for s in size), indexing="ij"))
    picture = (
        (
            torch.stack([grid[0].sin(), (3 * grid[1]).cos(), (grid[0] * grid[1]).sin()]) * 127.5
            + 127.5
        )
        .round()
        .byte()
    )
    theirs = CLIPImageProcessor.from_pretrained(root / "clip-vit-large-patch14")(
        Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt"
    ).pixel_values
    ours = Preprocessing.load(root / "clip-vit-large-patch14/preprocessor_config.json")(
        picture[None].float() / 127.5 - 1
    )
    assert ours.shape == theirs.shape == (1, 3, 224, 224)
    assert (ours - theirs).abs().max() < 1.5 / 255 / 0.26
    clip = Clip.load(root / "clip-vit-large-patch14")
    torch.testing.assert_close(
        clip.image_features(picture[None].float() / 127.5 - 1),
        nn.functional.normalize(clip.model.get_image_features(theirs).pooler_output, dim=-1),
        atol=2e-3,
        rtol=0,
    )


def test_clip_of_portraits_takes_images_as_they_are() -> None:
    assert Clip.load(MODELS / "clip").preprocessing is None


def test_gradients_pass_the_preprocessing(root: Path) -> None:
    images = torch.rand(1, 3, 256, 256).requires_grad_(True)
    Clip.load(root / "clip-vit-large-patch14").image_features(images)[0, 0].backward()
    assert images.grad.abs().max() > 0


def test_inception_gives_what_clean_fid_reads_from_files(root: Path, tmp_path: Path) -> None:
    pixels = torch.randint(
        256, (3, 48, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    for i, image in enumerate(pixels):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
    network = InceptionV3W(str(root), download=False).eval()
    theirs = fid.get_folder_features(
        str(tmp_path),
        model=network,
        mode="clean",
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    ours = Inception(root / "inception-2015-12-05.pt", torch.device("cpu")).features(
        pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no network"])
def test_a_damaged_inception_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "inception-2015-12-05.pt").write_bytes(content)
    with pytest.raises(
        ValueError, match="inception-2015-12-05.pt is missing, damaged or not clean-fid's Inception"
    ) as error:
        Inception(tmp_path / "inception-2015-12-05.pt", torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_an_inception_that_is_not_finite_is_refused_in_one_line(tmp_path: Path) -> None:
    network = PooledColour().eval()
    network.layers[2].bias.data[7] = torch.nan
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.script(network).save(str(path))
    told = f"^{path}: .*layers.2.bias holds values that are not finite$"
    with pytest.raises(ValueError, match=told):
        Inception(path, torch.device("cpu"))


def test_class_texts_of_races() -> None:
    assert evaluators.class_texts("race", ("White", "Asian")) == [
        "a portrait of a White person",
        "a portrait of an Asian person",
    ]
