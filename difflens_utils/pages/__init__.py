"""What a page of the book is made of: figures, tables, records and verdicts."""

from __future__ import annotations

from .ablations import Ablations
from .debiasing import Debiasing
from .page import Page
from .score import Score

# The page of each notebook. One that is not named here gets a plain `Page`.
PAGES: dict[str, type[Page]] = {
    "06_debiasing": Debiasing,
    "07_ablations": Ablations,
    "09_scorecard": Score,
}

__all__ = ["PAGES", "Page"]
