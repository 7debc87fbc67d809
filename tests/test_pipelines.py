"""Any pipeline, saved with random weights, opened, described, recorded, edited, sampled."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import made
import pytest
import tiny
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from made import LATENT, MADE
from safetensors.torch import load_file, save_file
from torch import Tensor

from difflens_utils import recording as activations
from difflens_utils import sampling
from difflens_utils.runtime import precision
from difflens_utils.sampling import hooks
from difflens_utils.subjects import pipelines, registry
from difflens_utils.worlds import portraits


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of one of `MADE`."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            made.saved(made.pipeline(name), root / name)
        return root / name

    return folder


@pytest.fixture(scope="module")
def opened(saved):
    """One of the pipelines above as a subject."""
    known: dict[str, registry.Subject] = {}

    def subject(name: str) -> registry.Subject:
        if name not in known:
            known[name] = registry.load(str(saved(name)), "cpu", dtype=torch.float32)
        return known[name]

    return subject


@pytest.mark.parametrize("name", MADE)
def test_a_folder_is_opened_at_its_bottleneck(opened, name: str) -> None:
    _, shape, module, h = MADE[name]
    subject = opened(name)
    assert (subject.shape, subject.module, subject.size) == (shape, module, side(name))
    found = {m.name: m for m in registry.describe(subject)}
    assert found[module].shape == h and list(found) == [
        n for n, _ in subject.network.named_modules() if n in found
    ]
    seen = hooks_see(subject, list(found)[::7])
    assert all(found[n].shape == s for n, s in seen.items())
    table = str(registry.describe(subject)).splitlines()
    assert table[0].split() == ["name", "type", "shape"] and any(
        line.startswith(module + " ") and line.endswith(" x ".join(map(str, h))) for line in table
    )


def side(name: str) -> int:
    """The width of the images of a pipeline."""
    return 32 if name == "sana" else 16


def hooks_see(subject: registry.Subject, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes of h of one image, by what an edit would get."""
    shapes = {}
    for name in names:
        with hooks.record(subject.network, name) as out:
            subject.epsilon(torch.zeros(1, *subject.shape), 500)
        shapes[name] = tuple(out[0].shape[1:])
    return shapes


@pytest.mark.parametrize("name", MADE)
def test_h_is_recorded_and_edited_step_by_step(opened, store: Path, name: str) -> None:
    subject, h = opened(name), MADE[name][3]
    rec = activations.record(subject, 2, 0, 2)
    assert rec.h.shape == (2, 2, *h) and rec.images.shape == (2, 3, side(name), side(name))
    plain = sampling.sample(subject, 2, 0, steps=2)
    torch.testing.assert_close(rec.images.float(), plain, atol=2e-3, rtol=0)
    seen = []

    def identity(h: Tensor, _step: sampling.Step) -> None:
        seen.append(h.shape)

    for asymmetric in (True, False):
        assert torch.equal(
            sampling.sample(subject, 2, 0, steps=2, edit=identity, asymmetric=asymmetric), plain
        )
        assert torch.equal(
            sampling.sample(
                subject, 2, 0, steps=2, edit=lambda h, _step: h.clone(), asymmetric=False
            ),
            plain,
        )
        moved = sampling.sample(
            subject, 2, 0, steps=2, edit=lambda h, _step: 2 * h + 1, asymmetric=asymmetric
        )
        assert moved.isfinite().all() and not torch.allclose(moved, plain, atol=1e-4)
    assert set(seen) == {(2, *h)}


def test_grey_images_are_the_same_in_all_channels(opened) -> None:
    subject, images = opened("grey"), torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(subject.encode(images), images.mean(1, keepdim=True))
    drawn = sampling.sample(subject, 1, 0, steps=2)
    assert torch.equal(drawn[:, 0], drawn[:, 1]) and torch.equal(drawn[:, 0], drawn[:, 2])


def test_a_flat_folder_of_old_is_the_same_subject(saved, opened, tmp_path: Path) -> None:
    """google/ddpm-celebahq-256 keeps all files of its pipeline in one folder."""
    for file in saved("grey").rglob("*.*"):
        shutil.copy(file, tmp_path) if file.is_file() else None
    flat = registry.load(str(tmp_path), "cpu", dtype=torch.float32)
    assert flat.fingerprint == opened("grey").fingerprint
    assert torch.equal(
        sampling.sample(flat, 1, 0, steps=2), sampling.sample(opened("grey"), 1, 0, steps=2)
    )


# --------------------------------------------------------------------------------------------------
# Beside diffusers' own pipelines, from the same noise


def noise(subject: registry.Subject, n: int) -> Tensor:
    return sampling.Noise(sampling.image_seeds(n, 4), subject.shape, torch.device("cpu")).draw()


def test_xl_draws_what_its_pipeline_draws(saved, opened) -> None:
    subject, texts = opened("xl"), ["a man", ""]
    pipeline = StableDiffusionXLPipeline.from_pretrained(saved("xl"), add_watermarker=False)
    pipeline.scheduler = DDIMScheduler(
        1000, **LATENT, clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        texts,
        latents=noise(subject, 2),
        num_inference_steps=4,
        guidance_scale=7.5,
        height=16,
        width=16,
        output_type="pt",
    ).images
    torch.testing.assert_close(
        sampling.sample(subject, 2, 4, steps=4, prompts=texts)[:1],
        theirs[:1] * 2 - 1,
        atol=2e-3,
        rtol=1e-3,
    )


def test_a_transformer_draws_what_its_pipeline_draws(opened) -> None:
    """The guidance is written out: diffusers' own takes 1000 for no class, whatever the network;
    this one has 10 classes.
    """
    subject, texts = opened("dit"), ["groom", "ballplayer"]
    network, x = subject.network, noise(subject, 2)
    s = sampling.trajectory(subject, 3)
    ours, steps = (
        sampling.sample(subject, 2, 4, steps=3, prompts=texts),
        DDIMScheduler(1000, clip_sample=False),
    )
    steps.set_timesteps(3)
    assert list(s.timesteps) == steps.timesteps.tolist()
    for t in steps.timesteps:
        said, none = (
            network(x, torch.full((2,), t), class_labels=torch.tensor(labels)).sample[:, :4]
            for labels in ([1, 3], [10, 10])
        )
        x = steps.step(none + 4.0 * (said - none), t, x).prev_sample
    torch.testing.assert_close(ours, subject.decode(x).clamp(-1, 1), atol=2e-3, rtol=1e-3)


def test_only_the_half_with_the_class_is_edited(opened) -> None:
    subject, x = opened("dit"), noise(opened("dit"), 2)
    with hooks.edit(subject.network, subject.module, lambda h, _call: 2 * h):
        said = subject.epsilon(x, 300, ["groom", "ballplayer"], guided=False)
    none = subject.epsilon(x, 300, ["", ""], guided=False)
    with hooks.edit(subject.network, subject.module, lambda h, _call: 2 * h, subject.parts(2)):
        got = subject.epsilon(x, 300, ["groom", "ballplayer"])
    torch.testing.assert_close(got, none + 4 * (said - none), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "module", ["transformer_blocks.0", "transformer_blocks.1", "transformer_blocks.2"]
)
def test_a_fork_of_a_transformer_equals_two_passes(opened, module: str) -> None:
    """At its first, middle and last block; two versions of each image, whose classes differ."""
    subject, x, texts = opened("dit"), noise(opened("dit"), 2), ["groom", "ballplayer"]
    calls: list[int] = []
    handle = subject.network.transformer_blocks[0].register_forward_hook(lambda *_: calls.append(1))
    with hooks.fork(
        subject.network, module, lambda h, _call: torch.cat([h * 2, h + 1]), subject.parts(2)
    ) as forked:
        plain, edited = forked.split(subject.epsilon(x, 300, texts), 2)
    handle.remove()
    assert len(calls) == 1 and edited.shape == (4, 4, 8, 8)
    torch.testing.assert_close(plain, subject.epsilon(x, 300, texts), atol=1e-5, rtol=1e-5)
    for i, change in enumerate((lambda h, _call: h * 2, lambda h, _call: h + 1)):
        with hooks.edit(subject.network, module, change, subject.parts(2)):
            torch.testing.assert_close(
                edited[2 * i : 2 * i + 2], subject.epsilon(x, 300, texts), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize("name", ["grey", "stable_diffusion"])
def test_velocities_are_read_as_noise(opened, name: str) -> None:
    """A network may predict v = sqrt(a) e - sqrt(1 - a) x0, of the noise e in x_t."""
    subject = opened(name)
    steps = DDIMScheduler(1000, prediction_type="v_prediction")
    x, t, texts = noise(subject, 2), 400, ["a man", "a face"]
    a = steps.alphas_cumprod[t]
    v = subject.epsilon(x, t, texts)  # whatever it says, now taken for v
    clean = a.sqrt() * x - (1 - a).sqrt() * v
    torch.testing.assert_close(
        replace(subject, scheduler=steps).epsilon(x, t, texts),
        (x - a.sqrt() * clean) / (1 - a).sqrt(),
        atol=1e-4,
        rtol=1e-4,
    )


def test_velocities_come_back_forked() -> None:
    subject = tiny.subject(prediction_type="v_prediction")
    x, push = torch.randn(2, 3, 16, 16), lambda h, _call: torch.cat([h + 1, h + 2])
    with hooks.fork(subject.network, "mid_block", push) as forked:
        plain, edited = forked.split(subject.epsilon(x, 500), 2)
    torch.testing.assert_close(plain, subject.epsilon(x, 500), atol=1e-5, rtol=1e-5)
    with hooks.edit(subject.network, "mid_block", lambda h, _call: h + 2):
        torch.testing.assert_close(edited[2:], subject.epsilon(x, 500), atol=1e-5, rtol=1e-5)


# --------------------------------------------------------------------------------------------------
# Precision, and what is refused


def test_full_precision_is_without_tf32_and_comes_back() -> None:
    def flags() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    subject, before = tiny.subject(), flags()
    subject.network.to(torch.bfloat16)
    with precision.full_precision(subject) as precise:
        assert precise is subject
        assert flags() == (False, False) and subject.network.dtype == subject.dtype == torch.float32
    assert flags() == before and subject.network.dtype == subject.dtype == torch.bfloat16


def test_planar_computes_the_same_and_comes_back() -> None:
    subject = tiny.text_subject()
    x, seen = torch.randn(2, *subject.shape), []
    plain = subject.decode(subject.epsilon(x, 500, ["a", "b"]))
    norm = next(
        m for m in subject.pipeline.vae.decoder.modules() if isinstance(m, torch.nn.GroupNorm)
    )
    handle = norm.register_forward_hook(
        lambda _norm, args, _out: seen.append(args[0].is_contiguous())
    )
    with precision.planar(subject):
        torch.testing.assert_close(
            subject.decode(subject.epsilon(x, 500, ["a", "b"])), plain, atol=1e-5, rtol=1e-5
        )
    handle.remove()
    assert seen == [True] and len(norm._forward_pre_hooks) == 0
    assert subject.network.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def refused(action: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        action()
    assert "\n" not in str(error.value)


def test_what_has_no_evaluators_says_so(opened) -> None:
    for part in ("labeller", "scorer", "clip", "factors"):
        refused(
            lambda part=part: getattr(opened("grey"), part),
            "has no evaluators: it can be described and sampled",
        )


def test_what_cannot_be_studied_is_refused(saved, tmp_path: Path) -> None:
    refused(
        lambda: registry.load(str(saved("dit")), "cpu", module="mid_block"), "module must be one of"
    )
    dit = registry.load(str(saved("dit")), "cpu")
    refused(lambda: dit.embed(["grom"]), "class must be one of groom")
    nameless = replace(dit, condition=replace(dit.condition, labels={}))
    numbers = nameless.embed(["7", ""])["class_labels"]  # without names classes have numbers
    assert numbers.tolist() == [7, 10]
    refused(lambda: nameless.embed(["cat"]), "class must be one of 0, 1, 2")
    refused(lambda: registry.load(str(tmp_path)), "subject must be one of")
    refused(lambda: registry.load("portrait"), "subject must be one of portraits")
    for scheduler, told in (
        (
            EDMEulerScheduler(),
            "model_index.json: EDMEulerScheduler cannot be read as steps over given noise levels",
        ),
        (
            EulerDiscreteScheduler(use_karras_sigmas=True),
            "scheduler/scheduler_config.json: use_karras_sigmas is True",
        ),
    ):
        folder = shutil.copytree(saved("grey"), tmp_path / type(scheduler).__name__)
        scheduler.save_pretrained(folder / "scheduler")
        index = json.loads((folder / "model_index.json").read_text()) | {
            "scheduler": ["diffusers", type(scheduler).__name__]
        }
        (folder / "model_index.json").write_text(json.dumps(index))
        refused(lambda folder=folder: registry.load(str(folder), "cpu"), told)
    (folder / "model_index.json").write_text('{"_class_name": "LattePipeline"}')
    refused(
        lambda: registry.load(str(folder), "cpu"),
        "LattePipeline makes no images; only pipelines that do can be studied",
    )
    refused(
        lambda: pipelines.bottleneck(torch.nn.Sequential(torch.nn.Linear(1, 1))),
        "neither mid_block nor transformer_blocks to look into; name .*: 0$",
    )


def test_a_hub_that_cannot_be_reached_is_one_line(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_name: str) -> str:
        raise OSError("We couldn't connect to the hub.\nCheck your internet connection.")

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", offline)
    refused(
        lambda: registry.load("someone/their-model", "cpu"),
        "someone/their-model is neither here nor on the hub, .*: We couldn't connect",
    )
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda _name: str(saved("grey")))
    assert registry.load("someone/their-model", "cpu").name == "someone/their-model"


# --------------------------------------------------------------------------------------------------
# Every part whole, or one line that names the file and the tensor

PARTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


def damaged(folder: Path, part: str, change: Callable[[dict[str, Tensor], str], object]) -> str:
    """Change one tensor of a part on disk; its name."""
    path = folder / part / PARTS[part]
    state = load_file(path)
    name = sorted(state)[len(state) // 2]
    change(state, name)
    save_file(state, path, {"format": "pt"})
    return name


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state, name: state.pop(name), "{file} lacks {name}$"),
        (lambda state, name: state.update(more=torch.zeros(2)), "{file} has the unknown more$"),
        (
            lambda state, name: state.update({name: torch.zeros(7)}),
            r"{file}: {name} has shape \(7,\) instead of \(",
        ),
        (
            lambda state, name: state[name].view(-1)[:1].fill_(torch.nan),
            "{file}: {name} holds values that are not finite$",
        ),
    ],
)
def test_a_part_that_is_not_whole_is_refused(
    saved, tmp_path: Path, part: str, change: Callable, told: str
) -> None:
    folder = shutil.copytree(saved("stable_diffusion"), tmp_path / "sd")
    name = damaged(folder, part, change)
    refused(
        lambda: registry.load(str(folder), "cpu"),
        told.format(file=folder / part / PARTS[part], name=name),
    )


def test_a_shard_that_lacks_a_tensor_is_refused(opened, saved, tmp_path: Path) -> None:
    """Its name is still in the index, which is all that diffusers looks at."""
    folder = shutil.copytree(saved("grey"), tmp_path / "grey")
    shutil.rmtree(folder / "unet")
    opened("grey").network.save_pretrained(folder / "unet", max_shard_size="20KB")
    registry.load(str(folder), "cpu")
    shard = sorted((folder / "unet").glob("*-00002-of-*.safetensors"))[0]
    state = load_file(shard)
    name = min(state)
    del state[name]
    save_file(state, shard, {"format": "pt"})
    refused(lambda: registry.load(str(folder), "cpu"), f"{folder / 'unet'} lacks {name}")
    shard.unlink()
    refused(
        lambda: registry.load(str(folder), "cpu"),
        f"unet: config.json or a shard of its weights is missing, .*: .*{shard.name}",
    )


def test_a_part_of_another_class_is_refused(saved, tmp_path: Path) -> None:
    folder = shutil.copytree(saved("stable_diffusion"), tmp_path / "sd")
    config, index = folder / "unet/config.json", folder / "model_index.json"
    config.write_text(config.read_text().replace("UNet2DConditionModel", "UNet2DModel"))
    refused(
        lambda: registry.load(str(folder), "cpu"),
        f"{config} describes a UNet2DModel instead of a UNet2DConditionModel",
    )
    index.write_text(index.read_text().replace('"AutoencoderKL"', '"AutoencoderTiny"'))
    shutil.copy(saved("stable_diffusion") / "unet/config.json", config)
    refused(
        lambda: registry.load(str(folder), "cpu"),
        f"{index}: vae is a AutoencoderTiny instead of a AutoencoderKL",
    )


@pytest.mark.parametrize(
    ("remove", "told"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "unet holds no weights"),
        ("vae/config.json", "vae/config.json is missing"),
        ("text_encoder", "text_encoder/config.json is missing"),
        ("tokenizer/tokenizer.json", "tokenizer holds no vocabulary"),
        ("scheduler", "scheduler/scheduler_config.json is missing"),
        ("model_index.json", "subject must be one of"),
    ],
)
def test_what_is_missing_is_named(saved, tmp_path: Path, remove: str, told: str) -> None:
    folder = shutil.copytree(saved("stable_diffusion"), tmp_path / "sd")
    shutil.rmtree(folder / remove) if (folder / remove).is_dir() else (folder / remove).unlink()
    refused(lambda: registry.load(str(folder), "cpu"), told)


def test_a_tokenizer_of_another_model_is_refused(saved, tmp_path: Path) -> None:
    """Its words would lie beyond the embeddings of the text encoder."""
    folder = shutil.copytree(saved("stable_diffusion"), tmp_path / "sd")
    file = folder / "tokenizer/tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["beyond"] = len(content["model"]["vocab"]) + 100
    file.write_text(json.dumps(content))
    refused(lambda: registry.load(str(folder), "cpu"), "they do not belong together")


# --------------------------------------------------------------------------------------------------
# Variants, classes, and networks that read something else


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "60KB"}])
def test_a_folder_with_a_variant_only_is_the_same_subject(
    saved, tmp_path: Path, shards: dict[str, str]
) -> None:
    """As `save_pretrained(variant="fp16")` writes it, in float16."""
    pipeline = StableDiffusionPipeline.from_pretrained(saved("stable_diffusion"))
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16", **shards)
    assert not list(tmp_path.rglob("*model.safetensors"))
    half, whole = (
        registry.load(str(f), "cpu", dtype=torch.float32)
        for f in (tmp_path / "half", saved("stable_diffusion"))
    )
    for network in (whole.network, whole.pipeline.vae, whole.pipeline.text_encoder):
        for value in network.parameters():
            value.data = value.half().float()
    texts = ["a man", "a face"]
    assert torch.equal(
        *(sampling.sample(subject, 2, 0, steps=2, prompts=texts) for subject in (half, whole))
    )
    if not shards:
        shutil.copy(
            tmp_path / "half/unet/diffusion_pytorch_model.fp16.safetensors",
            tmp_path / "half/unet/diffusion_pytorch_model.ema.safetensors",
        )
        refused(
            lambda: registry.load(str(tmp_path / "half"), "cpu"),
            "unet holds several variants of the weights, ema, fp16; leave one",
        )


def test_a_hub_repository_with_a_variant_only_is_fetched_so(
    saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = shutil.copytree(
        saved("grey"), tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors")
    )

    def download(_name: str, variant: str | None = None) -> str:
        return str(saved("grey") if variant == "fp16" else bare)

    monkeypatch.setattr("diffusers.DiffusionPipeline.download", download)
    assert registry.load("someone/their-model", "cpu").shape == (1, 16, 16)


def told_classes(folder: Path, **index: object) -> Path:
    """A pipeline whose U-Net is told one of three classes."""
    torch.manual_seed(2)
    network = tiny.network(num_class_embeds=3)
    network.class_embedding.weight.data *= 20
    DDIMPipeline(network, DDIMScheduler(1000)).save_pretrained(folder)
    file = folder / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | index))
    return folder


def test_a_class_conditional_u_net_draws_its_classes_in_turn(tmp_path: Path) -> None:
    """As diffusers' DDIMScheduler steps with `class_labels`, which no pipeline there passes."""
    subject = registry.load(
        str(told_classes(tmp_path, id2label={"0": "zero, nought", "2": "two"})),
        "cpu",
        dtype=torch.float32,
    )
    assert subject.texts() == ["zero", "1", "two"] and subject.module == "mid_block"
    ours, steps = sampling.sample(subject, 4, 4, steps=4), DDIMScheduler(1000)
    steps.set_timesteps(4)
    x = noise(subject, 4)
    for t in steps.timesteps:
        said = subject.network(x, t, class_labels=torch.tensor([0, 1, 2, 0])).sample
        x = steps.step(said, t, x, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, x.clamp(-1, 1), atol=1e-5, rtol=1e-5)
    named = sampling.sample(subject, 4, 4, steps=4, prompts=["nought", "1", "2", "zero"])
    assert torch.equal(named, ours)
    assert not torch.allclose(
        sampling.sample(subject, 4, 4, steps=4, prompts=["two"])[:2], ours[:2], atol=1e-3
    )
    assert len(registry.describe(subject)) > 10
    with hooks.fork(
        subject.network, "mid_block", lambda h, _call: torch.cat([h + 1, h + 2])
    ) as forked:
        _, edited = forked.split(subject.predict(x, 500), 4)
    with hooks.edit(subject.network, "mid_block", lambda h, _call: h + 2):
        torch.testing.assert_close(edited[4:], subject.predict(x, 500), atol=1e-5, rtol=1e-5)


def test_classes_of_the_data_are_those_of_the_network(tmp_path: Path) -> None:
    subject = registry.load(
        str(told_classes(tmp_path, id2label={"0": "young", "1": "adult", "2": "old"})), "cpu"
    )
    prompts = subject.condition.prompts(portraits.WORLD)
    age = replace(subject, world=portraits.WORLD, prompts=prompts)
    assert [dict(p.given) for p in age.prompts.evaluate] == [
        {"age": "young"},
        {"age": "adult"},
        {"age": "old"},
    ]
    batch = portraits.WORLD.sample(5, 0)
    assert age.describe(batch) == [
        portraits.WORLD.factors["age"].classes[i] for i in batch.labels["age"].tolist()
    ]
    assert age.planted("age", 2).tolist() == [0, 0, 1]


def test_a_class_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    subject = registry.load(str(told_classes(tmp_path / "a")), "cpu")
    for text in ("", "cat", "3"):
        refused(
            lambda text=text: sampling.sample(subject, 1, steps=1, prompts=[text]),
            "class of .*, which cannot be asked for anything else, must be one of",
        )
    for index, told in (
        ({"id2label": {"3": "cat"}}, "id2label names class 3, and the network has 3, from 0 to 2"),
        ({"id2label": {"cat": "0"}}, "id2label must name classes by their numbers"),
        ({"id2label": ["cat"]}, "id2label must name classes by their numbers"),
    ):
        folder = told_classes(tmp_path / str(len(told)), **index)
        refused(
            lambda folder=folder: registry.load(str(folder), "cpu"), f"model_index.json: {told}"
        )


@pytest.mark.parametrize(
    ("name", "part", "setting", "value", "told"),
    [
        (
            "grey",
            "unet",
            "class_embed_type",
            "timestep",
            "class_embed_type is 'timestep', and the study has nothing to give such a network",
        ),
        ("grey", "unet", "class_embed_type", "identity", "class_embed_type is 'identity'"),
        ("grey", "unet", "sample_size", None, "sample_size is None; only squares can be studied"),
        (
            "grey",
            "unet",
            "sample_size",
            [16, 24],
            r"sample_size is \[16, 24\]; only squares can be studied",
        ),
        ("grey", "unet", "in_channels", 4, "in_channels is 4, and the images have 1 or 3 channels"),
        (
            "grey",
            "unet",
            "out_channels",
            3,
            "out_channels is 3; only 1 can be studied, or 2 with learned variances",
        ),
        (
            "stable_diffusion",
            "unet",
            "in_channels",
            9,
            "in_channels is 9, and the latents of its autoencoder have 4 channels",
        ),
        ("stable_diffusion", "unet", "time_cond_proj_dim", 8, "time_cond_proj_dim is 8"),
        (
            "stable_diffusion",
            "unet",
            "addition_embed_type",
            "text_time",
            "addition_embed_type is 'text_time'",
        ),
        ("xl", "vae", "latents_mean", [0, 0, 0, 0], "latents_mean and latents_std are given"),
    ],
)
def test_networks_that_read_something_else_are_refused(
    saved,
    tmp_path: Path,
    name: str,
    part: str,
    setting: str,
    value: object,
    told: str,
) -> None:
    folder = shutil.copytree(saved(name), tmp_path / name)
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {setting: value}))
    refused(lambda: registry.load(str(folder), "cpu"), f"{file}: {told}")


def test_a_square_may_be_given_by_both_sides(saved, opened, tmp_path: Path) -> None:
    folder = shutil.copytree(saved("grey"), tmp_path / "grey")
    file = folder / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sample_size": [16, 16]}))
    subject = registry.load(str(folder), "cpu", dtype=torch.float32)
    first, second = (sampling.sample(s, 1, 0, steps=2) for s in (subject, opened("grey")))
    assert torch.equal(first, second)


def test_a_class_that_is_studied_cannot_be_asked_for(tmp_path: Path) -> None:
    """Its shares would be those of the prompts, and not the model's."""
    folder = told_classes(tmp_path, id2label={"0": "young", "1": "adult", "2": "old"})
    subject = registry.load(str(folder), "cpu")
    refused(
        lambda: replace(subject, world=portraits.WORLD, attributes=("age",)),
        "is told its age, an attribute under study",
    )


def test_a_model_of_classes_is_kept_like_others(tmp_path: Path, store: Path) -> None:
    """Stages that declare what they read can record it; methods may ask for it without guidance."""
    subject = registry.load(str(told_classes(tmp_path)), "cpu", dtype=torch.float32)
    rec = activations.record(subject, 3, 0, 2)
    torch.testing.assert_close(
        rec.images.float(), sampling.sample(subject, 3, 0, steps=2), atol=2e-3, rtol=0
    )
    x = torch.randn(2, *subject.shape)
    assert torch.equal(subject.predict(x, 9, guided=False), subject.predict(x, 9))


def test_what_is_not_loaded_and_how_a_file_is_written_change_no_fingerprint(
    saved, opened, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(saved("grey"), folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(dict(reversed(index.items())), indent=7))
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.safetensors", folder / "unet/other.safetensors"
    )
    assert registry.load(str(folder), "cpu").fingerprint == opened("grey").fingerprint


def test_another_network_makes_another_subject(opened) -> None:
    """It can be sampled, and is not filed under the files of the first."""
    subject = opened("grey")
    network = copy.deepcopy(subject.network)
    network.conv_out.bias.data += 0.5
    adapted = replace(subject, network=network)
    drawn = sampling.sample(adapted, 1, 0, steps=2)
    assert not torch.equal(drawn, sampling.sample(subject, 1, 0, steps=2))
    refused(adapted.identity, "weights of .* were changed since it was opened")
    elsewhere = replace(subject, module="mid_block.resnets.1")
    assert elsewhere.identity() == subject.identity() | {"module": "mid_block.resnets.1"}
