"""A study: what opens it, what changes of its settings reach, and what ships with its subject."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import difflens_utils as dl
from difflens_utils import debiasing, features, methods, sampling
from difflens_utils.ksae import KSAEConfig
from difflens_utils.methods import Method, finetuning, latent_direction, latent_editing
from difflens_utils.recording import Recording
from difflens_utils.settings import Seeds, Settings
from difflens_utils.study import Study
from difflens_utils.subjects import registry
from difflens_utils.subjects.pipelines import Subject

STEPS = 2


class Computed(Exception):
    """Something was computed that ships."""


def not_computed(*_: object, **__: object) -> Any:
    raise Computed


# --------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("setting", ["n_image", "batch", "seeds"])
def test_an_unknown_setting_is_refused_before_anything_is_loaded(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", not_computed)
    with pytest.raises(ValueError, match=f"^setting must be one of .*; got '{setting}'$") as error:
        dl.open("portraits", steps=5, **{setting: 3})
    assert "\n" not in str(error.value)
    with pytest.raises(Computed):
        dl.open("portraits", steps=5)


def test_a_close_setting_is_named_first() -> None:
    with pytest.raises(ValueError, match="^setting must be one of n_images, "):
        dl.open("portraits", n_image=3)


def test_a_study_is_opened_at_the_module_and_the_device_of_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def load(name: str, device: str, *, module: str | None) -> Subject:
        asked.append((name, device, module))
        return tiny.subject()

    monkeypatch.setattr(registry, "load", load)
    study = dl.open("portraits", device="cpu", module="mid_block", seed=7)
    dl.open()
    assert asked == [("portraits", "cpu", "mid_block"), ("portraits", "auto", None)]
    assert study.settings == Settings(device="cpu", module="mid_block", seed=7)
    assert study.seeds == Seeds.of(7)


# --------------------------------------------------------------------------------- changes


@pytest.fixture
def small() -> Study:
    settings = Settings(steps=STEPS, n_images=8, k=6, latents=48, train_steps=3)
    return Study(tiny.subject(), settings)


@pytest.fixture
def trained(store: Path, monkeypatch: pytest.MonkeyPatch) -> list[KSAEConfig]:
    """The configurations that k-SAEs are trained with; all of them are the same tiny one."""
    asked: list[KSAEConfig] = []

    def train(rec: Recording, config: KSAEConfig) -> tuple[object, str]:
        assert len(rec) == 8
        asked.append(config)
        return tiny.ksae(), "history"

    monkeypatch.setattr("difflens_utils.ksae.stored.train", train)
    return asked


def test_a_change_of_a_setting_or_an_option_makes_another_ksae(
    small: Study, trained: list[KSAEConfig]
) -> None:
    small.ksae()
    small.ksae(k=4)
    small.ksae(seed=2, latents=96)
    small.ksae(pre_bias=False)
    assert small.history(auxk=0, train_steps=5) == "history"
    plain = KSAEConfig(width=24, latents=48, k=6, batch=2048, steps=3, seed=0)
    assert trained == [
        plain,
        replace(plain, k=4),
        replace(plain, seed=2, latents=96),
        replace(plain, pre_bias=False),
        replace(plain, auxk=0, steps=5),
    ]


@pytest.mark.parametrize("make", ["ksae", "history", "features"])
def test_an_unknown_change_is_refused_in_one_line(
    small: Study, trained: list[KSAEConfig], make: str
) -> None:
    with pytest.raises(ValueError, match="^change must be one of pre_bias, ") as error:
        getattr(small, make)(pre_bia=False)
    assert "\n" not in str(error.value) and not trained


def test_features_are_found_with_changed_settings_and_know_them(
    small: Study, trained: list[KSAEConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the changes a search is known."""
    found: list[tuple[Settings, object]] = []

    def find(
        subject: Subject, sae: object, rec: object, settings: Settings, attributes: object
    ) -> features.BiasFeatures:
        found.append((settings, attributes))
        return features.BiasFeatures(sae, {}, {}, {}, {}, torch.zeros(48), {}, {})

    monkeypatch.setattr(features, "find", find)
    assert small.features().recipe == {}
    changed = small.features({"gender": "male"}, k=4, n_support=3, auxk=0)
    assert changed.recipe == {"k": 4, "n_support": 3, "auxk": 0}
    assert found == [
        (small.settings, None),
        (replace(small.settings, k=4, n_support=3), {"gender": "male"}),
    ]
    assert (trained[1].k, trained[1].auxk) == (4, 0)
    assert changed.best(5).recipe == {"k": 4, "n_support": 3, "auxk": 0, "n_features": 5}


def test_the_recipe_of_a_search_is_the_settings_with_their_changes(small: Study) -> None:
    plain = small.recipe({})
    assert plain["k"] == 6 and "auxk" not in plain and "n_tuned" not in plain
    assert small.recipe({"k": 4, "auxk": 0}) == plain | {"k": 4, "auxk": 0}


# --------------------------------------------------------------------------------- what ships


@pytest.fixture(scope="module")
def portraits() -> Study:
    return Study(registry.load("portraits", "cpu"))


@pytest.fixture(scope="module")
def texts() -> Study:
    return Study(registry.load("portraits-t2i", "cpu"))


def known(name: str, grid: tuple[float, ...], **recipe: object) -> Method:
    """A method by what its search is known by; its edits are not made."""
    return Method(name, not_computed, grid, recipe=recipe, whole=name.startswith("H-"))


SHIPPED = (
    known("latent editing", methods.DENSE),
    known("H-Distribution", methods.GUIDED),
    known("DiffLens", methods.SPARSE),
    known("k = 16", methods.SPARSE, k=16),
    known("N = 5", methods.SPARSE, n_features=5),
    known("seed 1", methods.SPARSE, seed=1),
    known("no AuxK", methods.SPARSE, auxk=0.0),
    known("no pre-bias", methods.SPARSE, pre_bias=False),
)


def searched(study: Study, method: Method) -> list[debiasing.Arm]:
    return debiasing.search(
        study.subject,
        method,
        "gender",
        n=study.settings.n_tuned,
        seed=study.seeds.tuning,
        steps=study.settings.steps,
        recipe=study.recipe(method.recipe),
    )


@pytest.mark.parametrize("method", SHIPPED, ids=[method.key for method in SHIPPED])
def test_a_search_that_ships_is_taken(
    method: Method, portraits: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiasing, "respond", not_computed)
    arms = searched(portraits, method)
    tried = [(arm.target, arm.strength) for arm in arms[1:]]
    targets = [debiasing.EVERY] if method.whole else [0, 1]
    assert (arms[0].target, arms[0].strength) == (debiasing.UNEDITED, 0.0)
    assert tried == [(target, strength) for target in targets for strength in method.grid]
    assert not list(store.rglob("arms.json"))


@pytest.mark.parametrize("recipe", [{"k": 31}, {"auxk": 0.0}])
def test_a_search_of_another_recipe_is_not_what_ships(
    recipe: dict[str, object], portraits: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiasing, "respond", not_computed)
    with pytest.raises(Computed):
        searched(portraits, known("latent editing", methods.DENSE, **recipe))


def test_the_deltas_of_latent_editing_that_ship_are_taken(
    portraits: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "unedited", not_computed)
    subject = portraits.subject
    for attribute in portraits.attributes:
        delta = latent_editing.learn(subject, attribute, 10)
        assert delta.shape[:2] == (len(attribute.classes), 10) and delta.abs().max() > 0
    for steps, recipe in ((9, None), (10, replace(latent_editing.RECIPE, rounds=5))):
        with pytest.raises(Computed):
            latent_editing.learn(subject, "gender", steps, recipe)
    assert not list(store.rglob("*.safetensors"))


def test_what_was_learned_of_texts_ships(
    texts: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latent directions and the finetuning that balances all attributes at once."""
    for generates in ("sample", "unedited"):
        monkeypatch.setattr(sampling, generates, not_computed)
    for attribute in texts.attributes:
        (direction,) = latent_direction.rows(texts, attribute)
        (finetuned,) = finetuning.rows(texts, attribute)
        assert (direction.name, finetuned.name) == ("latent direction", "finetuning")
        h, step = torch.zeros(2, 160, 4, 4), sampling.Step(3, 300, torch.arange(2))
        assert direction.towards(0, 1.0)(h, step).abs().max() > 0
        assert finetuned.towards(debiasing.EVERY, 1.0).changes_network
    assert not list(store.rglob("*.safetensors"))
