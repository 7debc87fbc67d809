from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor
from torch.nn import functional as F

from difflens_utils import sampling
from difflens_utils.methods import latent_editing
from difflens_utils.methods.latent_editing import Recipe
from difflens_utils.sampling import hooks
from difflens_utils.subjects import registry


class ColourClip:
    """A CLIP that sees an image's mean colour and reads whether a text names the first class."""

    def fingerprint(self) -> str:
        return "colour"

    def image_features(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean((2, 3)) + torch.tensor([0.0, 0.0, 2.0]), dim=-1)

    def text_features(self, texts: list[str]) -> Tensor:
        return torch.tensor([[1.0, 0, 0] if "female" in t else [-1.0, 0, 0] for t in texts])


@pytest.fixture
def subject(store: Path):
    judge = tiny.labeller()
    return replace(tiny.subject(clip_sample=False), evaluators=lambda: (judge, judge, ColourClip()))


def redness(subject, delta: Tensor) -> float:
    """How much redder the predicted clean image becomes at the first of two steps."""
    s = sampling.schedule(subject.scheduler, 2)
    x = sampling.Noise(sampling.image_seeds(8, 99), subject.shape, torch.device("cpu")).draw()
    plain = sampling.predicted_clean(x, subject.epsilon(x, s.timesteps[0]), s, 0)
    with hooks.edit(subject.network, subject.module, lambda h, _call: h + delta):
        edited = sampling.predicted_clean(x, subject.epsilon(x, s.timesteps[0]), s, 0)
    return (edited - plain)[:, 0].mean().item()


def test_what_is_learned_moves_images_where_the_texts_point(subject) -> None:
    delta = latent_editing.learn(subject, "gender", 2, Recipe(n=8, rounds=6, seed=0, batch=8))
    assert delta.shape == (2, 2, 24, *delta.shape[3:])
    assert redness(subject, delta[0, 0]) > 0 > redness(subject, delta[1, 0])


def test_texts_of_two_classes_point_apart(subject) -> None:
    directions = latent_editing.text_directions(subject, "gender")
    torch.testing.assert_close(directions, torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))


def test_sizes_are_checked_first(subject) -> None:
    with pytest.raises(ValueError, match="rounds"):
        latent_editing.learn(subject, "gender", 2, Recipe(n=8, rounds=0))


def test_the_recipe_shortened_sets_out_towards_what_ships(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of the shipped recipe moves towards the vector of its class at every timestep."""
    portraits = registry.load("portraits", "cpu")
    shipped = latent_editing.learn(portraits, "gender", 10)
    recipe = replace(latent_editing.RECIPE, n=32, rounds=1)
    short = latent_editing.learn(portraits, "gender", 10, recipe)
    cosine = torch.einsum(
        "ctf,dtf->tcd",
        F.normalize(short.flatten(2), dim=-1),
        F.normalize(shipped.flatten(2), dim=-1),
    )
    own, other = cosine.diagonal(dim1=1, dim2=2), cosine.flip(2).diagonal(dim1=1, dim2=2)
    assert (own > other).float().mean() > 0.9
    assert own.mean() > 0.2
