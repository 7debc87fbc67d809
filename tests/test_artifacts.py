from __future__ import annotations

import errno
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch

from difflens_utils import activations, artifacts, metrics, outcome, probes, subjects
from difflens_utils.metrics import Estimate

pytestmark = pytest.mark.usefixtures("store")


def counted(calls, value=1.0):
    return lambda: calls.append(1) or {"x": torch.full((3,), value)}


def test_made_once(store):
    calls = []
    for _ in range(3):
        assert torch.equal(
            artifacts.cached_tensors("stage", {"a": 1}, counted(calls))["x"], torch.ones(3)
        )
    artifacts.cached_tensors("stage", {"a": 2}, counted(calls))
    assert len(calls) == 2


def test_a_damaged_file_is_noticed_and_made_again(store, capsys):
    calls = []
    artifacts.cached_tensors("stage", {}, counted(calls))
    file = next(store.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-2] + b"zz")
    artifacts._verified.clear()
    artifacts.cached_tensors("stage", {}, counted(calls))
    assert len(calls) == 2 and "damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(errno.ENOSPC, "no space"), RuntimeError]
)
def test_nothing_half_written_is_left(store, error):
    def make(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        artifacts.cached("stage", {}, make)
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
        folders = set(pool.map(lambda _: artifacts.cached("stage", {"same": 1}, make), range(3)))
    assert len(made) == 1 and len(folders) == 1 and (folders.pop() / "whole").exists()


def test_results_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    r = artifacts.Results("n", subject="portraits", profile="quick", seed=3)
    r.add("a.b", Estimate(0.5, 0.4, 0.6, 10))
    r.add("c", 1, n=4)
    r.add("d", 4.012345678e-7)
    assert r.judge("claim", "a.b", "at least 0.4", True) == "holds"
    stored = json.loads(r.save().read_text())
    assert stored["records"][0] == {
        "name": "a.b",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 10,
        "seed": 3,
    }
    assert stored["records"][2]["value"] == 4.01235e-7  # a small figure is no zero
    assert stored["verdicts"][0]["verdict"] == "holds" and stored["parameters"] == {"seed": 3}
    with pytest.raises(ValueError, match="record must be one of"):
        r.judge("claim", "missing", "", True)
    with pytest.raises(ValueError, match="profile must be one of quick, book, paper"):
        artifacts.Results("n", subject="s", profile="big")


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
    torch.testing.assert_close(rec.images, images, atol=2e-3, rtol=2e-3)
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
        progress=False,
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
    two, three = (probes.fit(rec, labels, classes, progress=False) for classes in (2, 3))
    logits = three.heads.logits(rec.at(0), 0)
    assert logits.isfinite().all() and not (logits.argmax(-1) == 2).any()
    assert three.accuracy(0).value == pytest.approx(two.accuracy(0).value, abs=0.03)
    one = probes.fit(rec, torch.zeros_like(labels), 2, progress=False)
    assert math.isnan(one.accuracy(0).value)  # nothing to tell apart
    with pytest.raises(ValueError, match="n_images must be at least 4"):
        probes.fit(rec, labels[:3], 2, progress=False)


def test_a_figure_that_there_is_not_is_no_record_and_carries_no_verdict():
    results = artifacts.Results("05_interventions", subject="portraits", profile="book", seed=0)
    results.add("there", metrics.Estimate(0.5, math.nan, math.nan, 3))
    results.add("nothing", metrics.NOTHING)
    results.add("nor here", float("nan"))
    assert list(results.records) == ["there"] and results.records["there"]["low"] is None
    assert (
        f"{results.records['nothing']['value']:.2f}" == "–"
        and not results.records["nor here"]["value"] > 0
    )
    assert (
        results.judge("it moves", "nothing", "at all", holds=True) == "not tested"
        and results.verdicts == []
    )
    with pytest.raises(KeyError):
        results.records["never added"]


def test_subject_errors_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="subject must be one of"):
        subjects.load("portrait")
    with pytest.raises(ValueError, match="device must be one of cpu, auto, cuda"):
        subjects.load("portraits", "gpu")
    for damage in ("missing", "foreign"):
        folder = tmp_path / damage
        folder.mkdir()
        (folder / "model_index.json").write_text(
            '{"_class_name": "DDIMPipeline"}' if damage == "foreign" else "{"
        )
        told = "model_index.json (cannot be read as JSON|names no unet)"
        with pytest.raises(ValueError, match=told) as error:
            subjects.load("portraits", folder=folder)
        assert "\n" not in str(error.value)


def test_a_close_verdict_is_shown_but_no_reference():
    results = artifacts.Results("00_x", subject="portraits", profile="mine", seed=0)
    results.add("fd", 0.051)
    assert results.judge("it is small", "fd", "at most 0.05", False, True, close=True) == "partly"
    results.judge("it is not large", "fd", "at most 0.5", True)
    assert results.checked() == "it is small -> too close to check\nit is not large -> holds"


def test_result_files_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ROOT", tmp_path)
    with pytest.raises(
        ValueError, match="portraits has no results of profile book: run the other notebooks first"
    ):
        artifacts.load_results("portraits", "book")
    results = artifacts.Results("03_x", subject="a/b", profile="book", seed=0)
    results.add("fd", Estimate(0.5, 0.4, 0.6, 10))
    results.save()
    assert artifacts.load_results("a/b", "book")["03_x"]["records"][0]["low"] == 0.4


def test_of_two_that_want_the_same_tensors_one_makes_them(store: Path) -> None:
    calls: list[list[int]] = []

    def make(missing: list[int]) -> torch.Tensor:
        calls.append(missing)
        time.sleep(0.3)
        return torch.arange(10.0)[missing]

    want = lambda *numbers: artifacts.cached_each("each", [{"number": i} for i in numbers], make)  # noqa: E731
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: want(0, 1, 2), range(2))
    assert calls == [[0, 1, 2]] and first == second == [0, 1, 2]
    assert want(2, 5, 0)[0] == 2 and calls[1:] == [
        [1]
    ]  # of the three that are wanted only the second is not there
