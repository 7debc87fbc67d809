from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from captum.attr import IntegratedGradients

from difflens_utils import attribution, edits, ksae, sampling
from difflens_utils.attribution import Aim, Support, Trial
from difflens_utils.ksae import map_to_vectors
from difflens_utils.probes import Heads
from difflens_utils.recording import Recording
from difflens_utils.sampling import hooks


@pytest.fixture
def parts():
    """Three steps of h (5 images, 24 x 2 x 2), heads of three classes, and a k-SAE."""
    g = torch.Generator().manual_seed(4)
    h = torch.randn(5, 3, 24, 2, 2, generator=g) * 2
    heads = Heads(torch.randn(3, 3, 24, 2, 2, generator=g) * 0.2, torch.randn(3, 3, generator=g))
    return (
        Recording("key", h.numpy(), torch.zeros(5, 3, 16, 16), (900, 500, 100)),
        heads,
        tiny.ksae(),
    )


def captum_scores(recording, heads, ksae, baseline, target, steps):
    """The same by captum: a forward and a backward pass of decoder and head per point."""
    total = torch.zeros(ksae.config.latents, dtype=torch.float64)
    model = tiny.ksae().double()
    for step in range(3):
        s = model.latents(map_to_vectors(recording.at(step)).double())
        start = torch.zeros_like(s) if baseline == "zero" else s.mean(0, keepdim=True).expand_as(s)
        weight, bias = map_to_vectors(heads.weight[step]).double(), heads.bias[step].double()

        def forward(z, weight=weight, bias=bias):
            logits = torch.einsum("bpd,cpd->bc", model.decode(z), weight) + bias
            return logits.softmax(-1)

        ig = IntegratedGradients(forward).attribute(
            s, start, target=target, n_steps=steps, method="gausslegendre"
        )
        total += ig.sum((0, 1)) / len(s)
    return total


@pytest.mark.parametrize("at_once", [2, 64])
@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("target", [0, 2])
def test_closed_form_equals_captum(parts, baseline, target, at_once, monkeypatch):
    monkeypatch.setattr("difflens_utils.recording.AT_ONCE", at_once)
    recording, heads, ksae = parts
    ours = attribution.through_head(heads, ksae, recording, torch.arange(5), baseline, points=32)
    torch.testing.assert_close(
        ours.scores[target].double(),
        captum_scores(recording, heads, ksae, baseline, target, 32),
        atol=1e-5,
        rtol=1e-4,
    )


def test_images_are_said_by_number_or_by_a_mask(parts):
    recording, heads, ksae = parts
    mask = torch.tensor([True, False, True, False, False])
    by_mask, by_number = (
        attribution.through_head(heads, ksae, recording, rows).scores
        for rows in (mask, torch.tensor([0, 2]))
    )
    assert torch.equal(by_mask, by_number)


def test_completeness(parts):
    recording, heads, ksae = parts
    result = attribution.through_head(heads, ksae, recording, range(5))
    assert result.gap.max() < 1e-3
    torch.testing.assert_close(result.by_step.sum(1), result.scores)
    torch.testing.assert_close(result.by_position.sum(1), result.scores, atol=1e-6, rtol=1e-4)


def test_scores_of_all_classes_cancel(parts):
    """Probabilities sum to 1, so what one class gains the others lose."""
    recording, heads, ksae = parts
    scores = attribution.through_head(heads, ksae, recording, torch.arange(5)).scores
    torch.testing.assert_close(scores.sum(0), torch.zeros(48), atol=1e-6, rtol=0)


def test_latents_that_never_fire_get_nothing(parts):
    recording, heads, ksae = parts
    scores = attribution.through_head(heads, ksae, recording, torch.arange(5)).scores
    fired = torch.stack([ksae.latents(recording.vectors(s)).sum(0) for s in range(3)]).sum(0) > 0
    assert (~fired).any() and scores[:, ~fired].abs().max() == 0


def test_gauss_legendre_integrates_polynomials():
    nodes, weights = attribution.quadrature(4)
    for degree in range(8):
        assert abs((weights * nodes**degree).sum().item() - 1 / (degree + 1)) < 1e-12


def test_the_left_sum_is_the_released_codes_rule():
    nodes, weights = attribution.quadrature(10, "left")
    assert nodes.tolist() == pytest.approx(
        np.arange(10) / 10
    ) and weights.tolist() == pytest.approx([0.1] * 10)
    with pytest.raises(ValueError, match="rule must be one of gauss, left"):
        attribution.quadrature(10, "right")


def test_the_left_sum_approaches_the_integral_as_one_over_its_points(parts):
    """The closed form's gap is nothing, the left sum's halves when its points double."""
    recording, heads, ksae = parts

    def gap(*how):
        rows = torch.arange(5)
        return (
            attribution.through_head(heads, ksae, recording, rows, "zero", *how).gap.mean().item()
        )

    assert gap(32) < 1e-5
    assert gap(20, "left") / gap(40, "left") == pytest.approx(2.0, rel=0.1)


def test_the_slope_of_a_head_is_its_derivative(parts):
    recording, heads, ksae = parts
    slope = attribution.slope_of_head(heads, ksae)
    h = recording.at(1)
    moved = h.clone()
    moved[..., 1, 0] += ksae.directions[5]  # latent 5 up by one at position 2
    change = (heads.logits(moved, 1) - heads.logits(h, 1)).mean(0)
    torch.testing.assert_close(slope[:, 1, 2, 5], change - change.mean(), atol=1e-4, rtol=1e-3)


def test_unknown_baseline(parts):
    with pytest.raises(ValueError, match="baseline must be one of zero, mean"):
        attribution.through_head(parts[1], parts[2], parts[0], torch.arange(2), "noise")


def test_image_gradient_is_the_effect_of_scaling(store):
    """At beta = 1, the local score is the derivative of the labeller's log-probability.

    A finite difference agrees.
    """
    subject, sae = tiny.subject(clip_sample=False), tiny.ksae()
    result = attribution.through_image(subject, sae, ("gender",), Support(2, 0, 2))["gender"]
    s = sampling.schedule(subject.scheduler, 2)
    x = sampling.Noise(sampling.image_seeds(2, 0), subject.shape, torch.device("cpu")).draw()
    j = int(result.by_step[1, 0].abs().argmax())

    def outcome(beta):
        edit = edits.steer(sae, torch.tensor([j]), beta)
        with hooks.edit(
            subject.network,
            "mid_block",
            lambda h, i: edit(h, sampling.Step(0, s.timesteps[0], torch.arange(0, 2))),
        ):
            clean = sampling.predicted_clean(x, subject.epsilon(x, s.timesteps[0]), s, 0)
        return subject.labeller.logits(clean)["gender"].log_softmax(-1)[:, 1].double().mean().item()

    slope = (outcome(1.05) - outcome(0.95)) / 0.1
    assert np.isclose(slope, result.by_step[1, 0, j].item(), rtol=0.05)


def test_attribution_of_neurons_is_the_gradient_times_h(store):
    """Attr@L: with channels as the dictionary the same code must give h . d log p / d h.

    It is summed over positions.
    """
    subject = tiny.subject(clip_sample=False)
    support = Support(2, 0, 2)
    got = attribution.through_image(subject, ksae.Neurons(24), ("age",), support)["age"]
    s = sampling.schedule(subject.scheduler, 2)
    x = sampling.Noise(sampling.image_seeds(2, 0), subject.shape, torch.device("cpu")).draw()
    leaf: list[torch.Tensor] = []

    def keep(h: torch.Tensor, _call: int) -> torch.Tensor:
        leaf.append(h.detach().requires_grad_(True))
        return leaf[0]

    with hooks.edit(subject.network, "mid_block", keep):
        clean = sampling.predicted_clean(x, subject.epsilon(x, s.timesteps[0]), s, 0)
    (gradient,) = torch.autograd.grad(
        subject.labeller.logits(clean)["age"].log_softmax(-1)[:, 2].sum(), leaf[0]
    )
    torch.testing.assert_close(
        got.by_step[2, 0], (gradient * leaf[0]).sum((2, 3)).mean(0).detach(), atol=1e-5, rtol=1e-3
    )


def test_from_the_mean_baseline_what_all_images_share_scores_nothing(store):
    """One image is its own mean; of more, the scores are the covariance of latent and slope."""
    subject, sae = tiny.subject(clip_sample=False), tiny.ksae()

    def scored(n):
        return attribution.through_image(subject, sae, ("gender",), Support(n, 0, 2))["gender"]

    assert scored(1).from_mean.abs().max() < 1e-7
    two = scored(2)
    assert 0 < two.from_mean.abs().max() < two.scores.abs().max()


def test_integrated_image_scores_are_complete(store):
    subject, sae = tiny.subject(clip_sample=False), tiny.ksae()
    smooth = tiny.labeller("strided")  # GELU: quadrature converges slowly over the kinks of ReLU
    subject = replace(subject, evaluators=lambda: (smooth, smooth, None))
    support = Support(2, 0, 2, points=12)
    result = attribution.through_image(subject, sae, ("gender", "age"), support)
    assert set(result) == {"gender", "age"} and result["age"].scores.shape == (3, 48)
    for r in result.values():  # a relative gap means something where the measure changes
        assert r.gap[r.scores.sum(1).abs().argmax()] < 0.01


def test_a_measured_effect_is_that_of_the_edit_alone(store):
    """Each latent moved by three units in the full network, pass by pass, at one step."""
    subject, sae, chosen = tiny.subject(clip_sample=False), tiny.ksae(), torch.tensor([3, 11, 40])
    unit = torch.linspace(0.5, 1.5, 2 * 16 * 3).reshape(2, 16, 3)
    got = attribution.measured(
        subject, sae, Aim("age", 2), chosen, unit, Trial(4, seed=1, steps=2, at=(0,))
    )
    s = sampling.schedule(subject.scheduler, 2)
    x = sampling.Noise(sampling.image_seeds(4, 1), subject.shape, torch.device("cpu")).draw()

    def log_p(edit):
        with hooks.edit(
            subject.network,
            "mid_block",
            lambda h, _: edit(h, sampling.Step(0, s.timesteps[0], torch.arange(0, 4))),
        ):
            clean = sampling.predicted_clean(x, subject.epsilon(x, s.timesteps[0]), s, 0)
        return subject.labeller.logits(clean)["age"].log_softmax(-1)[:, 2]

    gains = torch.stack(
        [
            log_p(edits.steer(sae, chosen[i : i + 1], 3.0, "add", unit[..., i : i + 1]))
            - log_p(lambda h, _: h)
            for i in range(3)
        ]
    )
    torch.testing.assert_close(got.gains, gains, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(got.mean, gains.mean(1), atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(got.error, gains.std(1) / 2, atol=1e-5, rtol=1e-3)


def test_trials_share_one_unedited_way_on_which_every_image_keeps_its_text(store, monkeypatch):
    subject, trial = tiny.text_subject(), Trial(5, seed=3, steps=4, at=(1, 2))
    s = sampling.trajectory(subject, 4)
    way = [moment for moment, _ in sampling.unedited(subject, torch.arange(5), 3, s)]
    attribution._moments(subject, trial)
    monkeypatch.setattr(sampling, "unedited", None)  # nobody walks it again
    first, second = attribution._moments(subject, trial)
    for moment, walked in ((first, way[1]), (second, way[2])):
        assert torch.equal(moment.x, walked.x) and moment.index == walked.index
        assert moment.texts == walked.texts and 1 < len(set(moment.texts)) < 5


def test_a_latent_that_was_measured_is_not_measured_again(store, monkeypatch):
    subject, sae, unit, seen = tiny.subject(), tiny.ksae(), torch.rand(2, 16, 48), []
    real = attribution._gains
    monkeypatch.setattr(
        attribution, "_gains", lambda *args: seen.append(args[3].tolist()) or real(*args)
    )

    def measure(*latents, scale=1.0):
        return attribution.measured(
            subject,
            sae,
            Aim("age", 0),
            torch.tensor(latents, dtype=torch.long),
            unit[..., list(latents)] * scale,
            Trial(2, seed=0, steps=2, at=(1,)),
        )

    first, second = measure(5, 8), measure(9, 8, 5)
    assert seen == [[5, 8], [9]]
    assert torch.equal(second.mean[[2, 1]], first.mean) and torch.equal(
        second.error[[2, 1]], first.error
    )
    measure(8, scale=2.0)
    assert seen[2:] == [[8]] and len(measure().mean) == 0


def test_select_takes_the_best_positive_and_leaves_dense_latents_out():
    scores = torch.tensor([0.5, -1.0, 0.9, 0.1, 0.7])
    density = torch.tensor([0.1, 0.1, 0.8, 0.1, 0.2])
    assert attribution.select(scores, 3).tolist() == [2, 4, 0]
    assert attribution.select(scores, 3, density, 0.5).tolist() == [4, 0, 3]
    assert attribution.select(-scores.abs(), 3).tolist() == []
