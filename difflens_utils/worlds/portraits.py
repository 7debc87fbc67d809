"""A procedural world of portraits in which every factor, and every bias, is planted.

No one knows the true features inside a model of photographs. Here they are known: a portrait is
drawn from a small causal model, rendered by anti-aliased distance functions, and captioned. The
marginals of the three social attributes are chosen so that a perfect model of this world has the
Fairness Discrepancy of the unedited model in Table 1 of DiffLens: gender 0.28, age 0.59, tone 0.72
(the paper's race).

`tone` is a rendering factor of a cartoon. It stands in for the statistics of a four-class attribute
and makes no claim about people. Neither do the other factors and the probabilities given to them.

>>> from difflens_utils.worlds import portraits
>>> portraits.WORLD.marginal("gender")  # female, male
tensor([0.7000, 0.3000], dtype=torch.float64)
>>> old_men = portraits.WORLD.sample(2, do={"gender": "male", "age": "old"})
>>> portraits.captions(old_men)[0].split(" with ")[0]
'a portrait of an old man'
>>> portraits.WORLD.render(old_men, size=64).shape
torch.Size([2, 3, 64, 64])
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import Factor, Scenes, World, binary, categorical, root

# ------------------------------------------------------------------------------------------------
# The causal model, each factor behind its parents

GENDER = root("gender", female=0.70, male=0.30)
AGE = root("age", young=0.10, adult=0.815, old=0.085)
TONE = root("tone", light=0.87, tan=0.05, brown=0.05, dark=0.03)
ATTRIBUTES = ("gender", "age", "tone")  # the social attributes; all others are factors too

_HAIR_LENGTH = {
    "female old": (0.40, 0.45, 0.15),
    "female *": (0.08, 0.22, 0.70),
    "male *": (0.86, 0.11, 0.03),
}
_HAIR_COLOUR = {
    "old *": (0.08, 0.07, 0.05, 0.80),
    "* light": (0.22, 0.40, 0.36, 0.02),
    "* tan": (0.70, 0.24, 0.04, 0.02),
    "* *": (0.84, 0.12, 0.02, 0.02),
}
_HEAD_WIDTH = {"female": (0.75, 0.25), "male": (0.25, 0.75)}
_MUSTACHE = {"female *": 0.0, "male young": 0.04, "male adult": 0.32, "male old": 0.45}
_BEARD = {"female *": 0.0, "male young": 0.02, "male adult": 0.30, "male old": 0.35}
_GLASSES = {"* old": 0.60, "male young": 0.08, "male adult": 0.22, "* *": 0.07}

FEATURES = (
    categorical("hair_length", "short medium long", "gender age", _HAIR_LENGTH),
    binary("bald", "gender age", {"male old": 0.45, "male adult": 0.12, "* *": 0.0}),
    categorical("hair_colour", "black brown blond grey", "age tone", _HAIR_COLOUR),
    binary("mustache", "gender age", _MUSTACHE),
    binary("beard", "gender age", _BEARD),
    binary("lipstick", "gender age", {"male *": 0.01, "female young": 0.15, "female *": 0.60}),
    binary("earrings", "gender age", {"male *": 0.03, "female young": 0.20, "female *": 0.50}),
    binary("glasses", "gender age", _GLASSES),
    binary("smile", "gender age", {"* young": 0.65, "female *": 0.55, "male *": 0.35}),
    binary("wrinkles", "age", {"old": 0.90, "adult": 0.06, "young": 0.0}),
    binary("side_pose", "gender", {"female": 0.25, "male": 0.10}),
    binary("head_down", "gender", {"female": 0.08, "male": 0.22}),
    categorical("head_width", "narrow wide", "gender", _HEAD_WIDTH),
    root("position", left=0.25, centre=0.50, right=0.25),
    root("background", blue=0.30, green=0.25, sand=0.25, violet=0.20),
    root("clothing", white=0.25, red=0.25, navy=0.25, olive=0.25),
)

# ------------------------------------------------------------------------------------------------
# Shapes. x grows to the right and y downwards; the image spans [-1, 1] in both.

Number = Tensor | float
Point = tuple[Number, Number]


@dataclass(frozen=True)
class Shape:
    """A region, by the signed distance of every pixel (B, H, W), negative inside.

    `a | b`, `a & b` and `a - b` are union, intersection and difference.
    """

    distance: Tensor

    def __or__(self, other: Shape) -> Shape:
        return Shape(torch.minimum(self.distance, other.distance))

    def __and__(self, other: Shape) -> Shape:
        return Shape(torch.maximum(self.distance, other.distance))

    def __sub__(self, other: Shape) -> Shape:
        return Shape(torch.maximum(self.distance, -other.distance))

    def grown(self, by: Number) -> Shape:
        """Returns the shape with its edge moved outwards."""
        return Shape(self.distance - by)

    def outline(self, half_width: float) -> Shape:
        """Returns a band along the edge."""
        return Shape(self.distance.abs() - half_width)


@dataclass(frozen=True)
class Frame:
    """Where every pixel lies, as seen from an origin: x and y, broadcast to (B, H, W)."""

    x: Tensor
    y: Tensor

    def at(self, x: Number = 0.0, y: Number = 0.0) -> Frame:
        """Returns the frame whose origin is the point (x, y) of this one."""
        return Frame(self.x - x, self.y - y)

    def mirrored(self) -> Frame:
        """Returns the frame in which what is drawn on the right is drawn on the left, too."""
        return Frame(self.x.abs(), self.y)

    def column(self, half_width: Number) -> Shape:
        """Returns what is at most so far to the left or right of the origin."""
        return Shape(self.x.abs() - half_width)

    def row(self, half_height: Number) -> Shape:
        """Returns what is at most so far above or below the origin."""
        return Shape(self.y.abs() - half_height)

    def box(self, half_width: Number, half_height: Number) -> Shape:
        """Returns a rectangle around the origin."""
        return self.column(half_width) & self.row(half_height)

    def above(self, y: Number) -> Shape:
        """Returns everything above a horizontal line."""
        return Shape(self.y - y)

    def below(self, y: Number) -> Shape:
        """Returns everything below a horizontal line."""
        return Shape(y - self.y)

    def ellipse(self, a: Number, b: Number, power: Number | None = None) -> Shape:
        """Returns an ellipse with half axes a and b around the origin.

        With a `power` it is a superellipse |x / a|^p + |y / b|^p = 1, squarer the larger p is. The
        distance is of first order.
        """
        x, y = self.x / a, self.y / b
        if power is None:
            radius = (x**2 + y**2).sqrt()
        else:
            p = torch.as_tensor(power)
            radius = (x.abs().clamp_min(1e-4) ** p + y.abs().clamp_min(1e-4) ** p) ** (1 / p)
        return Shape((radius - 1) * torch.minimum(torch.as_tensor(a), torch.as_tensor(b)))

    def line(self, start: Point, end: Point, width: Number) -> Shape:
        """Returns a thick line with round ends."""
        x = self.x - start[0]
        y = self.y - start[1]
        dx = end[0] - start[0]
        dy = end[1] - start[1]
        share = ((x * dx + y * dy) / (dx * dx + dy * dy)).clamp(0, 1)  # of the way to the end
        distance = ((x - share * dx) ** 2 + (y - share * dy) ** 2).sqrt()
        return Shape(distance - width / 2)


class Canvas:
    """Images under construction, (B, 3, size, size) in [0, 1]: shapes are laid over each other."""

    def __init__(self, batch: int, size: int) -> None:
        edge = (torch.arange(size) + 0.5) / size * 2 - 1
        y, x = torch.meshgrid(edge, edge, indexing="ij")
        self.frame = Frame(x, y)
        self.pixel = 2 / size
        self.image = torch.zeros(batch, 3, size, size)

    def paint(self, shape: Shape, colour: Tensor, opacity: Number = 1.0) -> None:
        """Lays `colour` (B, 3) or (3,) over a shape, anti-aliased in closed form."""
        covered = (0.5 - shape.distance / self.pixel).clamp(0, 1)  # the share of each pixel
        alpha = (covered * opacity).unsqueeze(1).expand_as(self.image)
        self.image.lerp_(colour.reshape(-1, 3, 1, 1).expand_as(self.image), alpha)


def rgb(colours: str) -> Tensor:
    """Returns colours in hexadecimal digits, such as "fadac0 dba876", as (colours, 3) in [0, 1]."""
    levels = [list(bytes.fromhex(colour)) for colour in colours.split()]
    return torch.tensor(levels, dtype=torch.float32) / 255


# ------------------------------------------------------------------------------------------------
# Faces

_SKIN = rgb("fadac0 dba876 a0683e 543426")
_HAIR = rgb("1a161a 744422 e8c45c c4c6cc")
_WALL = rgb("78ace2 80c084 e0ca9e b694d4")
_CLOTH = rgb("f2f2f2 c42e34 24326e 68742c")
INK = rgb("181418")[0]
_PAPER = torch.tensor([1.0, 1.0, 1.0])
_EYE = torch.tensor([0.97, 0.97, 0.97])
_GLASS = torch.tensor([0.86, 0.93, 1.0])
_GOLD = torch.tensor([1.0, 0.82, 0.10])
_LIPSTICK_RED = torch.tensor([0.80, 0.06, 0.20])
_LIP_TINT = torch.tensor([0.74, 0.50, 0.50])  # of the skin
_WARM = torch.tensor([1.0, 0.9, 0.8])  # how far a nuisance moves red, green and blue

# Of short, medium and long hair: where the curtain beside the face ends, and how much wider than
# the head it is.
_HAIR_BOTTOM = torch.tensor([-0.02, 0.36, 0.74])
_HAIR_EXTRA = torch.tensor([0.055, 0.145, 0.145])

EYE_Y = -0.02  # of the eyes in the frame of the features


class Face:
    """What a batch of people looks like, and where things are on each face.

    Classes, nuisances and measures are (B, 1, 1), colours (B, 3). `head` is the frame of the head;
    `features` is that of eyes, nose and mouth, which slide over the head as it turns or nods.
    """

    def __init__(self, scenes: Scenes, page: Frame) -> None:
        columns = scenes.nuisance.T.reshape(len(PortraitWorld.nuisances), -1, 1, 1)
        self.nuisance = dict(zip(PortraitWorld.nuisances, columns, strict=True))
        self.label = {name: row.reshape(-1, 1, 1) for name, row in scenes.labels.items()}
        self.male = self.label["gender"].float()
        self.young = (self.label["age"] == 0).float()
        self.old = (self.label["age"] == 2).float()
        self.down = self.present("head_down")
        self.skin = self._colour(_SKIN, "tone", "skin", 0.06)
        self.hair = self._colour(_HAIR, "hair_colour", "hair", 0.12)
        self.wall = self._colour(_WALL, "background", "wall", 0.10)
        self.cloth = self._colour(_CLOTH, "clothing", "cloth", 0.08)
        yaw = self.nuisance["yaw"]
        direction = torch.where(yaw >= 0, 1.0, -1.0) * self.present("side_pose")
        # From -1 (to the left) over 0 (in front) to 1 (to the right)
        self.turn = direction * (0.8 + 0.2 * yaw.abs())
        self.scale = (1 + 0.03 * self.nuisance["scale"]) * (1 - 0.17 * self.young)
        self._place_head(page)
        self._place_features()

    def present(self, factor: str) -> Tensor:
        """Returns 1 for the second of the two classes of a factor, and 0 for the first."""
        return self.label[factor].float()

    def _colour(self, palette: Tensor, factor: str, nuisance: str, spread: float) -> Tensor:
        """Returns the colour of each class, varied within the class."""
        base = palette[self.label[factor].flatten()]
        shift: Tensor = spread * self.nuisance[nuisance].reshape(-1, 1) * _WARM
        return (base * (1 + shift)).clamp(0, 1)

    def _place_head(self, page: Frame) -> None:
        wide = self.present("head_width")
        self.half_width = (0.345 + 0.085 * wide + 0.03 * self.young) * self.scale
        self.half_height = (0.52 - 0.05 * self.young) * self.scale
        x = (self.label["position"].float() - 1) * 0.2 + 0.025 * self.nuisance["x"]
        y = -0.10 + 0.03 * self.nuisance["y"] + 0.12 * self.young + 0.03 * self.down
        self.head = page.at(x, y)
        # The lower half tapers towards the chin.
        chin = 1 - 0.32 * (1 - self.male) * (1 - 0.6 * self.young)
        lower = (self.head.y / self.half_height).clamp(0, 1)
        tapered = Frame(self.head.x / (1 - (1 - chin) * lower**2), self.head.y)
        jaw = 2.0 + 0.9 * self.male
        self.skull = tapered.ellipse(self.half_width, self.half_height, jaw * 0.3 + 1.5)

    def _place_features(self) -> None:
        right = self.turn * 0.36 * self.half_width
        nod = self.down * 0.24 * self.half_height
        self.features = self.head.at(right, nod).at(y=0.05 * self.young)
        self.eye_x = self.half_width * 0.47 * (1 - 0.18 * self.present("side_pose"))
        self.mouth_y = 0.56 * self.half_height - 0.03 * self.down
        # Both eyes and both brows are drawn at once.
        self.eyes = self.features.mirrored().at(self.eye_x, EYE_Y)

    @property
    def neck(self) -> Tensor:
        """Half the width of the neck."""
        return (0.16 + 0.06 * self.male) * (1 - 0.10 * self.young)

    @property
    def body(self) -> Shape:
        """The shoulders and the chest."""
        shoulder = (0.56 + 0.26 * self.male) * (1 - 0.14 * self.young)
        chest = self.head.at(y=1.27).at(y=-0.16 * self.young)
        return chest.ellipse(shoulder, 0.60 - 0.05 * self.young, 2.4)

    @property
    def collar(self) -> Shape:
        """The bare part of the neck."""
        throat = self.head.at(y=0.68).at(y=-0.16 * self.young)
        return throat.ellipse(self.neck * 1.15, 0.13)

    @property
    def trunk(self) -> Shape:
        """The body without the bare part of the neck: where clothes are."""
        return self.body - self.collar

    @property
    def hair_left(self) -> Shape:
        """Where hair grows: everywhere, or on a bald head below the temples."""
        temples = self.head.below(-0.14).distance
        return Shape(torch.where(self.label["bald"] > 0, temples, -9.0))


# ------------------------------------------------------------------------------------------------
# Layers, from the back to the front

Layer = Callable[[Canvas, Face], None]


def draw_wall(canvas: Canvas, face: Face) -> None:
    """A soft light comes from above and from one side."""
    light = face.nuisance["light"]
    shade = 1 - 0.10 * canvas.frame.y - 0.06 * light * canvas.frame.x
    wall = face.wall.reshape(-1, 3, 1, 1)
    canvas.image[:] = (wall * shade.unsqueeze(1)).clamp(0, 1)


def draw_hair_behind(canvas: Canvas, face: Face) -> None:
    length = face.label["hair_length"]
    bottom = _HAIR_BOTTOM[length]
    half_width = face.half_width + _HAIR_EXTRA[length]
    crown = face.head.at(y=-0.05).ellipse(half_width, face.half_height + 0.10)
    top = crown & face.head.above(0.02)
    middle = face.head.at(y=(bottom - 0.30) / 2)
    curtain = middle.ellipse(half_width, (bottom + 0.30) / 2 + 0.05, 4.0)
    canvas.paint((top | curtain) & face.hair_left, face.hair * 0.86)


def draw_body(canvas: Canvas, face: Face) -> None:
    shaded_skin = face.skin * 0.84
    neck = face.head.at(y=0.86).box(face.neck, 0.5)
    canvas.paint(neck, shaded_skin)
    canvas.paint(face.body, face.cloth)
    canvas.paint(face.collar, shaded_skin)


def draw_head(canvas: Canvas, face: Face) -> None:
    side = face.head.mirrored().at(face.half_width, 0.05)
    ears = side.ellipse(0.07, 0.11)
    canvas.paint(ears, face.skin * 0.9)
    canvas.paint(face.skull, face.skin)
    slope = 0.8 * face.nuisance["light"] - 1.2 * face.turn
    across = (face.head.x * slope / face.half_width).clamp(-1, 1)
    canvas.paint(face.skull, face.skin * 0.55, opacity=(across * 0.5 + 0.5) * 0.20)


def draw_beard(canvas: Canvas, face: Face) -> None:
    across = (face.features.x / face.half_width).abs().clamp(0, 1)
    line = face.features.below(0.33 * face.half_height)
    cheeks = line.grown(-0.10 * (1 - across))
    around_mouth = face.features.at(y=face.mouth_y).ellipse(0.19, 0.075)
    beard = (face.skull & cheeks) - around_mouth
    canvas.paint(beard, face.hair * 0.70, face.present("beard"))


def draw_eyes(canvas: Canvas, face: Face) -> None:
    size = face.scale * (1 + 0.50 * face.young - 0.12 * face.old)
    open_lid = 1 - 0.45 * face.down
    white = face.eyes.ellipse(0.098 * size, 0.070 * size * open_lid)
    canvas.paint(white, _EYE)
    gaze = face.features.at(0.02 * face.nuisance["gaze"])
    iris = gaze.mirrored().at(face.eye_x, EYE_Y)
    canvas.paint(iris.ellipse(0.048 * size, 0.062 * size * open_lid), INK)


def draw_brows(canvas: Canvas, face: Face) -> None:
    height = (0.150 + 0.03 * face.young) * face.scale
    forehead = face.features.mirrored().at(y=EYE_Y).at(y=-height)
    inner = (face.eye_x - 0.10, 0.01)
    outer = (face.eye_x + 0.10, 0.01 - 0.035 * (1 - face.male))
    brows = forehead.line(inner, outer, 0.040 + 0.045 * face.male)
    is_old = face.old.reshape(-1, 1) > 0
    canvas.paint(brows, torch.where(is_old, face.hair * 0.9, face.hair * 0.6))


def draw_nose(canvas: Canvas, face: Face) -> None:
    bridge = face.features.at(0.05 * face.turn)
    tip = (0.03 * face.turn, 0.27 * face.half_height)
    canvas.paint(bridge.line((0.0, 0.04), tip, 0.055), face.skin * 0.78)


def draw_age_lines(canvas: Canvas, face: Face) -> None:
    both = face.features.mirrored()
    forehead = face.features.at(y=-0.245).line((-0.17, 0.0), (0.17, 0.0), 0.055)
    eye_corner = both.at(face.eye_x + 0.095, EYE_Y)
    rising = eye_corner.line((0.0, -0.03), (0.10, -0.08), 0.04)
    falling = eye_corner.line((0.0, 0.05), (0.10, 0.10), 0.04)
    wrinkles = (forehead | rising | falling) & face.skull
    canvas.paint(wrinkles, face.skin * 0.50, face.present("wrinkles"))
    nostril = (0.10, 0.26 * face.half_height)
    mouth_corner = (0.235, face.mouth_y + 0.03)
    folds = both.line(nostril, mouth_corner, 0.05)
    bags = face.eyes.at(y=0.115).line((-0.07, 0.0), (0.07, 0.0), 0.04)
    canvas.paint(folds | bags, face.skin * 0.60, face.old * 0.9)


def draw_mouth(canvas: Canvas, face: Face) -> None:
    smile = face.present("smile")
    lipstick = face.present("lipstick")
    width = 0.135 + 0.045 * smile + 0.012 * face.nuisance["mouth"]
    half_width = width * (1 - 0.12 * face.young)
    mouth = face.features.at(y=face.mouth_y)
    bend = ((mouth.x / half_width) ** 2).clamp(0, 1.4)
    bent = mouth.at(y=(0.02 - 0.075 * smile) * bend)  # a smile lifts the corners
    lips = bent.ellipse(half_width, 0.036 + 0.030 * lipstick + 0.022 * smile)
    colour = torch.where(lipstick.reshape(-1, 1) > 0, _LIPSTICK_RED, face.skin * _LIP_TINT)
    canvas.paint(lips, colour)
    teeth = bent.at(y=-0.002).ellipse(half_width * 0.72, 0.030)
    canvas.paint(teeth, _PAPER, smile)


def draw_mustache(canvas: Canvas, face: Face) -> None:
    lip = face.features.at(y=face.mouth_y).at(y=-0.105)
    canvas.paint(lip.ellipse(0.185, 0.062), face.hair * 0.60, face.present("mustache"))


def draw_fringe(canvas: Canvas, face: Face) -> None:
    height = 0.62 - 0.20 * face.down + 0.04 * face.nuisance["fringe"]
    hairline = -height * face.half_height + 0.02 * face.young
    parting = hairline + 0.12 * (face.features.x / face.half_width).abs()
    crown = face.head.at(y=-0.02).ellipse(face.half_width + 0.05, face.half_height + 0.05)
    canvas.paint(crown & face.head.above(parting), face.hair, 1 - face.present("bald"))


def draw_strands(canvas: Canvas, face: Face) -> None:
    """Medium and long hair falls over the sides of the face."""
    around = face.head.at(y=0.12).ellipse(face.half_width + 0.06, face.half_height * 0.95)
    strands = around - face.head.column(face.half_width * 0.90)
    falls = (face.label["hair_length"] > 0).float()
    canvas.paint(strands & face.hair_left, face.hair * 0.93, falls)


def draw_glasses(canvas: Canvas, face: Face) -> None:
    worn = face.present("glasses")
    lenses = face.eyes.ellipse(0.150, 0.125, 2.6)
    canvas.paint(lenses, _GLASS, worn * 0.35)
    level = face.features.at(y=EYE_Y)
    bridge = level.line((-0.05, -0.01), (0.05, -0.01), 0.05)
    beside_eyes = level.at(y=-0.02).row(0.026) - face.features.column(face.eye_x + 0.13)
    arms = beside_eyes & face.head.column(face.half_width)
    canvas.paint(lenses.outline(0.028) | bridge | arms, INK, worn)


def draw_earrings(canvas: Canvas, face: Face) -> None:
    lobe = face.head.mirrored().at(face.half_width, 0.25).at(0.035)
    canvas.paint(lobe.ellipse(0.066, 0.088), _GOLD, face.present("earrings"))


_BODY = (draw_wall, draw_hair_behind, draw_body)
_FACE = (draw_head, draw_beard, draw_eyes, draw_brows, draw_nose, draw_age_lines, draw_mouth)
_FRONT = (draw_mustache, draw_fringe, draw_strands, draw_glasses, draw_earrings)


def draw(
    scenes: Scenes, size: int, uniform: Iterable[Layer] = (), headgear: Iterable[Layer] = ()
) -> Tensor:
    """Returns RGB images (B, 3, size, size) float32 in [-1, 1].

    A uniform lies over the body, headgear over everything. Raises ValueError for a size under 16,
    where factors can no longer be seen.
    """
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")
    canvas = Canvas(len(scenes), size)
    face = Face(scenes, canvas.frame)
    for layer in (*_BODY, *uniform, *_FACE, *_FRONT, *headgear):
        layer(canvas, face)
    return canvas.image.clamp(0, 1) * 2 - 1


class PortraitWorld(World):
    """Portraits without occupations."""

    model: tuple[Factor, ...] = (GENDER, AGE, TONE, *FEATURES)
    attributes = ATTRIBUTES
    # What each does is in `Face` and the layers.
    nuisances = tuple("x y scale light skin hair wall cloth yaw gaze mouth fringe".split())
    # What notebooks 06 and 08 aim at
    singles = {"side_pose": "present", "hair_length": "short", "smile": "present"}
    wanted = {"age": [0.3, 0.4, 0.3], "tone": [0.4, 0.3, 0.2, 0.1]}

    def render(self, scenes: Scenes, size: int = 32) -> Tensor:
        return draw(scenes, size)


WORLD = PortraitWorld()


# ------------------------------------------------------------------------------------------------
# Captions

_PERSON = {
    ("young", "female"): "a girl",
    ("young", "male"): "a boy",
    ("adult", "female"): "a woman",
    ("adult", "male"): "a man",
    ("old", "female"): "an old woman",
    ("old", "male"): "an old man",
}
_EXTRAS = {
    "bald": " and a bald head",
    "mustache": ", a mustache",
    "beard": ", a beard",
    "lipstick": ", red lipstick",
    "earrings": ", earrings",
    "glasses": ", glasses",
    "wrinkles": ", wrinkles",
    "smile": ", a smile",
}
_POSE = {  # side_pose, head_down
    ("absent", "absent"): "facing forward",
    ("present", "absent"): "turned to the side",
    ("absent", "present"): "looking down",
    ("present", "present"): "turned to the side and looking down",
}
_CAPTION = (
    "a portrait of {person} with {tone} skin, a {head_width} head, {hair_length} {hair_colour} hair"
    "{extras}, {pose}, wearing {clothing}, on the {position}, {background} background"
)


def captions(scenes: Scenes) -> list[str]:
    """Returns one English caption per portrait that states every factor, in a fixed order."""
    return [caption(WORLD.names(scenes, i)) for i in range(len(scenes))]


def caption(classes: dict[str, str]) -> str:
    """Returns the caption of a portrait with these classes {factor: class}."""
    person = _PERSON[classes["age"], classes["gender"]]
    pose = _POSE[classes["side_pose"], classes["head_down"]]
    present = [words for factor, words in _EXTRAS.items() if classes[factor] == "present"]
    return _CAPTION.format(person=person, pose=pose, extras="".join(present), **classes)
