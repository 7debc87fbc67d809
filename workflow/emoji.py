"""The page of the subject `emoji`: what only this model can tell.

`python -m models.emoji.card` measures it, and `python -m models.emoji.compose` what edits compose.
They write results/emoji.json and results/emoji-composed.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from difflens_utils.pages import figures
from workflow import verdicts

FACTORS = ("style", "role", "gender", "tone", "everything")
WORST, OBEYED = 3, 0.995  # words of a factor that the table names, and those that it need not


def write(found: Mapping[str, Any], source: Path) -> None:
    """Writes what book/emoji.md includes of the card to the source of the book."""
    generated = source / "generated"
    for name, text in {
        "obeyed": obeyed(found),
        "steps": steps(found),
        "planted": planted(found),
        "nearest": nearest(found),
        "judges": judges(found),
        "neutral": neutral(found),
    }.items():
        (generated / f"emoji_{name}.md").write_text(text + "\n")
    picture(found, source / "_static/emoji_shares.png")


def write_composed(found: Mapping[str, Any], source: Path) -> None:
    """Writes what book/emoji.md includes of the edits to the source of the book."""
    (source / "generated/emoji_composed.md").write_text(composed(found) + "\n")


def _shown(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def obeyed(found: Mapping[str, Any]) -> str:
    """Obedience per factor, of combinations that were learned and of those held out."""
    lines = [["named in the prompt", "learned combinations", "held-out combinations", "least"]]
    for factor in FACTORS:
        row = found["obeyed"][factor]
        words = sorted(row.get("words", {}).items(), key=lambda item: item[1]["value"])[:WORST]
        missed = [(word, figure["value"]) for word, figure in words if figure["value"] < OBEYED]
        least = ", ".join(f"{word} {share:.2f}" for word, share in missed)
        held_out = _shown(found["composed"][factor]["all"])
        lines.append([factor, _shown(row["all"]), held_out, least])
    return verdicts.table(lines)


def composed(found: Mapping[str, Any]) -> str:
    """What edits make of combinations that were learned and held out: a row for each method."""
    first = next(iter(found["rows"].values()))
    lines = [["", *(f"{seen}, {label}" for seen, row in first.items() for label in row)]]
    for name, row in found["rows"].items():
        lines.append([name, *(_shown(share) for of in row.values() for share in of.values())])
    return verdicts.table(lines)


def steps(found: Mapping[str, Any]) -> str:
    """How many images show all that they were asked for, by the number of steps: a sentence."""
    shares = [f"{_shown(share)} in {number}" for number, share in found["steps"].items()]
    return (
        f"By the number of steps, the share of images that show everything is {', '.join(shares)}."
    )


def planted(found: Mapping[str, Any]) -> str:
    """How near the generated shares of men are to the planted ones, in a sentence."""
    shares = found["planted"]
    roles = len(shares["roles"])
    tones = ", ".join(
        f"{tone} {row['planted']:.2f} → {_shown(row['generated'])}"
        for tone, row in shares["tones"].items()
    )
    return (
        f"Over {roles} roles the rank correlation of planted and generated shares is "
        f"{shares['rank correlation']:.2f}, and they differ by "
        f"{shares['mean absolute difference']:.2f} on average. Tones, planted → generated: {tones}."
    )


def nearest(found: Mapping[str, Any]) -> str:
    """Distances to the nearest learned drawing, as a table."""
    rows = found["nearest"]
    lines = [["images", "distance to the nearest learned drawing, or share"]]
    lines += [
        [name, f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"]
        for name, row in rows.items()
    ]
    return verdicts.table(lines)


def judges(found: Mapping[str, Any]) -> str:
    """How often the judges are right about held-out combinations: a column per style."""
    first = next(iter(found["judges"]["scorer"].values()))
    lines = [["judge", "factor", *first]]
    for judge, factors in found["judges"].items():
        for factor, row in factors.items():
            lines.append([judge, factor, *(f"{figure['value']:.3f}" for figure in row.values())])
    return verdicts.table(lines)


def neutral(found: Mapping[str, Any]) -> str:
    """The share of gender-neutral drawings that read as men: a column per style."""
    styles = list(found["neutral"]["styles"])
    lines = [["role", *styles]]
    total = found["neutral"]["styles"]
    lines.append(["**all**", *(f"**{_shown(total[style])}**" for style in styles)])
    for role, row in found["neutral"]["roles"].items():
        shares = (row.get(style) for style in styles)
        lines.append([role, *("" if share is None else f"{share:.2f}" for share in shares)])
    return verdicts.table(lines)


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Draws the share of men behind each role: planted to the right, generated upwards."""
    figure = Figure(figsize=(8.6, 5.2), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    named: list[tuple[float, float]] = []  # where names stand, so that none covers another
    roles = sorted(found["planted"]["roles"].items(), key=lambda item: item[1]["planted"])
    for name, row in roles:
        made = row["generated"]
        colour = figures.BLUE if row["source"] else figures.GREY
        axes.plot([row["planted"]] * 2, [made["low"], made["high"]], color=colour, linewidth=1.2)
        axes.plot(row["planted"], made["value"], "o", color=colour, markersize=5)
        spot = row["planted"], made["value"]
        if row["source"] and all(abs(spot[1] - y) > 0.02 or spot[0] - x > 0.2 for x, y in named):
            named.append(spot)
            axes.annotate(name, spot, (5, -3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="men, planted (census)", ylabel="men, generated", xlim=(0, 1.15))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=200)
