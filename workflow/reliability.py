"""How far the figures of the benchmark can be relied on: `python -m workflow.reliability`.

For each track and subject, with a method that is known to be good and one that is known to be bad:

- noise: the standard deviation of the good one's figure over SEEDS seeds, each of which also
  resamples the images that it learns from: methods that draw nothing have noise too;
- ceiling: for effects of latents, what the true ones would reach beside the measured ones;
- correlation: Spearman's, of the figure and of how much the good one has learned from;
- apart: in how many resamples the good one lies above the bad one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from difflens_utils import metrics
from difflens_utils.bench import TRACKS, VERSION, rank
from difflens_utils.bench.run import Arena, Entry
from difflens_utils.bench.submission import Submission
from difflens_utils.metrics import Estimate
from difflens_utils.runtime.artifacts import atomic
from workflow import submit
from workflow.execute import ROOT, names_of
from workflow.leaderboard import RELIABILITY

SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Series:
    """A good method that learns from ever more, and a bad one."""

    good: str
    bad: str
    option: str  # the option that says from how much
    amounts: tuple[int, ...]  # every class must be among the least

    def within(self, subject: Arena) -> list[int]:
        """The amounts that there are: no more images than are frozen."""
        most = len(subject.frozen.h) if self.option == "n" else max(self.amounts)
        return [min(amount, most) for amount in self.amounts]


SERIES = {
    "recover": Series("topk", "random-units", "steps", (1, 25, 75, 200, 600)),
    "attribute": Series("class-difference", "random-scores", "n", (32, 64, 128, 400)),
    "steer": Series("mean-difference", "shuffled-difference", "n", (32, 64, 128, 400)),
    "balance": Series("mean-difference", "shuffled-difference", "n", (32, 64, 128, 400)),
    "locate": Series("patching", "everywhere-alike", "pairs", (1, 2, 4, 8, 16)),
}


def measured(subject: Arena, track: str) -> dict[str, Any]:
    """One row of the table."""
    series, name = SERIES[track], subject.frozen.subject
    good, bad = (_figure(subject, track, folder) for folder in (series.good, series.bad))
    again = [
        _figure(replace(subject, resample=seed), track, series.good, seed=seed).value
        for seed in SEEDS
    ]
    grown = [
        _figure(subject, track, series.good, options={series.option: amount}).value
        for amount in series.within(subject)[:-1]
    ]
    found = metrics.rank_correlation(series.within(subject), [*grown, good.value])
    return {
        "track": track,
        "subject": name,
        "noise": round(float(np.std(again, ddof=1)), 4),
        "ceiling": _ceiling(subject) if track == "attribute" else None,
        "grows_with": f"{series.option}: {', '.join(map(str, series.within(subject)))}",
        "correlation": None if np.isnan(found) else round(float(found), 3),
        "good": series.good,
        "good_value": round(good.value, 4),
        "bad": series.bad,
        "bad_value": round(bad.value, 4),
        "apart": round(_apart(good, bad), 4),
    }


def _figure(
    subject: Arena,
    track: str,
    folder: str,
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Estimate:
    """The figure that ranks, of a submission with another seed or other options."""
    submission = Submission.read(ROOT / "submissions" / folder)
    card = submission.card
    changed = replace(card, seed=seed, options={**card.options, **(options or {})})
    entry = Entry(replace(submission, card=changed), subject)
    figures: dict[str, Estimate] = getattr(entry, track)()
    return figures[TRACKS[track][0]]


def _ceiling(subject: Arena) -> float | None:
    return None if subject.truth is None else round(rank.ceiling(subject.truth.halves).value, 3)


def _apart(good: Estimate, bad: Estimate) -> float:
    if good.draws is None or bad.draws is None:
        return float(good.value > bad.value)
    return float((good.draws > bad.draws).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--subject", default=",".join(submit.SUBJECTS))
    parser.add_argument("--track", default=",".join(SERIES))
    options = parser.parse_args()
    names = names_of(parser, "--subject", options.subject, submit.SUBJECTS)
    tracks = names_of(parser, "--track", options.track, SERIES)
    for name in names:
        subject = submit.subject_of(name)
        for track in tracks:
            if track in subject.tracks:
                written(measured(subject, track))


def written(row: dict[str, Any]) -> None:
    """Writes a row in place of an older one of the same track and subject."""
    rows = [old for old in _known() if _place(old) != _place(row)]
    ordered = sorted([*rows, row], key=_place)
    content = {"version": VERSION, "command": "python -m workflow.reliability", "rows": ordered}
    with atomic(RELIABILITY) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def _place(row: Mapping[str, Any]) -> tuple[int, int]:
    return list(SERIES).index(row["track"]), submit.SUBJECTS.index(row["subject"])


def _known() -> list[dict[str, Any]]:
    """The rows that are there of this version."""
    if not RELIABILITY.exists():
        return []
    found = json.loads(RELIABILITY.read_text())
    rows: list[dict[str, Any]] = found["rows"] if found["version"] == VERSION else []
    return rows


if __name__ == "__main__":
    main()
