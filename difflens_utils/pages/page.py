"""The base class of every page: checked parameters, records, verdicts and the result file.

A page needs a study. The notebooks show how pages are used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import Markdown, display

from ..metrics import Estimate
from . import exercises, figures, results, rules, sizes, tables
from .results import Results
from .rules import Verdict

if TYPE_CHECKING:
    from ..study import Study


NATIVE = (
    "**This model is sampled by its pipeline's own call.** Its edits take part in the whole step: "
    "the asymmetric step needs the noise that the network predicts without the edit, which the "
    "call does not show. For the same reason there are no mediated shares, and no methods that "
    "learn through the predicted clean image (latent editing, latent direction, finetuning). "
    "Features are ranked by the h-classifier, and measured on whole images."
)


class Page:
    """A page of the book while its notebook runs.

    The methods of a page draw pictures and return tables. They add their figures to the records,
    from which the verdicts follow. `save` writes the result file.
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
        tables.know(study.factors)
        if study.subject.native:
            display(Markdown(NATIVE))
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

    def verdicts(self) -> pd.DataFrame:
        """The statements of `rules.yml` that rest on this page's records, judged."""
        rows = [self._row(verdict) for verdict in self.results.verdicts()]
        columns = ["statement", "measured", "asked", "by chance", "verdict", "stability"]
        return pd.DataFrame(rows, columns=columns).set_index("statement")

    def _row(self, verdict: Verdict) -> dict[str, str]:
        figures = [self.results.figures[record] for record in verdict.records]
        worst = rules.worst(verdict, figures)
        stability = "" if verdict.stability is None else f"{verdict.stability:.0%}"
        return {
            "statement": verdict.says if verdict.counts else f"({verdict.says})",
            "measured": str(worst)
            if len(figures) == 1
            else f"{worst}, the worst of {len(figures)}",
            "asked": verdict.asks,
            "by chance": self._chance(verdict.chance),
            "verdict": verdict.state,
            "stability": stability,
        }

    def _chance(self, chance: float | str | None) -> str:
        """What comes out by chance: a number, or the value of a record."""
        if isinstance(chance, str):
            chance = self.value(chance) if chance in self.records else None
        return "" if chance is None else f"{chance:.3g}"

    def judge(self) -> None:
        """Says which stable verdicts differ from those of the committed results."""
        verdicts = {self.results.notebook: self.results.verdicts()}
        print(results.compared(self.results.subject, self.results.profile, verdicts))

    def check(self, exercise: str, answer: object, *given: Any) -> None:
        """Says that the answer to an exercise of the notebook is right.

        `given` are the objects of the notebook that the task is about. Raises `exercises.Wrong`, in
        one line that says what is wrong, for any other answer.
        """
        print(exercises.checked(self, exercise, answer, given))

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
