"""Open a diffusion model at its bottleneck, find the sparse features behind a bias, turn them.

>>> import difflens_utils as dl
>>> dl.open("portraits", device="cpu").attributes
('gender', 'age', 'tone')

Data flows one way. A module imports only from the lines above its own in this list. `name/` stands
for the modules of a folder, which import each other without a circle. A module of a folder may have
a line of its own (`name.module`).

    runtime/
    settings, metrics/, subjects/, pages.tables
    sampling/, ksae/, pages.descriptions, pages.rules
    evaluators/, pages.figures, pages.results
    worlds/
    subjects.conditions
    subjects.pipelines
    subjects.native
    recording, analysis/, methods.planning, subjects.registry
    probes, outcome, ksae.stored, pages.sizes
    attribution, edits
    features
    methods/
    debiasing
    analysis.scoring
    pages/
    study
    bench/
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .runtime import torchvision

torchvision.mend()  # before anything imports diffusers

if TYPE_CHECKING:
    from . import bench, edits, methods, metrics
    from .pages import figures
    from .pages.play import play
    from .sampling import Edit
    from .settings import Seeds, Settings
    from .study import Study, open
    from .subjects.attribute import Attribute

__version__ = "0.2.0"
__all__ = [
    "Attribute",
    "Edit",
    "Seeds",
    "Settings",
    "Study",
    "bench",
    "edits",
    "figures",
    "methods",
    "metrics",
    "open",
    "play",
]
# Where each is: all of them together take seconds to import.
_FROM = {
    "Attribute": "subjects.attribute",
    "Edit": "sampling",
    "Seeds": "settings",
    "Settings": "settings",
    "Study": "study",
    "figures": "pages",
    "open": "study",
    "play": "pages.play",
}


def __getattr__(name: str) -> Any:
    """Imports a public name, or any module, when it is first asked for (PEP 562)."""
    if name in _FROM:
        found: Any = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    elif find_spec(f"{__name__}.{name}"):
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
