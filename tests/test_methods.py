from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import attribution, edits, features, methods
from difflens_utils import recording as activations
from difflens_utils.ksae import KSAE, Neurons
from difflens_utils.methods import dense, latent_editing
from difflens_utils.probes import Heads
from difflens_utils.sampling import Step
from difflens_utils.settings import Seeds, Settings
from difflens_utils.subjects.attribute import Attribute

STEPS = 3


class Tiny:
    """What methods read of a study: a tiny subject with a k-SAE, and features as if found."""

    settings = Settings(n_features=3, n_support=2, steps=STEPS)
    seeds = Seeds.of(0)

    def __init__(self) -> None:
        self.changes: list[dict[str, object]] = []
        self.subject, self.sae = tiny.subject(), tiny.ksae()
        self.rec = activations.record(self.subject, 12, 0, STEPS)
        self.known = {"gender": torch.arange(12) % 2}
        others = self.subject.unrelated("gender")
        self.seen = {name: torch.arange(12) // 5 % 2 for name in others} | self.known
        self.counts = {"gender": torch.tensor([6, 6])}
        means = self.class_means(self.sae, "gender")
        self.gaps = [features.contrast(means, c, self.counts["gender"]) for c in (0, 1)]
        self.learned = torch.randn(2, STEPS, *self.rec.h.shape[2:])
        self.classifiers = Heads(
            torch.randn(STEPS, 2, *self.rec.h.shape[2:]), torch.zeros(STEPS, 2)
        )

    def recording(self, stage: str) -> activations.Recording:
        return self.rec

    def class_means(self, dictionary: KSAE | Neurons, attribute: str) -> Tensor:
        return features.class_means(self.rec, dictionary, self.known, {"gender": 2})["gender"]

    def features(self, **changes: object) -> features.BiasFeatures:
        self.changes.append(changes)
        chosen = [torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6])]
        return features.BiasFeatures(
            self.sae,
            {"gender": chosen},
            {"gender": self.gaps},
            self.known,
            self.counts,
            torch.rand(48, generator=torch.Generator().manual_seed(0)),
            {},
            dict,
        )

    def labels(self, stage: str) -> dict[str, Tensor]:
        return self.known

    def attribute(self, name: str) -> Attribute:
        return Attribute(name, self.subject.classes(name))

    def heads(self) -> dict[str, Heads]:
        return {"gender": self.classifiers}

    def attribution(
        self, dictionary: KSAE | Neurons, attributes: tuple[str, ...]
    ) -> dict[str, attribution.Attribution]:
        support = attribution.Support(2, self.seeds.support, STEPS)
        return attribution.through_image(self.subject, dictionary, attributes, support)


@pytest.fixture
def study(store: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    made = Tiny()
    monkeypatch.setattr(latent_editing, "learn", lambda *_, **__: made.learned)
    monkeypatch.setattr(features, "labelled", lambda *_: made.seen)
    return made


def changed(method: methods.Method, h: Tensor, c: int) -> Tensor:
    return method.towards(c, 2.0)(h, Step(1, 500, torch.arange(0, len(h)))) - h


def dense_methods(study: Tiny) -> list[methods.Method]:
    return dense.rows(study, "gender") + latent_editing.rows(study, "gender")


def test_every_method_is_the_identity_at_strength_0_and_moves_h_at_2(study: Tiny) -> None:
    rows = methods.dictionary_methods(study, "gender") + dense_methods(study)
    assert [m.name for m in rows] == [
        "DiffLens",
        "Act@S",
        "Attr@L",
        "Act@L",
        "random decoder",
        "random features",
        "mean difference",
        "regression direction",
        "latent editing",
    ]
    h = study.rec.at(1)
    for method in rows:
        assert method.towards(1, 0.0)(h, Step(1, 500, torch.arange(0, 12))) is None, method.name
        assert changed(method, h, 1).abs().max() > 1e-4, method.name


def test_neurons_by_activation_are_the_largest_channels(study: Tiny) -> None:
    rec, rows = study.rec, methods.dictionary_methods(study, "gender")
    method = next(m for m in rows if m.name == "Act@L")
    h = torch.from_numpy(rec.h.copy()).float()
    zeros, ones = h[::2], h[1::2]  # images of class 0 and 1
    largest = ones.mean(0).abs().mean((0, 2, 3)).topk(3).indices
    moved = changed(method, rec.at(1), 1)
    assert set(moved.abs().sum((0, 2, 3)).nonzero().flatten().tolist()) == set(largest.tolist())
    want = 2 * (ones[:, 1].mean(0) - zeros[:, 1].mean(0))[largest]
    torch.testing.assert_close(moved[0, largest], want, atol=1e-3, rtol=1e-2)


def test_a_random_dictionary_is_made_when_an_edit_of_it_is_asked_for(study: Tiny) -> None:
    rows = methods.dictionary_methods(study, "gender")
    random = next(method for method in rows if method.name == "random decoder")
    assert study.changes == [{}] and random.recipe == {"random_decoder": True}
    moved = changed(random, study.rec.at(1), 1)
    changed(random, study.rec.at(1), 0)
    assert study.changes == [{}, {"random_decoder": True}]
    torch.testing.assert_close(moved, changed(rows[0], study.rec.at(1), 1))


def test_dense_methods_are_equally_long(study: Tiny) -> None:
    rows = dense_methods(study)
    lengths = [changed(m, study.rec.at(1), 0)[0].norm().item() for m in rows]
    h = torch.from_numpy(study.rec.h.copy()).double()[:, 1]
    longest = 2 * (h[::2].mean(0) - h[1::2].mean(0)).norm().item()  # at strength 2
    assert lengths == pytest.approx([longest] * 3, rel=1e-3)


def test_the_regression_direction_is_that_of_least_squares(study: Tiny) -> None:
    """H is a linear model of the class and of what the evaluators see beside it."""
    others = [study.seen[name] for name in study.subject.unrelated("gender")]
    columns = [np.eye(2)[study.known["gender"]], *(other.numpy()[:, None] for other in others)]
    h = study.rec.h[:, 1].reshape(12, -1).astype(np.float64)
    slopes = np.linalg.lstsq(np.hstack(columns), h, rcond=None)[0]
    assert others
    found = dense.partial(study, "gender")[1][1].flatten().double().numpy()
    np.testing.assert_allclose(found, slopes[1] - slopes[0], atol=1e-4)


def test_scaling_turns_the_latents_of_the_class_up_and_the_others_down(study: Tiny) -> None:
    found, h, step = study.features(), study.rec.at(1), Step(1, 500, torch.arange(12))
    chosen = found.features["gender"][1]
    more = study.gaps[1].sum((0, 1))[chosen] > 0
    halves = [
        (part, beta) for part, beta in ((chosen[more], 1.7), (chosen[~more], 0.3)) if len(part)
    ]
    want = edits.compose(*[edits.steer(study.sae, part, beta) for part, beta in halves])
    scaled = methods.scaled(found, "gender")
    torch.testing.assert_close(scaled.towards(1, 0.7)(h, step), want(h, step))
    assert scaled.towards(1, 0.0)(h, step) is None


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


def test_another_target_of_h_distribution_is_not_what_ships() -> None:
    heads = Heads(torch.zeros(STEPS, 2, 24, 4, 4), torch.zeros(STEPS, 2))
    assert methods.guided(heads, [0.5, 0.5]).recipe == {}
    assert methods.guided(heads, [0.9, 0.1]).recipe == {"target": [0.9, 0.1]}
