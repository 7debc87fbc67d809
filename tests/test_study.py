"""A study: what opens it, what changes of its settings reach, and what ships with its subject."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from shipped import empty

import difflens_utils as dl
from difflens_utils import debiasing, evaluators, features, methods, sampling
from difflens_utils.ksae import KSAEConfig
from difflens_utils.methods import Method, finetuning, latent_direction, latent_editing
from difflens_utils.recording import Recording
from difflens_utils.settings import Seeds, Settings
from difflens_utils.study import Study
from difflens_utils.subjects import registry
from difflens_utils.subjects.conditions import Prompt
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


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"n_images": "many"}, "n_images must be a number, got 'many'"),
        ({"k": 0}, "k must be at least 1"),
        ({"k": 2.0}, "k must be a whole number"),
        ({"k": 2000}, r"k must be at most latents \(1024\)"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"max_density": 2}, "max_density must be between 0 and 1"),
        ({"profile": "nope"}, "profile must be one of mine, "),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_anything_is_loaded(
    settings: dict[str, object], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", not_computed)
    with pytest.raises(ValueError, match=f"^{told}") as error:
        dl.open("portraits", **settings)
    assert "\n" not in str(error.value)


def test_a_folder_may_be_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are filed under its name."""
    asked = []
    monkeypatch.setattr(registry, "load", lambda name, *_, **__: asked.append(name))
    dl.open(Path("models/digits"))
    assert asked == ["models/digits"] and isinstance(asked[0], str)


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
    small.ksae(random_decoder=True)
    assert small.history(auxk=0, train_steps=5) == "history"
    plain = KSAEConfig(width=24, latents=48, k=6, batch=2048, steps=3, seed=0)
    assert trained == [
        plain,
        replace(plain, k=4),
        replace(plain, seed=2, latents=96),
        replace(plain, pre_bias=False),
        replace(plain, random_decoder=True),
        replace(plain, auxk=0, steps=5),
    ]


def test_a_ksae_of_one_step_is_trained_on_that_step_alone(
    small: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recording] = []

    def train(rec: Recording, config: KSAEConfig) -> tuple[object, str]:
        seen.append(rec)
        assert config.steps == 1
        return tiny.ksae(), "history"

    monkeypatch.setattr("difflens_utils.ksae.stored.train", train)
    small.ksae(train_steps=1)
    small.ksae(step=1, train_steps=1)
    assert small.history(step=0, train_steps=1) == "history"
    whole = small.recording("learn")
    assert [rec.timesteps for rec in seen] == [
        whole.timesteps,
        whole.timesteps[1:],
        whole.timesteps[:1],
    ]
    assert torch.equal(seen[1].at(0), whole.at(1))
    with pytest.raises(ValueError, match="^step must be between 0 and 1, got 2"):
        small.ksae(step=2)
    with pytest.raises(ValueError, match="^change must be one of "):
        small.features(step=1)


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
        subject: Subject,
        sae: object,
        rec: object,
        settings: Settings,
        attributes: object,
        heads: object,
    ) -> features.BiasFeatures:
        assert heads is None
        found.append((settings, attributes))
        return features.BiasFeatures(sae, {}, {}, {}, {}, torch.zeros(48), {}, dict)

    monkeypatch.setattr(features, "find", find)
    assert small.features().recipe == {}
    changed = small.features({"gender": "male"}, k=4, n_support=3, auxk=0)
    of_classes = {"k": 4, "n_support": 3, "auxk": 0, "classes": {"gender": "male"}}
    assert changed.recipe == of_classes
    assert found == [
        (small.settings, None),
        (replace(small.settings, k=4, n_support=3), {"gender": "male"}),
    ]
    assert (trained[1].k, trained[1].auxk) == (4, 0)
    assert changed.best(5).recipe == of_classes | {"n_features": 5}


def test_the_recipe_of_a_search_is_the_settings_with_their_changes(small: Study) -> None:
    plain = small.recipe({})
    assert plain["k"] == 6 and "auxk" not in plain and "n_tuned" not in plain
    assert plain["ksae"] == small.ksae().fingerprint()
    assert small.recipe({"n_features": 3, "target": [1.0]}) == plain | {
        "n_features": 3,
        "target": [1.0],
    }
    other = small.ksae(k=4, auxk=0).fingerprint()
    assert other != plain["ksae"]
    assert small.recipe({"k": 4, "auxk": 0}) == plain | {"k": 4, "auxk": 0, "ksae": other}


@pytest.mark.parametrize(
    ("make", "change"),
    [
        ("ksae", {"steps": 5}),  # of the sampling: KSAEConfig calls the optimizer's so, too
        ("ksae", {"n_images": 5}),
        ("ksae", {"device": "cpu"}),
        ("ksae", {"width": 5}),
        ("history", {"n_support": 5}),
        ("features", {"n_tuned": 5}),
        ("features", {"steps": 5}),
        ("features", {"module": "conv_out"}),
    ],
)
def test_a_change_that_reaches_nothing_is_refused(
    small: Study, trained: list[KSAEConfig], make: str, change: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="^change must be one of ") as error:
        getattr(small, make)(**change)
    assert "\n" not in str(error.value) and not trained


@pytest.mark.parametrize("change", [{"k": 0}, {"k": 49}, {"n_measured": 0}, {"max_density": 2.0}])
def test_a_change_to_what_cannot_be_is_refused(
    small: Study, trained: list[KSAEConfig], change: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(change))} must be "):
        small.features(**change)
    assert not trained


def test_batches_of_another_size_make_another_ksae(small: Study, trained: list[KSAEConfig]) -> None:
    small.ksae(batch=64)
    assert trained[0].batch == 64


# --------------------------------------------------------------------------------- attributes


def test_an_attribute_is_copied_with_its_classes(small: Study) -> None:
    gender = small.attribute("gender")
    copies = pickle.loads(pickle.dumps(gender)), copy.copy(gender), copy.deepcopy([gender])[0]
    for other in copies:
        assert other == "gender" and other.classes == gender.classes
    assert json.loads(json.dumps({gender: 1})) == {"gender": 1}


def test_one_attribute_may_be_named_as_it_is(
    small: Study, trained: list[KSAEConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def find(*arguments: object, heads: object) -> features.BiasFeatures:
        asked.append(arguments[-1])
        return features.BiasFeatures(tiny.ksae(), {}, {}, {}, {}, torch.zeros(48), {}, dict)

    def through_image(_subject: Subject, _units: object, names: object, _support: object) -> object:
        asked.append(names)
        return {}

    monkeypatch.setattr(features, "find", find)
    monkeypatch.setattr("difflens_utils.attribution.through_image", through_image)
    small.features(small.attribute("gender"))
    small.attribution(tiny.ksae(), "gender")
    assert asked == [("gender",), ("gender",)]


def test_a_class_that_is_none_is_refused(small: Study, trained: list[KSAEConfig]) -> None:
    with pytest.raises(ValueError, match="^a class of gender must be one of .*; got 'purple'$"):
        small.features({"gender": "purple"})
    assert not trained


def test_a_search_for_what_is_no_attribute_is_refused(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiasing, "search", not_computed)
    with pytest.raises(ValueError, match="^attribute must be one of .*; got 'smile'$"):
        small.search(known("DiffLens", methods.SPARSE), "smile")
    with pytest.raises(Computed):
        small.balance(known("DiffLens", methods.SPARSE), "gender", n=4)


def test_prompts_that_no_plan_is_for_are_refused(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image would draw from the plan of another prompt."""
    monkeypatch.setattr(Study, "draw", lambda *_, **__: None)  # the unedited images
    monkeypatch.setattr(debiasing, "debias", not_computed)
    method = known("DiffLens", methods.SPARSE)
    search = debiasing.Search(method, "gender", [], np.full((2, 2), 0.5), 10)
    three, half = [Prompt(name) for name in "abc"], [0.5, 0.5]
    with pytest.raises(ValueError, match="^prompts must be 2, .* got 3: take search.on"):
        small.debias(search, half, n=6, prompts=three)
    for options in ({"prompts": three[:2]}, {"prompts": three, "together": True}):
        with pytest.raises(Computed):
            small.debias(search, half, n=6, **options)


def test_no_prompts_are_not_those_of_the_evaluation(small: Study) -> None:
    """A model that has no held-out prompts has no images of them."""
    none = small.prompts.held_out
    method = known("DiffLens", methods.SPARSE)
    search = debiasing.Search(method, "gender", [], np.full((1, 2), 0.5), 10)
    calls: list[Callable[[], object]] = [
        lambda: small.draw(n=4, prompts=none),
        lambda: small.judge(torch.zeros(4, 3, 16, 16), none),
        lambda: small.base_shares(4, 0, none),
        lambda: small.debias(search, [0.5, 0.5], n=4, prompts=none),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="^prompts must name at least one; "):
            call()


def test_renders_fix_no_factor_that_the_data_do_not_have(small: Study) -> None:
    with pytest.raises(ValueError, match="^a factor of the data must be one of gender, .*'gendr'$"):
        small.renders(4, 0, {"gendr": "male"})


def test_evaluators_look_at_the_same_images_once(
    small: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, references = small.labels("learn"), small.references("gender", 4)
    monkeypatch.setattr(evaluators, "read", not_computed)
    assert all(torch.equal(small.labels("learn")[a], labels[a]) for a in small.attributes)
    seen: list[int] = []
    embed = evaluators.embed
    monkeypatch.setattr(
        evaluators, "embed", lambda scorer, x: (seen.append(len(x)), embed(scorer, x))[1]
    )
    again = small.references("age", 4)
    assert torch.equal(again["reference"], references["reference"])
    assert seen == [len(again["balanced"]) // 3] * 3  # one set per age


def test_a_search_for_another_target_keeps_the_shares_that_it_plans_from(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Study, "heads", lambda study: {"gender": None})
    monkeypatch.setattr(debiasing, "search", lambda *_, **__: [])
    monkeypatch.setattr(debiasing, "base_shares", lambda *_: {"gender": np.full((1, 2), 0.5)})
    monkeypatch.setattr(Study, "recording", lambda study: SimpleNamespace(images=None))
    monkeypatch.setattr(Study, "recipe", lambda *_: {})  # it asks for the k-SAE
    other = np.array([[0.1, 0.9], [0.2, 0.8]])
    search = debiasing.Search(known("H-Distribution", methods.GUIDED), "gender", [], other, 10)
    assert (small.retarget(search, [0.3, 0.7]).base == other).all()


def test_other_targets_have_searches_of_other_names(
    small: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships is known by its name: it may not stand for another distribution."""
    found: list[str] = []
    monkeypatch.setattr(Study, "heads", lambda study: {"gender": None})

    def search_for(_study: Study, method: Method, attribute: str) -> debiasing.Search:
        found.append(method.key)
        return debiasing.Search(method, attribute, [], np.full((1, 3), 1 / 3), 10)

    monkeypatch.setattr(Study, "search", search_for)
    whole = known("H-Distribution", methods.GUIDED)
    search = debiasing.Search(whole, "gender", [], np.full((1, 3), 1 / 3), 10)
    for target in ([0.3, 0.7], [0.25, 0.25, 0.5], [0.1, 0.4, 0.5]):
        small.retarget(search, target)
    names = ["to_0_7", "to_0_5", "to_0_1_0_4_0_5"]
    assert found == [f"h_distribution_{name}" for name in names]


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
    known("N = 10", methods.SPARSE, n_features=10),
    known("seed 1", methods.SPARSE, seed=1),
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
    monkeypatch.setattr(Study, "recording", empty)
    arms = searched(portraits, method)
    assert (arms[0].target, arms[0].strength) == (debiasing.UNEDITED, 0.0)
    paths: dict[tuple[int, int], list[float]] = {}
    for arm in arms[1:]:
        paths.setdefault((arm.way, arm.target), []).append(arm.strength)
    targets = [debiasing.EVERY] if method.whole else [0, 1]
    assert list(paths) == [(way, c) for way in range(len(method.ways)) for c in targets]
    for (way, _), path in paths.items():
        grid = method.ways[way].grid
        rising = [*grid, *(grid[-1] * 1.5**power for power in range(1, 7))]
        assert path == pytest.approx(rising[: len(path)])  # none is left out on the way
    assert not list(store.rglob("arms.json"))


@pytest.mark.parametrize("recipe", [{"n_features": 21}, {"seed": 2}])
def test_a_search_of_another_recipe_is_not_what_ships(
    recipe: dict[str, object], portraits: Study, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiasing, "respond", not_computed)
    monkeypatch.setattr(Study, "recording", empty)
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
    for generates in ("batches", "sample", "unedited"):
        monkeypatch.setattr(sampling, generates, not_computed)
    for attribute in texts.attributes:
        (direction,) = latent_direction.rows(texts, attribute)
        (finetuned,) = finetuning.rows(texts, attribute)
        assert (direction.name, finetuned.name) == ("latent direction", "finetuning")
        h, step = torch.zeros(2, 160, 4, 4), sampling.Step(3, 300, torch.arange(2))
        assert direction.towards(0, 1.0)(h, step).abs().max() > 0
        assert finetuned.towards(debiasing.EVERY, 1.0).changes_network
    assert not list(store.rglob("*.safetensors"))
