"""Results on disk: every expensive result is stored once, under what determines it, and never half-written.

An artifact is a folder `artifacts/<stage>/<key>/`. The key is a hash of everything that determines the result (`keys`):
`stored` makes it for a function that returns tensors, `cached` takes what `keys.of` returns. `manifest.json` holds these
parameters and a checksum per file: a rerun reuses the folder, a damaged one is noticed and made again. Result files hold
the figures that the book, the README and the tables are made from.
"""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from . import keys
from .errors import one_of, positive
from .metrics import NAN, Estimate
from .names import slug
from .weights import file_fingerprint

ROOT = Path(__file__).parents[1]
STORE = Path(os.environ.get("DIFFLENS_ARTIFACTS", ROOT / "artifacts"))
SHIP = os.environ.get("DIFFLENS_SHIP", "0") not in (
    "",
    "0",
)  # make anew what ships with the models, and put it there (`make methods`)


def intact(folder: Path) -> bool:
    """Whether every file that the manifest lists is there with its checksum."""
    try:
        files = json.loads((folder / "manifest.json").read_text())["files"]
        return all(file_fingerprint(folder / name) == checksum for name, checksum in files.items())
    except (OSError, ValueError, KeyError):
        return False


def lasting(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments alone, and of a subject not its runtime: what must be the same for a result that ships.

    The code, the libraries and the precision may be others.
    """
    arguments = dict(parameters["arguments"])
    if isinstance(subject := arguments.get("subject"), Mapping):
        arguments["subject"] = {k: v for k, v in subject.items() if k not in ("runtime", "code")}
    return {"arguments": arguments}


def ships(folder: Path, parameters: Mapping[str, Any]) -> bool:
    """Whether a folder that came with the repository is intact, and was made with these parameters, whatever the code."""
    if SHIP or not intact(folder):
        return False
    known = json.loads((folder / "manifest.json").read_text())["parameters"]
    return keys.key_of(lasting(known)) == keys.key_of(lasting(parameters))


def ship(folder: Path, shipped: Path, parameters: Mapping[str, Any]) -> None:
    """Put an artifact where it comes with the repository, under what must be the same (`make methods`)."""
    shutil.rmtree(shipped, ignore_errors=True)
    shutil.copytree(folder, shipped)
    manifest = json.loads((shipped / "manifest.json").read_text()) | {
        "parameters": lasting(parameters)
    }
    (shipped / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


_verified: set[Path] = set()  # checksums are checked once per process and artifact


def cached(
    stage: str,
    parameters: Mapping[str, Any],
    make: Callable[[Path], None],
    shipped: Path | None = None,
    ahead: Callable[[], object] | None = None,
) -> Path:
    """The folder of an artifact; `make(folder)` fills it if it is not there intact.

    Written into a temporary folder and renamed, so an interrupt or a full disk leaves nothing half-written; of two processes
    that want the same artifact one makes it and the other waits. Raises OSError in one line for a full disk. `shipped` is where the artifact lies if it came with the repository, for what takes
    longer than a reader has: it is taken if it was made with the same parameters, by whatever version of the code. `ahead` is called
    before a missing artifact is made, and while no one waits: for work that processes share (`shards`).
    """
    if shipped is not None:
        if ships(shipped, parameters):
            return shipped
        folder = cached(stage, parameters, make, ahead=ahead)
        if SHIP:
            ship(folder, shipped, parameters)
        return folder
    key = keys.key_of(parameters)
    folder = STORE / stage / key
    if there(folder):
        return folder
    if ahead is not None:
        with keys.making(parameters):
            ahead()
    with _lock(stage, key):
        if not there(folder):
            fill(folder, stage, parameters, make)
    _verified.add(folder)
    return folder


def there(folder: Path) -> bool:
    """Whether an artifact is there intact."""
    if folder in _verified and folder.exists():
        return True
    if intact(folder):
        _verified.add(folder)
        return True
    return False


def _lock(stage: str, key: str) -> FileLock:
    path = STORE / "locks" / f"{stage}-{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path)


def discard_damaged(folder: Path) -> None:
    """Remove an artifact that is not intact, and say so."""
    with _lock(folder.parent.name, folder.name):
        if folder.exists() and not intact(folder):
            _discard(folder)


def _discard(folder: Path) -> None:
    print(
        f"artifact {folder.parent.name}/{folder.name} is damaged and is made again", file=sys.stderr
    )
    shutil.rmtree(folder)


def fill(
    folder: Path, stage: str, parameters: Mapping[str, Any], make: Callable[[Path], None]
) -> None:
    """Let `make` fill a folder that appears whole, with its manifest, or not at all; for whoever holds its lock."""
    if folder.exists():
        _discard(folder)
    temporary = folder.with_name(
        f".{folder.name}"
    )  # one name: what a killed process left there goes first
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with keys.making(parameters):
            make(temporary)
        files = {
            str(p.relative_to(temporary)): file_fingerprint(p)
            for p in sorted(temporary.rglob("*"))
            if p.is_file()
        }
        manifest = {"stage": stage, "parameters": parameters, "files": files}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        os.replace(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno, f"the disk under {STORE} is full: free space or set DIFFLENS_ARTIFACTS"
            ) from None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def cached_tensors(
    stage: str,
    parameters: Mapping[str, Any],
    make: Callable[[], dict[str, Tensor]],
    shipped: Path | None = None,
) -> dict[str, Tensor]:
    """`cached` for a dictionary of tensors, kept as safetensors."""
    return load_tensors(
        cached(stage, parameters, lambda folder: save_tensors(make(), folder), shipped)
    )


Tensors = dict[str, Tensor]


def stored(
    stage: str,
    *,
    reads: Sequence[str] = (),
    ignoring: Sequence[str] = ("progress",),
    shipped: Callable[[dict[str, Any]], Path] | None = None,
) -> Callable[[Callable[..., Tensors]], Callable[..., Tensors]]:
    """A function that returns tensors as one that looks into the store first, under a key of all its arguments.

    `reads` names the parts of a subject that the function reads, beside what generates; `ignoring` the arguments that change
    no value; `shipped` tells from the arguments where the result lies if it came with the repository.
    """

    def decorate(function: Callable[..., Tensors]) -> Callable[..., Tensors]:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Tensors:
            arguments = keys.bound(function, args, kwargs)
            own = {name: value for name, value in arguments.items() if name not in ignoring}
            place = shipped(arguments) if shipped else None
            return cached_tensors(
                stage, keys.of(function, own, reads), lambda: function(*args, **kwargs), place
            )

        return call

    return decorate


def cached_each(
    stage: str, parameters: Sequence[Mapping[str, Any]], make: Callable[[list[int]], Tensor]
) -> list[Tensor]:
    """`cached` for many small tensors of a kind: `make(missing)` gets the numbers of those that are not there and gives them in one (M, ...).

    Of two processes that want the same ones, one makes them and the other waits.
    """
    names = [keys.key_of(p) for p in parameters]
    made: dict[int, Tensor] = {}
    with _lock(stage, keys.key_of({"each": names})):
        if missing := [i for i, key in enumerate(names) if not there(STORE / stage / key)]:
            made = dict(zip(missing, make(missing), strict=True))
        return [
            cached_tensors(stage, p, lambda i=i: {"value": made[i]})["value"]
            for i, p in enumerate(parameters)
        ]


def save_tensors(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Put tensors into an artifact's folder."""
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "tensors.safetensors")


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an artifact's folder."""
    return load_file(folder / "tensors.safetensors")


PROFILES = ("quick", "book", "paper", "mine")  # mine: a run with values of the reader's own


class Records(dict[str, dict[str, Any]]):
    """Records by name. One that was added without a figure is not among them, and reads as nan."""

    def __init__(self) -> None:
        super().__init__()
        self.unmeasured: set[str] = set()

    def __missing__(self, name: str) -> dict[str, Any]:
        if name not in self.unmeasured:
            raise KeyError(name)
        return {"name": name, "value": NAN, "low": NAN, "high": NAN, "n": 0, "seed": None}


class Results:
    """The figures of one executed notebook, for `_build/results/<profile>/<subject>/<notebook>.json`.

    Every record has a value, a 95 % interval where it has one, a sample size and a seed; every verdict names the record
    it was computed from.
    """

    def __init__(self, notebook: str, *, subject: str, profile: str, **parameters: Any) -> None:
        one_of("profile", profile, PROFILES)
        self.notebook, self.subject, self.profile = notebook, subject, profile
        self.parameters = parameters
        self.records = Records()
        self.verdicts: list[dict[str, Any]] = []
        self.scorecard: list[
            dict[str, str]
        ] = []  # the paper's claims, in the notebook that judges them

    def add(self, name: str, value: Estimate | float, n: int | None = None) -> None:
        """Record a figure under a dotted name, e.g. `ksae.k32.fvu`, to six significant digits.

        One that is no number (`metrics.NOTHING`) is no record; statements that rest on it are not
        judged.
        """
        estimate = value if isinstance(value, Estimate) else Estimate(float(value), None, None, n)
        if not math.isfinite(estimate.value):
            self.records.unmeasured.add(name)
            return
        value, low, high = (
            None if v is None or math.isnan(v) else float(f"{v:.6g}") for v in estimate[:3]
        )
        self.records[name] = {
            "name": name,
            "value": value,
            "low": low,
            "high": high,
            "n": n or estimate.n,
            "seed": self.parameters.get("seed"),
        }

    def judge(
        self,
        claim: str,
        record: str,
        target: str,
        holds: bool,
        partly: bool = False,
        close: bool = False,
    ) -> str:
        """State whether a claim holds by a rule computed from records; returns the verdict.

        `close` marks one whose figure lies within noise of its target, so that other hardware may decide it differently: it is
        shown, but is no reference to test against. A statement without a figure is not tested, and no
        verdict.
        """
        if record in self.records.unmeasured:
            return "not tested"
        one_of("record", record, self.records)
        verdict = "holds" if holds else "partly" if partly else "does not hold"
        self.verdicts.append(
            {"claim": claim, "record": record, "target": target, "verdict": verdict, "close": close}
        )
        return verdict

    def checked(self) -> str:
        """The verdicts that every machine should come to, one per line."""
        return "\n".join(
            f"{v['claim']} -> {'too close to check' if v['close'] else v['verdict']}"
            for v in self.verdicts
        )

    def save(self) -> Path:
        """Write the result file atomically and return its path. DIFFLENS_RESULTS is the folder for a worker's, which no one keeps."""
        path = (
            Path(os.environ.get("DIFFLENS_RESULTS") or results_folder(self.subject, self.profile))
            / f"{self.notebook}.json"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "notebook": self.notebook,
            "subject": self.subject,
            "profile": self.profile,
            "parameters": self.parameters,
            "environment": environment(),
            "records": list(self.records.values()),
            "verdicts": self.verdicts,
        }
        content |= {"scorecard": self.scorecard} if self.scorecard else {}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        os.replace(temporary, path)
        return path


def results_folder(subject: str, profile: str) -> Path:
    """Where the result files of one subject and profile lie."""
    return ROOT / "_build/results" / profile / slug(subject)


def load_results(subject: str, profile: str) -> dict[str, dict[str, Any]]:
    """The result files of executed notebooks: {notebook: content}. Raises ValueError if there are none."""
    folder = results_folder(subject, profile)
    files = sorted(folder.glob("[0-9][0-9]_*.json"))
    if not files:
        raise ValueError(
            f"subject {subject} has no results of profile {profile}: run the other notebooks first, or make book"
        )
    return {path.stem: json.loads(path.read_text()) for path in files}


def environment() -> dict[str, str]:
    """What a figure was computed with."""
    cuda = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "device": cuda,
    }


def check_sizes(**sizes: float) -> None:
    """One-line errors for sizes that are not greater than 0, before anything expensive starts."""
    for name, value in sizes.items():
        positive(name, value)
