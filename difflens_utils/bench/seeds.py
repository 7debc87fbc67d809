"""The seeds of a version of the benchmark: what one version has looked at the next one does not.

Streams from TRIAL on are for measuring a row once more, each on images that nobody has seen.

>>> from difflens_utils.bench import seeds
>>> seeds.of(1).report, seeds.of(2).report
(6001, 7001)
>>> seeds.CURRENT.report in seeds.RESERVED
True
"""

from __future__ import annotations

from typing import NamedTuple

from . import VERSION

MEASURED = 6010  # of the pictures that tell what a latent does, see `truth`
TRIAL, TRIALS = 1000, 1_000_000  # the first stream that is no version, and how many there are


class Seeds(NamedTuple):
    """What each is of."""

    tuning: int  # images that strengths are tried on
    report: int  # images that are reported on
    held_out: int  # those under prompts that nothing was learned from
    held_out_base: int  # unedited ones under these prompts, whose class shares are counted
    probes: int  # scenes and noise of the probes; of several ways this and the next ones


def of(version: int) -> Seeds:
    """The seeds of a version, from 1."""
    first = 5000 + 1000 * version
    return Seeds(first, first + 1, first + 2, first + 3, first + 100)


CURRENT = of(VERSION)
RESERVED = frozenset({*CURRENT, *of(VERSION + 1), MEASURED})
"""No submission can draw from these seeds, of this version and the next."""
