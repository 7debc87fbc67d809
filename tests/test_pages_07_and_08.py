"""The pages of notebooks 07 and 08: the records that their rules name, against numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from difflens_utils import methods, metrics
from difflens_utils.analysis.scoring import Scale
from difflens_utils.attribution import Aim, Effect
from difflens_utils.debiasing import Debiased, Mixture, Search
from difflens_utils.features import BiasFeatures
from difflens_utils.ksae import History
from difflens_utils.metrics import Estimate, Strata
from difflens_utils.metrics.estimates import resampled
from difflens_utils.outcome import Outcome
from difflens_utils.pages import Page, ablations, rules
from difflens_utils.pages.ablations import TABLE_3, Ablations, Row
from difflens_utils.pages.multi import Multi
from difflens_utils.settings import Seeds, Settings
from difflens_utils.subjects.attribute import Attribute

mpl.use("Agg")

N = 40
SIZES_07 = {"ks": [16, 64], "counts": [5, 10, 100], "seeds": [1, 2], "n_final": N, "matched": 0.5}
SIZES_08 = {"n_pair": N, "n_final": N, "n_single": 2, "strength_single": 4.0}
CLASSES = {"gender": ("female", "male"), "age": ("young", "adult", "old"), "hat": ("no", "yes")}


class Subject:
    """What pages read of a subject."""

    name = "faces"
    world = None
    native = False

    def classes(self, factor: str) -> tuple[str, ...]:
        return CLASSES[factor]

    def unrelated(self, attribute: str) -> list[str]:
        return ["hat"]


class Faces:
    """What pages read of a study."""

    settings = Settings(device="cpu", k=32, n_features=20)
    seeds = Seeds.of(0)
    subject = Subject()
    factors = CLASSES

    def __init__(self, *attributes: str) -> None:
        self.attributes = tuple(Attribute(a, CLASSES[a]) for a in attributes)
        self.effect = Effect(torch.empty(0), torch.empty(0), torch.empty(0, 4))

    def scale(self, attribute: str, before: Outcome) -> Scale:
        classes = len(CLASSES[attribute])
        seen = before.scored[attribute]
        base = metrics.shares(seen.numpy())[None]
        strata = Strata.of(seen.argmax(-1).numpy(), base, 1000)
        uniform = [1 / classes] * classes
        data = {"reference": torch.randn(60, 4, generator=torch.Generator().manual_seed(9))}
        return Scale(self.subject, attribute, uniform, before, strata, lambda: data, lambda: before)

    def measured(self, _sae: object, _attribute: str, _target: int, *_: object) -> Effect:
        return self.effect


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sizes are not compared with a subject that generates nothing."""
    monkeypatch.setattr("difflens_utils.pages.page.sizes.check", lambda *_, **__: None)
    yield
    plt.close("all")


@pytest.fixture
def page() -> Ablations:
    return Ablations(Faces("gender", "age"), "07_ablations", **SIZES_07)


def seen(seed: int = 0, **hits: Tensor) -> Outcome:
    """Images of which the scorer is sure; the labeller agrees but for a few."""
    generator = torch.Generator().manual_seed(seed)
    scored, labelled = {}, {}
    for factor, classes in CLASSES.items():
        drawn = torch.randint(len(classes), (N,), generator=generator)
        labels = hits.get(factor, drawn).long()
        other = torch.where(torch.rand(N, generator=generator) < 0.1, 0, labels)
        scored[factor] = torch.eye(len(classes))[labels]
        labelled[factor] = torch.eye(len(classes))[other]
    clip = torch.nn.functional.normalize(torch.randn(N, 5, generator=generator), dim=1)
    features = torch.randn(N, 4, generator=generator)
    images = torch.zeros(N, 3, 8, 8)
    return Outcome(
        images=images,
        scored=scored,
        labelled=labelled,
        features=features,
        clip=clip,
        second=clip.roll(1, 1),
        prompt=torch.zeros(N, dtype=torch.int64),
    )


def figure(page: Page, name: str) -> Estimate:
    return page.results.figures[name]


def by_resample(of: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    """A function of means over images, in each resample (R,): what `metrics` does, in a loop."""
    return np.array([of(*(w @ column for column in columns)) for w in resampled(len(columns[0]))])


def same_spread(estimate: Estimate, draws: np.ndarray) -> None:
    """Resamples are moved to their figure, so they are compared around their mean."""
    assert estimate.draws is not None
    np.testing.assert_allclose(estimate.draws - estimate.value, draws - draws.mean(), atol=1e-6)


# ------------------------------------------------------------------------------------------ rows


def filled(page: Ablations, attribute: str, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Gives a page rows of random figures; what each keeps of every image, (N,), by label."""
    rng = np.random.default_rng(1)
    found = {label: rng.random(N) for label in labels}
    for label, values in found.items():
        kept = metrics.mean(values)
        page.rows[attribute][label] = Row(kept, kept, kept, kept, kept, torch.zeros(12, 3, 8, 8))
    return found


NUMBERED = ("k = 16", "k = 64", "N = 5", "N = 10", "N = 100")


def test_effects_are_mean_differences_of_the_same_images(page: Ablations) -> None:
    kept = filled(page, "gender", TABLE_3)
    page.table_3("gender")
    ours, random = kept["DiffLens"], kept["random decoder"]
    of_neurons, of_latents = kept["Attr@L"], kept["Act@S"]
    neither = kept["Act@L"]
    expected = {
        "ksae": ((ours - of_neurons) + (of_latents - neither)) / 2,
        "attribution": ((ours - of_latents) + (of_neurons - neither)) / 2,
        "learned": ours - random,
    }
    for name, lead in expected.items():
        effect = figure(page, f"ablation.gender.effect.{name}")
        assert effect.value == pytest.approx(lead.mean())
        same_spread(effect, by_resample(lambda mean: mean, lead))


def test_a_gain_of_k_is_over_the_next_smaller_one(page: Ablations) -> None:
    kept = filled(page, "gender", ("DiffLens", *NUMBERED))
    table = page.table_5("gender")
    assert list(table.index) == ["k = 16", "k = 32", "k = 64"]
    for k, (more, less) in {32: ("DiffLens", "k = 16"), 64: ("k = 64", "DiffLens")}.items():
        gain = figure(page, f"ablation.gender.gain.k_{k}")
        assert gain.value == pytest.approx((kept[more] - kept[less]).mean())
    assert "ablation.gender.gain.k_16" not in page.records


def test_the_slope_on_the_number_of_features_is_that_of_least_squares(page: Ablations) -> None:
    kept = filled(page, "gender", ("DiffLens", *NUMBERED))
    page.table_6("gender")
    rows = [kept[label] for label in ("N = 5", "N = 10", "DiffLens", "N = 100")]
    places = np.log10([5, 10, 20, 100])
    slope = figure(page, "ablation.gender.slope_of_n")
    assert slope.value == pytest.approx(np.polyfit(places, [row.mean() for row in rows], 1)[0])
    draws = by_resample(lambda *means: np.polyfit(places, means, 1)[0], *rows)
    same_spread(slope, draws)
    removed = [name for name in page.records if ".removed." in name]
    assert removed == ["ablation.gender.removed.n_10", "ablation.gender.removed.n_20"]


def test_intervals_of_a_table_hold_for_all_of_its_rows(page: Ablations) -> None:
    filled(page, "gender", ("DiffLens", *NUMBERED))
    column = page.table_5("gender")["kept at the same fairness"]
    rows = [page.rows["gender"][label].kept for label in ("k = 16", "DiffLens", "k = 64")]
    assert list(column) == [str(estimate) for estimate in metrics.simultaneous(rows)]
    assert list(column) != [str(estimate) for estimate in rows]


def test_the_paper_stands_beside_the_attribute_that_it_reports_on(page: Ablations) -> None:
    for attribute in ("gender", "age"):
        filled(page, attribute, TABLE_3)
    assert page.table_3("gender").loc["Act@L", "its FID"] == "34.27"
    assert page.table_3("gender").loc["random decoder", "its FID"] == ""
    assert not any("FID" in column for column in page.table_3("age").columns)
    page.effects()


def test_a_row_that_does_not_get_there_keeps_nothing_and_says_so(page: Ablations) -> None:
    filled(page, "gender", TABLE_3)
    nothing = metrics.from_draws(0.0, np.zeros(1000), N)
    row = page.rows["gender"]["Act@S"]
    page.rows["gender"]["Act@S"] = row._replace(kept=nothing, leak=metrics.NOTHING)
    table = page.table_3("gender")
    assert table.loc["Act@S", "kept at the same fairness"] == "not reached"
    assert table.loc["Act@S", "leak there"] == "–"
    labels = [tick.get_text() for tick in page.forest("gender").axes[0].get_yticklabels()]
    assert labels == ["DiffLens", "Attr@L", "Act@S (not reached)", "Act@L", "random decoder"]
    page.before = seen()
    assert page.figure_16("gender").axes


def made(before: Outcome, name: str, turned: float, seed: int) -> Debiased:
    """A method that makes a share of the images male."""
    some = torch.rand(N, generator=torch.Generator().manual_seed(seed)) < turned
    gender = torch.where(some, 1, before.scored["gender"].argmax(-1))
    after = seen(seed, gender=gender)
    weight = np.tile([0.0, 1.0], (N, 1))
    search = Search(methods.pushed(name, [torch.zeros(1)]), "gender", [], np.ones((1, 2)), N)
    return Debiased(search, [0.5, 0.5], [], Mixture([before, after], weight), after)


def test_a_row_is_measured_where_half_of_the_unedited_fd_is_left(page: Ablations) -> None:
    before = seen(gender=(torch.arange(N) < 8).long())
    table = page.unedited(before)
    start = figure(page, "ablation.gender.original.fd").value
    assert table.loc["gender", "rows are compared at"] == f"{start / 2:.3f}"
    row = made(before, "Act@S", 0.6, seed=5)
    page.row(row)
    scale = page.study.scale("gender", before)
    kept, leak = scale.matched(row.mixture, row.mixture, 0.5)
    whole = scale.kept(row.mixture).value
    assert 0 < whole < kept.value < 1
    assert figure(page, "ablation.gender.act_at_s.kept") == kept
    assert figure(page, "ablation.gender.act_at_s.leak") == leak
    assert figure(page, "ablation.gender.act_at_s.removed") == scale.removed(row.mixture)
    features = row.outcome.features
    distance = metrics.frechet(features, scale.references["reference"])
    assert figure(page, "ablation.gender.act_at_s.frechet") == distance


# ------------------------------------------------------------------------------------------ k-SAEs


def history(dead: list[float]) -> History:
    return History([1, 2], [0.5, 0.4], [0.5, 0.4], [2.0, 2.0], dead)


def test_auxk_is_taken_away_only_where_a_latent_dies(
    page: Ablations, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(page.ingredients(history([0.0, 0.1]))) == ["no AuxK", "no pre-bias"]
    assert capsys.readouterr().out == ""
    assert page.ingredients(history([0.0, 0.0])) == {"no pre-bias": {"pre_bias": False}}
    assert "No latent is dead" in capsys.readouterr().out


def directed(directions: Tensor, features: dict[str, list[Tensor]]) -> BiasFeatures:
    sae: Any = SimpleNamespace(directions=directions)
    return BiasFeatures(sae, features, {}, {}, {}, torch.zeros(len(directions)), {}, dict)


def test_bias_features_of_every_attribute_look_for_partners(page: Ablations) -> None:
    """Of three bias features one has no partner in the other k-SAE."""
    directions = torch.eye(8)
    features = {"gender": [torch.tensor([0]), torch.tensor([1])], "age": [torch.tensor([0, 2])]}
    found, other = directed(directions, features), directions.flip(0).clone()
    other[other[:, 2] == 1] = torch.full((8,), 0.0).index_fill(0, torch.tensor([7]), 1.0)
    page.pairing(found, {1: directed(other, {})})
    cosine = figure(page, "ablation.seeds.cosine.seed1")
    assert (cosine.value, cosine.n) == (pytest.approx(2 / 3), 3)
    assert figure(page, "ablation.seeds.all.seed1").n == 8
    assert figure(page, "ablation.seeds.random").value < 0.9


def test_the_gain_of_a_baseline_is_a_share_of_the_attainable_effect(
    page: Ablations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "PICKED", 2)
    gains = (
        torch.randn(5, 12, generator=torch.Generator().manual_seed(3)) + torch.arange(5)[:, None]
    )
    page.study.effect = Effect(gains.mean(1), gains.std(1), gains)  # of latents 2, 3, 5, 6 and 9
    picks = {"zero": [2, 3], "mean": [3, 5], "other classes": [6, 9]}
    scores = {}
    for name, latents in picks.items():
        row = torch.zeros(10)
        row[latents] = torch.tensor([2.0, 1.0])
        scores[name] = [row, row]
    rankings = {f"{m}, {b}": s for m in ("h-classifier", "picture") for b, s in scores.items()}
    found = directed(torch.eye(10), {})
    found.gaps["gender"] = [torch.zeros(1, 1, 10)] * 2
    page.rankings(found, rankings)

    def ahead(*effects: float) -> float:
        return (sum(effects[3:]) - sum(effects[:2])) / sum(sorted(effects)[-2:])

    for measure in ("h_classifier", "picture"):
        for name in ("female", "male"):
            gain = figure(page, f"ablation.ranking.gain.{measure}_{name}")
            assert gain.value == pytest.approx(ahead(*gains.mean(1).tolist()), rel=1e-5)
            same_spread(gain, by_resample(ahead, *gains.double().numpy()))


def test_a_class_without_candidates_has_no_gain(page: Ablations) -> None:
    found = directed(torch.eye(10), {})
    found.gaps["gender"] = [torch.zeros(1, 1, 10)] * 2
    nothing = [torch.zeros(10)] * 2
    baselines = ("zero", "mean", "other classes")
    page.rankings(
        found, {f"{m}, {b}": nothing for m in ("h-classifier", "picture") for b in baselines}
    )
    assert not any(".gain." in name for name in page.records)


def test_every_rule_of_notebook_07_finds_its_records(page: Ablations) -> None:
    for attribute in ("gender", "age"):
        filled(page, attribute, (*TABLE_3, *NUMBERED))
        for table in (page.table_3, page.table_5, page.table_6):
            table(attribute)
    page.pairing(
        directed(torch.eye(8), {"age": [torch.tensor([1, 3])]}), {1: directed(torch.eye(8), {})}
    )
    page.add("ablation.ranking.gain.picture_male", metrics.mean([0.5, 0.6]))
    for rule in rules.RULES:
        if rule.notebook == "07_ablations":
            verdicts = rules.judge(rule, page.results.figures)
            assert len(verdicts) == (2 if "{attribute}" in rule.record else 1), rule.rule


# ------------------------------------------------------------------------------------------ pairs


def several(*attributes: str, singles: dict[str, str] | None = None) -> Multi:
    return Multi(
        Faces(*attributes), "08_multi_attribute", singles=singles or {"hat": "yes"}, **SIZES_08
    )


def drawn(page: Multi) -> tuple[Outcome, dict[Aim, Outcome], dict[Any, Outcome]]:
    """Unedited images, with each edit alone, and with each two; that to "young" gains nothing."""
    unedited = seen(0)
    alone = {}
    for number, aim in enumerate(page.aims):
        reached = torch.rand(N, generator=torch.Generator().manual_seed(number)) < 0.8
        labels = unedited.scored[aim.attribute].argmax(-1)
        if page.name(aim) != "young":
            labels = torch.where(reached, aim.target, labels)
        alone[aim] = seen(0, **{aim.attribute: labels})
    together = {}
    for number, (x, y) in enumerate(page.pairs):
        lost = torch.rand(N, generator=torch.Generator().manual_seed(100 + number)) < 0.2
        labels = {}
        for aim in (x, y):
            start, end = (o.scored[aim.attribute].argmax(-1) for o in (unedited, alone[aim]))
            labels[aim.attribute] = torch.where(lost, start, end)
        together[x, y] = seen(0, **labels)
    return unedited, alone, together


def hits(images: Outcome, aim: Aim) -> np.ndarray:
    return (images.scored[aim.attribute].argmax(-1) == aim.target).double().numpy()


def test_interference_is_the_share_of_its_gain_that_an_edit_loses() -> None:
    page = several("gender", "age")
    unedited, alone, together = drawn(page)
    page.interference(unedited, alone, together)
    lost, gained = [], []
    for pair, images in together.items():
        for aim in pair:
            plain = hits(alone[aim], aim)
            if page.name(aim) != "young":
                lost.append(plain - hits(images, aim))
                gained.append(plain - hits(unedited, aim))
    assert min(gain.mean() for gain in gained) >= 0.1
    loss = figure(page, "multi.interference.loss")
    shares = [a.mean() / b.mean() for a, b in zip(lost, gained, strict=True)]
    assert loss.value == pytest.approx(np.mean(shares), rel=1e-5)

    def mean_loss(*means: float) -> float:
        half = len(means) // 2
        pairs = zip(means[:half], means[half:], strict=True)
        return float(np.mean([a / max(b, 0.05) for a, b in pairs]))

    same_spread(loss, by_resample(mean_loss, *lost, *gained))
    assert page.value("multi.interference.left_out") == 2  # young with female, and with male
    empty = page.lost.loc["age: young"]
    assert empty.isna().all() and page.lost.loc["age: old"].notna().sum() == 2


def test_the_ratio_of_meetings_is_to_the_product_of_both_shares() -> None:
    page = several("gender", "age")
    unedited, alone, together = drawn(page)
    page.joint(unedited, alone, together)
    ratios = []
    for (x, y), images in together.items():
        expected = hits(alone[x], x).mean() * hits(alone[y], y).mean()
        assert expected >= 0.1
        ratios.append((hits(images, x) * hits(images, y)).mean() / expected)
    assert figure(page, "multi.pair.ratio").value == pytest.approx(np.mean(ratios), rel=1e-5)
    worst = figure(page, "multi.pair.worst_decile")
    assert worst.value == pytest.approx(np.quantile(ratios, 0.1), rel=1e-5)
    assert worst.draws is not None and worst.draws.std() > 0


def test_two_edits_that_hardly_meet_by_chance_are_left_out() -> None:
    page = several("gender", "age")
    unedited, alone, together = drawn(page)
    never = Aim(page.study.attributes[1], 0)
    alone[never] = seen(0, age=torch.ones(N))
    table = page.joint(unedited, alone, together)
    assert page.value("multi.pair.left_out") == 2
    assert list(table["ratio"]).count("left out") == 2 and len(page.ratios) == 4


# ------------------------------------------------------------------------------------------ at once


def test_what_is_removed_of_the_joint_bias_has_no_bias_of_its_noise() -> None:
    page = several("gender", "age")
    before, after = seen(0, gender=torch.zeros(N)), seen(1)
    page.balance(before, {"DiffLens": after, "H-Distribution": before})

    def squared(images: Outcome) -> float:
        cells = np.einsum("na,nb->nab", images.scored["gender"], images.scored["age"])
        cells = cells.reshape(N, -1)
        spread = cells.var(0, ddof=1).sum() / N
        return ((cells.mean(0) - 1 / 6) ** 2).sum() - spread

    removed = figure(page, "multi.joint.removed")
    assert removed.value == pytest.approx(1 - squared(after) / squared(before), rel=1e-5)
    assert page.value("multi.joint.h_distribution.removed") == 0
    agreed = []
    for images in (before, after):
        same = [
            images.scored[a].argmax(1) == images.labelled[a].argmax(1) for a in ("gender", "age")
        ]
        agreed.append((same[0] & same[1]).double().numpy())
    lost = figure(page, "multi.joint.agreement_loss")
    assert lost.value == pytest.approx((agreed[0] - agreed[1]).mean(), abs=1e-6)
    page.bars(before, {"DiffLens": after})


def test_no_share_of_a_joint_bias_that_is_not_there_is_removed() -> None:
    page = several("gender", "age")
    cells = torch.arange(N) % 6
    fair = seen(0, gender=cells // 3, age=cells % 3)
    table = page.balance(fair, {"DiffLens": seen(1, gender=torch.zeros(N))})
    assert "multi.joint.removed" not in page.records
    assert table.loc["DiffLens", "removed"] == "–"
    assert page.value("multi.joint.difflens.fd") > 0


def test_one_attribute_has_no_joint_distribution_to_judge(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = several("gender")
    before = seen(0)
    page.interference(before, {aim: before for aim in page.aims}, {})
    page.joint(before, {}, {})
    page.balance(before, {"DiffLens": seen(1)})
    assert "the only attribute" in capsys.readouterr().out
    assert page.results.verdicts() == [] and len(page.sentences()) == 1


# ------------------------------------------------------------------------------------------ singles


def test_a_rise_is_a_share_of_what_is_possible() -> None:
    page = several("gender", "age")
    few, many = (torch.arange(N) < 10).long(), (torch.arange(N) < 25).long()
    start, risen, full = seen(0, hat=few), seen(0, hat=many), seen(0, hat=torch.ones(N))
    female, male = page.first
    alone = {female: start, male: full}
    table = page.single(start, alone, {"hat": {"alone": risen, female: risen, male: full}})
    rise = figure(page, "multi.single.hat.female.rise")
    assert rise.value == pytest.approx(15 / 30)
    columns = [many.double().numpy(), few.double().numpy()]
    same_spread(rise, by_resample(lambda end, start: (end - start) / (1 - start), *columns))
    assert "multi.single.hat.male.rise" not in page.records
    assert table.loc["hat: gender: male + hat", "rise"] == "n/a: less than 0.05 is possible"


def test_every_rule_of_notebook_08_finds_its_records() -> None:
    page = several("gender", "age")
    unedited, alone, together = drawn(page)
    page.interference(unedited, alone, together)
    page.joint(unedited, alone, together)
    biased = seen(0, gender=torch.zeros(N))
    page.balance(biased, {"DiffLens": seen(1), "H-Distribution": seen(2)})
    turned = {"alone": seen(3), **{aim: seen(4) for aim in page.first}}
    page.single(unedited, alone, {"hat": turned})
    for rule in rules.RULES:
        if rule.notebook == "08_multi_attribute":
            assert len(rules.judge(rule, page.results.figures)) == 1, rule.rule
    assert len(page.sentences()) == 5
