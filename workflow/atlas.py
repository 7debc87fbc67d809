"""The pages of the atlas: every bias feature of a subject, and the latents that fire most.

`python -m models.atlas SUBJECT` measures them, and writes results/atlas/<subject>/. A page works
from disk: its table is sorted and searched by DataTables, which ships with the book, and each
latent has an address of its own, such as atlas/portraits.html#latent-12.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from difflens_utils.pages.attribution import CLEAR
from difflens_utils.pages.figures import spoken
from workflow.execute import ROOT, slug

MEASURED = ROOT / "results/atlas"
STATIC = "../_static"  # from a page of the atlas
SIDE = 64  # CSS pixels of an image, at least
DENSITIES = (1, 5, 20)  # percent
COLUMNS = (
    "latent",
    "feature of",
    "tracks",
    "AUROC",
    "fires on, %",
    "turned up, changes most",
    "by",
    "acts at t",
    "found again",
)
FEATURE, FACTOR, DENSITY, EFFECT = 1, 2, 4, 5  # columns that filters are for
PAGE = Template("""# Atlas of features

Every bias feature of the k-SAE that ships with `$subject`, and the $others other latents that fire
most often: $count of them. Choose one in the table; its card stands below. The address of a card
leads to it from anywhere.

:::{dropdown} How each was measured
`$command`, on the k-SAE `$ksae`.

- *Most active*: of $images recorded images those with the largest mean activation, at the timestep
  where that is largest. Beside them the same images are lit where the latent is active.
- *Acts at t*: the timestep at which its mean activation is largest.
- *Tracks*: the class that it tells best from the rest, among $factors images of the data with
  independent factors. An AUROC below $clear is as good as nothing.
- *Turned off* sets it to zero. *Turned up* adds $up times what sets its strongest images apart from
  the mean, at every step and place. The changes are those of the scorer's probabilities on the same
  $n images (seed $seed), with 95 % intervals.
- *Found again*: in how many of $seeds k-SAEs of other seeds it has a partner whose decoder
  direction has a cosine of at least $found with its own.
:::

```{raw} html
$body
```
""")
BODY = Template("""<link rel="stylesheet" href="$static/datatables/dataTables.dataTables.min.css">
<link rel="stylesheet" href="$static/atlas.css">
<div class="atlas" id="atlas" data-rows="latents">
<div class="filters">$filters</div>
<div class="listing"><table class="listed"><caption class="visually-hidden">Latents</caption>
<thead><tr>$head</tr></thead>
<tbody>$rows</tbody></table></div>
$cards
</div>
<script src="$static/datatables/dataTables.min.js"></script>
<script src="$static/atlas.js"></script>""")
FILTER = Template("""<label>$label
<select data-answers="#atlas .listing" $column>$options</select></label>""")
CARD = Template("""<section class="latent" id="latent-$number" aria-labelledby="name-$number">
<h2 id="name-$number">Latent $number</h2>
<p>$told</p>
<div class="strips">$strips</div>
<div class="listing"><table><caption class="visually-hidden">Factors</caption>
<thead><tr><th scope="col">factor</th><th scope="col">AUROC</th><th scope="col">turned off</th>
<th scope="col">turned up</th></tr></thead>
<tbody>$factors</tbody></table></div>
<p>$near <a href="#atlas">Back to the table.</a></p>
</section>""")
STRIP = Template("""<figure><div class="tiles" role="img" aria-label="$label" style="
width:${width}px;height:${side}px;background-image:url($sheet);background-size:${all}px auto;
background-position:-${x}px -${y}px"></div><figcaption>$caption</figcaption></figure>""")


def measured(subjects: Iterable[str]) -> list[str]:
    """Those of the subjects that have an atlas."""
    return [name for name in subjects if (MEASURED / slug(name) / "atlas.json").is_file()]


def write(subject: str, source: Path) -> None:
    """Writes the page of a subject, and its sheets of pictures, to the source of the book."""
    folder = MEASURED / slug(subject)
    told = json.loads((folder / "atlas.json").read_text())
    (source / "atlas").mkdir(exist_ok=True)
    (source / f"atlas/{slug(subject)}.md").write_text(page(subject, told))
    sheets = source / "_files/_static/atlas" / slug(subject)
    sheets.mkdir(parents=True)
    for sheet in folder.glob("sheet-*.webp"):
        shutil.copy(sheet, sheets)


def page(subject: str, told: Mapping[str, Any]) -> str:
    """The page of a subject as Markdown, from what atlas.json holds."""
    rows = told["latents"]
    own = sum(bool(row["features"]) for row in rows)
    names = ("command", "ksae", "images", "factors", "n", "seed", "found")
    return PAGE.substitute(
        {name: told[name] for name in names},
        subject=subject,
        count=len(rows),
        others=len(rows) - own,
        up=f"{told['up']:g}",
        clear=CLEAR,
        seeds=len(rows[0]["found_again"]),
        body=_body(subject, told),
    )


def _body(subject: str, told: Mapping[str, Any]) -> str:
    rows = told["latents"]
    known = {row["latent"] for row in rows}
    cards = [_card(subject, told, place, known) for place in range(len(rows))]
    return BODY.substitute(
        static=STATIC,
        filters=_filters(told),
        head="".join(f'<th scope="col">{name}</th>' for name in COLUMNS),
        rows="\n".join(_row(told, row) for row in rows),
        cards="\n".join(cards),
    )


# --------------------------------------------------------------------------------------------------
# The table


def _filters(told: Mapping[str, Any]) -> str:
    attributes = {name: told["classes"][name] for name in told["attributes"]}
    every = [
        _filter("feature of", f'data-column="{FEATURE}"', _choices(attributes)),
        _filter("tracks", f'data-column="{FACTOR}"', _choices(told["classes"])),
        _filter("turned up, changes", f'data-column="{EFFECT}"', _choices(told["classes"])),
    ]
    highest = max(100 * row["density"] for row in told["latents"])
    offered = (percent for percent in DENSITIES if percent < highest)
    densities = {f"at most {percent} %": str(percent) for percent in offered}
    every.append(_filter("fires on", f'data-most="{DENSITY}"', densities))
    return "\n".join(every)


def _choices(classes: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """What can be chosen, and the text that a cell then holds."""
    found = {}
    for factor, names in classes.items():
        found[spoken(factor)] = f"{spoken(factor)}:"
        found |= {f"{spoken(factor)}: {name}": f"{spoken(factor)}: {name}" for name in names}
    return found


def _filter(label: str, column: str, choices: Mapping[str, str]) -> str:
    options = ['<option value="">any</option>']
    for name, value in choices.items():
        options.append(f'<option value="{html.escape(value)}">{html.escape(name)}</option>')
    return FILTER.substitute(label=label, column=column, options="".join(options))


def _row(told: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    number, tracked = row["latent"], row["tracks"]
    factor, most = _most_changed(row)
    clear = tracked["auroc"] >= CLEAR
    cells = (
        f'<a href="#latent-{number}">{number}</a>',
        _features(row),
        _class(tracked["factor"], tracked["class"]) if clear else "nothing clearly",
        f"{tracked['auroc']:.2f}",
        f"{100 * row['density']:.2f}",
        _class(factor, most["class"]),
        f"{most['value']:+.2f}",
        f"{_peak(told, row):g}",
        f"{_times_found(told, row)}",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _features(row: Mapping[str, Any]) -> str:
    roles = (f"{_class(r['attribute'], r['class'])} (no. {r['rank']})" for r in row["features"])
    return ", ".join(roles)


def _class(factor: str, name: str) -> str:
    return html.escape(f"{spoken(factor)}: {name}")


def _most_changed(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The factor that changes most when a latent is turned up, and its class."""
    effects = row["effect"]["up"]
    factor = max(effects, key=lambda name: abs(effects[name]["value"]))
    return factor, effects[factor]


def _peak(told: Mapping[str, Any], row: Mapping[str, Any]) -> float:
    by_step = row["by_step"]
    peak: float = told["timesteps"][by_step.index(max(by_step))]
    return peak


def _times_found(told: Mapping[str, Any], row: Mapping[str, Any]) -> int:
    return sum(cosine >= told["found"] for cosine in row["found_again"].values())


# --------------------------------------------------------------------------------------------------
# A card


def _card(subject: str, told: Mapping[str, Any], place: int, known: set[int]) -> str:
    row = told["latents"][place]
    return CARD.substitute(
        number=row["latent"],
        told=_sentences(told, row),
        strips=_strips(subject, told, place) + _by_step(told, row),
        factors="\n".join(_factor(row, factor) for factor in row["tracks"]["each"]),
        near=_near(row, known),
    )


def _sentences(told: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    cosines = ", ".join(f"{cosine:.2f}" for cosine in row["found_again"].values())
    times, seeds = _times_found(told, row), len(row["found_again"])
    role = f"A bias feature of {_features(row)}. " if row["features"] else "No bias feature. "
    return (
        f"{role}It fires on {100 * row['density']:.2f} % of all vectors. Of {seeds} k-SAEs of "
        f"other seeds, {times} have it too (cosines {cosines})."
    )


def _strips(subject: str, told: Mapping[str, Any], place: int) -> str:
    """The pictures of a latent: where it is most active, and what turning it does."""
    top, shown = told["top"], told["shown"]
    number = told["latents"][place]["latent"]
    parts = (
        (top, "most active", f"The {top} images in which latent {number} is most active"),
        (top, "where", f"The same images, lit where latent {number} is active"),
        (shown, "off", f"{shown} images with latent {number} off"),
        (shown, "as it is", "The same images as they are"),
        (shown, "turned up", f"The same images with latent {number} turned up"),
    )
    sheet, below = divmod(place, told["per_sheet"])
    side = max(SIDE, told["size"])
    drawn, x = [], 0
    for count, caption, label in parts:
        drawn.append(
            STRIP.substitute(
                label=label,
                caption=caption,
                width=count * side,
                side=side,
                sheet=f"{STATIC}/atlas/{slug(subject)}/sheet-{sheet}.webp",
                all=side * sum(count for count, *_ in parts),
                x=x * side,
                y=below * side,
            )
        )
        x += count
    return "".join(drawn)


def _by_step(told: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """A bar for each timestep: how active the latent is."""
    by_step, high = row["by_step"], max(row["by_step"])
    width, tall = 16, 48
    bars = []
    for step, value in enumerate(by_step):
        height = tall * value / high if high else 0
        bars.append(
            f'<rect x="{step * width}" y="{tall - height:.1f}" width="{width - 3}" '
            f'height="{height:.1f}"/>'
        )
    first, last = (f"{told['timesteps'][end]:g}" for end in (0, -1))
    label = f"Mean activation from t = {first} to {last}; largest at {_peak(told, row):g}"
    across = width * len(by_step)
    return (
        f'<figure><svg class="steps" role="img" aria-label="{label}" width="{across}" '
        f'height="{tall + 14}">{"".join(bars)}<text x="0" y="{tall + 12}">t = {first}</text>'
        f'<text x="{across}" y="{tall + 12}" text-anchor="end">{last}</text></svg>'
        "<figcaption>mean activation</figcaption></figure>"
    )


def _factor(row: Mapping[str, Any], factor: str) -> str:
    auroc = row["tracks"]["each"][factor]
    cells = [f"{auroc:.2f}", *(_change(row["effect"][way][factor]) for way in ("off", "up"))]
    name = html.escape(spoken(factor))
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _change(change: Mapping[str, Any]) -> str:
    low, high = change["low"], change["high"]
    name = html.escape(change["class"])
    return f"{name} {change['value']:+.2f} [{low:.2f}, {high:.2f}]"


def _near(row: Mapping[str, Any], known: set[int]) -> str:
    """The neighbours, as links where they have cards."""
    words = []
    for latent, cosine in row["near"]:
        name = f'<a href="#latent-{latent}">{latent}</a>' if latent in known else str(latent)
        words.append(f"{name} ({cosine:.2f})")
    return f"Nearest by decoder cosine: {', '.join(words)}."
