#!/usr/bin/env python3
"""A cluster of one machine that loses one job in ten, as work on many machines has to survive.

    cluster.py submit JOBSCRIPT    start it in the background and print its number
    cluster.py status NUMBER       running, success or failed

A draw that is seeded by LOSE_SEED (default 0) and i decides whether job i is killed, with all that
it has started. LOSE (default 0.1) is the share of jobs that are killed, and LOSE_WITHIN (default
20) the seconds within which it happens. Logs are kept in _build/cluster.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("_build/cluster")


def submit(script: str) -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    number = next(i for i in range(10**6) if not (FOLDER / f"{i}.log").exists())
    with (FOLDER / f"{number}.log").open("x") as log:
        subprocess.Popen(
            [sys.executable, __file__, "run", str(number), script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return number


def run(number: str, script: str) -> None:
    """The job, watched: its exit code, or -9 if it was lost, goes to a file."""
    draw = random.Random(f"{os.environ.get('LOSE_SEED', '0')}-{number}")
    lost = draw.random() < float(os.environ.get("LOSE", "0.1"))
    job = subprocess.Popen([script])
    try:
        code = job.wait(
            draw.uniform(0, float(os.environ.get("LOSE_WITHIN", "20"))) if lost else None
        )
    except subprocess.TimeoutExpired:
        for process in (*descendants(job.pid), job.pid):
            os.kill(process, signal.SIGKILL)
        code = job.wait()
        print(f"cluster: job {number} was killed", flush=True)
    ended = FOLDER / f"{number}.ended"
    ended.with_suffix(".tmp").write_text(str(code))
    ended.with_suffix(".tmp").rename(ended)


def descendants(pid: int) -> list[int]:
    """Every process that a process has started, and those that they have started.

    A kernel has a process group of its own.
    """
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]


def status(number: str) -> str:
    ended = FOLDER / f"{number}.ended"
    if not ended.exists():
        return "running"
    return "success" if ended.read_text() == "0" else "failed"


if __name__ == "__main__":
    commands: dict[str, Callable[..., object]] = {"submit": submit, "run": run, "status": status}
    shown = commands[sys.argv[1]](*sys.argv[2:])
    if shown is not None:
        print(shown)
