"""The page of notebook 09: the verdict on each of the paper's claims.

`Score` reads the result files of the other notebooks, and shows every claim with its verdict and
the reason for it.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown

from . import figures, results, scorecard
from .page import Page
from .scorecard import FAILS, HOLDS, PARTLY, UNTESTED

if TYPE_CHECKING:
    from ..study import Study

COLOURS = {
    HOLDS: figures.GREEN,
    PARTLY: figures.ORANGE,
    FAILS: figures.RED,
    UNTESTED: figures.GREY,
}
WIDTH = 94  # characters of a claim in the figure


class Score(Page):
    """The scorecard, from the result files of the other notebooks."""

    needs = ()

    def __init__(self, study: Study, notebook: str, **sizes: Any) -> None:
        super().__init__(study, notebook, **sizes)
        measured = results.load_results(study.subject.name, study.settings.profile)
        self.rows = scorecard.scorecard(measured)
        self.results.scorecard = [row._asdict() for row in self.rows]

    def picture(self) -> None:
        """Every claim with its verdict, in words and in colour."""
        figure, axis = plt.subplots(figsize=(9.5, 0.38 * len(self.rows) + 0.3))
        for height, row in enumerate(self.rows):
            close = " (close)" if row.close else ""
            claim = textwrap.shorten(f"{row.id}  {row.claim}", WIDTH, placeholder=" …")
            axis.barh(height, 1, color=COLOURS[row.verdict])
            verdict = f"{row.verdict}{close}"
            place = {"ha": "center", "va": "center"}
            axis.text(0.5, height, verdict, place, fontsize=8, color="white")
            axis.text(1.04, height, claim, va="center", fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 4.6)
        axis.set_axis_off()
        verdicts = (f"{row.id} {row.verdict}" for row in self.rows)
        figures.describe(figure, f"The verdict on each claim: {', '.join(verdicts)}")

    def claims(self) -> Markdown:
        """The claims, the paper's figures and ours, and the verdicts."""
        lines = ["| | claim | the paper | here | verdict |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            close = " (close)" if row.close else ""
            ours, verdict = _cell(row.ours), f"**{row.verdict}**{close}"
            lines.append(f"| {row.id} | {row.claim} | {row.paper} | {ours} | {verdict} |")
        return Markdown("\n".join(lines))

    def reasons(self) -> Markdown:
        """One line per claim: why, and where its figure is."""
        lines = []
        for row in self.rows:
            place = f"[{row.notebook}]({row.notebook}.ipynb), *{row.section}*"
            lines.append(f"- **{row.id}, {row.verdict}**: {_cell(row.why)}. See {place}.")
        return Markdown("\n".join(lines))

    def judge(self) -> None:
        """Prints the verdict of every claim, one per line."""
        for row in self.rows:
            verdict = "too close to check" if row.close else row.verdict
            print(row.id, row.claim, "->", verdict)

    def counts(self) -> pd.DataFrame:
        """Counts the claims by verdict, glues the counts into the text, and saves them."""
        from myst_nb import glue  # here, since it imports all of Sphinx

        found = Counter(row.verdict for row in self.rows)
        table = {verdict: found[verdict] for verdict in (HOLDS, PARTLY, FAILS, UNTESTED)}
        for verdict, number in table.items():
            name = verdict.replace(" ", "_")
            self.add(f"scorecard.{name}", number, n=len(self.rows))
            glue(name, number, display=False)
        self.save()
        return pd.DataFrame({"claims": table}).T


def _cell(text: str) -> str:
    """Text that may stand in a cell of a table in Markdown."""
    return text.replace("|", "\\|")
