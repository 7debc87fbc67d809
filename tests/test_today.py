"""Transformers and flows that people use today: beside diffusers' own pipelines and schedulers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made
import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
)
from torch import Tensor

from difflens_utils import sampling
from difflens_utils.sampling import hooks
from difflens_utils.subjects import registry, schedulers
from difflens_utils.subjects.pipelines import Subject

TODAY = ("sd3", "sd3_without_t5", "flux", "pixart_alpha", "pixart_sigma", "sana")
TEXTS = ["a man", "a cat"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """The folder of a pipeline of `TODAY`, and the pipeline."""
    root, pipelines = tmp_path_factory.mktemp("today"), {}

    def of(name: str) -> tuple[Path, Any]:
        if name not in pipelines:
            pipelines[name] = made.pipeline(name)
            made.saved(pipelines[name], root / name)
        return root / name, pipelines[name]

    return of


@pytest.fixture(scope="module")
def opened(saved) -> Callable[[str], Subject]:
    known: dict[str, Subject] = {}

    def subject(name: str) -> Subject:
        if name not in known:
            known[name] = registry.load(str(saved(name)[0]), "cpu", dtype=torch.float32)
        return known[name]

    return subject


def noise(subject: Subject, n: int = 2) -> Tensor:
    return sampling.Noise(sampling.image_seeds(n, 4), subject.shape, CPU).draw()


# --------------------------------------------------------------------------------------------------
# The path of a flow, beside diffusers' schedulers and steps in float64


def flows() -> dict[str, tuple[Any, str, dict[str, Any]]]:
    """Schedulers of flows, the grid that their pipeline asks for, and how it does so."""
    euler, dpm = FlowMatchEulerDiscreteScheduler, DPMSolverMultistepScheduler
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    trailing = {"sigmas": np.linspace(1, 1 / 7, 7)}
    return {
        "plain": (euler(1000), "linspace", {}),
        "shifted": (euler(1000, shift=3.0), "linspace", {}),
        "named": (euler(1000, shift=2.0), "trailing", trailing),
        "dynamic": (euler(use_dynamic_shifting=True), "trailing", trailing | {"mu": 0.6}),
        "solver": (dpm(flow_shift=3.0, **flow), "linspace", {}),
    }


@pytest.mark.parametrize("name", flows())
def test_noise_levels_are_those_of_diffusers(name: str) -> None:
    theirs, spacing, how = flows()[name]
    tokens = 256 + round((0.6 - 0.5) / (1.15 - 0.5) * (4096 - 256))  # whose shift is mu = 0.6
    ours = schedulers.studied(theirs, name, tokens, spacing)
    theirs.set_timesteps(None if "sigmas" in how else 7, **how)
    s = sampling.schedule(ours, 7)
    torch.testing.assert_close(s.spread.float(), theirs.sigmas, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        torch.tensor(s.timesteps).float(), theirs.timesteps.float(), atol=1.0, rtol=1e-3
    )
    torch.testing.assert_close(s.keep + s.spread, torch.ones(8, dtype=torch.float64))
    assert s.predicts == "flow_prediction" and s.clip is None


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_symmetric_step_is_diffusers_euler_step(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    s = sampling.schedule(schedulers.studied(theirs, "test"), 5)
    theirs.set_timesteps(5)
    x = ours = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for index, t in enumerate(theirs.timesteps):
        velocity = torch.sin(3 * x) + index  # any network
        x = theirs.step(velocity, t, x, return_dict=False)[0]
        clean = sampling.predicted_clean(ours, torch.sin(3 * ours) + index, s, index)
        ours = sampling.advance(ours, clean, clean, s, index)
        torch.testing.assert_close(ours, x, atol=1e-5, rtol=1e-5)


def test_the_asymmetric_step_is_that_of_float64() -> None:
    """P_t from the edited velocity, D_t from the unedited one (Eq. 11), written out by hand."""
    s = sampling.schedule(schedulers.flow(shift=2.0), 4)
    generator = torch.Generator().manual_seed(1)
    x, plain, edited = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    for index in range(4):
        now, then = s.spread[index].item(), s.spread[index + 1].item()
        image = x.double() - now * edited.double()
        epsilon = x.double() + (1 - now) * plain.double()
        expected = (1 - then) * image + then * epsilon
        clean, direction = (sampling.predicted_clean(x, v, s, index) for v in (edited, plain))
        got = sampling.advance(x, clean, direction, s, index)
        torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


def test_noise_of_a_step_keeps_the_path(eta: float = 1.0) -> None:
    """With the true image, x_s has the spread of its level: what is added fills what is left."""
    s = sampling.schedule(schedulers.flow(), 4, eta=eta)
    generator = torch.Generator().manual_seed(2)
    image = torch.full((200_000,), 0.5)
    noise, fresh = (torch.randn(image.shape, generator=generator) for _ in range(2))
    x = s.keep[1] * image + s.spread[1] * noise
    x_s = sampling.advance(x, image, image, s, 1, fresh)
    assert s.sigma[1] > 0 and s.sigma[-1] == 0
    torch.testing.assert_close(x_s.mean(), (s.keep[2] * 0.5).to(x_s), atol=0.01, rtol=0)
    torch.testing.assert_close(x_s.std(), s.spread[2].to(x_s), atol=0.01, rtol=0)


def test_a_flows_velocity_is_read_as_noise(opened) -> None:
    subject, t = opened("sd3"), 300.0
    x = noise(subject)
    velocity = subject.predict(x, t, TEXTS)
    clean = x - 0.3 * velocity
    expected = (x - 0.7 * clean) / 0.3
    torch.testing.assert_close(subject.epsilon(x, t, TEXTS), expected, atol=1e-4, rtol=1e-4)


def test_the_shift_of_a_dynamic_scheduler_is_that_of_the_pipeline(opened) -> None:
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    shift = opened("flux").scheduler.config["shift"]
    assert shift == pytest.approx(np.exp(calculate_shift(16)))


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (FlowMatchEulerDiscreteScheduler(shift_terminal=0.1), "shift_terminal is 0.1"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "invert_sigmas is True"),
        (FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "use_karras_sigmas is True"),
        (DPMSolverMultistepScheduler(use_flow_sigmas=True), "prediction_type"),
    ],
)
def test_what_bends_a_flow_is_refused_in_one_line(scheduler: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        schedulers.studied(scheduler, "here")
    assert "\n" not in str(caught.value)


def test_heun_steps_over_the_same_levels() -> None:
    ours = schedulers.studied(FlowMatchHeunDiscreteScheduler(1000, shift=3.0), "test")
    euler = schedulers.studied(FlowMatchEulerDiscreteScheduler(1000, shift=3.0), "test")
    assert torch.equal(sampling.schedule(ours, 6).spread, sampling.schedule(euler, 6).spread)


def test_an_unknown_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing must be one of trailing, linspace, solver"):
        sampling.schedule(schedulers.flow(), 4, spacing="leading")


# --------------------------------------------------------------------------------------------------
# h of a joint transformer: the tokens of the image, behind two streams


BLOCKS = [
    ("sd3", "transformer_blocks.0"),
    ("sd3", "transformer_blocks.2"),
    ("flux", "transformer_blocks.1"),
    ("flux", "single_transformer_blocks.0"),
    ("flux", "single_transformer_blocks.1"),
]


@pytest.mark.parametrize(("name", "module"), BLOCKS)
def test_h_is_the_image_and_not_the_text(opened, name: str, module: str) -> None:
    """One token of h is one place of the image: a change there changes most there."""
    subject = opened(name)
    with hooks.record(subject.network, module) as seen:
        plain = subject.predict(noise(subject), 400, TEXTS, guided=False)
    assert seen[0].shape == (2, 16, 16)

    def first(h: Tensor, _call: int) -> Tensor:
        h[:, 0] += 30
        return h

    with hooks.edit(subject.network, module, first):
        moved = subject.predict(noise(subject), 400, TEXTS, guided=False) - plain
    change = moved.abs().mean((0, 1))
    assert change[:2, :2].mean() > 3 * change[4:, 4:].mean()


@pytest.mark.parametrize(("name", "module"), BLOCKS)
def test_a_fork_equals_two_passes(opened, name: str, module: str) -> None:
    subject, x = opened(name), noise(opened(name))
    changes = (lambda h, _call: h * 2, lambda h, _call: h + 1)
    calls: list[int] = []
    first = subject.network.transformer_blocks[0]
    handle = first.register_forward_hook(lambda *_: calls.append(1))

    def both(h: Tensor, call: int) -> Tensor:
        return torch.cat([change(h, call) for change in changes])

    with hooks.fork(subject.network, module, both, subject.parts(2)) as forked:
        plain, edited = forked.split(subject.predict(x, 300, TEXTS), 2)
    handle.remove()
    assert len(calls) == 1 and edited.shape == (4, 4, 8, 8)
    torch.testing.assert_close(plain, subject.predict(x, 300, TEXTS), atol=1e-5, rtol=1e-5)
    for i, change in enumerate(changes):
        with hooks.edit(subject.network, module, change, subject.parts(2)):
            expected = subject.predict(x, 300, TEXTS)
        torch.testing.assert_close(edited[2 * i : 2 * i + 2], expected, atol=1e-4, rtol=1e-4)


def test_positions_are_not_taken_for_images(opened) -> None:
    """Flux hands its blocks a row per token; with as many images as tokens they look alike."""
    subject = opened("flux")
    tokens = 16 + subject.embed(["a"])["encoder_hidden_states"].shape[1]
    x, texts = noise(subject, tokens), ["a"] * tokens
    with (
        hooks.fork(subject.network, "transformer_blocks.0", lambda h, _call: 2 * h) as forked,
        torch.no_grad(),
    ):
        plain, edited = forked.split(subject.predict(x, 300, texts), tokens)
    torch.testing.assert_close(plain, subject.predict(x, 300, texts), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain, edited, atol=1e-3)


# --------------------------------------------------------------------------------------------------
# Files


def test_a_variant_in_shards_is_the_same_subject(saved, opened, tmp_path: Path) -> None:
    _, pipeline = saved("sd3")
    pipeline.save_pretrained(tmp_path, variant="fp16", max_shard_size="20kB")
    assert len(list((tmp_path / "transformer").glob("*fp16*.safetensors"))) > 1
    subject = registry.load(str(tmp_path), "cpu", dtype=torch.float32)
    ours, whole = (sampling.sample(one, 1, 0, steps=2) for one in (subject, opened("sd3")))
    torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)


def test_t5_that_is_named_and_not_there_is_told(saved, tmp_path: Path) -> None:
    _, pipeline = saved("sd3_without_t5")
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "model_index.json"
    index = json.loads(path.read_text()) | {"text_encoder_3": ["transformers", "T5EncoderModel"]}
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="text_encoder_3") as caught:
        registry.load(str(tmp_path), "cpu")
    assert "\n" not in str(caught.value)
