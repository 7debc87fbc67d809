"""Figure 1, the method as a drawing with the study's own images:

    python -m workflow.drawing

It opens the portraits, and writes book/_static/method.svg. What it shows of a feature, and the
shares beside the edited images, are measured while it is drawn. `make reference` draws it anew.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import difflens_utils as dl
from difflens_utils import ksae
from difflens_utils.features import BiasFeatures, deciding_steps
from difflens_utils.outcome import Outcome
from difflens_utils.pages import figures
from difflens_utils.study import Study

TARGET = Path(__file__).resolve().parents[1] / "book/_static/method.svg"
WIDTH, HEIGHT, PANEL, GAP = 1120, 500, 265, 20
SIDE, ROW, TOP, TEXT = 66, 112, 66, 434  # images and their rows; where these and the words begin
ATTRIBUTE, CLASS = "gender", "male"
SHOWN, EXAMPLES = 3, 3  # features, and images of each
STRENGTHS = (0.0, 1.0, 2.0)
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
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG", optimize=True)
    data = base64.b64encode(held.getvalue()).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height or width:g}" '
        f'preserveAspectRatio="none" href="data:image/png;base64,{data}"/>'
    )


def text(x: float, y: float, words: str, style: str = "note") -> str:
    """One line of words."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>'


def lines(x: float, y: float, words: Sequence[str], style: str = "note") -> Iterator[str]:
    """Lines of words, one below the other."""
    for i, line in enumerate(words):
        yield text(x, y + 17 * i, line, style)


def shape(kind: str, style: str, **values: float | str) -> str:
    """An element of SVG."""
    named = " ".join(f'{name}="{value}"' for name, value in values.items())
    return f'<{kind} class="{style}" {named}/>'


def arrow(*points: tuple[float, float]) -> str:
    """A line through points, with a tip."""
    return shape("path", "line", d="M" + " L".join(f"{x:g} {y:g}" for x, y in points))


def panel(number: int, title: str) -> Iterator[str]:
    """The frame of a panel, and its title."""
    x = left(number)
    yield shape("rect", "panel", x=x + 0.5, y=0.5, width=PANEL - 1, height=HEIGHT - 1, rx=10)
    yield text(x + 16, 32, f"{number}  {title}", "title")


def left(number: int) -> int:
    """Where a panel begins."""
    return (number - 1) * (PANEL + GAP)


def opened(face: Tensor, noise: Tensor, width: int, side: int, place: int) -> Iterator[str]:
    """Panel 1: the network, and h beneath an image."""
    x = left(1)
    yield from panel(1, "Open the model")
    noisy, clean = figures.pixels(torch.stack([noise, face]), scale=2)
    yield picture(noisy, x + 14, 94, 52)
    yield picture(clean, x + 199, 94, 52)
    yield shape("path", "skip", d=f"M{x + 87} 84 C{x + 102} 52 {x + 162} 52 {x + 177} 84")
    yield text(x + 132, 54, "skips (most are closed here)", "small mid")
    yield shape("path", "net", d=f"M{x + 80} 84 L{x + 119} 106 L{x + 119} 134 L{x + 80} 156 Z")
    yield shape("path", "net", d=f"M{x + 184} 84 L{x + 145} 106 L{x + 145} 134 L{x + 184} 156 Z")
    yield shape("rect", "h", x=x + 119, y=106, width=26, height=28)
    yield text(x + 132, 125, "h", "title mid")
    yield arrow((x + 67, 120), (x + 78, 120))
    yield arrow((x + 184, 120), (x + 196, 120))
    yield from lines(x + 40, 166, ["noise"], "small mid")
    yield from lines(x + 225, 166, ["image"], "small mid")
    top, wide = 222, 160
    yield picture(clean, x + 52, top, wide)
    cell = wide / side
    for i in range(1, side):
        for d in (
            f"M{x + 52 + i * cell} {top} v{wide}",
            f"M{x + 52} {top + i * cell} h{wide}",
        ):
            yield shape("path", "cell", d=d)
    row, column = divmod(place, side)
    spot = x + 52 + column * cell, top + row * cell
    yield shape("rect", "place", x=spot[0], y=spot[1], width=cell, height=cell)
    yield shape("path", "skip", d=f"M{x + 132} 135 L{spot[0] + cell / 2} {spot[1]}")
    words = [
        f"h has a vector of {width} numbers at",
        f"each of {side} × {side} places of the image,",
        "anew at every step.",
    ]
    yield from lines(x + 16, TEXT, words)


def split(vector: Tensor, code: Tensor) -> Iterator[str]:
    """Panel 2: a vector of h, and its latents."""
    x = left(2)
    yield from panel(2, "Split h into latents")
    high = float(vector.abs().max())
    dense = matplotlib.colormaps["PuOr_r"]((vector / high).numpy() / 2 + 0.5)[..., :3] * 255
    yield picture(dense.astype(np.uint8)[:, None], x + 26, 80, 26, 320)
    side = 32
    sheet = np.zeros(side * -(-len(code) // side))
    sheet[: len(code)] = np.sqrt((code / code.max()).numpy())
    lit = np.array([0xD9, 0x82, 0x2B]) * sheet[:, None] + 236 * (1 - sheet[:, None])
    cells = lit.astype(np.uint8).reshape(-1, side, 3)
    # a white line between latents
    cells = np.kron(cells, np.ones((6, 6, 1), np.uint8))
    cells[5::6] = cells[:, 5::6] = 255
    yield picture(cells, x + 92, 160, 160, 160 * len(cells) / (6 * side))
    yield arrow((x + 56, 240), (x + 87, 240))
    yield text(x + 71, 230, "k-SAE", "small mid")
    yield text(x + 16, 70, f"{len(vector)} numbers", "small")
    yield text(x + 172, 150, f"{len(code):,} latents", "small mid")
    words = [
        "A sparse autoencoder writes the",
        f"vector with {int((code > 0).sum())} of {len(code):,} latents.",
        "Each stands for fewer things.",
    ]
    yield from lines(x + 16, TEXT, words)


def ranked(features: Sequence[Feature]) -> Iterator[str]:
    """Panel 3: the features of a class, where they are active and how much they speak for it."""
    x = left(3)
    yield from panel(3, "Find what decides")
    most = features[0].score
    for i, feature in enumerate(features):
        y = TOP + ROW * i
        for j, tile in enumerate(feature.images):
            yield picture(tile, x + 16 + 70 * j, y, SIDE)
        wide = 206 * feature.score / most
        yield shape("rect", "h", x=x + 16, y=y + SIDE + 8, width=f"{wide:.0f}", height=9)
        yield text(x + 16, y + SIDE + 30, f"feature {i + 1} speaks for {CLASS}", "small")
    words = [
        "If a latent rose, would the picture",
        f"be read as {CLASS}? Gradients say so,",
        "and each is then tried alone.",
    ]
    yield from lines(x + 16, TEXT, words)


def steered(sets: dict[float, Outcome], classes: Sequence[str]) -> Iterator[str]:
    """Panel 4: the same seeds as the features are turned up, and the shares of all that counted."""
    x = left(4)
    yield from panel(4, "Turn it")
    for i, (beta, outcome) in enumerate(sets.items()):
        y = TOP + ROW * i
        for j, tile in enumerate(figures.pixels(outcome.images[:FACES], scale=2)):
            yield picture(tile, x + 16 + 70 * j, y, SIDE)
        share = outcome.share(ATTRIBUTE, classes.index(CLASS)).value
        yield shape("rect", "net", x=x + 16, y=y + SIDE + 8, width=206, height=9)
        yield shape("rect", "h", x=x + 16, y=y + SIDE + 8, width=f"{206 * share:.0f}", height=9)
        label = "unedited" if not beta else f"strength {beta:g}"
        yield text(x + 16, y + SIDE + 30, f"{label}: {share:.0%} {CLASS}", "small")
    words = [
        "Nothing is trained again. Each image",
        "draws its strength, so that the shares",
        "become those that are asked for.",
    ]
    yield from lines(x + 16, TEXT, words)


def draw(study: Study) -> str:
    """The drawing, as SVG."""
    found = study.features()
    classes = study.attribute(ATTRIBUTE).classes
    target = classes.index(CLASS)
    recording = study.recording("learn")
    side = figures.grid(torch.zeros(recording.h[0, 0].size // recording.width)).shape[-1]
    row, place = 0, side + 1
    vector, code = code_of(study, found, row, place)
    generator = torch.Generator().manual_seed(study.seeds.main)
    noise = torch.randn(study.subject.shape, generator=generator) / 2
    words = WORDS.format(active=study.settings.k, latents=f"{len(code):,}", name=CLASS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-labelledby="title words">',
        '<title id="title">The method</title>',
        f'<desc id="words">{html.escape(words)}</desc>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="5" refY="4" markerWidth="6" '
        'markerHeight="6" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#3d4a5c"/>'
        "</marker></defs>",
        *opened(recording.images[row], noise, recording.width, side, place),
        *split(vector, code),
        *ranked(strongest(study, found, target)),
        *steered(turned(study, found, target), classes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main() -> None:
    TARGET.write_text(draw(dl.open("portraits")), encoding="utf-8")


if __name__ == "__main__":
    main()
