from __future__ import annotations

import errno
import io
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from difflens_utils import outcome, probes
from difflens_utils import recording as activations
from difflens_utils.runtime import arrays, artifacts
from difflens_utils.subjects import registry

pytestmark = pytest.mark.usefixtures("store")


def counted(calls: list[int]) -> Callable[[int], dict[str, torch.Tensor]]:
    @artifacts.stored("stage")
    def work(a: int) -> dict[str, torch.Tensor]:
        calls.append(a)
        return {"x": torch.ones(3)}

    return work


def test_made_once(store):
    calls = []
    work = counted(calls)
    for _ in range(3):
        assert torch.equal(work(1)["x"], torch.ones(3))
    work(2)
    assert calls == [1, 2]


def test_a_damaged_file_is_noticed_and_made_again(store, capsys):
    calls = []
    work = counted(calls)
    work(1)
    file = next(store.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-2] + b"zz")
    artifacts._verified.clear()
    work(1)
    assert len(calls) == 2 and "damaged" in capsys.readouterr().err


def test_a_result_of_another_form_is_read_back(store: Path) -> None:
    form = artifacts.Form(
        lambda text, folder: (folder / "text.txt").write_text(text),
        lambda folder: (folder / "text.txt").read_text(),
    )
    calls = []

    @artifacts.stored("stage", form=form, describe={"a": lambda a: {"first": a[0]}})
    def work(a: list[int]) -> str:
        calls.append(a)
        return str(a)

    assert [work([1]), work([1, 2]), work([2])] == ["[1]", "[1]", "[2]"]
    assert calls == [[1], [2]]


def test_what_ships_is_known_by_its_arguments_and_the_store_by_more(
    store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, place = [1.0], tmp_path_factory.mktemp("repository") / "shipped"

    @artifacts.stored("stage", shipped=lambda _: place, beyond=lambda _: value)
    def work(a: int) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(value)}

    assert work(1)["x"] == 1
    value[0] = 2.0
    assert work(1)["x"] == 2  # another key
    monkeypatch.setattr(artifacts, "SHIP", True)
    assert work(1)["x"] == 2 and (place / "manifest.json").exists()
    monkeypatch.setattr(artifacts, "SHIP", False)
    value[0] = 3.0
    assert work(1)["x"] == 2 and work(a=4)["x"] == 3
    monkeypatch.setattr(artifacts, "SHIP", True)
    assert work(1)["x"] == 2  # what ships is not made anew: `make methods` goes on


def test_every_flipped_byte_of_a_manifest_is_noticed(store: Path) -> None:
    artifact = artifacts.Artifact.of("stage", {"a": 1})
    folder = artifacts.make(artifact, lambda folder: (folder / "x").write_text("x") and None)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    assert artifacts.intact(folder)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert not artifacts.intact(folder), position


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space"), RuntimeError]
)
def test_nothing_half_written_is_left(store, error):
    def make(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        artifacts.make(artifacts.Artifact.of("stage", {}), make)
    if isinstance(error, OSError):
        assert "disk" in str(caught.value) and "\n" not in str(caught.value)
    assert not list((store / "stage").iterdir()) and all(
        p.parent == store / "locks" for p in store.rglob("*") if p.is_file()
    )


def test_two_that_want_the_same_artifact_make_it_once(store):
    made = []

    def make(folder):
        made.append(folder)
        time.sleep(0.2)
        (folder / "whole").write_text("x")

    with (
        ThreadPoolExecutor() as pool
    ):  # each call opens the lock file for itself, as another process would
        artifact = artifacts.Artifact.of("stage", {"same": 1})
        folders = set(pool.map(lambda _: artifacts.make(artifact, make), range(3)))
    assert len(made) == 1 and len(folders) == 1 and (folders.pop() / "whole").exists()


def test_recording_equals_what_the_hook_saw(store):
    subject = tiny.subject()
    rec = activations.record(subject, 5, 0, 3, batch=2)
    seen = {}
    from difflens_utils import sampling

    images = sampling.sample(
        subject, 5, 0, steps=3, watch=lambda h, x, s: seen.__setitem__(s.index, h.clone())
    )
    for i in range(3):
        torch.testing.assert_close(rec.at(i), seen[i], atol=2e-2, rtol=2e-3)
    torch.testing.assert_close(rec.images.float(), images, atol=2e-3, rtol=2e-3)
    assert rec.vectors(0).shape == (5 * 16, 24)
    stream = rec.batches(64, 7)
    assert (
        torch.equal(stream(3), stream(3))
        and not torch.equal(stream(3), stream(4))
        and stream(0).shape == (64, 24)
    )


def test_edited_images_are_filed_under_what_the_edit_does(store):
    from difflens_utils import edits

    subject, ksae = tiny.subject(), tiny.ksae()
    a = outcome.draw(subject, edits.steer(ksae, torch.tensor([1]), 2.0), 2, 0, 2)
    outcome.draw(subject, edits.steer(ksae, torch.tensor([1]), 2.0), 2, 0, 2)
    b = outcome.draw(subject, edits.steer(ksae, torch.tensor([2]), 2.0), 2, 0, 2)
    assert len(list((store / "images").iterdir())) == 2 and not torch.equal(a, b)
    with pytest.raises(ValueError, match="edit must come from"):
        outcome.draw(subject, lambda h, s: h, 2, 0, 2)


def test_probes_find_a_planted_direction_and_nothing_in_noise(store):
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(1600, generator=g) < 0.3).long()
    h = torch.randn(1600, 2, 6, 2, 2, generator=g)
    h[:, 1, 3, 0, 0] += 4 * labels
    fit = probes.fit(
        activations.Recording("k", h.numpy(), torch.zeros(1600, 3, 4, 4), (500, 0)),
        labels,
        2,
    )
    assert fit.accuracy(1).low > 0.9 and fit.accuracy(0).low < 0.5 < fit.accuracy(0).high + 0.05
    weight = fit.heads.weight[1, 1] - fit.heads.weight[1, 0]
    assert weight.abs().argmax() == torch.tensor(3 * 4)


def test_a_class_without_images_is_never_named_and_changes_no_other(store):
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(400, generator=g) < 0.5).long()
    h = torch.randn(400, 1, 3, 2, 2, generator=g)
    h[:, 0, 1] += 2 * labels[:, None, None]
    rec = activations.Recording("k", h.numpy(), torch.zeros(400, 3, 4, 4), (500,))
    two, three = (probes.fit(rec, labels, classes) for classes in (2, 3))
    logits = three.heads.logits(rec.at(0), 0)
    assert logits.isfinite().all() and not (logits.argmax(-1) == 2).any()
    assert three.accuracy(0).value == pytest.approx(two.accuracy(0).value, abs=0.03)
    one = probes.fit(rec, torch.zeros_like(labels), 2)
    assert math.isnan(one.accuracy(0).value)  # nothing to tell apart
    with pytest.raises(ValueError, match="n_images must be at least 4"):
        probes.fit(rec, labels[:3], 2)


def test_subject_errors_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="subject must be one of"):
        registry.load("portrait")
    with pytest.raises(ValueError, match="device must be one of cpu, auto, cuda"):
        registry.load("portraits", "gpu")
    for damage in ("missing", "foreign"):
        folder = tmp_path / damage
        folder.mkdir()
        (folder / "model_index.json").write_text(
            '{"_class_name": "DDIMPipeline"}' if damage == "foreign" else "{"
        )
        told = "model_index.json (cannot be read as JSON|names no unet)"
        with pytest.raises(ValueError, match=told) as error:
            registry.load("portraits", folder=folder)
        assert "\n" not in str(error.value)


def test_of_two_that_want_the_same_rows_one_makes_them(store: Path) -> None:
    calls: list[list[int]] = []

    @artifacts.stored_each("each", "numbers", ignoring=("together",))
    def work(scale: float, numbers: list[int], together: int = 4) -> torch.Tensor:
        calls.append(numbers)
        time.sleep(0.3)
        return scale * torch.tensor(numbers)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: work(2.0, [0, 1, 2]), range(2))
    assert calls == [[0, 1, 2]] and first.tolist() == second.tolist() == [0, 2, 4]
    assert work(2.0, [2, 5, 0], together=1).tolist() == [4, 10, 0]
    assert calls[1:] == [[5]]  # the only one that is not there
    assert work(3.0, [5]).tolist() == [15]


def test_what_takes_the_place_of_a_file_is_whole_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep/file.txt"
    with artifacts.atomic(path) as temporary:
        temporary.write_text("first")
    with pytest.raises(RuntimeError), artifacts.atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first" and list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_no_hole_in_a_file(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = {}

    def fallocate(descriptor: int, start: int, size: int) -> None:
        taken[size] = os.fstat(descriptor).st_size
        if size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    values = np.arange(12, dtype=np.float16).reshape(3, 4)
    arrays.write(store / "small.npy", len(values), [values])
    assert list(taken) == list(taken.values())  # all of the file, its head too
    assert np.array_equal(np.load(store / "small.npy"), values)
    reference = io.BytesIO()
    np.save(reference, values)
    assert (store / "small.npy").read_bytes() == reference.getvalue()
    for parts in ([values, values], [values[:2]], []):
        with pytest.raises(ValueError, match=r"other.npy gets \d rows, not 3|broadcast"):
            arrays.write(store / "other.npy", 3, parts)
    arrays.mapped(store / "small.npy")[0] = 9  # in memory alone
    assert (store / "small.npy").read_bytes() == reference.getvalue()
    artifact = artifacts.Artifact.of("arrays", {"a": 1})
    with pytest.raises(OSError, match="the disk under .* is full: free space"):
        artifacts.make(
            artifact, lambda folder: arrays.write(folder / "x.npy", 1000, [np.zeros(1000)])
        )
    assert not list(artifact.folder.parent.iterdir())
