"""Runs a submission on a subject: every track that it answers, in one dictionary of figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import edits, methods
from ..ksae import KSAE
from ..methods import Method
from ..metrics import Array, Estimate
from ..runtime.errors import line
from ..sampling import Edit
from ..study import Study
from . import TRACKS, fair, foreign, locate, rank, recover
from .fair import Tried
from .frozen import Frozen, Units
from .seeds import CURRENT, Seeds
from .submission import Submission
from .task import Given, Task, blindly, edit_of, task
from .truth import Truth

Figures = dict[str, Estimate]


@dataclass(frozen=True)
class Arena:
    """A subject of the benchmark, with all that is frozen of it."""

    study: Study
    frozen: Frozen
    truth: Truth | None = None  # None where nothing was measured
    dictionary: KSAE | None = None  # None where none ships
    book: Study | None = None
    """The study with the book's own sizes, whose rows `row` takes."""
    seeds: Seeds = CURRENT
    resample: int | None = None
    """The seed of a bootstrap of the frozen images, which methods then learn from; None: of all."""

    @property
    def images(self) -> Tensor:
        """The numbers of the frozen images that methods learn from: (n,)."""
        n = len(self.frozen.h)
        if self.resample is None:
            return torch.arange(n)
        return torch.randint(n, (n,), generator=torch.Generator().manual_seed(self.resample))

    @property
    def tracks(self) -> tuple[str, ...]:
        """The tracks that it has."""
        if self.truth is None:
            return ("recover",)
        return tuple(TRACKS) if self.dictionary else ("recover", "locate")


@dataclass(frozen=True)
class Entry:
    """A submission on a subject."""

    submission: Submission
    subject: Arena
    progress: Callable[[str], None] = field(default=lambda _text: None)

    def figures(self) -> dict[str, Figures]:
        """The figures of every track that both have: {track: {figure: estimate}}.

        Raises ValueError, in one line, that names the track, for whatever goes wrong in it.
        """
        found = {}
        for track in self.submission.tracks:
            if track in self.subject.tracks:
                self.progress(track)
                try:
                    found[track] = getattr(self, track)()
                except (Exception, SystemExit) as error:  # whatever code of others raises
                    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                    raise ValueError(f"{self._where(track)}: {kind}{line(error)}") from error
        return found

    def _where(self, track: str) -> str:
        return f"{self.submission.slug}, {track}, {self.subject.frozen.subject}"

    # ------------------------------------------------------------------ tracks

    def recover(self) -> Figures:
        """Track 1."""
        world = self.subject.study.world
        return recover.score(self._units(), self.subject.frozen, recover.hierarchies(world))

    def attribute(self) -> Figures:
        """Track 2."""
        truth = self._truth()
        scores = self._call("scores", self._task, _array)
        wide = (len(self._task.classes), len(self._dictionary.directions))
        if scores.shape != wide:
            raise ValueError(f"scores must be {wide}, got {tuple(scores.shape)}")
        return rank.score(torch.from_numpy(scores)[:, truth.latents], truth.effects)

    def steer(self) -> Figures:
        """Track 3."""
        return fair.steer(self._tried)

    def balance(self) -> Figures:
        """Track 4."""
        return fair.balance(self._tried)

    def locate(self) -> Figures:
        """Track 5."""
        return locate.score(self._call("located", self._task, _arrays), self._truth().passed)

    # ------------------------------------------------------------------ what they need

    @cached_property
    def _module(self) -> ModuleType:
        return blindly(self.submission.slug, self.submission.load)()

    def _call(
        self, answer: str, given: Given, read: Callable[[Any], Any] = lambda answered: answered
    ) -> Any:
        """What a function of the submission answers, as plain values: reading them is its code."""
        function = getattr(self._module, answer)
        return blindly(self.submission.slug, lambda: read(function(given)))()

    @cached_property
    def _given(self) -> Given:
        card = self.submission.card
        return Given(self.subject.frozen.h[self.subject.images], card.seed, card.options)

    @cached_property
    def _task(self) -> Task:
        subject, attribute = self.subject, self._truth().attribute
        return task(subject.study, attribute, subject.dictionary, self._given, subject.images)

    @property
    def _dictionary(self) -> KSAE:
        if self.subject.dictionary is None:
            raise ValueError(f"{self.subject.frozen.subject} has no k-SAE that ships")
        return self.subject.dictionary

    def _truth(self) -> Truth:
        if self.subject.truth is None:
            raise ValueError(f"{self.subject.frozen.subject} has no measured truth")
        return self.subject.truth

    def _units(self) -> Units:
        card = self.submission.card
        if card.dictionary is None:
            units = self._call("units", self._given)
            if not callable(units):
                raise ValueError(f"units must return a function of vectors, got {units!r:.60}")
            return blindly(self.submission.slug, units)
        folder = self.submission.folder / card.dictionary.folder
        own = folder / Path(self.subject.frozen.subject).name
        return foreign.load(own if own.is_dir() else folder, card.dictionary.format).latents

    @cached_property
    def _tried(self) -> Tried:
        subject = self.subject
        return fair.tried(subject.study, self._method(), self._truth().attribute, subject.seeds)

    def _method(self) -> Method:
        card, attribute = self.submission.card, self._truth().attribute
        if card.row:
            every = methods.rows(self.subject.book or self.subject.study, attribute)
            found = [method for method in every if method.name == card.row]
            if not found:
                raise ValueError(f"{self.subject.frozen.subject} has no row {card.row}")
            return found[0]
        made = self._call("towards", self._task)
        if not callable(made):
            raise ValueError(f"towards must return a function, got {made!r:.60}")
        return Method(card.name, self._edits(made), card.grid, card.asymmetric)

    def _edits(self, made: Callable[[int, float], Any]) -> Callable[[int, float], Edit]:
        slug = self.submission.slug
        known: Mapping[str, Any] = {
            "submission": self.submission.fingerprint(),
            "given": [self._given.seed, dict(self._given.options)],
            "ksae": self._dictionary.fingerprint(),
            "recording": self.subject.study.recording("learn").key,
            "resample": self.subject.resample,
        }

        def towards(c: int, strength: float) -> Edit:
            if strength == 0:
                return edits.identity()
            edit = blindly(slug, made)(c, strength)
            return edit_of(edit, slug, {**known, "class": c, "strength": strength})

        return towards


def _array(answered: Any) -> Array:
    found: Array = np.array(answered, dtype=np.float64)
    return found


def _arrays(answered: Any) -> dict[str, Array]:
    """Raises ValueError, in one line, for what is no mapping of blocks."""
    if not isinstance(answered, Mapping):
        raise ValueError(f"located must return {{block: effects}}, got {answered!r:.60}")
    return {str(block): _array(effects) for block, effects in answered.items()}
