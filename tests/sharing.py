"""What a worker of tests/test_shards.py does, in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import tiny
import torch

from difflens_utils import edits, outcome, sampling
from difflens_utils import recording as activations
from difflens_utils.runtime import artifacts
from difflens_utils.subjects.pipelines import Subject

N, BATCH, STEPS = 11, 2, 2  # six blocks, the last one smaller

torch.set_num_threads(1)


def per_image() -> sampling.Edit:
    """An edit with `rows`: some images stay as they are."""
    steer = edits.steer(tiny.ksae(), torch.tensor([1, 5]), 3.0)
    return edits.per_image({1: steer}, torch.tensor([1, 0, 1, 1, 0, 1, 1, 0, 0, 1, 1]))


def record(subject: Subject, text: bool) -> str:
    return activations.record(
        subject, N, 3, STEPS, subject.prompts.learn if text else None, batch=BATCH
    ).key


def generate(subject: Subject, edit: sampling.Edit | None) -> None:
    outcome.draw(
        subject,
        edit,
        N,
        5,
        STEPS,
        asymmetric=edit is not None and edit.rows is None,
        batch=BATCH,
    )


WORK = {
    "recording": lambda: record(tiny.subject(), text=False),
    "recording from text": lambda: record(tiny.text_subject(), text=True),
    "edited": lambda: generate(tiny.subject(), edits.steer(tiny.ksae(), torch.tensor([1, 5]), 3.0)),
    "edited rows": lambda: generate(tiny.subject(), per_image()),
    "edited from text": lambda: generate(tiny.text_subject(), per_image()),
    "few": lambda: outcome.draw(
        tiny.subject(),
        edits.per_image({9: per_image()}, torch.zeros(N, dtype=torch.int64)),
        N,
        5,
        STEPS,
        batch=BATCH,
    ),
}


def work(
    name: str,
    store: Path,
    worker: str,
    dies_in: int | None = None,
    ready: Barrier | None = None,
) -> None:
    """One worker's share, with a line in `store`/made.txt for each block that it begins.

    It is killed in the middle of its block `dies_in`. It begins when all are `ready`: one that
    starts late finds nothing to do.
    """
    if ready is not None:
        ready.wait(60)
    os.environ["DIFFLENS_WORKER"] = worker
    artifacts.STORE = store
    artifacts._verified = set()
    batches, predict, begun = sampling.batches, Subject.predict, []

    def sampled(*args: object, **options: object) -> Iterator[torch.Tensor]:
        begun.append(options["rows"])
        with (store / "made.txt").open("a") as file:
            edit = options.get("edit")
            name = None if edit is None else edit.key["edit"]
            file.write(f"{worker} {name} {options['rows'].tolist()}\n")
        if len(begun) - 1 == dies_in:
            type(args[0]).predict = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
        return batches(*args, **options)

    sampling.batches = sampled
    try:
        WORK[name]()
    finally:
        sampling.batches, Subject.predict = batches, predict
        del os.environ["DIFFLENS_WORKER"]
