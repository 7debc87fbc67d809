"""The native door: pipelines that sample by their own call, recorded and edited at every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import pytest
import tiny
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from difflens_utils import attribution, recording, sampling
from difflens_utils.subjects import native, registry
from difflens_utils.subjects.native import Native

TEXTS = ["a man", "a cat"]
CPU = torch.device("cpu")
# diffusers' Chroma imports it from where it will not be for ever
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")


@pytest.fixture
def diffusion(tmp_path: Path) -> Path:
    """A `StableDiffusionPipeline`, which the study's own sampler opens too."""
    return made.saved(made.pipeline("stable_diffusion"), tmp_path / "sd")


def opened(folder: Path, **about: Any) -> Native:
    return native.read("tiny", folder, CPU, torch.float32, **about)


def louder(h: Tensor, step: sampling.Step) -> Tensor | None:
    return 1.5 * h + 0.2 if step.index % 2 else None


# --------------------------------------------------------------------------------------------------
# Beside the study's own sampler, on a pipeline that both can open


def test_it_draws_records_and_edits_what_the_own_sampler_does(diffusion: Path) -> None:
    ours = registry.load(str(diffusion), "cpu", dtype=torch.float32)
    theirs = opened(diffusion, guidance=7.5)
    seen: dict[str, list[Tensor]] = {"ours": [], "theirs": []}
    drawn = {}
    for name, subject in (("ours", ours), ("theirs", theirs)):
        options: dict[str, Any] = {"steps": 4, "prompts": TEXTS, "batch": 2}
        plain = sampling.sample(subject, 3, 5, **options)
        edited = sampling.sample(subject, 3, 5, edit=louder, asymmetric=False, **options)
        sampling.sample(
            subject, 3, 5, watch=lambda h, _x, _s, name=name: seen[name].append(h), **options
        )
        drawn[name] = plain, edited
    assert not torch.allclose(*drawn["ours"], atol=1e-3)
    torch.testing.assert_close(drawn["theirs"], drawn["ours"], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen["theirs"], seen["ours"], atol=1e-4, rtol=1e-4)
    assert theirs.times(4) == tuple(map(float, ours.times(4)))
    assert theirs.size == ours.size == 16
    assert registry.describe(theirs) == registry.describe(ours)


def test_an_identity_leaves_every_bit(diffusion: Path) -> None:
    subject = opened(diffusion)
    plain = sampling.sample(subject, 2, 1, steps=3)
    for identity in (lambda _h, _step: None, lambda h, _step: h.clone()):
        same = sampling.sample(subject, 2, 1, steps=3, edit=identity, asymmetric=False)
        assert torch.equal(same, plain)


def test_an_image_is_the_same_in_every_batch(diffusion: Path) -> None:
    subject = opened(diffusion)
    whole = sampling.sample(subject, 3, 1, steps=2, batch=3)
    single = sampling.sample(subject, 3, 1, steps=2, rows=torch.tensor([2]))
    torch.testing.assert_close(single, whole[2:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "scheduler",
    [
        PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        HeunDiscreteScheduler(steps_offset=1),
        DPMSolverMultistepScheduler(solver_order=2, steps_offset=1),
    ],
)
def test_every_step_of_any_sampler_is_counted(tmp_path: Path, scheduler: Any) -> None:
    pipeline = made.pipeline("stable_diffusion")
    pipeline.scheduler = scheduler
    subject, seen = opened(made.saved(pipeline, tmp_path)), []
    sampling.sample(subject, 1, 0, steps=4, watch=lambda _h, _x, step: seen.append(step))
    assert [step.timestep for step in seen] == list(subject.times(4))
    assert [step.index for step in seen] == list(range(len(seen)))


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # in diffusers' scheduler
def test_a_solver_with_more_noise_levels_than_steps_is_refused(tmp_path: Path) -> None:
    pipeline = made.pipeline("stable_diffusion")
    pipeline.scheduler = KDPM2DiscreteScheduler(steps_offset=1)
    subject = opened(made.saved(pipeline, tmp_path))
    refused("goes through 7 noise levels in 4 steps", lambda: subject.times(4))


def test_a_feature_is_measured_on_whole_images(diffusion: Path, store: Path) -> None:
    """Moved alone at one step, against the same images drawn by hand."""
    judge = tiny.labeller()
    evaluators = {"evaluators": lambda: (judge, judge, None), "attributes": ("gender",)}
    subject, sae = opened(diffusion, **evaluators), tiny.ksae()
    aim, trial = attribution.Aim("gender", 1), attribution.Trial(2, 5, 3, at=(1,), beta=200.0)
    features, unit = torch.tensor([3, 8]), torch.rand(3, 16, 2)
    effect = attribution.measured(subject, sae, aim, features, unit, trial)
    plain = judge.logits(sampling.sample(subject, 2, 5, steps=3))["gender"].log_softmax(-1)[:, 1]
    for i, feature in enumerate(features.tolist()):
        added = torch.zeros(3, 16, 48)
        added[1, :, feature] = 200.0 * unit[1, :, i]

        def move(h: Tensor, step: sampling.Step, added: Tensor = added) -> Tensor:
            latents = sae.latents(h.flatten(2).transpose(1, 2))
            change = (latents + added[step.index]).clamp_min(0) - latents
            return h + (change @ sae.directions).transpose(1, 2).reshape(h.shape)

        images = sampling.sample(subject, 2, 5, steps=3, edit=move, asymmetric=False)
        expected = judge.logits(images)["gender"].log_softmax(-1)[:, 1] - plain
        torch.testing.assert_close(effect.gains[i], expected, atol=2e-6, rtol=1e-3)
    assert effect.gains.abs().max() > 1e-4


# --------------------------------------------------------------------------------------------------
# Pipelines that only this door opens


@pytest.mark.parametrize("name", made.NATIVE)
def test_other_pipelines_are_recorded_and_edited(name: str, tmp_path: Path, store: Path) -> None:
    folder = made.saved(made.pipeline(name), tmp_path / name)
    subject = registry.load(str(folder), "cpu", dtype=torch.float32)
    assert subject.native and subject.name.endswith(name)
    found = recording.record(subject, 2, 0, 3)
    plain = sampling.sample(subject, 2, 0, steps=3)
    assert found.h.shape[:2] == (2, 3) and len(found.timesteps) == 3
    torch.testing.assert_close(found.images.float(), plain, atol=2e-3, rtol=0)
    edited = sampling.sample(
        subject, 2, 0, steps=3, edit=lambda h, _step: 3 * h + 1, asymmetric=False
    )
    assert not torch.allclose(edited, plain, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# What it refuses, in one line


def refused(match: str, action: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_the_asymmetric_step_is_refused(diffusion: Path) -> None:
    subject = opened(diffusion)
    refused(
        "no asymmetric step is defined; take asymmetric=False",
        lambda: sampling.sample(subject, 1, 0, steps=2, edit=louder),
    )
    refused("no eta and no spacing", lambda: sampling.sample(subject, 1, 0, steps=2, eta=1.0))
    for action in (
        lambda: subject.predict(torch.zeros(1), 3),
        lambda: subject.level(3),
        lambda: subject.encode(torch.zeros(1)),
        lambda: subject.decode(torch.zeros(1)),
    ):
        refused("is sampled by the call of its StableDiffusionPipeline, which has no", action)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("StableDiffusionImg2ImgPipeline", "starts from image"),
        ("StableDiffusionInpaintPipeline", "starts from image"),
        ("LattePipeline", "makes no images"),
        ("AudioLDMPipeline", "makes no images"),
        ("NoSuchPipeline", "NoSuchPipeline is no pipeline of diffusers"),
        ("UNet2DModel", "UNet2DModel is no pipeline of diffusers"),
        (["pipeline", "Own"], "Own'] is no pipeline of diffusers"),  # whose code would come along
    ],
)
def test_pipelines_that_need_or_make_something_else(
    name: object, told: str, tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    refused(told, lambda: registry.load(str(tmp_path), "cpu"))


def test_code_that_comes_with_the_files_is_not_run(tmp_path: Path) -> None:
    folder = made.saved(made.pipeline("chroma"), tmp_path)
    path = folder / "model_index.json"
    index = json.loads(path.read_text()) | {"transformer": ["my_module", "MyTransformer"]}
    path.write_text(json.dumps(index))
    (folder / "transformer/my_module.py").write_text("raise SystemExit('it ran')\n")
    refused("MyTransformer of my_module, whose code would come", lambda: opened(folder))


def test_the_scheduler_is_left_as_it_was(diffusion: Path) -> None:
    subject = opened(diffusion)

    def fails(_h: Tensor, _step: sampling.Step) -> Tensor:
        raise KeyError("an edit that fails")

    with pytest.raises(KeyError):
        sampling.sample(subject, 1, 0, steps=2, edit=fails, asymmetric=False)
    assert "step" not in vars(subject.pipeline.scheduler)
    assert not subject.network.mid_block._forward_hooks
