"""Files that ship, and files that a build has made, are as they were written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import nbformat
import pytest

from workflow import sums
from workflow.execute import ROOT, integrity


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("DIFFLENS_SHIP", raising=False)
    for name in ("models/a/weights.bin", "models/a-b/weights.bin", "results/x.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    (tmp_path / "models/a/README.md").write_text("a card")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    integrity.write_list(sums.shipped(tmp_path), tmp_path)
    return tmp_path


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git knows what ships")
def test_all_that_ships_is_listed_as_it_is() -> None:
    listed = integrity.listed()
    assert list(listed) == sums.shipped(ROOT), "make sums lists what ships"
    changed = [name for name, sum_ in listed.items() if integrity.checksum_of(ROOT / name) != sum_]
    assert not changed, f"{changed[0]} has changed: make sums lists it as it is"


def test_the_list_is_one_that_sha256sum_reads(shipped: Path) -> None:
    assert list(integrity.listed(shipped)) == [
        "models/a-b/weights.bin",
        "models/a/weights.bin",
        "results/x.json",
    ]
    command = ["sha256sum", "--check", "--strict", "--quiet", "shipped.sha256"]
    subprocess.run(command, cwd=shipped, check=True)


@pytest.mark.parametrize("position", range(len("models/a/weights.bin")))
def test_one_flipped_bit_of_what_ships_is_one_line(shipped: Path, position: int) -> None:
    path = shipped / "models/a/weights.bin"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    integrity.check_shipped(shipped / "models/a", root=shipped)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^models/a/weights.bin is damaged: git .*$"):
        integrity.check_shipped(shipped / "models/a", root=shipped)
    integrity.check_shipped(shipped / "models/a-b", shipped / "results", root=shipped)


def test_a_file_that_was_removed_or_added_is_not_damaged(shipped: Path) -> None:
    (shipped / "models/a/own.bin").write_text("mine")
    (shipped / "models/a/weights.bin").unlink()
    integrity.check_shipped(shipped / "models/a", root=shipped)


def test_who_makes_what_ships_may_replace_it(
    shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shipped / "models/a/weights.bin").write_text("trained anew")
    monkeypatch.setenv("DIFFLENS_SHIP", "1")
    integrity.check_shipped(shipped / "models/a", root=shipped)
    monkeypatch.setenv("DIFFLENS_SHIP", "0")
    with pytest.raises(ValueError, match="is damaged"):
        integrity.check_shipped(shipped / "models/a", root=shipped)


RESULT = {"notebook": "00_bias", "records": [{"name": "fd", "value": 0.25}], "says": "„ä“"}
NOTEBOOK = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x = {"checksum": "0"}')])


@pytest.mark.parametrize("content", [RESULT, NOTEBOOK], ids=["result", "notebook"])
def test_every_flipped_byte_of_what_was_made_is_noticed(content: dict, tmp_path: Path) -> None:
    path = tmp_path / "made.json"
    path.write_text(integrity.sealed(content), encoding="utf-8")
    whole = path.read_bytes()
    assert integrity.read(path) == json.loads(json.dumps(content))
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        assert list(integrity.damaged([path, tmp_path / "none.json"])) == [path], position
    with pytest.raises(ValueError, match=r"made.json is damaged: delete it, and make book"):
        integrity.read(path)


def test_a_sealed_notebook_is_a_valid_one() -> None:
    nbformat.validate(nbformat.reads(integrity.sealed(NOTEBOOK), as_version=4))
    assert "checksum" not in NOTEBOOK.metadata
