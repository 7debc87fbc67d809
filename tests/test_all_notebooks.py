"""All ten notebooks on models and data of every kind, with random weights and small sizes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import pytest
import tiny_studies
import torch
from tiny_studies import NAMES, Tiny

import difflens_utils as dl
from difflens_utils import debiasing, evaluators, metrics, sampling
from difflens_utils.methods import (
    Method,
    best,
    finetuning,
    latent_direction,
    latent_editing,
    learned,
)
from difflens_utils.pages import PAGES, results, scorecard
from difflens_utils.runtime import artifacts
from difflens_utils.subjects import registry
from difflens_utils.subjects.conditions import Prompt, Prompts
from difflens_utils.subjects.pipelines import Subject

matplotlib.use("Agg")

SMALL = {
    "n_images": 24,
    "steps": 2,
    "k": 2,
    "latents": 24,
    "train_steps": 2,
    "n_probe": 32,
    "n_support": 2,
    "n_measured": 2,
    "n_features": 2,
    "n_tuned": 4,
    "n_final": 10,
    "n_reconstructed": 10,
    "n_pairs": 3,
    "n_swept": 2,
    "n_curve": 10,
    "n_sweep": 4,
    "n_wanted": 4,
    "n_pair": 3,
    "n_single": 2,
    "betas": [1.0, 2.0],
    "ratios": [0.3, 0.6],
    "counts": [1, 10],
    "seeds": [1],
    "ks": [1, 3],
}
LEAST = SMALL | {
    "n_images": 5,
    "steps": 1,
    "k": 1,
    "latents": 4,
    "train_steps": 1,
    "n_probe": 8,
    "n_support": 1,
    "n_measured": 1,
    "n_features": 1,
    "n_tuned": 1,
    "n_final": 5,
    "n_reconstructed": 5,
    "n_pairs": 1,
    "n_swept": 1,
    "n_curve": 5,
    "n_sweep": 1,
    "n_wanted": 1,
    "n_pair": 1,
    "n_single": 1,
    "betas": [1.0],
    "ratios": [0.3],
    "counts": [1],
    "ks": [1],
}
RECIPES = {
    latent_editing: latent_editing.Recipe(n=2, rounds=1, batch=2),
    latent_direction: latent_direction.Recipe(n=2, batches=2, batch=2),
    finetuning: finetuning.Recipe(rounds=1, batch=2),
    learned: learned.Recipe(n=2, rounds=1, batch=2),
}
RESPOND = debiasing.respond

SHAPES, TINTS, EDGES = ("full", "line"), ("dark", "grey", "light"), ("no", "yes")
TEXTS = Prompts(
    evaluate=tuple(Prompt(f"a {t} picture", {"tint": t}) for t in ("dark", "light")),
    learn=tuple(
        Prompt(f"a {c} picture", {a: c}, "a picture")
        for a, own in (("shape", SHAPES), ("tint", TINTS))
        for c in own
    ),
    probe=tuple(Prompt(f"a {s} picture", {"shape": s}) for s in SHAPES),
    held_out=(Prompt("a grey picture", {"tint": "grey"}),),
)
CLASSES = Prompts(
    *[tuple(Prompt(name) for name in ("red fish", "blue fish"))] * 3
)  # of which nothing is stated


class Kind(NamedTuple):
    """A kind of study, and the sizes that it is run with."""

    make: Callable[[], Tiny]
    sizes: dict[str, object] = SMALL


STUDIES = {
    "one attribute": Kind(lambda: Tiny(tiny_studies.unet(), {"shape": SHAPES}, ["shape"]), LEAST),
    "prompts": Kind(
        lambda: Tiny(
            tiny_studies.stable_diffusion(),
            {"shape": SHAPES, "tint": TINTS, "edge": EDGES},
            ["shape", "tint"],
            TEXTS,
        )
    ),
    "a transformer": Kind(
        lambda: Tiny(
            tiny_studies.dit(),
            {"shape": EDGES, "tint": TINTS, "edge": EDGES},
            ["shape", "tint", "edge"],
            CLASSES,
        )
    ),
    "a class-conditional U-Net": Kind(
        lambda: Tiny(
            tiny_studies.class_conditional(),
            {"shape": SHAPES, "hue": ("blue", "red")},
            ["shape"],
        )
    ),
    "a pipeline that samples by itself": Kind(
        lambda: Tiny(
            tiny_studies.chroma(),
            {"shape": SHAPES, "tint": TINTS, "edge": EDGES},
            ["shape", "tint"],
            TEXTS,
        ),
        SMALL | {"steps": 1, "ratios": [0.3], "counts": [1]},  # each call of a pipeline takes long
    ),
    "classes that are never generated": Kind(
        lambda: Tiny(
            tiny_studies.unet(),
            {"tint": TINTS, "shape": SHAPES},
            ["tint", "shape"],
            never=("line", "dark"),
        )
    ),
}


class Ready(NamedTuple):
    """A study on disk: its name, where its results are, sizes, how to open it."""

    name: str
    root: Path
    sizes: dict[str, object]
    open: Callable[[], Subject]

    def values(self, notebook: str) -> dict[str, object]:
        """What is set in a notebook's cell of parameters."""
        known = tiny_studies.settings() | tiny_studies.parameters(notebook)
        return {k: v for k, v in self.sizes.items() if k in known} | {
            "subject": self.name,
            "profile": "quick",
            "device": "cpu",
        }

    def result(self, notebook: str) -> dict[str, object]:
        """A notebook's result file, in which no value may be anything but a number."""
        path = results.results_folder(self.name, "quick") / f"{notebook}.json"
        return json.loads(
            path.read_text(),
            parse_constant=lambda name: pytest.fail(f"{notebook}: a value is {name}"),
        )


def prepare(name: str, root: Path, patch: pytest.MonkeyPatch) -> Ready:
    """Write a study, open a store beside it, and make what is not to be tested here small."""
    torch.manual_seed(0)
    for attribute, value in (("STORE", root / "store"), ("_verified", set()), ("ROOT", root)):
        patch.setattr(artifacts, attribute, value)
    patch.setattr(results, "ROOT", root)
    patch.setitem(evaluators.ARCHITECTURES, "shallow", tiny_studies.shallow)
    for module, recipe in RECIPES.items():
        patch.setattr(module, "RECIPE", recipe)
    patch.setattr(debiasing, "respond", _respond_to_one_strength)
    patch.setattr(debiasing, "LONGER", 0)
    patch.setattr(best, "PROGRAMME", replace(best.PROGRAMME, balanced=2))
    patch.setattr(metrics.estimates, "RESAMPLES", 50)
    study = STUDIES[name].make()
    folder = tiny_studies.write(study, root / "model")

    def build(device: torch.device, dtype: torch.dtype, _folder: Path | None) -> Subject:
        about = registry.about(folder, device) | {"prompts": study.prompts}
        return registry.door(folder)(name, folder, device, dtype, **about)

    patch.setitem(registry.SUBJECTS, name, build)
    return Ready(name, root, STUDIES[name].sizes, partial(registry.load, name, "cpu"))


def _respond_to_one_strength(
    subject: Subject, method: Method, attribute: str, **sizes: int
) -> list[debiasing.Arm]:
    """The search with the last strength of each grid alone."""
    variants = [replace(way, grid=way.grid[-1:]) for way in method.variants]
    least = replace(method, grid=method.grid[-1:], variants=variants)
    return RESPOND(subject, least, attribute, **sizes)


@pytest.fixture(scope="module", params=STUDIES)
def study(
    one_thread: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ready]:
    """One study for all notebooks, which share a store."""
    with pytest.MonkeyPatch.context() as patch:
        yield prepare(request.param, tmp_path_factory.mktemp("study"), patch)


@pytest.mark.filterwarnings("ignore")  # of so few images numpy, scikit-learn and matplotlib warn
@pytest.mark.parametrize("notebook", NAMES)
def test_a_notebook_ends_with_finite_figures(study: Ready, notebook: str) -> None:
    first_picture = tiny_studies.run(notebook, study.values(notebook))
    plt.close("all")
    assert 1 <= first_picture <= 3, "the first picture comes too late"
    result = study.result(notebook)
    names = [r["name"] for r in result["records"]]
    assert names and len(set(names)) == len(names)
    assert all(math.isfinite(r["value"]) for r in result["records"])
    assert {name for v in result["verdicts"] for name in v["records"]} <= set(names)


@pytest.fixture
def done(study: Ready) -> Ready:
    """A study whose ten notebooks have run (the test above)."""
    if not (study.root / "_build").exists():
        pytest.skip("the notebooks have not run")
    return study


def test_what_a_study_cannot_tell_is_said_to_be_untested(done: Ready) -> None:
    lines = scorecard.scorecard(results.load_results(done.name, "quick"))
    untested = {line.claim.id for line in lines if not line.statements}
    if done.name == "one attribute":  # one factor, one k, no ratio above one half
        assert "C11" in untested and not {"C0", "C1", "C12"} & untested
    else:  # of so few images no resample tells how near to balanced data balance comes
        assert untested <= {"C2"}
    if done.name == "a class-conditional U-Net":  # one attribute, and a factor beside it
        (several,) = [line for line in lines if line.claim.id == "C11"]
        assert {one.verdict.rule for one in several.statements} == {"single features"}


def test_a_claim_without_a_sentence_lacks_its_figures(done: Ready) -> None:
    """Where no unit tracks a factor nothing tracks several, and no bias can be removed of none."""
    told = {
        "C0": ["polysemanticity.neurons.several", "polysemanticity.latents.several"],
        "C2": ["shape.difflens_best.quality"],
        "C8": ["ablation.shape.removed.n_10"],
    }
    if done.name == "one attribute":
        pytest.skip("of so few images hardly any figure is there")
    for line in scorecard.scorecard(results.load_results(done.name, "quick")):
        names = {record["name"] for record in done.result(line.claim.notebook)["records"]}
        assert line.ours or not names.issuperset(told[line.claim.id])


def test_each_prompt_has_records_of_its_own(done: Ready) -> None:
    names = {r["name"] for r in done.result("00_bias")["records"]}
    if done.name in ("prompts", "a pipeline that samples by itself"):
        assert {"prompts.a_dark_picture.clip_t", "prompts.a_light_picture.clip_t"} <= names
    elif done.name == "a transformer":
        assert {"prompts.red_fish.clip_t", "prompts.blue_fish.clip_t"} <= names
    elif done.name == "a class-conditional U-Net":
        assert {"prompts.red.clip_t", "prompts.blue.clip_t"} <= names
    else:
        assert not any(name.startswith("prompts.") for name in names)


def test_classes_of_one_name_have_records_of_their_own(done: Ready) -> None:
    if done.name != "a transformer":
        pytest.skip("every class has a name of its own")
    pairs = [r["name"] for r in done.result("08_multi_attribute")["records"]]
    assert (
        "multi.pair.shape.no.edge.yes.joint" in pairs and "multi.pair.shape.no.dark.joint" in pairs
    )
    assert sum(name.startswith("multi.pair.") and name.endswith(".joint") for name in pairs) == 16


def test_a_class_without_images_has_no_features(done: Ready) -> None:
    if "never" not in done.name:
        pytest.skip("every class is generated")
    found = {r["name"]: r["value"] for r in done.result("04_attribution")["records"]}
    assert (
        found["tint.dark.features"]
        == found["shape.line.features"]
        == found["shape.full.features"]
        == 0
    )


# ------------------------------------------------------------------------------------------
# Bad parameters

SHARES, STRENGTHS = (
    {"max_density", "target_share", "matched", "threshold", "ratios"},
    {"betas", "strong", "strength_single"},
)


def bad_values(name: str, value: object) -> list[object]:
    """What a parameter with this default must not be."""
    if name == "seed":
        return [-1, 0.5]
    if isinstance(value, list):
        return [
            [],
            [value[0], value[0]],
            *([one] for one in bad_values(name + "[0]", value[0]) if one != 0 or name != "seeds"),
        ]
    own = name.removesuffix("[0]")
    if own in SHARES:
        return [-0.1, 1.1]
    return [0, -1, *([] if own in STRENGTHS else [1.5])] if isinstance(value, int | float) else []


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    """A study with prompts that is open, and of which nothing can be computed."""

    def computed(*_args: object, **_options: object) -> None:
        raise AssertionError("something was computed before the parameters were checked")

    with pytest.MonkeyPatch.context() as patch:
        ready = prepare("prompts", tmp_path_factory.mktemp("idle"), patch)
        opened = ready.open()
        patch.setattr(registry, "load", lambda *_args, **_options: opened)
        for name in ("batches", "sample", "unedited", "activation"):
            patch.setattr(sampling, name, computed)
        yield ready


def refused(ready: Ready, notebook: str, **values: object) -> str:
    """What a notebook says of some values, in one line."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        tiny_studies.run(notebook, ready.values(notebook) | values)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("notebook", NAMES[:-1])
def test_bad_sizes_are_refused_by_name_before_anything_is_computed(
    idle: Ready, notebook: str
) -> None:
    shared = {k: v for k, v in tiny_studies.settings().items() if not isinstance(v, str)}
    for name, value in (shared | tiny_studies.parameters(notebook)).items():
        for bad in bad_values(name, value):
            assert refused(idle, notebook, **{name: bad}).startswith(name), f"{name} = {bad!r}"


@pytest.mark.parametrize(
    ("notebook", "values", "told"),
    [
        ("00_bias", {"steps": 1001}, "steps must be between 1 and 1000"),
        ("00_bias", {"n_images": 4}, "n_images must be more than 4, the scorer's features"),
        ("01_polysemanticity", {"k": 25}, r"k must be at most latents \(24\)"),
        ("01_polysemanticity", {"n_probe": 4}, "n_probe must be larger"),
        ("02_ksae", {"ks": [2, 25]}, r"ks\[1\] must be at most latents"),
        ("02_ksae", {"ks": [4, 2]}, "ks must be different values that rise"),
        ("02_ksae", {"n_reconstructed": 4}, "n_reconstructed must be more than 4"),
        ("03_probes", {"n_images": 3}, "n_images must be at least 4"),
        ("04_attribution", {"n_features": 5}, "latents must be at least 30"),
        ("05_interventions", {"n_curve": 4}, "n_curve must be more than 4"),
        ("06_debiasing", {"n_sweep": 1}, "n_sweep must be at least 2, one image for each prompt"),
        (
            "06_debiasing",
            {"ratios": [0.5, 1.0]},
            r"ratios\[1\] must be greater than 0 and less than 1",
        ),
        ("06_debiasing", {"wanted": {"tone": [0.5, 0.5]}}, "wanted: an attribute must be one of"),
        ("06_debiasing", {"wanted": {"tint": [0.5, 0.5]}}, "wanted: tint must be 3 shares"),
        ("07_ablations", {"seeds": [0, 1]}, "seeds must not hold seed itself"),
        ("07_ablations", {"n_final": 1}, "n_final must be at least 2"),
        (
            "06_debiasing",
            {"ratios": ["a", 0.5]},
            "ratios must be numbers",
        ),
        (
            "06_debiasing",
            {"wanted": {"shape": {"full": 0.5, "line": 0.5}}},
            "wanted: shape must be shares that sum to 1",
        ),
        (
            "00_bias",
            {"seed": 2**70},
            "seed must be between 0 and",
        ),
        (
            "08_multi_attribute",
            {"singles": {"smile": "present"}},
            "singles: a factor must be one of",
        ),
        (
            "05_interventions",
            {"n_curve": 11},
            r"n_curve must be at most n_final \(10\), got 11",
        ),
        (
            "08_multi_attribute",
            {"singles": {"edge": "present"}},
            "singles: a class of edge must be one of",
        ),
    ],
)
def test_sizes_that_do_not_fit_each_other_or_the_subject_are_refused(
    idle: Ready, notebook: str, values: dict, told: str
) -> None:
    line = refused(idle, notebook, **values)
    assert re.match(told, line), line


@pytest.mark.parametrize(
    ("notebook", "values", "told"),
    [
        ("00_bias", {"n_image": 3}, "sizes of 00_bias are none; got n_image"),
        (
            "02_ksae",
            {"n_reconstucted": 9},
            "sizes of 02_ksae are ks, n_reconstructed; got n_recons",
        ),
        ("02_ksae", {"n_images": 30}, "n_images is a setting and no size: give it to dl.open"),
        ("10_mine", {"k": 3}, "k is a setting and no size: give it to dl.open"),
    ],
)
def test_a_page_refuses_sizes_that_nothing_reads(
    idle: Ready, notebook: str, values: dict[str, object], told: str
) -> None:
    study = dl.open(idle.name, device="cpu", n_images=24, steps=2, k=2, latents=24, n_features=2)
    known = tiny_studies.parameters(notebook) if notebook in NAMES else {}
    for name in ("subject", "settings"):
        known.pop(name, None)
    with pytest.raises(ValueError, match=told):
        study.page(notebook, **(known | values))
    for name in known:
        missing = {size: value for size, value in known.items() if size != name}
        with pytest.raises(ValueError, match=f"^{name} must be given: {notebook} has it as a size"):
            study.page(notebook, **missing)


def test_pages_need_what_their_notebooks_have() -> None:
    for notebook in NAMES:
        own = tiny_studies.parameters(notebook)
        assert set(PAGES[notebook].needs) == set(own) - {"subject", "settings"}
