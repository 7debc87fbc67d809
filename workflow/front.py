"""What the first two pages show of a run: a slider, findings, and every claim as dots."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import nbformat
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from difflens_utils.pages import scorecard as cards
from difflens_utils.pages.rules import FAILS, HOLDS, UNDECIDED, Verdict
from difflens_utils.pages.score import MARKS
from difflens_utils.pages.scorecard import Line
from workflow.verdicts import Results, table

FINDINGS = {  # claims, what each is called, and which of its sentences says it
    "C1": ("Does it balance?", 0),
    "C12": ("Is it better than the others?", 0),
    "C10": ("Is h the right place?", -1),
}
DECIDES = "C12"  # the claim whose statements tell where the method loses
ROW_OF_DOTS = 9  # so many statements of a claim stand side by side
CLAIM_WIDTH = 44  # characters of a claim in a line
SLIDER = 'class="difflens-slider"'
NO_SLIDER = "The slider is made by notebook 05."


def findings(results: Results, link: Callable[[str, str], str]) -> str:
    """Three claims with what was found, as a list; empty if nothing was judged."""
    lines = {line.claim.id: line for line in cards.scorecard(results)}
    rows = []
    for claim, (question, which) in FINDINGS.items():
        line = lines[claim]
        if not line.statements or not line.ours:
            continue
        count, _, undecided = line.verdict.partition(", ")
        told = f"Of the statements of {link(line.claim.notebook, claim)}, {count}"
        told += f"; {undecided}" if undecided else ""
        rows.append(f"- **{question}** {line.ours[which]} {told}.")
    return "\n".join(rows)


def in_short(results: Mapping[str, Results]) -> str:
    """Whether the method works, over all models {subject: result files}; empty if nothing says."""
    gone, ahead = (_counted(results, rule) for rule in ("balances", "beats baselines"))
    if not gone.total() or not ahead.total():
        return ""
    models = "one model" if len(results) == 1 else f"{len(results)} models"
    return (
        f"**In short.** On {models} DiffLens removes nine tenths of the bias in {gone[HOLDS]} of "
        f"{gone.total()} attributes ({gone[UNDECIDED]} undecided), with choices that were made "
        "here and not with the paper's own. At the same fairness it keeps more of the images than "
        f"every baseline in {ahead[HOLDS]} of {ahead.total()}. In the others some baseline cannot "
        f"be told from it ({ahead[UNDECIDED]}), or does as well or better ({ahead[FAILS]})."
    )


def _counted(results: Mapping[str, Results], rule: str) -> Counter[str]:
    """How many statements of a rule hold, do not hold, and are undecided."""
    found: Counter[str] = Counter()
    for files in results.values():
        for line in cards.scorecard(files):
            for one in line.statements:
                if one.verdict.rule == rule:
                    found[_state(one.verdict)] += 1
    return found


def _state(verdict: Verdict) -> str:
    return UNDECIDED if not verdict.stable else HOLDS if verdict.holds else FAILS


MODELS = {  # what ships: the network, and what it draws
    "portraits": ("unconditional U-Net", "drawn portraits, 32×32"),
    "portraits-t2i": ("Stable Diffusion in miniature", "drawn portraits from text, 64×64"),
    "digits": ("unconditional U-Net", "handwritten digits, 16×16"),
    "emoji": ("Stable Diffusion 3 in miniature", "people of emoji sets from text, 64×64"),
}
FD = ".original.fd"


def models(results: Mapping[str, Results]) -> str:
    """The models of the book with what was planted and what they draw, as a Markdown table."""
    lines = [("model", "network", "draws", "attribute", "planted → drawn, %", "FD")]
    for subject, files in results.items():
        records = {r["name"]: r["value"] for r in files.get("00_bias", {}).get("records", ())}
        about: Sequence[str] = (f"`{subject}`", *MODELS.get(subject, ("", "")))
        for attribute in (name.removesuffix(FD) for name in records if name.endswith(FD)):
            shares = _drawn(records, f"{attribute}.")
            lines.append((*about, attribute, shares, f"{records[attribute + FD]:.2f}"))
            about = ("", "", "")
    return table(lines)


def _drawn(records: Mapping[str, float], attribute: str) -> str:
    """The planted and the drawn share of each class that has a record."""
    told = []
    for name, drawn in records.items():
        if name.startswith(f"share.{attribute}"):
            planted = records.get(name.replace("share.", "planted.", 1))
            before = "" if planted is None else f"{100 * planted:.3g}→"
            told.append(f"{name.rpartition('.')[2]}\N{NO-BREAK SPACE}{before}{100 * drawn:.0f}")
    return ", ".join(told)


def slider(found: Sequence[str]) -> str:
    """The first of some sliders, as raw HTML for a page."""
    return f"```{{raw}} html\n{found[0]}\n```" if found else NO_SLIDER


def sliders(executed: nbformat.NotebookNode) -> Iterator[str]:
    """The sliders of an executed notebook, which notebook 05 makes."""
    for cell in executed.cells:
        for output in cell.get("outputs", ()):
            shown: Mapping[str, Any] = output.get("data", {})
            if SLIDER in shown.get("text/html", ""):
                yield shown["text/html"]


def losses(results: Results) -> str:
    """The statements of the claim that decides which do not hold, as a list."""
    line = next(line for line in cards.scorecard(results) if line.claim.id == DECIDES)
    return "\n".join(f"- {one.failing}" for one in line.that(FAILS, UNDECIDED))


def dots(results: Mapping[str, Results]) -> Figure:
    """Every claim on every subject, {subject: result files}: a dot for each statement."""
    judged = {subject: cards.scorecard(files) for subject, files in results.items()}
    claims = cards.CLAIMS
    figure = Figure(figsize=(9.5, 0.5 * len(claims) + 0.9), layout="constrained")
    axes = figure.subplots(1, len(judged), sharey=True, squeeze=False)[0]
    for axis, (subject, lines) in zip(axes, judged.items(), strict=True):
        for height, line in enumerate(lines):
            _row_of_dots(axis, height, line)
        axis.set_title(subject, fontsize=11, fontfamily="monospace")
        axis.set(xlim=(-0.7, ROW_OF_DOTS), ylim=(len(claims) - 0.4, -0.6), xticks=[])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    said = [textwrap.fill(f"{claim.id} {claim.text}", CLAIM_WIDTH) for claim in claims]
    axes[0].set_yticks(range(len(claims)), said, fontsize=8)
    for state, mark in MARKS.items():
        axes[0].scatter([], [], label=state, s=40, **mark)
    figure.legend(loc="outside lower center", ncols=len(MARKS), frameon=False)
    return figure


def _row_of_dots(axis: Axes, height: float, line: Line) -> None:
    """The statements of a claim around one height, those that hold first."""
    place = 0
    for state, mark in MARKS.items():
        spots = range(place, place + len(line.that(state)))
        below = [height - 0.15 + 0.3 * (spot // ROW_OF_DOTS) for spot in spots]
        axis.scatter([spot % ROW_OF_DOTS for spot in spots], below, s=32, **mark)
        place += len(spots)
