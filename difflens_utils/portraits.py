"""A procedural world of portraits whose every factor, and every bias, is planted.

No one knows the true features inside a model of photographs. Here they are known: a portrait is drawn from a small
causal model (`MODEL`, declared once below), rendered by anti-aliased distance functions, and captioned. The marginals
of the three social attributes are chosen so that a perfect model of this world has the Fairness Discrepancy of the
unedited model in Table 1 of DiffLens: gender 0.28, age 0.59, tone 0.72 (the paper's race).

`tone` is a rendering factor of a cartoon. It stands in for the statistics of a four-class attribute and makes no claim
about people; so do the other factors and the probabilities given to them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .worlds import Factor, Portraits, World, binary, root

ATTRIBUTES = ("gender", "age", "tone")  # the social attributes; all others are factors too

# The whole causal model, in topological order. Everything else (sampling, tables, the graph, the planted causes of an
# attribute, exact marginals) is derived from it.
MODEL = (
    root("gender", female=0.70, male=0.30),
    root("age", young=0.10, adult=0.815, old=0.085),
    root("tone", light=0.87, tan=0.05, brown=0.05, dark=0.03),
    Factor(
        "hair_length",
        ("short", "medium", "long"),
        ("gender", "age"),
        (
            (("female", "old"), (0.40, 0.45, 0.15)),
            (("female", "*"), (0.08, 0.22, 0.70)),
            (("male", "*"), (0.86, 0.11, 0.03)),
        ),
    ),
    binary("bald", "gender age", {"male old": 0.45, "male adult": 0.12, "* *": 0.0}),
    Factor(
        "hair_colour",
        ("black", "brown", "blond", "grey"),
        ("age", "tone"),
        (
            (("old", "*"), (0.08, 0.07, 0.05, 0.80)),
            (("*", "light"), (0.22, 0.40, 0.36, 0.02)),
            (("*", "tan"), (0.70, 0.24, 0.04, 0.02)),
            (("*", "*"), (0.84, 0.12, 0.02, 0.02)),
        ),
    ),
    binary(
        "mustache",
        "gender age",
        {"female *": 0.0, "male young": 0.04, "male adult": 0.32, "male old": 0.45},
    ),
    binary(
        "beard",
        "gender age",
        {"female *": 0.0, "male young": 0.02, "male adult": 0.30, "male old": 0.35},
    ),
    binary("lipstick", "gender age", {"male *": 0.01, "female young": 0.15, "female *": 0.60}),
    binary("earrings", "gender age", {"male *": 0.03, "female young": 0.20, "female *": 0.50}),
    binary(
        "glasses",
        "gender age",
        {"* old": 0.60, "male young": 0.08, "male adult": 0.22, "* *": 0.07},
    ),
    binary("smile", "gender age", {"* young": 0.65, "female *": 0.55, "male *": 0.35}),
    binary("wrinkles", "age", {"old": 0.90, "adult": 0.06, "young": 0.0}),
    binary("side_pose", "gender", {"female": 0.25, "male": 0.10}),
    binary("head_down", "gender", {"female": 0.08, "male": 0.22}),
    Factor(
        "head_width",
        ("narrow", "wide"),
        ("gender",),
        ((("female",), (0.75, 0.25)), (("male",), (0.25, 0.75))),
    ),
    root("position", left=0.25, centre=0.50, right=0.25),
    root("background", blue=0.30, green=0.25, sand=0.25, violet=0.20),
    root("clothing", white=0.25, red=0.25, navy=0.25, olive=0.25),
)

# Continuous variation inside a class, uniform in [-1, 1]; what each does is in `Face` and `render`.
NUISANCES = (
    "x",
    "y",
    "scale",
    "light",
    "skin",
    "hair",
    "wall",
    "cloth",
    "yaw",
    "gaze",
    "mouth",
    "fringe",
)

# ---------------------------------------------------------------------------------------------------------------------
# Rendering. x grows to the right and y downwards, both in [-1, 1]. Distances are in these units, negative inside.


def rgb(*colours: tuple[int, int, int]) -> Tensor:
    return torch.tensor(colours, dtype=torch.float32) / 255


_SKIN = rgb((250, 218, 192), (219, 168, 118), (160, 104, 62), (84, 52, 38))
_HAIR = rgb((26, 22, 26), (116, 68, 34), (232, 196, 92), (196, 198, 204))
_WALL = rgb((120, 172, 226), (128, 192, 132), (224, 202, 158), (182, 148, 212))
_CLOTH = rgb((242, 242, 242), (196, 46, 52), (36, 50, 110), (104, 116, 44))
INK = rgb((24, 20, 24))[0]

Labels = dict[str, Tensor]  # {factor: (B, 1, 1)}, classes or nuisances
Colours = dict[str, Tensor]  # {what: (B, 3)}


class Canvas:
    """Images under construction: shapes are given as signed distances and laid over what is there."""

    def __init__(self, batch: int, size: int, device: torch.device) -> None:
        edge = (torch.arange(size, device=device) + 0.5) / size * 2 - 1
        self.y, self.x = torch.meshgrid(edge, edge, indexing="ij")  # (H, W)
        self.pixel = 2 / size
        self.image = torch.zeros(batch, 3, size, size, device=device)

    def cover(self, distance: Tensor) -> Tensor:
        """Signed distance (B, H, W) to the share of each pixel that is inside: anti-aliasing in closed form."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def paint(self, coverage: Tensor, colour: Tensor, opacity: Tensor | float = 1.0) -> None:
        """Lay `colour` (B, 3) or (3,) over the image where `coverage` (B, H, W) is 1."""
        alpha = (coverage * opacity).unsqueeze(1)  # (B, 1, H, W)
        self.image.lerp_(
            colour.reshape(-1, 3, 1, 1).expand_as(self.image), alpha.expand_as(self.image)
        )


def ellipse(
    x: Tensor, y: Tensor, a: Tensor | float, b: Tensor | float, power: Tensor | float = 2.0
) -> Tensor:
    """First-order distance to a superellipse with half axes a, b (power 2: ellipse; larger: squarer)."""
    if isinstance(power, float) and power == 2.0:
        radius = ((x / a) ** 2 + (y / b) ** 2).sqrt()
    else:
        radius = (
            (x / a).abs().clamp_min(1e-4) ** power + (y / b).abs().clamp_min(1e-4) ** power
        ) ** (1 / power)
    return (radius - 1) * torch.minimum(torch.as_tensor(a), torch.as_tensor(b))


def segment(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    x1: Tensor | float,
    y1: Tensor | float,
    width: Tensor | float,
) -> Tensor:
    """Distance to a thick line from (x0, y0) to (x1, y1)."""
    dx, dy = x1 - x0, y1 - y0
    along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2).sqrt() - width / 2


def render(
    portraits: Portraits,
    size: int = 32,
    device: str | torch.device = "cpu",
    layers: Sequence[Layer] | None = None,
) -> Tensor:
    """Render to RGB images: (B, 3, size, size) float32 in [-1, 1], the range the diffusion models work in.

    `layers` are drawn one over the other, `LAYERS` by default. Raises ValueError for a size under 16, where factors can no longer be seen.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")
    lab = {k: v.to(device).reshape(-1, 1, 1) for k, v in portraits.labels.items()}
    nui = dict(
        zip(
            NUISANCES,
            portraits.nuisance.to(device).T.reshape(len(NUISANCES), -1, 1, 1),
            strict=True,
        )
    )
    canvas = Canvas(len(portraits), size, torch.device(device))
    colours = _colours(lab, nui)
    _backdrop(canvas, lab, nui, colours)
    face = Face(canvas, lab, nui)
    for layer in layers or LAYERS:
        layer(canvas, lab, nui, face, colours)
    return canvas.image.clamp(0, 1) * 2 - 1


def _colours(lab: Labels, nui: Labels) -> Colours:
    """The palette of each portrait, (B, 3) each: class colour, varied within the class."""

    def pick(palette: Tensor, factor: str, nuisance: str, spread: float) -> Tensor:
        tint = torch.tensor([1.0, 0.9, 0.8], device=nui[nuisance].device)
        base = palette.to(tint.device)[lab[factor].flatten()]
        return (base * (1 + spread * nui[nuisance].reshape(-1, 1) * tint)).clamp(0, 1)

    return {
        "skin": pick(_SKIN, "tone", "skin", 0.06),
        "hair": pick(_HAIR, "hair_colour", "hair", 0.12),
        "wall": pick(_WALL, "background", "wall", 0.10),
        "cloth": pick(_CLOTH, "clothing", "cloth", 0.08),
    }


class Face:
    """Where things are on each face; all (B, 1, 1). `u, v` are pixel coordinates relative to the head's centre."""

    def __init__(self, canvas: Canvas, lab: Labels, nui: Labels) -> None:
        young, old = (lab["age"] == 0).float(), (lab["age"] == 2).float()
        self.male, self.young, self.old = (lab["gender"] == 1).float(), young, old
        self.side, self.down = lab["side_pose"].float(), lab["head_down"].float()
        turn = torch.where(nui["yaw"] >= 0, 1.0, -1.0)
        self.turn = (
            self.side * turn * (0.8 + 0.2 * nui["yaw"].abs())
        )  # -1 (to the left) .. 0 (front) .. 1
        scale = (1 + 0.03 * nui["scale"]) * (1 - 0.17 * young)
        wide = lab["head_width"].float()
        self.a = (0.345 + 0.085 * wide + 0.03 * young) * scale  # half width
        self.b = (0.52 - 0.05 * young) * scale  # half height
        self.x = (lab["position"].float() - 1) * 0.2 + 0.025 * nui["x"]
        self.y = -0.10 + 0.03 * nui["y"] + 0.12 * young + 0.03 * self.down
        self.u, self.v = canvas.x - self.x, canvas.y - self.y
        self.jaw = 2.0 + 0.9 * self.male
        self.chin = 1 - 0.32 * (1 - self.male) * (1 - 0.6 * young)  # how far the lower face tapers
        # Features slide over the head as it turns or nods.
        self.fu = self.u - self.turn * 0.36 * self.a
        self.fv = self.v - self.down * 0.24 * self.b - 0.05 * young
        self.eye_x = self.a * 0.47 * (1 - 0.18 * self.side)
        self.eye_v = -0.02
        self.mouth_v = 0.56 * self.b - 0.03 * self.down
        self.scale = scale
        narrowing = torch.where(
            self.v > 0, 1 - (1 - self.chin) * (self.v / self.b).clamp(0, 1) ** 2, 1.0
        )
        self.head = ellipse(self.u / narrowing, self.v, self.a, self.b, self.jaw * 0.3 + 1.5)


def _backdrop(c: Canvas, lab: Labels, nui: Labels, colours: Colours) -> None:
    shade = 1 - 0.10 * c.y - 0.06 * nui["light"] * c.x  # a soft light from above and from one side
    c.image[:] = (colours["wall"].reshape(-1, 3, 1, 1) * shade.unsqueeze(1)).clamp(0, 1)


def _draw_hair_behind(c: Canvas, lab: Labels, _nui: Labels, f: Face, colours: Colours) -> None:
    length = lab["hair_length"]
    bald = lab["bald"].float()
    bottom = torch.where(
        length == 2, 0.74, torch.where(length == 1, 0.36, -0.02)
    )  # of the curtain beside the face
    half = f.a + torch.where(length == 0, 0.055, 0.145)
    crown = ellipse(f.u, f.v + 0.05, half, f.b + 0.10)
    top_only = torch.maximum(crown, f.v - 0.02)
    mid = (bottom - 0.30) / 2
    curtain = ellipse(f.u, f.v - mid, half, (bottom + 0.30) / 2 + 0.05, 4.0 * torch.ones_like(half))
    # A bald crown keeps the hair below the temples.
    shape = torch.maximum(
        torch.minimum(top_only, curtain), torch.where(bald > 0, -0.14 - f.v, -9.0)
    )
    c.paint(c.cover(shape), colours["hair"] * 0.86)


def _neck_half(f: Face) -> Tensor:
    return (0.16 + 0.06 * f.male) * (1 - 0.10 * f.young)


def body_outline(f: Face) -> Tensor:
    """Signed distance to the shoulders and the chest."""
    shoulder = (0.56 + 0.26 * f.male) * (1 - 0.14 * f.young)
    return ellipse(
        f.u,
        f.v - 1.27 + 0.16 * f.young,
        shoulder,
        0.60 - 0.05 * f.young,
        2.4 * torch.ones_like(shoulder),
    )


def collar_outline(f: Face) -> Tensor:
    """Signed distance to the bare part of the neck."""
    return ellipse(f.u, f.v - 0.68 + 0.16 * f.young, _neck_half(f) * 1.15, 0.13)


def draw_body(c: Canvas, _lab: Labels, _nui: Labels, f: Face, colours: Colours) -> None:
    neck = torch.maximum((f.u.abs() - _neck_half(f)), (f.v - 0.86).abs() - 0.5)
    c.paint(c.cover(neck), colours["skin"] * 0.84)
    c.paint(c.cover(body_outline(f)), colours["cloth"])
    c.paint(c.cover(collar_outline(f)), colours["skin"] * 0.84)


def _draw_head(c: Canvas, lab: Labels, nui: Labels, f: Face, colours: Colours) -> None:
    skin = colours["skin"]
    ears = torch.minimum(
        ellipse(f.u - f.a, f.v - 0.05, 0.07, 0.11), ellipse(f.u + f.a, f.v - 0.05, 0.07, 0.11)
    )
    c.paint(c.cover(ears), skin * 0.9)
    head = c.cover(f.head)
    c.paint(head, skin)
    shade = ((f.u * (0.8 * nui["light"] - 1.2 * f.turn) / f.a).clamp(-1, 1) * 0.5 + 0.5) * 0.20
    c.paint(head * shade, skin * 0.55)


def _draw_beard(c: Canvas, lab: Labels, _nui: Labels, f: Face, colours: Colours) -> None:
    colour = colours["hair"] * 0.70
    region = torch.maximum(f.head, 0.33 * f.b - f.fv + 0.10 * (1 - (f.fu / f.a).abs().clamp(0, 1)))
    hole = ellipse(f.fu, f.fv - f.mouth_v, 0.19, 0.075)
    c.paint(c.cover(torch.maximum(region, -hole)), colour, lab["beard"].float())


def _draw_features(c: Canvas, lab: Labels, nui: Labels, f: Face, colours: Colours) -> None:
    skin, hair = colours["skin"], colours["hair"]
    mirrored = f.fu.abs()
    eye_u, eye_v = mirrored - f.eye_x, f.fv - f.eye_v
    size = f.scale * (1 + 0.50 * f.young - 0.12 * f.old)
    lid = 1 - 0.45 * f.down
    c.paint(
        c.cover(ellipse(eye_u, eye_v, 0.098 * size, 0.070 * size * lid)),
        torch.tensor([0.97, 0.97, 0.97]),
    )
    gaze = 0.02 * nui["gaze"]
    c.paint(
        c.cover(ellipse((f.fu - gaze).abs() - f.eye_x, eye_v, 0.048 * size, 0.062 * size * lid)),
        INK,
    )
    brow_v = f.fv - f.eye_v + (0.150 + 0.03 * f.young) * f.scale
    brow_width = 0.040 + 0.045 * f.male
    brow = segment(
        mirrored,
        brow_v,
        f.eye_x - 0.10,
        0.01,
        f.eye_x + 0.10,
        0.01 - 0.035 * (1 - f.male),
        brow_width,
    )
    brow_colour = torch.where(f.old.reshape(-1, 1) > 0, hair * 0.9, hair * 0.6)
    c.paint(c.cover(brow), brow_colour)
    nose_v = 0.27 * f.b
    c.paint(
        c.cover(segment(f.fu - 0.05 * f.turn, f.fv, 0.0, 0.04, 0.03 * f.turn, nose_v, 0.055)),
        skin * 0.78,
    )
    _draw_age_lines(c, lab, f, skin)
    _draw_mouth(c, lab, nui, f, skin)
    mustache = ellipse(f.fu, f.fv - f.mouth_v + 0.105, 0.185, 0.062)
    c.paint(c.cover(mustache), hair * 0.60, lab["mustache"].float())


def _draw_age_lines(c: Canvas, lab: Labels, f: Face, skin: Tensor) -> None:
    mirrored = f.fu.abs()
    forehead = segment(f.fu, f.fv + 0.245, -0.17, 0.0, 0.17, 0.0, 0.055)
    corner = f.eye_x + 0.095  # crow's feet, outside the eyes
    feet = torch.minimum(
        segment(mirrored - corner, f.fv - f.eye_v, 0.0, -0.03, 0.10, -0.08, 0.04),
        segment(mirrored - corner, f.fv - f.eye_v, 0.0, 0.05, 0.10, 0.10, 0.04),
    )
    c.paint(
        c.cover(torch.maximum(torch.minimum(forehead, feet), f.head)),
        skin * 0.50,
        lab["wrinkles"].float(),
    )
    fold = segment(
        mirrored, f.fv, 0.10, 0.26 * f.b, 0.235, f.mouth_v + 0.03, 0.05
    )  # from the nose to the mouth
    bag = segment(
        mirrored - f.eye_x, f.fv - f.eye_v - 0.115, -0.07, 0.0, 0.07, 0.0, 0.04
    )  # under the eyes
    c.paint(c.cover(torch.minimum(fold, bag)), skin * 0.60, f.old * 0.9)


def _draw_mouth(c: Canvas, lab: Labels, nui: Labels, f: Face, skin: Tensor) -> None:
    smile, lipstick = lab["smile"].float(), lab["lipstick"].float()
    half = (0.135 + 0.045 * smile + 0.012 * nui["mouth"]) * (1 - 0.12 * f.young)
    v = f.fv - f.mouth_v
    curve = v + (0.075 * smile - 0.02) * ((f.fu / half) ** 2).clamp(
        0, 1.4
    )  # corners up when smiling
    lips = ellipse(f.fu, curve, half, 0.036 + 0.030 * lipstick + 0.022 * smile)
    bare = skin * torch.tensor([0.74, 0.50, 0.50], device=skin.device)
    red = torch.tensor([0.80, 0.06, 0.20], device=skin.device).expand_as(skin)
    c.paint(c.cover(lips), torch.where(lipstick.reshape(-1, 1) > 0, red, bare))
    teeth = ellipse(f.fu, curve + 0.002, half * 0.72, 0.030)
    c.paint(c.cover(teeth), torch.tensor([1.0, 1.0, 1.0]), smile)


def _draw_hair_in_front(c: Canvas, lab: Labels, nui: Labels, f: Face, colours: Colours) -> None:
    bald = lab["bald"].float()
    line = (
        -(0.62 - 0.20 * f.down + 0.04 * nui["fringe"]) * f.b + 0.02 * f.young
    )  # the hairline: lower on a nodding head
    skull = ellipse(f.u, f.v + 0.02, f.a + 0.05, f.b + 0.05)
    parting = line + 0.12 * (f.fu / f.a).abs()
    fringe = torch.maximum(skull, f.v - parting)
    c.paint(c.cover(fringe), colours["hair"], 1 - bald)
    strands = torch.maximum(
        ellipse(f.u, f.v - 0.12, f.a + 0.06, f.b * 0.95), f.a * 0.90 - f.u.abs()
    )
    strands = torch.maximum(strands, torch.where(bald > 0, -0.14 - f.v, -9.0))
    c.paint(c.cover(strands), colours["hair"] * 0.93, (lab["hair_length"] > 0).float())


def _draw_glasses_and_earrings(
    c: Canvas, lab: Labels, _nui: Labels, f: Face, _colours: Colours
) -> None:
    worn = lab["glasses"].float()
    lens = ellipse(f.fu.abs() - f.eye_x, f.fv - f.eye_v, 0.150, 0.125, 2.6 * torch.ones_like(f.a))
    bridge = segment(f.fu, f.fv - f.eye_v, -0.05, -0.01, 0.05, -0.01, 0.05)
    arms = torch.maximum(
        (f.fv - f.eye_v + 0.02).abs() - 0.026,
        torch.maximum(f.eye_x + 0.13 - f.fu.abs(), f.u.abs() - f.a),
    )
    c.paint(c.cover(lens), torch.tensor([0.86, 0.93, 1.0]), worn * 0.35)
    c.paint(c.cover(torch.minimum(torch.minimum(lens.abs() - 0.028, bridge), arms)), INK, worn)
    gold = ellipse(f.u.abs() - f.a - 0.035, f.v - 0.25, 0.066, 0.088)
    c.paint(c.cover(gold), torch.tensor([1.0, 0.82, 0.10]), lab["earrings"].float())


Layer = Callable[[Canvas, Labels, Labels, Face, Colours], None]
LAYERS: tuple[Layer, ...] = (
    _draw_hair_behind,
    draw_body,
    _draw_head,
    _draw_beard,
    _draw_features,
    _draw_hair_in_front,
    _draw_glasses_and_earrings,
)


class PortraitWorld(World):
    """A world of portraits, whose choices for notebooks 06 and 08 are ours."""

    singles = {"side_pose": "present", "hair_length": "short", "smile": "present"}
    wanted = {"age": [0.3, 0.4, 0.3], "tone": [0.4, 0.3, 0.2, 0.1]}


WORLD = PortraitWorld(MODEL, ATTRIBUTES, len(NUISANCES), render)


# ---------------------------------------------------------------------------------------------------------------------
# Captions

_PERSON = {
    ("young", "female"): "a girl",
    ("young", "male"): "a boy",
    ("adult", "female"): "a woman",
    ("adult", "male"): "a man",
    ("old", "female"): "an old woman",
    ("old", "male"): "an old man",
}


def captions(portraits: Portraits) -> list[str]:
    """One English caption per portrait that states every factor, in a fixed order."""
    return [caption(WORLD.names(portraits, i)) for i in range(len(portraits))]


def caption(p: dict[str, str]) -> str:
    """The caption of a portrait with these classes."""
    hair = f"{p['hair_length']} {p['hair_colour']} hair" + (
        " and a bald head" if p["bald"] == "present" else ""
    )
    extras = [
        word
        for factor, word in (
            ("mustache", "a mustache"),
            ("beard", "a beard"),
            ("lipstick", "red lipstick"),
            ("earrings", "earrings"),
            ("glasses", "glasses"),
            ("wrinkles", "wrinkles"),
            ("smile", "a smile"),
        )
        if p[factor] == "present"
    ]
    pose = {
        ("absent", "absent"): "facing forward",
        ("present", "absent"): "turned to the side",
        ("absent", "present"): "looking down",
        ("present", "present"): "turned to the side and looking down",
    }
    return (
        f"a portrait of {_PERSON[p['age'], p['gender']]} with {p['tone']} skin, a {p['head_width']} head, {hair}"
        + "".join(f", {e}" for e in extras)
        + f", {pose[p['side_pose'], p['head_down']]}, wearing {p['clothing']}, on the {p['position']}, "
        + f"{p['background']} background"
    )
