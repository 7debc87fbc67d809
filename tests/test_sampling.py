from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import tiny
import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from difflens_utils import edits, sampling
from difflens_utils.analysis import mediation
from difflens_utils.runtime import keys
from difflens_utils.sampling import hooks, sampler
from difflens_utils.subjects import schedulers


@pytest.fixture(scope="module")
def subject():
    return tiny.subject()


def reference(subject, n, seed, steps, eta, x):
    """The same trajectory by diffusers' own scheduler."""
    scheduler = DDIMScheduler.from_config(subject.scheduler.config)
    scheduler.set_timesteps(steps)
    noise = sampling.Noise(sampling.image_seeds(n, seed), subject.shape, torch.device("cpu"))
    noise.draw()
    for t in scheduler.timesteps:
        variance = noise.draw() if eta else None
        x = scheduler.step(
            subject.epsilon(x, int(t)),
            int(t),
            x,
            eta=eta,
            use_clipped_model_output=True,
            variance_noise=variance,
        ).prev_sample
    return x.clamp(-1, 1)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("clip", [True, False])
def test_agrees_with_diffusers(eta, steps, clip):
    subject = tiny.subject(clip_sample=clip)
    x = sampling.Noise(sampling.image_seeds(2, 1), subject.shape, torch.device("cpu")).draw()
    ours = sampling.sample(subject, 2, 1, steps=steps, eta=eta)
    torch.testing.assert_close(ours, reference(subject, 2, 1, steps, eta, x), atol=2e-4, rtol=1e-4)


def test_previous_timestep_is_the_next_entry_where_diffusers_is_not():
    s = sampling.schedule(tiny.scheduler(), 50, spacing="linspace")
    assert s.timesteps[0] == 999 and s.timesteps[-1] == 0
    alphas = torch.cat([tiny.scheduler().alphas_cumprod[list(s.timesteps)], torch.ones(1)])
    torch.testing.assert_close(s.keep.float() ** 2, alphas)
    torch.testing.assert_close(s.keep**2 + s.spread**2, torch.ones(51, dtype=torch.float64))


@pytest.mark.parametrize("spacing", schedulers.SPACINGS)
def test_timesteps_equal_diffusers(spacing):
    """At numbers of steps that divide T and that do not.

    diffusers makes one timestep too many of 61 and 998 trailing steps, -1.
    """
    for offset, numbers in (
        (0, (1, 2, 3, 7, 16, 20, 32, 50, 61, 300, 998, 1000)),
        (1, (1, 20, 50, 999)),
    ):
        scheduler = tiny.scheduler(timestep_spacing=spacing, steps_offset=offset)
        for steps in numbers:
            scheduler.set_timesteps(steps)
            theirs = [t for t in scheduler.timesteps.tolist() if t >= 0]
            assert list(sampling.schedule(scheduler, steps).timesteps) == theirs


def test_an_offset_beyond_the_last_noise_level_is_refused():
    with pytest.raises(
        ValueError,
        match="^steps=1000 with steps_offset 1 starts at timestep 1000, and the last one is 999",
    ):
        sampling.schedule(tiny.scheduler(steps_offset=1), 1000)


# --------------------------------------------------------------------------------------------------
# The model's own sampler, beside diffusers'

CLIPPED = {
    "no clipping": {"clip_sample": False},
    "clipping": {"clip_sample": True, "clip_sample_range": 0.7},
    "thresholding": {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 1.5,
    },
}


def by_hand(subject, n, seed, steps):
    """x_0 by diffusers' DDIMScheduler of the same settings, epsilon from the clipped image.

    Its previous timestep is t - T // steps. The timesteps of linspace over 4 steps lie 333 apart,
    so that is the next one of them where it takes the number of steps for 3.
    """
    scheduler = DDIMScheduler(
        **{k: v for k, v in subject.scheduler.config.items() if not k.startswith("_")}
    )
    scheduler.set_timesteps(steps)
    scheduler.num_inference_steps = 3 if subject.spacing == "linspace" else steps
    x = sampling.Noise(sampling.image_seeds(n, seed), subject.shape, torch.device("cpu")).draw()
    for t in scheduler.timesteps:
        said = subject.network(x, t).sample
        x = scheduler.step(said, t, x, use_clipped_model_output=True).prev_sample
    return x.clamp(-1, 1)


@pytest.mark.parametrize("spacing", schedulers.SPACINGS)
@pytest.mark.parametrize(
    ("predicts", "zero_snr"),
    [
        ("epsilon", False),
        ("v_prediction", False),
        ("v_prediction", True),
        ("sample", False),
        ("sample", True),
    ],
)
@pytest.mark.parametrize("clipped", CLIPPED)
def test_every_setting_of_the_models_sampler_is_honoured(spacing, predicts, clipped, zero_snr):
    subject = tiny.subject(
        timestep_spacing=spacing,
        prediction_type=predicts,
        rescale_betas_zero_snr=zero_snr,
        **CLIPPED[clipped],
    )
    ours = sampling.sample(subject, 2, 1, steps=4)
    assert ours.isfinite().all() and ours.std() > 0.05
    torch.testing.assert_close(ours, by_hand(subject, 2, 1, 4), atol=1e-5, rtol=1e-5)


def test_ours_is_the_pipeline_that_takes_epsilon_from_the_clipped_image():
    """What the how-to says: by default `DDIMPipeline` keeps the network's epsilon."""
    subject = tiny.subject(clip_sample=True)
    pipeline = DDIMPipeline(subject.network, subject.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def theirs(**how):
        generators = [torch.Generator().manual_seed(s) for s in sampling.image_seeds(2, 1)]
        images = pipeline(
            2, generator=generators, num_inference_steps=4, output_type="np", **how
        ).images
        return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1

    ours = sampling.sample(subject, 2, 1, steps=4)
    torch.testing.assert_close(ours, theirs(use_clipped_model_output=True), atol=1e-5, rtol=0)
    assert (ours - theirs()).abs().max() > 0.05


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 5), ("trailing", 7)])
def test_steps_lead_to_the_next_timestep_where_diffusers_leads_elsewhere(spacing, steps):
    """What the how-to says. With our steps a perfect network stays on its way to its image."""
    subject, image = (
        tiny.subject(timestep_spacing=spacing, clip_sample=False),
        torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16),
    )
    alphas, seen = subject.scheduler.alphas_cumprod, []

    def perfect(x, timestep, **_):
        a = alphas[int(timestep.flatten()[0])]
        seen.append(((x - a.sqrt() * image) / (1 - a).sqrt()).std().item())
        return ((x - a.sqrt() * image) / (1 - a).sqrt(),)

    subject.network.forward = perfect
    sampling.sample(subject, 1, 0, steps=steps)
    assert max(seen) - min(seen) < 1e-3  # the noise is as large as its timestep says, all the way
    seen.clear()
    subject.scheduler.set_timesteps(steps)
    x = sampling.Noise(sampling.image_seeds(1, 0), subject.shape, torch.device("cpu")).draw()
    for t in subject.scheduler.timesteps:
        x = subject.scheduler.step(perfect(x, t)[0], t, x).prev_sample
    assert max(seen) - min(seen) > 1e-3


LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
OTHERS = {  # the first as published with Stable Diffusion 1.5
    "pndm": (
        PNDMScheduler(**LATENT, steps_offset=1, skip_prk_steps=True, set_alpha_to_one=False),
        "leading",
        False,
    ),
    "euler": (EulerDiscreteScheduler(**LATENT, prediction_type="v_prediction"), "linspace", True),
    "dpm": (
        DPMSolverMultistepScheduler(
            **LATENT,
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            prediction_type="v_prediction",
            final_sigmas_type="sigma_min",
        ),
        "trailing",
        False,
    ),
    "ddpm": (DDPMScheduler(beta_schedule="sigmoid", clip_sample=True), "leading", True),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_samplers_are_read_as_ddim_over_the_same_noise_levels(name):
    theirs, spacing, to_one = OTHERS[name]
    ours = schedulers.as_ddim(theirs, name)
    assert (
        ours.config.timestep_spacing,
        ours.config.set_alpha_to_one,
        ours.config.clip_sample,
    ) == (spacing, to_one, name == "ddpm")
    assert (
        ours.config.prediction_type == theirs.config.prediction_type
        and ours.config.steps_offset == theirs.config.steps_offset
    )
    torch.testing.assert_close(ours.alphas_cumprod[:-1], theirs.alphas_cumprod[:-1], atol=0, rtol=0)
    if name != "dpm":
        theirs.set_timesteps(20)
        # PNDM visits its second timestep twice, and Euler's of linspace are not rounded
        assert list(dict.fromkeys(theirs.timesteps.round().long().tolist())) == list(
            sampling.schedule(ours, 20).timesteps
        )


@pytest.mark.parametrize(
    ("scheduler", "told"),
    [
        (
            EulerDiscreteScheduler(use_karras_sigmas=True),
            "use_karras_sigmas is True, which DDIM steps cannot honour; set it to False",
        ),
        (
            EulerDiscreteScheduler(timestep_type="continuous"),
            "timestep_type is 'continuous', which DDIM steps cannot honour",
        ),
        (DPMSolverMultistepScheduler(lambda_min_clipped=-5.1), "lambda_min_clipped is -5.1"),
        (LCMScheduler(), "LCMScheduler cannot be read as steps"),
        (
            DDIMScheduler(rescale_betas_zero_snr=True),
            "rescale_betas_zero_snr leaves nothing of the image at the last timestep, where the "
            "prediction_type epsilon says nothing",
        ),
        (
            DDIMScheduler(3, trained_betas=[0.1, 0.5, 1.0]),
            "trained_betas leaves nothing of the image",
        ),
        (
            DDIMScheduler(trained_betas=[0.1, 0.5]),
            "trained_betas has 2 values, and num_train_timesteps is 1000",
        ),
        (
            DDIMScheduler(3, trained_betas=[0.1, 0.5, 1.5]),
            "the betas must lie between 0 and 1; they go from 0.1 to 1.5",
        ),
        (DDIMScheduler(timestep_spacing="even"), "timestep_spacing must be one of"),
        (DDIMScheduler(prediction_type="flow_prediction"), "prediction_type must be one of"),
    ],
)
def test_what_ddim_cannot_honour_is_refused_in_one_line(scheduler, told):
    with pytest.raises(ValueError, match=f"^here/scheduler_config.json: {told}") as error:
        schedulers.as_ddim(scheduler, "here/scheduler_config.json")
    assert "\n" not in str(error.value)


def test_an_edit_steers_where_nothing_of_the_image_is_left():
    """At zero terminal SNR the first step of a velocity starts from noise alone: x_0 is -v."""
    subject = tiny.subject(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    s, x = (
        sampling.trajectory(subject, 4),
        sampling.Noise([5], (3, 16, 16), torch.device("cpu")).draw(),
    )
    assert s.timesteps[0] == 999 and s.keep[0] == 0
    with hooks.edit(subject.network, "mid_block", lambda h, _call: h + 0.5):
        edited = subject.network(x, 999).sample
    torch.testing.assert_close(sampling.predicted_clean(x, edited, s, 0), -edited)
    moved = sampling.sample(subject, 1, 0, steps=4, edit=lambda h, _step: h + 0.5)
    assert moved.isfinite().all() and not torch.allclose(
        moved, sampling.sample(subject, 1, 0, steps=4), atol=1e-3
    )
    images = list(torch.rand(3, 1, 3, 16, 16))
    (moved,) = mediation._moved(subject, ["mid_block"], images, x, 999, [""])
    whole, through_h, control = moved
    assert whole.abs() < 1e-6  # there both images are the same noise
    assert through_h.isfinite() and control.isfinite()


def test_images_are_paired_whatever_the_batch(subject):
    a = sampling.sample(subject, 5, 3, steps=3, batch=5)
    b = sampling.sample(subject, 5, 3, steps=3, batch=2)
    c = sampling.sample(subject, 3, 3, steps=3)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(a[:3], c, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(a, sampling.sample(subject, 5, 4, steps=3))


@pytest.mark.parametrize("asymmetric", [True, False])
def test_some_of_the_images_are_the_same_as_among_all(subject, asymmetric):
    edit = edits.per_image(
        {1: edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)}, torch.tensor([0, 1, 0, 0, 1])
    )
    rows, options = torch.tensor([4, 1, 2]), {"steps": 3, "edit": edit, "asymmetric": asymmetric}
    torch.testing.assert_close(
        sampling.sample(subject, 5, 7, rows=rows, batch=2, **options),
        sampling.sample(subject, 5, 7, **options)[rows],
    )


@pytest.mark.parametrize("asymmetric", [True, False])
def test_identity_edit_leaves_every_bit(subject, asymmetric):
    plain = sampling.sample(subject, 3, 0, steps=4)
    ksae = tiny.ksae()
    for edit in (
        edits.steer(ksae, torch.tensor([0, 1, 2]), 1.0),
        edits.push(torch.ones(4, 24, 4, 4), 0.0),
        edits.steer(ksae, torch.tensor([1]), 0.0, "add", torch.ones(1)),
    ):
        assert torch.equal(
            sampling.sample(subject, 3, 0, steps=4, edit=edit, asymmetric=asymmetric), plain
        )


def test_asymmetric_step_follows_equation_11(subject):
    """One step, by hand and in float64: P_t from the edited epsilon, D_t from the unedited one."""
    s = sampling.schedule(tiny.scheduler(clip_sample=False), 4)
    x = sampling.Noise([5], subject.shape, torch.device("cpu")).draw()
    push = sampling.Edit(lambda h, step: h + 0.5)
    plain = subject.epsilon(x, s.timesteps[1]).double()
    with hooks.edit(subject.network, "mid_block", lambda h, i: h + 0.5):
        edited = subject.epsilon(x, s.timesteps[1]).double()
    alphas = tiny.scheduler().alphas_cumprod.double()
    a, b = alphas[s.timesteps[1]], alphas[s.timesteps[2]]
    expected = b.sqrt() * (x.double() - (1 - a).sqrt() * edited) / a.sqrt() + (1 - b).sqrt() * plain
    step = sampling.Step(1, s.timesteps[1], torch.arange(0, 1))
    run = sampler._Run(subject, s, 4, push, True, None, [""], [5], eta=0.0)
    moment = sampling.Moment(subject, x, [""], s, 1)
    got_plain, got_edited = sampler._predictions(run, moment, step)
    clean, direction = moment.clean(got_edited), moment.clean(got_plain)
    torch.testing.assert_close(
        sampling.advance(x, clean, direction, s, 1).double(), expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("ends_clean", "rows"), [(True, [4, 4, 2]), (False, [4, 4, 4])])
def test_a_step_without_a_direction_asks_the_network_once(subject, ends_clean, rows):
    """The rows behind the module in each of three steps of two images, which are those by hand."""
    studied = replace(subject, scheduler=tiny.scheduler(set_alpha_to_one=ends_clean))
    s, h_edit = sampling.trajectory(studied, 3), lambda h, _call: h + 0.5
    seen: list[int] = []
    counting = subject.network.up_blocks[0].register_forward_hook(
        lambda _module, _args, output: seen.append(len(output))
    )
    got = sampling.sample(studied, 2, 0, steps=3, edit=lambda h, _step: h + 0.5)
    counting.remove()
    assert seen == rows
    x = sampling.Noise(sampling.image_seeds(2, 0), subject.shape, torch.device("cpu")).draw()
    for index, t in enumerate(s.timesteps):
        plain = sampling.predicted_clean(x, subject.epsilon(x, t), s, index)
        with hooks.edit(subject.network, "mid_block", h_edit):
            edited = sampling.predicted_clean(x, subject.epsilon(x, t), s, index)
        x = sampling.advance(x, edited, plain, s, index)
    torch.testing.assert_close(got, x.clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_asymmetric_equals_two_passes_for_modules_that_cannot_be_forked(subject):
    push = lambda h, step: h * 1.5  # noqa: E731
    # the mid block's last layer: the same h by another name
    other = replace(tiny.subject(), module="mid_block.resnets.1")
    a = sampling.sample(subject, 2, 0, steps=3, edit=push)
    b = sampling.sample(other, 2, 0, steps=3, edit=push)
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_watch_sees_every_step_and_changes_nothing(subject):
    seen = []
    images = sampling.sample(
        subject,
        3,
        0,
        steps=4,
        batch=2,
        watch=lambda h, x, step: seen.append((step.index, h.shape, step.rows)),
    )
    assert [i for i, *_ in seen] == [0, 1, 2, 3] * 2
    assert seen[0][1] == (2, 24, 4, 4)
    assert [rows.tolist() for _, _, rows in seen] == [[0, 1]] * 4 + [[2]] * 4
    assert torch.equal(images, sampling.sample(subject, 3, 0, steps=4, batch=2))


@pytest.mark.parametrize(
    ("argument", "match"),
    [
        ({"n": 0}, "n must"),
        ({"n": 2, "steps": 0}, "steps must"),
        ({"n": 2, "steps": 2000}, "steps must"),
        ({"n": 2, "eta": 2.0}, "eta must"),
        ({"n": 2, "batch": 0}, "batch must"),
        ({"n": 2, "spacing": "even"}, "spacing must be one of"),
    ],
)
def test_bad_input_is_one_line(subject, argument, match):
    with pytest.raises(ValueError, match=match) as error:
        sampling.sample(subject, **argument)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------ edits and moments


def test_an_edit_is_called_like_a_function_and_known_by_its_key():
    edit = sampling.Edit(lambda h, step: h + step.index, key={"method": "test"})
    h = torch.zeros(2, 3)
    assert torch.equal(edit(h, sampling.Step(4, 100, torch.arange(2))), h + 4)
    assert edit.fingerprint() == {"method": "test"} and edit.rows is None
    assert not edit.moves_batches and not edit.changes_network


def test_an_edit_without_a_key_is_part_of_no_key():
    with pytest.raises(TypeError, match="^edit has no key: make it with a function of") as error:
        keys.digest({"edit": sampling.Edit(lambda h, step: None)})
    assert "\n" not in str(error.value)


def doubled_bias():
    """An edit of the network, which doubles the last layer's bias, and what it has seen."""
    seen = []

    @contextmanager
    def around(network):
        bias, seen[:] = network.conv_out.bias.data, [*seen, "open"]
        network.conv_out.bias.data = 2 * bias
        try:
            yield
        finally:
            network.conv_out.bias.data = bias
            seen.append("closed")

    return sampling.Edit(lambda h, step: None, around=around), seen


def test_an_edit_holds_its_change_of_the_network_around_every_step():
    subject, (edit, seen) = tiny.subject(), doubled_bias()
    subject.network.conv_out.bias.data.fill_(0.3)
    got = sampling.sample(subject, 2, 0, steps=3, edit=edit, asymmetric=False)
    assert edit.changes_network and seen == ["open", "closed"] * 3
    assert torch.equal(subject.network.conv_out.bias, torch.full((3,), 0.3))
    assert not torch.equal(got, sampling.sample(subject, 2, 0, steps=3))
    subject.network.conv_out.bias.data.fill_(0.6)
    assert torch.equal(got, sampling.sample(subject, 2, 0, steps=3))


def test_an_edit_of_the_network_has_no_asymmetric_step(subject):
    with pytest.raises(ValueError, match="^edit changes the network itself") as error:
        sampling.sample(subject, 2, 0, steps=3, edit=doubled_bias()[0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("module", ["mid_block", "mid_block.resnets.1"])
def test_the_clean_images_of_several_versions_are_those_of_every_version_alone(subject, module):
    """Two versions of h of three images, forked or not: each row meets the x_t of its image."""
    subject = replace(subject, module=module)
    s = sampling.trajectory(subject, 4)
    x = torch.randn(3, *subject.shape, generator=torch.Generator().manual_seed(0))
    moment = sampling.Moment(subject, x, [""] * 3, s, 2)
    plain, edited = moment.answers(lambda h, _call: torch.cat([h + 1, h * 2]))
    assert edited.shape == (6, *subject.shape)
    for rows, change in ((slice(0, 3), lambda h, _: h + 1), (slice(3, 6), lambda h, _: h * 2)):
        with moment.editing(change):
            alone = moment.clean(moment.predict())
        torch.testing.assert_close(moment.clean(edited)[rows], alone, atol=1e-4, rtol=1e-4)
    expected = moment.clean(moment.predict())
    torch.testing.assert_close(moment.clean(plain), expected, atol=1e-4, rtol=1e-4)


def test_the_unedited_trajectory_ends_at_the_sampled_images(subject):
    rows, s = torch.tensor([3, 1]), sampling.trajectory(subject, 4)
    *_, (moment, clean) = sampling.unedited(subject, rows, 7, s)
    assert (moment.index, moment.timestep) == (3, s.timesteps[3])
    last = sampling.advance(moment.x, clean, clean, s, moment.index).clamp(-1, 1)
    assert torch.equal(last, sampling.sample(subject, 4, 7, steps=4, rows=rows))
