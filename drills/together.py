"""Several at once in one clone: the same results, and nothing is made twice."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from drills.scene import LIMIT, Row, Scene, same

DRILL = "several at once in one clone"
FIRST = "00_bias"
WORKERS = 4


class Watch(threading.Thread):
    """Notes how often each artifact appears in a store: each time it is another file."""

    def __init__(self, store: Path) -> None:
        super().__init__(daemon=True)
        self.store, self.over = store, threading.Event()
        self.seen: dict[str, set[int]] = defaultdict(set)

    def run(self) -> None:
        while not self.over.wait(0.1):
            self.look()

    def look(self) -> None:
        """Notes the manifests that are there now."""
        for path in self.store.glob("*/*/manifest.json"):
            with suppress(OSError):  # removed meanwhile
                self.seen[path.parent.name].add(path.stat().st_ino)

    def twice(self) -> list[str]:
        """Stops, and returns the artifacts that were made more than once."""
        self.look()
        self.over.set()
        self.join()
        return [name for name, files in self.seen.items() if len(files) > 1]


def drill(scene: Scene, expected: dict[str, str]) -> Iterator[Row]:
    """Two builds, and then four workers on one notebook."""
    scene.forget()
    commands = [scene.build(), scene.build()]
    yield _at_once(scene, expected, "two builds", commands)
    scene.forget()
    workers = [scene.notebook(FIRST, "--worker", f"{i}/{WORKERS}") for i in range(WORKERS)]
    only = {FIRST: expected[FIRST]}
    yield _at_once(scene, only, f"{WORKERS} workers on one notebook", workers, FIRST)


def _at_once(
    scene: Scene,
    expected: dict[str, str],
    case: str,
    commands: list[list[str]],
    afterwards: str = "",
) -> Row:
    scene.store.mkdir()
    watch = Watch(scene.store)
    watch.start()
    started = [scene.start(command) for command in commands]
    said = [process.communicate(timeout=LIMIT)[0] for process in started]
    wrong = [
        f"exit code {process.returncode}: {out.strip().splitlines()[-1]}"
        for process, out in zip(started, said, strict=True)
        if process.returncode
    ]
    if afterwards:  # the page: workers keep none
        scene.run(scene.notebook(afterwards))
    twice = watch.twice()
    wrong += [f"{len(twice)} artifacts were made twice"] if twice else []
    wrong += filter(None, [same(scene.results(), expected)])
    note = "; ".join(wrong) or f"{len(watch.seen)} artifacts, each made once"
    return Row(DRILL, case, 1, 0 if wrong else 1, note)
