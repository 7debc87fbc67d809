"""The portraits world with occupations: what a text-to-image model learns from, its bias planted per occupation.

Each portrait has an occupation, shown by clothing and headgear, and the occupation decides how often each gender, age and tone
occurs. The four of the paper's prompts (doctor, firefighter, nurse, receptionist) are planted so that their Fairness
Discrepancies come near those of the unedited model in Table 2 of DiffLens. The probabilities are made up for that purpose and
say nothing about people or professions.

Captions name an occupation or a person, and of the rest a part; what a caption leaves out a model has to fill in, and it does so
as the world does. That is the bias under study.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from . import portraits
from .portraits import (
    ATTRIBUTES,
    INK,
    LAYERS,
    Canvas,
    Colours,
    Face,
    Labels,
    Layer,
    ellipse,
    rgb,
    segment,
)
from .worlds import Factor, Portraits

# occupation: (P(male), P(young, adult, old), P(light, tan, brown, dark))
_PLANTED = {
    "none": (0.50, (0.25, 0.50, 0.25), (0.25, 0.25, 0.25, 0.25)),
    "doctor": (0.88, (0.01, 0.92, 0.07), (0.70, 0.16, 0.09, 0.05)),
    "firefighter": (0.90, (0.03, 0.94, 0.03), (0.68, 0.08, 0.12, 0.12)),
    "nurse": (0.10, (0.04, 0.93, 0.03), (0.66, 0.17, 0.10, 0.07)),
    "receptionist": (0.12, (0.06, 0.92, 0.02), (0.72, 0.14, 0.09, 0.05)),
    "builder": (0.85, (0.05, 0.90, 0.05), (0.55, 0.20, 0.15, 0.10)),
    "chef": (0.75, (0.04, 0.86, 0.10), (0.50, 0.25, 0.15, 0.10)),
    "farmer": (0.80, (0.03, 0.67, 0.30), (0.75, 0.10, 0.10, 0.05)),
    "judge": (0.70, (0.01, 0.44, 0.55), (0.85, 0.06, 0.05, 0.04)),
    "pilot": (0.90, (0.01, 0.84, 0.15), (0.80, 0.10, 0.06, 0.04)),
    "sailor": (0.65, (0.20, 0.75, 0.05), (0.40, 0.20, 0.20, 0.20)),
    "waiter": (0.40, (0.30, 0.65, 0.05), (0.40, 0.25, 0.20, 0.15)),
    "athlete": (0.50, (0.40, 0.58, 0.02), (0.30, 0.20, 0.20, 0.30)),
}
OCCUPATIONS = tuple(name for name in _PLANTED if name != "none")


def _model() -> tuple[Factor, ...]:
    share = (1 - 0.16) / len(OCCUPATIONS)
    rows = {
        "gender": {name: (1 - male, male) for name, (male, _, _) in _PLANTED.items()},
        "age": {name: ages for name, (_, ages, _) in _PLANTED.items()},
        "tone": {name: tones for name, (_, _, tones) in _PLANTED.items()},
    }
    return (
        Factor("occupation", tuple(_PLANTED), (), (((), (0.16, *[share] * len(OCCUPATIONS))),)),
        *(
            Factor(
                a,
                portraits.WORLD.factors[a].classes,
                ("occupation",),
                tuple(((o,), p) for o, p in rows[a].items()),
            )
            for a in ATTRIBUTES
        ),
        *(f for f in portraits.MODEL if f.name not in ATTRIBUTES),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What is worn. `clothing` is the colour of the shirt, which shows under every uniform.

_WHITE, _BLACK, _STEEL, _GOLD = rgb((246, 246, 248), (30, 30, 36), (168, 176, 186), (250, 204, 40))
_RED, _ORANGE, _YELLOW, _BLUE, _TEAL = rgb(
    (206, 30, 34), (246, 124, 30), (250, 200, 30), (60, 96, 168), (72, 176, 182)
)
_NAVY, _PLUM, _WINE, _STRAW, _BROWN = rgb(
    (28, 36, 82), (104, 44, 110), (120, 22, 44), (232, 198, 116), (110, 70, 36)
)

Wear = Callable[[Canvas, Face, Tensor], None]  # (canvas, face, the outline of the body or the head)


def _coat(colour: Tensor, opening: float) -> Wear:
    """A coat over the shirt, open in a V that is `opening` wide at the neck."""

    def wear(c: Canvas, f: Face, body: Tensor) -> None:
        edge = opening * (1 - (f.v - 0.62) / 0.5) - f.u.abs()
        c.paint(c.cover(torch.maximum(body, edge)), colour)

    return wear


def _stripe(colour: Tensor, at: float, width: float) -> Wear:
    def wear(c: Canvas, f: Face, body: Tensor) -> None:
        c.paint(c.cover(torch.maximum(body, (f.v - at).abs() - width / 2)), colour)

    return wear


def _braces(colour: Tensor, bib: float) -> Wear:
    """Two straps, and a bib below `bib`."""

    def wear(c: Canvas, f: Face, body: Tensor) -> None:
        straps = (f.u.abs() - 0.29).abs() - 0.07
        front = torch.maximum(f.u.abs() - 0.34, bib - f.v)
        c.paint(c.cover(torch.maximum(body, torch.minimum(straps, front))), colour)

    return wear


def _at_neck(colour: Tensor, half_width: float, bottom: float) -> Wear:
    """Bands, a tie or a scarf: from the collar down to `bottom`."""

    def wear(c: Canvas, f: Face, _body: Tensor) -> None:
        c.paint(
            c.cover(torch.maximum(f.u.abs() - half_width, torch.maximum(0.70 - f.v, f.v - bottom))),
            colour,
        )

    return wear


def _bow(colour: Tensor) -> Wear:
    def wear(c: Canvas, f: Face, _body: Tensor) -> None:
        wings = torch.maximum((f.v - 0.79).abs() - 0.03 - 0.42 * f.u.abs(), f.u.abs() - 0.15)
        c.paint(c.cover(wings), colour)

    return wear


def _stethoscope(c: Canvas, f: Face, body: Tensor) -> None:
    tube = ellipse(f.u, f.v - 0.72, 0.27, 0.24).abs() - 0.022
    c.paint(c.cover(torch.maximum(torch.maximum(tube, 0.70 - f.v), body)), _BLACK)
    c.paint(c.cover(ellipse(f.u - 0.10, f.v - 0.95, 0.06, 0.06)), _STEEL)


def _helmet(colour: Tensor, brim: float, badge: Tensor | None) -> Wear:
    """A dome with a brim that is `brim` wider than the head at each side."""

    def wear(c: Canvas, f: Face, _head: Tensor) -> None:
        at = f.v + 0.63 * f.b  # 0 at the brim
        dome = torch.maximum(ellipse(f.u, at, f.a + 0.07, 0.34), at)
        edge = ellipse(f.u - 0.04 * f.turn, at, f.a + brim, 0.055)
        c.paint(c.cover(dome), colour)
        c.paint(c.cover(torch.maximum(ellipse(f.u, at + 0.06, 0.05, 0.27), at)), colour * 0.75)
        c.paint(c.cover(edge), colour * 0.86)
        if badge is not None:
            c.paint(c.cover(ellipse(f.fu * 0.9, at + 0.13, 0.085, 0.09)), badge)

    return wear


def _cap(
    colour: Tensor, half_width: float, height: float, band: Tensor, visor: Tensor | None
) -> Wear:
    """A cap of its own width with a band, and a visor if it has one."""

    def wear(c: Canvas, f: Face, _head: Tensor) -> None:
        at = f.v + 0.64 * f.b
        crown = ellipse(
            f.u,
            at + 0.09 + height / 2,
            (f.a + half_width),
            height / 2 + 0.05,
            3.2 * torch.ones_like(f.a),
        )
        c.paint(c.cover(crown), colour)
        c.paint(c.cover(torch.maximum(f.u.abs() - f.a - 0.05, (at + 0.045).abs() - 0.055)), band)
        if visor is not None:
            c.paint(
                c.cover(torch.maximum(ellipse(f.fu, at - 0.0, f.a * 0.92, 0.085), -at - 0.01)),
                visor,
            )
            c.paint(c.cover(ellipse(f.fu, at + 0.13, 0.06, 0.07)), _GOLD)

    return wear


def _toque(c: Canvas, f: Face, _head: Tensor) -> None:
    at = f.v + 0.66 * f.b
    puffs = torch.minimum(
        ellipse(f.u.abs() - f.a * 0.62, at + 0.36, 0.23, 0.17), ellipse(f.u, at + 0.42, 0.26, 0.18)
    )
    tall = torch.maximum(f.u.abs() - f.a * 0.92, (at + 0.16).abs() - 0.20)
    c.paint(c.cover(torch.minimum(puffs, tall)), _WHITE)
    c.paint(c.cover(torch.maximum(f.u.abs() - f.a * 0.94, (at + 0.03).abs() - 0.06)), _WHITE * 0.82)


def _nurse_cap(c: Canvas, f: Face, _head: Tensor) -> None:
    at = f.v + 0.86 * f.b
    cloth = torch.maximum(f.u.abs() - 0.27 + 0.25 * (at + 0.1), (at + 0.09).abs() - 0.15)
    c.paint(c.cover(cloth), _WHITE)
    upright, across = (
        torch.maximum((f.fu * 0.9).abs() - x, (at + 0.09).abs() - y)
        for x, y in ((0.032, 0.10), (0.10, 0.032))
    )
    c.paint(c.cover(torch.minimum(upright, across)), _RED)


def _straw_hat(c: Canvas, f: Face, _head: Tensor) -> None:
    at = f.v + 0.64 * f.b
    c.paint(
        c.cover(torch.maximum(ellipse(f.u, at, f.a * 0.95, 0.36, 2.8 * torch.ones_like(f.a)), at)),
        _STRAW,
    )
    c.paint(c.cover(torch.maximum(f.u.abs() - f.a * 0.95, (at + 0.09).abs() - 0.045)), _BROWN)
    c.paint(c.cover(ellipse(f.u, at, f.a + 0.27, 0.075)), _STRAW * 0.88)


def _head_mirror(c: Canvas, f: Face, head: Tensor) -> None:
    at = f.v + 0.66 * f.b
    c.paint(c.cover(torch.maximum(head - 0.05, at.abs() - 0.038)), _BLACK)
    c.paint(c.cover(ellipse(f.fu * 0.9, at + 0.03, 0.125, 0.125)), _STEEL)
    c.paint(c.cover(ellipse(f.fu * 0.9, at + 0.03, 0.075, 0.075)), _WHITE)


def _headset(c: Canvas, f: Face, _head: Tensor) -> None:
    band = torch.maximum(ellipse(f.u, f.v, f.a + 0.085, f.b + 0.10).abs() - 0.032, f.v + 0.02)
    cups = ellipse(f.u.abs() - f.a - 0.06, f.v - 0.05, 0.085, 0.12)
    boom = segment(f.u, f.v, -f.a - 0.05, 0.10, f.turn * 0.36 * f.a - 0.20, f.mouth_v + 0.05, 0.045)
    c.paint(c.cover(torch.minimum(torch.minimum(band, cups), boom)), _BLACK)


def _headband(c: Canvas, f: Face, head: Tensor) -> None:
    at = f.v + 0.60 * f.b
    c.paint(c.cover(torch.maximum(head - 0.055, at.abs() - 0.075)), _RED)
    c.paint(c.cover(torch.maximum(head - 0.055, at.abs() - 0.022)), _WHITE)


_UNIFORM: dict[str, tuple[Wear, ...]] = {
    "doctor": (_coat(_WHITE, 0.24), _stethoscope),
    "firefighter": (_coat(_BLACK * 1.5, 0.13), _stripe(_YELLOW, 0.98, 0.11)),
    "nurse": (_coat(_TEAL, 0.17),),
    "receptionist": (_coat(_PLUM, 0.26),),
    "builder": (_coat(_ORANGE, 0.30), _stripe(_YELLOW, 1.02, 0.10)),
    "chef": (_coat(_WHITE, 0.02),),
    "farmer": (_braces(_BLUE, 0.88),),
    "judge": (_coat(_BLACK, 0.12), _at_neck(_WHITE, 0.10, 0.98)),
    "pilot": (_coat(_NAVY, 0.22), _at_neck(_BLACK, 0.045, 1.1)),
    "sailor": (
        _coat(_WHITE, 0.20),
        _stripe(_BLUE, 0.88, 0.05),
        _stripe(_BLUE, 0.98, 0.05),
        _stripe(_BLUE, 1.08, 0.05),
    ),
    "waiter": (_coat(_WINE, 0.30), _bow(_BLACK)),
    "athlete": (_braces(_WHITE, 2.0),),
}
_HEADGEAR: dict[str, Wear] = {
    "doctor": _head_mirror,
    "firefighter": _helmet(_RED, 0.20, _YELLOW),
    "nurse": _nurse_cap,
    "receptionist": _headset,
    "builder": _helmet(_YELLOW, 0.12, None),
    "chef": _toque,
    "farmer": _straw_hat,
    "pilot": _cap(_NAVY, 0.16, 0.24, _BLACK, INK),
    "sailor": _cap(_WHITE, 0.02, 0.18, _BLUE, None),
    "athlete": _headband,
}


def _layers(occupation: str) -> tuple[Layer, ...]:
    """What is drawn of a portrait with this occupation: the uniform over the body, the headgear over everything."""

    def uniform(c: Canvas, _lab: Labels, _nui: Labels, f: Face, _colours: Colours) -> None:
        body = torch.maximum(portraits.body_outline(f), -portraits.collar_outline(f))
        for wear in _UNIFORM.get(occupation, ()):
            wear(c, f, body)

    def headgear(c: Canvas, _lab: Labels, _nui: Labels, f: Face, _colours: Colours) -> None:
        if occupation in _HEADGEAR:
            _HEADGEAR[occupation](c, f, f.head)

    body = LAYERS.index(portraits.draw_body) + 1
    return (*LAYERS[:body], uniform, *LAYERS[body:], headgear)


def render(batch: Portraits, size: int = 64, device: str | torch.device = "cpu") -> Tensor:
    """Render to RGB images: (B, 3, size, size) float32 in [-1, 1]. Raises ValueError for a size under 16."""
    images = torch.empty(len(batch), 3, size, size, device=device)
    for number, occupation in enumerate(_PLANTED):  # each draws only what it wears
        rows = (batch.labels["occupation"] == number).nonzero().flatten()
        if len(rows):
            images[rows.to(device)] = portraits.render(
                batch[rows], size, device, _layers(occupation)
            )
    return images


WORLD = portraits.PortraitWorld(_model(), ATTRIBUTES, len(portraits.NUISANCES), render)


# ---------------------------------------------------------------------------------------------------------------------
# Captions and prompts

_EXTRAS = {
    ("glasses", "present"): "with glasses",
    ("smile", "present"): "with a smile",
    ("beard", "present"): "with a beard",
    ("mustache", "present"): "with a mustache",
    ("earrings", "present"): "with earrings",
    ("hair_length", "long"): "with long hair",
    ("hair_length", "short"): "with short hair",
    ("background", "blue"): "on blue",
    ("background", "green"): "on green",
    ("background", "sand"): "on sand",
    ("background", "violet"): "on violet",
    **{("tone", name): f"with {name} skin" for name in portraits.WORLD.factors["tone"].classes},
}


def phrase(named: dict[str, str], occupation: str | None = None) -> str:
    """The noun phrase for some named classes, in their order: "an old dark doctor", "a person"."""
    words = [*named.values(), occupation if occupation not in (None, "none") else "person"]
    return f"{'an' if words[0][0].lower() in 'aeiou' else 'a'} {' '.join(words)}"


def neutral(occupation: str) -> str:
    """The prompt that names no attribute: "a face of a doctor"."""
    return f"a face of {phrase({}, occupation)}"


def caption(
    p: dict[str, str], rng: random.Random, named: tuple[str, ...] | None = None
) -> tuple[str, set[str]]:
    """One of the captions that are true of a portrait, and the factors that it states.

    `named` are the social attributes that it names; drawn if None: none of them, one, or all.
    """
    if named is None:
        named = rng.choice(((), (rng.choice(ATTRIBUTES),), ATTRIBUTES))
    extras = [
        (factor, words)
        for (factor, name), words in _EXTRAS.items()
        if p[factor] == name and factor not in named
    ]
    start = rng.choice(("", "a face of ", "a face photo of ", "a portrait of "))
    some = rng.sample(extras, min(len(extras), rng.choice((0, 0, 1, 2))))
    text = start + phrase({a: p[a] for a in named}, p["occupation"])
    return " ".join([text, " and ".join(words for _, words in some)]).strip(), {
        *named,
        "occupation",
        *(factor for factor, _ in some),
    }


def vocabulary() -> set[str]:
    """Every word of the captions."""
    classes = {c for name in (*ATTRIBUTES, "occupation") for c in WORLD.factors[name].classes}
    return (
        classes
        | set(" ".join(_EXTRAS.values()).split())
        | {"a", "an", "face", "photo", "portrait", "of", "person", "and"}
    )
