"""The world of people emoji: drawings of four published sets, shown with planted shares.

Nobody here drew these. Each is a person with a role (firefighter, mage, ...), a gender and a tone
of the skin, in one of four styles. The sets hold every combination once, so that nothing in them is
biased; the bias is planted by how often each is shown. The share of women and men of an occupation
comes from labour statistics (models/emoji/occupations.csv); what has no row there has half of each.
Tones have one skewed distribution for all.

Some combinations of role, style and tone are held out of all training. They are spread evenly, so
that leaving them out changes no share.

>>> from difflens_utils.worlds import emoji
>>> emoji.WORLD.marginal("gender", {"role": "firefighter"})  # woman, man
tensor([0.0480, 0.9520], dtype=torch.float64)
>>> emoji.prompt("firefighter", gender="woman", tone="dark")
'woman firefighter: dark skin tone'
"""

from __future__ import annotations

import csv
import random
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..evaluators import resized
from ..runtime import keys
from . import Factor, Scenes, World, root

FOLDER = Path(__file__).parents[2] / "models/emoji"
ARCHIVE = FOLDER / "drawings.zip"
SIDE = 64  # pixels, the width and height of a drawing in the archive

STYLES = ("noto", "twemoji", "flat", "fluent")
GENDERS = ("woman", "man")
# The classes of tone, and Unicode's modifiers in each. Without a modifier people are yellow.
TONES = {
    "yellow": ("yellow",),
    "light": ("light", "medium-light"),
    "medium": ("medium",),
    "dark": ("medium-dark", "dark"),
}
ATTRIBUTES = ("gender", "tone")


class Role(NamedTuple):
    """What a person is, and the share of men among those who are shown."""

    name: str
    men: float
    source: str  # the row of the statistics; empty where there is none


def _roles() -> tuple[Role, ...]:
    with (FOLDER / "occupations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return tuple(Role(name, float(men) / 100, source) for name, men, source in rows)


ROLES = {role.name: role for role in _roles()}


def _slug(role: str) -> str:
    """The role in the names of drawings: "person in tuxedo" is in-tuxedo."""
    return role.replace("person", "").strip().replace(" ", "-")


SLUGS = {role: _slug(role) for role in ROLES}
MODEL = (
    root("style", **dict.fromkeys(STYLES, 1 / len(STYLES))),
    Factor("role", tuple(ROLES), (), (((), (1 / len(ROLES),) * len(ROLES)),)),
    Factor(
        "gender",
        GENDERS,
        ("role",),
        tuple(((name,), (round(1 - role.men, 10), role.men)) for name, role in ROLES.items()),
    ),
    root("tone", yellow=0.40, light=0.32, medium=0.16, dark=0.12),
)

# ------------------------------------------------------------------------------------------------
# The drawings


class Drawing(NamedTuple):
    """One picture of the archive. A neutral one is no part of the world, and is never learned."""

    style: str
    role: str
    gender: str  # woman, man or neutral
    tone: str  # a modifier of Unicode's, or yellow

    @property
    def path(self) -> str:
        """Its name in the archive."""
        return f"{self.style}/{SLUGS[self.role]}/{self.gender}/{self.tone}.png"


def every(style: str) -> Iterator[Drawing]:
    """Every drawing of a style that may be there; the neutral ones are not of each role."""
    for role in ROLES:
        for gender in ("neutral", *GENDERS):
            for modifiers in TONES.values():
                for modifier in modifiers:
                    yield Drawing(style, role, gender, modifier)


@cache
def drawings() -> dict[Drawing, Tensor]:
    """All drawings of the archive: (3, 64, 64) uint8 each."""
    found = {}
    with zipfile.ZipFile(ARCHIVE) as archive:
        names = set(archive.namelist())
        for style in STYLES:
            for drawing in every(style):
                if drawing.path in names:
                    image = Image.open(BytesIO(archive.read(drawing.path)))
                    found[drawing] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return found


@cache
def _atlas() -> Tensor:
    """The drawings of the world: (styles, roles, genders, tones, 2, 3, 64, 64) uint8.

    A tone with one modifier has it twice.
    """
    found = drawings()
    images = []
    for style in STYLES:
        for role in ROLES:
            for gender in GENDERS:
                for modifiers in TONES.values():
                    for modifier in (modifiers[0], modifiers[-1]):
                        images.append(found[Drawing(style, role, gender, modifier)])
    shape = (len(STYLES), len(ROLES), len(GENDERS), len(TONES), 2)
    return torch.stack(images).reshape(*shape, 3, SIDE, SIDE)


def held_out(labels: Mapping[str, Tensor]) -> Tensor:
    """Which people have a role, a style and a tone that are kept from all training: (B,) bool.

    Each role lacks two of its sixteen combinations of style and tone, for both genders. Every style
    is held out as often as every other, and so is every tone.
    """
    role, style, tone = labels["role"], labels["style"], labels["tone"]
    first = (style == (role + role // 4) % 4) & (tone == role % 4)
    second = (style == (role + role // 4 + 2) % 4) & (tone == (role + 2) % 4)
    return first | second


class EmojiWorld(World):
    """People emoji of four styles, with planted shares of women, men and tones."""

    model = MODEL
    attributes = ATTRIBUTES
    conditions = ("role",)
    nuisances = ("shade", "x", "y", "size")  # which modifier, where in the picture, how large

    def render(self, scenes: Scenes, size: int = SIDE) -> Tensor:
        """The drawings of these scenes, a little moved and scaled, on white."""
        rows = [scenes.labels[name] for name in ("style", "role", "gender", "tone")]
        shade = (scenes.nuisance[:, 0] > 0).long()
        images = _atlas()[*rows, shade].float() / 127.5 - 1
        return resized(_moved(images, scenes.nuisance[:, 1:]), size).clamp(-1, 1)

    def to_learn(self, n: int, seed: int = 0, balanced: bool | tuple[str, ...] = False) -> Scenes:
        """Draws `n` people none of whose combinations is held out."""
        people = self.sample(2 * n, seed, balanced=balanced)  # an eighth is held out
        return people[~held_out(people.labels)][slice(0, n)]

    def kept_out(self, n: int, seed: int = 0, balanced: bool | tuple[str, ...] = False) -> Scenes:
        """Draws `n` people of whose combinations nothing has learned, every factor uniform."""
        people = self.sample(16 * n + 64, seed, balanced=True)
        return people[held_out(people.labels)][slice(0, n)]

    def class_texts(self, factor: str) -> list[str]:
        """One text per class, in the words of `statement`."""
        classes = self.factors[factor].classes
        if factor == "role":
            return [prompt(name) for name in classes]
        return [prompt("person", **{factor: name}) for name in classes]

    def fingerprint(self) -> object:
        return [super().fingerprint(), keys.of_files([ARCHIVE])]


def _moved(images: Tensor, moves: Tensor) -> Tensor:
    """Images (B, 3, H, W) moved by up to a pixel and scaled by up to 3 %, by moves (B, 3)."""
    x, y, scale = moves.T
    grid = torch.zeros(len(images), 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = 1 + 0.03 * scale
    grid[:, 0, 2] = 2 * x / images.shape[-1]
    grid[:, 1, 2] = 2 * y / images.shape[-1]
    places = F.affine_grid(grid, list(images.shape), align_corners=False)
    # what comes in from outside is white: zero in 1 - image
    return 1 - F.grid_sample(1 - images, places, align_corners=False)


WORLD = EmojiWorld()


# ------------------------------------------------------------------------------------------------
# Captions and prompts: the short names of Unicode's CLDR. A name without gender leaves it open, as
# those of the neutral drawings do; so does one without tone.


def prompt(role: str, *, style: str = "", gender: str = "", tone: str = "") -> str:
    """The name of a person: "woman firefighter: dark skin tone, noto". What is empty is left open.

    >>> prompt("person in tuxedo", gender="man"), prompt("bald person", gender="man")
    ('man in tuxedo', 'bald man')
    """
    if gender and "person" in role:
        text = role.replace("person", gender)
    else:
        text = f"{gender} {role}".strip()
    if tone:
        text += f": {tone} skin tone"
    return f"{text}, {style}" if style else text


def caption(
    classes: Mapping[str, str], rng: random.Random, named: tuple[str, ...] | None = None
) -> tuple[str, set[str]]:
    """A caption that is true of a person {factor: class}, and the factors it states.

    `named` are the attributes that it names; by default none of them, one, or both, at random. The
    role is always named, and the style in two of three.
    """
    if named is None:
        named = rng.choice(((), (rng.choice(ATTRIBUTES),), ATTRIBUTES))
    stated = {"role", *named}
    if rng.random() < 2 / 3:
        stated.add("style")
    said = {name: classes[name] for name in ("style", *ATTRIBUTES) if name in stated}
    return prompt(classes["role"], **said), stated


def statement(classes: Mapping[str, str], rng: random.Random) -> tuple[str, set[str]]:
    """A caption for a CLIP: a quarter of them names no role, "woman: dark skin tone"."""
    text, stated = caption(classes, rng)
    if rng.random() < 0.75:
        return text, stated
    stated = stated - {"role"}
    return prompt("person", **{name: classes[name] for name in stated}), stated


def vocabulary() -> set[str]:
    """Every word of the captions."""
    words = {",", ":", "person", "skin", "tone", *STYLES, *GENDERS, *TONES}
    return words.union(*(role.split() for role in ROLES))
