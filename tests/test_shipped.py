"""What ships with the subjects beside their weights is taken, and nothing is computed instead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from shipped import empty
from torch import Tensor

import difflens_utils as dl
from difflens_utils import attribution, features, ksae
from difflens_utils.ksae import KSAE, training
from difflens_utils.methods import best
from difflens_utils.recording import Recording
from difflens_utils.runtime import artifacts
from difflens_utils.study import Study

SUBJECTS = {
    "portraits": ("gender", {}),
    "portraits-t2i": ("gender", {}),
    "digits": ("digit", {"latents": 512, "train_steps": 600}),
}


class Computed(Exception):
    """Something was computed that ships."""


def not_computed(*args: object, **kwargs: object) -> Any:
    raise Computed


@pytest.fixture(params=SUBJECTS)
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Study, str]:
    """A study as in the book whose recording holds nothing, and an attribute of its subject."""
    attribute, sizes = SUBJECTS[request.param]
    monkeypatch.setattr(artifacts, "STORE", tmp_path)
    study = dl.open(request.param, device="cpu", **sizes)
    monkeypatch.setattr(Study, "recording", empty)
    return study, attribute


def test_the_ksae_of_the_book_ships(
    opened: tuple[Study, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = opened
    monkeypatch.setattr(training, "train", not_computed)
    shipped = KSAE.load(study.subject.folder / "ksae/k_32")
    assert study.ksae().fingerprint() == shipped.fingerprint()
    assert study.ksae(seed=1).fingerprint() != shipped.fingerprint()
    assert study.history().validation_fvu[-1] < 0.5
    for changes in ({"seed": 9}, {"train_steps": 7}, {"dead_after": 5}):
        with pytest.raises(Computed):
            study.ksae(**changes)


def test_a_ksae_of_other_images_is_not_what_ships(
    opened: tuple[Study, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _ = opened
    monkeypatch.setattr(training, "train", not_computed)
    rec = study.recording("learn")
    config = study.ksae().config
    assert rec.run is not None
    part = Recording("part", rec.h, rec.images, rec.timesteps)
    for other in (part, rec.only(0)):
        with pytest.raises(Computed):
            ksae.stored.train(other, config)


def test_the_features_of_the_book_ship(
    opened: tuple[Study, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, attribute = opened
    monkeypatch.setattr(attribution, "through_image", not_computed)
    subject, rec = study.subject, study.recording("learn")

    def chosen(sae: KSAE, wanted: dict[str, tuple[str, ...]], **changes: int) -> dict[str, Tensor]:
        settings = replace(study.settings, **changes)
        unknown = features.Latents({}, torch.zeros(0))
        return features._chosen(subject, sae, rec, settings, wanted, unknown)

    everything = {a: subject.classes(a) for a in subject.attributes}
    one = {attribute: subject.classes(attribute)}
    found = chosen(study.ksae(), everything)
    for a, names in everything.items():
        for name in names:
            scores, latents = found[f"scores.{a}.{name}"], found[f"latents.{a}.{name}"]
            assert scores.shape == (study.settings.latents,)
            assert len(latents) <= study.settings.n_features
            assert scores[latents].diff().le(0).all()  # best first
    assert len(chosen(study.ksae(), everything, n_features=30)) == len(found)
    assert f"latents.{attribute}.{one[attribute][0]}" in chosen(study.ksae(seed=1), one, seed=1)
    for wanted, changes in (
        ({attribute: one[attribute][:1]}, {}),
        (everything, {"n_features": 7}),
        (everything, {"n_measured": 3}),
    ):
        with pytest.raises(Computed):
            chosen(study.ksae(), wanted, **changes)


def test_the_parts_of_the_best_ship(
    opened: tuple[Study, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, attribute = opened
    monkeypatch.setattr(best, "_Kitchen", not_computed)
    parts = best.parts(study, attribute, best.chosen(study.subject, attribute))
    assert len(parts) == len(study.attribute(attribute).classes)
    for part in parts:
        assert len(part.features) <= study.settings.n_features
        assert part.unit.shape[0] == len(part.gains) == study.settings.steps
        assert part.unit.shape[-1] == len(part.features) == part.gains.shape[1]
    with pytest.raises(Computed):
        best.parts(study, attribute, best.Ingredients(balanced=7))


def test_the_cheapest_recipe_that_is_fair_is_chosen(tmp_path: Path) -> None:
    subject: Any = SimpleNamespace(folder=tmp_path)
    assert best.chosen(subject, "gender") == best.PROGRAMME
    figures = {  # cost, and the FD that the fairest plan leaves of 0.5
        "DiffLens": (0.3, 0.0),
        "shrunken": (0.1, 0.15),
        "gated by position": (0.05, 0.2),  # 0.16 of the bias
        "latent editing": (0.01, 0.0),
    }
    rows = {n: {"cost": c, "fairest": f, "unedited": 0.5} for n, (c, f) in figures.items()}
    unfair = {name: row | {"fairest": row["fairest"] + 0.3} for name, row in rows.items()}
    content = {best.ALL_WAYS: {"gender": rows, "tone": unfair}}
    (tmp_path / "ingredients.json").write_text(json.dumps(content))
    assert best.chosen(subject, "gender") == best.SHRUNKEN
    assert best.chosen(subject, "tone") == best.Ingredients()
    assert best.chosen(subject, "age") == best.PROGRAMME
