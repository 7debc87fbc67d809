"""Images are counted while they are drawn, and by whoever reads what was drawn earlier."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from difflens_utils import edits, outcome, recording
from difflens_utils.runtime import artifacts, integrity, tally


@pytest.fixture
def counts(store: Path, monkeypatch: pytest.MonkeyPatch) -> tally.Counts:
    """An empty account of a process with an empty store."""
    account: tally.Counts = {}
    monkeypatch.setattr(tally, "_open", [account])
    return account


def test_every_way_of_drawing_is_counted(counts: tally.Counts) -> None:
    subject = tiny.subject()
    change = edits.push(torch.ones(2, 24, 4, 4), 1.0)
    recording.record(subject, 3, 0, 2)
    outcome.draw(subject, None, 4, 1, 2)
    outcome.draw(subject, change, 4, 1, 2)
    outcome.draw(subject, change, 2, 1, 2, asymmetric=False)
    want = {"recording": 3, "sampling": 4, "symmetric edit": 2, "asymmetric edit": 4}
    assert tally.total() == want


def test_what_an_earlier_run_drew_counts_once(counts: tally.Counts) -> None:
    subject = tiny.subject()
    outcome.draw(subject, None, 4, 1, 2)
    counts.clear()
    for _ in range(2):
        outcome.draw(subject, None, 4, 1, 2)
    assert tally.total() == {"sampling": 4}


def test_a_result_counts_what_it_was_made_from(counts: tally.Counts) -> None:
    @artifacts.stored("mean")
    def mean(n: int) -> dict[str, torch.Tensor]:
        return {"mean": outcome.draw(tiny.subject(), None, n, 1, 2).mean()}

    mean(5)
    counts.clear()
    mean(5)
    assert tally.total() == {"sampling": 5}
    outcome.draw(tiny.subject(), None, 5, 1, 2)  # the same images
    assert tally.total() == {"sampling": 5}


def test_only_images_that_an_edit_changes_are_drawn(counts: tally.Counts) -> None:
    change = edits.push(torch.ones(2, 24, 4, 4), 1.0)
    edit = edits.per_image({1: change}, torch.tensor([0, 1, 0, 0]))
    outcome.draw(tiny.subject(), edit, 4, 1, 2)
    assert tally.total() == {"sampling": 4, "asymmetric edit": 1}


def test_workers_count_an_image_once(counts: tally.Counts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are counted as the whole's, by whoever drew them, and by whoever finds them there."""
    monkeypatch.setenv("DIFFLENS_WORKER", "0/2")
    for _ in range(2):
        outcome.draw(tiny.subject(), None, 5, 1, 2, batch=2)
        assert tally.total() == {"sampling": 5}
        counts.clear()


def test_counts_of_what_failed_are_those_of_its_maker(counts: tally.Counts) -> None:
    with pytest.raises(RuntimeError), tally.making("outer"), tally.making("inner"):
        tally.count("sampling", 3)
        raise RuntimeError
    assert counts == {"inner": {"sampling": 3}} and tally._open == [counts]


def test_an_artifact_for_which_nothing_was_drawn_counts_nothing(
    counts: tally.Counts, store: Path
) -> None:
    outcome.draw(tiny.subject(), None, 4, 1, 2)
    (manifest,) = store.glob("images/*/manifest.json")
    content = integrity.read(manifest)
    del content["drawn"]
    manifest.write_text(integrity.sealed(content))
    counts.clear()
    outcome.draw(tiny.subject(), None, 4, 1, 2)
    assert tally.total() == {}
