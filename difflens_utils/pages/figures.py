"""Figures of the book. Each function draws one kind of figure from plain data.

No function computes a result. Functions that make a whole figure return it. The others draw in a
panel and note in words what they have drawn.

A sheet of three images of 8 x 8 pixels, two to a row and with gaps of 2 pixels, is 18 pixels wide
and high.

>>> import torch
>>> from difflens_utils.pages import figures
>>> figures.mosaic(torch.zeros(3, 3, 8, 8), columns=2, scale=1, gap=2).shape
(18, 18, 3)
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from string import Template

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..metrics import Estimate
from . import tables
from .descriptions import describe, listed, note, register

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3d9970", "#c0392b", "#8a8a8a"
PALETTE = [BLUE, ORANGE, GREEN, RED, "#7d5ba6", "#00838f", "#b5651d", "#5d6d7e", "#c2185b"]
OF_METHODS = {  # one colour for a method, on every page
    "DiffLens, best": RED,
    "DiffLens": ORANGE,
    "DiffLens, published": "#e6b35a",
    "latent editing": BLUE,
    "H-Distribution": GREEN,
    "Act@L": "#7d5ba6",
    "latent direction": "#00838f",
    "finetuning": "#8d5524",
    "mean difference": "#5d6d7e",
    "regression direction": "#c2185b",
    "random features": GREY,
}
STYLE = {
    "figure.dpi": 110,
    "savefig.bbox": "tight",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.titleweight": "bold",
    "grid.alpha": 0.5,
}
QUALITY = 88  # of WebP: no difference is seen at the size of a page
ACROSS = 9  # images in a row at most: a page of 690 CSS pixels shows each at 64 or more
Bytes = NDArray[np.uint8]


def style() -> None:
    """Sets one look for all pages."""
    sns.set_theme(context="notebook", style="whitegrid", palette=PALETTE, rc=STYLE)
    pd.set_option("display.max_colwidth", None)  # a cut interval is none
    register()
    tables.register()


def panels(
    count: int, width: float = 10.5, height: float = 3.6, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels; its size is in inches."""
    size = (width, height)
    figure, axes = plt.subplots(1, count, figsize=size, squeeze=False, sharey=sharey)
    return figure, list(axes[0])


def finish(figure: Figure, text: str) -> Figure:
    """States what a figure shows, and lets its panels use its whole area."""
    describe(figure, text)
    figure.tight_layout()
    return figure


# ------------------------------------------------------------------------------------------
# Images


def pixels(images: Tensor, scale: int = 1) -> Bytes:
    """(B, 3, H, W) in [-1, 1] to (B, H scale, W scale, 3) uint8, enlarged without smoothing."""
    shown = images.float().clamp(-1, 1)
    if scale > 1:
        shown = F.interpolate(shown, scale_factor=scale, mode="nearest")
    levels = ((shown + 1) * 127.5).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def mosaic(images: Tensor, columns: int, scale: int = 3, gap: int = 2) -> Bytes:
    """Images side by side on white: (H, W, 3) uint8."""
    tiles = pixels(images, scale)
    height, width = tiles.shape[1:3]
    rows = math.ceil(len(tiles) / columns)
    down = height + gap  # from one tile to the next
    right = width + gap
    size = (rows * down - gap, columns * right - gap, 3)
    sheet = np.full(size, 255, np.uint8)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        y, x = row * down, column * right
        sheet[y : y + height, x : x + width] = tile
    return sheet


def grid(values: Tensor) -> Tensor:
    """One value per position or token, (..., P), as a map (..., H, W): a square, or else a row."""
    count = values.shape[-1]
    side = math.isqrt(count)
    if side**2 == count:
        return values.unflatten(-1, (side, side))
    return values.unflatten(-1, (1, -1))


def show(images: Tensor, columns: int = ACROSS, title: str = "", width: float = 9.5) -> Figure:
    """A sheet of images."""
    sheet = mosaic(images, columns)
    rows, wide = sheet.shape[:2]
    height = width * rows / wide + 0.3
    figure, axis = plt.subplots(figsize=(width, height))
    axis.imshow(sheet, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, loc="left")
    sheet_of = f"{len(images)} images, {columns} to a row"
    describe(figure, f"{title}: {sheet_of}" if title else sheet_of)
    return figure


def strips(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] | None = None,
    title: str = "",
    width: float = 9.5,
) -> Figure:
    """Labelled rows of images, (B, 3, H, W) each, of the same length.

    `columns` labels them from above.
    """
    count = max(len(images) for images in rows.values())
    height = (width - 1.2) / count * len(rows) + 0.6
    size = (width, height)
    figure, axes = plt.subplots(len(rows), 1, figsize=size, squeeze=False)
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        _strip(axis, label, mosaic(images, count, scale=4))
    if columns is not None:
        _label_columns(axes[0, 0], columns, images.shape[-1] * 4 + 2)
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=11)
    text = f"Rows of {count} images, from the top: {listed(rows)}."
    if title:
        text = f"{title}. {text}"
    if columns is not None:
        text += f" Columns, from the left: {listed(columns)}."
    describe(figure, text)
    figure.tight_layout(h_pad=0.3)
    return figure


def _strip(axis: Axes, label: str, picture: Bytes) -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)  # its lines would cross the images
    axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    sns.despine(ax=axis, left=True, bottom=True)


def _label_columns(axis: Axes, columns: Sequence[str], tile: int) -> None:
    """Labels the images of a strip, which are `tile` pixels apart, from above."""
    centres = [tile * (i + 0.5) for i in range(len(columns))]
    axis.set_xticks(centres, columns, fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)


# ------------------------------------------------------------------------------------------
# Estimates


def curve(
    axis: Axes,
    x: Sequence[float],
    estimates: Sequence[Estimate],
    label: str,
    color: str | None = None,
    linestyle: str = "-",
    marker: str = "o",
) -> None:
    """A line of estimates with their 95 % intervals as a band."""
    values = np.array([e.value for e in estimates], float)
    (line,) = axis.plot(x, values, linestyle, marker=marker, ms=4, label=label, color=color)
    if all(e.low is not None for e in estimates):
        low, high = [e.low for e in estimates], [e.high for e in estimates]
        axis.fill_between(x, low, high, alpha=0.18, color=line.get_color(), lw=0)
    start = f"{values[0]:.2f} at {x[0]:g}"
    end = f"{values[-1]:.2f} at {x[-1]:g}"
    note(axis, f"{label}, {start} and {end}")


def shares(
    axis: Axes, rows: Mapping[str, Sequence[Estimate]], classes: Sequence[str], title: str = ""
) -> None:
    """Grouped bars of class shares with intervals, one group per class and one colour per row."""
    width = 0.8 / len(rows)
    for i, (label, estimates) in enumerate(rows.items()):
        offset = i - (len(rows) - 1) / 2
        x = np.arange(len(classes)) + offset * width
        values = [e.value for e in estimates]
        error = np.transpose([_arms(e) for e in estimates])
        axis.bar(x, values, width * 0.95, label=label, color=PALETTE[i])
        axis.errorbar(x, values, error, fmt="none", ecolor="black", lw=1)
        shown = (f"{name} {value:.2f}" for name, value in zip(classes, values, strict=True))
        note(axis, f"{label}, {listed(shown)}")
    axis.set_xticks(range(len(classes)), classes)
    axis.set(ylim=(0, 1), ylabel="share of images", title=title)
    axis.grid(axis="x", visible=False)


def _arms(estimate: Estimate) -> tuple[float, float]:
    """How far the interval of an estimate reaches below and above it."""
    if estimate.low is None:
        return 0.0, 0.0
    below = estimate.value - estimate.low
    above = estimate.high - estimate.value
    return max(0.0, below), max(0.0, above)


def forest(
    axis: Axes, rows: Mapping[str, Estimate], xlabel: str, color: str = BLUE, zero: float = 0.0
) -> None:
    """One labelled estimate with its interval per line."""
    heights = np.arange(len(rows))[::-1]
    for y, estimate in zip(heights, rows.values(), strict=True):
        axis.plot([estimate.low, estimate.high], [y, y], color=color, lw=2, alpha=0.6)
        axis.plot(estimate.value, y, "o", color=color, ms=5)
    axis.axvline(zero, color=GREY, lw=1)
    axis.set_yticks(heights, list(rows))
    axis.set_xlabel(xlabel)
    values = [f"{name} {estimate.value:.2f}" for name, estimate in rows.items()]
    note(axis, listed(values))


def heat(
    axis: Axes,
    table: pd.DataFrame,
    *,
    label: str,
    fmt: str = ".2f",
    cmap: str = "vlag",
    center: float | None = 0.0,
    limits: tuple[float, float] | None = None,
    annotated: bool = True,
    each: int = 1,
) -> None:
    """A matrix with its numbers; `limits` are the ends of its colours. Missing cells are grey.

    Of the names of columns one of `each` is shown.
    """
    look = {"cbar_kws": {"label": label}, "annot_kws": {"size": 8}, "linewidths": 0.5}
    axis.set_facecolor("#dcdcdc")
    if limits is not None:
        look |= {"vmin": limits[0], "vmax": limits[1]}
    sns.heatmap(
        table, ax=axis, annot=annotated, fmt=fmt, cmap=cmap, center=center, xticklabels=each, **look
    )
    axis.set(xlabel="", ylabel="")
    axis.grid(visible=False)  # it would cross empty cells
    axis.tick_params(axis="x", rotation=35)
    axis.tick_params(axis="y", rotation=0)
    for tick in axis.get_xticklabels():
        tick.set_horizontalalignment("right")
    note(axis, f"{label}; rows {listed(table.index)}; columns {listed(table.columns)}")
    values = table.to_numpy(float)
    if np.isfinite(values).any():
        least, most = int(np.nanargmin(values)), int(np.nanargmax(values))
        smallest = _cell(table, least, fmt)
        largest = _cell(table, most, fmt)
        note(axis, f"smallest {smallest}, largest {largest}")


def _cell(table: pd.DataFrame, place: int, fmt: str) -> str:
    """A cell of a matrix in words: its value, and where it is; `place` counts row by row."""
    row, column = divmod(place, table.shape[1])
    value = format(table.to_numpy()[row, column], fmt)
    return f"{value} ({table.index[row]}; {table.columns[column]})"


# ------------------------------------------------------------------------------------------
# Features and graphs


def card(
    images: Tensor,
    maps: Tensor,
    title: str,
    by_step: Mapping[float, float],
    turned: Mapping[str, Tensor],
    changes: Mapping[str, Estimate],
) -> Figure:
    """One feature: where it fires, what the picture becomes when it is turned, when it matters.

    `images` (B, 3, H, W) are those on which it is strongest, with `maps` (B, H, W) of where.
    `by_step` are attributions {timestep: value}. `turned` are the same seeds without and with an
    edit of the feature alone, and `changes` what that does to the factors that change most.
    """
    figure = plt.figure(figsize=(9.5, 2.7))
    areas = figure.add_gridspec(1, 3, width_ratios=(3.7, 2.0, 1.9), wspace=0.62)
    areas.update(left=0.01, right=0.985, bottom=0.15, top=0.82)
    _strongest(figure, areas[0], images, maps)
    _turned(figure, areas[1], turned)
    right = areas[2].subgridspec(2, 1, hspace=1.1)
    _by_step(figure.add_subplot(right[0]), by_step)
    _changed(figure.add_subplot(right[1]), changes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    fires = f"Left, the {len(images)} images in which it fires most, and below where in them"
    middle = f"middle, rows of the same {len(next(iter(turned.values())))} images"
    describe(figure, f"{title}. {fires}; {middle}: {listed(turned)}")
    return figure


def _strongest(figure: Figure, area: SubplotSpec, images: Tensor, maps: Tensor) -> None:
    """Images in a row, and below each where a feature fires in it."""
    grid_ = area.subgridspec(2, len(images), wspace=0.06, hspace=0.06)
    brightest = float(maps.max()) or 1.0
    for column, (tile, where) in enumerate(zip(pixels(images), maps, strict=True)):
        above = figure.add_subplot(grid_[0, column])
        above.imshow(tile, interpolation="nearest")
        above.set_axis_off()
        if column == 0:
            above.set_title("where it fires most", loc="left", fontsize=8, fontweight="normal")
        _over_grey(figure.add_subplot(grid_[1, column]), tile, where, brightest)


def _turned(figure: Figure, area: SubplotSpec, turned: Mapping[str, Tensor]) -> None:
    """A row of images for each way in which a feature is turned."""
    rows = area.subgridspec(len(turned), 1, hspace=0.06)
    for row, (label, images) in enumerate(turned.items()):
        axis = figure.add_subplot(rows[row])
        _strip(axis, label, mosaic(images, len(images), scale=4))
        axis.yaxis.label.set_fontsize(8)


def _over_grey(axis: Axes, tile: Bytes, where: Tensor, brightest: float) -> None:
    """A map of activations (H, W) over a picture in grey."""
    height, width = tile.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(tile.mean(-1), cmap="gray", interpolation="nearest", alpha=0.5)
    heat_map = axis.imshow(where, cmap="magma", interpolation="nearest", alpha=0.65, extent=extent)
    heat_map.set_clim(0, brightest)
    axis.set_axis_off()


def _by_step(axis: Axes, by_step: Mapping[float, float]) -> None:
    timesteps, values = list(by_step), list(by_step.values())
    axis.plot(timesteps, values, color=RED)
    axis.invert_xaxis()
    axis.set_xlabel("timestep t", fontsize=7, labelpad=1)
    axis.set_title("attribution per step", loc="left", fontsize=8, fontweight="normal")
    axis.tick_params(labelsize=7)
    note(axis, f"largest at t = {timesteps[int(np.argmax(values))]:.0f}")


def _changed(axis: Axes, changes: Mapping[str, Estimate]) -> None:
    """How much likelier classes become, from turned down to turned up."""
    forest(axis, changes, "")
    axis.set_title("P when turned up − down", loc="left", fontsize=8, fontweight="normal")
    axis.tick_params(labelsize=7)
    axis.margins(y=0.3)


def graph(parents: Mapping[str, Sequence[str]], roots: Sequence[str]) -> Figure:
    """The causal graph of a world: {factor: the factors that it depends on}.

    The `roots` stand to the left, and what depends on anything else to the right. Left of the roots
    stands what they depend on themselves. Factors without any arrow are named below.
    """
    above = list(dict.fromkeys(p for root in roots for p in parents[root]))
    children = [name for name, causes in parents.items() if causes and name not in roots]
    placed = [*roots, *above, *children]
    free = [name for name in parents if name not in placed]
    height = 0.36 * len(children) + 0.9
    figure, axis = plt.subplots(figsize=(8.5, height))
    top = len(children) - 1
    spots = _column(above, -0.7, top / 2) | _column(children, 1.0, top)
    spots |= _column(roots, 0.0, top, gap=top / max(1, len(roots) - 1))
    colours = dict(zip([*roots, *above], PALETTE, strict=False))
    arrows = []
    for child in (*roots, *children):
        for parent in parents[child]:
            _arrow(axis, spots[parent], spots[child], colours[parent])
        if parents[child]:
            arrows.append(f"{listed(parents[child])} to {child}")
    for name, spot in spots.items():
        _node(axis, spot, spoken(name), colours.get(name))
    alone = f"independent of all: {', '.join(map(spoken, free))}"
    axis.text(0.5, -1.3, alone, ha="center", fontsize=10, color=GREY)
    left = -0.95 if above else -0.2
    axis.set_xlim(left, 1.25)
    axis.set_ylim(-1.8, top + 0.6)
    axis.set_axis_off()
    edges = f"Arrows from {'; '.join(arrows)}" if arrows else "No arrows"
    others = f"independent of all: {listed(free) or 'none'}"
    describe(figure, spoken(f"What hangs together in the data, by arrows. {edges}; {others}"))
    return figure


Spot = tuple[float, float]


def _column(names: Sequence[str], x: float, top: float, gap: float = 1.0) -> dict[str, Spot]:
    """Where the names of a column stand."""
    return {name: (x, top - i * gap) for i, name in enumerate(names)}


def _arrow(axis: Axes, start: Spot, end: Spot, colour: str) -> None:
    """An arrow between two factors, which ends beside their names."""
    look = {"arrowstyle": "->", "color": colour, "alpha": 0.7}
    (x0, y0), (x1, y1) = start, end
    axis.annotate("", (x1 - 0.14, y1), (x0 + 0.12, y0), arrowprops=look)


def _node(axis: Axes, spot: Spot, name: str, colour: str | None) -> None:
    """The name of a factor: white on its colour, or black on grey without one."""
    box = {"boxstyle": "round,pad=0.3", "fc": colour or "#f2f2f2", "ec": "none", "alpha": 0.9}
    ink = "white" if colour else "black"
    axis.text(*spot, name, ha="center", va="center", fontsize=10, bbox=box, color=ink)


def spoken(name: str) -> str:
    """The name of a factor as it is said."""
    return name.replace("_", " ")


# ------------------------------------------------------------------------------------------
# HTML

SLIDER = Template("""<div class="difflens-slider" style="text-align:center">
<img alt="$count images: $shown" style="max-width:100%;image-rendering:pixelated"
 src="$picture"><br>
<label style="display:block">strength <input aria-valuetext="$shown" type="range" style="width:70%"
 min="0" max="$last" value="$start"></label>
<div class="value" aria-hidden="true">$shown</div>
<noscript>Without JavaScript the slider shows one strength only.</noscript>
<script>(function () {
  const box = document.currentScript.parentElement;
  const frames = $pictures, values = $values;
  const input = box.querySelector("input"), img = box.querySelector("img");
  input.addEventListener("input", function () {
    img.src = frames[input.value];
    img.alt = "$count images: " + values[input.value];
    input.setAttribute("aria-valuetext", values[input.value]);
    box.querySelector(".value").textContent = values[input.value];
  });
})();</script></div>""")


def slider(
    frames: Mapping[str, Tensor],
    caption: Mapping[str, str],
    columns: int = 8,
    scale: int = 3,
    start: int = 0,
) -> str:
    """Returns self-contained HTML with a control that changes beta.

    `frames` maps labels to images (B, 3, H, W). The label and the caption of the chosen frame are
    the text of the control for screen readers, and the alternative text of the picture.
    """
    pictures = [light_url(mosaic(images, columns, scale)) for images in frames.values()]
    values = [f"{label} {caption.get(label, '')}".strip() for label in frames]
    filled = {"start": start, "last": len(pictures) - 1, "picture": pictures[start]}
    filled["count"] = max(map(len, frames.values()))
    filled["shown"] = html.escape(values[start])
    filled["pictures"] = json.dumps(pictures)
    filled["values"] = _for_script(values)
    return SLIDER.substitute(filled)


def png(picture: Bytes) -> bytes:
    """A picture (H, W, 3) as the file of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_url(picture: Bytes) -> str:
    """A picture (H, W, 3) as a URL that holds its PNG."""
    return _url("png", png(picture))


def light_url(picture: Bytes) -> str:
    """A picture (H, W, 3) as a URL that holds its WebP, half as long: many faces on a page."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=QUALITY)
    return _url("webp", buffer.getvalue())


def _url(kind: str, file: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def _for_script(value: object) -> str:
    """JSON that may stand within a <script>, whatever its strings hold."""
    return json.dumps(value).replace("</", r"<\/")
