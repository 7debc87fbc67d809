"""Images that somebody has labelled, as a world: files and a table with a column per factor.

    file,stroke,digit,slant
    0000.png,thin,zero,left

Such a world has the methods of the drawn ones (shares, samples, images with chosen classes). Its
probabilities are counted instead of declared. It cannot change one factor of an image and nothing
else, because images of two classes are different images.

Planted shares weight the images. Of three images two are red and one is blue. For equal shares each
red one gets half of the weight of the blue one.

>>> import torch
>>> from difflens_utils.worlds import labelled
>>> labels = {"colour": torch.tensor([0, 0, 1])}
>>> labelled.raked(labels, {"colour": torch.tensor([0.5, 0.5])})
tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import chi2_contingency
from torch import Tensor

from ..runtime import artifacts, errors, keys
from ..runtime.errors import at_least, distribution, one_of
from ..subjects.declaration import Stages, read_declaration
from . import Factor, Scenes, World, pictures

HELD_OUT = 5  # without a column `split`, every fifth row is kept from all training
HALVES = {"train": "to learn from", "test": "held out"}
MANY = 2000  # images whose check takes seconds and is remembered
MET = 1e-6  # how far planted shares may lie from those asked for
ASSOCIATED = 0.01  # two factors are associated below this p-value of the chi-squared test


class LabelledImages(World):
    """A folder of images with their labels.

    Classes are in the order of `shares` or of `classes` {factor: names}, else alphabetical.
    `shares` {factor: {class: share}} plants other shares than the folder has, by weighting its
    images; a generator that is trained on `sample` then sees those. In the causal order, what a
    prompt can state (`conditions`) comes first, then the attributes; the other factors depend on
    all of these. Images of any shape are cut to the square in their middle (`pictures`).

    Raises ValueError, in one line, for a faulty table or image (`read_labels`), for a column that
    is not there or has one class only, for a combination of classes without an image, and for
    shares that are no distribution or leave a class out. The line names the file `declared_in`, if
    the arguments come from one.
    """

    nuisances = ("image",)  # which of the images with the same labels

    def __init__(
        self,
        folder: Path,
        attributes: Sequence[str],
        shares: Mapping[str, Mapping[str, float]] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        *,
        conditions: Sequence[str] = (),
        declared_in: Path | None = None,
    ) -> None:
        self.folder = folder
        self.table = read_labels(folder)
        self.training = self.table[self.table.split == "train"]
        self.attributes = tuple(attributes)
        self.conditions = tuple(conditions)
        source = declared_in or folder
        planted = shares or {}
        named: dict[str, Iterable[str]] = {**planted, **(classes or {})}
        columns = self.table.columns.drop(["file", "split"])
        entries: dict[str, Iterable[str]] = {
            "attributes": attributes,
            "shares": planted,
            "classes": classes or {},
            "a factor that prompts state": conditions,
        }
        for entry, names in entries.items():
            for name in names:
                one_of(f"{source}: {entry}", name, columns)
        self.classes = self._classes(columns, named, source)
        targets = {}
        for factor, by_class in planted.items():
            entry = f"{source}: shares.{factor}"
            targets[factor] = _in_order(entry, by_class, self.classes[factor])
        self.labels = self._numbers(self.training)
        self._cells = self._rows_of_cells()
        self.weights = raked(self.labels, targets)
        self.model = [self._counted(name) for name in self.classes]
        self._hashed: tuple[list[tuple[int, int]], str] | None = None

    def _classes(
        self, columns: Iterable[str], named: Mapping[str, Iterable[str]], source: Path
    ) -> dict[str, tuple[str, ...]]:
        """Returns the classes of each factor, the factors in causal order."""
        classes = {}
        for factor in dict.fromkeys((*self.conditions, *self.attributes, *columns)):
            found = tuple(sorted(self.table[factor].unique()))
            classes[factor] = tuple(named.get(factor, found))
            where = source if factor in named else self.folder / "labels.csv"
            _check_classes(f"{where}: column {factor}", classes[factor], found)
        return classes

    def _counted(self, name: str) -> Factor:
        """Returns a factor with its shares given those of the core before it."""
        core = (*self.conditions, *self.attributes)
        parents = core[: core.index(name)] if name in core else core
        classes = self.classes[name]
        rows = []
        for values in itertools.product(*(self.classes[parent] for parent in parents)):
            mask = np.ones(len(self.training), dtype=bool)
            for parent, value in zip(parents, values, strict=True):
                mask &= (self.training[parent] == value).to_numpy()
            chosen = torch.from_numpy(mask)
            numbers = self.labels[name][chosen]
            counts = torch.bincount(numbers, self.weights[chosen], minlength=len(classes))
            rows.append((values, tuple((counts / counts.sum()).tolist())))
        return Factor(name, classes, parents, tuple(rows))

    def arrows(self) -> dict[str, tuple[str, ...]]:
        """Returns {factor: the factors before it in causal order that are associated with it}.

        Only conditions and attributes have arrows to others.
        """
        arrows = {}
        for name, factor in self.factors.items():
            arrows[name] = tuple(p for p in factor.parents if self._associated(p, name))
        return arrows

    def effects(self, attribute: str) -> tuple[str, ...]:
        """Returns the factors that are associated with an attribute in the training images.

        No table says which of two associated factors is the cause.
        """
        one_of("attribute", attribute, self.attributes)
        others = [name for name in self.factors if name not in (attribute, *self.conditions)]
        return tuple(name for name in others if self._associated(attribute, name))

    def independent_factors(self) -> tuple[str, ...]:
        """Returns the factors that are associated with no attribute and that no prompt decides."""
        core = (*self.conditions, *self.attributes)
        associated = {name for attribute in self.attributes for name in self.effects(attribute)}
        return tuple(name for name in self.factors if name not in (*core, *associated))

    def _associated(self, a: str, b: str) -> bool:
        counts = pd.crosstab(self.training[a], self.training[b])
        return bool(chi2_contingency(counts).pvalue < ASSOCIATED)

    def held_out(self, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the images that nothing was trained on, (n, 3, size, size), and their labels."""
        rest = self.table[self.table.split != "train"]
        return pictures.stack(self._paths(rest), size), self._numbers(rest)

    def render(self, scenes: Scenes, size: int | None = None) -> Tensor:
        """Returns for each scene one of the images with its labels, chosen by the nuisance.

        (B, 3, size, size) in [-1, 1], by default as large as the smallest image.
        """
        cells = torch.stack([scenes.labels[name] for name in self.classes], 1).tolist()
        shares = ((scenes.nuisance[:, 0].double() + 1) / 2).tolist()
        rows = []
        for cell, share in zip(cells, shares, strict=True):
            images = self._cells[tuple(cell)]
            rows.append(images[min(int(share * len(images)), len(images) - 1)])
        return pictures.stack(self._paths(self.training.iloc[rows]), size or self.side)

    @cached_property
    def side(self) -> int:
        """Width and height of the smallest of the images."""
        return pictures.smallest(self._paths(self.table))

    def fingerprint(self) -> dict[str, object]:
        """The entry in the keys of artifacts: the world, the images, the table and the weights."""
        return {
            "world": super().fingerprint(),
            "images": self._images(),
            "table": keys.key_of(self.table.to_dict("list")),
            "weights": keys.digest(self.weights),
        }

    def _images(self) -> str:
        """Returns 16 hex digits that stand for the image files.

        They are read again when one of them has changed.
        """
        paths = self._paths(self.table)
        states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        if self._hashed is None or self._hashed[0] != states:
            self._hashed = states, keys.of_files(paths)
        return self._hashed[1]

    def _paths(self, rows: pd.DataFrame) -> list[Path]:
        return [self.folder / name for name in rows.file]

    def _numbers(self, rows: pd.DataFrame) -> dict[str, Tensor]:
        """Returns {factor: class numbers (rows,)}."""
        numbers = {}
        for factor, classes in self.classes.items():
            numbers[factor] = torch.tensor([classes.index(name) for name in rows[factor]])
        return numbers

    def _rows_of_cells(self) -> dict[tuple[int, ...], list[int]]:
        """Returns which training images have each combination of class numbers."""
        path = self.folder / "labels.csv"
        combinations = prod(map(len, self.classes.values()))
        if combinations > len(self.training):
            raise ValueError(
                f"{path}: its columns have {combinations} combinations of classes, and "
                f"{len(self.training)} images to learn from; each combination needs one: "
                "merge classes or leave columns out"
            )
        cells = defaultdict(list)
        columns = [labels.tolist() for labels in self.labels.values()]
        for row, cell in enumerate(zip(*columns, strict=True)):
            cells[cell].append(row)
        numbers = [range(len(classes)) for classes in self.classes.values()]
        for cell in itertools.product(*numbers):
            if cell in cells:
                continue
            pairs = zip(self.classes, cell, strict=True)
            words = [f"{factor} {self.classes[factor][number]}" for factor, number in pairs]
            raise ValueError(
                f"{path}: no image to learn from is labelled {', '.join(words)}; "
                "merge classes or leave a column out"
            )
        return dict(cells)


def _check_classes(column: str, classes: Sequence[str], found: Sequence[str]) -> None:
    """Raises ValueError unless the table has these classes, two or more."""
    if len(classes) >= 2 and set(classes) == set(found):
        return
    wanted = "" if set(classes) == set(found) else f", and these: {', '.join(classes)}"
    raise ValueError(f"{column} has the classes {', '.join(found)}; it needs two or more{wanted}")


def _in_order(entry: str, shares: Mapping[str, float], classes: Sequence[str]) -> Tensor:
    """Returns planted shares in the order of the classes, none of them 0."""
    for name in classes:
        if shares[name] == 0:
            raise ValueError(
                f"{entry}.{name} must be greater than 0: no notebook can study a class that is "
                "never shown; take its rows out of labels.csv instead"
            )
    return torch.from_numpy(distribution(entry, [shares[name] for name in classes]))


def raked(labels: Mapping[str, Tensor], shares: Mapping[str, Tensor], rounds: int = 200) -> Tensor:
    """Returns weights (n,) that sum to 1 and give every attribute its shares.

    They are as near to equal as that allows, by iterative proportional fitting.
    Raises ValueError for shares that no weights meet.
    """
    n = len(next(iter(labels.values())))
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    for _ in range(rounds):
        for factor, target in shares.items():
            now = torch.bincount(labels[factor], weights, minlength=len(target))
            weights = weights * (target / now)[labels[factor]]
    for factor, target in shares.items():
        met = torch.bincount(labels[factor], weights, minlength=len(target))
        off = (met - target).abs().max().item()
        if not off < MET:  # nan, where a class has no image
            raise ValueError(
                f"shares of {factor} cannot be met together with the others: "
                f"{off:.2g} off after {rounds} rounds of weighting"
            )
    return weights


# ------------------------------------------------------------------------------------------------
# labels.csv


def read_labels(folder: Path) -> pd.DataFrame:
    """Returns `labels.csv` of a folder, with a column `split` (train or test).

    Raises ValueError, in one line with the file and the line in it, for a table or an image that
    cannot be read, a column or a row that occurs twice, a value that is missing, and a class that
    either half of the split lacks.
    """
    path = folder / "labels.csv"
    header, rows = _rows(path)
    _check_columns(path, header)
    for line, values in rows.items():
        _check_values(f"{path}, line {line}", header, values)
    table = pd.DataFrame(list(rows.values()), columns=header, dtype=str)
    if "split" not in table:
        at_least(f"{path}: rows", len(table), HELD_OUT, "every fifth is held out")
        is_last = np.arange(len(table)) % HELD_OUT == HELD_OUT - 1
        table["split"] = np.where(is_last, "test", "train")
    for line, half in zip(rows, table.split, strict=True):
        one_of(f"{path}, line {line}: split", half, HALVES)
    for factor in table.columns.drop(["file", "split"]):
        _check_factor(path, table[factor], table.split)
    _check_files(path, dict(zip(rows, table.file, strict=True)))
    return table


def _rows(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """Returns the names of the columns, and the values of each row by the number of its line.

    Blanks around them do not count.
    """
    rows: dict[int, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets mark UTF-8
            reader = csv.reader(file, strict=True)
            for cells in reader:
                values = [cell.strip() for cell in cells]
                if any(values):
                    rows[reader.line_num] = values
    except (OSError, ValueError, csv.Error) as error:  # one that is not UTF-8 is a ValueError
        raise ValueError(f"{path} is missing or no table: {errors.line(error)}") from None
    if not rows:
        raise ValueError(f"{path} is empty; its first line must name the columns")
    first = next(iter(rows))
    return rows.pop(first), rows


def _check_columns(path: Path, header: list[str]) -> None:
    mark = re.search(r"[;\t|]", header[0])
    if len(header) == 1 and mark:
        raise ValueError(
            f"{path}: columns must be separated by commas, got {mark[0]!r}; "
            "save the table with commas"
        )
    if "" in header:
        raise ValueError(f"{path}: column {header.index('') + 1} has no name")
    name, times = Counter(header).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{path}: column {name} occurs twice")
    if "file" not in header:
        names = ", ".join(header)
        raise ValueError(f"{path}: no column is named file; its first line names {names}")
    if set(header) <= {"file", "split"}:
        raise ValueError(f"{path} has no column that says what is on the images")


def _check_values(where: str, header: list[str], values: list[str]) -> None:
    if len(values) != len(header):
        raise ValueError(f"{where}: {len(values)} values for {len(header)} columns")
    for column, value in zip(header, values, strict=True):
        if not value:
            raise ValueError(f"{where}: column {column} has no value")
        if len(value.splitlines()) > 1:
            raise ValueError(f"{where}: column {column} has a line break in its value")


def _check_factor(path: Path, column: pd.Series, split: pd.Series) -> None:
    """Raises ValueError for too many classes, and for a half of the split that lacks one."""
    if column.nunique() > max(2, len(column) // 2):
        raise ValueError(
            f"{path}: column {column.name} has {column.nunique()} classes in {len(column)} rows; "
            "a number or a name of each image is no factor, leave the column out"
        )
    for half, use in HALVES.items():
        lacking = set(column) - set(column[split == half])
        if lacking:
            raise ValueError(
                f"{path}: none of the rows of split {half} ({use}) has {column.name} "
                f"{min(lacking)}; both halves need every class: add images, or a column split "
                "that shares them out"
            )


def _check_files(path: Path, files: Mapping[int, str]) -> None:
    """Raises ValueError unless every image {line: file} is there and can be decoded.

    Each lies inside the folder and is named once.
    """
    first: dict[str, int] = {}
    for line, name in files.items():
        where = f"{path}, line {line}"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{where}: file must lie in the folder of the table, got {name}")
        before = first.setdefault(os.path.normpath(name), line)
        if before != line:
            raise ValueError(f"{where}: {name} is named in line {before} already")
    lines = [line for line, name in files.items() if not os.path.isfile(path.parent / name)]
    if lines:
        raise ValueError(
            f"{path} names {len(lines)} images that are not there, such as "
            f"{files[lines[0]]} in line {lines[0]}"
        )
    faults = _faults([path.parent / name for name in files.values()])
    if faults:
        row, fault = next(iter(faults.items()))
        others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"{path}, line {list(files)[row]}: {fault}{others}")


def _faults(paths: Sequence[Path]) -> dict[int, str]:
    """Returns `pictures.unreadable`. For many images the store remembers that all can be read."""
    if len(paths) < MANY:
        return pictures.unreadable(paths)
    stats = [path.stat() for path in paths]
    names = [str(path.resolve()) for path in paths]
    try:
        _check_all(paths, names, [(stat.st_size, stat.st_mtime_ns) for stat in stats])
    except _Unreadable as unreadable:
        return unreadable.faults
    return {}


@artifacts.stored("readable", ignoring=("paths",))
def _check_all(
    paths: Sequence[Path], names: Sequence[str], states: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """Raises _Unreadable unless all files can be read. They are read again if one changes."""
    faults = pictures.unreadable(paths)
    if faults:
        raise _Unreadable(faults)
    return {"images": torch.tensor(len(paths))}


class _Unreadable(Exception):
    """Keeps a check that failed out of the store."""

    def __init__(self, faults: dict[int, str]) -> None:
        super().__init__(faults)
        self.faults = faults


# ------------------------------------------------------------------------------------------------
# study.yml


class Declared(NamedTuple):
    """The data, the evaluators and the prompts that `study.yml` declares."""

    world: LabelledImages
    evaluators: Path  # a folder with labeller/ and scorer/
    clip: Path
    prompts: Stages | None = None  # what a model that reads text is asked for
    guidance: float | None = None
    second_clip: Path | None = None  # one that no method learns from


def declared(folder: Path) -> Declared:
    """Reads `study.yml` of a folder, and the table of its images.

    Raises ValueError, in one line with the file, for a file that is no YAML, for an entry that
    is missing, unknown or of the wrong kind, and for one that does not fit the table.
    """
    path = folder / "study.yml"
    entries = read_declaration(path)
    world = LabelledImages(
        folder / entries.images,
        entries.attributes,
        entries.shares,
        conditions=entries.conditions(),
        declared_in=path,
    )
    for entry, prompt in entries.asked():
        for factor, name in prompt.given.items():
            one_of(f"{path}: {entry}.given", factor, world.classes)
            one_of(f"{path}: {entry}.given.{factor}", name, world.classes[factor])
    evaluators = folder / entries.evaluators
    clip = folder / entries.clip
    second = folder / entries.second_clip if entries.second_clip else None
    return Declared(world, evaluators, clip, entries.prompts, entries.guidance, second)
