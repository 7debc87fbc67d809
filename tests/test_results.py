"""Result files: records, verdicts, and what is read back."""

from __future__ import annotations

import json
import math

import pytest

from difflens_utils import metrics
from difflens_utils.metrics import Estimate
from difflens_utils.pages import results


def test_results_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    r = results.Results("n", subject="portraits", profile="quick", seed=3)
    r.add("a.b", Estimate(0.5, 0.4, 0.6, 10))
    r.add("c", 1, n=4)
    r.add("d", 4.012345678e-7)
    assert r.judge("claim", "a.b", "at least 0.4", True) == "holds"
    stored = json.loads(r.save().read_text())
    assert stored["records"][0] == {
        "name": "a.b",
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "n": 10,
        "seed": 3,
    }
    assert stored["records"][2]["value"] == 4.01235e-7  # a small figure is no zero
    assert stored["verdicts"][0]["verdict"] == "holds" and stored["parameters"] == {"seed": 3}
    with pytest.raises(ValueError, match="record must be one of"):
        r.judge("claim", "missing", "", True)
    with pytest.raises(ValueError, match="profile must be one of quick, book, paper"):
        results.Results("n", subject="s", profile="big")


def test_a_figure_that_there_is_not_is_no_record_and_carries_no_verdict():
    made = results.Results("05_interventions", subject="portraits", profile="book", seed=0)
    made.add("there", metrics.Estimate(0.5, math.nan, math.nan, 3))
    made.add("nothing", metrics.NOTHING)
    made.add("nor here", float("nan"))
    assert list(made.records) == ["there"] and made.records["there"]["low"] is None
    assert (
        f"{made.records['nothing']['value']:.2f}" == "–"
        and not made.records["nor here"]["value"] > 0
    )
    assert (
        made.judge("it moves", "nothing", "at all", holds=True) == "not tested"
        and made.verdicts == []
    )
    with pytest.raises(KeyError):
        made.records["never added"]


def test_a_close_verdict_is_shown_but_no_reference():
    made = results.Results("00_x", subject="portraits", profile="mine", seed=0)
    made.add("fd", 0.051)
    assert made.judge("it is small", "fd", "at most 0.05", False, True, close=True) == "partly"
    made.judge("it is not large", "fd", "at most 0.5", True)
    assert made.checked() == "it is small -> too close to check\nit is not large -> holds"


def test_result_files_are_read_back(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    with pytest.raises(
        ValueError, match="portraits has no results of profile book: run the other notebooks first"
    ):
        results.load_results("portraits", "book")
    made = results.Results("03_x", subject="a/b", profile="book", seed=0)
    made.add("fd", Estimate(0.5, 0.4, 0.6, 10))
    made.save()
    assert results.load_results("a/b", "book")["03_x"]["records"][0]["low"] == 0.4
