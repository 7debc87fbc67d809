"""Results on disk: every expensive result is computed once and stored under its key.

A function decorated with `stored`, `stored_each` or `shards.shared` looks into the store before it
computes. Its result lies in a folder `artifacts/<stage>/<key>/`. The key is a hash of everything
that determines the result (`keys`). The folder appears complete or not at all. Its `manifest.json`
holds what the key was made of, a checksum per file and one of its own. A damaged result is noticed
by them and computed again.

>>> import tempfile
>>> from pathlib import Path
>>> from unittest.mock import patch
>>> from difflens_utils.runtime import artifacts
>>> with tempfile.TemporaryDirectory() as store, patch.object(artifacts, "STORE", Path(store)):
...     artifact = artifacts.Artifact.of("sums", {"a": 1, "b": 2})
...     for _ in range(2):
...         folder = artifacts.make(artifact, lambda folder: print("computed"))
computed
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from filelock import FileLock
from safetensors.torch import load_file, save
from torch import Tensor

from . import integrity, keys, tally
from .keys import Parameters, file_fingerprint

ROOT = Path(__file__).parents[2]
STORE = Path(os.environ.get("DIFFLENS_ARTIFACTS", ROOT / "artifacts"))
# Whether to put what is made, and does not ship, where shipped results lie (`make methods`).
SHIP = os.environ.get("DIFFLENS_SHIP", "0") not in ("", "0")

P = ParamSpec("P")
R = TypeVar("R")
Arguments = dict[str, Any]  # of a call, by name

# ------------------------------------------------------------------------------------------ folders


class Artifact(NamedTuple):
    """A folder of the store, and what determines its content."""

    stage: str
    parameters: Parameters
    folder: Path

    @classmethod
    def of(cls, stage: str, parameters: Parameters) -> Artifact:
        """Where the result of a stage lies, whether it is there or not."""
        return cls(stage, parameters, STORE / stage / keys.key_of(parameters))


_verified: set[Path] = set()  # checksums are checked once per process and artifact


def intact(folder: Path) -> bool:
    """Whether every file that the manifest lists is there with its checksum."""
    try:
        files = _manifest(folder)["files"]
        return all(file_fingerprint(folder / name) == checksum for name, checksum in files.items())
    except (OSError, ValueError, KeyError):
        return False


def exists(folder: Path) -> bool:
    """Whether an artifact is `intact`. Its files are read only once per process."""
    if not (folder in _verified and folder.exists()):
        if not intact(folder):
            return False
        _verified.add(folder)
    return True


def make(artifact: Artifact, write: Callable[[Path], None]) -> Path:
    """Returns the folder of an artifact. `write(folder)` fills it unless it is intact already.

    Of two processes that want the same artifact, one makes it and the other waits. Raises OSError,
    in one line, for a full disk.
    """
    if not exists(artifact.folder):
        with lock(artifact.folder):
            if not exists(artifact.folder):
                fill(artifact, write)
                _verified.add(artifact.folder)
    recall(artifact.folder)
    return artifact.folder


def recall(folder: Path) -> None:
    """Counts the images that were drawn for an artifact, whichever process drew them."""
    tally.take(_manifest(folder).get("drawn", {}))


def recount(part: Path) -> None:
    """Counts the images that were drawn for a part among those of the whole artifact."""
    for ways in _manifest(part).get("drawn", {}).values():
        for way, images in ways.items():
            tally.count(way, images)


def lock(folder: Path) -> FileLock:
    """The lock that a process holds while it makes or removes an artifact."""
    path = STORE / "locks" / f"{folder.parent.name}-{folder.name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def fill(artifact: Artifact, write: Callable[[Path], None]) -> None:
    """Fills a folder by `write`. It appears with its manifest. The caller holds its lock."""
    discard(artifact.folder)
    try:
        with atomic(artifact.folder) as temporary:
            temporary.mkdir()
            with keys.making(artifact.parameters), tally.making(artifact.folder.name) as drawn:
                write(temporary)
            paths = [path for path in sorted(temporary.rglob("*")) if path.is_file()]
            files = {str(path.relative_to(temporary)): file_fingerprint(path) for path in paths}
            manifest = {"stage": artifact.stage, "parameters": artifact.parameters, "files": files}
            sealed = integrity.sealed(manifest | ({"drawn": drawn} if drawn else {}))
            (temporary / "manifest.json").write_text(sealed, encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        advice = f"the disk under {STORE} is full: free space or set DIFFLENS_ARTIFACTS"
        raise OSError(error.errno, advice) from None


def discard(folder: Path) -> None:
    """Removes what is left of a damaged artifact, and prints a line about it to stderr."""
    if folder.exists():
        name = f"{folder.parent.name}/{folder.name}"
        print(f"artifact {name} is damaged and is made again", file=sys.stderr)
        aside = folder.rename(folder.with_name(f".{folder.name}-{os.getpid()}"))
        shutil.rmtree(aside, ignore_errors=True)  # a shared disk keeps files that others have open


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path for a file or a folder, which replaces `path` at the end.

    If the block fails, the temporary path is removed and `path` stays as it was. What a killed
    process left at the temporary path is removed first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    _remove(temporary)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _manifest(folder: Path) -> dict[str, Any]:
    """What an artifact was made of. Raises ValueError for a manifest that is damaged.

    Those of the store hold their own checksum. Those that ship are in the list of what ships.
    """
    text = (folder / "manifest.json").read_text(encoding="utf-8")
    if STORE in folder.parents:
        return integrity.opened(text)
    manifest: dict[str, Any] = json.loads(text)
    return manifest


# --------------------------------------------------------------------------------------- decorators


class Form(NamedTuple):
    """How a result is written into a folder, and read from it."""

    save: Callable[[Any, Path], None]
    load: Callable[[Path], Any]


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes tensors {name: tensor} into an artifact's folder."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    # not save_file, whose error for a full disk is no OSError
    (folder / "tensors.safetensors").write_bytes(save(contiguous))


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an artifact's folder."""
    return load_file(folder / "tensors.safetensors")


TENSORS = Form(save_tensors, load_tensors)  # {name: tensor}


@dataclass(frozen=True)
class stored:
    """Decorates a function: its results are stored under a key of all its arguments.

    `@stored("probes")` suffices above a function that returns tensors. The options are for other
    functions.
    """

    stage: str
    _: KW_ONLY
    form: Form = TENSORS
    """How a result is kept."""
    reads: Sequence[str] = ()
    """The parts of a subject that the function reads, beside what generates images."""
    ignoring: Sequence[str] = ("progress",)
    """The arguments that change no value."""
    describe: Mapping[str, Callable[[Any], Arguments]] = field(default_factory=dict)
    """For an argument that cannot be described: what gives the entries that stand for it."""
    shipped: Callable[[Arguments], Path | None] | None = None
    """What gives the folder of a result that comes with the repository, or None.

    It is taken if it was made with the same arguments, by whatever code and libraries.
    """
    beyond: Callable[[Arguments], Any] | None = None
    """What gives a value that only the key of the store has, since it differs between machines."""
    together: bool = False
    """Whether processes share the function's work (`shards`): then none waits for another."""

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            arguments = keys.bound(function, args, kwargs)
            parameters = keys.of(function, self._described(arguments), self.reads)
            place = self.shipped(arguments) if self.shipped else None
            if place is not None and _ships(place, parameters):
                folder = place
            else:
                if self.beyond is not None:
                    parameters["beyond"] = keys.digest(self.beyond(arguments))
                artifact = Artifact.of(self.stage, parameters)
                folder = self._make(artifact, partial(function, *args, **kwargs))
                if place is not None and SHIP:
                    _ship(artifact, place)
            result: R = self.form.load(folder)
            return result

        return call

    def _described(self, arguments: Arguments) -> Arguments:
        described: Arguments = {}
        for name, value in arguments.items():
            if name in self.describe:
                described |= self.describe[name](value)
            elif name not in self.ignoring:
                described[name] = value
        return described

    def _make(self, artifact: Artifact, compute: Callable[[], Any]) -> Path:
        if not self.together or exists(artifact.folder):
            return make(artifact, lambda folder: self.form.save(compute(), folder))
        with keys.making(artifact.parameters), tally.making(artifact.folder.name) as drawn:
            result = compute()

        def save(folder: Path) -> None:
            tally.take(drawn)
            self.form.save(result, folder)

        return make(artifact, save)


def stored_each(
    stage: str, each: str, *, reads: Sequence[str] = (), ignoring: Sequence[str] = ()
) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    """Decorates a function that returns a row for every element of its argument `each`: (M, ...).

    Every row is stored under a key of its own. One call computes all missing rows. Of two processes
    that want the same rows, one makes them and the other waits.
    """

    def decorate(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
            arguments = keys.bound(function, args, kwargs)
            elements = arguments.pop(each)
            described = {name: arguments[name] for name in arguments if name not in ignoring}
            common = keys.of(function, described, reads)
            artifacts = [
                Artifact.of(stage, common | {each: keys.digest(element)}) for element in elements
            ]
            names = [artifact.folder.name for artifact in artifacts]
            with lock(STORE / stage / keys.key_of({"each": names})):
                missing = [i for i, made in enumerate(artifacts) if not exists(made.folder)]
                if missing:
                    arguments[each] = [elements[i] for i in missing]
                    with keys.making(common):
                        rows = function(**arguments)  # type: ignore[call-arg]
                    for i, row in zip(missing, rows, strict=True):
                        make(artifacts[i], partial(save_tensors, {"row": row}))
            return torch.stack([load_tensors(made.folder)["row"] for made in artifacts])

        return call

    return decorate


# ------------------------------------------------------------------------------------- what ships


def lasting(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a key that must be the same for a result that ships: the arguments.

    A subject among them counts without its runtime and its code. The code, the libraries and the
    precision may differ.
    """
    arguments = dict(parameters["arguments"])
    if isinstance(subject := arguments.get("subject"), Mapping):
        kept = {name: part for name, part in subject.items() if name not in ("runtime", "code")}
        arguments["subject"] = kept
    return {"arguments": arguments}


def _ships(folder: Path, parameters: Parameters) -> bool:
    """Whether a folder of the repository is intact, and was made with these arguments."""
    if not intact(folder):
        return False
    known = lasting(_manifest(folder)["parameters"])
    return keys.key_of(known) == keys.key_of(lasting(parameters))


def _ship(artifact: Artifact, place: Path) -> None:
    """Copies an artifact into the repository. Its manifest keeps only what must be the same."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(artifact.folder, place)
    manifest = _manifest(place) | {"parameters": lasting(artifact.parameters)}
    manifest.pop("drawn", None)  # names of artifacts that do not ship
    (place / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
