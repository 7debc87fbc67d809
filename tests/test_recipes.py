"""The recipe of the shipped subject, on a network and a data set small enough for seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import DDIMPipeline, UNet2DModel

from difflens_utils.subjects import registry
from models.portraits import train as recipe


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images a step, of 32 random ones."""
    images = torch.randint(
        256, (32, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    monkeypatch.setattr(recipe, "BATCH", 8)
    monkeypatch.setattr(recipe, "POOL", len(images))
    monkeypatch.setattr(recipe, "data", lambda: images)
    monkeypatch.setattr(recipe, "network", lambda: tiny.network().requires_grad_(True).train())


def test_an_interrupted_training_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recipe.train(48, tmp_path / "whole.pt")
    save, saved = recipe.save_atomically, []

    def stop_after_three(state: dict, path: Path) -> None:
        save(state, path)
        saved.append(state["step"])
        if len(saved) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "save_atomically", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(48, tmp_path / "parts.pt", minutes_between_saves=0)
    parts = recipe.train(48, tmp_path / "parts.pt", minutes_between_saves=0)
    assert saved == [1, 2, 3, 4, 5, 6]
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_warm_start_goes_on_from_the_weights_and_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.export(recipe.train(16, tmp_path / "first.pt"), tmp_path / "first")
    steps: list[int] = []
    monkeypatch.setattr(recipe, "save_atomically", lambda state, _path: steps.append(state["step"]))
    more = recipe.train(
        48, tmp_path / "more.pt", warm=tmp_path / "first", seen=16, minutes_between_saves=0
    )
    assert steps == [3, 4, 5, 6]
    start = DDIMPipeline.from_pretrained(tmp_path / "first").unet.state_dict()
    moved = [(more[k] - start[k]).abs().max() for k in more]
    assert 0 < max(moved) < 0.01  # four small steps away, where random weights would be far


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "7"], "--images must be at least 8 .one batch more than --seen., got 7"),
        (["--images", "0"], "--images must be at least"),
        (["--images", "80", "--seen", "80"], "--images must be at least 88"),
        (["--seen", "-8"], "--seen must be at least 0"),
        (["--open-blocks", "5"], "--open-blocks must be between 0 and 4"),
        (["--decay", "1.5"], "--decay must be between 0 and 1"),
        (["--warm", "nowhere"], "--warm must be the folder of a pipeline"),
    ],
)
def test_sizes_are_checked_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setattr(recipe, "data", lambda: pytest.fail("rendered"))
    monkeypatch.setattr("sys.argv", ["train", *arguments])
    with pytest.raises(SystemExit, match=told) as refused:
        recipe.main()
    assert "\n" not in str(refused.value)


def test_a_state_that_was_made_otherwise_is_refused(tmp_path: Path) -> None:
    recipe.train(16, tmp_path / "state.pt")
    unet = recipe.network()
    with pytest.raises(
        ValueError, match="was made with nothing that it names, and this training is with more"
    ):
        run = recipe.Run(4, 1e-3, 0.9, tmp_path / "state.pt", made_with="more")
        recipe.loop("tiny", unet, lambda _step: pytest.fail("went on"), run)


def moved_by_skips(unet: UNet2DModel, block: int) -> float:
    """How far the output moves when every skip connection into one up block becomes noise."""
    x = torch.randn(4, 3, unet.config.sample_size, unet.config.sample_size)
    before = unet(x, 500).sample

    def replace(_module: object, args: tuple) -> tuple:
        sample, skips, *rest = args
        return sample, tuple(torch.randn_like(s) * 3 + 1 for s in skips), *rest

    handle = unet.up_blocks[block].register_forward_pre_hook(replace)
    after = unet(x, 500).sample
    handle.remove()
    return (after - before).abs().max().item()


@torch.no_grad()
def test_closed_skips_carry_nothing_and_stay_closed(tmp_path: Path) -> None:
    unet = recipe.network()
    assert all(moved_by_skips(unet, block) > 1e-3 for block in range(3))
    with torch.enable_grad():
        unet.load_state_dict(recipe.train(32, tmp_path / "state.pt", open_blocks=1))
    assert [moved_by_skips(unet, block) > 1e-5 for block in range(3)] == [False, False, True]


@torch.no_grad()
def test_the_shipped_subject_sees_the_image_through_its_bottleneck() -> None:
    unet = registry.load("portraits", "cpu", dtype=torch.float32).network
    assert [moved_by_skips(unet, block) > 1e-5 for block in range(4)] == [False, False, False, True]
