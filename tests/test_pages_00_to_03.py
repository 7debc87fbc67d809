"""The pages of notebooks 00 to 03: the records that their rules name, against numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny_studies
import torch
from test_all_notebooks import prepare

from difflens_utils import recording
from difflens_utils.metrics import Estimate
from difflens_utils.pages import Page, polysemanticity, rules
from difflens_utils.pages.probes import STATED
from difflens_utils.study import Study

mpl.use("Agg")

NOTEBOOKS = ("00_bias", "01_polysemanticity", "02_ksae", "03_probes")
RESAMPLES = 50  # of these studies (`prepare`)

pytestmark = pytest.mark.filterwarnings("ignore")  # of so few images scikit-learn warns


class Pages(NamedTuple):
    """The pages of a tiny study whose first four notebooks have run."""

    by_notebook: dict[str, Page]

    @property
    def figures(self) -> dict[str, Estimate]:
        made = [page.results.figures for page in self.by_notebook.values()]
        return {name: figure for figures in made for name, figure in figures.items()}

    @property
    def study(self) -> Study:
        return self.by_notebook["00_bias"].study

    @property
    def attributes(self) -> Sequence[str]:
        return self.study.subject.attributes


@pytest.fixture(scope="module")
def pages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pages]:
    made: dict[str, Page] = {}
    summary = Page.summary

    def seen(page: Page) -> Any:
        made[page.results.notebook] = page
        return summary(page)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        ready = prepare(request.param, tmp_path_factory.mktemp("pages"), patch)
        ready = ready._replace(sizes=ready.sizes | {"threshold": 0.6})
        patch.setattr(Page, "summary", seen)
        for notebook in NOTEBOOKS:
            tiny_studies.run(notebook, ready.values(notebook))
            plt.close("all")
        yield Pages(made)
    torch.set_num_threads(threads)


def of(*kinds: str) -> pytest.MarkDecorator:
    """Runs a test on the pages of studies of some kinds."""
    return pytest.mark.parametrize("pages", kinds, indirect=True)


def rows(n: int, seed: int = 0) -> list[np.ndarray]:
    """The images, or units, of each resample."""
    rng = np.random.default_rng(seed)
    return [rng.integers(n, size=n) for _ in range(RESAMPLES)]


def means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mean of each resample, moved until their mean is that of the values."""
    drawn = np.array([values[chosen].mean() for chosen in rows(len(values), seed)])
    return drawn - drawn.mean() + values.mean()


# ------------------------------------------------------------------------------------------
# All four


@of("a transformer")
def test_every_rule_finds_its_records(pages: Pages) -> None:
    for rule in rules.RULES:
        if rule.notebook in NOTEBOOKS:
            found = rule.matches(pages.by_notebook[rule.notebook].results.figures)
            assert found, rule.record
            if "{attribute}" in rule.record:
                assert {dict(words)["attribute"] for words in found} == set(pages.attributes)


@of("a transformer", "prompts", "one attribute")
def test_what_is_judged_has_resamples_and_lies_in_its_interval(pages: Pages) -> None:
    assert pages.by_notebook["02_ksae"].results.verdicts()
    for page in pages.by_notebook.values():
        judged = page.results.verdicts()
        assert len(page.verdicts()) == len(judged)
        for record in [record for verdict in judged for record in verdict.records]:
            figure = page.results.figures[record]
            assert figure.draws is not None and np.isfinite(figure.draws).all(), record
            assert figure.low <= figure.value <= figure.high, record


@of("a transformer")
def test_a_page_says_how_it_is_decided(pages: Pages) -> None:
    table = pages.by_notebook["00_bias"].verdicts()
    row = table.loc["the unedited model is biased in shape"]
    figure = pages.figures["shape.original.fd"]
    share = np.mean((figure.draws > 0.15) == (figure.value > 0.15))
    assert row["measured"] == str(figure) and row["asked"] == "above 0.15"
    decided = "holds" if figure.value > 0.15 else "does not hold"
    assert row["verdict"] == (decided if share >= 0.95 else "undecided")
    assert row["stability"] == f"{share:.0%}"
    assert "(the two evaluators agree on the edge of unedited images)" in table.index


# ------------------------------------------------------------------------------------------
# 00


@of("a transformer", "prompts")
def test_fd_is_squared_distance_less_its_noise_prompt_by_prompt(pages: Pages) -> None:
    study = pages.study
    generated = study.judge(study.recording().images)
    prompt = generated.prompt.numpy()
    assert len(set(prompt)) == 2
    for attribute in pages.attributes:
        p = generated.scored[attribute].double().numpy()
        squares, distances = [], []
        for g in set(prompt):
            own = p[prompt == g]
            distance = ((own.mean(0) - 1 / p.shape[1]) ** 2).sum()
            squares.append(distance - own.var(0, ddof=1).sum() / len(own))
            distances.append(np.sqrt(distance))
        square = np.mean(squares)
        fd = pages.figures[f"{attribute}.original.fd"]
        assert fd.value == pytest.approx(np.sign(square) * np.sqrt(abs(square)), abs=1e-6)
        raw = pages.figures[f"{attribute}.original.fd_raw"]
        assert raw.value == pytest.approx(np.mean(distances), abs=1e-6)
        hard = pages.figures[f"{attribute}.original.fd_hard"]
        shares = [np.bincount(p[prompt == g].argmax(1), minlength=p.shape[1]) for g in set(prompt)]
        gone = [np.linalg.norm(own / own.sum() - 1 / p.shape[1]) for own in shares]
        assert hard.value == pytest.approx(np.mean(gone), abs=1e-6)


# ------------------------------------------------------------------------------------------
# 01


def leads(aurocs: np.ndarray, threshold: float) -> np.ndarray:
    """The selectivity of each unit that tracks a factor, one unit after the other."""
    found = []
    for row in aurocs:
        best, second = sorted(row, reverse=True)[:2]
        if best >= threshold:
            found.append((best - second) / (best - 0.5))
    return np.array(found)


@of("a transformer")
def test_selectivity_is_compared_over_independent_units(pages: Pages) -> None:
    rng = np.random.default_rng(4)
    sizes = {"neurons of h": 30, "k-SAE latents": 50, "rotated neurons": 30}
    scores = {name: rng.uniform(0.5, 1, (count, 3)) for name, count in sizes.items()}
    page = pages.study.page("01_polysemanticity", n_probe=32, threshold=0.8)
    page.tracked(scores)
    neurons, latents = (leads(scores[name], 0.8) for name in list(sizes)[:2])
    gain = page.results.figures["polysemanticity.latents.gain"]
    assert gain.value == pytest.approx(latents.mean() - neurons.mean())
    assert gain.draws == pytest.approx(means(latents, seed=1) - means(neurons, seed=0))
    assert "polysemanticity.neurons.gain" not in page.records
    several = page.results.figures["polysemanticity.neurons.several"]
    counts = (scores["neurons of h"] >= 0.8).sum(1)
    assert several.value == pytest.approx(np.mean(counts[counts > 0] > 1))
    assert several.draws == pytest.approx(means((counts[counts > 0] > 1).astype(float)))


@of("a transformer")
def test_the_lead_in_disentanglement_is_that_of_the_wide_ksae(pages: Pages) -> None:
    figures = pages.figures
    wide = figures["dictionaries.ksae_24.disentanglement"]
    for name in ("neurons", "pca", "ica"):
        dense = figures[f"dictionaries.{name}.disentanglement"]
        gain = figures[f"dictionaries.gain.{name}"]
        assert gain.value == pytest.approx(wide.value - dense.value)
        assert gain.draws == pytest.approx(wide.draws - dense.draws)


# ------------------------------------------------------------------------------------------
# 02


@of("a transformer")
def test_what_a_larger_k_gains_is_measured_image_by_image(pages: Pages) -> None:
    rng = np.random.default_rng(2)
    first, second, third = (rng.normal(size=(10, 6)) for _ in range(3))
    images = {
        name: SimpleNamespace(clip=torch.from_numpy(clip), features=torch.from_numpy(clip[:, :4]))
        for name, clip in {"": first, "k = 1": second, "k = 3": third}.items()
    }
    page = pages.study.page("02_ksae", ks=[1, 3], n_reconstructed=10)
    untouched = images.pop("")
    table = page.table_4(untouched, images)
    cosines = [
        [a @ b / np.sqrt(a @ a * (b @ b)) for a, b in zip(first, other, strict=True)]
        for other in (second, third)
    ]
    change = np.array(cosines[1]) - np.array(cosines[0])
    gain = page.results.figures["reconstruction.gain.k3"]
    assert gain.value == pytest.approx(change.mean())
    assert gain.draws == pytest.approx(means(change))
    assert table["cosine, minus that of the next smaller k"].tolist() == ["", str(gain)]
    assert "reconstruction.gain.k1" not in page.records


@of("a transformer")
def test_what_sharing_costs_is_a_ratio_of_errors_on_held_out_images(pages: Pages) -> None:
    study, figures = pages.study, pages.figures
    recording = study.recording("learn")
    held_out = recording.h[21:].astype(np.float32)  # the last tenth of 24 images
    for step, t in enumerate(recording.timesteps):
        x = torch.from_numpy(held_out[:, step])  # (3, tokens, channels)
        saes = (study.ksae(), study.ksae(step=step, train_steps=1))
        errors = [(x - sae(x)).square().sum((1, 2)).double().numpy() for sae in saes]
        ratio = figures[f"ksae.shared.excess.t{t:.0f}"]
        assert ratio.value == pytest.approx(errors[0].sum() / errors[1].sum(), rel=1e-4)
        shared, alone = (figures[f"ksae.{name}.fvu.t{t:.0f}"] for name in ("shared", "alone"))
        varied = (x - x.mean((0, 1))).square().sum().item()
        assert shared.value == pytest.approx(errors[0].sum() / varied, rel=1e-4)
        assert alone.value == pytest.approx(errors[1].sum() / varied, rel=1e-4)
        draws = shared.draws / alone.draws
        assert ratio.draws == pytest.approx(draws - draws.mean() + ratio.value)


@of("one attribute")
def test_where_there_is_one_timestep_its_ksae_is_the_shared_one(pages: Pages) -> None:
    (t,) = pages.study.recording("learn").timesteps
    assert pages.figures[f"ksae.shared.excess.t{t:.0f}"].value == pytest.approx(1)


# ------------------------------------------------------------------------------------------
# 03


@of("prompts")
def test_what_prompts_name_is_not_judged_by_when_it_is_read(pages: Pages) -> None:
    page, study = pages.by_notebook["03_probes"], pages.study
    table = page.readable(study.recording("probe"), study.probes, study.probes["shape"])
    assert "probes.shape.slope" not in page.records and "probes.tint.slope" in page.records
    assert table.loc["shape", "late, minus early"] == STATED
    assert table.loc["tint", "late, minus early"] == str(pages.figures["probes.tint.slope"])
    says = [verdict.says for verdict in page.results.verdicts()]
    assert "tint is read better towards the clean image" in says
    assert "shape is read better towards the clean image" not in says
    assert "shape is read from h better than by naming one class for all images" in says


@of("one attribute")
def test_one_image_and_one_step_tell_nothing_of_the_heads(pages: Pages) -> None:
    records = pages.by_notebook["03_probes"].records
    assert not {"probes.shape.gain", "probes.shape.slope"} & set(records)
    assert "mediation.shape.share" in records


@of("a transformer")
def test_what_passes_h_is_a_share_of_the_whole_effect(pages: Pages) -> None:
    study = pages.study
    shape = study.attribute("shape")
    common, rare = (shape.classes.index(name) for name in ("no", "yes"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording, "record", None)  # which is not needed to know the timesteps
        found = study.mediated("shape", common, rare, 3)
    for name, tensor in {"share": found.through, "control": found.control}.items():
        part, whole = (values[0].double().numpy() for values in (tensor, found.total))
        figure = pages.figures[f"mediation.shape.{name}"]
        assert figure.value == pytest.approx(part.mean() / whole.mean(), rel=1e-5)
        drawn = np.array([part[chosen].mean() / whole[chosen].mean() for chosen in rows(3)])
        assert figure.draws == pytest.approx(drawn - drawn.mean() + figure.value, rel=1e-4)


def test_a_factor_of_many_classes_shows_the_one_that_a_unit_tells() -> None:
    labels = np.arange(80) % 8
    answers = np.where(labels == 5, 3.0, 0.1)
    classes = tuple("abcdefgh")
    found = polysemanticity._by_class(answers, labels, classes)
    assert list(found) == ["f", "all others"]
    assert found["f"].tolist() == [3.0] * 10 and set(found["all others"]) == {0.1}
    few = polysemanticity._by_class(answers, labels % 3, classes[:3])
    assert [len(values) for values in few.values()] == [30, 30, 20]
