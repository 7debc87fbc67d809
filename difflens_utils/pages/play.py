"""A control that samples: two attributes are turned at once, by one method or another.

`dl.play(study)` shows it in a notebook. Images are drawn when a slider is let go, and kept in the
store: what was drawn once comes back at once.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import ipywidgets as widgets

from .. import debiasing, edits, metrics
from ..analysis import scoring
from ..methods import Method, dense, difflens
from ..metrics import Estimate
from ..outcome import Outcome
from ..runtime.errors import all_positive, one_of
from ..sampling import Edit
from . import figures

if TYPE_CHECKING:
    from ..study import Study

FACE = 96  # pixels that an image is enlarged to at most
COLUMNS = 6
TURNED = 2  # attributes at most
Rows = Callable[["Study", str], Sequence[Method]]


def steered(study: Study, attribute: str) -> list[Method]:
    """DiffLens and the mean difference of h, which need no search and no training of their own."""
    return [difflens(study.features(), attribute), dense.rows(study, attribute)[0]]


class Dial:
    """What turns one attribute: the class that it goes towards, and how far."""

    def __init__(
        self, attribute: str, classes: Sequence[str], react: Callable[[object], None]
    ) -> None:
        """Has `react` called whenever something is dialled."""
        self.attribute, self._react = attribute, react
        named = [(f"{attribute}: {name}", number) for number, name in enumerate(classes)]
        self.target = widgets.Dropdown(options=named, description="towards")
        self.strength = widgets.SelectionSlider(
            options=[0.0], description="strength", continuous_update=False
        )
        self.control = widgets.HBox([self.target, self.strength])
        self.target.observe(react, "value")
        self.strength.observe(react, "value")

    def take(self, method: Method) -> None:
        """Offers the strengths of a method, and none of them to begin with; nothing reacts."""
        self.strength.unobserve(self._react, "value")
        self.strength.options = [0.0, *method.grid]
        self.strength.value = 0.0
        self.strength.observe(self._react, "value")
        self.target.disabled = method.whole

    def edit(self, method: Method) -> Edit | None:
        """The edit that is dialled; None for strength 0."""
        if not self.strength.value:
            return None
        target = debiasing.EVERY if method.whole else self.target.value
        return method.towards(target, self.strength.value)


class Play:
    """The state of the control: what is chosen, and the images that follow.

    `method` and the two parts of each dial are ipywidgets, which a program can set too. `before`
    and `after` are the images without and under the edits.
    """

    def __init__(self, study: Study, rows: Rows = steered, n: int = 12) -> None:
        """Raises ValueError for n <= 0, and for rows without a method that moves h."""
        all_positive(n=n)
        self.study, self.n = study, n
        self._methods = cache(lambda attribute: _of_h(rows(study, attribute)))
        chosen = study.attributes[:TURNED]
        self.dials = [Dial(str(a), a.classes, self._draw) for a in chosen]
        names = [name for name in self._methods(chosen[0]) if self._turns_all(name)]
        if not names:
            raise ValueError("rows must hold a method of every attribute that edits h")
        self.method = widgets.Dropdown(options=names, description="method")
        self.picture = widgets.Image(format="png")
        self.says = widgets.HTML()
        self.before = self.after = study.draw(n=n, seed=study.seeds.shown)
        parts = [dial.control for dial in self.dials]
        self.control = widgets.VBox([self.method, *parts, self.picture, self.says])
        self._choose()
        self.method.observe(self._choose, "value")

    def _turns_all(self, name: str) -> bool:
        return all(name in self._methods(dial.attribute) for dial in self.dials)

    def _choose(self, _change: object = None) -> None:
        for dial in self.dials:
            dial.take(self._chosen(dial))
        self._draw()

    def _chosen(self, dial: Dial) -> Method:
        return self._methods(dial.attribute)[self.method.value]

    def _draw(self, _change: object = None) -> None:
        """Draws what is dialled, and says what the evaluators see."""
        dialled = [dial.edit(self._chosen(dial)) for dial in self.dials]
        made = [edit for edit in dialled if edit is not None]
        self.after = self._drawn(edits.compose(*made)) if made else self.before
        scale = max(1, FACE // self.after.images.shape[-1])
        self.picture.value = figures.png(figures.mosaic(self.after.images, COLUMNS, scale))
        self.says.value = _table(self.readings())

    def _drawn(self, edit: Edit) -> Outcome:
        study, method = self.study, self._chosen(self.dials[0])
        seed, steps = study.seeds.shown, study.settings.steps
        return study.judge(debiasing.draw(study.subject, method, edit, self.n, seed, steps))

    def _repr_mimebundle_(self, **options: object) -> object:
        return self.control._repr_mimebundle_(**options)

    def readings(self) -> dict[str, Estimate]:
        """The shares of the classes that are turned, what is kept, and what else has changed."""
        after, found = self.after, {}
        for dial in self.dials:
            for number, name in enumerate(self.study.subject.classes(dial.attribute)):
                found[f"{dial.attribute}: {name}"] = after.share(dial.attribute, number)
        turned = [dial.attribute for dial in self.dials]
        found["CLIP-I"] = metrics.clip_i(self.before.clip, after.clip).raw
        found["leak"] = scoring.leak(self.study.subject, turned, self.before, after)
        return found


def _of_h(rows: Sequence[Method]) -> dict[str, Method]:
    """The methods that edit h: those that change the network cannot be composed."""
    return {method.name: method for method in rows if not method.network}


def _table(readings: dict[str, Estimate]) -> str:
    cells = (
        f"<tr><th>{html.escape(name)}</th><td>{value}</td></tr>" for name, value in readings.items()
    )
    return f"<table>{''.join(cells)}</table>"


def play(study: Study, rows: Rows = steered, *, n: int = 12, method: str | None = None) -> Play:
    """Shows sliders for the first two attributes of a study, which draw `n` images as they are set.

    `rows(study, attribute)` gives the methods to choose from: by default DiffLens and the mean
    difference, and with `dl.methods.rows` all of Table 1. Raises ValueError, in one line, for an
    unknown `method` to begin with.
    """
    shown = Play(study, rows, n)
    if method is not None:
        one_of("method", method, shown.method.options)
        shown.method.value = method
    return shown
