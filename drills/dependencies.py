"""What the study is built on: every pin used, every import pinned, licences, known faults."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from drills.scene import ROOT, Row, Scene

DRILL = "dependencies"
LONG = 60  # characters behind which a licence's name is its whole text


def drill(scene: Scene, _expected: dict[str, str]) -> Iterator[Row]:
    """Pins, licences and known faults."""
    pins = pinned()
    done = subprocess.run(
        [sys.executable, "-m", "deptry", "."], cwd=scene.root, capture_output=True
    )
    said = re.sub(r"\x1b\[\d+m", "", done.stderr.decode()).strip().splitlines()
    yield Row(DRILL, "every pin is used and every import is pinned", len(pins),
              0 if done.returncode else len(pins), said[-1] if done.returncode else "")  # fmt: skip
    found = licences()
    unknown = [name for name, licence in found.items() if not licence]
    yield Row(
        DRILL, "a licence is named", len(found), len(found) - len(unknown), ", ".join(unknown)
    )
    yield _audited()


def pinned() -> list[str]:
    """The names in requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line]


def needed() -> dict[str, Distribution]:
    """All distributions that are installed for requirements.txt, by name."""
    found: dict[str, Distribution] = {}
    waiting = pinned()
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:  # for another system, or an extra
            continue
        for requirement in found[key].requires or []:
            if "extra ==" not in requirement:
                waiting.append(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    return dict(sorted(found.items()))


def licences() -> dict[str, str]:
    """The licence of each distribution that is needed, as it says itself; "" where it does not."""
    return {name: _licence(found) for name, found in needed().items()}


def _licence(found: Distribution) -> str:
    said = found.metadata.json
    for field in ("license_expression", "license"):
        text = str(said.get(field) or "").strip()
        if text and text.upper() != "UNKNOWN" and len(text) < LONG:
            return text
    classified = [c for c in said.get("classifier") or [] if c.startswith("License ::")]
    if classified:
        return ", ".join(c.rpartition(" :: ")[2] for c in classified)
    files = [f for f in found.files or [] if re.search(r"licen[cs]e|copying", str(f), re.I)]
    text = str(said.get("license") or "")
    if not text and files:
        text = Path(str(found.locate_file(files[0]))).read_text(errors="replace")
    return next((line.strip()[:LONG] for line in text.splitlines() if line.strip()), "")


def _audited() -> Row:
    """Known faults of the pinned versions, where a list of them can be reached."""
    case = "no known fault, by pip-audit"
    command = shutil.which("pip-audit", path=str(Path(sys.executable).parent))
    if command is None:
        return Row(DRILL, case, 0, 0, "not tried: pip-audit is not installed")
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off"]
    done = subprocess.run(
        [command, *options, "-r", str(ROOT / "requirements.txt")], capture_output=True, text=True
    )
    said = done.stderr.strip().splitlines() or [""]
    number = len(pinned())
    if done.returncode == 0:
        return Row(DRILL, case, number, number, said[-1])
    if "Found" in done.stderr:
        faulty = {line.split()[0] for line in done.stdout.splitlines()[2:] if line.strip()}
        return Row(DRILL, case, number, number - len(faulty), said[-1])
    return Row(DRILL, case, 0, 0, f"not tried: {said[-1][:120]}")
