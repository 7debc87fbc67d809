from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import debiasing, edits, methods, metrics, outcome
from difflens_utils.debiasing import EVERY, UNEDITED, Arm, Mixture, Run, Search
from difflens_utils.metrics import Estimate
from difflens_utils.probes import Heads
from difflens_utils.runtime import artifacts
from difflens_utils.sampling import Edit, Step
from difflens_utils.subjects.pipelines import Subject

STEPS = 3
RECIPE = {"k": 6}
BASE = [(0.7, 0.3)]  # unedited class shares of the one prompt


class Clip:
    """Image features that are the image."""

    def fingerprint(self) -> str:
        return "pixels"

    def features(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=-1)


@pytest.fixture
def subject(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    judge = tiny.labeller()
    monkeypatch.setattr("difflens_utils.subjects.registry.pipelines.MODELS", tmp_path / "models")
    return replace(tiny.subject(), evaluators=lambda: (judge, judge, Clip()))


def pushing(**options: object) -> methods.Method:
    return methods.Method(
        "push", lambda c, b: edits.push(torch.ones(STEPS, 24, 4, 4), b if c else -b), **options
    )


def arms(*rows: tuple[int, float, list[float], float, float]) -> list[Arm]:
    sure = lambda v: Estimate(v, v, v, 100)  # noqa: E731
    return [
        Arm(
            c,
            b,
            np.eye(len(s)).tolist() if c == UNEDITED else [s] * len(s),
            sure(similar),
            sure(agree),
            s,
        )
        for c, b, s, similar, agree in rows
    ]


def searched(rows: list[Arm], base: object) -> Search:
    """A search that found these arms."""
    return Search(pushing(), "gender", rows, np.array(base), 100)


def test_the_strongest_arm_reaches_most_while_the_evaluators_agree() -> None:
    rows = arms(
        (UNEDITED, 0.0, [0.7, 0.3], 1.0, 0.99),
        (1, 1.0, [0.4, 0.6], 0.9, 0.97),
        (1, 2.0, [0.4, 0.6], 0.8, 0.95),
        (1, 4.0, [0.0, 1.0], 0.99, 0.55),
    )
    found = searched(rows, BASE)
    strongest = found.strongest(1)
    assert strongest is not None and strongest.strength == 1.0  # the weaker of two equal ones
    assert found.strongest(0) is None


def test_a_plan_avoids_washed_out_images() -> None:
    """The strong edit would do it alone, but the evaluators no longer agree on its images."""
    rows = arms(
        (UNEDITED, 0.0, [0.7, 0.3], 1.0, 0.99),
        (1, 1.0, [0.4, 0.6], 0.9, 0.97),
        (1, 4.0, [0.0, 1.0], 0.99, 0.55),
    )
    assert debiasing.plan(rows, BASE, (0.5, 0.5)).weights == pytest.approx([1 / 3, 2 / 3, 0.0])
    rows[2] = rows[2]._replace(agreement=Estimate(0.55, 0.2, 0.95, 4))  # too few to say so
    assert debiasing.plan(rows, BASE, (0.5, 0.5)).weights == pytest.approx([5 / 7, 0.0, 2 / 7])


@pytest.mark.parametrize(("agreement", "clear"), [(0.92, True), (0.9, False)])
def test_an_arm_may_cost_a_little_of_the_agreement(agreement: float, clear: bool) -> None:
    """Unedited images have 0.99 of it, and an arm may lose 0.08."""
    plain, edited = arms(
        (UNEDITED, 0.0, [0.7, 0.3], 1.0, 0.99), (1, 1.0, [0.4, 0.6], 0.9, agreement)
    )
    assert debiasing.clear(edited, plain) is clear
    assert debiasing.clear(plain._replace(agreement=edited.agreement), plain)


def test_edits_that_take_the_distribution_are_not_mixed() -> None:
    rows = arms(
        (UNEDITED, 0.0, [0.7, 0.3], 1.0, 0.99),
        (EVERY, 10.0, [0.56, 0.44], 0.9, 0.99),
        (EVERY, 30.0, [0.4, 0.6], 0.8, 0.99),
    )
    assert debiasing.plan(rows, BASE, (0.5, 0.5)).weights.tolist() == [0.0, 1.0, 0.0]


def test_the_plan_is_carried_out_on_as_many_images_as_it_says() -> None:
    rows = arms((UNEDITED, 0.0, [0.7, 0.3], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    found = searched(rows, BASE)
    planned = debiasing.plans(found, (0.5, 0.5))
    edit = debiasing.edit_of(found, planned, 4000, 3)
    assert len(edit.rows) / 4000 == pytest.approx(planned[0].weights[1], abs=0.03)
    moved = edit(torch.zeros(4000, 24, 4, 4), Step(0, 500, torch.arange(0, 4000)))
    assert set(moved.flatten(1).mean(1).round().tolist()) == {0.0, 2.0}


def drawn(subject: Subject, edit: Edit | None = None, n: int = 4) -> Tensor:
    return outcome.draw(subject, edit, n, 1, STEPS)


def unedited(subject: Subject, n: int = 4) -> Run:
    return Run(outcome.judge(subject, drawn(subject, n=n)), 1, STEPS)


def test_a_plan_of_no_edit_leaves_every_image(subject) -> None:
    rows = arms((UNEDITED, 0.0, [0.5, 0.5], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    found = searched(rows, [(0.5, 0.5)])
    got = debiasing.debias(subject, found, (0.5, 0.5), unedited(subject))
    assert torch.equal(got.outcome.images, drawn(subject))
    assert len(got.mixture.arms) == 1 and got.mixture.weight.tolist() == [[1.0]] * 4


def test_each_image_of_one_draw_is_as_the_arm_that_it_drew_makes_it(subject) -> None:
    """In its two draws an image may be under two arms, but in one of them under one alone."""
    rows = arms((UNEDITED, 0.0, [0.7, 0.3], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    search, run = searched(rows, BASE), unedited(subject, 10)
    got = debiasing.debias(subject, search, (0.5, 0.5), run)
    twice = debiasing.carried_out(subject, search, got.plans, run).weight
    assert set(twice.flatten()) == {0.0, 0.5, 1.0}
    np.testing.assert_allclose(twice.mean(0), [0.6, 0.4])
    each = [drawn(subject, n=10), drawn(subject, pushing().towards(1, 2.0), n=10)]
    weight = got.mixture.weight
    for seen, images, share in zip(got.mixture.arms, each, weight.T, strict=True):
        mine = torch.from_numpy(share > 0)
        torch.testing.assert_close(seen.images[mine], images[mine], atol=2e-3, rtol=2e-3)
        again = outcome.judge(subject, seen.images)
        torch.testing.assert_close(again.scored, seen.scored, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(again.second, seen.second, atol=1e-4, rtol=1e-3)
        assert again.prompt.equal(seen.prompt)
    assert set(weight.flatten()) == {0.0, 1.0}
    np.testing.assert_allclose(weight.sum(1), 1)
    np.testing.assert_allclose(weight.mean(0), [0.6, 0.4])
    np.testing.assert_allclose(got.expected, [[0.5, 0.5]])
    under = [(got.outcome.images - images).flatten(1).abs().amax(1) < 2e-3 for images in each]
    assert [int(rows.sum()) for rows in under] == [6, 4]
    assert not (under[0] & under[1]).any()


def test_what_is_expected_of_a_mixture_is_the_mean_over_its_draws(subject) -> None:
    plain = unedited(subject).before
    rng = np.random.default_rng(0)
    weight, values = rng.dirichlet((1, 1, 1), 4), rng.normal(size=(3, 4, 5))
    seen = [replace(plain, features=torch.from_numpy(own)) for own in values]
    mixture = Mixture(seen, weight)
    want = np.einsum("nm,mnk->nk", weight, values)
    np.testing.assert_allclose(mixture.expected(lambda part: part.features), want)
    np.testing.assert_allclose(mixture.expected(lambda part: part.features[:, 0]), want[:, 0])
    one = mixture.drawn(torch.tensor([2, 0, 1, 0])).features
    np.testing.assert_array_equal(one, values[[2, 0, 1, 0], range(4)])


def test_responses_start_with_no_edit(subject) -> None:
    got = debiasing.respond(subject, pushing(grid=(0.01, 5.0)), "gender", n=4, seed=1, steps=STEPS)
    plain = outcome.judge(subject, drawn(subject))
    own = metrics.shares(plain.scored["gender"])
    assert (got[0].target, got[0].strength) == (UNEDITED, 0.0)
    assert got[0].similar.value == pytest.approx(1.0)
    assert got[0].shares(own) == pytest.approx(own)
    assert got[0].shares((0.1, 0.9)) == pytest.approx((0.1, 0.9))
    assert [arm.target for arm in got] == sorted(arm.target for arm in got)  # class by class
    assert path(got, 0, 0)[:1] == path(got, 0, 1)[:1] == [0.01]
    assert path(got, 0, 0)[1] == 5.0 and path(got, 0, 1) == [0.01]  # all are of class 1 already
    assert own.tolist() == [0.0, 1.0]
    for arm in got[1:]:
        edit = pushing().towards(arm.target, arm.strength)
        seen = outcome.judge(subject, drawn(subject, edit))
        shares = metrics.shares(seen.scored["gender"])
        assert arm.shares(own) == pytest.approx(shares)
        assert arm.reached == pytest.approx(shares)
        assert arm.similar.value == pytest.approx(float((plain.clip * seen.clip).sum(1).mean()))


Told = Callable[[float], tuple[list[float], float, float]]


@pytest.mark.parametrize(
    ("told", "strengths"),
    [
        (lambda b: ([1 - b / 3, b / 3], 0.9, 1.0), [1.0, 2.0, 3.0]),  # all are of the class
        (lambda b: ([0.9, 0.1], 1 - b / 8, 1.0), [1.0, 2.0, 3.0, 4.5]),  # half is lost
        (lambda b: ([0.9, 0.1], 0.9, 1 - b / 30), [1.0, 2.0, 3.0]),  # evaluators disagree
        (lambda b: ([0.9, 0.1], 0.49, 1.0), [1.0]),
        (lambda b: ([0.9, 0.1], 0.9, 1.0), [1.0, *(2 * 1.5**i for i in range(7))]),
    ],
)
def test_a_path_goes_on_as_long_as_something_is_gained(
    subject, monkeypatch: pytest.MonkeyPatch, told: Told, strengths: list[float]
) -> None:
    """What the edits of a strength do is planted."""

    def under(_: object, method: methods.Method, target: int, strength: float) -> Arm:
        shares, similar, agreement = told(strength)
        shares = shares if target == 1 else shares[::-1]
        return arms((target, strength, shares, similar, agreement))[0]

    monkeypatch.setattr(debiasing._Trial, "under", under)
    method = methods.in_all_ways(pushing(grid=(1.0, 2.0)), STEPS)
    got = debiasing.respond(subject, method, "gender", n=4, seed=1, steps=STEPS)
    assert [(arm.way, arm.target) for arm in got[1:]] == [
        (way, target) for way in range(3) for target in (0, 1) for _ in path(got, way, target)
    ]
    assert path(got, 0, 0) == path(got, 1, 1) == pytest.approx(strengths)


def path(found: list[Arm], way: int, target: int) -> list[float]:
    """The strengths that were tried in a way towards a class."""
    return [arm.strength for arm in found if (arm.way, arm.target) == (way, target)]


def test_a_path_of_distributions_ends_where_it_leads_away_from_equal_shares(
    subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shares are equal at strength 2. One worse place may be noise, and two are not."""

    def under(_: object, method: methods.Method, target: int, strength: float) -> Arm:
        more = 0.1 * (strength - 2)
        return arms((target, strength, [0.5 - more, 0.5 + more], 0.9, 1.0))[0]

    monkeypatch.setattr(debiasing._Trial, "under", under)
    method = pushing(grid=(1.0, 2.0), whole=True)
    got = debiasing.respond(subject, method, "gender", n=4, seed=1, steps=STEPS)
    assert [(arm.target, arm.strength) for arm in got] == [
        (UNEDITED, 0.0),
        (EVERY, 1.0),
        (EVERY, 2.0),
        (EVERY, 3.0),
        (EVERY, 4.5),
    ]


def test_a_method_that_takes_the_distribution_has_one_arm_per_strength(subject) -> None:
    heads = Heads(torch.randn(STEPS, 2, 24, 4, 4), torch.zeros(STEPS, 2))
    method = replace(methods.guided(heads, (0.5, 0.5)), grid=(1.0, 1000.0))
    plain, *others = debiasing.respond(subject, method, "gender", n=4, seed=1, steps=STEPS)
    assert plain.target == UNEDITED and {arm.target for arm in others} == {EVERY}
    strengths = [arm.strength for arm in others]
    assert strengths[:2] == [1.0, 1000.0] and strengths == sorted(set(strengths))


def test_an_edit_that_takes_the_distribution_is_planned_per_prompt(subject) -> None:
    """It makes the doctors female and leaves the nurses: no mixture says what it does to either."""
    plain = replace(
        outcome.judge(subject, outcome.draw(subject, None, 4, 1, STEPS)),
        prompt=torch.tensor([0, 1, 0, 1]),
    )
    either = {"gender": torch.tensor([[0.1, 0.9], [0.9, 0.1]]).repeat(2, 1)}
    plain = replace(plain, scored=plain.scored | either, labelled=plain.labelled | either)
    female = {"gender": torch.tensor([[0.9, 0.1]]).repeat(4, 1)}
    edited = replace(plain, scored=plain.scored | female, labelled=plain.labelled | female)
    trial = debiasing._Trial(subject, "gender", 1, STEPS, plain)
    rows = [trial.arm(plain, UNEDITED, 0.0), trial.arm(edited, EVERY, 1.0)]
    assert (rows[0].reached, rows[1].reached) == ([0.5, 0.5], [1.0, 0.0])
    assert rows[1].shares([[0.2, 0.8], [0.7, 0.3]]) == pytest.approx(
        np.array([[1.0, 0.0], [0.7, 0.3]])
    )
    planned = debiasing.plans(searched(rows, [[0.2, 0.8], [0.7, 0.3]]), (0.9, 0.1))
    assert [p.weights.tolist() for p in planned] == [[0.0, 1.0], [1.0, 0.0]]
    assert np.ndim(trial.arm(edited, 0, 1.0).transitions) == 2


def test_a_search_ships_and_is_taken_only_if_nothing_that_determines_it_differs(
    subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(**changes: object) -> list[Arm]:
        return debiasing.search(
            subject,
            pushing(grid=(1.0,)),
            "gender",
            **{"n": 4, "seed": 1, "steps": STEPS, "recipe": RECIPE} | changes,
        )

    monkeypatch.setattr(artifacts, "SHIP", True)
    made = search()
    assert (subject.folder / "search/gender/push/arms.json").exists()
    monkeypatch.setattr(artifacts, "SHIP", False)
    monkeypatch.setattr(debiasing, "respond", lambda *a, **k: [])
    monkeypatch.setattr(artifacts, "STORE", artifacts.STORE / "empty")
    assert search() == made
    assert search(recipe={"k": 7}) == search(n=5) == []
    (subject.folder / "search/gender/push/arms.json").write_text("[]")  # damaged
    (artifacts.STORE / "none").mkdir(parents=True)
    monkeypatch.setattr(debiasing, "respond", lambda *a, **k: made[:1])
    monkeypatch.setattr(artifacts, "STORE", artifacts.STORE / "none")
    assert search() == made[:1]


def test_base_shares_are_those_of_the_scorer(subject) -> None:
    images = outcome.draw(subject, None, 6, 2, STEPS)
    got = debiasing.base_shares(subject, images)
    assert set(got) == set(subject.attributes)
    assert got["age"] == pytest.approx(
        metrics.shares(outcome.judge(subject, images).scored["age"])[None]
    )
    two = debiasing.base_shares(subject, images, prompts=2)["age"]
    assert two == pytest.approx(
        np.stack(
            [metrics.shares(outcome.judge(subject, images[g::2]).scored["age"]) for g in (0, 1)]
        )
    )


def test_each_prompt_draws_from_its_own_plan() -> None:
    rows = arms((UNEDITED, 0.0, [0.7, 0.3], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    found = searched(rows, [(0.7, 0.3), (0.2, 0.8)])
    planned = debiasing.plans(found, (0.2, 0.8))
    assert [p.weights.tolist() for p in planned] == [[0.0, 1.0], [1.0, 0.0]]
    edit = debiasing.edit_of(found, planned, 10, 3)
    assert edit.rows.tolist() == [0, 2, 4, 6, 8]  # prompts are taken in turn
    (one,) = debiasing.plans(found, (0.2, 0.8), together=True)
    assert one.expected.shape == (2, 2)
