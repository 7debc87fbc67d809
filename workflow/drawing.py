"""Figure 1, the method as a drawing with the study's own images:

    python -m workflow.drawing

It opens the portraits, and writes book/_static/method.svg. What it shows of a feature, and the
shares beside the edited images, are measured while it is drawn. `make reference` draws it anew.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor

import difflens_utils as dl
from difflens_utils import ksae
from difflens_utils.features import BiasFeatures, deciding_steps
from difflens_utils.outcome import Outcome
from difflens_utils.pages import figures
from difflens_utils.study import Study

TARGET = Path(__file__).resolve().parents[1] / "book/_static/method.svg"
WIDTH, HEIGHT, GAP = 265, 352, 14  # of a panel, and between two
SIDE, ROW, TOP, TEXT = 66, 112, 56, 302  # images and their rows; where these and the words begin
BAR = 206
ATTRIBUTE, CLASS = "gender", "male"
SHOWN, EXAMPLES = 2, 3  # features, and images of each
STRENGTHS = (0.0, 2.0)
FACES, COUNTED = 3, 132  # images of each strength that are shown, and that are counted
Bytes = NDArray[np.uint8]
STYLE = """
    text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1c2530; }
    .panel { fill: #fcfbf8; stroke: #d8d3c8; }
    .title { font-size: 16px; font-weight: 650; }
    .note { font-size: 12px; fill: #3d4a5c; }
    .small { font-size: 11px; fill: #3d4a5c; }
    .mid { text-anchor: middle; }
    .end { text-anchor: end; }
    .net { fill: #e3eef7; stroke: #2f6690; stroke-width: 1.4; }
    .h { fill: #d9822b; stroke: #8f5315; stroke-width: 1.4; }
    .line { fill: none; stroke: #3d4a5c; stroke-width: 1.5; marker-end: url(#tip); }
    .skip { fill: none; stroke: #8a8a8a; stroke-width: 1.3; stroke-dasharray: 4 3; }
    .cell { fill: none; stroke: #ffffff; stroke-width: 0.8; stroke-opacity: 0.75; }
    .place { fill: none; stroke: #d9822b; stroke-width: 3; }
    image { image-rendering: pixelated; }
"""
WORDS = (
    "Four panels. One: the network turns noise into a portrait; its narrow middle gives h, a "
    "vector at each of sixteen places. Two: a sparse autoencoder writes such a vector with "
    "{active} of {latents} latents. Three: the features that speak most for {name}, each with the "
    "images in which it is most active. Four: the same portraits with these features turned up, "
    "and the share of each class."
)


class Feature(NamedTuple):
    """A latent that speaks for a class."""

    score: float  # attribution to the class
    images: Bytes  # (n, H, W, 3) where it is most active, with its place in colour


# --------------------------------------------------------------------------------------------------
# What is shown


def code_of(study: Study, found: BiasFeatures, row: int, place: int) -> tuple[Tensor, Tensor]:
    """A vector of h (d,) and its latents (D,): of one image at one place, at a deciding step."""
    step = deciding_steps(study.settings.steps)[0]
    vectors = ksae.map_to_vectors(study.recording("learn").at(step, slice(row, row + 1)))
    return vectors[0, place], found.ksae.latents(vectors)[0, place]


def strongest(study: Study, found: BiasFeatures, target: int) -> list[Feature]:
    """The features with the largest attribution to a class."""
    recording, step = study.recording("learn"), deciding_steps(study.settings.steps)[0]
    latents = found.features[ATTRIBUTE][target]
    scores = found.scores[ATTRIBUTE][target][latents]
    best = scores.topk(SHOWN)
    active = found.ksae.latents(ksae.map_to_vectors(recording.at(step)))[..., latents[best.indices]]
    made = []
    for score, where in zip(best.values.tolist(), active.unbind(-1), strict=True):
        rows = where.mean(1).topk(EXAMPLES).indices
        tiles = figures.pixels(recording.images[rows], scale=2)
        made.append(Feature(score, _lit(tiles, figures.grid(where[rows]).numpy())))
    return made


def _lit(tiles: Bytes, where: NDArray[Any]) -> Bytes:
    """Pictures (n, H, W, 3) that fade where a map (n, h, w) is low."""
    times = tiles.shape[1] // where.shape[1]
    light = np.kron(where / (where.max() or 1.0), np.ones((1, times, times)))[..., None]
    seen = 0.28 + 0.72 * np.sqrt(light)
    return (seen * tiles + (1 - seen) * 245).astype(np.uint8)


def turned(study: Study, found: BiasFeatures, target: int) -> dict[float, Outcome]:
    """The same seeds at every strength."""
    method = dl.methods.difflens(found, ATTRIBUTE)
    edits = {beta: method.towards(target, beta) if beta else None for beta in STRENGTHS}
    seed = study.seeds.curve
    return {beta: study.draw(edit, n=COUNTED, seed=seed) for beta, edit in edits.items()}


# --------------------------------------------------------------------------------------------------
# How it is drawn


def picture(pixels: Bytes, x: float, y: float, width: float, height: float | None = None) -> str:
    """An image (H, W, 3) inside the drawing."""
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height or width:g}" '
        f'preserveAspectRatio="none" href="{figures.data_url(pixels)}"/>'
    )


def text(x: float, y: float, words: str, style: str = "note") -> str:
    """One line of words."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>'


def lines(words: Sequence[str]) -> Iterator[str]:
    """The words at the foot of a panel."""
    for i, line in enumerate(words):
        yield text(16, TEXT + 17 * i, line)


def shape(kind: str, style: str, **values: float | str) -> str:
    """An element of SVG."""
    named = " ".join(f'{name}="{value}"' for name, value in values.items())
    return f'<{kind} class="{style}" {named}/>'


def arrow(*points: tuple[float, float]) -> str:
    """A line through points, with a tip."""
    return shape("path", "line", d="M" + " L".join(f"{x:g} {y:g}" for x, y in points))


def panel(number: int, title: str, parts: Iterable[str]) -> str:
    """A panel with its frame and title: two stand side by side, two below."""
    down, right = divmod(number - 1, 2)
    frame = shape("rect", "panel", x=0.5, y=0.5, width=WIDTH - 1, height=HEIGHT - 1, rx=10)
    inside = [frame, text(16, 32, f"{number}  {title}", "title"), *parts]
    place = f"translate({right * (WIDTH + GAP)} {down * (HEIGHT + GAP)})"
    return "\n".join([f'<g transform="{place}">', *inside, "</g>"])


def row(number: int, tiles: Bytes, filled: float, label: str) -> Iterator[str]:
    """A row of images over a bar that is filled to a share, and what it says."""
    y = TOP + ROW * number
    for j, tile in enumerate(tiles):
        yield picture(tile, 16 + 70 * j, y, SIDE)
    bar = {"x": 16, "y": y + SIDE + 8, "height": 9}
    yield shape("rect", "net", **bar, width=BAR)
    yield shape("rect", "h", **bar, width=f"{BAR * filled:.0f}")
    yield text(16, y + SIDE + 30, label, "small")


def opened(face: Tensor, noise: Tensor, width: int, side: int, place: int) -> Iterator[str]:
    """The network, and h beneath an image."""
    noisy, clean = figures.pixels(torch.stack([noise, face]), scale=2)
    yield picture(noisy, 12, 76, 54)
    yield picture(clean, 199, 76, 54)
    yield shape("path", "skip", d="M87 68 C102 52 162 52 177 68")
    yield text(132, 51, "skips (most are closed here)", "small mid")
    yield shape("path", "net", d="M80 68 L119 90 L119 118 L80 140 Z")
    yield shape("path", "net", d="M184 68 L145 90 L145 118 L184 140 Z")
    yield shape("rect", "h", x=119, y=90, width=26, height=28)
    yield text(132, 109, "h", "title mid")
    yield arrow((67, 104), (78, 104))
    yield arrow((184, 104), (196, 104))
    yield text(39, 144, "noise", "small mid")
    yield text(226, 144, "image", "small mid")
    left, top, wide = 76, 164, 112
    yield picture(clean, left, top, wide)
    cell = wide / side
    for i in range(1, side):
        yield shape("path", "cell", d=f"M{left + i * cell:g} {top} v{wide}")
        yield shape("path", "cell", d=f"M{left} {top + i * cell:g} h{wide}")
    row, column = divmod(place, side)
    x, y = left + column * cell, top + row * cell
    yield shape("rect", "place", x=x, y=y, width=cell, height=cell)
    yield shape("path", "skip", d=f"M132 119 L{x + cell / 2:g} {y:g}")
    words = [
        f"h has a vector of {width} numbers at each",
        f"of {side} × {side} places, anew at every step.",
    ]
    yield from lines(words)


def split(vector: Tensor, code: Tensor) -> Iterator[str]:
    """A vector of h, and its latents."""
    high = float(vector.abs().max())
    dense = matplotlib.colormaps["PuOr_r"]((vector / high).numpy() / 2 + 0.5)[..., :3] * 255
    yield picture(dense.astype(np.uint8)[:, None], 26, 62, 26, 216)
    side, dot = 32, 6  # latents in a row, pixels of each, of which the last is white
    sheet = np.zeros(side * -(-len(code) // side))
    sheet[: len(code)] = np.sqrt((code / code.max()).numpy())
    orange = np.array(to_rgb(figures.ORANGE)) * 255
    lit = orange * sheet[:, None] + 236 * (1 - sheet[:, None])
    cells = np.kron(lit.astype(np.uint8).reshape(-1, side, 3), np.ones((dot, dot, 1), np.uint8))
    cells[dot - 1 :: dot] = cells[:, dot - 1 :: dot] = 255
    yield picture(cells, 92, 90, 160, 160 * len(cells) / (dot * side))
    yield arrow((56, 170), (87, 170))
    yield text(71, 160, "k-SAE", "small mid")
    yield text(16, 54, f"{len(vector)} numbers", "small")
    yield text(172, 82, f"{len(code):,} latents", "small mid")
    active = int((code > 0).sum())
    words = [
        f"A sparse autoencoder writes it with {active}",
        f"of {len(code):,} latents: fewer things in each.",
    ]
    yield from lines(words)


def ranked(features: Sequence[Feature]) -> Iterator[str]:
    """The features of a class, where they are active and how much they speak for it."""
    most = features[0].score
    for i, feature in enumerate(features):
        said = f"feature {i + 1} speaks for {CLASS}"
        yield from row(i, feature.images, feature.score / most, said)
    words = [
        "If a latent rose, would the picture be",
        f"read as {CLASS}? Each is also tried alone.",
    ]
    yield from lines(words)


def steered(sets: dict[float, Outcome], classes: Sequence[str]) -> Iterator[str]:
    """The same seeds as the features are turned up, and the shares of all that were counted."""
    for i, (beta, outcome) in enumerate(sets.items()):
        share = outcome.share(ATTRIBUTE, classes.index(CLASS)).value
        label = "unedited" if not beta else f"strength {beta:g}"
        tiles = figures.pixels(outcome.images[:FACES], scale=2)
        yield from row(i, tiles, share, f"{label}: {share:.0%} {CLASS}")
    words = [
        "Each image draws its strength, so that",
        "the shares become those asked for.",
    ]
    yield from lines(words)


def draw(study: Study) -> str:
    """The drawing, as SVG."""
    found = study.features()
    classes = study.attribute(ATTRIBUTE).classes
    target = classes.index(CLASS)
    recording = study.recording("learn")
    side = figures.grid(torch.zeros(recording.h[0, 0].size // recording.width)).shape[-1]
    shown, place = 0, side + 1
    vector, code = code_of(study, found, shown, place)
    generator = torch.Generator().manual_seed(study.seeds.main)
    noise = torch.randn(study.subject.shape, generator=generator) / 2
    words = WORDS.format(active=study.settings.k, latents=f"{len(code):,}", name=CLASS)
    wide, high = 2 * WIDTH + GAP, 2 * HEIGHT + GAP
    face = recording.images[shown].float()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" '
        f'height="{high}" role="img" aria-labelledby="title words">',
        '<title id="title">The method</title>',
        f'<desc id="words">{html.escape(words)}</desc>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#3d4a5c"/>'
        "</marker></defs>",
        panel(1, "Open the model", opened(face, noise, recording.width, side, place)),
        panel(2, "Split h into latents", split(vector, code)),
        panel(3, "Find what decides", ranked(strongest(study, found, target))),
        panel(4, "Turn it", steered(turned(study, found, target), classes)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    TARGET.write_text(draw(dl.open("portraits")), encoding="utf-8")


if __name__ == "__main__":
    main()
