from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor, nn

from difflens_utils import edits, sampling
from difflens_utils.sampling import Step, hooks


@pytest.fixture(scope="module")
def net():
    return tiny.network()


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def run(net, x):
    return net(x, torch.full((len(x),), 500), return_dict=False)[0]


def hooked(net) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_identity_edit_is_bit_exact(net, x):
    plain = run(net, x)
    with hooks.edit(net, "mid_block", lambda h, i: h.clone()):
        assert torch.equal(run(net, x), plain)
    with hooks.edit(net, "mid_block", lambda h, i: None):
        assert torch.equal(run(net, x), plain)


def test_edit_reaches_the_output_and_counts_calls_from_zero(net, x):
    seen = []
    with hooks.edit(net, "mid_block", lambda h, i: seen.append(i) or h + 1):
        assert not torch.equal(run(net, x), run(net, x) * 0) and seen == [0, 1]
        changed = run(net, x)
    assert not torch.allclose(changed, run(net, x))
    with hooks.edit(net, "mid_block", lambda h, i: seen.append(i)):
        run(net, x)
    assert seen[-1] == 0


def test_no_hooks_are_left_after_an_error(net, x):
    def broken(h, i):
        raise KeyError("user error")

    for context in (hooks.edit, hooks.fork):
        with pytest.raises(KeyError), context(net, "mid_block", broken):
            run(net, x)
    with pytest.raises(RuntimeError, match="boom"), hooks.record(net, "mid_block"):
        raise RuntimeError("boom")
    assert hooked(net) == 0


def test_two_generations_are_identical(net, x):
    def both():
        with hooks.record(net, "mid_block") as seen:
            return run(net, x), seen[0]

    (a, ha), (b, hb) = both(), both()
    assert torch.equal(a, b) and torch.equal(ha, hb)


def test_contexts_nest(net, x):
    with hooks.edit(net, "mid_block", lambda h, i: h * 2), hooks.record(net, "mid_block") as after:
        run(net, x)
    with hooks.record(net, "mid_block") as before:
        run(net, x)
    assert torch.equal(after[0], before[0] * 2)


def test_stop_skips_later_modules(net, x):
    called = []
    handle = net.up_blocks[0].register_forward_hook(lambda *a: called.append(1))
    with hooks.record(net, "mid_block", stop=True) as seen:
        run(net, x)
    handle.remove()
    assert not called and seen[0].shape == (3, 24, 4, 4)


def test_shape_and_dtype_must_be_kept(net, x):
    for wrong in (lambda h, i: h[:, :1], lambda h, i: h.double()):
        with pytest.raises(ValueError, match="must keep"), hooks.edit(net, "mid_block", wrong):
            run(net, x)


def test_never_called_is_an_error(net):
    with pytest.raises(RuntimeError, match="never called"), hooks.record(net, "mid_block"):
        pass


def test_unknown_module_names_the_closest(net):
    with pytest.raises(ValueError, match=r"module must be one of mid_block"):
        hooks.find(net, "midblock")


def test_fork_equals_two_passes_and_skips_the_first_half(net, x):
    change = lambda h, i: h + torch.linspace(0, 1, 24).reshape(1, -1, 1, 1)  # noqa: E731
    downs = []
    handle = net.down_blocks[0].register_forward_hook(lambda m, i, out: downs.append(len(out[0])))
    with hooks.fork(net, "mid_block", change) as forked:
        plain, edited = forked.split(run(net, x), len(x))
    handle.remove()
    assert downs == [3]
    with hooks.edit(net, "mid_block", change):
        expected = run(net, x)
    torch.testing.assert_close(plain, run(net, x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)


def test_fork_of_an_identity_leaves_every_bit(net, x):
    with hooks.fork(net, "mid_block", lambda h, i: None) as forked:
        out = run(net, x)
        assert forked.plain is None and torch.equal(out, forked.split(out, len(out))[1])
    assert torch.equal(out, run(net, x))


def test_fork_refuses_other_modules(net):
    with (
        pytest.raises(ValueError, match="cannot be forked"),
        hooks.fork(net, "down_blocks.0", lambda h, i: h),
    ):
        pass


def test_tuple_outputs_are_recorded_and_edited(net, x):
    with hooks.record(net, "down_blocks.1") as seen:
        run(net, x)
    with hooks.edit(net, "down_blocks.1", lambda h, i: h * 0):
        changed = run(net, x)
    assert seen[0].ndim == 4 and not torch.allclose(changed, run(net, x))


# ------------------------------------------------------------------------ edits in place

SUBJECTS = {
    "forked": lambda: tiny.subject(),
    "not forked": lambda: unforkable(),
    "guided": lambda: tiny.text_subject(),
    "guided, both halves": lambda: tiny.text_subject(edit_both=True),
}


def unforkable():
    # the same h, but only `mid_block` itself can be forked
    return replace(tiny.subject(), module="mid_block.resnets.1")


def in_place(h: Tensor, _step: Step) -> Tensor:
    return h.mul_(1.5).add_(0.3)


def out_of_place(h: Tensor, _step: Step) -> Tensor:
    return h * 1.5 + 0.3


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("kind", SUBJECTS)
def test_an_edit_in_place_is_the_same_edit(kind, asymmetric):
    subject = SUBJECTS[kind]()

    def images(edit):
        return sampling.sample(subject, 3, 0, steps=3, edit=edit, asymmetric=asymmetric)

    assert torch.equal(images(in_place), images(out_of_place))
    assert not torch.equal(images(in_place), images(None))


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("kind", SUBJECTS)
def test_what_an_edit_does_to_h_without_returning_it_changes_nothing(kind, asymmetric):
    subject = SUBJECTS[kind]()

    def spoils(h: Tensor, _step: Step) -> None:
        h.zero_()

    got = sampling.sample(subject, 3, 0, steps=3, edit=spoils, asymmetric=asymmetric)
    assert torch.equal(got, sampling.sample(subject, 3, 0, steps=3))


def test_who_watches_keeps_what_was_there_before_the_edit_and_cannot_change_it():
    subject, seen, kept = tiny.subject(), [], []
    plain = sampling.sample(subject, 2, 0, steps=2, watch=lambda h, x, step: seen.append(h))
    changed = {"steps": 2, "edit": in_place, "asymmetric": False}
    edited = sampling.sample(subject, 2, 0, **changed, watch=lambda h, x, step: kept.append(h))
    assert torch.equal(kept[0], seen[0]) and not torch.equal(edited, plain)

    def spoils(h: Tensor, x: Tensor, _step: Step) -> None:
        h.zero_(), x.zero_()

    assert torch.equal(sampling.sample(subject, 2, 0, steps=2, watch=spoils), plain)
    assert torch.equal(sampling.sample(subject, 2, 0, **changed, watch=spoils), edited)


def test_a_recording_is_not_changed_by_layers_that_work_in_place():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), hooks.record(net, "0") as seen:
        net(x)
    torch.testing.assert_close(seen[0], x @ net[0].weight.T + net[0].bias)
    assert (seen[0] < 0).any()


def test_edits_in_place_compose():
    h, step = torch.ones(2, 24, 2, 2), Step(0, 500, torch.arange(0, 2))
    edit = edits.compose(*[edits.only(_keyed(in_place), [0])] * 2)
    torch.testing.assert_close(edit(h, step), (h * 1.5 + 0.3) * 1.5 + 0.3)
    assert torch.equal(h, torch.ones(2, 24, 2, 2))
    chosen = edits.per_image({1: _keyed(in_place)}, torch.tensor([0, 1]))
    torch.testing.assert_close(chosen(h, step), torch.stack([h[0], h[1] * 1.5 + 0.3]))
    assert torch.equal(h, torch.ones(2, 24, 2, 2))


def _keyed(apply):
    return sampling.Edit(apply, key={"method": "test"})


HALVES = [slice(0, 2), slice(2, 4)]


def test_a_part_that_an_edit_leaves_alone_goes_on_as_it_is(net):
    """An edit of the second half only, by `fork` and by `edit`, against the whole done by hand."""
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    half = []

    def second(h: Tensor, _call: int) -> Tensor | None:
        half.append(h)
        return h + 1 if len(half) % 2 == 0 else None

    with hooks.edit(net, "mid_block", lambda h, i: torch.cat([h[:2], h[2:] + 1])):
        expected = run(net, x)
    with hooks.fork(net, "mid_block", second, HALVES) as forked:
        plain, edited = forked.split(run(net, x), 4)
    torch.testing.assert_close(plain, run(net, x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(edited, expected, atol=1e-5, rtol=1e-5)
    with hooks.edit(net, "mid_block", second, HALVES):
        torch.testing.assert_close(run(net, x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", [hooks.edit, hooks.fork])
def test_shape_and_dtype_must_be_kept_in_each_part(net, context):
    x = torch.zeros(4, 3, 16, 16)
    for wrong in (lambda h, i: h[:1, :1], lambda h, i: h[:1], lambda h, i: h.double()):
        with pytest.raises(ValueError, match="must keep"), context(net, "mid_block", wrong, HALVES):
            run(net, x)
