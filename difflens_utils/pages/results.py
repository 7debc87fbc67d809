"""Result files: the figures that the book, the README and the tables are made from.

>>> from difflens_utils.metrics import mean
>>> from difflens_utils.pages import results
>>> found = results.Results("00_bias", subject="portraits", profile="quick", seed=0)
>>> found.add("gender.original.fd", mean([0.28345678, 0.28345678]))
>>> found.records["gender.original.fd"]["value"]
0.283457
>>> [f"{verdict.says}: {verdict}" for verdict in found.verdicts()]
['the unedited model is biased in gender: holds']
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..metrics import NAN, Estimate
from ..runtime import integrity, names, precision, tally
from ..runtime.artifacts import ROOT, atomic
from ..runtime.errors import one_of
from . import rules
from .rules import Verdict

AGREED = "Every stable verdict is that of the reference results."
OTHER_RULES = (
    "The reference results were judged by other rules: once the book is made, "
    "`make reference` takes its results instead."
)
PROFILES = ("try", "quick", "book", "paper", "mine")  # mine: a run with values of the reader's own


class Records(dict[str, dict[str, Any]]):
    """Records by name. A record that was added without a figure is not listed and reads as nan."""

    def __init__(self) -> None:
        super().__init__()
        self.unmeasured: set[str] = set()

    def __missing__(self, name: str) -> dict[str, Any]:
        if name not in self.unmeasured:
            raise KeyError(name)
        return {"name": name, "value": NAN, "low": NAN, "high": NAN, "n": 0, "seed": None}


class Results:
    """The figures of one executed notebook, `_build/results/<profile>/<subject>/<notebook>.json`.

    Every record has a value, a 95 % interval where it has one, a sample size and a seed. The
    verdicts follow from the records by `rules.yml`.
    """

    def __init__(self, notebook: str, *, subject: str, profile: str, **parameters: Any) -> None:
        one_of("profile", profile, PROFILES)
        self.notebook, self.subject, self.profile = notebook, subject, profile
        self.parameters = parameters
        self.records = Records()
        self.figures: dict[str, Estimate] = {}  # the records, with their resamples

    def add(self, name: str, value: Estimate | float, n: int | None = None) -> None:
        """Records a figure under a dotted name, e.g. `ksae.k32.fvu`, to six significant digits.

        A figure that is no number (`metrics.NOTHING`) is not listed. Statements that rest on it are
        not judged.
        """
        if not isinstance(value, Estimate):
            value = Estimate(float(value), NAN, NAN, n or 0)
        if not math.isfinite(value.value):
            self.records.unmeasured.add(name)
            return
        self.figures[name] = value
        self.records[name] = {
            "name": name,
            "value": _rounded(value.value),
            "low": _rounded(value.low),
            "high": _rounded(value.high),
            "n": n or value.n or None,
            "seed": self.parameters.get("seed"),
        }

    def verdicts(self) -> list[Verdict]:
        """The verdicts of the notebook's rules on the records so far."""
        return rules.judge_all(self.notebook, self.figures)

    def save(self) -> Path:
        """Writes the result file and returns its path.

        The environment variable DIFFLENS_RESULTS names another folder. The files of a worker, which
        are not kept, lie there.
        """
        given = os.environ.get("DIFFLENS_RESULTS")
        folder = Path(given) if given else results_folder(self.subject, self.profile)
        content = {
            "notebook": self.notebook,
            "subject": self.subject,
            "profile": self.profile,
            "parameters": self.parameters,
            "environment": environment(),
            "drawn": tally.total(),
            "rules": rules.fingerprint(),
            "records": list(self.records.values()),
            "verdicts": [_plain(verdict) for verdict in self.verdicts()],
        }
        path = folder / f"{self.notebook}.json"
        with atomic(path) as temporary:
            temporary.write_text(integrity.sealed(content), encoding="utf-8")
        return path


def _plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as it stands in a result file."""
    return asdict(verdict) | {"records": list(verdict.records)}


def compared(subject: str, profile: str, verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """What notebooks {notebook: verdicts} decide otherwise than the committed results, in words.

    Results of other sizes have nothing to be compared with, and neither have those of other rules.
    """
    if profile != "book" or not all(reference_file(subject, n).is_file() for n in verdicts):
        return "There are no reference results of this profile and subject."
    found: list[str] = []
    for notebook, judged in verdicts.items():
        reference = json.loads(reference_file(subject, notebook).read_text())
        if reference.get("rules") != rules.fingerprint():
            return OTHER_RULES
        found += differing(judged, reference)
    return "\n".join(found) or AGREED


def differing(verdicts: Sequence[Verdict], reference: Mapping[str, Any]) -> list[str]:
    """The statements that another result file decides otherwise, where both are stable."""
    stable = {
        verdict["says"]: verdict["holds"]
        for verdict in reference["verdicts"]
        if (verdict["stability"] or 0) >= rules.STABLE
    }
    return [v.says for v in verdicts if v.stable and stable.get(v.says, v.holds) != v.holds]


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def results_folder(subject: str, profile: str) -> Path:
    """Where the result files of one subject and profile lie."""
    return ROOT / "_build" / names.results_folder(subject, profile)


def reference_file(subject: str, notebook: str) -> Path:
    """The committed result file of a notebook, in the profile `book`."""
    return ROOT / names.results_folder(subject, "book") / f"{notebook}.json"


def load_results(subject: str, profile: str) -> dict[str, dict[str, Any]]:
    """The result files of executed notebooks: {notebook: content}.

    Raises ValueError, in one line, if there are none, and for one that is damaged.
    """
    files = sorted(results_folder(subject, profile).glob("[0-9][0-9]_*.json"))
    if not files:
        raise ValueError(
            f"subject {subject} has no results of profile {profile}: "
            "run the other notebooks first, or make book"
        )
    return {path.stem: integrity.read(path) for path in files}


def environment() -> dict[str, str]:
    """The versions, the hardware and the precision that figures were computed with."""
    gpu = torch.cuda.is_available()
    card = torch.device("cuda" if gpu else "cpu")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads",
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.machine())),
        "precision": str(precision.fast_dtype(card)).removeprefix("torch."),
    }
