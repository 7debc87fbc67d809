"""Figures of the book. Each function draws one kind of figure from plain data and returns it; none computes a result."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from ..metrics import Estimate
from .descriptions import describe, listed, note, register

BLUE, ORANGE, GREEN, RED, GREY = "#3b6fb6", "#d9822b", "#3d9970", "#c0392b", "#8a8a8a"
PALETTE = [BLUE, ORANGE, GREEN, RED, "#7d5ba6", "#00838f", "#b5651d", "#5d6d7e", "#c2185b"]


def style() -> None:
    """One look for all pages."""
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=PALETTE,
        rc={
            "figure.dpi": 110,
            "savefig.bbox": "tight",
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "legend.fontsize": 9,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.titleweight": "bold",
            "grid.alpha": 0.5,
        },
    )
    pd.set_option("display.max_colwidth", None)  # a cut interval is none
    register()


def pixels(images: Tensor, scale: int = 1) -> np.ndarray:
    """(B, 3, H, W) in [-1, 1] to (B, H scale, W scale, 3) uint8, enlarged without smoothing."""
    big = (
        F.interpolate(images.float().clamp(-1, 1), scale_factor=scale, mode="nearest")
        if scale > 1
        else images.float()
    )
    return ((big.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def mosaic(images: Tensor, columns: int, scale: int = 3, gap: int = 2) -> np.ndarray:
    """Images side by side on white: (H, W, 3) uint8."""
    tiles = pixels(images, scale)
    rows = -(-len(tiles) // columns)
    h, w = tiles.shape[1:3]
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = divmod(i, columns)
        sheet[y * (h + gap) : y * (h + gap) + h, x * (w + gap) : x * (w + gap) + w] = tile
    return sheet


def grid(values: Tensor) -> Tensor:
    """One value per position or token, (..., P), as a map (..., H, W): a square, or else a row."""
    side = math.isqrt(values.shape[-1])
    return values.unflatten(-1, (side, side) if side**2 == values.shape[-1] else (1, -1))


def show(images: Tensor, columns: int = 12, title: str = "", width: float = 9.5) -> Figure:
    """A sheet of images."""
    sheet = mosaic(images, columns)
    figure, axis = plt.subplots(figsize=(width, width * sheet.shape[0] / sheet.shape[1] + 0.3))
    axis.imshow(sheet, interpolation="nearest")
    axis.set_axis_off()
    axis.set_title(title, loc="left")
    describe(figure, f"A sheet of {len(images)} images, {columns} to a row")
    return figure


def strips(
    rows: Mapping[str, Tensor],
    columns: Sequence[str] | None = None,
    title: str = "",
    width: float = 9.5,
) -> Figure:
    """Labelled rows of images, (B, 3, H, W) each, of the same length; `columns` labels them from above."""
    count = max(len(v) for v in rows.values())
    figure, axes = plt.subplots(
        len(rows), 1, figsize=(width, (width - 1.2) / count * len(rows) + 0.6), squeeze=False
    )
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        axis.imshow(mosaic(images, count, scale=4), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)  # its lines would cross the images
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        sns.despine(ax=axis, left=True, bottom=True)
    if columns is not None:
        tile = images.shape[-1] * 4 + 2
        axes[0, 0].set_xticks([tile * (i + 0.5) for i in range(len(columns))], columns, fontsize=8)
        axes[0, 0].xaxis.tick_top()
        axes[0, 0].tick_params(length=0)
    figure.suptitle(title, x=0.02, ha="left", fontweight="bold", fontsize=11)
    above = f" Columns, from the left: {listed(columns)}." if columns is not None else ""
    begin = f"{title}. " if title else ""
    describe(figure, f"{begin}Rows of {count} images, from the top: {listed(rows)}.{above}")
    figure.tight_layout(h_pad=0.3)
    return figure


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
        axis.fill_between(
            x,
            [e.low for e in estimates],
            [e.high for e in estimates],
            alpha=0.18,
            color=line.get_color(),
            lw=0,
        )
    note(axis, f"{label}, {values[0]:.2f} at {x[0]:g} and {values[-1]:.2f} at {x[-1]:g}")


def shares(
    axis: Axes, rows: Mapping[str, Sequence[Estimate]], classes: Sequence[str], title: str = ""
) -> None:
    """Grouped bars of class shares with intervals, one group per class and one colour per row."""
    width = 0.8 / len(rows)
    for i, (label, estimates) in enumerate(rows.items()):
        x = np.arange(len(classes)) + (i - (len(rows) - 1) / 2) * width
        values = np.array([e.value for e in estimates])
        error = np.array(
            [
                [max(0.0, e.value - e.low), max(0.0, e.high - e.value)]
                if e.low is not None
                else [0, 0]
                for e in estimates
            ]
        ).T
        axis.bar(
            x, values, width * 0.95, yerr=error, label=label, color=PALETTE[i], error_kw={"lw": 1}
        )
        shown = (f"{name} {value:.2f}" for name, value in zip(classes, values, strict=True))
        note(axis, f"{label}, {listed(shown)}")
    axis.set_xticks(range(len(classes)), classes)
    axis.set(ylim=(0, 1), ylabel="share of images", title=title)
    axis.grid(axis="x", visible=False)


def forest(
    axis: Axes, rows: Mapping[str, Estimate], xlabel: str, color: str = BLUE, zero: float = 0.0
) -> None:
    """One labelled estimate with its interval per line."""
    y = np.arange(len(rows))[::-1]
    for i, e in zip(y, rows.values(), strict=True):
        axis.plot([e.low, e.high], [i, i], color=color, lw=2, alpha=0.6)
        axis.plot(e.value, i, "o", color=color, ms=5)
    axis.axvline(zero, color=GREY, lw=1)
    axis.set_yticks(y, list(rows))
    axis.set_xlabel(xlabel)
    note(axis, listed(f"{name} {estimate.value:.2f}" for name, estimate in rows.items()))


def heat(
    axis: Axes,
    table: pd.DataFrame,
    *,
    label: str,
    fmt: str = ".2f",
    cmap: str = "vlag",
    center: float | None = 0.0,
) -> None:
    """An annotated matrix."""
    sns.heatmap(
        table,
        ax=axis,
        annot=True,
        fmt=fmt,
        cmap=cmap,
        center=center,
        cbar_kws={"label": label},
        annot_kws={"size": 8},
        linewidths=0.5,
    )
    axis.set(xlabel="", ylabel="")
    axis.grid(visible=False)  # it would cross empty cells
    axis.tick_params(axis="x", rotation=35)
    axis.tick_params(axis="y", rotation=0)
    for tick in axis.get_xticklabels():
        tick.set_ha("right")
    note(axis, f"{label}; rows {listed(table.index)}; columns {listed(table.columns)}")
    values = table.to_numpy(float)
    if np.isfinite(values).any():
        places = int(np.nanargmin(values)), int(np.nanargmax(values))
        smallest, largest = (_cell(table, place, fmt) for place in places)
        note(axis, f"smallest {smallest}, largest {largest}")


def _cell(table: pd.DataFrame, place: int, fmt: str) -> str:
    """A cell of a matrix in words: its value, and where it is; `place` counts row by row."""
    row, column = divmod(place, table.shape[1])
    return f"{table.iloc[row, column]:{fmt}} ({table.index[row]}; {table.columns[column]})"


def card(
    images: Tensor,
    heat_maps: Tensor,
    title: str,
    by_step: Sequence[float],
    timesteps: Sequence[int],
) -> Figure:
    """One feature: the images on which it is strongest, where it fires, and when it matters."""
    n = len(images)
    figure, axes = plt.subplots(2, n + 1, figsize=(9.5, 2.5), width_ratios=[1] * n + [2.4])
    for axis, picture in zip(axes[0], pixels(images), strict=False):
        axis.imshow(picture, interpolation="nearest")
    for axis, picture, where in zip(axes[1], pixels(images), heat_maps, strict=False):
        axis.imshow(picture.mean(-1), cmap="gray", interpolation="nearest", alpha=0.5)
        axis.imshow(
            where,
            cmap="magma",
            alpha=0.65,
            extent=(-0.5, picture.shape[1] - 0.5, picture.shape[0] - 0.5, -0.5),
            interpolation="nearest",
            vmin=0,
            vmax=float(heat_maps.max()) or 1.0,
        )
    for axis in axes[:, :n].flat:
        axis.set_axis_off()
    for axis in axes[:, n]:
        axis.remove()
    right = figure.add_subplot(1, n + 1, n + 1)
    box = axes[0, n - 1].get_position()
    right.set_position([box.x1 + 0.08, 0.2, 0.9 - box.x1, 0.62])
    right.plot(timesteps, by_step, color=RED)
    right.invert_xaxis()
    right.set_xlabel("timestep t", fontsize=8)
    right.set_title("attribution per step", fontsize=8, fontweight="normal")
    right.tick_params(labelsize=7)
    figure.suptitle(title, x=0.02, ha="left", fontsize=10, fontweight="bold")
    peak = timesteps[int(np.argmax(by_step))]
    note(right, f"largest at t = {peak}")
    describe(
        figure,
        f"{title}. Above, the {n} images in which the feature fires most strongly; "
        "below, where in them it fires",
    )
    return figure


def graph(parents: Mapping[str, Sequence[str]], roots: Sequence[str]) -> Figure:
    """The causal graph: from left to right what the `roots` depend on, if anything, they, and what depends on them; below, what depends on nothing."""
    above = list(dict.fromkeys(p for r in roots for p in parents[r]))
    children = [k for k, v in parents.items() if v and k not in roots]
    free = [k for k, v in parents.items() if not v and k not in (*roots, *above)]
    figure, axis = plt.subplots(figsize=(8.5, 0.36 * len(children) + 0.9))
    spot = {
        r: (0.0, (len(children) - 1) * (1 - i / max(1, len(roots) - 1)))
        for i, r in enumerate(roots)
    }
    spot |= {a: (-0.7, (len(children) - 1) / 2 - i) for i, a in enumerate(above)}
    spot |= {c: (1.0, len(children) - 1 - i) for i, c in enumerate(children)}
    colours = dict(zip([*roots, *above], PALETTE, strict=False))
    for child in [*roots, *children]:
        for parent in parents[child]:
            (x0, y0), (x1, y1) = spot[parent], spot[child]
            axis.annotate(
                "",
                (x1 - 0.14, y1),
                (x0 + 0.12, y0),
                arrowprops={"arrowstyle": "->", "color": colours[parent], "alpha": 0.7},
            )
    for name, (x, y) in spot.items():
        axis.text(
            x,
            y,
            name.replace("_", " "),
            ha="center",
            va="center",
            fontsize=10,
            bbox={
                "boxstyle": "round,pad=0.3",
                "fc": colours.get(name, "#f2f2f2"),
                "ec": "none",
                "alpha": 0.9,
            },
            color="white" if name in colours else "black",
        )
    axis.text(
        0.5,
        -1.3,
        "independent of all: " + ", ".join(f.replace("_", " ") for f in free),
        ha="center",
        fontsize=10,
        color=GREY,
    )
    axis.set(xlim=(-0.95 if above else -0.2, 1.25), ylim=(-1.8, len(children) - 0.4))
    axis.set_axis_off()
    arrows = [f"{listed(parents[k])} to {k}" for k in (*roots, *children) if parents[k]]
    edges = f"Arrows from {'; '.join(arrows)}" if arrows else "No arrows"
    alone = f"independent of all: {listed(free) or 'none'}"
    describe(figure, f"A causal graph. {edges}; {alone}".replace("_", " "))
    return figure


def slider(
    frames: Mapping[str, Tensor],
    caption: Mapping[str, str],
    columns: int = 8,
    scale: int = 3,
    start: int = 0,
) -> str:
    """Self-contained HTML: drag to change beta. `frames` maps labels to images (B, 3, H, W), in order.

    The control announces the label and the caption of the chosen frame, which are the
    alternative text of its picture too.
    """
    pictures = []
    for images in frames.values():
        buffer = io.BytesIO()
        plt.imsave(buffer, mosaic(images, columns, scale), format="png")
        pictures.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    values = [f"{label} {caption.get(label, '')}".strip() for label in frames]
    shown = html.escape(values[start])
    count = len(next(iter(frames.values())))
    return f"""<div class="difflens-slider" style="text-align:center">
<img alt="{count} images: {shown}" style="max-width:100%;image-rendering:pixelated"
 src="{pictures[start]}"><br>
<label style="display:block">strength <input aria-valuetext="{shown}" type="range" style="width:70%"
 min="0" max="{len(pictures) - 1}" value="{start}"></label>
<div class="value" aria-hidden="true">{shown}</div>
<noscript>Without JavaScript the slider shows one strength only.</noscript>
<script>(function () {{
  const box = document.currentScript.parentElement;
  const frames = {json.dumps(pictures)}, values = {_for_script(values)};
  const input = box.querySelector("input"), img = box.querySelector("img");
  input.addEventListener("input", function () {{
    img.src = frames[input.value];
    img.alt = "{count} images: " + values[input.value];
    input.setAttribute("aria-valuetext", values[input.value]);
    box.querySelector(".value").textContent = values[input.value];
  }});
}})();</script></div>"""


def _for_script(value: object) -> str:
    """JSON that may stand within a <script>, whatever its strings hold."""
    return json.dumps(value).replace("</", r"<\/")
