"""Text-to-image: guidance, prompts, and edits of one half of the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from difflens_utils import edits, outcome, sampling
from difflens_utils import recording as activations
from difflens_utils.methods import finetuning, latent_direction
from difflens_utils.sampling import hooks
from difflens_utils.settings import Settings
from difflens_utils.study import Study
from difflens_utils.subjects.conditions import Prompt, Prompts
from difflens_utils.worlds import occupations, portraits

STEPS = 3


@pytest.fixture(scope="module")
def subject():
    return tiny.text_subject()


def test_samples_are_those_of_the_pipeline_itself(subject) -> None:
    """diffusers' own pipeline draws the same images of the same noise, prompts and guidance."""
    texts = subject.texts()
    x = sampling.Noise(sampling.image_seeds(2, 1), subject.shape, torch.device("cpu")).draw()
    subject.pipeline.set_progress_bar_config(disable=True)
    theirs = subject.pipeline(
        texts,
        latents=x,
        num_inference_steps=5,
        guidance_scale=subject.guidance,
        height=16,
        width=16,
        output_type="pt",
    ).images
    torch.testing.assert_close(
        sampling.sample(subject, 2, 1, steps=5), theirs * 2 - 1, atol=2e-3, rtol=1e-3
    )


def test_images_take_the_prompts_in_turn_whatever_the_batch(subject) -> None:
    whole = sampling.sample(subject, 5, 3, steps=STEPS)
    torch.testing.assert_close(
        whole, sampling.sample(subject, 5, 3, steps=STEPS, batch=2), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(
        whole[[1, 4]],
        sampling.sample(subject, 5, 3, steps=STEPS, rows=torch.tensor([1, 4])),
        atol=1e-4,
        rtol=1e-4,
    )
    other = sampling.sample(subject, 5, 3, steps=STEPS, prompts=["a face of a nurse"])
    same = (whole - other).abs().amax((1, 2, 3)) < 1e-4
    assert same.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("both", [False, True])
def test_a_fork_equals_two_passes_under_guidance(both: bool) -> None:
    subject, push = (
        tiny.text_subject(edit_both=both),
        lambda h, _call: h + torch.linspace(0, 1, 24).reshape(1, -1, 1, 1),
    )
    x, texts = torch.randn(3, *subject.shape), ["a woman", "a man", "a face"]
    run = lambda: subject.epsilon(x, 400, texts)  # noqa: E731
    with hooks.fork(subject.network, "mid_block", push, subject.parts(3)) as forked:
        plain, edited = forked.split(run(), 3)
    torch.testing.assert_close(plain, run(), atol=1e-5, rtol=1e-5)
    with hooks.edit(subject.network, "mid_block", push, subject.parts(3)):
        expected = run()
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-4)


def test_only_the_half_with_the_text_is_edited(subject) -> None:
    """Guidance by hand: e("") as it is, e(text) with the edit."""
    x, texts, push = torch.randn(2, *subject.shape), ["a man", "a face"], lambda h, _call: h * 1.5
    alone = lambda t: subject.epsilon(x, 300, t, guided=False)  # noqa: E731
    without = alone(["", ""])
    with hooks.edit(subject.network, "mid_block", push):
        said = alone(texts)
    with hooks.edit(subject.network, "mid_block", push, subject.parts(2)):
        got = subject.epsilon(x, 300, texts)
    torch.testing.assert_close(
        got, without + subject.guidance * (said - without), atol=1e-4, rtol=1e-4
    )


def test_several_versions_come_back_in_order(subject) -> None:
    x, texts = torch.randn(2, *subject.shape), ["a man", "a face"]
    with hooks.fork(
        subject.network, "mid_block", lambda h, _call: torch.cat([h + 1, h + 2]), subject.parts(2)
    ) as forked:
        _, edited = forked.split(subject.epsilon(x, 300, texts), 2)
    for i, shift in enumerate((1, 2)):
        with hooks.edit(
            subject.network, "mid_block", lambda h, _call, shift=shift: h + shift, subject.parts(2)
        ):
            torch.testing.assert_close(
                edited[2 * i : 2 * i + 2], subject.epsilon(x, 300, texts), atol=1e-4, rtol=1e-4
            )


def test_h_is_recorded_with_the_text(store: Path) -> None:
    subject = tiny.text_subject()
    rec = activations.record(subject, 4, 0, STEPS, subject.prompts.learn)
    x = sampling.Noise(sampling.image_seeds(4, 0), subject.shape, torch.device("cpu")).draw()
    with hooks.record(subject.network, "mid_block") as seen:
        subject.epsilon(
            x, rec.timesteps[0], [subject.prompts.learn[i % 2].text for i in range(4)], guided=False
        )
    torch.testing.assert_close(rec.at(0), seen[0], atol=2e-2, rtol=2e-2)
    assert (
        activations.record(subject, 4, 0, STEPS).key != rec.key
    )  # other prompts, another recording


def test_encode_and_decode_are_inverse_up_to_the_scale_of_the_latents(subject) -> None:
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    x = subject.encode(images)
    assert x.shape == (2, 4, 8, 8) and subject.size == 16
    torch.testing.assert_close(x, subject.pipeline.vae.encode(images).latent_dist.mean * 0.5)
    torch.testing.assert_close(subject.decode(x), subject.pipeline.vae.decode(x / 0.5).sample)


def test_planted_shares_are_those_that_the_prompts_ask_for(subject) -> None:
    doctor, nurse = (
        subject.world.marginal("gender", {"occupation": o}) for o in ("doctor", "nurse")
    )
    torch.testing.assert_close(subject.planted("gender"), (doctor + nurse) / 2)
    assert subject.planted("gender", 0)[1] > 0.8 > 0.2 > subject.planted("gender", 1)[1]
    batch = subject.world.sample(3, 0, do={"occupation": "judge"})
    assert subject.describe(batch) == ["a face of a judge"] * 3


def test_renders_show_what_the_prompts_name(subject) -> None:
    images = subject.renders(4, 5, {"gender": "male"})
    alone = subject.world.render(
        subject.world.sample(2, 5, do={"occupation": "doctor", "gender": "male"}), 16
    )
    assert torch.equal(images[::2], alone)


def test_fairness_is_taken_per_prompt() -> None:
    """Two opposite biases do not cancel."""
    hot = torch.eye(2)[torch.tensor([0, 1] * 20)].double()
    zeros = torch.zeros(40, 3)
    images = outcome.Outcome(
        zeros, {"gender": hot}, {"gender": hot}, zeros, zeros, zeros, sampling.assigned(40, 2)
    )
    assert images.fairness("gender").soft.value == pytest.approx(0.5**0.5)
    assert images.of(0).share("gender", 0).value == 1.0


def test_what_a_prompt_names_is_looked_for(subject) -> None:
    hot = torch.eye(2)[torch.tensor([0, 1, 1, 1])]
    images = outcome.Outcome(
        torch.zeros(4, 3),
        {"gender": hot},
        {"gender": hot},
        *[torch.zeros(4, 3)] * 3,
        sampling.assigned(4, 2),
    )
    got = outcome.obeyed(
        images, subject.prompts.learn, {"gender": ("female", "male"), "age": ("young", "old")}
    )
    assert list(got) == ["gender"] and got["gender"].value == 0.75 and got["gender"].n == 4
    several = Prompt("a cup, light blue", {"gender": "light blue"})
    within = Prompt("a bluebell", {"gender": "blue"})
    prompts = [several, within]
    assert outcome.obeyed(images, prompts, {"gender": ("light blue", "blue")})["gender"].n == 2


def test_guidance_towards_a_distribution_is_per_prompt() -> None:
    """H-Distribution of a batch of two prompts does what it does on each alone."""
    from difflens_utils.probes import Heads

    heads, h = Heads(torch.randn(1, 2, 6, 2, 2), torch.zeros(1, 2)), torch.randn(8, 6, 2, 2)
    edit, prompt = edits.guide(heads, (0.5, 0.5), 100.0), sampling.assigned(8, 2)
    got = edit(h, sampling.Step(0, 9, torch.arange(8), prompt))
    for g in (0, 1):
        torch.testing.assert_close(got[g::2], edit(h[g::2], sampling.Step(0, 9, torch.arange(4))))


# --------------------------------------------------------------------------------------------------
# The two methods that need text


class BrightClip:
    """CLIP features that are the mean colour."""

    def fingerprint(self) -> str:
        return "bright"

    def image_features(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean((2, 3)) + 1, dim=-1)


class Reddish:
    """A labeller that takes images for female that are redder than the untrained model's median."""

    def fingerprint(self) -> str:
        return "reddish"

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        red = 40 * (images[:, 0] - images[:, 1]).mean((1, 2)) + 3
        return {"gender": torch.stack([red, -red], 1)}


def test_a_latent_direction_denoises_better_than_none(store: Path) -> None:
    """The loss that it was learned for, on noise it never saw: images of its class, under a prompt
    without it.
    """
    subject = tiny.text_subject()
    recipe = latent_direction.Recipe(n=8, batches=60, seed=0, batch=8)
    vectors = latent_direction.learn(subject, "gender", STEPS, recipe)
    assert vectors.shape == (2, 24, 4, 4)
    x0 = subject.encode(sampling.sample(subject, 8, 700, steps=STEPS, prompts=["a female person"]))

    def loss(vector: Tensor) -> float:
        total, alphas = 0.0, subject.scheduler.alphas_cumprod
        for t in range(50, 1000, 100):
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
            with hooks.edit(subject.network, "mid_block", lambda h, _call: h + vector):
                said = subject.epsilon(
                    alphas[t].sqrt() * x0 + (1 - alphas[t]).sqrt() * noise,
                    t,
                    ["a person"] * 8,
                    guided=False,
                )
            total += (said - noise).square().mean().item()
        return total

    assert loss(vectors[0]) < loss(torch.zeros_like(vectors[0]))


def test_methods_for_text_refuse_models_without(store: Path) -> None:
    plain = tiny.subject()
    study = Study(plain, Settings(steps=STEPS))
    assert latent_direction.rows(study, "gender") == finetuning.rows(study, "gender") == []
    with pytest.raises(ValueError, match="no prompts that name the classes of gender"):
        latent_direction.learn(plain, "gender", STEPS)
    with pytest.raises(ValueError, match="reads no prompts"):
        finetuning.learn(plain, {"gender": (0.5, 0.5)}, STEPS)


def test_images_are_assigned_as_often_as_asked_and_to_the_likeliest() -> None:
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    assert finetuning.assign(p, (0.5, 0.5)).tolist() == [0, 0, 1, 1]
    assert finetuning.assign(p, (1.0, 0.0)).tolist() == [0, 0, 0, 0]
    assert finetuning.assign(torch.rand(10, 3), (0.2, 0.3, 0.5)).bincount().tolist() == [2, 3, 5]


def test_finetuning_lowers_its_loss_and_leaves_the_network_as_it_was(store: Path) -> None:
    judge = Reddish()
    subject = tiny.text_subject(evaluators=lambda: (judge, judge, BrightClip()))
    before = {k: v.clone() for k, v in subject.network.state_dict().items()}
    recipe = finetuning.Recipe(rounds=6, batch=8, seed=0)
    change = finetuning.learn(subject, {"gender": (0.5, 0.5)}, STEPS, recipe)
    assert set(change) <= set(before) and all(change[k].shape == before[k].shape for k in change)
    assert all(torch.equal(v, before[k]) for k, v in subject.network.state_dict().items())

    def fairness(edit: sampling.Edit | None) -> float:
        images = sampling.sample(subject, 32, 5, steps=STEPS, edit=edit, asymmetric=False)
        return (judge.logits(images)["gender"].softmax(-1).mean(0) - 0.5).norm().item()

    assert fairness(edits.adapt(change, 1.0)) < fairness(None) - 0.02
    assert all(torch.equal(v, before[k]) for k, v in subject.network.state_dict().items())
    zero = sampling.sample(
        subject, 2, 5, steps=STEPS, edit=edits.adapt(change, 0.0), asymmetric=False
    )
    assert torch.equal(zero, sampling.sample(subject, 2, 5, steps=STEPS))


def test_an_image_is_described_by_what_is_known_of_it_and_no_attribute() -> None:
    faces = tiny.text_subject()
    batch = occupations.WORLD.sample(4, 0, do={"occupation": "nurse"})
    assert faces.describe(batch) == ["a face of a nurse"] * 4
    photographs = replace(faces, world=portraits.WORLD)  # of faces, whose occupation nobody knows
    batch = portraits.WORLD.sample(2, 0, do={"background": "blue", "gender": "male"})
    assert photographs.describe(batch) == ["a face of a person"] * 2
    prompts = (
        Prompt("a man", {"gender": "male"}),
        Prompt("on green", {"background": "green"}),
        Prompt("on blue", {"background": "blue"}),
    )
    assert replace(photographs, prompts=Prompts(prompts)).describe(batch) == ["on blue"] * 2
    assert replace(photographs, prompts=Prompts(prompts[:2])).describe(batch) == [
        "",
        "",
    ]  # nothing is true of them
