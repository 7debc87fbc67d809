"""The world of portraits with occupations, from which a text-to-image model learns its bias.

Each portrait has an occupation, shown by clothing and headgear. The occupation decides how often
each gender, age and tone occurs. The occupations of the paper's four prompts (doctor, firefighter,
nurse, receptionist) are planted so that their Fairness Discrepancies come near those of the
unedited model in Table 2 of DiffLens. The probabilities are made up for that purpose and say
nothing about people or professions.

A caption names an occupation or a person, and some of the other factors. A model has to fill in
what a caption leaves out, and it does so as the world does. That is the bias under study.

>>> from difflens_utils.worlds import occupations
>>> occupations.neutral("nurse")
'a face of a nurse'
>>> occupations.WORLD.marginal("gender", {"occupation": "nurse"})  # female, male
tensor([0.9000, 0.1000], dtype=torch.float64)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from . import Scenes, categorical, portraits
from .portraits import INK, Canvas, Face, Frame, Layer, PortraitWorld, rgb

ATTRIBUTES = portraits.ATTRIBUTES


# P(male), P(young, adult, old), P(light, tan, brown, dark)
_TABLE = """
    none          0.50   0.25 0.50 0.25   0.25 0.25 0.25 0.25
    doctor        0.88   0.01 0.92 0.07   0.70 0.16 0.09 0.05
    firefighter   0.90   0.03 0.94 0.03   0.68 0.08 0.12 0.12
    nurse         0.10   0.04 0.93 0.03   0.66 0.17 0.10 0.07
    receptionist  0.12   0.06 0.92 0.02   0.72 0.14 0.09 0.05
    builder       0.85   0.05 0.90 0.05   0.55 0.20 0.15 0.10
    chef          0.75   0.04 0.86 0.10   0.50 0.25 0.15 0.10
    farmer        0.80   0.03 0.67 0.30   0.75 0.10 0.10 0.05
    judge         0.70   0.01 0.44 0.55   0.85 0.06 0.05 0.04
    pilot         0.90   0.01 0.84 0.15   0.80 0.10 0.06 0.04
    sailor        0.65   0.20 0.75 0.05   0.40 0.20 0.20 0.20
    waiter        0.40   0.30 0.65 0.05   0.40 0.25 0.20 0.15
    athlete       0.50   0.40 0.58 0.02   0.30 0.20 0.20 0.30
"""
_PLANTED: dict[str, list[float]] = {}
for _line in _TABLE.strip().splitlines():
    _name, *_shares = _line.split()
    _PLANTED[_name] = [float(share) for share in _shares]
OCCUPATIONS = tuple(name for name in _PLANTED if name != "none")
_P_NONE = 0.16
_P_EACH = (1 - _P_NONE) / len(OCCUPATIONS)

_NAMES = " ".join(_PLANTED)
_GENDERS = {name: (1 - shares[0], shares[0]) for name, shares in _PLANTED.items()}
_AGES = {name: shares[1:4] for name, shares in _PLANTED.items()}
_TONES = {name: shares[4:] for name, shares in _PLANTED.items()}

MODEL = (
    categorical("occupation", _NAMES, "", {"": (_P_NONE, *[_P_EACH] * len(OCCUPATIONS))}),
    categorical("gender", "female male", "occupation", _GENDERS),
    categorical("age", "young adult old", "occupation", _AGES),
    categorical("tone", "light tan brown dark", "occupation", _TONES),
    *portraits.FEATURES,
)

# ------------------------------------------------------------------------------------------------
# What is worn. `clothing` is the colour of the shirt, which shows under every uniform.

_WHITE, _BLACK, _STEEL, _GOLD = rgb("f6f6f8 1e1e24 a8b0ba facc28")
_RED, _ORANGE, _YELLOW, _BLUE, _TEAL = rgb("ce1e22 f67c1e fac81e 3c60a8 48b0b6")
_NAVY, _PLUM, _WINE, _STRAW, _BROWN = rgb("1c2452 682c6e 78162c e8c674 6e4624")


def _coat(canvas: Canvas, face: Face, colour: Tensor, opening: float) -> None:
    """A coat over the shirt, open in a V that is `opening` wide at the neck."""
    edge = opening * (1 - (face.head.y - 0.62) / 0.5)
    canvas.paint(face.trunk - face.head.column(edge), colour)


def _stripe(canvas: Canvas, face: Face, colour: Tensor, y: float, width: float) -> None:
    stripe = face.head.at(y=y).row(width / 2)
    canvas.paint(face.trunk & stripe, colour)


def _braces(canvas: Canvas, face: Face, colour: Tensor, bib_y: float) -> None:
    """Two straps, and a bib below `bib_y`."""
    straps = face.head.mirrored().at(0.29).column(0.07)
    bib = face.head.column(0.34) & face.head.below(bib_y)
    canvas.paint(face.trunk & (straps | bib), colour)


def _neckwear(canvas: Canvas, face: Face, colour: Tensor, half_width: float, end: float) -> None:
    """Bands, a tie or a scarf: from the collar down to `end`."""
    length = face.head.below(0.70) & face.head.above(end)
    canvas.paint(face.head.column(half_width) & length, colour)


def _bow(canvas: Canvas, face: Face) -> None:
    knot = face.head.at(y=0.79)
    wings = knot.row(0.03).grown(0.42 * knot.x.abs())
    canvas.paint(wings & knot.column(0.15), _BLACK)


def _stethoscope(canvas: Canvas, face: Face) -> None:
    ring = face.head.at(y=0.72).ellipse(0.27, 0.24).outline(0.022)
    canvas.paint(ring & face.head.below(0.70) & face.trunk, _BLACK)
    chestpiece = face.head.at(0.10, 0.95).ellipse(0.06, 0.06)
    canvas.paint(chestpiece, _STEEL)


def _brim(face: Face, share: float) -> Frame:
    """Returns the head's frame, its origin moved up by a share of half the head's height."""
    return face.head.at(y=-share * face.half_height)


def _front(face: Face, brim: Frame, y: float) -> Frame:
    """Returns the frame of what is fixed to the front of a hat, `y` above its brim."""
    return Frame(face.features.x * 0.9, brim.y + y)


def _helmet(canvas: Canvas, face: Face, colour: Tensor, overhang: float) -> None:
    """A dome with a brim that is wider than the head at each side."""
    brim = _brim(face, 0.63)
    dome = brim.ellipse(face.half_width + 0.07, 0.34)
    canvas.paint(dome & brim.above(0.0), colour)
    ridge = brim.at(y=-0.06).ellipse(0.05, 0.27)
    canvas.paint(ridge & brim.above(0.0), colour * 0.75)
    edge = brim.at(0.04 * face.turn).ellipse(face.half_width + overhang, 0.055)
    canvas.paint(edge, colour * 0.86)


def _badge(canvas: Canvas, face: Face) -> None:
    plate = _front(face, _brim(face, 0.63), 0.13)
    canvas.paint(plate.ellipse(0.085, 0.09), _YELLOW)


def _cap(
    canvas: Canvas, face: Face, colour: Tensor, band: Tensor, extra: float, height: float
) -> None:
    """A cap that is `extra` wider than the head at each side, with a band around it."""
    brim = _brim(face, 0.64)
    middle = brim.at(y=-0.09).at(y=-height / 2)
    crown = middle.ellipse(face.half_width + extra, height / 2 + 0.05, 3.2)
    canvas.paint(crown, colour)
    around = face.head.column(face.half_width).grown(0.05)
    canvas.paint(around & brim.at(y=-0.045).row(0.055), band)


def _visor(canvas: Canvas, face: Face) -> None:
    """The visor of a cap, and a badge above it."""
    brim = Frame(face.features.x, _brim(face, 0.64).y)
    visor = brim.ellipse(face.half_width * 0.92, 0.085)
    canvas.paint(visor & brim.below(-0.01), INK)
    canvas.paint(brim.at(y=-0.13).ellipse(0.06, 0.07), _GOLD)


def _toque(canvas: Canvas, face: Face) -> None:
    brim = _brim(face, 0.66)
    sides = brim.mirrored().at(face.half_width * 0.62, -0.36).ellipse(0.23, 0.17)
    middle = brim.at(y=-0.42).ellipse(0.26, 0.18)
    tall = brim.at(y=-0.16).box(face.half_width * 0.92, 0.20)
    canvas.paint(sides | middle | tall, _WHITE)
    band = brim.at(y=-0.03).box(face.half_width * 0.94, 0.06)
    canvas.paint(band, _WHITE * 0.82)


def _nurse_cap(canvas: Canvas, face: Face) -> None:
    brim = _brim(face, 0.86)
    tapered = brim.column(0.27).grown(-0.25 * (brim.y + 0.1))
    canvas.paint(tapered & brim.at(y=-0.09).row(0.15), _WHITE)
    cross = _front(face, brim, 0.09)
    canvas.paint(cross.box(0.032, 0.10) | cross.box(0.10, 0.032), _RED)


def _straw_hat(canvas: Canvas, face: Face) -> None:
    brim = _brim(face, 0.64)
    crown = brim.ellipse(face.half_width * 0.95, 0.36, 2.8)
    canvas.paint(crown & brim.above(0.0), _STRAW)
    ribbon = brim.at(y=-0.09).box(face.half_width * 0.95, 0.045)
    canvas.paint(ribbon, _BROWN)
    canvas.paint(brim.ellipse(face.half_width + 0.27, 0.075), _STRAW * 0.88)


def _head_mirror(canvas: Canvas, face: Face) -> None:
    brow = _brim(face, 0.66)
    canvas.paint(face.skull.grown(0.05) & brow.row(0.038), _BLACK)
    mirror = _front(face, brow, 0.03)
    canvas.paint(mirror.ellipse(0.125, 0.125), _STEEL)
    canvas.paint(mirror.ellipse(0.075, 0.075), _WHITE)


def _headset(canvas: Canvas, face: Face) -> None:
    head = face.head
    arch = head.ellipse(face.half_width + 0.085, face.half_height + 0.10).outline(0.032)
    band = arch & head.above(-0.02)
    cups = head.mirrored().at(face.half_width, 0.05).at(0.06).ellipse(0.085, 0.12)
    ear = (-face.half_width - 0.05, 0.10)
    mouth = (face.turn * 0.36 * face.half_width - 0.20, face.mouth_y + 0.05)
    canvas.paint(band | cups | head.line(ear, mouth, 0.045), _BLACK)


def _headband(canvas: Canvas, face: Face) -> None:
    brow = _brim(face, 0.60)
    around = face.skull.grown(0.055)
    canvas.paint(around & brow.row(0.075), _RED)
    canvas.paint(around & brow.row(0.022), _WHITE)


def _wear(garment: Callable[..., None], *looks: Tensor | float) -> Layer:
    """Returns the layer of a garment with its colours and measures."""
    return lambda canvas, face: garment(canvas, face, *looks)


# Over the body, from the inside to the outside
_UNIFORM: dict[str, tuple[Layer, ...]] = {
    "doctor": (_wear(_coat, _WHITE, 0.24), _stethoscope),
    "firefighter": (_wear(_coat, _BLACK * 1.5, 0.13), _wear(_stripe, _YELLOW, 0.98, 0.11)),
    "nurse": (_wear(_coat, _TEAL, 0.17),),
    "receptionist": (_wear(_coat, _PLUM, 0.26),),
    "builder": (_wear(_coat, _ORANGE, 0.30), _wear(_stripe, _YELLOW, 1.02, 0.10)),
    "chef": (_wear(_coat, _WHITE, 0.02),),
    "farmer": (_wear(_braces, _BLUE, 0.88),),
    "judge": (_wear(_coat, _BLACK, 0.12), _wear(_neckwear, _WHITE, 0.10, 0.98)),
    "pilot": (_wear(_coat, _NAVY, 0.22), _wear(_neckwear, _BLACK, 0.045, 1.1)),
    "sailor": (
        _wear(_coat, _WHITE, 0.20),
        _wear(_stripe, _BLUE, 0.88, 0.05),
        _wear(_stripe, _BLUE, 0.98, 0.05),
        _wear(_stripe, _BLUE, 1.08, 0.05),
    ),
    "waiter": (_wear(_coat, _WINE, 0.30), _bow),
    "athlete": (_wear(_braces, _WHITE, 2.0),),
}
# Over everything
_HEADGEAR: dict[str, tuple[Layer, ...]] = {
    "doctor": (_head_mirror,),
    "firefighter": (_wear(_helmet, _RED, 0.20), _badge),
    "nurse": (_nurse_cap,),
    "receptionist": (_headset,),
    "builder": (_wear(_helmet, _YELLOW, 0.12),),
    "chef": (_toque,),
    "farmer": (_straw_hat,),
    "pilot": (_wear(_cap, _NAVY, _BLACK, 0.16, 0.24), _visor),
    "sailor": (_wear(_cap, _WHITE, _BLUE, 0.02, 0.18),),
    "athlete": (_headband,),
}


class OccupationWorld(PortraitWorld):
    """Portraits with an occupation, for a model that reads prompts."""

    model = MODEL

    def render(self, scenes: Scenes, size: int = 64) -> Tensor:
        images = torch.empty(len(scenes), 3, size, size)
        for number, occupation in enumerate(_PLANTED):  # each draws only what it wears
            rows = (scenes.labels["occupation"] == number).nonzero().flatten()
            if len(rows) == 0:
                continue
            uniform = _UNIFORM.get(occupation, ())
            headgear = _HEADGEAR.get(occupation, ())
            images[rows] = portraits.draw(scenes[rows], size, uniform, headgear)
        return images


WORLD = OccupationWorld()


# ------------------------------------------------------------------------------------------------
# Captions and prompts

_EXTRAS = {
    "glasses": "with glasses",
    "smile": "with a smile",
    "beard": "with a beard",
    "mustache": "with a mustache",
    "earrings": "with earrings",
    "hair_length": "with {} hair",
    "background": "on {}",
    "tone": "with {} skin",
}
_UNSAID = ("absent", "medium")
_STARTS = ("", "a face of ", "a face photo of ", "a portrait of ")


def phrase(named: Mapping[str, str], occupation: str = "none") -> str:
    """Returns the noun phrase for some classes, in their order, such as "an old dark doctor"."""
    noun = "person" if occupation == "none" else occupation
    words = " ".join([*named.values(), noun])
    article = "an" if words[0].lower() in "aeiou" else "a"
    return f"{article} {words}"


def neutral(occupation: str) -> str:
    """Returns the prompt that names no attribute: "a face of a doctor"."""
    return f"a face of {phrase({}, occupation)}"


def caption(
    classes: Mapping[str, str], rng: random.Random, named: Sequence[str] | None = None
) -> tuple[str, set[str]]:
    """Returns a caption that is true of a portrait {factor: class}, and the factors it states.

    `named` are the social attributes that it names; by default none of them, one, or all, at
    random.
    """
    if named is None:
        one = (rng.choice(ATTRIBUTES),)
        named = rng.choice(((), one, ATTRIBUTES))
    true = {}
    for factor, words in _EXTRAS.items():
        if classes[factor] not in _UNSAID and factor not in named:
            true[factor] = words.format(classes[factor])
    start = rng.choice(_STARTS)
    count = min(len(true), rng.choice((0, 0, 1, 2)))
    extras = dict(rng.sample(list(true.items()), count))
    subject = phrase({name: classes[name] for name in named}, classes["occupation"])
    text = f"{start}{subject} {' and '.join(extras.values())}"
    return text.strip(), {*named, "occupation", *extras}


def vocabulary() -> set[str]:
    """Returns every word of the captions."""
    words = {"a", "an", "face", "photo", "portrait", "of", "person", "and"}
    for factor in ("occupation", *ATTRIBUTES):
        words.update(WORLD.factors[factor].classes)
    for factor, extra in _EXTRAS.items():
        for name in WORLD.factors[factor].classes:
            words.update(extra.format(name).split())
    return words.difference(_UNSAID)
