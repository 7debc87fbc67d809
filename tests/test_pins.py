"""One file of versions: everything that installs the study reads it, and what is installed is what it says."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
REQUIREMENTS = [
    line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()
]
PINS = dict(line.split("==") for line in filter(None, REQUIREMENTS) if "==" in line)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_requirement_is_pinned() -> None:
    for name in ("requirements.txt", "requirements-bench.txt", "requirements-cluster.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert not line or line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), (
                f"{name}: {line}"
            )


def test_pyproject_reads_the_pins() -> None:
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert (
        "dependencies" in PROJECT["project"]["dynamic"] and "dependencies" not in PROJECT["project"]
    )
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    assert dynamic["optional-dependencies"] == {"bench": {"file": ["requirements-bench.txt"]}}


def test_conda_takes_python_only_and_pip_the_pins() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = [d for d in dependencies if isinstance(d, str)]
    (pip,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    assert conda == ["python=" + PROJECT["project"]["requires-python"].removeprefix(">="), "pip"]
    assert pip == ["-r requirements.txt", "-e ."]


def test_make_installs_the_pins_in_one_command() -> None:
    installs = re.findall(r"\$\(PIP\)(.*)", (ROOT / "Makefile").read_text())
    assert " -r requirements.txt" in installs[0]
    assert all("requirements" in line or "--no-deps -e ." in line for line in installs)


@pytest.mark.parametrize("name", PINS)
def test_installed_version_is_the_pinned_one(name: str) -> None:
    assert (
        version(name).split("+")[0] == PINS[name]
    )  # +cpu or +cu130 is a build of the same version
