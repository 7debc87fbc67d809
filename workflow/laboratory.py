"""The page *Laboratory*: two shares are asked for, or one feature is turned, and images answer.

`python -m models.laboratory` draws them, and writes results/laboratory.json and the sheets in
results/laboratory. The page works from disk.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from difflens_utils.metrics import wilson
from workflow.execute import ROOT

SHEETS = ROOT / "results/laboratory"
SIDE = 96  # CSS pixels of an image, at least
STYLE = '<link rel="stylesheet" href="_static/laboratory.css">\n'
SCRIPT = '\n<script src="_static/laboratory.js"></script>'
BODY = Template("""<div class="laboratory" id="$id">
<div class="controls">
<label>$what <select data-answers="#$id .images, #$id .readings">$names</select>
</label>
$sliders
</div>
<div class="images" role="img" aria-label="images" style="width:${width}px;height:${height}px;
background-size:${across}px auto"></div>
<div class="readings"><table><caption class="visually-hidden">Readings of $n images</caption>
<thead><tr><th scope="col">reading</th><th scope="col">now</th><th scope="col">unedited</th></tr>
</thead><tbody></tbody></table></div>
<noscript>Without JavaScript this page shows nothing.</noscript>
<script type="application/json">$told</script>
</div>""")
SLIDER = Template("""<label>$label
<input type="range" min="0" max="$last" value="$start"
 data-answers="#$id .images, #$id .readings"><span></span></label>""")


class Slider(NamedTuple):
    """A control with a place for each of some words."""

    label: str
    words: Sequence[str]
    start: int


@dataclass(frozen=True)
class Box:
    """Controls, and the images and readings that answer them."""

    id: str
    what: str  # what is chosen
    sheets: Mapping[str, str]  # {what can be chosen: its sheet}
    sliders: Sequence[Slider]
    cells: Mapping[str, Sequence[Any]]  # per choice; the first slider changes slowest

    def html(self, told: Mapping[str, Any]) -> str:
        """The box, from what laboratory.json holds of all of them."""
        side = max(SIDE, told["size"])
        width, height = told["columns"] * side, told["shown"] // told["columns"] * side
        shown = {name: told[name] for name in ("classes", "shown", "before")}
        own = {
            "words": [slider.words for slider in self.sliders],
            "cells": self.cells,
            "sheets": self.sheets,
            "width": width,
            "height": height,
        }
        return BODY.substitute(
            id=self.id,
            what=self.what,
            names="".join(f"<option>{html.escape(name)}</option>" for name in self.cells),
            sliders="\n".join(self._slider(slider) for slider in self.sliders),
            width=width,
            height=height,
            across=width * len(self.sliders[-1].words),
            n=told["n"],
            told=json.dumps(shown | own, separators=(",", ":")).replace("</", r"<\/"),
        )

    def _slider(self, slider: Slider) -> str:
        last = len(slider.words) - 1
        label = html.escape(slider.label)
        return SLIDER.substitute(id=self.id, label=label, last=last, start=slider.start)


def write(told: Mapping[str, Any], source: Path) -> None:
    """Writes what book/laboratory.md includes, and the sheets, to the source of the book."""
    boxes = {
        "laboratory": STYLE + of_shares(told).html(told),
        "laboratory_feature": of_features(told).html(told) + SCRIPT,  # behind both
    }
    for name, text in boxes.items():
        (source / f"generated/{name}.md").write_text(f"```{{raw}} html\n{text}\n```\n")
    (source / "generated/laboratory_size.md").write_text(_size(told) + "\n")
    sheets = source / "_files/_static/laboratory"
    sheets.mkdir(parents=True)
    for sheet in SHEETS.glob("*.webp"):
        shutil.copy(sheet, sheets)


def of_shares(told: Mapping[str, Any]) -> Box:
    """Two shares that are asked for, of several methods."""
    sheets = {name: f"method-{number}.webp" for number, name in enumerate(told["methods"])}
    sliders = [_share(told, attribute) for attribute in told["asked"]]
    return Box("laboratory", "method", sheets, sliders, told["methods"])


def _share(told: Mapping[str, Any], attribute: str) -> Slider:
    """The slider of an attribute, which begins at the share nearest to the unedited one."""
    asked, unedited = told["asked"][attribute], told["before"][attribute][-1]
    start = min(range(len(asked)), key=lambda i: abs(asked[i] - unedited))
    name = told["classes"][attribute][-1]
    words = [f"{round(100 * share)} % {name}" for share in asked]
    return Slider(f"{attribute}: share of {name} asked for", words, start)


def of_features(told: Mapping[str, Any]) -> Box:
    """The strength of one feature, of the best ones of every class."""
    sheets = {name: f"feature-{number}.webp" for number, name in enumerate(told["features"])}
    strengths = told["strengths"]
    words = ["nothing" if not b else f"{b:+g} class differences" for b in strengths]
    slider = Slider("moved by", words, strengths.index(0))
    return Box("feature", "feature", sheets, [slider], told["features"])


def _size(told: Mapping[str, Any]) -> str:
    """How the images were drawn, in a sentence."""
    half = wilson(told["n"] // 2, told["n"])  # an interval is widest there
    return (
        f"Every reading is of {told['n']} images of `{told['subject']}`, of which the first "
        f"{told['shown']} are shown (`{told['command']}`, seed {told['seed']}). The 95 % intervals "
        f"of shares reach at most {50 * (half.high - half.low):.0f} points to either side."
    )
