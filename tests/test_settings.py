"""Settings and seeds, which the workflow reads too."""

from __future__ import annotations

import ast
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from difflens_utils import settings
from difflens_utils.settings import Seeds, Settings


def test_every_stream_of_randomness_has_a_seed_of_its_own() -> None:
    assert len(set(Seeds())) == len(Seeds._fields)
    assert Seeds.of(0) == Seeds()


def test_a_base_seed_moves_every_stream_alike() -> None:
    moved = Seeds.of(1000)
    assert moved == Seeds(*(seed + 1000 for seed in Seeds()))
    assert (moved.main, moved.report, moved.tuning) == (1000, 4105, 1400)


def test_every_setting_says_what_it_means() -> None:
    meanings = Settings.meanings()
    assert list(meanings) == [setting.name for setting in fields(Settings)]
    assert all(meanings.values())
    assert meanings["steps"] == "sampling steps, T"


def test_settings_are_not_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().steps = 20


def test_the_settings_need_the_standard_library_alone() -> None:
    """The workflow reads them within milliseconds."""
    tree = ast.parse(Path(settings.__file__).read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imported and all(
        isinstance(node, ast.ImportFrom) and not node.level for node in imported
    )
    assert {node.module for node in imported} <= sys.stdlib_module_names
