"""The control that samples: what it shows is what the same edits give without it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

import difflens_utils as dl
from difflens_utils import edits, methods
from difflens_utils.methods import Method
from difflens_utils.pages import figures
from difflens_utils.pages.play import Play
from difflens_utils.settings import Settings
from difflens_utils.study import Study

N, STEPS = 4, 2


class Looks:
    """Stands in for CLIP: an image is what it looks like."""

    def fingerprint(self) -> str:
        return "looks"

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=1)


@pytest.fixture
def study(store: Path) -> Study:
    judge = tiny.labeller()
    subject = replace(tiny.subject(), evaluators=lambda: (judge, judge, Looks()))
    return Study(subject, Settings(steps=STEPS, n_images=8))


def directions(study: Study, attribute: str) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(len(attribute))
    shape = (STEPS, 24, 4, 4)
    return [torch.randn(shape, generator=generator) for _ in study.subject.classes(attribute)]


def rows(study: Study, attribute: str) -> Sequence[Method]:
    """Two dense methods, and one of the network, which cannot be composed."""
    pushed = methods.pushed("pushed", directions(study, attribute), grid=(1.0, 30.0))
    tuned = replace(pushed, name="tuned", network=True)
    return [pushed, methods.symmetric(pushed), tuned]


def picture(shown: Play) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shown.picture.value)))


def test_it_begins_with_images_that_no_edit_has_changed(study: Study) -> None:
    shown = dl.play(study, rows, n=N)
    plain = study.draw(n=N, seed=study.seeds.shown)
    np.testing.assert_array_equal(picture(shown), figures.mosaic(plain.images, 6, 6))
    assert shown.readings()["CLIP-I"].value == pytest.approx(1)
    assert shown.readings()["leak"].value == 0
    assert shown.method.options == ("pushed", "symmetric step")  # not the network's


def test_two_sliders_draw_what_both_edits_give(study: Study) -> None:
    shown = dl.play(study, rows, n=N)
    gender, age = shown.dials
    gender.target.value, gender.strength.value = 1, 30.0
    age.strength.value = 1.0
    both = edits.compose(
        edits.push(directions(study, "gender")[1], 30.0),
        edits.push(directions(study, "age")[0], 1.0),
    )
    want = study.draw(both, n=N, seed=study.seeds.shown)
    torch.testing.assert_close(shown.after.images, want.images)
    assert (picture(shown) != figures.mosaic(shown.before.images, 6, 6)).any()
    assert shown.readings()["gender: male"].value == want.share("gender", 1).value


def test_a_method_keeps_its_own_step_and_its_own_strengths(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = dl.play(study, rows, n=N, method="symmetric step")
    dial = shown.dials[0]
    assert dial.strength.options == (0.0, 1.0, 30.0)
    dial.strength.value = 30.0
    edit = edits.push(directions(study, "gender")[0], 30.0)
    plain = {"n": N, "seed": study.seeds.shown}
    torch.testing.assert_close(
        shown.after.images, study.draw(edit, asymmetric=False, **plain).images
    )
    monkeypatch.setattr(dl.debiasing, "draw", None)  # nothing is drawn to get there
    shown.method.value = "pushed"  # strengths of another method are others: none is dialled
    torch.testing.assert_close(shown.after.images, shown.before.images)


def test_the_table_says_what_the_evaluators_see(study: Study) -> None:
    shown = dl.play(study, rows, n=N)
    shown.dials[0].strength.value = 30.0
    for name, estimate in shown.readings().items():
        assert f"<th>{name}</th><td>{estimate}</td>" in shown.says.value


def test_a_notebook_shows_the_control(study: Study) -> None:
    bundle = dl.play(study, rows, n=N)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data


def test_what_cannot_be_shown_is_refused_in_one_line(study: Study) -> None:
    with pytest.raises(ValueError, match=r"^method must be one of pushed, symmetric step; got"):
        dl.play(study, rows, n=N, method="tuned")
    with pytest.raises(ValueError, match="^n must be greater than 0, got 0$"):
        dl.play(study, rows, n=0)
    with pytest.raises(ValueError, match="^rows must hold a method of every attribute"):
        dl.play(study, lambda study, a: rows(study, a)[2:], n=N)
