"""The pages of notebooks 04 and 05: the records that their rules name, against numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny_studies
import torch
from test_all_notebooks import prepare

from difflens_utils import attribution, features
from difflens_utils.analysis import factors
from difflens_utils.metrics import Estimate
from difflens_utils.pages import Page, rules
from difflens_utils.pages.attribution import CLEAR, SETS
from difflens_utils.study import Study

mpl.use("Agg")

NOTEBOOKS = ("04_attribution", "05_interventions")
RESAMPLES = 50  # of these studies (`prepare`)

pytestmark = pytest.mark.filterwarnings("ignore")  # of so few images scikit-learn warns


class Pages(NamedTuple):
    """The pages of a tiny study whose notebooks 04 and 05 have run."""

    by_notebook: dict[str, Page]

    @property
    def figures(self) -> dict[str, Estimate]:
        made = [page.results.figures for page in self.by_notebook.values()]
        return {name: figure for figures in made for name, figure in figures.items()}

    @property
    def study(self) -> Study:
        return self.by_notebook["04_attribution"].study

    @property
    def attributes(self) -> Sequence[str]:
        return self.study.subject.attributes


@pytest.fixture(scope="module")
def pages(
    one_thread: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pages]:
    made: dict[str, Page] = {}
    summary = Page.summary

    def seen(page: Page) -> Any:
        made[page.results.notebook] = page
        return summary(page)

    with pytest.MonkeyPatch.context() as patch:
        ready = prepare(request.param, tmp_path_factory.mktemp("pages"), patch)
        patch.setattr(Page, "summary", seen)
        for notebook in NOTEBOOKS:
            tiny_studies.run(notebook, ready.values(notebook))
            plt.close("all")
        yield Pages(made)


def of(*kinds: str) -> pytest.MarkDecorator:
    """Runs a test on the pages of studies of some kinds."""
    return pytest.mark.parametrize("pages", kinds, indirect=True)


@of("a transformer")
def test_every_rule_finds_its_records(pages: Pages) -> None:
    for rule in rules.RULES:
        if rule.notebook in NOTEBOOKS:
            found = rule.matches(pages.by_notebook[rule.notebook].results.figures)
            assert found, rule.record
            if "{attribute}" in rule.record:
                assert {dict(words)["attribute"] for words in found} == set(pages.attributes)


KINDS = (
    "a transformer",
    "prompts",
    "one attribute",
    "a class-conditional U-Net",
    "classes that are never generated",
)


@of(*KINDS)
def test_what_is_judged_has_resamples_and_lies_in_its_interval(pages: Pages) -> None:
    for page in pages.by_notebook.values():
        judged = page.results.verdicts()
        assert judged and len(page.verdicts()) == len(judged)
        for record in [record for verdict in judged for record in verdict.records]:
            figure = page.results.figures[record]
            if record != "attribution.completeness_gap":
                assert figure.draws is not None and np.isfinite(figure.draws).all(), record
                assert figure.low <= figure.value <= figure.high, record


# ------------------------------------------------------------------------------------------
# 04


def classes_of(pages: Pages) -> Iterator[tuple[str, int, str]]:
    """Every class of every attribute: the attribute, the number, and the name."""
    for attribute in pages.study.attributes:
        for c, label in enumerate(attribute.classes):
            yield str(attribute), c, label


def rows(n: int) -> list[np.ndarray]:
    """The images, or features, of each resample."""
    rng = np.random.default_rng(0)
    return [rng.integers(n, size=n) for _ in range(RESAMPLES)]


def moved(draws: Sequence[float], value: float) -> np.ndarray:
    """Resamples, moved until their mean is the value."""
    return np.array(draws) - np.mean(draws) + value


@of("a transformer")
def test_a_sign_is_right_where_moving_a_candidate_makes_its_class_likelier(pages: Pages) -> None:
    study, found = pages.study, pages.study.features()
    for attribute, c, label in classes_of(pages):
        scores = found.scores[attribute][c]
        tried = attribution.select(scores, 3, found.density, study.settings.max_density)
        unit = found.gaps[attribute][c][..., tried]
        effect = study.measured(found.ksae, attribute, c, tried, unit)
        assert len(tried)
        figure = pages.figures[f"attribution.{attribute}.sign_right.{label}"]
        assert figure.value == pytest.approx((effect.gains.mean(1) > 0).float().mean().item())


@of("a transformer")
def test_features_that_move_their_class_are_counted_on_images_of_their_own(pages: Pages) -> None:
    study, found = pages.study, pages.study.features()
    for attribute, c, label in classes_of(pages):
        chosen = found.features[attribute][c]
        unit = found.gaps[attribute][c][..., chosen]
        gains = study.measured(found.ksae, attribute, c, chosen, unit, again=True).gains.numpy()
        first = study.measured(found.ksae, attribute, c, chosen, unit).gains.numpy()
        assert gains.shape == first.shape == (len(chosen), 2)
        assert not len(chosen) or not np.array_equal(gains, first)

        def count(images: np.ndarray, gains: np.ndarray = gains) -> int:
            drawn = gains[:, images].astype(float)
            error = drawn.std(1, ddof=1) / len(images) ** 0.5
            return int((drawn.mean(1) > 2 * error).sum())

        figure = pages.figures[f"attribution.{attribute}.moving.{label}"]
        assert figure.value == count(np.arange(2))
        draws = moved([count(images) for images in rows(2)], figure.value)
        np.testing.assert_allclose(figure.draws, draws, atol=1e-9)


@of("classes that are never generated")
def test_a_class_without_features_has_none_that_move_it(pages: Pages) -> None:
    figure = pages.figures["attribution.tint.moving.dark"]
    assert figure.value == 0 and len(figure.draws) == RESAMPLES and not figure.draws.any()
    assert "attribution.tint.sign_right.dark" not in pages.figures


@of("a transformer")
def test_attributes_share_more_features_than_random_sets_by_the_excess(pages: Pages) -> None:
    study, found = pages.study, pages.study.features()
    sets = {a: {j for row in found.features[a] for j in row.tolist()} for a in pages.attributes}
    shared = {j for a in sets for b in sets if a != b for j in sets[a] & sets[b]}
    assert shared
    by_chance = []
    for r in range(SETS):
        counts = np.zeros(len(found.density), int)
        for number, own in enumerate(sets.values()):
            seed = study.seeds.main + r + SETS * number
            drawn = features.random_set(torch.tensor(sorted(own)), found.density, seed)
            assert len(set(drawn.tolist())) == len(own)
            counts[drawn.numpy()] += 1
        by_chance.append((counts > 1).sum())
    figure = pages.figures["attribution.shared.excess"]
    assert figure.value == pytest.approx(len(shared) - np.mean(by_chance))
    np.testing.assert_allclose(figure.draws, len(shared) - np.array(by_chance), atol=1e-9)


@of("a transformer")
def test_a_shared_feature_counts_if_one_move_of_it_moves_all_its_attributes(pages: Pages) -> None:
    study, found = pages.study, pages.study.features()
    sets = {a: {j for row in found.features[a] for j in row.tolist()} for a in pages.attributes}
    flags = []
    for j in range(len(found.density)):
        owners = [a for a in sets if j in sets[a]]
        if len(owners) < 2:
            continue
        best = {}
        for a in owners:
            lists = [row.tolist() for row in found.features[a]]
            best[a] = min((row.index(j), c) for c, row in enumerate(lists) if j in row)
        leading = min(owners, key=lambda a, best=best: best[a])
        unit = found.gaps[leading][best[leading][1]][..., [j]]
        chosen = torch.tensor([j])
        effects = [
            study.measured(found.ksae, a, best[a][1], chosen, unit, again=True) for a in owners
        ]
        flags.append(all(abs(e.mean.item()) > 2 * e.error.item() for e in effects))
    assert flags
    assert pages.figures["attribution.shared.both"].value == pytest.approx(np.mean(flags))


@of("one attribute")
def test_a_single_attribute_shares_nothing(pages: Pages) -> None:
    assert not any(name.startswith("attribution.shared") for name in pages.figures)


@of("a transformer")
def test_features_cover_the_causes_that_one_of_them_tells(pages: Pages) -> None:
    study, found = pages.study, pages.study.features()
    told = pages.by_notebook["04_attribution"].told
    for attribute in pages.attributes:
        causes = [attribute, *study.world.effects(attribute)]
        chosen = torch.cat(found.features[attribute]).unique()
        tracks = np.array([[told[cause][j] >= CLEAR for cause in causes] for j in range(24)])
        random = [
            features.random_features(chosen, found.density, study.seeds.main + r, chosen).tolist()
            for r in range(SETS)
        ]
        record = f"attribution.{attribute}"
        own = tracks[chosen.numpy()]
        coverage = pages.figures[f"{record}.coverage"]
        assert coverage.value == pytest.approx(own.any(0).mean())
        draws = moved([own[j].any(0).mean() for j in rows(len(own))], coverage.value)
        np.testing.assert_allclose(coverage.draws, draws, atol=1e-9)
        at_random = pages.figures[f"{record}.coverage_random"]
        np.testing.assert_allclose(
            at_random.draws, [tracks[latents].any(0).mean() for latents in random], atol=1e-9
        )
        gain = own.any(1).mean() - np.mean([tracks[latents].any(1).mean() for latents in random])
        assert pages.figures[f"{record}.precision.gain"].value == pytest.approx(gain)


def test_a_unit_tells_a_factor_by_its_best_class_and_h_by_a_linear_function() -> None:
    rng = np.random.default_rng(0)
    tint, edge = rng.integers(3, size=200), rng.integers(2, size=200)
    classes = {"tint": ("dark", "grey", "light"), "edge": ("no", "yes")}
    labels = {"tint": torch.tensor(tint), "edge": torch.tensor(edge)}
    noise = rng.normal(size=200)
    response = np.stack([tint == 2, noise], 1).astype(float)
    told = factors.told(response, labels, classes)
    assert told["tint"][0] == 1 and told["edge"][0] < 0.65 and told["tint"][1] < 0.65
    spread = np.stack([edge + 4 * noise, noise, rng.normal(size=200)], 1)  # edge is in no column
    assert factors.told(spread, labels, classes)["edge"].max() < 0.65
    h = torch.tensor(spread).reshape(1, 200, 3, 1, 1)
    read = factors.read_linearly(factors.FactorSet(h, labels, (100,)), classes)
    assert read["edge"] > 0.99 and read["tint"] < 0.7


def test_a_factor_that_no_held_out_image_lacks_is_not_read() -> None:
    labels = {"edge": torch.tensor([0, 1, 0, 1, 1, 0, 1, 1])}  # of images 3 and 7 both have it
    probe = factors.FactorSet(torch.randn(1, 8, 2, 1, 1), labels, (100,))
    assert np.isnan(factors.read_linearly(probe, {"edge": ("no", "yes")})["edge"])


# ------------------------------------------------------------------------------------------
# 05


@of("a transformer")
def test_a_reversed_ratio_exchanges_the_commonest_and_the_rarest_class(pages: Pages) -> None:
    page, study = pages.by_notebook["05_interventions"], pages.study
    first, *others = study.attributes
    assert page.asked(first) == [pytest.approx(0.3), 0.7]
    for attribute in others:
        planted, asked = study.planted(attribute).tolist(), page.asked(attribute)
        assert sorted(asked) == pytest.approx(sorted(planted))
        assert asked[int(np.argmax(planted))] == pytest.approx(min(planted))
        assert asked[int(np.argmin(planted))] == pytest.approx(max(planted))


@of("a transformer")
def test_a_ratio_is_measured_against_what_was_asked_and_leaks_on_the_same_images(
    pages: Pages,
) -> None:
    page, study = pages.by_notebook["05_interventions"], pages.study
    n = page.sizes["n_final"]
    fresh = study.draw(n=n)
    for attribute in study.attributes:
        target = page.asked(attribute)
        mixtures = {}
        for method in (page.ours(attribute), *page.baselines(attribute)):
            search = study.retarget(study.search(method, attribute), target)
            mixtures[method.key] = study.debias(search, target, n=n).mixture
        scale = study.scale(attribute, fresh, target)
        record = f"interventions.reversed.{attribute}"
        squared = scale.fd_squared(mixtures["difflens"]).value
        fd = pages.figures[f"{record}.fd"].value
        assert fd == pytest.approx(np.sign(squared) * abs(squared) ** 0.5)
        worst = scale.leak(mixtures["difflens"], worst=True)
        assert pages.figures[f"{record}.leak_worst"].value == pytest.approx(worst.value)
        ours = scale.leak(mixtures["difflens"])
        for rival in ("latent_editing", "h_distribution"):
            theirs, saved = (
                scale.leak(mixtures[rival]),
                pages.figures[f"{record}.leak_saved.{rival}"],
            )
            assert saved.value == pytest.approx(theirs.value - ours.value)
            draws = moved(theirs.draws - ours.draws, saved.value)
            np.testing.assert_allclose(saved.draws, draws, atol=1e-9)


@of("a transformer")
def test_the_class_that_gains_most_stands_for_its_attribute(pages: Pages) -> None:
    page, study = pages.by_notebook["05_interventions"], pages.study
    n = page.sizes["n_curve"] // 2
    fresh = study.draw(n=page.sizes["n_final"])
    for attribute in pages.attributes:
        method, gains = page.ours(attribute), []
        before = fresh.scored[attribute][:n].argmax(-1)
        for c in page.found.steerable(attribute):
            edited = study.draw(method.towards(c, page.sizes["strong"]), n=n)
            after = edited.scored[attribute].argmax(-1)
            gains.append(((after == c).double() - (before == c).double()).mean().item())
        figure = pages.figures[f"interventions.most.{attribute}.gain"]
        assert figure.value == pytest.approx(max(gains))


@of("a transformer")
def test_agreement_is_lost_image_by_image(pages: Pages) -> None:
    page, study = pages.by_notebook["05_interventions"], pages.study
    fresh = study.draw(n=page.sizes["n_final"])
    start = fresh.agreement(page.attribute)
    for label in page.attribute.classes:
        loss = pages.figures[f"interventions.{label}.agreement_loss"]
        end = pages.figures[f"interventions.{label}.agreement"]
        assert loss.value == pytest.approx(start.value - end.value)
        np.testing.assert_allclose(loss.draws, moved(start.draws - end.draws, loss.value))
