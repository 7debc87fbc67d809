"""One flipped byte in each kind of file: it is noticed, and what can be made is made anew."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from drills.scene import PROFILE, SUBJECT, Ended, Row, Scene, same
from workflow.execute import integrity

SEED = 2110
DRILL = "one flipped byte"
SHIPPED = {  # where each kind of shipped file lies
    "shipped weights": f"models/{SUBJECT}/*/*.safetensors",
    "shipped k-SAE": f"models/{SUBJECT}/ksae/*/*",
    "shipped search": f"models/{SUBJECT}/search/*/*/*",
    "shipped image": f"models/{SUBJECT}/images/*.png",
    "shipped result": f"results/book/{SUBJECT}/*.json",
}


def flip(path: Path, drawn: random.Random) -> None:
    """Changes one byte of a file by one of its low bits: a text stays a text."""
    content = bytearray(path.read_bytes())
    content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(7)
    path.write_bytes(content)


def drill(scene: Scene, expected: dict[str, str]) -> Iterator[Row]:
    """Damages artifacts, pages, results and what ships, kind by kind."""
    drawn = random.Random(SEED)
    for what in ("data", "manifest"):
        yield _artifacts(scene, expected, drawn, what)
    for what, folder, ending in (
        ("executed notebook", "executed", "ipynb"),
        ("result file", "results", "json"),
    ):
        yield _pages(scene, expected, drawn, what, folder, ending)
    for what in SHIPPED:
        yield _shipped(scene, drawn, what)


def _artifacts(scene: Scene, expected: dict[str, str], drawn: random.Random, what: str) -> Row:
    """A byte of one artifact of every stage, all at once, and every page made again."""
    names = []
    for folders in scene.artifacts().values():
        folder = drawn.choice(folders)
        files = sorted(json.loads((folder / "manifest.json").read_text())["files"])
        flip(folder / ("manifest.json" if what == "manifest" else drawn.choice(files)), drawn)
        names.append(f"{folder.parent.name}/{folder.name}")
    scene.forget_pages()
    done = scene.run(scene.build())
    told = [name for name in names if f"{name} is damaged" in done.out]
    silent = [name for name in names if name not in told]
    unread = [name for name in silent if not _is_whole(scene.store / name)]
    wrong = _wrong(done, same(scene.results(), expected))
    note = f"{len(unread)} of {len(names)} stages were not asked for it again" if unread else ""
    for name in unread:  # for the rounds that follow
        shutil.rmtree(scene.store / name)
    tried = len(names) - len(unread)
    return Row(DRILL, f"an artifact's {what}", tried, 0 if wrong else len(told), wrong or note)


def _is_whole(folder: Path) -> bool:
    """Whether an artifact is as its manifest says: one that was damaged has been made again."""
    try:
        files = integrity.read(folder / "manifest.json")["files"]
    except ValueError:
        return False
    return all(integrity.checksum_of(folder / name)[:16] == sum_ for name, sum_ in files.items())


def _pages(
    scene: Scene,
    expected: dict[str, str],
    drawn: random.Random,
    what: str,
    folder: str,
    ending: str,
) -> Row:
    """A byte of each page or result, all at once."""
    paths = sorted((scene.root / f"_build/{folder}/{PROFILE}/{SUBJECT}").glob(f"*.{ending}"))
    for path in paths:
        flip(path, drawn)
    done = scene.run(scene.build())
    told = [path for path in paths if f"{path.name} is damaged" in done.out]
    wrong = _wrong(done, same(scene.results(), expected))
    return Row(DRILL, what, len(paths), 0 if wrong else len(told), wrong)


def _wrong(done: Ended, differing: str) -> str:
    return f"exit code {done.code}: {done.lines[-1]}" if done.code else differing


def shipped(root: Path, what: str) -> list[Path]:
    """The files of a kind that ship with a clone."""
    return sorted(path for path in root.glob(SHIPPED[what]) if path.is_file())


def _shipped(scene: Scene, drawn: random.Random, what: str) -> Row:
    """A byte of up to three files that ship, one after the other."""
    paths = shipped(scene.root, what)
    chosen = drawn.sample(paths, min(3, len(paths)))
    passed, notes = 0, []
    for path in chosen:
        kept = path.read_bytes()
        flip(path, drawn)
        done = scene.run(scene.build())
        path.write_bytes(kept)
        named = str(path.relative_to(scene.root))
        if done.code == 1 and len(done.lines) == 1 and f"{named} is damaged" in done.out:
            passed += 1
        else:
            notes.append(f"{named}: exit code {done.code}, {len(done.lines)} lines")
    return Row(DRILL, what, len(chosen), passed, "; ".join(notes))
