"""Edits of several searches in one run, and rows that are compared at the same fairness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import debiasing, edits, methods, outcome
from difflens_utils.debiasing import EVERY, UNEDITED, Arm, Search
from difflens_utils.methods import Method
from difflens_utils.metrics import wilson
from difflens_utils.outcome import Outcome
from difflens_utils.sampling import Edit
from difflens_utils.settings import Settings
from difflens_utils.study import Study
from difflens_utils.subjects.pipelines import Subject

STEPS, SHAPE = 2, (24, 4, 4)
SURE = wilson(100, 100)


class Clip:
    """Image features that are the image."""

    def fingerprint(self) -> str:
        return "pixels"

    def features(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=-1)


@pytest.fixture
def subject(store: Path) -> Subject:
    judge = tiny.labeller()
    return replace(tiny.subject(), evaluators=lambda: (judge, judge, Clip()))


def pushing(size: float) -> Method:
    """Towards class c, h is raised by (c + 1) times a size."""
    return methods.pushed("push", [torch.full((STEPS, *SHAPE), (c + 1) * size) for c in range(3)])


def arm(target: int, to: list[float], way: int = 0) -> Arm:
    """An arm that takes images of every class to the same shares; the unedited one leaves them."""
    moves = np.eye(len(to)).tolist() if target == UNEDITED else [to] * len(to)
    return Arm(target, float(target != UNEDITED), moves, SURE, SURE, to, way)


def searched(method: Method, attribute: str, *arms: Arm) -> Search:
    """A search of a model that draws class 0 alone."""
    classes = len(arms[0].reached)
    return Search(method, attribute, list(arms), np.eye(classes)[:1], 100)


GENDER = (arm(UNEDITED, [1.0, 0.0]), arm(1, [0.0, 1.0]))
AGE = (arm(UNEDITED, [1.0, 0.0, 0.0]), arm(1, [0.0, 1.0, 0.0]), arm(2, [0.0, 0.0, 1.0]))


def test_a_search_in_one_way_has_the_arms_of_the_method_itself() -> None:
    method = methods.in_all_ways(pushing(1.0), STEPS)
    found = searched(
        method, "gender", *GENDER, arm(1, [0.1, 0.9], way=1), arm(0, [1.0, 0.0], way=2)
    )
    own = found.in_one_way()
    assert len(found.method.ways) == 3 and own.method.ways == (own.method,)
    assert own.arms == list(GENDER) and found.arms[2:] and own.method.name == method.name


def test_a_plan_in_another_way_makes_no_edit_that_could_be_composed() -> None:
    """It would be carried out in the method's own way, as if nothing had been asked for."""
    method = methods.in_all_ways(pushing(1.0), STEPS)
    found = searched(method, "gender", GENDER[0], arm(1, [0.0, 1.0], way=1))
    planned = debiasing.plans(found, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"^plans must .* take search\.in_one_way\(\)$"):
        debiasing.edit_of(found, planned, 8, 0)
    debiasing.edit_of(found.in_one_way(), debiasing.plans(found.in_one_way(), [0.5, 0.5]), 8, 0)


def run(subject: Subject, n: int) -> debiasing.Run:
    before = outcome.judge(subject, outcome.draw(subject, None, n, 1, STEPS))
    return debiasing.Run(before, 1, STEPS)


def test_composed_images_have_the_edits_of_every_plan(subject: Subject) -> None:
    searches = [searched(pushing(0.5), "gender", *GENDER), searched(pushing(-2.0), "age", *AGE)]
    made = debiasing.composed(subject, searches, run(subject, 12), seed=7)
    places = [edits.draw_classes(12, [1 / c] * c, 7 + i) for i, c in enumerate((2, 3))]
    parts: list[Edit] = []
    for search, rows in zip(searches, places, strict=True):
        targets = {c: search.method.towards(c, 1.0) for c in range(1, int(rows.max()) + 1)}
        parts.append(edits.per_image(targets, rows))
    expected = outcome.draw(subject, edits.compose(*parts), 12, 1, STEPS)
    assert torch.equal(made.images, expected)
    assert sorted(rows.bincount().tolist() for rows in places) == [[4, 4, 4], [6, 6]]


def test_composed_edits_that_take_the_distribution_see_batches_of_one_size(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = replace(pushing(1.0), whole=True, asymmetric=False)
    asked: list[dict[str, object]] = []

    def draw(*_: object, **options: object) -> Tensor:
        asked.append(options)
        return torch.zeros(4, 3, 16, 16)

    start = run(subject, 4)
    monkeypatch.setattr(outcome, "draw", draw)
    arms = (arm(UNEDITED, [1.0, 0.0]), arm(EVERY, [0.5, 0.5]))
    searches = [searched(whole, "gender", *arms), searched(whole, "tone", *arms)]
    debiasing.composed(subject, searches, start, seed=0)
    assert asked[0]["batch"] == debiasing.GROUP and asked[0]["asymmetric"] is False


@pytest.mark.parametrize("other", [{"asymmetric": False}, {"whole": True}])
def test_methods_of_different_steps_are_not_composed(
    subject: Subject, other: dict[str, bool]
) -> None:
    plain = searched(pushing(1.0), "gender", *GENDER)
    odd = searched(replace(pushing(1.0), **other), "age", *AGE)
    with pytest.raises(ValueError, match="^methods must take the same step and the same batches"):
        debiasing.composed(subject, [plain, odd], run(subject, 4), seed=0)


def test_a_study_composes_on_reported_images(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(subject, Settings(steps=STEPS))
    asked: list[debiasing.Run] = []

    def composed(_: Subject, searches: list[Search], run: debiasing.Run, seed: int) -> Outcome:
        asked.append(run)
        assert seed == study.seeds.joint and len(searches) == 1
        return run.before

    monkeypatch.setattr(debiasing, "composed", composed)
    study.composed([searched(pushing(1.0), "gender", *GENDER)], n=4)
    assert asked[0].seed == study.seeds.report and len(asked[0].before.images) == 4
