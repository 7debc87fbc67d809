"""Result files: the figures that the book, the README and the tables are made from.

>>> from difflens_utils.pages import results
>>> found = results.Results("00_bias", subject="portraits", profile="quick", seed=0)
>>> found.add("bias.gender.fd", 0.28345678)
>>> found.records["bias.gender.fd"]["value"]
0.283457
>>> found.judge("gender is biased", "bias.gender.fd", "FD > 0.1", holds=0.283457 > 0.1)
'holds'
>>> print(found.checked())
gender is biased -> holds
"""

from __future__ import annotations

import json
import math
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..metrics import NAN, Estimate
from ..runtime import names, tally
from ..runtime.artifacts import ROOT, atomic
from ..runtime.errors import one_of

PROFILES = ("quick", "book", "paper", "mine")  # mine: a run with values of the reader's own


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

    Every record has a value, a 95 % interval where it has one, a sample size and a seed; every
    verdict names the record it was computed from.
    """

    def __init__(self, notebook: str, *, subject: str, profile: str, **parameters: Any) -> None:
        one_of("profile", profile, PROFILES)
        self.notebook, self.subject, self.profile = notebook, subject, profile
        self.parameters = parameters
        self.records = Records()
        self.verdicts: list[dict[str, Any]] = []
        # The paper's claims, in the notebook that judges them.
        self.scorecard: list[dict[str, str]] = []

    def add(self, name: str, value: Estimate | float, n: int | None = None) -> None:
        """Records a figure under a dotted name, e.g. `ksae.k32.fvu`, to six significant digits.

        A figure that is no number (`metrics.NOTHING`) is not listed. Statements that rest on it are
        not judged.
        """
        if isinstance(value, Estimate):
            figure, low, high, n = *value[:3], n or value.n
        else:
            figure, low, high = float(value), NAN, NAN
        if not math.isfinite(figure):
            self.records.unmeasured.add(name)
            return
        self.records[name] = {
            "name": name,
            "value": _rounded(figure),
            "low": _rounded(low),
            "high": _rounded(high),
            "n": n,
            "seed": self.parameters.get("seed"),
        }

    def judge(
        self,
        claim: str,
        record: str,
        target: str,
        holds: bool,
        partly: bool = False,
        close: bool = False,
    ) -> str:
        """States whether a claim holds, by a rule computed from records, and returns the verdict.

        `close` marks a verdict whose figure lies within noise of its target, so that other hardware
        may decide differently. It is shown, but no check compares it with a reference. A statement
        without a figure is not tested and gets no verdict.
        """
        if record in self.records.unmeasured:
            return "not tested"
        one_of("record", record, self.records)
        verdict = "holds" if holds else "partly" if partly else "does not hold"
        self.verdicts.append(
            {"claim": claim, "record": record, "target": target, "verdict": verdict, "close": close}
        )
        return verdict

    def checked(self) -> str:
        """The verdicts that every machine should reach, one per line."""
        lines = []
        for judged in self.verdicts:
            verdict = "too close to check" if judged["close"] else judged["verdict"]
            lines.append(f"{judged['claim']} -> {verdict}")
        return "\n".join(lines)

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
            "records": list(self.records.values()),
            "verdicts": self.verdicts,
        }
        if self.scorecard:
            content["scorecard"] = self.scorecard
        path = folder / f"{self.notebook}.json"
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        return path


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def results_folder(subject: str, profile: str) -> Path:
    """Where the result files of one subject and profile lie."""
    return ROOT / "_build" / names.results_folder(subject, profile)


def load_results(subject: str, profile: str) -> dict[str, dict[str, Any]]:
    """The result files of executed notebooks: {notebook: content}.

    Raises ValueError if there are none.
    """
    files = sorted(results_folder(subject, profile).glob("[0-9][0-9]_*.json"))
    if not files:
        raise ValueError(
            f"subject {subject} has no results of profile {profile}: "
            "run the other notebooks first, or make book"
        )
    return {path.stem: json.loads(path.read_text()) for path in files}


def environment() -> dict[str, str]:
    """The versions and the device that figures were computed with."""
    gpu = torch.cuda.is_available()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": version("diffusers"),
        "device": torch.cuda.get_device_name() if gpu else f"{torch.get_num_threads()} CPU threads",
    }
