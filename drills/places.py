"""A full disk, a store that cannot be written, files from the future: one line, and on it goes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drills.scene import PROFILE, SUBJECT, Ended, Row, Scene, same

DRILL = "a place that fails"
FIRST = "00_bias"
DAY = 86_400
# A kernel is started by a process of the same user.
STARTS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import ipykernel"], check=True)
"""


def drill(scene: Scene, expected: dict[str, str]) -> Iterator[Row]:
    """Each place in turn, with the first notebook; and what comes of it afterwards."""
    only = {FIRST: expected[FIRST]}
    for case, folder, options, says in (
        ("the store's disk is full", "artifacts", "size=2m", "artifacts is full"),
        ("the build's disk is full", "_build", "size=64k", "No space left on device"),
        ("the store is read-only", "artifacts", "ro", "Read-only file system"),
    ):
        yield _mounted(scene, only, case, folder, options, says)
    for case, folder in (
        ("the store belongs to somebody else", "artifacts"),
        ("the build belongs to somebody else", "_build"),
    ):
        yield _of_others(scene, only, case, folder)
    yield _future(scene, expected)


def _mounted(
    scene: Scene, expected: dict[str, str], case: str, folder: str, options: str, says: str
) -> Row:
    scene.forget()
    place = scene.root / folder
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        return Row(DRILL, case, 0, 0, "not tried: it takes the right to mount")
    try:
        done = scene.run(scene.notebook(FIRST))
        left = scene.leftovers()
    finally:
        subprocess.run(["umount", str(place)], check=True)
    return _judged(scene, expected, case, says, done, left)


def _of_others(scene: Scene, expected: dict[str, str], case: str, folder: str) -> Row:
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    scene.root.parent.chmod(0o755)
    if subprocess.run([*other, sys.executable, "-c", STARTS], capture_output=True).returncode:
        note = "not tried: nobody else may run this Python, or setpriv is missing"
        return Row(DRILL, case, 0, 0, note)
    scene.forget()
    for place in (scene.root / "artifacts", scene.root / "_build"):
        place.mkdir()
        if place.name != folder:
            place.chmod(0o777)
    with _home() as home:
        done = scene.run(["env", f"HOME={home}", *other, *scene.notebook(FIRST)])
        left = scene.leftovers()
    says = f"Permission denied: '{scene.root / folder}"
    return _judged(scene, expected, case, says, done, left)


@contextmanager
def _home() -> Iterator[Path]:
    """A folder where a user without one may write."""
    home = Path("/tmp") / f"difflens-home-{os.getpid()}"
    home.mkdir()
    home.chmod(0o777)
    try:
        yield home
    finally:
        shutil.rmtree(home)


def _judged(
    scene: Scene, expected: dict[str, str], case: str, says: str, ended: Ended, left: list[str]
) -> Row:
    """One line of what is wrong, beside that of a notebook's start; no rest, and it goes on."""
    said = [line for line in ended.lines if not line.startswith(f"{FIRST}  subject=")]
    wrong = []
    if ended.code != 1:
        wrong.append(f"exit code {ended.code}")
    if len(said) != 1:
        wrong.append(f"{len(said)} lines")
    elif says not in said[0]:
        wrong.append(f"does not say {says}")
    if left:
        wrong.append(f"left {left[0]}")
    done = scene.run(scene.notebook(FIRST))
    if done.code or (differs := same(scene.results(), expected)):
        wrong.append(done.lines[-1] if done.code else differs)
    note = ", ".join(wrong) if wrong else said[0].replace(str(scene.root), "")
    return Row(DRILL, case, 1, 0 if wrong else 1, note)


def _future(scene: Scene, expected: dict[str, str]) -> Row:
    """The clock was set back by a day: everything that is there lies a day in the future.

    One line says so before anything runs. Once the clock is right again, the build goes on.
    """
    case = "the clock was set back by a day"
    scene.run(scene.build())
    first = scene.root / f"_build/executed/{PROFILE}/{SUBJECT}/{FIRST}.ipynb"
    first.unlink()
    _touch(scene, time.time() + DAY)
    refused = scene.run(scene.build())
    _touch(scene, time.time())
    done = scene.run(scene.build())
    wrong = []
    if refused.code != 1 or len(refused.lines) != 1 or "of the future" not in refused.out:
        wrong.append(f"exit code {refused.code}, {len(refused.lines)} lines")
    if done.code or (differs := same(scene.results(), expected)):
        wrong.append(done.lines[-1] if done.code else differs)
    note = ", ".join(wrong) or refused.lines[0]
    return Row(DRILL, case, 1, 0 if wrong else 1, note)


def _touch(scene: Scene, moment: float) -> None:
    """Gives every file of a clone a time."""
    for path in scene.root.rglob("*"):
        if ".venv" not in path.parts and ".git" not in path.parts and not path.is_symlink():
            os.utime(path, (moment, moment))
