"""Result files: records, verdicts, and what is read back."""

from __future__ import annotations

import json
import math

import pytest

from difflens_utils import metrics
from difflens_utils.metrics import Estimate
from difflens_utils.pages import results, rules


def test_results_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    r = results.Results("00_bias", subject="portraits", profile="quick", seed=3)
    r.add("a.b", Estimate(0.5, 0.4, 0.6, 10))
    r.add("c", 1, n=4)
    r.add("d", 4.012345678e-7)
    r.add("age.original.fd", metrics.mean([0.2, 0.3]))
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
    assert stored["parameters"] == {"seed": 3}
    (verdict,) = [rules.Verdict(**entry) for entry in stored["verdicts"]]
    assert verdict == r.verdicts()[0] and verdict.holds and verdict.records == ["age.original.fd"]
    with pytest.raises(ValueError, match="profile must be one of try, quick, book, paper"):
        results.Results("n", subject="s", profile="big")


def test_a_figure_that_there_is_not_is_no_record():
    made = results.Results("05_interventions", subject="portraits", profile="book", seed=0)
    made.add("there", metrics.Estimate(0.5, math.nan, math.nan, 3))
    made.add("nothing", metrics.NOTHING)
    made.add("nor here", float("nan"))
    assert list(made.records) == ["there"] and made.records["there"]["low"] is None
    assert (
        f"{made.records['nothing']['value']:.2f}" == "–"
        and not made.records["nor here"]["value"] > 0
    )
    with pytest.raises(KeyError):
        made.records["never added"]


def test_stable_verdicts_are_compared_with_the_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    made = results.Results("00_bias", subject="a", profile="book", seed=0)
    made.add("age.original.fd", metrics.mean([0.2, 0.3] * 50))
    made.add("tone.original.fd", metrics.mean([0.0, 0.3] * 10))
    verdicts = {"00_bias": made.verdicts()}
    assert [verdict.stable for verdict in made.verdicts()] == [True, False]
    none = "There are no reference results of this profile and subject."
    assert results.compared("a", "book", verdicts) == none
    path = results.reference_file("a", "00_bias")
    path.parent.mkdir(parents=True)
    content = json.loads(made.save().read_text())
    for changed, told in (
        ({}, "Every stable verdict is that of the reference results."),
        ({"holds": False}, "the unedited model is biased in age"),
        ({"holds": False, "stability": 0.9}, "Every stable verdict is that of the"),
    ):
        entries = [entry | changed for entry in content["verdicts"]]
        path.write_text(json.dumps(content | {"verdicts": entries}))
        assert results.compared("a", "book", verdicts).startswith(told)
    assert results.compared("a", "quick", verdicts) == none
    path.write_text(json.dumps(content | {"rules": "others"}))
    assert results.compared("a", "book", verdicts) == results.OTHER_RULES


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
