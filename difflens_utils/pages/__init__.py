"""The pages of the book: their figures, tables, records and verdicts.

>>> from difflens_utils.pages import PAGES
>>> PAGES["00_bias"].__name__
'Bias'
"""

from __future__ import annotations

from .ablations import Ablations
from .attribution import AttributionPage
from .bias import Bias
from .debiasing import Debiasing
from .interventions import Interventions
from .multi import Multi
from .page import Page
from .polysemanticity import Polysemanticity
from .probes import Probes
from .score import Score
from .sparse import Sparse

# The page of each notebook. One that is not named here gets a plain `Page`.
PAGES: dict[str, type[Page]] = {
    "00_bias": Bias,
    "01_polysemanticity": Polysemanticity,
    "02_ksae": Sparse,
    "03_probes": Probes,
    "04_attribution": AttributionPage,
    "05_interventions": Interventions,
    "06_debiasing": Debiasing,
    "07_ablations": Ablations,
    "08_multi_attribute": Multi,
    "09_scorecard": Score,
}

__all__ = ["PAGES", "Page"]
