"""A submission: a folder with `method.yml`, and with `method.py` or weights or both.

    name: Difference of means
    about: adds what sets a class apart from the others
    by: the authors of the study
    link: https://example.org        # optional
    grid: [0.125, 0.25, 0.5, 1.0]    # strengths that are tried; for towards
    asymmetric: true                 # Eq. 11; false for the symmetric step
    seed: 0
    options: {n: 200}                # what method.py finds in task.options

`like: topk` takes the method.py of the folder beside it, for a variant with other options.
`row: DiffLens` in place of method.py takes a row of the book's notebook 06. `dictionary:
{format: saelens, folder: weights}` takes a sparse autoencoder that another library has trained
(`foreign`); the folder may hold one folder per subject.

>>> import tempfile
>>> from pathlib import Path
>>> from difflens_utils.bench.submission import Submission
>>> folder = Path(tempfile.mkdtemp()) / "cheat"
>>> folder.mkdir()
>>> _ = (folder / "method.yml").write_text("name: Cheat\\nabout: looks\\nby: nobody\\n")
>>> _ = (folder / "method.py").write_text("def scores(task):\\n    return task.study.many.scored")
>>> Submission.read(folder)
Traceback (most recent call last):
    ...
ValueError: method.py, line 2: a submission may not read scored, which measures results
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from .. import methods
from ..runtime.errors import line, one_of
from . import TRACKS, foreign

# Names that lead to what results are measured by, or to what was planted.
UNSEEN = frozenset(
    "scorer second_clip scored second world worlds planted renders marginal evaluators registry "
    "bench _judges artifacts told told_again".split()
)
PARTS = frozenset({"*", "bench", "evaluators", "subjects", "worlds"})  # nor may it import these
MODULES = ("bench", "workflow", "models", "tests")  # that a submission has no business in
SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
BIGGEST = 100e6  # bytes of a folder
STRENGTHS, LENGTH = 12, 200  # at most: of a grid, and of a line of text


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Weights:
    """Where the weights of another library lie."""

    format: str
    folder: str


@checked(frozen=True, config=ConfigDict(extra="forbid"))
class Card:
    """What method.yml says."""

    name: str
    about: str
    by: str
    link: str = ""
    like: str = ""
    row: str = ""
    dictionary: Weights | None = None
    grid: tuple[float, ...] = methods.SPARSE
    asymmetric: bool = True
    seed: int = 0
    subjects: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raises ValueError, in one line, for values that no track could take."""
        for name in ("name", "about", "by", "link"):
            text = getattr(self, name)
            if len(text) > LENGTH or not text.isprintable():
                raise ValueError(f"method.yml: {name} must be one line of at most {LENGTH} letters")
        if self.link and not self.link.startswith(("https://", "http://")):
            raise ValueError("method.yml: link must begin with https://")
        rising = all(a < b for a, b in zip(self.grid, self.grid[1:], strict=False))
        in_range = all(0 < strength < math.inf for strength in self.grid)
        if not (1 <= len(self.grid) <= STRENGTHS and rising and in_range):
            raise ValueError(f"method.yml: grid must be 1 to {STRENGTHS} rising numbers above 0")
        if self.dictionary is not None:
            one_of("method.yml: format", self.dictionary.format, foreign.READERS)


@dataclass(frozen=True)
class Submission:
    """A folder that was read and checked. Its code has not run yet."""

    folder: Path
    card: Card
    source: str = ""  # of method.py

    @classmethod
    def read(cls, folder: Path) -> Submission:
        """Raises ValueError, in one line, for whatever is wrong and can be seen without running."""
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        if not SLUG.fullmatch(folder.resolve().name):
            raise ValueError(
                f"folder {folder.name}: its name must be of small letters, digits and -, since the "
                "row has its address"
            )
        if sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) > BIGGEST:
            raise ValueError(f"folder {folder.name} holds more than {BIGGEST / 1e6:.0f} MB")
        if links := [file for file in folder.rglob("*") if file.is_symlink()]:
            raise ValueError(f"{folder.name} holds a link, {links[0].name}: put the file there")
        card = _card(folder / "method.yml")
        code = code_of(folder, card)
        source = _source(code / "method.py")
        for file in code.rglob("*.py"):
            _source(file)
        if card.dictionary and not _inside(folder, card.dictionary.folder):
            raise ValueError(f"method.yml: there is no folder {card.dictionary.folder} in it")
        if not (source or card.row or card.dictionary):
            raise ValueError(f"{folder.name} needs a method.py, or row or dictionary in method.yml")
        if card.row:
            one_of("row", card.row, methods.ORDER)
        submission = cls(folder, card, source)
        if not submission.tracks:
            named = ", ".join(sorted({answer for _, answer in TRACKS.values()}))
            raise ValueError(f"method.py must define at least one of {named}")
        return submission

    @property
    def slug(self) -> str:
        """Its name in addresses."""
        return self.folder.resolve().name

    @property
    def answers(self) -> frozenset[str]:
        """The functions that it answers with."""
        defined = {node.name for node in ast.parse(self.source).body if isinstance(node, FUNCTION)}
        own = defined & {answer for _, answer in TRACKS.values()}
        own |= {"towards"} if self.card.row else set()
        return frozenset(own | ({"units"} if self.card.dictionary else set()))

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that it answers."""
        return tuple(track for track, (_, answer) in TRACKS.items() if answer in self.answers)

    @property
    def code(self) -> Path:
        """The folder of its method.py."""
        return code_of(self.folder, self.card)

    def fingerprint(self) -> str:
        """The first 16 hex digits of a hash of all its files, and of those that it takes."""
        hashed = hashlib.sha256()
        for folder in dict.fromkeys((self.folder, self.code)):
            for file in sorted(_files(folder)):
                name = file.relative_to(folder).as_posix()
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                hashed.update(json.dumps([name, content]).encode())
        return hashed.hexdigest()[:16]

    def load(self) -> ModuleType:
        """Runs method.py, whose imports find the other files of the folder."""
        path = self.code.resolve() / "method.py"
        spec = importlib.util.spec_from_file_location(f"submission_{self.slug}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.parent))
        spec.loader.exec_module(module)
        return module


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
_CARD = TypeAdapter(Card)


def code_of(folder: Path, card: Card) -> Path:
    """The folder of a submission's method.py: its own, or the one beside it that it is like.

    Raises ValueError, in one line, if that is no submission.
    """
    if not card.like:
        return folder
    other = folder.resolve().parent / card.like
    if not (SLUG.fullmatch(card.like) and (other / "method.py").is_file()):
        raise ValueError(
            f"method.yml: like: there is no method.py in {card.like} beside the folder"
        )
    return other


def _inside(folder: Path, name: str) -> bool:
    """Whether a folder of this name lies in a folder."""
    place = (folder / name).resolve()
    return place.is_dir() and place.is_relative_to(folder.resolve())


def _files(folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def _card(path: Path) -> Card:
    try:
        card = _CARD.validate_python(yaml.safe_load(path.read_text()))
    except FileNotFoundError:
        raise ValueError(f"{path.parent.name} has no method.yml") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"method.yml: {where}: {first['msg']}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"method.yml cannot be read: {line(error)}") from None
    card.check()
    return card


def _source(path: Path) -> str:
    """The text of method.py, "" if there is none."""
    if not path.is_file():
        return ""
    try:
        text = path.read_text()
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name} cannot be read: {line(error)}") from None
    for node in ast.walk(tree):
        _check(path.name, node)
    return text


def _check(file: str, node: ast.AST) -> None:
    """Raises ValueError for a name that measures results."""
    number = getattr(node, "lineno", 0)
    for name in _names(node):
        if name in UNSEEN:
            raise ValueError(
                f"{file}, line {number}: a submission may not read {name}, which measures results"
            )
    for module in _imported(node):
        parts = module.split(".")
        if parts[0] in MODULES or (parts[0] == "difflens_utils" and PARTS & {*parts[1:2]}):
            raise ValueError(f"{file}, line {number}: a submission may not import {module}")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value.startswith("difflens_utils.bench"):  # for __import__ and importlib
            yield node.value
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
