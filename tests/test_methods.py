from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import activations, edits, features, methods
from difflens_utils.probes import Heads
from difflens_utils.sampling import Step

STEPS = 3


@pytest.fixture
def parts(store: Path):
    """A tiny subject, its recording, a k-SAE, and features as if found."""
    subject, sae = tiny.subject(), tiny.ksae()
    rec = activations.record(subject, 12, 0, STEPS)
    labels, counts = {"gender": torch.arange(12) % 2}, {"gender": torch.tensor([6, 6])}
    means = features.class_means(rec, sae, labels, {"gender": 2})["gender"]
    gaps = {"gender": [features.contrast(means, c, counts["gender"]) for c in (0, 1)]}
    features = {"gender": [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])]}
    return subject, sae, rec, features.BiasFeatures(features, gaps, labels, counts, torch.rand(48), {}, {})


def changed(method: methods.Method, h: Tensor, c: int) -> Tensor:
    return method.towards(c, 2.0)(h, Step(1, 500, torch.arange(0, len(h)))) - h


def test_every_method_is_the_identity_at_strength_0_and_moves_h_at_2(parts) -> None:
    subject, sae, rec, found = parts
    heads = Heads(torch.randn(STEPS, 2, *rec.h.shape[2:]), torch.zeros(STEPS, 2))
    rows = methods.dictionary_methods(
        subject, sae, rec, found, "gender", n_features=3, n_support=2, seed=0, steps=STEPS
    )
    rows += methods.dense_methods(
        rec, found, heads, torch.randn(2, STEPS, *rec.h.shape[2:]), "gender"
    )
    assert [m.name for m in rows] == [
        "DiffLens",
        "Act@S",
        "Attr@L",
        "Act@L",
        "random features",
        "mean difference",
        "h-classifier direction",
        "latent editing",
    ]
    h = rec.at(1)
    for method in rows:
        assert method.towards(1, 0.0)(h, Step(1, 500, torch.arange(0, 12))) is None, method.name
        assert changed(method, h, 1).abs().max() > 1e-4, method.name


def test_neurons_by_activation_are_the_largest_channels(parts) -> None:
    subject, sae, rec, found = parts
    rows = methods.dictionary_methods(
        subject, sae, rec, found, "gender", n_features=3, n_support=2, seed=0, steps=STEPS
    )
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
    rows = methods.dense_methods(
        rec, found, heads, torch.randn(2, STEPS, *rec.h.shape[2:]), "gender"
    )
    lengths = [changed(m, rec.at(1), 0)[0].norm().item() for m in rows]
    assert lengths == pytest.approx([lengths[0]] * 3, rel=1e-3)


def test_scaling_turns_the_latents_of_the_class_up_and_the_others_down(parts) -> None:
    _, sae, rec, found = parts
    chosen, gaps = found.features["gender"], found.gaps["gender"]
    more = gaps[1].sum((0, 1))[chosen[1]] > 0
    h = rec.at(1)
    want = edits.compose(
        *[
            edits.steer(sae, part, beta)
            for part, beta in ((chosen[1][more], 1.7), (chosen[1][~more], 0.3))
            if len(part)
        ]
    )
    moved = methods.scaled("scale", sae, chosen, gaps).towards(1, 0.7)(
        h, Step(1, 500, torch.arange(0, 12))
    )
    torch.testing.assert_close(moved, want(h, Step(1, 500, torch.arange(0, 12))))
    assert (
        methods.scaled("scale", sae, chosen, gaps).towards(1, 0.0)(h, Step(1, 500, torch.arange(0, 12)))
        is None
    )


def test_without_features_there_is_no_edit() -> None:
    model = tiny.ksae()
    nobody = methods.shifted(
        "none", model, [torch.empty(0, dtype=torch.int64)], [torch.rand(1, 4, 48)]
    )
    assert nobody.towards(0, 2.0)(torch.rand(2, 24, 2, 2), Step(0, 500, torch.arange(0, 2))) is None


def test_names_as_keys() -> None:
    key = lambda name: methods.Method(name, lambda c, b: edits.compose()).key  # noqa: E731
    assert [key(n) for n in ("DiffLens", "Act@L", "latent editing", "H-Distribution")] == [
        "difflens",
        "act_at_l",
        "latent_editing",
        "h_distribution",
    ]
