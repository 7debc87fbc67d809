"""What is stored of h, against what a watcher saw: values too large for float16, and no values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from difflens_utils import recording as activations
from difflens_utils import sampling
from difflens_utils.evaluators import AttributeNet
from difflens_utils.methods import latent_editing
from difflens_utils.runtime import shards
from difflens_utils.runtime.precision import halved
from difflens_utils.subjects.pipelines import Subject

N, STEPS, LIMIT = 6, 3, 65_504  # the largest value of float16


def with_module_output(change: Callable[[Tensor], Tensor]) -> Subject:
    subject = tiny.subject()
    subject.network.mid_block.register_forward_hook(lambda _module, _inputs, h: change(h))
    return subject


def large(h: Tensor) -> Tensor:
    """Some images at some steps far above what float16 holds."""
    return torch.where(h[:, :1, :1, :1] > 0, 1e6, 1.0) * h


def watched(subject: Subject) -> Tensor:
    """h (N, STEPS, C, H, W) float32 as the network made it."""
    seen: list[Tensor] = []
    watch = lambda h, _x, _step: seen.append(h)  # noqa: E731
    sampling.sample(subject, N, 0, steps=STEPS, batch=2, watch=watch)
    return torch.cat([torch.stack(seen[i : i + STEPS], 1) for i in range(0, len(seen), STEPS)])


def test_large_values_of_h_are_stored_as_they_are(store: Path) -> None:
    recording = activations.record(with_module_output(large), N, 0, STEPS, batch=2)
    truth = watched(with_module_output(large))
    assert truth.abs().max() > LIMIT and truth.abs().amin(dim=(0, 1)).max() < LIMIT
    assert recording.h.dtype == np.float32
    stored = torch.from_numpy(np.array(recording.h))
    above = truth.abs() > 1.01 * LIMIT
    assert torch.equal(stored[above], truth[above])
    torch.testing.assert_close(stored, truth, rtol=2**-11, atol=2**-24)
    assert torch.equal(recording.at(1), stored[:, 1])
    recording.at(1).zero_()  # a copy, where the map on disk is read-only
    assert torch.equal(recording.at(1), stored[:, 1])


def test_one_step_of_a_recording_is_a_recording(store: Path) -> None:
    recording = activations.record(tiny.subject(), N, 0, STEPS, batch=2)
    one = recording.only(1)
    assert torch.equal(one.at(0), recording.at(1)) and one.h.shape[1] == 1
    assert np.shares_memory(one.h, recording.h)
    assert one.timesteps == recording.timesteps[1:2] and len(one) == N
    assert one.width == recording.width and torch.equal(one.images, recording.images)
    keys = {rec.fingerprint() for rec in (recording, one, recording.only(2))}
    assert len(keys) == 3
    for step in (-1, STEPS):
        with pytest.raises(ValueError, match="^step must be between 0 and 2"):
            recording.only(step)


def test_ordinary_values_are_stored_in_float16(store: Path) -> None:
    recording = activations.record(tiny.subject(), N, 0, STEPS, batch=2)
    assert recording.h.dtype == np.float16
    assert torch.equal(torch.from_numpy(np.array(recording.h)), watched(tiny.subject()).half())


def test_blocks_of_either_kind_are_put_together_as_if_made_at_once(tmp_path: Path) -> None:
    """The first block fits into float16, the others do not: what one process alone stores."""
    first = [True]

    def later(h: Tensor) -> Tensor:
        return h if first[0] else 1e6 * h

    def write(subject: Subject, block: slice, folder: Path) -> Path:
        folder.mkdir()
        run = activations.Run(subject, N, 0, STEPS, subject.texts(), batch=2)
        activations._record.__wrapped__(run, block, folder)
        return folder

    subject = with_module_output(later)
    folders = [write(subject, slice(0, 2), tmp_path / "0")]
    first[0] = False
    folders.append(write(subject, slice(2, 6), tmp_path / "1"))
    kinds = [np.load(folder / "h.npy", mmap_mode="r").dtype for folder in folders]
    assert kinds == [np.float16, np.float32]
    (tmp_path / "whole").mkdir()
    shards.merge(folders, tmp_path / "whole")

    calls = [0]

    def counted(h: Tensor) -> Tensor:
        calls[0] += 1
        return h if calls[0] <= STEPS else 1e6 * h  # the first batch is the first block

    write(with_module_output(counted), slice(0, N), tmp_path / "alone")
    for name in ("h.npy", "images.npy"):
        merged, whole = (np.load(tmp_path / folder / name) for folder in ("whole", "alone"))
        assert merged.dtype == whole.dtype and np.array_equal(merged, whole)
    assert sorted(p.name for p in (tmp_path / "alone").iterdir()) == ["h.npy", "images.npy"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_h_that_is_not_finite_is_refused_by_module_and_timestep(store: Path, value: float) -> None:
    calls = [0]

    def broken(h: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == STEPS + 2:  # the second batch's second step
            h = h.clone()
            h[1, 3, 0, 0] = value
        return h

    with pytest.raises(ValueError) as error:
        activations.record(with_module_output(broken), N, 0, STEPS, batch=2)
    message = str(error.value)
    timestep = sampling.trajectory(tiny.subject(), STEPS).timesteps[1]
    assert f"module mid_block holds {value:g} at timestep {timestep}, in image 3" in message
    assert "\n" not in message and not list(store.glob("recording/*"))


def test_halved_never_makes_an_infinity() -> None:
    x = torch.tensor([1.0, -7e4, 3e-5])
    assert torch.equal(halved(x), x)
    assert halved(x[:1]).dtype == torch.float16 and torch.equal(halved(x[2:]), x[2:].half())
    assert halved(torch.tensor([torch.inf])).dtype == torch.float16


def test_an_evaluator_with_large_statistics_is_saved_as_it_is(tmp_path: Path) -> None:
    judge = tiny.labeller()
    name = next(name for name, _ in judge.named_buffers() if name.endswith("running_var"))
    judge.get_buffer(name).fill_(1e5)
    judge.save(tmp_path)
    loaded = AttributeNet.load(tmp_path)
    assert torch.equal(loaded.get_buffer(name), judge.get_buffer(name))
    assert all(value.isfinite().all() for value in loaded.state_dict().values())


class Large:
    """A delta of latent editing that has become larger than what float16 holds."""

    def __init__(self, _moment: sampling.Moment, classes: int, _seed: int) -> None:
        self.delta = torch.full((classes, 24, 4, 4), 1e5)

    def update(self, *_: object) -> None:
        pass


def test_a_large_direction_of_latent_editing_is_stored_as_it_is(store: Path, monkeypatch) -> None:
    monkeypatch.setattr(latent_editing, "_Delta", Large)
    monkeypatch.setattr(latent_editing, "text_directions", lambda *_: torch.zeros(2, 4))
    recipe = latent_editing.Recipe(n=2, rounds=1)
    learned = latent_editing.learn(tiny.subject(), "gender", STEPS, recipe)
    assert torch.equal(learned, torch.full((2, STEPS, 24, 4, 4), 1e5))
