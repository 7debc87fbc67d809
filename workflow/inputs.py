"""The files that a subject consists of, and a digest of them. When it changes, notebooks are stale.

Thousands of images would be slow as inputs of a rule, so a rule has one digest as a parameter.
Contents count, and not times. A file is read again only if its size or a time stamp has changed;
its hash is kept in `_build`.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import yaml

from workflow.execute import ROOT, names

SUFFIXES = (".json", ".txt", ".csv", ".yml", ".safetensors", ".bin", ".model")
ANY = ("",)

# What was learned and searched with a subject lies in its folder too; who reads it checks it.
LEARNED = ("search", "latent_editing", "latent_direction", "finetuning")

SKEW = 60  # seconds by which a file may be of the future, on a disk with a clock of its own
RECENT = 2  # seconds within which a file may change again without a new time stamp


def weights_folder() -> Path:
    """As `difflens_utils.subjects.real.weights` has it."""
    return Path(os.environ.get("DIFFLENS_WEIGHTS") or ROOT / "weights")


# A file, or a folder with the endings of the files that count in it.
Part = tuple[Path, tuple[str, ...]]

# By its path, a file's size, its time stamps in nanoseconds, and the hash of its contents.
Known = dict[str, tuple[int, int, int, str]]


def parts_of(subject: str) -> list[Part]:
    """The folders and files that a subject consists of; some may not exist."""
    if subject in names.FETCHED:
        places = (*names.FETCHED[subject], *names.FACES)
        return [(weights_folder() / place, (*SUFFIXES, *names.IMAGES)) for place in places]
    if subject in names.SHIPPED:
        folders = [ROOT / "models" / name for name in names.SHIPPED[subject]]
    else:
        folders = [snapshot(subject) if is_hub_id(subject) else ROOT / subject]
    declared = [part for folder in folders if folder for part in _declared(folder)]
    return [*((folder, SUFFIXES) for folder in folders if folder), *declared]


def _declared(folder: Path) -> list[Part]:
    """Where the `study.yml` of a folder says that its images and evaluators lie."""
    try:
        text = (folder / "study.yml").read_text(encoding="utf-8-sig")
        content = yaml.load(text, yaml.BaseLoader)  # every scalar as text, as the study reads it
    except (OSError, ValueError, yaml.YAMLError):  # the notebook says what is wrong
        return []
    entries = content if isinstance(content, dict) else {}
    judges = ("evaluators", "clip", "second_clip")
    endings = {"images": ANY, **dict.fromkeys(judges, SUFFIXES)}
    places = {name: entries.get(name) for name in endings}
    return [(folder / p, endings[name]) for name, p in places.items() if isinstance(p, str)]


def check_clock(paths: Iterable[Path]) -> None:
    """Raises ValueError, in one line, for a file of the future: what is stale could not be told."""
    now = time.time() + SKEW
    for path in paths:
        if (seen := path.stat().st_mtime) > now:
            moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(seen))
            raise ValueError(
                f"{path} is of the future ({moment}): set the clock of this machine right, or "
                "touch what lies in the future"
            )


def libraries() -> dict[str, str]:
    """The versions that are installed of what is pinned: after another one figures may differ."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line.partition("==")[0] for line in lines if "==" in line]
    return {name: version(name) for name in pinned}


def is_hub_id(subject: str) -> bool:
    """Whether what `execute.located` has let pass names a model on the hub."""
    return subject.count("/") == 1 and not (ROOT / subject).exists()


def snapshot(subject: str) -> Path | None:
    """Where the hub's cache has a model; None if it was not fetched yet."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(subject, "model_index.json")
    return Path(found).parent if isinstance(found, str) else None


def fetch(subject: str) -> None:
    """Fetch a model of the hub, as a notebook would; ValueError, in one line, if that fails."""
    code = "import sys; from difflens_utils.subjects import registry; registry._folder(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, subject], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"subject {subject} could not be fetched"]
        raise ValueError(lines[-1].removeprefix("ValueError: "))


def files_of(subject: str) -> list[tuple[str, Path]]:
    """Every file of a subject, called by the number of its part and its path in there."""
    numbered = enumerate(parts_of(subject))
    return [(f"{number}/{name}", path) for number, part in numbered for name, path in _files(*part)]


def _files(part: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    if part.is_file():
        yield part.name, part
    for folder, inner, files in os.walk(part, followlinks=True):
        here = Path(folder)
        skipped = LEARNED if here == part and endings is SUFFIXES else ()
        inner[:] = [name for name in inner if name not in skipped and _below(here, name)]
        for name in files:
            if name.lower().endswith(endings) and not name.startswith("."):
                yield str((here / name).relative_to(part)), here / name


def _below(folder: Path, name: str) -> bool:
    """Whether to look into a folder of a folder: not if it is hidden or a link back up."""
    back = folder.resolve().is_relative_to((folder / name).resolve())
    return not back and not name.startswith((".", "__"))


def digest(subject: str, kept: Path) -> str:
    """16 hex digits that stand for the contents of a subject's files; `kept` holds known hashes."""
    known = _load(kept)
    hashes = {name: _hash(path, known) for name, path in files_of(subject)}
    _store(kept, known)
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:16]


def _hash(path: Path, known: Known) -> str:
    """A file's hash, "" if it cannot be read. It is added to what is `known`."""
    try:
        status = path.stat()
        stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns
        entry = known.get(str(path))
        if entry and entry[:3] == stamp:
            return entry[3]
        with path.open("rb") as file:
            value = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
    if time.time() - max(status.st_mtime, status.st_ctime) > RECENT:
        known[str(path)] = (*stamp, value)
    return value


def _load(kept: Path) -> Known:
    try:
        entries = json.loads(kept.read_text())
    except (OSError, ValueError):
        return {}
    return {path: tuple(entry) for path, entry in entries.items()}


def _store(kept: Path, known: Known) -> None:
    text = json.dumps(known)
    if known and (not kept.exists() or kept.read_text() != text):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.name}.{os.getpid()}.tmp")
        temporary.write_text(text)
        os.replace(temporary, kept)
