from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import activations, edits, methods, metrics, stages
from difflens_utils.metrics import Estimate
from difflens_utils.probes import Heads
from difflens_utils.sampling import Step

STEPS = 3


class Clip:
    """Image features that are the image."""

    def features(self, images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1), dim=-1)


@pytest.fixture
def parts(store: Path):
    """A tiny subject, its recording, a k-SAE, and features as if found."""
    judge = tiny.labeller()
    subject = replace(tiny.subject(), evaluators=lambda: (judge, judge, Clip()))
    rec, sae = activations.record(subject, 12, 0, STEPS), tiny.ksae()
    labels, counts = {"gender": torch.arange(12) % 2}, {"gender": torch.tensor([6, 6])}
    means = stages.class_means(rec, sae, labels, {"gender": 2})["gender"]
    gaps = {"gender": [stages.contrast(means, c, counts["gender"]) for c in (0, 1)]}
    features = {"gender": [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])]}
    return subject, sae, rec, stages.Found(features, gaps, labels, counts, torch.rand(48), {}, {})


def changed(method: methods.Method, h: Tensor, c: int) -> Tensor:
    return method.towards(c, 2.0)(h, Step(1, 500, slice(0, len(h)))) - h


def test_every_method_is_the_identity_at_strength_0_and_moves_h_at_2(parts) -> None:
    subject, sae, rec, found = parts
    heads = Heads(torch.randn(STEPS, 2, *rec.h.shape[2:]), torch.zeros(STEPS, 2))
    rows = methods.dictionary_methods(subject, sae, rec, found, "gender", n_features=3, n_support=2, seed=0, steps=STEPS)
    rows += methods.dense_methods(rec, found, heads, torch.randn(2, STEPS, *rec.h.shape[2:]), "gender")
    assert [m.name for m in rows] == ["DiffLens", "Act@S", "Attr@L", "Act@L", "random features", "mean difference",
                                      "h-classifier direction", "latent editing"]
    h = rec.at(1)
    for method in rows:
        assert method.towards(1, 0.0)(h, Step(1, 500, slice(0, 12))) is None, method.name
        assert changed(method, h, 1).abs().max() > 1e-4, method.name


def test_neurons_by_activation_are_the_largest_channels(parts) -> None:
    subject, sae, rec, found = parts
    rows = methods.dictionary_methods(subject, sae, rec, found, "gender", n_features=3, n_support=2, seed=0, steps=STEPS)
    method = next(m for m in rows if m.name == "Act@L")
    ones = torch.from_numpy(rec.h[1::2]).float()  # images of class 1
    largest = ones.mean(0).abs().mean((0, 2, 3)).topk(3).indices
    moved = changed(method, rec.at(1), 1)
    assert set(moved.abs().sum((0, 2, 3)).nonzero().flatten().tolist()) == set(largest.tolist())
    want = 2 * (ones[:, 1].mean(0) - torch.from_numpy(rec.h[::2]).float()[:, 1].mean(0))[largest]
    torch.testing.assert_close(moved[0, largest], want, atol=1e-3, rtol=1e-2)


def test_dense_methods_are_equally_long(parts) -> None:
    _, _, rec, found = parts
    heads = Heads(torch.randn(STEPS, 2, *rec.h.shape[2:]), torch.zeros(STEPS, 2))
    rows = methods.dense_methods(rec, found, heads, torch.randn(2, STEPS, *rec.h.shape[2:]), "gender")
    lengths = [changed(m, rec.at(1), 0)[0].norm().item() for m in rows]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=1e-3)


def arms(*rows: tuple[int, float, list[float], float, float]) -> list[methods.Arm]:
    sure = lambda v: Estimate(v, v, v, 100)  # noqa: E731
    return [methods.Arm(c, b, torch.tensor(s, dtype=torch.float64), sure(similar), sure(agree)) for c, b, s, similar, agree in rows]


def test_a_plan_avoids_washed_out_images() -> None:
    """The strong edit would do it alone, but the evaluators no longer agree on its images."""
    rows = arms((-1, 0.0, [0.7, 0.3], 1.0, 0.99), (1, 1.0, [0.4, 0.6], 0.9, 0.97), (1, 4.0, [0.0, 1.0], 0.99, 0.55))
    planned = methods.plan(rows, (0.5, 0.5))
    assert planned.weights == pytest.approx([1 / 3, 2 / 3, 0.0])
    assert methods.plan(rows, (0.5, 0.5), least_agreement=0.5).weights[2] > 0


def test_the_plan_is_carried_out_on_as_many_images_as_it_says(parts) -> None:
    direction = torch.ones(STEPS, 24, 4, 4)
    method = methods.Method("push", lambda c, b: edits.push(direction, b if c else -b))
    rows = arms((-1, 0.0, [0.7, 0.3], 1.0, 1.0), (1, 2.0, [0.2, 0.8], 0.9, 1.0))
    planned = methods.plan(rows, (0.5, 0.5))
    edit = methods.debias(method, rows, planned, 4000, 3)
    assert len(edit.rows) / 4000 == pytest.approx(planned.weights[1], abs=0.03)
    moved = edit(torch.zeros(4000, 24, 4, 4), Step(0, 500, slice(0, 4000)))
    assert set(moved.flatten(1).mean(1).round().tolist()) == {0.0, 2.0}


def test_responses_start_with_no_edit(parts) -> None:
    subject, sae, rec, found = parts
    method = methods.Method("DiffLens", lambda c, b: edits.steer(sae, found.features["gender"][c], b, "add", found.unit("gender", c)))
    got = methods.respond(subject, method, "gender", {1: (1.0, 5.0)}, n=4, seed=1, steps=STEPS)
    assert [(a.target, a.strength) for a in got] == [(-1, 0.0), (1, 1.0), (1, 5.0)]
    assert got[0].similar.value == pytest.approx(1.0)
    assert all(a.shares.sum() == pytest.approx(1.0) for a in got)
    plain = stages.judge(subject, stages.generate(subject, None, 4, 1, STEPS))
    assert got[0].shares.tolist() == pytest.approx(metrics.shares(plain.scored["gender"]).tolist())
