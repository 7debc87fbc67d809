"""SIGKILL at random moments: what is run again finishes, with the same results to the bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from drills.scene import LIMIT, Row, Scene, processes, same, until

TIMES, SEED = 30, 2100
SOONEST, LATEST = 3.0, 25.0  # seconds after a start
KINDS = {  # what a command line must hold, and must not
    "Snakemake": ("-m snakemake", ""),
    "papermill": ("workflow/execute.py", "--worker"),
    "a worker": ("--worker", ""),
    "a kernel": ("ipykernel_launcher", ""),
}


def victims(scene: Scene, kind: str) -> list[int]:
    """The processes of a kind that are at work in a clone."""
    having, lacking = KINDS[kind]
    found = processes(scene.root)
    return [pid for pid, said in found if having in said and not (lacking and lacking in said)]


def drill(scene: Scene, expected: dict[str, str]) -> Iterator[Row]:
    """Kills one process after the other in one build, which is started again each time.

    Samplings are shared by two workers. A build that comes to its end is begun anew.
    """
    if not Path("/proc/self/cwd").exists():
        yield Row("SIGKILL at a random moment", "all", 0, 0, "not tried: it takes /proc")
        return
    drawn, killed, ends = random.Random(SEED), Counter[str](), Counter[str]()
    kinds = [list(KINDS)[i % len(KINDS)] for i in range(TIMES)]
    scene.forget()
    while kinds:
        build = scene.start(scene.build(shards=2), silent=True)
        if _strike(scene, build, kinds[0], drawn):
            killed[kinds.pop(0)] += 1
        elif build.poll() is not None:
            wrong = same(scene.results(), expected)
            ends[wrong or "as undisturbed"] += 1
            scene.forget()
        _end(build)
    until(lambda: not any(True for _ in processes(scene.root)), 300)  # orphans come to their end
    done = scene.run(scene.build(shards=2))
    wrong = same(scene.results(), expected) or ", ".join(scene.leftovers())
    if done.code:
        wrong = done.lines[-1]
    ends[wrong or "as undisturbed"] += 1
    passed = not wrong and set(ends) == {"as undisturbed"}
    for kind, times in killed.items():
        yield Row("SIGKILL at a random moment", kind, times, times if passed else 0)
    finished = f"{sum(ends.values())} builds came to their end: " + ", ".join(ends)
    yield Row("SIGKILL at a random moment", "results are those of an undisturbed build",
              sum(ends.values()), ends["as undisturbed"], finished)  # fmt: skip


def _strike(scene: Scene, build: subprocess.Popen[str], kind: str, drawn: random.Random) -> bool:
    """Kills a process of a kind at a random moment; False if the build has ended before."""
    with suppress(subprocess.TimeoutExpired):
        build.wait(drawn.uniform(SOONEST, LATEST))
    until(lambda: build.poll() is not None or bool(victims(scene, kind)), 120)
    found = victims(scene, kind)
    if build.poll() is not None or not found:
        return False
    with suppress(ProcessLookupError):
        os.kill(drawn.choice(found), signal.SIGKILL)
        return True
    return False


def _end(build: subprocess.Popen[str]) -> None:
    """Waits for a build whose process was killed: it ends by itself, once its others have."""
    with suppress(subprocess.TimeoutExpired):
        build.wait(LIMIT)
        return
    os.killpg(build.pid, signal.SIGKILL)
    build.wait()
