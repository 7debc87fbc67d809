"""The benchmark's tracks against closed forms, and submissions from a folder to a row."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_studies
import torch
from safetensors.torch import load_file, save_file
from scipy import stats
from sklearn.metrics import roc_auc_score
from tiny_studies import Tiny

import difflens_utils as dl
from difflens_utils import edits, evaluators, ksae, metrics
from difflens_utils.analysis.mediation import Mediation
from difflens_utils.bench import TRACKS, board, fair, foreign, frozen, locate, rank, recover, truth
from difflens_utils.bench.frozen import Frozen, Probe
from difflens_utils.bench.run import Arena, Entry
from difflens_utils.bench.seeds import CURRENT, MEASURED, of
from difflens_utils.bench.submission import Submission
from difflens_utils.bench.task import Given, blind, reserved
from difflens_utils.runtime import artifacts
from difflens_utils.worlds import portraits
from workflow import leaderboard, reliability, submit

RNG = np.random.default_rng(0)
SUBMISSIONS = Path(__file__).parents[1] / "submissions"
FACTORS = {"gender": ("female", "male"), "age": ("young", "adult", "old")}


# ------------------------------------------------------------------------------------------
# Recover


def known(n: int = 600) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = {factor: len(classes) for factor, classes in FACTORS.items()}
    return {f: torch.randint(size, (n,), generator=generator) for f, size in sizes.items()}


def frozen_of(units: np.ndarray, labels: dict[str, torch.Tensor]) -> Frozen:
    """Units (m, d) as h of one timestep and one position."""
    h = torch.from_numpy(units).float().reshape(len(units), 1, -1, 1, 1)
    return Frozen("made up", h, FACTORS, {"independent": Probe(h, labels)})


def test_units_that_are_the_targets_are_recovered_and_noise_is_not() -> None:
    labels = known()
    wanted = recover.targets(labels, FACTORS).astype(float)
    noise = RNG.normal(size=(600, 3))
    right = frozen_of(np.c_[noise, -3 * wanted + 5], labels)  # the sign is no matter
    found = recover.score(lambda x: x, right)
    assert found["mcc"].value == pytest.approx(1)
    wrong = recover.score(lambda x: x, frozen_of(noise, labels))
    assert abs(wrong["mcc"].value) < 0.15  # partners are chosen elsewhere: no luck is counted
    assert wrong["coverage"].value == 0
    assert wrong["absorption"].value is metrics.NAN or math.isnan(wrong["absorption"].value)


def test_matched_correlation_is_the_mean_over_held_out_partners() -> None:
    labels = known()
    wanted = recover.targets(labels, FACTORS)
    units = wanted + RNG.normal(size=wanted.shape)
    held = np.arange(600) % 4 == 3
    expected = [np.corrcoef(units[held, j], wanted[held, j])[0, 1] for j in range(wanted.shape[1])]
    got = recover.mcc(recover.Answered.of(units, wanted))
    assert got.value == pytest.approx(np.mean(expected))


def test_a_target_without_a_unit_counts_as_nothing() -> None:
    labels = known()
    wanted = recover.targets(labels, FACTORS)  # four targets
    got = recover.mcc(recover.Answered.of(wanted[:, :1].astype(float), wanted))
    assert got.value == pytest.approx(1 / 4)


def test_correlations_of_what_does_not_vary_are_zero() -> None:
    units = np.c_[np.full(8, 0.1), np.arange(8.0)]
    got = recover.correlations(units, (np.arange(8) > 3)[:, None])
    assert got[0, 0] == 0
    assert got[1, 0] == pytest.approx(np.corrcoef(np.arange(8), np.arange(8) > 3)[0, 1])


def test_coverage_is_the_share_of_targets_that_a_unit_tells() -> None:
    labels = known()
    wanted = recover.targets(labels, FACTORS)
    units = np.c_[wanted[:, 0] + 0.1 * RNG.normal(size=600), RNG.normal(size=600)]
    answered = recover.Answered.of(units, wanted)
    held = answered.held
    assert roc_auc_score(wanted[held, 0], units[held, 0]) > recover.COVERED
    assert recover.coverage(answered).value == 1 / 4


def test_hierarchies_of_the_portraits_are_those_that_were_planted() -> None:
    found = {(h.parent, h.child) for h in recover.hierarchies(portraits.WORLD)}
    male, beard = ("gender", 1), ("beard", 1)
    assert (male, beard) in found
    assert (("gender", 0), ("lipstick", 1)) in found
    assert not any(child == ("glasses", 1) for _, child in found)


def test_absorption_is_how_much_more_often_a_parent_is_missed_with_its_child() -> None:
    """The unit of the parent fires on all men without a beard, and on half of those with one."""
    generator = torch.Generator().manual_seed(0)
    male, beard = (torch.randint(2, (2000,), generator=generator) for _ in range(2))
    half = torch.rand(2000, generator=generator) < 0.5
    unit = ((male == 1) & ((beard == 0) | half)).double().numpy()[:, None]
    hierarchy = [recover.Hierarchy(("gender", 1), ("beard", 1))]
    labels = {"gender": male, "beard": beard}
    got = recover.absorption(unit, labels, hierarchy)
    assert got.value == pytest.approx(0.5, abs=0.06)
    plain = recover.absorption(male.double().numpy()[:, None], labels, hierarchy)
    assert plain.value == 0


def test_reversed_probes_turn_the_attributes_alone() -> None:
    planted = frozen.WAYS["planted"](portraits.WORLD, 200, 3)
    turned = frozen.WAYS["reversed"](portraits.WORLD, 200, 3)
    assert planted is not None and turned is not None
    for factor, labels in planted.labels.items():
        last = len(portraits.WORLD.factors[factor].classes) - 1
        expected = last - labels if factor in portraits.ATTRIBUTES else labels
        assert torch.equal(turned.labels[factor], expected)


@pytest.mark.parametrize(
    ("units", "error"),
    [
        (lambda x: x.mean(-1), "units must be"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: x / 0, "units must be finite"),
    ],
)
def test_units_of_a_wrong_shape_are_refused(units: Callable, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        frozen.answers(units, torch.ones(3, 2, 4, 1, 1))


def test_answers_are_the_mean_over_timesteps_and_positions() -> None:
    h = torch.randn(70, 3, 5, 2, 2)
    got = frozen.answers(lambda x: x.square(), h)
    assert got == pytest.approx(h.double().square().mean((1, 3, 4)).numpy(), rel=1e-5)
    tokens = torch.randn(6, 3, 4, 5)  # (n, T, tokens, d)
    assert frozen.answers(lambda x: x, tokens) == pytest.approx(
        tokens.mean((1, 2)).numpy(), abs=1e-6
    )


# ------------------------------------------------------------------------------------------
# Attribute and locate


def test_scores_in_the_order_of_the_effects_are_right_and_the_reverse_is_wrong() -> None:
    effects = torch.from_numpy(RNG.normal(size=(3, 40)))
    right = rank.score(effects.exp(), effects)
    assert [right[name].value for name in ("correlation", "attained")] == pytest.approx([1, 1])
    wrong = rank.score(-effects, effects)
    assert wrong["correlation"].value == -1 and wrong["attained"].value < 0
    alike = rank.score(torch.zeros(3, 40), effects)
    assert alike["correlation"].value == 0


def test_score_of_latents_agrees_with_scipy() -> None:
    effects, scores = (torch.from_numpy(RNG.normal(size=(2, 30))) for _ in range(2))
    expected = np.mean(
        [stats.spearmanr(s, e).statistic for s, e in zip(scores, effects, strict=True)]
    )
    assert rank.score(scores, effects)["correlation"].value == pytest.approx(expected)
    best = [np.argsort(-s.numpy())[:5] for s in scores]
    reached = sum(e[b].sum() for e, b in zip(effects.numpy(), best, strict=True))
    most = sum(np.sort(e)[-5:].sum() for e in effects.numpy())
    assert rank.score(scores, effects, 5)["attained"].value == pytest.approx(reached / most)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_the_ceiling_is_what_true_effects_reach(noise: float) -> None:
    effects = torch.from_numpy(RNG.normal(size=(2, 4000)))
    halves = effects + noise * torch.from_numpy(RNG.normal(size=(2, 2, 4000)))
    reached = rank.score(effects, halves.mean(0))["correlation"].value
    assert rank.ceiling(halves).value == pytest.approx(reached, abs=0.03)


def test_halves_that_disagree_have_a_ceiling_of_zero() -> None:
    effects = torch.arange(20.0).expand(1, -1)
    assert rank.ceiling(torch.stack([effects, -effects])).value == 0


@pytest.mark.parametrize(
    ("located", "error"),
    [
        ({}, "must name block mid_block"),
        ({"mid_block": [0.5]}, "must have 2 shares"),
        ({"mid_block": [0.5, math.nan]}, "must be finite"),
    ],
)
def test_places_that_are_missing_or_wrong_are_refused(located: dict, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        locate.score(located, {"mid_block": np.array([0.1, 0.2])})


def test_places_are_ranked_over_all_blocks_together() -> None:
    measured = {"a": np.array([0.1, 0.2]), "b": np.array([0.3, 0.4])}
    found = locate.score({"a": [0.2, 0.3], "b": [0.4, 0.6]}, measured)
    assert found["correlation"].value == pytest.approx(1)
    assert found["error"].value == pytest.approx(0.125)
    assert locate.score({"a": [0, 0], "b": [0, 0]}, measured)["correlation"].value == 0


# ------------------------------------------------------------------------------------------
# The board


def test_ranks_are_apart_only_where_the_resamples_are() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=400)
    found = {
        "first": shared + 1.0 + 0.1 * rng.normal(size=400),  # paired: the noise is shared
        "second": shared + 0.5 + 0.1 * rng.normal(size=400),
        "third": shared + 0.45 + 0.1 * rng.normal(size=400),
        "unreached": np.full(400, -np.inf),
    }
    assert board.ranks(found) == {
        "first": (1, 1),
        "second": (2, 3),
        "third": (2, 3),
        "unreached": (4, 4),
    }


def test_a_row_that_was_not_reached_ranks_last(tmp_path: Path) -> None:
    rows = []
    for name, figure in {"a": metrics.mean([0.5, 0.6, 0.7]), "b": metrics.NOTHING}.items():
        folder = submission(tmp_path / name, "def towards(task): ...")
        figures = {"portraits": {"steer": {"kept": figure, "leak": metrics.NOTHING}}}
        rows.append(board.row(Submission.read(folder), figures, {"seconds": 1}))
        board.save(rows[-1], tmp_path / "rows")
    assert board.load(tmp_path / "rows") == json.loads(json.dumps(rows))
    found = board.draws(rows, "portraits", "steer")
    assert board.ranks(found) == {"a": (1, 1), "b": (2, 2)}
    text = leaderboard.body(rows)
    assert text.index("0.60 [") < text.index("–")
    assert ">subject\n<select" not in text  # there is one alone
    rows[0]["subjects"]["digits"] = rows[0]["subjects"]["portraits"]
    assert ">subject\n<select" in leaderboard.body(rows)


def test_rows_of_another_version_are_left_out_and_damaged_ones_named(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps({"version": 0}))
    assert board.load(tmp_path) == []
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ValueError, match=r"torn\.json is no row of the leaderboard"):
        board.load(tmp_path)


# ------------------------------------------------------------------------------------------
# Submissions


def submission(folder: Path, source: str, card: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "method.yml").write_text(f"name: A method\nabout: a test\nby: tests\n{card}")
    if source:
        (folder / "method.py").write_text(textwrap.dedent(source))
    return folder


def test_every_submission_that_ships_can_be_read() -> None:
    folders = [path for path in SUBMISSIONS.iterdir() if path.is_dir()]
    assert len(folders) >= 12
    for folder in folders:
        read = Submission.read(folder)
        assert read.tracks
        assert len((folder / "method.yml").read_text().splitlines()) <= 10
    answered = {track for folder in folders for track in Submission.read(folder).tracks}
    assert answered == set(TRACKS)


@pytest.mark.parametrize(
    ("source", "card", "error"),
    [
        ("", "", "needs a method.py"),
        ("x = 1", "", "must define at least one of located, scores, towards, units"),
        ("def units(given)\n", "", "method.py cannot be read"),
        ("def units(given): ...", "colour: red\n", "method.yml: colour"),
        ("def units(given): ...", "grid: [a]\n", "method.yml: grid.0"),
        ("def units(given): ...", "grid: []\n", "rising numbers above 0"),
        ("def units(given): ...", "grid: [0, 1]\n", "rising numbers above 0"),
        ("def units(given): ...", "grid: [2, 1]\n", "rising numbers above 0"),
        ("def units(given): ...", "grid: [1, .inf]\n", "rising numbers above 0"),
        ("def units(given): ...", "link: javascript:alert(1)\n", "link must begin with https"),
        ("def units(given): ...", 'link: "https://a\\nb"\n', "link must be one line"),
        ("", "dictionary: {format: pickle, folder: .}\n", "format must be one of"),
        ("", "dictionary: {format: saelens, folder: ../..}\n", "no folder ../.. in it"),
        ("def scores(task): return task.study.subject._judges", "", "may not read _judges"),
        ("def units(g): return __import__('difflens_utils.bench.truth')", "", "may not import"),
        ("def units(given): ...", "name: [\n", "method.yml cannot be read"),
        ("", "row: Nothing\n", "row must be one of"),
        ("", "like: nothing\n", "no method.py in nothing beside"),
        ("", "like: ../method\n", "no method.py in ../method beside"),
        (
            "def scores(task): return task.study.subject.scorer",
            "",
            "line 1: .* may not read scorer",
        ),
        ("def scores(t): return getattr(t.study, 'world')", "", "may not read world"),
        ("from difflens_utils.bench import truth\ndef units(g): ...", "", "may not import"),
        ("import models.sizes\ndef units(g): ...", "", "may not import models"),
    ],
)
def test_bad_submissions_get_one_line(tmp_path: Path, source: str, card: str, error: str) -> None:
    folder = submission(tmp_path / "method", source, card)
    with pytest.raises(ValueError, match=error) as caught:
        Submission.read(folder)
    assert "\n" not in str(caught.value)


def test_folders_that_are_missing_badly_named_or_too_big_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        Submission.read(tmp_path / "nowhere")
    named = submission(tmp_path / "My Method", "def units(g): ...")
    with pytest.raises(ValueError, match="small letters, digits"):
        Submission.read(named)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no method.yml"):
        Submission.read(tmp_path / "empty")
    linked = submission(tmp_path / "linked", "def units(g): ...")
    (linked / "data").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="holds a link, data"):
        Submission.read(linked)
    helped = submission(tmp_path / "helped", "def units(g): ...")
    (helped / "helper.py").write_text("def look(study): return study.world")
    with pytest.raises(ValueError, match="helper.py, line 1: .* may not read world"):
        Submission.read(helped)
    monkeypatch.setattr("difflens_utils.bench.submission.BIGGEST", 10)
    with pytest.raises(ValueError, match="holds more than"):
        Submission.read(submission(tmp_path / "big", "def units(g): ..."))


def test_fingerprint_knows_every_file(tmp_path: Path) -> None:
    folder = submission(tmp_path / "method", "def units(g): ...")
    first = Submission.read(folder).fingerprint()
    assert Submission.read(folder).fingerprint() == first
    (folder / "weights.bin").write_bytes(b"1")
    second = Submission.read(folder).fingerprint()
    (folder / "weights.bin").rename(folder / "other.bin")
    assert len({first, second, Submission.read(folder).fingerprint()}) == 3


def test_a_variant_has_the_code_of_another_and_its_own_options(tmp_path: Path) -> None:
    first = submission(tmp_path / "first", "def units(given): return given.options['x']")
    second = submission(tmp_path / "second", "", "like: first\noptions: {x: 2}\n")
    read = Submission.read(second)
    assert read.tracks == ("recover",)
    assert read.load().units(Given(torch.zeros(1), 0, read.card.options)) == 2
    before = read.fingerprint()
    (first / "method.py").write_text("def units(given): return 3")
    assert Submission.read(second).fingerprint() != before


def test_given_vectors_are_all_of_h_in_another_order() -> None:
    h = torch.arange(2 * 3 * 4 * 2 * 2).reshape(2, 3, 4, 2, 2).half()
    vectors = Given(h, seed=0).vectors
    expected = h.permute(0, 1, 3, 4, 2).reshape(-1, 4).float()
    assert vectors.shape == (24, 4)
    assert not torch.equal(vectors, expected)
    assert sorted(map(tuple, vectors.tolist())) == sorted(map(tuple, expected.tolist()))


def test_frozen_activations_come_back_from_their_file(tmp_path: Path) -> None:
    made = frozen_of(RNG.normal(size=(8, 5)), known(8))
    made.save(tmp_path / "x.safetensors")
    read = Frozen.load(tmp_path / "x.safetensors")
    assert read.classes == FACTORS and read.subject == "made up"
    assert torch.equal(read.h, made.h.half())
    assert torch.equal(read.probes["independent"].labels["age"], known(8)["age"])
    (tmp_path / "x.safetensors").write_bytes(b"1")
    for path in (tmp_path / "x.safetensors", tmp_path / "y.safetensors"):
        with pytest.raises(ValueError, match="holds no frozen activations"):
            Frozen.load(path)


# ------------------------------------------------------------------------------------------
# On a small model


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Arena]:
    """A small U-Net with random weights, with its frozen activations and a measured truth."""
    patch = pytest.MonkeyPatch()
    store = tmp_path_factory.mktemp("store")
    patch.setattr(artifacts, "STORE", store)
    patch.setattr(artifacts, "_verified", set())
    patch.setitem(evaluators.ARCHITECTURES, "shallow", tiny_studies.shallow)
    for name, value in {"TUNED": 6, "REPORTED": 24}.items():
        patch.setattr(fair, name, value)
    for name, value in {"LATENTS": 6, "IMAGES": 4, "PAIRS": 2}.items():
        patch.setattr(truth, name, value)
    for way in frozen.BYTES:
        patch.setitem(frozen.BYTES, way, 40_000)
    torch.manual_seed(0)
    kind = Tiny(
        tiny_studies.unet(),
        {"shape": ("ball", "box"), "shade": ("dark", "light")},
        ["shape", "shade"],
    )
    folder = tiny_studies.write(kind, tmp_path_factory.mktemp("model") / "tiny")
    study = dl.open(folder, device="cpu", n_images=40, steps=2)
    sae = ksae.KSAE(ksae.KSAEConfig(width=12, latents=24, k=4)).requires_grad_(False).eval()
    made = frozen.freeze(study)
    yield Arena(study, made, truth.measure(study, sae, made.h), sae)
    patch.undo()


def test_a_model_that_was_trained_on_is_frozen_anew(subject: Arena, tmp_path: Path) -> None:
    study = subject.study
    folder = Path(shutil.copytree(study.subject.folder, tmp_path / "tiny"))
    weights = next((folder / "unet").glob("*.safetensors"))
    changed = {name: 1.5 * tensor for name, tensor in load_file(weights).items()}
    save_file(changed, weights, {"format": "pt"})
    other = frozen.freeze(dl.open(folder, device="cpu", n_images=40, steps=2))
    assert not torch.equal(other.h, subject.frozen.h)
    assert torch.equal(frozen.freeze(study).h, subject.frozen.h)


def test_probes_are_noised_to_timesteps_of_the_generation(subject: Arena) -> None:
    study = subject.study
    times = study.recording("learn").timesteps
    assert list(times) == pytest.approx(study.subject.times(study.settings.steps))


def test_truth_of_a_latent_is_what_two_edits_do(subject: Arena) -> None:
    found, study = subject.truth, subject.study
    assert found is not None and subject.dictionary is not None
    latent = found.latents[2:3]
    seen = [
        study.draw(edits.steer(subject.dictionary, latent, beta), n=4, seed=MEASURED)
        for beta in (0.0, 3.0)
    ]
    odds = [np.log(p / p[:, ::-1]) for p in (o.scored["shape"].double().numpy() for o in seen)]
    assert found.effects[:, 2].numpy() == pytest.approx((odds[1] - odds[0]).mean(0), rel=1e-4)


def test_what_passes_a_block_is_the_indirect_effect_of_notebook_03(subject: Arena) -> None:
    assert subject.truth is not None
    study = subject.study
    moved: Mediation = study.mediated("shape", 0, 1, 2)
    assert subject.truth.passed["mid_block"] == pytest.approx(moved.through.mean(1).numpy())
    assert set(subject.truth.passed) == set(study.blocks)


def test_truth_comes_back_from_its_file(subject: Arena, tmp_path: Path) -> None:
    assert subject.truth is not None
    subject.truth.save(tmp_path / "t.json", "command")
    read = truth.Truth.load(tmp_path / "t.json")
    assert torch.allclose(read.halves, subject.truth.halves, atol=1e-5)
    assert read.passed["mid_block"] == pytest.approx(subject.truth.passed["mid_block"], abs=1e-4)
    (tmp_path / "t.json").write_text(json.dumps({"version": 0}))
    with pytest.raises(ValueError, match="holds no truth"):
        truth.Truth.load(tmp_path / "t.json")


FUNCTIONS = """
    import torch

    def units(given):
        mean = given.vectors.mean(0)
        return lambda x: torch.cat([(x - mean).relu(), (mean - x).relu()], -1)

    def scores(task):
        active = task.dictionary.latents(task.h.float().mean(1).flatten(2).transpose(1, 2))
        mean = active.mean(1)
        return torch.stack([mean[task.labels == c].sum(0) for c in range(len(task.classes))])

    def towards(task):
        images = task.draw(4, seed=1)
        assert task.read(images)["shape"].shape == (4, 2)
        return lambda c, strength: lambda h, step: h + strength * (2 * c - 1)

    def located(task):
        return {block: torch.linspace(0, 1, task.h.shape[1]) for block in task.blocks}
"""
CLASSES = """
    from helper import Pushed

    class Units:
        def __init__(self, given):
            self.scale = given.options["scale"]

        def __call__(self, x):
            return x * self.scale

    def units(given):
        return Units(given)

    def towards(task):
        return Pushed(task)
"""
HELPER = """
from difflens_utils import edits

class Pushed:
    def __init__(self, task):
        h = task.h.float()
        self.gaps = [h[task.labels == c].mean(0) - h.mean(0) for c in range(len(task.classes))]

    def __call__(self, c, strength):
        return edits.push(self.gaps[c], strength)
"""


def test_two_submissions_in_different_styles_get_their_rows(subject: Arena, tmp_path: Path) -> None:
    first = submission(tmp_path / "functions", FUNCTIONS, "grid: [1.0, 4.0]\n")
    second = submission(tmp_path / "classes", CLASSES, "options: {scale: 2.0}\nasymmetric: false\n")
    (second / "helper.py").write_text(HELPER)
    rows = []
    for folder in (first, second):
        read = Submission.read(folder)
        figures = {"digits": Entry(read, subject).figures()}
        rows.append(board.row(read, figures, {}))
    assert set(rows[0]["subjects"]["digits"]) == set(TRACKS)
    assert set(rows[1]["subjects"]["digits"]) == {"recover", "steer", "balance"}
    recovered = rows[0]["subjects"]["digits"]["recover"]
    assert {"mcc", "mcc_planted", "coverage", "disentanglement"} <= set(recovered)
    assert "mcc_reversed" not in recovered  # nobody can draw what labelled images do not hold
    text = submit.shown(rows[1], rows[:1])
    assert "recover" in text and "of 2" in text
    assert "of 1" in submit.shown(rows[0], []).splitlines()[0]


def test_weights_of_another_library_need_no_code(subject: Arena, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    submission(folder, "", "dictionary: {format: sparsify, folder: sae}\n")
    (folder / "sae").mkdir()
    options = {"d_in": 12, "num_latents": 16, "k": 4}
    (folder / "sae/cfg.json").write_text(json.dumps(options))
    weights = {"encoder.weight": torch.randn(16, 12), "encoder.bias": torch.zeros(16)}
    weights |= {"W_dec": torch.randn(16, 12), "b_dec": torch.zeros(12)}
    save_file(weights, folder / "sae/sae.safetensors")
    found = Entry(Submission.read(folder), subject).figures()
    assert list(found) == ["recover"]
    kept = foreign.load(folder / "sae", "sparsify")
    expected = recover.score(kept.latents, subject.frozen)
    assert found["recover"]["mcc"].value == expected["mcc"].value
    (folder / "sae/sae.safetensors").write_bytes(b"1")
    with pytest.raises(ValueError, match="weights, recover, "):
        Entry(Submission.read(folder), subject).figures()


CHEATS = {
    "scorer in the method": "def scores(task):\n    return task.study.many",
    "scorer in an edit": """
        def towards(task):
            images = task.draw(2, seed=1)
            return lambda c, s: lambda h, step: task.study.judge(images) and None
    """,
    "second CLIP": """
        def scores(task):
            parts = vars(type(task.study.subject))
            return parts["second" + "_clip"].fget(task.study.subject)
    """,
    "scorer behind a try": """
        def scores(task):
            try:
                task.study.judge(task.draw(2, seed=1))
            except RuntimeError:
                pass
            return torch.zeros(2, 24)
        import torch
    """,
    "a seed behind a try": """
        def towards(task):
            try:
                task.draw(2, seed=6001)
            except RuntimeError:
                pass
            return lambda c, s: lambda h, step: None
    """,
    "scorer in what is returned": """
        class Late:
            def __init__(self, task):
                self.task = task
            def __array__(self, *args, **kwargs):
                self.task.study.judge(self.task.draw(2, seed=1))
        def scores(task):
            return Late(task)
    """,
    "seeds of the search": "def scores(task):\n    return task.draw(2, seed=6000)",
    "planted factors": "def scores(task):\n    return task.study.subject.data",
    "planted factors by a stage": """
        def located(task):
            moved = task.study.swept("shade", 0, 1, 2, task.blocks)
            return {block: moved[block].through.mean(1) for block in task.blocks}
    """,
    "images of the data by a stage": """
        def scores(task):
            return task.study.factor_set(8).h
    """,
    "a stage that the store may have": """
        def scores(task):
            from difflens_utils import outcome
            subject = task.study.subject
            return outcome.draw(subject, None, 24, 6001, task.study.settings.steps)
    """,
    "what the study has looked at": "def scores(task):\n    return task.study.base",
    "seeds of the report": "def scores(task):\n    return task.draw(2, seed=6001)",
    "seeds of the book": "def scores(task):\n    return task.draw(2, seed=3105)",
    "seeds of the truth": "def scores(task):\n    return task.draw(2, seed=6010)",
}


@pytest.mark.parametrize("name", CHEATS)
def test_who_looks_at_what_measures_results_is_refused(
    name: str, subject: Arena, tmp_path: Path
) -> None:
    folder = submission(tmp_path / "cheat", CHEATS[name])
    with pytest.raises(ValueError, match="which measures results|is reserved") as caught:
        Entry(Submission.read(folder), subject).figures()
    assert "\n" not in str(caught.value)


def test_reserved_seeds_are_those_of_reports() -> None:
    seeds = dl.Seeds()
    assert {seeds.report, seeds.held_out, MEASURED, *CURRENT, *of(2)} <= reserved()
    assert not {seeds.main, seeds.tuning} & reserved()


def test_outside_of_the_block_everything_may_be_read(subject: Arena) -> None:
    with pytest.raises(RuntimeError), blind("x"):
        _ = subject.study.subject.scorer
    assert subject.study.subject.scorer is not None


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def units(given): return 3", "units must return a function"),
        ("def scores(task): return [[0.0]]", r"scores must be \(2, 24\)"),
        ("def towards(task): return 3", "towards must return a function"),
        ("def towards(task): return lambda c, s: 3", "must make an edit"),
        ("def towards(task): return lambda c, s: lambda h, t: 3", "must return h or None"),
        ("def towards(task): return lambda c, s: lambda h, t: h[:1]", "must keep"),
        ("def located(task): return {}", "must name block"),
        ("def scores(task): return 1 / 0", "ZeroDivisionError"),
        ("def scores(task): raise SystemExit(0)", "SystemExit"),
        ("def located(task): return [1]", "must return {block: effects}"),
    ],
)
def test_answers_of_a_wrong_kind_get_one_line(
    source: str, error: str, subject: Arena, tmp_path: Path
) -> None:
    folder = submission(tmp_path / "wrong", source)
    with pytest.raises(ValueError, match=error) as caught:
        Entry(Submission.read(folder), subject).figures()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("wrong, ")


def test_an_edit_that_does_nothing_keeps_all_and_removes_nothing(
    subject: Arena, tmp_path: Path
) -> None:
    folder = submission(
        tmp_path / "still", "def towards(task): return lambda c, s: lambda h, t: None"
    )
    entry = Entry(Submission.read(folder), subject)
    assert entry.figures()["steer"]["kept"].value == 0  # it never comes to half of the FD
    edit = entry._method().towards(0, 1.0)
    plain, edited = (subject.study.draw(e, n=24, seed=CURRENT.report) for e in (None, edit))
    assert torch.equal(edited.images, plain.images)
    assert torch.equal(entry._tried.unedited.images, plain.images)


def test_a_model_without_a_k_sae_has_the_tracks_that_need_none(
    subject: Arena, tmp_path: Path
) -> None:
    known = truth.measure(subject.study, None, subject.frozen.h)
    known.save(tmp_path / "truth.json", "a command")
    read = truth.Truth.load(tmp_path / "truth.json")
    assert read.ksae == "" and len(read.latents) == 0
    for block, shares in known.passed.items():
        assert read.passed[block] == pytest.approx(subject.truth.passed[block], abs=1e-4)
        assert shares == pytest.approx(subject.truth.passed[block])
    source = """
        def units(given):
            return lambda x: x
        def located(task):
            assert task.dictionary is None
            return {block: range(2) for block in task.blocks}
        def scores(task):
            return 1 / 0
    """
    plain = replace(subject, truth=read, dictionary=None)
    figures = Entry(Submission.read(submission(tmp_path / "open", source)), plain).figures()
    assert list(figures) == ["recover", "locate"]


def test_the_next_version_has_other_images(
    subject: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "def towards(task): return lambda c, s: lambda h, step: h + s"
    read = Submission.read(submission(tmp_path / "next", source))
    now, then = (Entry(read, replace(subject, seeds=of(stream))) for stream in (1, 1234))
    images = [entry._tried.unedited.images for entry in (now, then)]
    assert not torch.equal(*images)
    tuned = []
    respond = fair.debiasing.respond
    monkeypatch.setattr(
        fair.debiasing, "respond", lambda *a, **k: tuned.append(k["seed"]) or respond(*a, **k)
    )
    assert Entry(read, then.subject)._tried.seed == of(1234).report
    assert tuned == [of(1234).tuning]


def test_what_a_method_learns_from_is_resampled_with_its_labels(
    subject: Arena, tmp_path: Path
) -> None:
    source = """
        def towards(task):
            mean = task.h[:, 0].float().mean(0)
            return lambda c, s: lambda h, step: h + s * mean
    """
    read = Submission.read(submission(tmp_path / "mean", source))
    once, again, whole = (Entry(read, replace(subject, resample=seed)) for seed in (1, 1, None))
    task, rows = once._task, once.subject.images
    assert len(rows.unique()) < len(rows) == len(subject.frozen.h)
    assert torch.equal(task.h, subject.frozen.h[rows])
    assert torch.equal(task.labels, whole._task.labels[rows])
    assert torch.equal(task.images, whole._task.images[rows])
    recorded = subject.study.recording("learn").images
    assert torch.equal(whole._task.images, recorded[: len(rows)])
    drawn = [
        subject.study.draw(each._method().towards(0, 1.0), n=2, seed=5).images
        for each in (once, again, whole)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])  # each is stored under a key of its own


def test_a_stored_image_knows_the_options_of_its_submission(subject: Arena, tmp_path: Path) -> None:
    source = """
        def towards(task):
            by = task.options["by"]
            return lambda c, s: lambda h, step: h + by * s
    """
    read = Submission.read(submission(tmp_path / "by", source, "options: {by: 1.0}\n"))
    other = replace(read, card=replace(read.card, options={"by": 50.0}))
    images = []
    for each in (read, other):
        method = Entry(each, subject)._method()
        images.append(subject.study.draw(method.towards(0, 1.0), n=2, seed=5).images)
    assert not torch.equal(*images)


# ------------------------------------------------------------------------------------------
# The command


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([""], "name the folder"),
        (["submissions/nowhere"], "there is no folder submissions/nowhere"),
        (["submissions/pca", "--subject", "horses"], "subject must be among"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(
    arguments: list[str], error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["submit", *arguments])
    with pytest.raises(SystemExit, match=error):
        submit.main()


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("sleep 5", r"slow, digits: not done after the 0 s that were left"),
        ("echo first >&2; echo it went wrong >&2; exit 3", "^it went wrong$"),
        ("kill -9 $$", "exit code -9"),
        ("exit 0", "it ended without an answer"),
    ],
)
def test_a_process_that_takes_too_long_or_dies_is_named(
    script: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(submit.sys, "executable", str(program))
    folder = submission(tmp_path / "slow", "def units(g): ...")
    with pytest.raises(ValueError, match=error):
        submit.run(folder, "digits", time.monotonic() + 0.4)


def test_figures_cross_from_process_to_process_as_they_are() -> None:
    for estimate in (metrics.mean([1.0, 2.0]), metrics.NOTHING, metrics.wilson(1, 3)):
        plain = json.loads(json.dumps(submit._numbers(estimate)))
        again = submit._estimate(plain)
        assert str(again) == str(estimate) and again.n == estimate.n
        assert (again.draws is None) == (estimate.draws is None)
        if estimate.draws is not None:
            assert np.array_equal(again.draws, estimate.draws)


def test_what_others_wrote_stays_in_its_cell(tmp_path: Path) -> None:
    folder = submission(tmp_path / "html", "def scores(task): ...")
    figures = {"digits": {"attribute": {"correlation": metrics.mean([0.5, 0.6])}}}
    row = board.row(Submission.read(folder), figures, {})
    row |= {"name": "<b>", "about": "x\n```\n# y", "link": "javascript:alert(1)"}
    bad = row | {"submission": leaderboard.BAD[0]}
    for text in (leaderboard.body([row]), leaderboard.first([row]), leaderboard.bad([bad])):
        assert "&lt;b&gt;" in text
        assert "<b>" not in text and "javascript" not in text
        assert "\n```" not in text


def test_the_ranks_of_what_was_thought_to_be_bad_stand_by_track(tmp_path: Path) -> None:
    def row(slug: str, values: list[float]) -> board.Row:
        folder = submission(tmp_path / slug, "def units(given): ...")
        figures = {"digits": {"recover": {"mcc": metrics.mean(values)}}}
        return board.row(Submission.read(folder), figures, {})

    rows = [row("random-units", [0.1, 0.2]), row("good", [0.8, 0.9]), row("worse", [0.0, 0.01])]
    name = rows[0]["name"]
    lines = leaderboard.bad(rows).splitlines()
    assert lines[0] == "| track | method | `digits` |"
    assert lines[2:] == [f"| recover | {name} | 2 of 3 |"]
    assert leaderboard.first(rows).splitlines()[2] == f"| recover | `digits` | {rows[1]['name']} |"
    twins = [rows[1] | {"submission": str(i), "name": f"twin {i}"} for i in range(5)]
    assert "| recover | `digits` | twin 0; twin 1; twin 2; 2 more |" in leaderboard.first(twins)


def test_the_table_of_reliability_has_what_was_measured() -> None:
    row = {
        "track": "attribute",
        "subject": "digits",
        "noise": 0.01,
        "ceiling": 0.58,
        "grows_with": "n: 16, 48",
        "correlation": None,
        "good": "a",
        "good_value": 0.5,
        "bad": "b",
        "bad_value": 0.1,
        "apart": 0.99,
    }
    text = leaderboard.reliability(
        {"version": 1, "command": "x", "rows": [row, row | {"ceiling": None}]}
    )
    assert "| attribute | `digits` | 0.010 | 0.58 | n: 16, 48 | – | a 0.50, b 0.10: 99% |" in text
    assert "| 0.010 | – |" in text


def test_good_lies_above_bad_in_a_share_of_the_resamples() -> None:
    good, bad = metrics.mean([0.4, 0.6, 0.8]), metrics.mean([0.5, 0.5, 0.5])
    assert good.draws is not None
    assert reliability._apart(good, bad) == (good.draws > 0.5).mean()
    assert reliability._apart(metrics.NOTHING, bad) == 0
