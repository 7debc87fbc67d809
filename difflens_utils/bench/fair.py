"""Tracks 3 and 4, steer and balance: what do edits keep of images, and do they bring shares about?

The protocol is that of the study. A method's strengths are tried on seeds of their own, plans mix
them, and fresh seeds tell what comes of the plans.

- Steer: what is kept of the images, and what else has changed, where half of the unedited FD is
  left.
- Balance: how much of the distance to a target distribution is gone, for equal shares, for shares
  that are turned round, and for equal shares under prompts that nothing was learned from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import debiasing, metrics
from ..analysis.scoring import Scale
from ..debiasing import Search
from ..methods import Method
from ..metrics import Array, Estimate, Strata
from ..study import Study
from ..subjects.conditions import Prompt

TUNED, REPORTED = 64, 132  # images per strength, and of a report
HALF = 0.5  # the share of the unedited FD that is left where methods are compared
TUNING, REPORT, HELD_OUT, HELD_OUT_BASE = 6000, 6001, 6002, 6003  # seeds of version 1
RESERVED = frozenset({TUNING, REPORT, HELD_OUT, HELD_OUT_BASE})


@dataclass(frozen=True)
class Tried:
    """A method whose strengths have been tried for an attribute."""

    study: Study
    search: Search

    @property
    def attribute(self) -> str:
        return self.search.attribute

    def carried_out(
        self, target: Sequence[float], seed: int, prompts: Sequence[Prompt] | None = None
    ) -> debiasing.Debiased:
        """Images by the plans for a target."""
        together = self.search.method.network
        return self.study.debias(
            self.search, target, n=REPORTED, seed=seed, together=together, prompts=prompts
        )

    def scale(
        self, target: Sequence[float], seed: int, prompts: Sequence[Prompt] | None = None
    ) -> Scale:
        """What these images are measured by."""
        before = self.study.draw(n=REPORTED, seed=seed, prompts=prompts)
        classes = before.scored[self.attribute].argmax(-1)
        strata = Strata.of(classes, self.search.base, self.search.counted, before.prompt)
        return Scale(self.study.subject, self.attribute, target, before, strata, {}, before)


def tried(study: Study, method: Method, attribute: str) -> Tried:
    """Tries a method's strengths on the tuning seeds."""
    arms = debiasing.respond(
        study.subject, method, attribute, n=TUNED, seed=TUNING, steps=study.settings.steps
    )
    return Tried(study, Search(method, attribute, arms, study.base[attribute], study.counted))


def steer(method: Tried) -> dict[str, Estimate]:
    """The figures of track 3.

    `kept` is CLIP-I above strangers at half of the unedited FD, in a CLIP that no method learns
    from (0 for a method that does not get there), and `leak` the mean shift of unrelated factors.
    """
    study, uniform = method.study, _uniform(method)
    scale = method.scale(uniform, REPORT)
    full = method.carried_out(uniform, REPORT)
    half = study.nearer(method.search, uniform, HALF, n=REPORTED, seed=REPORT)
    kept, leak = scale.matched(half, full.mixture, HALF)
    return {"kept": kept, "leak": leak}


def balance(method: Tried) -> dict[str, Estimate]:
    """The figures of track 4: shares of the squared FD that are gone, their mean first."""
    study, uniform = method.study, _uniform(method)
    parts = {
        "equal": _gone(method, uniform, REPORT),
        "turned round": _gone(method, turned_round(method.search.base.mean(0)), REPORT),
    }
    if prompts := study.prompts.held_out:
        base = study.base_shares(100 * len(prompts), HELD_OUT_BASE, prompts)[method.attribute]
        under = Tried(study, method.search.on(base, 100))
        parts["held-out prompts"] = _gone(under, uniform, HELD_OUT, prompts)
    known = [part for part in parts.values() if not np.isnan(part.value)]
    return {"gone": metrics.combined(_mean, *known) if known else metrics.NOTHING} | parts


def _gone(
    method: Tried, target: Sequence[float], seed: int, prompts: Sequence[Prompt] | None = None
) -> Estimate:
    made = method.carried_out(target, seed, prompts)
    return method.scale(target, seed, prompts).removed(made.mixture)


def _mean(*parts: Array) -> Array:
    mean: Array = np.mean(parts, axis=0)
    return mean


def _uniform(method: Tried) -> list[float]:
    return method.study.attribute(method.attribute).uniform


def turned_round(shares: Array) -> list[float]:
    """The target that gives the rarest class the most: shares 1 : 2 : ... by falling frequency.

    >>> from difflens_utils.bench import fair
    >>> [round(share, 3) for share in fair.turned_round([0.7, 0.1, 0.2])]
    [0.167, 0.5, 0.333]
    """
    place = (-np.asarray(shares)).argsort().argsort() + 1
    wanted: list[float] = (place / place.sum()).tolist()
    return wanted
