"""Images that somebody has labelled, as a world: a folder of files and a table `labels.csv` with a column per factor.

    file,stroke,digit,slant
    0000.png,thin,zero,left

Such a world answers what the drawn ones answer (shares, samples, images with chosen classes), from counts instead of declarations. What it
cannot do is change one factor of an image and nothing else: images of two classes are different images.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image
from scipy.stats import chi2_contingency
from torch import Tensor

from . import keys
from .errors import distribution, one_of
from .evaluators import resized
from .worlds import Factor, Portraits, World

HELD_OUT = 5  # without a column `split`, every fifth row is kept from all training
ASSOCIATED = 0.01  # p-value of the chi-squared test below which two factors are said to hang together


class LabelledImages(World):
    """A folder of images with their labels.

    Classes are in the order of `shares` or of `classes` {factor: names}, else of the alphabet. `shares` {attribute: {class: share}} plants other
    shares of some attributes than the folder has, by weighting its images; a generator that is trained on `sample` then sees those. Factors that are no attribute depend on all attributes. Raises ValueError, in one line, for a
    table or an image that is missing or cannot be read, for a column that is not there or has one class only, for a combination of
    classes without a single image, and for shares that are no distribution.
    """

    def __init__(self, folder: Path, attributes: Sequence[str], shares: Mapping[str, Mapping[str, float]] | None = None,
                 classes: Mapping[str, Sequence[str]] | None = None) -> None:
        self.folder, self.table = folder, read_labels(folder)
        columns = [c for c in self.table.columns if c not in ("file", "split")]
        for name in attributes:
            one_of(f"{folder}: a column of labels.csv", name, columns)
        order = [*attributes, *(c for c in columns if c not in attributes)]
        given = {c: tuple(own) for c, own in ((shares or {}) | dict(classes or {})).items()}
        self.classes = {c: given.get(c) or tuple(sorted(self.table[c].unique())) for c in order}
        for name, own in self.classes.items():
            if len(own) < 2 or set(own) != set(self.table[name]):
                raise ValueError(f"{folder}: column {name} has the classes {', '.join(sorted(self.table[name].unique()))}; it needs two or more"
                                 + f", and these: {', '.join(own)}" * (name in given))
        self.training = self.table[self.table.split == "train"]
        self.labels = {c: torch.tensor([own.index(v) for v in self.training[c]]) for c, own in self.classes.items()}
        self.weights = raked(self.labels, {a: [float(own[c]) for c in self.classes[a]] for a, own in (shares or {}).items()})
        self._cells = self._rows_of_cells()
        super().__init__(self._model(attributes), tuple(attributes), 1, self._render)

    def fingerprint(self) -> object:
        """Besides the shares: the images, and which has which label and weight."""
        images = [keys.of_file(self.folder / name) for name in self.table.file]
        hashed = keys.key_of({"images": images, "table": self.table.to_dict("list")})
        return {"world": super().fingerprint(), "table": hashed, "weights": keys.digest(self.weights)}

    def arrows(self) -> dict[str, tuple[str, ...]]:
        """From attributes to the factors that hang together with them; between two attributes, from the first."""
        return {f: tuple(a for a in self.factors[f].parents if self._associated(a, f)) for f in self.factors}

    def planted_causes(self, attribute: str) -> tuple[str, ...]:
        """The factors that hang together with an attribute in the training images (chi-squared test): which of two is the cause, a table does not say."""
        one_of("attribute", attribute, self.attributes)
        return tuple(f for f in self.factors if f != attribute and self._associated(attribute, f))

    def independent_factors(self) -> tuple[str, ...]:
        """The factors that hang together with no attribute."""
        return tuple(f for f in self.factors if f not in self.attributes and not any(self._associated(a, f) for a in self.attributes))

    def held_out(self, size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The images that nothing was trained on, (n, 3, size, size), and their labels."""
        rest = self.table[self.table.split != "train"]
        labels = {c: torch.tensor([k.index(v) for v in rest[c]]) for c, k in self.classes.items()}
        return resized(_images([self.folder / name for name in rest.file]), size).clamp(-1, 1), labels

    def _associated(self, a: str, b: str) -> bool:
        counts = torch.zeros(len(self.classes[a]), len(self.classes[b]))
        counts.index_put_((self.labels[a], self.labels[b]), torch.ones(len(self.training)), accumulate=True)
        return chi2_contingency(counts.numpy()).pvalue < ASSOCIATED

    def _model(self, attributes: Sequence[str]) -> list[Factor]:
        """Shares of each factor given the attributes before it, as counted with the weights."""
        factors = []
        for name, classes in self.classes.items():
            parents = tuple(itertools.takewhile(lambda a, name=name: a != name, attributes))
            rows = []
            for values in itertools.product(*(range(len(self.classes[p])) for p in parents)):
                here = torch.ones(len(self.training), dtype=torch.bool)
                for p, v in zip(parents, values, strict=True):
                    here &= self.labels[p] == v
                counts = torch.bincount(self.labels[name][here], self.weights[here], minlength=len(classes))
                rows.append((tuple(self.classes[p][v] for p, v in zip(parents, values, strict=True)), tuple((counts / counts.sum()).tolist())))
            factors.append(Factor(name, classes, parents, tuple(rows)))
        return factors

    def _rows_of_cells(self) -> dict[tuple[int, ...], Tensor]:
        """Which training images have each combination of classes."""
        keys = torch.stack(list(self.labels.values()), 1)
        cells = {}
        for cell in itertools.product(*(range(len(c)) for c in self.classes.values())):
            cells[cell] = (keys == torch.tensor(cell)).all(1).nonzero().flatten()
            if len(cells[cell]) == 0:
                names = ", ".join(f"{f} {c[i]}" for (f, c), i in zip(self.classes.items(), cell, strict=True))
                raise ValueError(f"{self.folder}: no image to learn from is labelled {names}; merge classes in labels.csv or leave a column out")
        return cells

    def _render(self, batch: Portraits, size: int | None = None) -> Tensor:
        """For each set of labels one of the images that have it, chosen by the nuisance: (B, 3, size, size) in [-1, 1], by default as large as they are."""
        keys = torch.stack([batch.labels[f] for f in self.classes], 1).tolist()
        rows = [self._cells[tuple(key)] for key in keys]
        chosen = torch.stack([own[min(int((u + 1) / 2 * len(own)), len(own) - 1)] for own, u in zip(rows, batch.nuisance[:, 0].tolist(), strict=True)])
        images = _images([self.folder / name for name in self.training.file.iloc[chosen.numpy()]])
        return images if size is None else resized(images, size).clamp(-1, 1)


def read_labels(folder: Path) -> pd.DataFrame:
    """`labels.csv` of a folder, with a column `split` (train or test). Raises ValueError, in one line, if it is missing or incomplete."""
    try:
        table = pd.read_csv(folder / "labels.csv", dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}/labels.csv is missing or no table: {str(error).splitlines()[0]}") from None
    one_of(f"{folder}/labels.csv: a column", "file", table.columns)
    if (table == "").any(axis=None) or len(table) < HELD_OUT:
        raise ValueError(f"{folder}/labels.csv has {len(table)} rows, and {int((table == '').any(axis=1).sum())} of them lack a value")
    if missing := [name for name in table.file if not (folder / name).exists()]:
        raise ValueError(f"{folder}/labels.csv names {len(missing)} images that are not there, such as {missing[0]}")
    if "split" not in table:
        table["split"] = np.where(np.arange(len(table)) % HELD_OUT == HELD_OUT - 1, "test", "train")
    return table


def raked(labels: Mapping[str, Tensor], shares: Mapping[str, Sequence[float]], rounds: int = 200) -> Tensor:
    """Weights (n,) that sum to 1 and give every attribute its shares, as near to equal as that allows (iterative proportional fitting)."""
    n = len(next(iter(labels.values())))
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    targets = {a: torch.from_numpy(distribution(f"shares of {a}", p)) for a, p in shares.items()}
    for _ in range(rounds):
        for a, target in targets.items():
            now = torch.bincount(labels[a], weights, minlength=len(target))
            weights = weights * (target / now)[labels[a]]
    return weights


class Study(NamedTuple):
    """What the file `study.yml` beside a diffusion model says of its data and of those who judge its images."""

    world: LabelledImages
    evaluators: Path  # a folder with labeller/ and scorer/
    clip: Path


def declared(folder: Path) -> Study:
    """Read `study.yml` of a folder. Raises ValueError, in one line, if it is missing, no YAML, or lacks or has an unknown entry."""
    path = folder / "study.yml"
    try:
        said = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is missing or no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(said, dict) or not {"images", "attributes"} <= said.keys():
        raise ValueError(f"{path} must have the entries images and attributes")
    for name in said:
        one_of(f"{path}: an entry", name, ("images", "attributes", "shares", "evaluators", "clip"))
    world = LabelledImages(folder / said["images"], said["attributes"], said.get("shares"))
    return Study(world, folder / said.get("evaluators", "evaluators"), folder / said.get("clip", "clip"))


@lru_cache(maxsize=8192)
def _pixels(path: Path) -> Tensor:  # (3, H, W) uint8
    try:
        return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an image: {str(error).splitlines()[0]}") from None


def _images(paths: Sequence[Path]) -> Tensor:
    """(n, 3, H, W) in [-1, 1]; all must have one size."""
    pixels = [_pixels(path) for path in paths]
    for path, p in zip(paths, pixels, strict=True):
        if p.shape != pixels[0].shape:
            raise ValueError(f"all images must have one size; {paths[0].name} has {tuple(pixels[0].shape[1:])}, {path.name} has {tuple(p.shape[1:])}")
    return torch.stack(pixels).float() / 127.5 - 1
