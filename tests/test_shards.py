"""Sharing work: real processes, some of them killed, and what they leave in the store."""

from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sharing
import torch

from difflens_utils.runtime import artifacts, gpu, shards
from difflens_utils.runtime.workers import worker


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.BaseContext:
    """New processes that need not import torch each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[1]}")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["difflens_utils", "sharing"])
        context.Process(target=int).start()
        return context


def run(
    processes: multiprocessing.context.BaseContext,
    name: str,
    store: Path,
    count: int,
    dies: dict[int, int] | None = None,
) -> list[int]:
    """The exit codes of `count` workers side by side; worker i is killed in its block `dies[i]`."""
    store.mkdir(exist_ok=True)
    ready = processes.Barrier(count)
    started = [
        processes.Process(
            target=sharing.work, args=(name, store, f"{i}/{count}", (dies or {}).get(i), ready)
        )
        for i in range(count)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    return [process.exitcode for process in started]


def held(store: Path) -> dict[str, bytes]:
    """Every file of every artifact."""
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and p.name != "made.txt" and "locks" not in p.parts
    }


def begun(store: Path) -> list[str]:
    return [line.split(" ", 1)[1] for line in (store / "made.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What a process that is alone makes of each piece of work."""
    made = {}
    for name in sharing.WORK:
        store = tmp_path_factory.mktemp("alone")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(artifacts, "STORE", store)
            patch.setattr(artifacts, "_verified", set())
            sharing.work(name, store, "0/1")
        made[name] = held(store)
    return made


@pytest.mark.parametrize("name", sharing.WORK)
def test_what_workers_make_together_is_what_one_makes_alone(
    processes, alone, tmp_path, name
) -> None:
    count = 2 + len(name) % 2
    assert run(processes, name, tmp_path, count) == [0] * count
    assert held(tmp_path) == alone[name]
    assert set(Counter(begun(tmp_path)).values()) == {1}  # no block twice
    assert not any((tmp_path / "parts").iterdir())


def test_a_killed_worker_loses_one_block_and_another_makes_it(processes, alone, tmp_path) -> None:
    assert run(processes, "recording", tmp_path, 2, dies={0: 0}) == [-9, 0]
    assert held(tmp_path) == alone["recording"]
    assert sorted(Counter(begun(tmp_path)).values()) == [1, 1, 1, 1, 1, 2]


def test_when_all_are_killed_whoever_comes_goes_on(processes, alone, tmp_path) -> None:
    assert run(processes, "recording", tmp_path, 3, dies={0: 1, 1: 1, 2: 1}) == [-9] * 3
    before = len(begun(tmp_path))
    damaged = next((tmp_path / "parts").rglob("h.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"zz")
    stored = len(list((tmp_path / "parts").rglob("manifest.json")))
    assert run(processes, "recording", tmp_path, 1) == [0]  # one alone, who is no worker
    assert held(tmp_path) == alone["recording"]
    assert len(begun(tmp_path)) - before == 6 - stored + 1
    assert not any((tmp_path / "parts").iterdir())


def test_a_damaged_artifact_is_made_again_by_all(processes, alone, tmp_path) -> None:
    run(processes, "edited", tmp_path, 2)
    file = next((tmp_path / "images").rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:-2] + b"zz")
    assert run(processes, "edited", tmp_path, 2) == [0, 0]
    assert held(tmp_path) == alone["edited"] and set(Counter(begun(tmp_path)).values()) == {2}


def test_a_worker_is_told_by_the_environment(monkeypatch) -> None:
    assert worker() == (0, 1)
    monkeypatch.setenv("DIFFLENS_WORKER", "1/4")
    assert worker() == (1, 4)
    for text in ("4/4", "1", "a/b", "-1/2"):
        with pytest.raises(ValueError, match="worker must be one of 0/n .. ") as caught:
            worker(text)
        assert "\n" not in str(caught.value)


def test_blocks_are_the_batches() -> None:
    assert (
        shards.blocks(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)] and shards.blocks(0, 2) == []
    )


@pytest.mark.parametrize(
    ("free", "taken", "expected"),
    [
        (80 << 30, 1 << 30, 256),
        (8 << 30, 1 << 30, 32),
        (7 << 30, 1 << 30, 16),
        (1 << 28, 1 << 30, 1),
    ],
)
def test_the_batch_is_the_largest_power_of_two_that_fits(free, taken, expected) -> None:
    assert gpu.largest_batch(gpu.Memory(free, taken)) == expected


def test_one_batch_size_per_process_and_none_measured_on_a_cpu(monkeypatch) -> None:
    import tiny

    monkeypatch.setattr(gpu, "_measured", {})
    subject, readings = tiny.subject(), iter([gpu.Memory(7 << 30, 1 << 30), gpu.Memory(1, 1 << 40)])
    assert gpu.batch_size(subject) == 31
    assert [gpu.batch_size(subject, lambda _: next(readings)) for _ in range(2)] == [16, 16]
    with pytest.raises(MemoryError, match="too few for one image"):
        gpu.largest_batch(next(readings))


def test_a_copy_is_written_when_the_next_has_started_and_is_done() -> None:
    events = []

    def start(value):
        events.append(f"start {value.item():.0f}")
        return value.clone(), lambda: events.append("wait")

    copies = gpu.HostCopies(
        lambda host, tag: events.append(f"write {host.item():.0f} as {tag}"), start
    )
    for i in range(3):
        copies.put(torch.tensor(float(i)), "abc"[i])
    copies.flush()
    copies.flush()
    assert events == [
        "start 0",
        "start 1",
        "wait",
        "write 0 as a",
        "start 2",
        "wait",
        "write 1 as b",
        "wait",
        "write 2 as c",
    ]


def test_no_process_waits_while_another_is_in_work_that_they_share(store: Path) -> None:
    """Both are in the function at once: each waits there for the other."""
    both = threading.Barrier(2, timeout=10)

    @artifacts.stored("stage", together=True)
    def work(number: int) -> dict[str, torch.Tensor]:
        both.wait()
        return {"x": torch.full((2,), number)}

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: work(3), range(2))
    assert torch.equal(first["x"], second["x"])
    assert work(3)["x"].tolist() == [3, 3]  # from the store: no one else is at the barrier
