from __future__ import annotations

import pytest
import tiny
import torch

from difflens_utils import hooks


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
    with pytest.raises(ValueError, match="cannot be forked"), hooks.fork(net, "down_blocks.0", lambda h, i: h):
        pass


def test_tuple_outputs_are_recorded_and_edited(net, x):
    with hooks.record(net, "down_blocks.1") as seen:
        run(net, x)
    with hooks.edit(net, "down_blocks.1", lambda h, i: h * 0):
        changed = run(net, x)
    assert seen[0].ndim == 4 and not torch.allclose(changed, run(net, x))
