"""A clone of the repository in which a drill may break what it likes.

The build is that of the first five notebooks of the digits with small sizes. Whatever kind of stage
the later ones have, these have too, and the later ones take ten times as long.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SUBJECT, PROFILE = "digits", "quick"
NOTEBOOKS = ("00_bias", "01_polysemanticity", "02_ksae", "03_probes", "04_attribution")
LIMIT = 1200  # seconds after which a command counts as hanging


class Row(NamedTuple):
    """One line of the table: what was done, how often, and how often all went as it should."""

    drill: str
    case: str
    tried: int
    passed: int
    note: str = ""

    @property
    def ok(self) -> bool | None:
        """Whether it passed each time; None if it could not be tried here."""
        return None if not self.tried else self.passed == self.tried


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What it printed, without progress bars and empty lines."""
        every = (part for line in self.out.splitlines() for part in line.split("\r")[-1:])
        return [line.strip() for line in every if line.strip() and "%|" not in line]


@dataclass
class Scene:
    """A clone, and how its build is run."""

    root: Path
    cores: int = 2
    threads: int = 1  # of each job: another number of them rounds otherwise
    extra: dict[str, str] = field(default_factory=dict)  # of the environment
    limit: float = LIMIT

    @classmethod
    def clone(cls, folder: Path, cores: int = 2) -> Scene:
        """A clone of what is committed, that shares the environment of this repository."""
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, folder], check=True)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        return cls(folder, cores)

    @property
    def store(self) -> Path:
        """Where its artifacts lie."""
        return self.root / "artifacts"

    @cached_property
    def environment(self) -> dict[str, str]:
        """That of its commands."""
        own = {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        foreign = ("DIFFLENS_", "MAKE", "MFLAGS")  # of a make around it, whose lines differ
        kept = {n: v for n, v in os.environ.items() if not n.startswith(foreign)}
        return kept | own | {"SUBJECT": SUBJECT, "PYTHONHASHSEED": "0"} | self.extra

    def build(self, shards: int = 1) -> list[str]:
        """The command that `make book` gives, of NOTEBOOKS alone."""
        command = [sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile"]
        command += ["--cores", str(self.cores), "--quiet", "all", "--nolock", "--rerun-incomplete"]
        config = [f"profile={PROFILE}", f"notebooks=[{', '.join(NOTEBOOKS)}]", f"shards={shards}"]
        targets = [
            f"_build/{kind}/{PROFILE}/{SUBJECT}/{name}.{end}"
            for name in NOTEBOOKS
            for kind, end in (("executed", "ipynb"), ("results", "json"))
        ]
        command += ["--set-threads", f"notebook={self.threads}"]
        return [*command, "--scheduler", "greedy", "--config", *config, "--", *targets]

    def notebook(self, name: str, *options: str) -> list[str]:
        """The command that executes one notebook."""
        return [
            sys.executable,
            "workflow/execute.py",
            name,
            "--profile",
            PROFILE,
            "--subject",
            SUBJECT,
            *options,
        ]

    def start(self, command: Sequence[str], silent: bool = False) -> subprocess.Popen[str]:
        """Starts a command in the clone, in a group of its own. A `silent` one is not listened to.

        Its children may outlive it, and whoever listens waits for them too.
        """
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.DEVNULL if silent else subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def run(self, command: Sequence[str]) -> Ended:
        """Runs a command in the clone."""
        began = time.monotonic()
        process = self.start(command)
        try:
            out, _ = process.communicate(timeout=self.limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            out, _ = process.communicate()
            out += f"\nstopped after {self.limit:g} s\n"
        return Ended(process.returncode, out, time.monotonic() - began)

    def results(self) -> dict[str, str]:
        """The hash of each result file."""
        files = sorted((self.root / "_build/results").rglob("*.json"))
        return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def forget(self) -> None:
        """Removes what was built, and keeps the clone."""
        for folder in ("_build", "artifacts", ".snakemake"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def forget_pages(self) -> None:
        """Removes executed notebooks and results, and keeps the store."""
        for folder in ("_build", ".snakemake"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def artifacts(self) -> dict[str, list[Path]]:
        """The folders of each stage in the store."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self.store.glob("[!.]*/[!.]*")):
            if path.is_dir():
                found.setdefault(path.parent.name, []).append(path)
        return found

    def leftovers(self) -> list[str]:
        """Half-written files and folders in the store and the build."""
        places = [self.store, self.root / "_build/results", self.root / "_build/executed"]
        found = [path for place in places for path in place.rglob(".*")]
        folders = chain.from_iterable(self.artifacts().values())
        found += [path for path in folders if not (path / "manifest.json").exists()]
        return [str(path.relative_to(self.root)) for path in found]


def processes(root: Path) -> Iterator[tuple[int, str]]:
    """The processes whose working folder is in a clone, with their commands."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inside = Path(os.readlink(entry / "cwd")).is_relative_to(root)
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has ended, or is somebody else's
            continue
        if inside and command:
            yield int(entry.name), command


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for a condition, at most so long, and returns whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return condition()


def same(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """How results differ from others, in words; "" if they do not."""
    missing = expected.keys() - found.keys()
    other = [name for name, value in found.items() if expected.get(name) != value]
    words = [f"no {name}" for name in sorted(missing)] + [f"{name} differs" for name in other]
    return ", ".join(words)
