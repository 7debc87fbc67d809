from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import debiasing, edits, methods, metrics, outcome
from difflens_utils.analysis import scoring
from difflens_utils.debiasing import EVERY, UNEDITED, Arm, Search
from difflens_utils.metrics import Estimate
from difflens_utils.probes import Heads
from difflens_utils.runtime import artifacts
from difflens_utils.sampling import Step

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
        )
        for c, b, s, similar, agree in rows
    ]


def searched(rows: list[Arm], base: object) -> Search:
    """A search that found these arms."""
    return Search(pushing(), "gender", rows, np.array(base))


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
    assert debiasing.plan(rows, BASE, (0.5, 0.5), least_agreement=0.5).weights[2] > 0


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


def test_a_plan_of_no_edit_leaves_every_image(subject) -> None:
    rows = arms((UNEDITED, 0.0, [0.5, 0.5], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    found = searched(rows, [(0.5, 0.5)])
    got = debiasing.debias(subject, found, (0.5, 0.5), n=4, seed=1, steps=STEPS)
    assert torch.equal(got.outcome.images, outcome.draw(subject, None, 4, 1, STEPS))


def test_responses_start_with_no_edit(subject) -> None:
    got = debiasing.respond(subject, pushing(grid=(0.01, 5.0)), "gender", n=4, seed=1, steps=STEPS)
    assert [(a.target, a.strength) for a in got] == [
        (UNEDITED, 0.0),
        (0, 0.01),
        (0, 5.0),
        (1, 0.01),
        (1, 5.0),
    ]
    assert (
        got[0].similar.value == pytest.approx(1.0) and got[1].similar.value > got[2].similar.value
    )
    plain = outcome.judge(subject, outcome.draw(subject, None, 4, 1, STEPS))
    edited = outcome.judge(
        subject, outcome.draw(subject, edits.push(torch.ones(STEPS, 24, 4, 4), 5.0), 4, 1, STEPS)
    )
    own = metrics.shares(plain.scored["gender"])
    assert got[0].shares(own) == pytest.approx(own) and got[0].shares((0.1, 0.9)) == pytest.approx(
        (0.1, 0.9)
    )
    assert got[4].shares(own) == pytest.approx(metrics.shares(edited.scored["gender"]))


def test_a_method_that_takes_the_distribution_has_one_arm_per_strength(subject) -> None:
    heads = Heads(torch.randn(STEPS, 2, 24, 4, 4), torch.zeros(STEPS, 2))
    method = replace(methods.guided(heads, (0.5, 0.5)), grid=(1.0, 1000.0))
    assert [
        (a.target, a.strength)
        for a in debiasing.respond(subject, method, "gender", n=4, seed=1, steps=STEPS)
    ] == [(UNEDITED, 0.0), (EVERY, 1.0), (EVERY, 1000.0)]


def test_an_edit_that_takes_the_distribution_is_planned_per_prompt(subject) -> None:
    """It makes the doctors female and leaves the nurses: no mixture says what it does to either."""
    plain = replace(
        outcome.judge(subject, outcome.draw(subject, None, 4, 1, STEPS)),
        prompt=torch.tensor([0, 1, 0, 1]),
    )
    plain.scored["gender"] = torch.tensor([[0.1, 0.9], [0.9, 0.1]]).repeat(2, 1)
    female = {"gender": torch.tensor([[0.9, 0.1]]).repeat(4, 1)}
    edited = replace(plain, scored=plain.scored | female, labelled=plain.labelled | female)
    rows = [
        debiasing._arm(plain, plain, "gender", UNEDITED, 0.0),
        debiasing._arm(plain, edited, "gender", EVERY, 1.0),
    ]
    assert rows[1].shares([[0.2, 0.8], [0.7, 0.3]]) == pytest.approx(
        np.array([[1.0, 0.0], [0.7, 0.3]])
    )
    planned = debiasing.plans(searched(rows, [[0.2, 0.8], [0.7, 0.3]]), (0.9, 0.1))
    assert [p.weights.tolist() for p in planned] == [[0.0, 1.0], [1.0, 0.0]]
    assert np.ndim(debiasing._arm(plain, edited, "gender", 0, 1.0).transitions) == 2


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


def test_scores_of_an_unedited_set(subject) -> None:
    before = outcome.judge(subject, outcome.draw(subject, None, 40, 1, STEPS))
    before = replace(before, features=torch.randn(40, 8))
    got = scoring.score(
        subject, before, before, "gender", (0.5, 0.5), {"reference": before.features + 1}, 0
    )
    assert (
        got["clip_i"].value == pytest.approx(1.0)
        and got["leak"].value == got["leak_worst"].value == 0.0
    )
    assert got["frechet_unedited"].value == pytest.approx(0.0, abs=1e-3)
    assert got["frechet_reference"].value == pytest.approx(
        8.0, rel=1e-3
    )  # |mean difference|^2, equal covariances
    assert got["fd"].value == pytest.approx(
        np.linalg.norm(before.scored["gender"].mean(0) - 0.5), abs=1e-6
    )


def test_what_depends_on_an_attribute_is_related(subject) -> None:
    assert scoring.unrelated(subject, "gender") == [
        f for f in subject.factors if f not in ("gender", *subject.world.effects("gender"))
    ]
    assert "glasses" in scoring.unrelated(subject, "tone") and "gender" in scoring.unrelated(
        subject, "tone"
    )


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
