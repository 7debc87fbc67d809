"""What a page of the book is made of: figures, tables, records and verdicts."""

from __future__ import annotations

from .attribution import AttributionPage
from .interventions import Interventions
from .multi import Multi
from .page import Page

# The page of each notebook. One that is not named here gets a plain `Page`.
PAGES: dict[str, type[Page]] = {
    "04_attribution": AttributionPage,
    "05_interventions": Interventions,
    "08_multi_attribute": Multi,
}

__all__ = ["PAGES", "Page"]
