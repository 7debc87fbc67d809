"""The page of notebook 09: which statements of each claim hold.

`Score` reads the result files of the other notebooks. It shows the statements of every claim as
dots, and lists those that do not hold.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from . import figures, results, scorecard
from .page import Page
from .rules import FAILS, HOLDS, UNDECIDED

if TYPE_CHECKING:
    from ..study import Study

MARKS: dict[
    str, dict[str, Any]
] = {  # of a state, as matplotlib draws them: shapes differ where colours look alike
    HOLDS: {"marker": "o", "color": figures.GREEN},
    UNDECIDED: {"marker": "o", "color": figures.ORANGE, "facecolor": "none"},
    FAILS: {"marker": "x", "color": figures.RED},
}
WIDTH = 58  # characters of a line of a claim in the figure


class Score(Page):
    """The scorecard, from the result files of the other notebooks."""

    needs = ()

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        found = results.load_results(study.subject.name, study.settings.profile)
        found.pop(notebook, None)  # its own, of an earlier run
        self.notebooks = list(found)
        self.statements = scorecard.statements(found)
        self.lines = scorecard.scorecard(found)

    def picture(self) -> None:
        """Every claim with its statements as dots, those that hold first."""
        figure, axis = plt.subplots(figsize=(9.5, 0.42 * len(self.lines) + 0.9))
        for height, line in enumerate(self.lines):
            _dots(axis, height, line)
        for state, mark in MARKS.items():
            axis.scatter([], [], label=state, s=70, **mark)
        names = [textwrap.fill(f"{line.claim.id}  {line.claim.text}", WIDTH) for line in self.lines]
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xticks([])
        axis.set_xlim(0, max(len(line.statements) for line in self.lines) + 6)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(MARKS), frameon=False)
        axis.grid(False)
        for side in axis.spines.values():
            side.set_visible(False)
        counts = ", ".join(f"{line.claim.id} {line.verdict}" for line in self.lines)
        figures.describe(figure, f"How many statements of each claim hold: {counts}")

    def claims(self) -> Markdown:
        """How many statements of each claim hold, the paper's figures, and ours."""
        lines = ["| statements | | claim | the paper | here |", "| --- | --- | --- | --- | --- |"]
        for line in self.lines:
            claim = line.claim
            cells = (line.verdict, claim.id, claim.text, claim.paper, " ".join(line.ours))
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        return Markdown("\n".join(lines))

    def failing(self) -> Markdown:
        """What does not hold and what is undecided, claim by claim, and where its figures are."""
        lines = []
        for line in self.lines:
            claim = line.claim
            place = f"[{claim.notebook}]({claim.notebook}.ipynb), *{claim.section}*"
            lines.append(f"- **{claim.id}. {claim.text}**: {line.verdict}. See {place}.")
            lines += [f"    - {_cell(one.failing)}" for one in line.that(FAILS, UNDECIDED)]
        return Markdown("\n".join(lines))

    def judge(self) -> None:
        """Says which stable verdicts of all notebooks differ from the committed results."""
        verdicts = {
            notebook: [one.verdict for one in self.statements if one.notebook == notebook]
            for notebook in self.notebooks
        }
        print(results.compared(self.results.subject, self.results.profile, verdicts))

    def counts(self) -> pd.DataFrame:
        """Counts the statements by their state, glues the counts into the text, and saves them."""
        from myst_nb import glue  # here, since it imports all of Sphinx

        counted = sum(len(line.statements) for line in self.lines)
        table = {state: sum(len(line.that(state)) for line in self.lines) for state in MARKS}
        for state, count in table.items():
            self.add(f"scorecard.{state.replace(' ', '_')}", count, n=counted)
            glue(state.replace(" ", "_"), count, display=False)
        for line in self.lines:
            if line.statements:
                holding, total = len(line.that(HOLDS)), len(line.statements)
                self.add(f"scorecard.{line.claim.id}.holds", holding, n=total)
        glue("statements", counted, display=False)
        glue("untested", sum(not line.statements for line in self.lines), display=False)
        self.save()
        return pd.DataFrame({"statements": table})


def _dots(axis: Axes, height: int, line: scorecard.Line) -> None:
    """The statements of a claim at one height, and how many hold."""
    place = 0.5
    for state, mark in MARKS.items():
        count = len(line.that(state))
        axis.scatter([place + i for i in range(count)], [height] * count, s=70, **mark)
        place += count
    axis.text(place, height, line.verdict, va="center", fontsize=9)


def _cell(text: str) -> str:
    """Text that may stand in a cell of a table in Markdown."""
    return text.replace("|", "\\|")
