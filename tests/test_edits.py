from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from difflens_utils import edits, sampling
from difflens_utils.features import random_features, random_set
from difflens_utils.ksae import Neurons, map_to_vectors
from difflens_utils.probes import Heads
from difflens_utils.sampling import Step

STEP = Step(1, 500, torch.arange(2, 6))


@pytest.fixture
def h():
    return torch.randn(4, 24, 2, 2, generator=torch.Generator().manual_seed(1)) * 2


@pytest.fixture
def ksae():
    return tiny.ksae()


def by_hand(ksae, h, features, change):
    """h + sum_j (change(s_j) - s_j) d_j, in numpy float64 (Eq. 9)."""
    s = ksae.latents(map_to_vectors(h)).double().numpy()
    d = ksae.directions.double().numpy()
    out = map_to_vectors(h).double().numpy().copy()
    for j in features:
        out += (change(s[..., j], j) - s[..., j])[..., None] * d[j]
    return torch.from_numpy(out).transpose(1, 2).reshape(h.shape).float()


@pytest.mark.parametrize("beta", [0.0, 0.5, 3.0, -1.0])
def test_scale(ksae, h, beta):
    f = torch.tensor([3, 17, 40])
    torch.testing.assert_close(
        edits.steer(ksae, f, beta)(h, STEP),
        by_hand(ksae, h, f.tolist(), lambda s, j: beta * s),
        atol=1e-4,
        rtol=1e-4,
    )


def test_add_wakes_latents_and_stays_non_negative(ksae, h):
    f, unit = torch.tensor([3, 17]), torch.tensor([0.7, 2.0])
    for beta in (1.5, -4.0):
        got = edits.steer(ksae, f, beta, "add", unit)(h, STEP)
        amount = dict(zip(f.tolist(), unit.tolist(), strict=True))
        want = by_hand(ksae, h, f.tolist(), lambda s, j: np.maximum(s + beta * amount[j], 0))  # noqa: B023
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_add_with_a_unit_per_step_and_position(ksae, h):
    f = torch.tensor([5])
    unit = torch.zeros(3, 4, 1)
    unit[1, 2] = 1.0
    change = map_to_vectors(edits.steer(ksae, f, 2.0, "add", unit)(h, STEP) - h)
    torch.testing.assert_close(
        change[:, 2], (2 * ksae.directions[5]).expand(4, -1), atol=1e-4, rtol=1e-4
    )
    assert change[:, [0, 1, 3]].abs().max() < 1e-6


def test_identities_return_none(ksae, h):
    f = torch.tensor([1])
    assert edits.steer(ksae, f, 1)(h, STEP) is None
    assert edits.steer(ksae, f, 0, "add", torch.ones(1))(h, STEP) is None
    assert edits.push(torch.ones(3, 24, 2, 2), 0)(h, STEP) is None
    assert edits.compose(edits.steer(ksae, f, 1.0))(h, STEP) is None
    assert (
        edits.per_image({0: edits.steer(ksae, f, 1.0)}, torch.zeros(8, dtype=torch.long))(h, STEP)
        is None
    )


def test_edits_keep_shape_and_dtype(ksae, h):
    for edit in (
        edits.steer(ksae, torch.tensor([2]), 2.0),
        edits.push(torch.ones(3, 24, 2, 2), 1.0),
        edits.reconstruct(ksae),
    ):
        assert edit(h.bfloat16(), STEP).dtype == torch.bfloat16
    tokens = map_to_vectors(h)
    torch.testing.assert_close(
        edits.steer(ksae, torch.tensor([2]), 2.0)(tokens, STEP),
        map_to_vectors(edits.steer(ksae, torch.tensor([2]), 2.0)(h, STEP)),
    )


def test_per_image_edits_only_its_class(ksae, h):
    classes = torch.tensor([9, 9, 0, 1, 2, 0])  # rows 2..5 are this batch
    got = edits.per_image(
        {0: edits.push(torch.ones(3, 24, 2, 2), 1.0), 1: edits.push(torch.ones(3, 24, 2, 2), -1.0)},
        classes,
    )(h, STEP)
    for i, shift in enumerate((1.0, -1.0, 0.0, 1.0)):
        torch.testing.assert_close(got[i], h[i] + shift)


def test_only_and_compose(h):
    up = edits.push(torch.ones(3, 24, 2, 2), 1.0)
    assert edits.only(up, [0, 2])(h, STEP) is None
    torch.testing.assert_close(edits.compose(edits.only(up, [1]), up)(h, STEP), h + 2)


def test_reconstruct_is_the_autoencoder(ksae, h):
    torch.testing.assert_close(
        map_to_vectors(edits.reconstruct(ksae)(h, STEP)), ksae(map_to_vectors(h))
    )


def test_neurons_are_steered_like_latents(h):
    """Channel 3 twice as large, channel 5 lower by 1 even below zero; nothing else moves."""
    neurons, want = Neurons(24), h.clone()
    want[:, 3] *= 2
    want[:, 5] -= 1
    twice = edits.steer(neurons, torch.tensor([3]), 2.0)
    lower = edits.steer(neurons, torch.tensor([5]), -1.0, "add", torch.ones(1))
    torch.testing.assert_close(edits.compose(twice, lower)(h, STEP), want)


@pytest.fixture
def heads():
    g = torch.Generator().manual_seed(2)
    return Heads(torch.randn(3, 3, 24, 2, 2, generator=g) * 0.2, torch.randn(3, 3, generator=g))


def test_guidance_is_the_gradient_of_chi_square(heads, h):
    """Against autograd in float64: every image gets B times its part of the batch's gradient."""
    target, temperature = (0.2, 0.3, 0.5), 2.0
    leaf = h.double().requires_grad_(True)
    p = (
        (
            (leaf.flatten(1) @ heads.weight[1].double().flatten(1).T + heads.bias[1].double())
            / temperature
        )
        .softmax(-1)
        .mean(0)
    )
    r = torch.tensor(target, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(((p - r).square() / r).sum(), leaf)
    got = edits.guide(heads, target, 0.7, temperature)(h, STEP)
    torch.testing.assert_close(
        got, (leaf - 0.7 * len(h) * gradient).float().detach(), atol=1e-5, rtol=1e-4
    )
    assert edits.guide(heads, target, 0.0)(h, STEP) is None


def test_guidance_brings_the_mean_answer_to_the_target(heads, h):
    soft = Heads(
        heads.weight * 0.2, heads.bias
    )  # answers that are not certain, so that every image has a slope
    target, current = (0.6, 0.2, 0.2), h
    before = soft.logits(current, 1).softmax(-1).mean(0)
    for _ in range(300):
        current = edits.guide(soft, target, 0.5, 1.0)(current, STEP)
    reached = soft.logits(current, 1).softmax(-1).mean(0)
    assert (before - torch.tensor(target)).abs().max() > 0.1
    torch.testing.assert_close(reached, torch.tensor(target), atol=0.02, rtol=0)


def test_draw_classes_follows_the_target():
    drawn = edits.draw_classes(20_000, (0.2, 0.5, 0.3), 0)
    assert (drawn.bincount() - torch.tensor([4000, 10_000, 6000])).abs().max() <= 1
    assert torch.equal(drawn, edits.draw_classes(20_000, (0.2, 0.5, 0.3), 0))
    assert not torch.equal(drawn, edits.draw_classes(20_000, (0.2, 0.5, 0.3), 1))
    runs = (
        (drawn[1:] == drawn[:-1]).double().mean().item()
    )  # neighbours are alike as often as if drawn independently
    assert runs == pytest.approx(0.2**2 + 0.5**2 + 0.3**2, abs=0.02)
    assert edits.draw_classes(50, (1.0, 0.0), 0).tolist() == [0] * 50


def test_draw_classes_for_whole_batches():
    drawn = edits.draw_classes(70, (0.4, 0.6), 0, group=16)
    assert drawn.shape == (70,) and all(len(set(batch.tolist())) == 1 for batch in drawn.split(16))
    assert drawn[::16].bincount().tolist() in ([2, 3], [3, 2])


def test_random_features_match_density_and_differ():
    density = torch.rand(300, generator=torch.Generator().manual_seed(0))
    features = torch.tensor([5, 80, 200])
    chosen = random_features(features, density, 1)
    assert len(set(chosen.tolist()) | set(features.tolist())) == 6
    assert (density[chosen] - density[features]).abs().max() < 0.1
    assert not torch.equal(chosen, random_features(features, density, 2))
    assert random_features(features[:0], density, 1).dtype == torch.int64
    with pytest.raises(ValueError, match="latents must be more than 4"):
        random_features(torch.tensor([0, 1, 2]), torch.rand(4), 1)


def test_a_random_set_may_hold_what_it_stands_for():
    density = torch.linspace(0, 1, 12)
    features = torch.arange(12)
    assert sorted(random_set(features, density, 1).tolist()) == list(range(12))
    few = [set(random_set(features[:3], density, seed).tolist()) for seed in range(40)]
    assert all(len(drawn) == 3 for drawn in few) and any(drawn & {0, 1, 2} for drawn in few)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda k: edits.steer(k, torch.tensor([0]), 2, "multiply"),
            "mode must be one of scale, add",
        ),
        (lambda k: edits.steer(k, torch.tensor([], dtype=torch.long), 2), "features must"),
        (lambda k: edits.steer(k, torch.tensor([0]), 2, "add"), "unit must"),
        (lambda k: edits.draw_classes(5, (0.5, 0.6), 0), "target must"),
        (
            lambda k: edits.guide(Heads(torch.zeros(1, 2, 1), torch.zeros(1, 2)), (1.0, 0.0), 1.0),
            "a share above 0",
        ),
        (lambda k: Neurons(0), "width must"),
    ],
)
def test_bad_input(ksae, call, match):
    with pytest.raises(ValueError, match=match):
        call(ksae)


def test_an_edit_of_the_network_is_for_the_symmetric_step_and_alone() -> None:
    """With the asymmetric step, or among other edits, it would change nothing, without a word."""
    subject = tiny.subject()
    edit = edits.adapt({"conv_in.weight": torch.ones_like(subject.network.conv_in.weight)}, 1.0)
    with pytest.raises(ValueError, match="take asymmetric=False"):
        sampling.sample(subject, 1, steps=2, edit=edit)
    moved = sampling.sample(subject, 1, steps=2, edit=edit, asymmetric=False)
    assert not torch.equal(moved, sampling.sample(subject, 1, steps=2))
    whole = torch.zeros(1, dtype=torch.int64)
    for combine in (
        lambda e: edits.compose(e, e),
        lambda e: edits.only(e, [0]),
        lambda e: edits.per_image({0: e}, whole),
    ):
        with pytest.raises(ValueError, match="cannot be combined"):
            combine(edit)


def test_images_that_are_not_finite_are_refused() -> None:
    subject = tiny.subject(clip_sample=False)
    edit = edits.per_image(
        {1: edits.push(torch.full((2, 24, 4, 4), float("inf")), 1.0)}, torch.tensor([0, 1, 1])
    )
    with pytest.raises(
        ValueError, match="tiny drew image 1 with values that are not finite, in torch.float32"
    ):
        sampling.sample(subject, 3, steps=2, edit=edit)


def test_an_edit_of_single_images_is_for_runs_of_their_number() -> None:
    change = edits.push(torch.ones(2, 24, 4, 4), 1.0)
    edit = edits.per_image({1: change}, torch.tensor([0, 1, 1]))
    for combined in (edit, edits.only(edit, [0]), edits.compose(edit, change)):
        with pytest.raises(ValueError, match="^edit is for runs of 3 images, got n=4$"):
            sampling.sample(tiny.subject(), 4, 0, steps=2, edit=combined)
    other = edits.per_image({1: change}, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="different numbers of images"):
        edits.compose(edit, other)


def test_other_rows_are_another_edit() -> None:
    one, two = (
        sampling.Edit(lambda h, step: h + 1, key="mine", rows=torch.tensor(rows))
        for rows in ([0], [1])
    )
    assert one.fingerprint() != two.fingerprint()
