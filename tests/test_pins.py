"""Versions: of what is installed, each in one file, and of the package, the same everywhere."""

from __future__ import annotations

import json
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
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_requirement_is_pinned() -> None:
    for name in (
        "requirements.txt",
        "requirements-bench.txt",
        "requirements-cluster.txt",
        "requirements-drill.txt",
    ):
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


def test_binder_and_the_container_take_the_pins_and_the_python_of_all() -> None:
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    asked = (ROOT / ".binder/requirements.txt").read_text().splitlines()
    asked = [line for line in asked if not line.startswith(("#", "--extra-index-url "))]
    assert asked == ["-r ../requirements.txt", "-e ."]
    assert (ROOT / ".binder/runtime.txt").read_text() == f"python-{python}\n"

    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["image"].endswith(f"/python:{python}")
    assert "\nENV   := .venv/.ready\n" in (ROOT / "Makefile").read_text()
    assert container["postCreateCommand"] == "make .venv/.ready"
    interpreter = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert interpreter == "${containerWorkspaceFolder}/.venv/bin/python"

    files = [path for folder in (".binder", ".devcontainer") for path in (ROOT / folder).iterdir()]
    for path in files:
        assert "==" not in path.read_text() and not set(PINS.values()) & set(
            re.findall(r"[\d.]+\d", path.read_text())
        )


def test_make_installs_the_pins_in_one_command() -> None:
    installs = re.findall(r"\$\(PIP\)(.*)", (ROOT / "Makefile").read_text())
    assert " -r requirements.txt" in installs[0]
    assert all("requirements" in line or "--no-deps -e ." in line for line in installs)


def test_the_package_has_one_version() -> None:
    stated = PROJECT["project"]["version"]
    package = (ROOT / "difflens_utils/__init__.py").read_text()
    released = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)
    assert re.findall(r'^__version__ = "(.*)"$', package, re.MULTILINE) == [stated]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == stated
    assert released[0] == stated


def test_types_ship_with_every_folder_of_the_package() -> None:
    options = PROJECT["tool"]["setuptools"]
    assert options["packages"]["find"]["include"] == ["difflens_utils*"]
    assert "py.typed" in options["package-data"]["difflens_utils"]
    assert (ROOT / "difflens_utils/py.typed").exists()


@pytest.mark.parametrize("name", PINS)
def test_installed_version_is_the_pinned_one(name: str) -> None:
    assert (
        version(name).split("+")[0] == PINS[name]
    )  # +cpu or +cu130 is a build of the same version
