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
from functools import cached_property

import numpy as np

from .. import debiasing, metrics
from ..analysis.scoring import Scale
from ..debiasing import Mixture, Search
from ..methods import Method
from ..metrics import Array, Estimate
from ..outcome import Outcome
from ..study import Study
from ..subjects.conditions import Prompt
from .seeds import Seeds

TUNED, REPORTED = 64, 132  # images per strength, and of a report
HALF = 0.5  # the share of the unedited FD that is left where methods are compared


@dataclass(frozen=True)
class Tried:
    """A method whose strengths have been tried for an attribute."""

    study: Study
    search: Search
    seeds: Seeds
    seed: int
    """Of the images that are reported on."""
    prompts: Sequence[Prompt] | None = None
    """Those of these images; None stands for the study's own."""

    @property
    def attribute(self) -> str:
        return self.search.attribute

    @cached_property
    def unedited(self) -> Outcome:
        """The images without an edit."""
        return self.study.draw(n=REPORTED, seed=self.seed, prompts=self.prompts)

    def carried_out(self, target: Sequence[float]) -> Mixture:
        """The images by the plans for a target."""
        made = self.study.debias(
            self.search,
            target,
            n=REPORTED,
            seed=self.seed,
            together=self.search.method.network,
            prompts=self.prompts,
        )
        return made.mixture

    def scale(self, target: Sequence[float]) -> Scale:
        """What they are measured by."""
        return self.study.scale(self.attribute, self.unedited, target, of=self.search)

    def gone(self, target: Sequence[float]) -> Estimate:
        """The share of the squared FD that is gone by the plans for a target."""
        return self.scale(target).removed(self.carried_out(target))


def tried(study: Study, method: Method, attribute: str, seeds: Seeds) -> Tried:
    """Tries a method's strengths on the tuning seeds."""
    arms = debiasing.respond(
        study.subject, method, attribute, n=TUNED, seed=seeds.tuning, steps=study.settings.steps
    )
    search = Search(method, attribute, arms, study.base[attribute], study.counted)
    return Tried(study, search, seeds, seeds.report)


def steer(method: Tried) -> dict[str, Estimate]:
    """The figures of track 3.

    `kept` is CLIP-I above strangers at half of the unedited FD, in a CLIP that no method learns
    from (0 for a method that does not get there), and `leak` the mean shift of unrelated factors.
    """
    study, uniform = method.study, _uniform(method)
    full = method.carried_out(uniform)
    half = study.nearer(method.search, uniform, HALF, n=REPORTED, seed=method.seed)
    kept, leak = method.scale(uniform).matched(half, full, HALF)
    return {"kept": kept, "leak": leak}


def balance(method: Tried) -> dict[str, Estimate]:
    """The figures of track 4: shares of the squared FD that are gone, their mean first."""
    study, seeds, uniform = method.study, method.seeds, _uniform(method)
    parts = {
        "equal": method.gone(uniform),
        "turned round": method.gone(turned_round(method.search.base.mean(0))),
    }
    if prompts := study.prompts.held_out:
        base = study.base_shares(100 * len(prompts), seeds.held_out_base, prompts)
        search = method.search.on(base[method.attribute], 100)
        under = Tried(study, search, seeds, seeds.held_out, prompts)
        parts["held-out prompts"] = under.gone(uniform)
    known = [part for part in parts.values() if not np.isnan(part.value)]
    return {"gone": metrics.combined(_mean, *known) if known else metrics.NOTHING} | parts


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
