"""The recipe of the shipped text-to-image subject, and the subject itself."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from difflens_utils import evaluators, outcome, sampling
from difflens_utils.subjects import registry
from difflens_utils.worlds import Scenes, occupations

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_t2i", MODELS / "portraits-t2i/train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study():
    return registry.load("portraits-t2i", "cpu", dtype=torch.float32)


def moved_by_skips(unet: nn.Module, resnet: int) -> float:
    """How far the output moves when the skip into one resnet of the up blocks becomes noise."""
    x, text = torch.randn(2, 8, 8, 8), torch.randn(2, 20, 128)
    before = unet(x, 500, text).sample
    resnets = [r for block in unet.up_blocks for r in block.resnets]
    widths = [unet.config.block_out_channels[0]] + [
        w
        for b in unet.down_blocks
        for w in [r.out_channels for r in b.resnets]
        + [d.out_channels for d in b.downsamplers or ()]
    ]
    skip = widths[::-1][resnet]

    def replace(_module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        def noisy(h: Tensor) -> Tensor:
            return torch.cat([h[:, :-skip], torch.randn_like(h[:, -skip:]) * 3 + 1], 1)

        return (noisy(args[0]), *args[1:]), kwargs

    handle = resnets[resnet].register_forward_pre_hook(replace, with_kwargs=True)
    after = unet(x, 500, text).sample
    handle.remove()
    return (after - before).abs().max().item()


@torch.no_grad()
def test_the_shipped_subject_sees_the_latent_through_its_bottleneck(study) -> None:
    assert [moved_by_skips(study.network, i) > 1e-4 for i in range(4)] == [
        False,
        False,
        False,
        True,
    ]


def test_a_fifth_of_the_people_is_uniform_and_the_rest_as_planted(
    recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "POOL", 10_000)
    people = recipe.population()
    planted, uniform = people[slice(0, 8000)], people[slice(8000, 10_000)]
    doctor = occupations.WORLD.factors["occupation"].classes.index("doctor")

    def men(drawn: Scenes) -> float:
        """The share of men among the doctors."""
        genders = drawn.labels["gender"][drawn.labels["occupation"] == doctor]
        return (genders == 1).float().mean().item()

    assert men(planted) == pytest.approx(0.88, abs=0.05)
    assert men(uniform) == pytest.approx(0.5, abs=0.15)
    assert len(people) == 10_000


def test_an_interrupted_training_resumes_bit_for_bit(recipe: ModuleType, tmp_path: Path) -> None:
    def run(total: int, file: str) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)

        def loss_at(step: int) -> Tensor:
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            if step == 5 and not done:
                done.append(step)
                raise KeyboardInterrupt
            return (model(x) - x[:, :3]).square().mean()

        run = recipe.Run(total, 1e-2, 0.9, tmp_path / file, minutes=0)
        return recipe.loop("tiny", model, loss_at, run)

    done = [0]
    whole = run(9, "whole.pt")
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        run(9, "parts.pt")
    parts = run(9, "parts.pt")
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["vae", "--images", "0"], "--images must be at least 32 .one batch., got 0"),
        (["unet", "--images", "63"], "--images must be at least 64"),
        (["unet"], "has no autoencoder; train it first"),
    ],
)
def test_what_is_needed_is_checked_before_anything_runs(
    recipe: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    told: str,
) -> None:
    (tmp_path / "clip").symlink_to(MODELS / "portraits-t2i/clip")
    monkeypatch.setattr(recipe, "HERE", tmp_path)
    monkeypatch.setattr(recipe, "population", lambda: pytest.fail("drawn"))
    monkeypatch.setattr("sys.argv", ["train", *arguments, "--scratch", str(tmp_path)])
    with pytest.raises(SystemExit, match=told) as refused:
        recipe.main()
    assert "\n" not in str(refused.value)


def test_the_text_encoder_is_the_text_tower_of_the_shipped_clip(study) -> None:
    clip = evaluators.Clip.load(MODELS / "portraits-t2i/clip")
    texts = ["a face of a doctor", "a female old dark person with glasses"]
    tokens = clip.tokenizer(
        texts, padding="max_length", max_length=clip.context, return_tensors="pt"
    )
    with torch.no_grad():
        expected = clip.model.text_model(input_ids=tokens.input_ids).last_hidden_state
    torch.testing.assert_close(
        study.embed(texts)["encoder_hidden_states"], expected, atol=1e-3, rtol=1e-3
    )


def test_every_word_of_the_prompts_is_one_token(study) -> None:
    tokenizer = study.pipeline.tokenizer
    for prompts in (
        study.prompts.evaluate,
        study.prompts.learn,
        study.prompts.probe,
        study.prompts.held_out,
    ):
        for p in prompts:
            words = p.text.split()
            assert (
                len(tokenizer(p.text).input_ids) == len(words) + 2 <= tokenizer.model_max_length
            ), p.text
            assert set(words) <= occupations.vocabulary()
    learned = {p.given["occupation"] for p in study.prompts.learn}
    assert not learned & {p.given["occupation"] for p in study.prompts.held_out}


def test_it_is_an_ordinary_pipeline(study) -> None:
    """Loaded by diffusers alone, it draws what the study draws."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        MODELS / "portraits-t2i", safety_checker=None, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    x = sampling._Noise(sampling.image_seeds(4, 5), study.shape, torch.device("cpu")).draw()
    theirs = pipeline(
        study.texts(),
        latents=x,
        num_inference_steps=4,
        guidance_scale=study.guidance,
        height=64,
        width=64,
        output_type="pt",
    ).images
    torch.testing.assert_close(
        sampling.sample(study, 4, 5, steps=4), theirs * 2 - 1, atol=1e-2, rtol=1e-2
    )


def test_it_draws_what_it_is_asked_for(study) -> None:
    """Occupations, and classes by name, read by an evaluator that knows renders only."""
    judged = outcome.judge(study, sampling.sample(study, 48, 7, steps=8))
    assert outcome.obeyed(judged, study.prompts.evaluate, study.factors)["occupation"].value > 0.85
    some = random.Random(0).sample(study.prompts.probe, 16)
    judged = outcome.judge(
        study, sampling.sample(study, 48, 7, steps=8, prompts=[p.text for p in some]), len(some)
    )
    named = outcome.obeyed(judged, some, study.factors)
    assert named["gender"].value > 0.85 and named["tone"].value > 0.8 and named["age"].value > 0.7


def test_the_autoencoder_keeps_what_an_evaluator_reads(study) -> None:
    batch = study.world.sample(64, 12_345)
    with torch.no_grad():
        back = study.decode(study.encode(study.world.render(batch)))
    read = evaluators.read(study.scorer, back.clamp(-1, 1))
    for factor, least in (("gender", 0.95), ("tone", 0.95), ("occupation", 0.95), ("age", 0.85)):
        assert (read[factor].argmax(-1) == batch.labels[factor]).float().mean() >= least, factor
