from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from difflens_utils import edits, hooks, sampling


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


def reference(subject, n, seed, steps, eta, x):
    """The same trajectory by diffusers' own scheduler."""
    scheduler = DDIMScheduler.from_config(subject.scheduler.config)
    scheduler.set_timesteps(steps)
    noise = sampling._Noise(sampling.image_seeds(n, seed), subject.shape, torch.device("cpu"))
    noise.draw()
    for t in scheduler.timesteps:
        variance = noise.draw() if eta else None
        x = scheduler.step(subject.epsilon(x, int(t)), int(t), x, eta=eta, use_clipped_model_output=True,
                           variance_noise=variance).prev_sample
    return x.clamp(-1, 1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("clip", [True, False])
def test_agrees_with_diffusers(eta, steps, clip):
    subject = tiny.subject(clip_sample=clip)
    x = sampling._Noise(sampling.image_seeds(2, 1), subject.shape, torch.device("cpu")).draw()
    ours = sampling.sample(subject, 2, 1, steps=steps, eta=eta)
    torch.testing.assert_close(ours, reference(subject, 2, 1, steps, eta, x), atol=2e-4, rtol=1e-4)


def test_previous_timestep_is_the_next_entry_where_diffusers_is_not():
    s = sampling.schedule(tiny.scheduler(), 50, spacing="linspace")
    assert s.timesteps[0] == 999 and s.timesteps[-1] == 0
    torch.testing.assert_close(s.alpha_previous[:-1], s.alpha[1:])
    assert s.alpha_previous[-1] == 1


def test_timesteps_equal_diffusers_leading():
    scheduler = tiny.scheduler()
    scheduler.set_timesteps(20)
    assert list(sampling.schedule(scheduler, 20).timesteps) == scheduler.timesteps.tolist()


def test_images_are_paired_whatever_the_batch(subject):
    a = sampling.sample(subject, 5, 3, steps=3, batch=5)
    b = sampling.sample(subject, 5, 3, steps=3, batch=2)
    c = sampling.sample(subject, 3, 3, steps=3)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a[:3], c, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(a, sampling.sample(subject, 5, 4, steps=3))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_identity_edit_leaves_every_bit(subject, asymmetric):
    plain = sampling.sample(subject, 3, 0, steps=4)
    ksae = tiny.ksae()
    for edit in (edits.steer(ksae, torch.tensor([0, 1, 2]), 1.0), edits.push(torch.ones(4, 24, 4, 4), 0.0),
                 edits.steer(ksae, torch.tensor([1]), 0.0, "add", torch.ones(1))):
        assert torch.equal(sampling.sample(subject, 3, 0, steps=4, edit=edit, asymmetric=asymmetric), plain)


def test_asymmetric_step_follows_equation_11(subject):
    """One step, by hand and in float64: P_t from the edited epsilon, D_t from the unedited one."""
    s = sampling.schedule(tiny.scheduler(clip_sample=False), 4)
    x = sampling._Noise([5], subject.shape, torch.device("cpu")).draw()
    push = lambda h, step: h + 0.5  # noqa: E731
    plain = subject.epsilon(x, s.timesteps[1]).double()
    with hooks.edit(subject.network, "mid_block", lambda h, i: h + 0.5):
        edited = subject.epsilon(x, s.timesteps[1]).double()
    a, b = s.alpha[1], s.alpha_previous[1]
    expected = b.sqrt() * (x.double() - (1 - a).sqrt() * edited) / a.sqrt() + (1 - b).sqrt() * plain
    got_plain, got_edited = sampling._epsilons(subject, x, [""], sampling.Step(1, s.timesteps[1], slice(0, 1)), push, True, None)
    clean, direction = (sampling.predicted_clean(x, e, s, 1) for e in (got_edited, got_plain))
    torch.testing.assert_close(sampling.ddim_step(x, clean, direction, s, 1).double(), expected, atol=1e-4, rtol=1e-4)


def test_asymmetric_equals_two_passes_for_modules_that_cannot_be_forked(subject):
    push = lambda h, step: h * 1.5  # noqa: E731
    other = tiny.subject()
    other.module = "mid_block.resnets.1"  # the mid block's last layer: the same h by another name
    a = sampling.sample(subject, 2, 0, steps=3, edit=push)
    b = sampling.sample(other, 2, 0, steps=3, edit=push)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_watch_sees_every_step_and_changes_nothing(subject):
    seen = []
    images = sampling.sample(subject, 3, 0, steps=4, batch=2, watch=lambda h, x, step: seen.append((step.index, h.shape, step.rows)))
    assert [i for i, *_ in seen] == [0, 1, 2, 3] * 2 and seen[0][1] == (2, 24, 4, 4) and seen[4][2] == slice(2, 3)
    assert torch.equal(images, sampling.sample(subject, 3, 0, steps=4, batch=2))


@pytest.mark.parametrize(("argument", "match"), [({"n": 0}, "n must"), ({"n": 2, "steps": 0}, "steps must"), ({"n": 2, "steps": 2000}, "steps must"),
                                                 ({"n": 2, "eta": 2.0}, "eta must"), ({"n": 2, "batch": 0}, "batch must"),
                                                 ({"n": 2, "spacing": "even"}, "spacing must be one of")])
def test_bad_input_is_one_line(subject, argument, match):
    with pytest.raises(ValueError, match=match) as error:
        sampling.sample(subject, **argument)
    assert "\n" not in str(error.value)
