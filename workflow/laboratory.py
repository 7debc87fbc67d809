"""The page *Laboratory*: two shares are asked for, and images of several methods answer.

`python -m models.laboratory` draws them, and writes results/laboratory.json and the sheets in
results/laboratory. The page works from disk.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from difflens_utils.metrics import wilson
from workflow.execute import ROOT

SHEETS = ROOT / "results/laboratory"
SIDE = 96  # CSS pixels of an image, at least
BODY = Template("""<link rel="stylesheet" href="_static/laboratory.css">
<div class="laboratory" id="laboratory">
<div class="controls">
<label>method <select data-answers="#laboratory .images, #laboratory .readings">$methods</select>
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
</div>
<script src="_static/laboratory.js"></script>""")
SLIDER = Template("""<label>$attribute: share of $name asked for
<input type="range" min="0" max="$last" value="$start"
 data-answers="#laboratory .images, #laboratory .readings"><span></span></label>""")


def write(told: Mapping[str, Any], source: Path) -> None:
    """Writes what book/laboratory.md includes, and the sheets, to the source of the book."""
    (source / "generated/laboratory.md").write_text(f"```{{raw}} html\n{body(told)}\n```\n")
    (source / "generated/laboratory_size.md").write_text(_size(told) + "\n")
    sheets = source / "_files/_static/laboratory"
    sheets.mkdir(parents=True)
    for sheet in SHEETS.glob("method-*.webp"):
        shutil.copy(sheet, sheets)


def body(told: Mapping[str, Any]) -> str:
    """The controls, the images and the readings, from what laboratory.json holds."""
    side = max(SIDE, told["size"])
    width, height = told["columns"] * side, told["shown"] // told["columns"] * side
    _, second = told["asked"]
    shown = {name: told[name] for name in ("asked", "classes", "shown", "methods", "before")}
    sheets = {name: f"method-{number}.webp" for number, name in enumerate(told["methods"])}
    sizes = {"sheets": sheets, "width": width, "height": height}
    names = (html.escape(name) for name in told["methods"])
    return BODY.substitute(
        methods="".join(f"<option>{name}</option>" for name in names),
        sliders="\n".join(_slider(told, attribute) for attribute in told["asked"]),
        width=width,
        height=height,
        across=width * len(told["asked"][second]),
        n=told["n"],
        told=json.dumps(shown | sizes, separators=(",", ":")).replace("</", r"<\/"),
    )


def _slider(told: Mapping[str, Any], attribute: str) -> str:
    """The slider of an attribute, which begins at the share nearest to the unedited one."""
    asked, unedited = told["asked"][attribute], told["before"][attribute][-1]
    start = min(range(len(asked)), key=lambda i: abs(asked[i] - unedited))
    name = told["classes"][attribute][-1]
    return SLIDER.substitute(attribute=attribute, name=name, last=len(asked) - 1, start=start)


def _size(told: Mapping[str, Any]) -> str:
    """How the images were drawn, in a sentence."""
    half = wilson(told["n"] // 2, told["n"])  # an interval is widest there
    return (
        f"Every reading is of {told['n']} images of `{told['subject']}`, of which the first "
        f"{told['shown']} are shown (`{told['command']}`, seed {told['seed']}). The 95 % intervals "
        f"of shares reach at most {50 * (half.high - half.low):.0f} points to either side."
    )
