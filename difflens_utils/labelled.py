"""Images that somebody has labelled, as a world: a folder of files and a table `labels.csv` with a column per factor.

    file,stroke,digit,slant
    0000.png,thin,zero,left

Such a world answers what the drawn ones answer (shares, samples, images with chosen classes), from counts instead of declarations. What it
cannot do is change one factor of an image and nothing else: images of two classes are different images.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import chi2_contingency
from torch import Tensor

from . import artifacts, keys, pictures
from .declaration import Stages, read_declaration
from .errors import at_least, distribution, one_of
from .worlds import Factor, Portraits, World

HELD_OUT = 5  # without a column `split`, every fifth row is kept from all training
HALVES = {"train": "to learn from", "test": "held out"}
MANY = 2000  # images whose check takes seconds and is remembered
MET = 1e-6  # how far planted shares may lie from those asked for
ASSOCIATED = (
    0.01  # p-value of the chi-squared test below which two factors are said to hang together
)


class LabelledImages(World):
    """A folder of images with their labels.

    Classes are in the order of `shares` or of `classes` {factor: names}, else of the alphabet.
    `shares` {factor: {class: share}} plants other shares than the folder has, by weighting its
    images; a generator that is trained on `sample` then sees those. What a prompt can state
    (`conditions`) comes first in the causal order, then the attributes; the other factors depend on
    all of these. Images of any shape are cut to the square in their middle (`pictures`).
    Raises ValueError, in one line, for a table or an image that will not do (`read_labels`), for a
    column that is not there or has one class only, a combination of classes without a single image,
    and shares that are no distribution or leave a class out; `said_in` is the file to name, if one
    says all that.
    """

    def __init__(
        self,
        folder: Path,
        attributes: Sequence[str],
        shares: Mapping[str, Mapping[str, float]] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        *,
        conditions: Sequence[str] = (),
        said_in: Path | None = None,
    ) -> None:
        self.folder, self.table, self.conditions = folder, read_labels(folder), tuple(conditions)
        source, shares, classes = said_in or folder, shares or {}, classes or {}
        columns = [c for c in self.table.columns if c not in ("file", "split")]
        named = {"attributes": attributes, "shares": shares, "classes": classes}
        for entry, names in (named | {"a factor that prompts state": conditions}).items():
            for name in names:
                one_of(f"{source}: {entry}", name, columns)
        core = [*conditions, *attributes]
        order = [*core, *(c for c in columns if c not in core)]
        given = {c: tuple(own) for c, own in (dict(shares) | dict(classes)).items()}
        self.classes = {c: _classes(self.table[c], given.get(c), source, folder) for c in order}
        targets = {
            f: _planted(f"{source}: shares.{f}", self.classes[f], p) for f, p in shares.items()
        }
        self.training = self.table[self.table.split == "train"]
        self.labels = {
            c: torch.tensor([names.index(v) for v in self.training[c]])
            for c, names in self.classes.items()
        }
        self._cells = self._rows_of_cells()
        self.weights = raked(self.labels, targets)
        super().__init__(self._model(core), tuple(attributes), 1, self._render)
        self._hashed: tuple[list[tuple[int, int]], str] | None = None

    def arrows(self) -> dict[str, tuple[str, ...]]:
        """From attributes to the factors that hang together with them; between two attributes, from the first."""
        return {
            f: tuple(a for a in self.factors[f].parents if self._associated(a, f))
            for f in self.factors
        }

    def planted_causes(self, attribute: str) -> tuple[str, ...]:
        """The factors that hang together with an attribute in the training images (chi-squared test): which of two is the cause, a table does not say."""
        one_of("attribute", attribute, self.attributes)
        others = (f for f in self.factors if f not in (attribute, *self.conditions))
        return tuple(f for f in others if self._associated(attribute, f))

    def independent_factors(self) -> tuple[str, ...]:
        """The factors that hang together with no attribute, and that no prompt decides."""
        decided = {*self.attributes, *self.conditions}
        rest = (f for f in self.factors if f not in decided)
        return tuple(f for f in rest if not any(self._associated(a, f) for a in self.attributes))

    def held_out(self, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The images that nothing was trained on, (n, 3, size, size), and their labels."""
        rest = self.table[self.table.split != "train"]
        labels = {c: torch.tensor([k.index(v) for v in rest[c]]) for c, k in self.classes.items()}
        return pictures.stack([self.folder / name for name in rest.file], size), labels

    def fingerprint(self) -> dict[str, object]:
        """What stands for it in the keys of artifacts: besides the factors, the table, the images and the weights."""
        table = keys.key_of(self.table.to_dict("list"))
        weights = keys.digest(self.weights)
        return {
            "world": super().fingerprint(),
            "images": self._images(),
            "table": table,
            "weights": weights,
        }

    def _images(self) -> str:
        """16 hex digits that stand for the image files, which are read again when one of them has changed."""
        paths = [self.folder / name for name in self.table.file]
        states = [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
        if self._hashed is None or self._hashed[0] != states:
            self._hashed = states, keys.of_files(paths)
        return self._hashed[1]

    @cached_property
    def side(self) -> int:
        """Width and height of the smallest of the images."""
        return pictures.smallest([self.folder / name for name in self.table.file])

    def _associated(self, a: str, b: str) -> bool:
        counts = torch.zeros(len(self.classes[a]), len(self.classes[b]))
        counts.index_put_(
            (self.labels[a], self.labels[b]), torch.ones(len(self.training)), accumulate=True
        )
        return chi2_contingency(counts.numpy()).pvalue < ASSOCIATED

    def _model(self, core: Sequence[str]) -> list[Factor]:
        """Shares of each factor given those of the core before it, as counted with the weights."""
        factors = []
        for name, classes in self.classes.items():
            parents = tuple(itertools.takewhile(lambda a, name=name: a != name, core))
            rows = []
            for values in itertools.product(*(range(len(self.classes[p])) for p in parents)):
                here = torch.ones(len(self.training), dtype=torch.bool)
                for p, v in zip(parents, values, strict=True):
                    here &= self.labels[p] == v
                counts = torch.bincount(
                    self.labels[name][here], self.weights[here], minlength=len(classes)
                )
                rows.append(
                    (
                        tuple(self.classes[p][v] for p, v in zip(parents, values, strict=True)),
                        tuple((counts / counts.sum()).tolist()),
                    )
                )
            factors.append(Factor(name, classes, parents, tuple(rows)))
        return factors

    def _rows_of_cells(self) -> dict[tuple[int, ...], Tensor]:
        """Which training images have each combination of classes."""
        wanted = prod(map(len, self.classes.values()))
        if wanted > len(self.training):  # of 10^12, which forty columns have, none is looked for
            raise ValueError(
                f"{self.folder}/labels.csv: its columns have {wanted} combinations of classes, and "
                f"{len(self.training)} images to learn from; each combination needs one: "
                "merge classes or leave columns out"
            )
        keys, cells = torch.stack(list(self.labels.values()), 1), {}
        for cell in itertools.product(*(range(len(c)) for c in self.classes.values())):
            cells[cell] = (keys == torch.tensor(cell)).all(1).nonzero().flatten()
            if len(cells[cell]) == 0:
                names = ", ".join(
                    f"{f} {c[i]}" for (f, c), i in zip(self.classes.items(), cell, strict=True)
                )
                raise ValueError(
                    f"{self.folder}/labels.csv: no image to learn from is labelled {names}; "
                    "merge classes or leave a column out"
                )
        return cells

    def _render(self, batch: Portraits, size: int | None = None) -> Tensor:
        """For each set of labels one of the images that have it, chosen by the nuisance.

        (B, 3, size, size) in [-1, 1], by default as large as the smallest image.
        """
        keys = torch.stack([batch.labels[f] for f in self.classes], 1).tolist()
        rows = [self._cells[tuple(key)] for key in keys]
        chosen = torch.stack(
            [
                own[min(int((u + 1) / 2 * len(own)), len(own) - 1)]
                for own, u in zip(rows, batch.nuisance[:, 0].tolist(), strict=True)
            ]
        )
        names = self.training.file.iloc[chosen.numpy()]
        return pictures.stack([self.folder / name for name in names], size or self.side)


def read_labels(folder: Path) -> pd.DataFrame:
    """`labels.csv` of a folder, with a column `split` (train or test).

    Raises ValueError, in one line with the file and the line in it, for whatever will not do: a
    table or an image that cannot be read, a column or a row that occurs twice, a value that is
    missing, a class that either half of the split lacks.
    """
    path = folder / "labels.csv"
    header, lines = _cells(path)
    _check_columns(path, header)
    for number, cells in lines.items():
        if len(cells) != len(header):
            raise ValueError(
                f"{path}, line {number}: {len(cells)} values for {len(header)} columns"
            )
        for column, cell in zip(header, cells, strict=True):
            if not cell or len(cell.splitlines()) > 1:
                raise ValueError(
                    f"{path}, line {number}: column {column} has "
                    f"{'a line break in its' if cell else 'no'} value"
                )
    table = pd.DataFrame(list(lines.values()), columns=header, dtype=str)
    if "split" not in table:
        at_least(f"{path}: rows", len(table), HELD_OUT, "every fifth is held out")
        table["split"] = np.where(np.arange(len(table)) % HELD_OUT == HELD_OUT - 1, "test", "train")
    _check_split(path, table, list(lines))
    _check_files(path, table.file, list(lines))
    return table


def _cells(path: Path) -> tuple[list[str], dict[int, list[str]]]:
    """The names of the columns, and the values of each row by the number of its line.

    Blanks around them do not count.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets mark UTF-8
            reader = csv.reader(file, strict=True)
            stripped = ([cell.strip() for cell in row] for row in reader)
            rows = {reader.line_num: row for row in stripped if any(row)}
    except (OSError, ValueError, csv.Error) as error:  # one that is not UTF-8 is a ValueError
        raise ValueError(f"{path} is missing or no table: {str(error).splitlines()[0]}") from None
    first = next(iter(rows), None)
    if first is None:
        raise ValueError(f"{path} is empty; its first line must name the columns")
    return rows.pop(first), rows


def _check_columns(path: Path, header: list[str]) -> None:
    if len(header) == 1 and (mark := re.search(r"[;\t|]", header[0])):
        raise ValueError(
            f"{path}: columns must be separated by commas, got {mark[0]!r}; "
            "save the table with commas"
        )
    if "" in header:
        raise ValueError(f"{path}: column {header.index('') + 1} has no name")
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise ValueError(f"{path}: column {twice[0]} occurs twice")
    if "file" not in header:
        raise ValueError(
            f"{path}: no column is named file; its first line names {', '.join(header)}"
        )
    if not set(header) - {"file", "split"}:
        raise ValueError(f"{path} has no column that says what is on the images")


def _check_split(path: Path, table: pd.DataFrame, lines: list[int]) -> None:
    """Each half of the split, and in it each class."""
    for number, name in zip(lines, table.split, strict=True):
        one_of(f"{path}, line {number}: split", name, HALVES)
    for column in table.columns.drop(["file", "split"]):
        if (classes := table[column].nunique()) > max(2, len(table) // 2):
            raise ValueError(
                f"{path}: column {column} has {classes} classes in {len(table)} rows; "
                "a number or a name of each image is no factor, leave the column out"
            )
        for half, use in HALVES.items():
            if lacking := set(table[column]) - set(table[column][table.split == half]):
                raise ValueError(
                    f"{path}: none of the rows of split {half} ({use}) has {column} "
                    f"{min(lacking)}; both halves need every class: add images, or a column split "
                    "that shares them out"
                )


def _check_files(path: Path, files: Sequence[str], lines: list[int]) -> None:
    """That every image is there, named once, inside the folder, and can be decoded."""
    named: dict[str, int] = {}
    for number, name in zip(lines, files, strict=True):
        where = f"{path}, line {number}"
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"{where}: file must lie in the folder of the table, got {name}")
        if (first := named.setdefault(os.path.normpath(name), number)) != number:
            raise ValueError(f"{where}: {name} is named in line {first} already")
    if missing := [
        (n, name)
        for n, name in zip(lines, files, strict=True)
        if not os.path.isfile(path.parent / name)
    ]:
        raise ValueError(
            f"{path} names {len(missing)} images that are not there, such as "
            f"{missing[0][1]} in line {missing[0][0]}"
        )
    if faults := _faults(path.parent, files):
        row, text = next(iter(faults.items()))
        raise ValueError(
            f"{path}, line {lines[row]}: {text}"
            + f" (and {len(faults) - 1} more)" * (len(faults) > 1)
        )


def _faults(folder: Path, files: Sequence[str]) -> dict[int, str]:
    """`pictures.unreadable`, by row.

    That many images can be read is remembered in the store until a file changes.
    """
    paths = [folder / name for name in files]
    if len(paths) < MANY:
        return pictures.unreadable(paths)
    states = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    parameters = keys.of(_faults, {"states": states})
    faults: dict[int, str] = {}

    def check(made: Path) -> None:
        faults.update(pictures.unreadable(paths))
        if faults:
            raise _Unreadable
        (made / "images.txt").write_text(f"{len(paths)} images of {folder} can be read\n")

    with suppress(_Unreadable):
        artifacts.cached("readable", parameters, check)
    return faults


class _Unreadable(Exception):
    """Keeps a check that failed out of the store."""


def raked(
    labels: Mapping[str, Tensor], shares: Mapping[str, Sequence[float]], rounds: int = 200
) -> Tensor:
    """Weights (n,) that sum to 1 and give every attribute its shares.

    As near to equal as that allows, by iterative proportional fitting (200 rounds by default).
    Raises ValueError for shares that are no distribution, and for those that no weights meet.
    """
    n = len(next(iter(labels.values())))
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    targets = {a: torch.from_numpy(distribution(f"shares of {a}", p)) for a, p in shares.items()}
    for _ in range(rounds):
        for a, target in targets.items():
            now = torch.bincount(labels[a], weights, minlength=len(target))
            weights = weights * (target / now)[labels[a]]
    for a, target in targets.items():
        met = torch.bincount(labels[a], weights, minlength=len(target))
        off = (met - target).abs().max().item()
        if not off < MET:  # nan, where a class has no image
            raise ValueError(
                f"shares of {a} cannot be met together with the others: "
                f"{off:.2g} off after {rounds} rounds of weighting"
            )
    return weights


def _classes(
    column: pd.Series, given: tuple[str, ...] | None, source: Path, folder: Path
) -> tuple[str, ...]:
    """The classes of a column, in the order that was given, else of the alphabet."""
    there = tuple(sorted(column.unique()))
    classes = given or there
    if len(classes) < 2 or set(classes) != set(there):
        where = source if given else folder / "labels.csv"
        wanted = f", and these: {', '.join(classes)}" if given else ""
        raise ValueError(
            f"{where}: column {column.name} has the classes {', '.join(there)}; "
            f"it needs two or more{wanted}"
        )
    return classes


def _planted(parameter: str, classes: Sequence[str], shares: Mapping[str, float]) -> list[float]:
    """Shares in the order of the classes. A class that is never generated cannot be studied, so
    each has some.
    """
    for name in classes:
        if shares[name] == 0:
            raise ValueError(
                f"{parameter}.{name} must be greater than 0: "
                "no notebook can study a class that is never shown; "
                "take its rows out of labels.csv instead"
            )
    return distribution(parameter, [shares[name] for name in classes]).tolist()


class Study(NamedTuple):
    """What the file `study.yml` beside a diffusion model says of its data and of those who judge
    its images.
    """

    world: LabelledImages
    evaluators: Path  # a folder with labeller/ and scorer/
    clip: Path
    prompts: Stages | None = None  # what a model that reads text is asked for
    guidance: float | None = None


def declared(folder: Path) -> Study:
    """Read `study.yml` of a folder, and the table of its images.

    Raises ValueError, in one line with the file, for what is no YAML, an entry that is missing,
    unknown or of the wrong kind, and what does not fit the table.
    """
    path = folder / "study.yml"
    said = read_declaration(path)
    world = LabelledImages(
        folder / said.images,
        said.attributes,
        said.shares,
        conditions=said.conditions(),
        said_in=path,
    )
    for entry, prompt in said.asked():
        for factor, name in prompt.given.items():
            one_of(f"{path}: {entry}.given", factor, world.classes)
            one_of(f"{path}: {entry}.given.{factor}", name, world.classes[factor])
    return Study(world, folder / said.evaluators, folder / said.clip, said.prompts, said.guidance)
