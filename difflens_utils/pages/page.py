"""The base class of every page: checked parameters, records, verdicts and the result file.

A page needs a study. The notebooks show how pages are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import Markdown

from ..metrics import Estimate
from . import figures, sizes
from .results import Results

if TYPE_CHECKING:
    from ..study import Study


class Page:
    """A page of the book while its notebook runs.

    The methods of a page draw pictures and return tables. They add their figures to the records,
    from which `judge` decides the verdicts. `save` writes the result file.
    """

    frechet: tuple[str, ...] = ()
    """Sizes of sets whose Fréchet distance is taken: more images than the scorer has features."""

    needs: tuple[str, ...] | None = None
    """The names of the notebook's own sizes; None where any will do."""

    def __init__(self, study: Study, notebook: str, **sizes_: Any) -> None:
        self._check_names(notebook, study.settings.meanings(), sizes_)
        numbers = study.settings.numbers() | sizes_
        sizes.check(study.subject, frechet=self.frechet, **numbers)
        figures.style()
        self.study = study
        self.sizes = sizes_
        self.results = Results(
            notebook,
            subject=study.subject.name,
            profile=study.settings.profile,
            **numbers,
        )

    def _check_names(
        self, notebook: str, settings: Collection[str], sizes_: Collection[str]
    ) -> None:
        """Raises ValueError, in one line, for a size that is missing, unknown, or a setting."""
        for name in sizes_:
            if name in settings:
                raise ValueError(f"{name} is a setting and no size: give it to dl.open")
        needs = sizes_ if self.needs is None else self.needs
        for name in sizes_:
            if name not in needs:
                known = ", ".join(needs) or "none"
                raise ValueError(f"sizes of {notebook} are {known}; got {name}")
        for name in needs:
            if name not in sizes_:
                raise ValueError(f"{name} must be given: {notebook} has it as a size")

    @property
    def records(self) -> Mapping[str, Any]:
        """Every record so far: {name: {"value", "low", "high", "n", "seed"}}."""
        return self.results.records

    def value(self, name: str) -> float:
        """The value of a record. It is nan, shown as a dash, for a record without a figure."""
        value: float = self.records[name]["value"]
        return value

    def add(self, name: str, value: Estimate | float, n: int | None = None) -> None:
        """Records a figure under a dotted name."""
        self.results.add(name, value, n)

    def claim(
        self,
        claim: str,
        record: str,
        target: str,
        holds: bool,
        partly: bool = False,
        close: bool = False,
    ) -> None:
        """States whether a claim holds, by a rule computed from records."""
        self.results.judge(claim, record, target, holds, partly, close)

    def judge(self) -> None:
        """Decides the page's verdicts by their rules, and prints them, one per line."""
        print(self.results.checked())

    def verdicts(self) -> pd.DataFrame:
        """The verdicts, with the figure and the rule of each."""
        rows = [
            {
                "statement": verdict["claim"],
                "measured": self.records[verdict["record"]]["value"],
                "rule": verdict["target"],
                "verdict": verdict["verdict"] + (" (close)" if verdict["close"] else ""),
            }
            for verdict in self.results.verdicts
        ]
        columns = ["statement", "measured", "rule", "verdict"]
        return pd.DataFrame(rows, columns=columns).set_index("statement")

    def sentences(self) -> list[str]:
        """What was found, in sentences, from the records."""
        return []

    def summary(self) -> Markdown:
        """Writes the result file, and returns what was found as a list."""
        self.save()
        return Markdown("\n".join(f"- {sentence}" for sentence in self.sentences()))

    def save(self) -> Path:
        """Writes the result file and returns its path."""
        return self.results.save()
