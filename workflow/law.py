"""The page of the law: what steering can keep, against what passes the module that is steered.

`python -m models.law` measures it, and writes results/law.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from difflens_utils.pages import figures
from workflow import verdicts

METHOD = "DiffLens"
LEAST = 0.004  # a share that is drawn at the figure's left edge: nothing passes
MARKERS = "osD^vP*X"


class Point(NamedTuple):
    """One attribute at one place. A share and what is kept are (value, low, high)."""

    place: str
    attribute: str
    mediated: tuple[float, float, float]
    kept: Mapping[str, tuple[float, float, float]]  # by method


def points(found: Mapping[str, Any]) -> Iterator[Point]:
    """The attributes of all places, as they stand in results/law.json."""
    for place, measured in found["places"].items():
        for attribute, row in measured["rows"].items():
            methods = [name for name in row if name != "mediated"]
            kept = {name: _ends(row[name]["kept"]) for name in methods}
            yield Point(place, attribute, _ends(row["mediated"]), kept)


def _ends(figure: Mapping[str, float]) -> tuple[float, float, float]:
    return figure["value"], figure["low"], figure["high"]


def write(found: Mapping[str, Any], source: Path) -> None:
    """Writes what book/law.md includes to the source of the book: verdict, table and figure."""
    (source / "generated/law_verdict.md").write_text(verdict(found) + "\n")
    (source / "generated/law_table.md").write_text(table(found) + "\n")
    picture(found, source / "_static/law.png")


def verdict(found: Mapping[str, Any]) -> str:
    """Whether the law holds, in a sentence with its figures."""
    law = found["law"][METHOD]
    holds = "It holds" if law["low"] > 0 else "It does not hold"
    return (
        f"**{holds}**: over {law['n']} attributes of {law['places']} places the rank correlation "
        f"is {law['correlation']:.2f} [{law['low']:.2f}, {law['high']:.2f}]."
    )


def table(found: Mapping[str, Any]) -> str:
    """The places as a Markdown table, what is mediated least first."""
    methods = list(found["law"])
    lines = [["mediated", "attribute", "model", "open skips", *(f"{m} keeps" for m in methods)]]
    for point in sorted(points(found), key=lambda point: point.mediated):
        place = found["places"][point.place]
        name = _named(point.place, place)
        cells = [_shown(point.mediated), point.attribute, name, place["open"]]
        lines.append(cells + [_shown(point.kept[name]) for name in methods])
    return verdicts.table(lines)


def _shown(figure: tuple[float, float, float]) -> str:
    value, low, high = figure
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Draws the places: what is mediated to the right, and what DiffLens keeps upwards."""
    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    axes = figure.subplots()
    drawn = list(points(found))
    attributes = list(dict.fromkeys(point.attribute for point in drawn))
    colours = dict(zip(attributes, figures.PALETTE, strict=False))
    markers = dict(zip(found["places"], MARKERS, strict=False))
    for point in drawn:
        x, kept = max(point.mediated[0], LEAST), point.kept[METHOD]
        colour = colours[point.attribute]
        axes.plot([x, x], kept[1:], color=colour, linewidth=1.2)
        axes.plot(x, kept[0], markers[point.place], color=colour, markersize=8)
    axes.set_xscale("log")
    axes.set_xlabel("mediated share (log scale)")
    axes.set_ylabel(f"kept by {METHOD} at half of the unedited FD")
    axes.grid(alpha=0.3)
    handles = [axes.plot([], [], "o", color=colours[a])[0] for a in attributes]
    handles += [axes.plot([], [], m, color="0.4")[0] for m in markers.values()]
    names = [_named(name, place) for name, place in found["places"].items()]
    axes.legend(handles, [*attributes, *names], fontsize=9, loc="lower right")
    figure.savefig(path, dpi=200)


def _named(name: str, place: Mapping[str, Any]) -> str:
    """How a place is called: by its model, or the folder of its weights, and an unusual module."""
    model, module = name.rpartition("/")[2].partition("@")[0], place["settings"]["module"]
    return model if module == "mid_block" else f"{model}, {module}"
