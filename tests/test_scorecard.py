from __future__ import annotations

import json
from pathlib import Path

import pytest

from difflens_utils.pages import scorecard
from difflens_utils.pages.scorecard import Claim

ROOT = Path(__file__).parents[1]


def results(*verdicts: str) -> dict:
    records = [
        {"name": f"r{i}", "value": i / 10, "low": i / 10 - 0.01, "high": i / 10 + 0.01}
        for i in range(len(verdicts))
    ]
    return {
        "nb": {
            "records": records,
            "verdicts": [
                {"claim": f"it works for {i}", "record": f"r{i}", "target": "below 1", "verdict": v}
                for i, v in enumerate(verdicts)
            ],
        }
    }


CLAIM = Claim(
    "C1",
    "it works",
    "0.5 (Table 1)",
    "nb",
    "A section",
    ("it works for",),
    ("It is [{r*:i}].", "Never {measured}."),
)


@pytest.mark.parametrize(
    ("verdicts", "want"),
    [
        (("holds", "holds"), "holds"),
        (("holds", "does not hold"), "partly"),
        (("partly", "partly"), "partly"),
        (("does not hold", "does not hold"), "does not hold"),
        (("does not hold", "partly"), "partly"),
        ((), "cannot be tested here"),
    ],
)
def test_a_claim_holds_if_all_of_its_statements_do(verdicts: tuple[str, ...], want: str) -> None:
    row = scorecard.judge(CLAIM, results(*verdicts))
    assert row.verdict == want and row.paper == "0.5 (Table 1)"


def test_a_line_says_what_was_measured_and_what_fails() -> None:
    row = scorecard.judge(CLAIM, results("holds", "does not hold"))
    assert row.ours == "It is 0 [-0.01, 0.01], 0.1 [0.09, 0.11]."
    assert row.why == "it works for 1 (0.1 [0.09, 0.11]; asked: below 1): does not hold"


RESULT = {
    "parameters": {"k": 32},
    "records": [
        {"name": name, "value": value, "low": None, "high": None}
        for name, value in {
            "age.before": 0.5,
            "hair_colour.before": 0.25,
            "age.after": 0.1,
            "hair_colour.after": 0.0625,
            "age.rival": 0.2,
            "sweep.r0.1": 0.15,
            "sweep.r0.9": 0.8,
            "lead": -0.02,
            "age.t900": 0.4,
            "age.t0": 0.9,
        }.items()
    ],
}


@pytest.mark.parametrize(
    ("sentence", "want"),
    [
        ("{age.before} at k = {parameters.k}.", "0.5 at k = 32."),
        ("{age.before:%}, {lead:+}, {age.after:+}", "50 %, −0.02, +0.1"),
        ("[{*} {*.before} → {*.after}]", "age 0.5 → 0.1, hair colour 0.25 → 0.0625"),
        ("[{*} {*.after} beside {*.rival}]", "age 0.1 beside 0.2"),
        ("[{*:%} → {sweep.r*:%}]", "10 % → 15 %, 90 % → 80 %"),
        ("[{*} {*.t*:first} to {*.t*:last}]", "age 0.4 to 0.9"),
        ("{*.before:least} to {*.before:most}", "0.25 to 0.5"),
        ("A[, B {age.rival}][, C {nothing}].", "A, B 0.2."),
        ("A {nothing}.", ""),
        ("[{*.nothing}]", ""),
        ("{*.nothing:least}", ""),
    ],
)
def test_sentences_are_filled_with_figures(sentence: str, want: str) -> None:
    assert scorecard.words([sentence], RESULT) == want


def test_a_value_outside_its_interval_is_marked_in_a_sentence() -> None:
    record = {"name": "fd", "value": 0.07, "low": 0.08, "high": 0.18}
    assert scorecard.words(["{fd:i}"], {"records": [record]}) == "0.07 [0.08, 0.18] †"


def test_a_claim_is_close_if_one_of_its_statements_is() -> None:
    found = results("holds", "partly")
    assert not scorecard.judge(CLAIM, found).close
    found["nb"]["verdicts"][1]["close"] = True
    assert scorecard.judge(CLAIM, found).close


def test_every_claim_of_the_paper_is_there_once() -> None:
    assert [c.id for c in scorecard.CLAIMS] == [f"C{i}" for i in range(1, 13)]


@pytest.mark.parametrize("claim", scorecard.CLAIMS, ids=lambda c: c.id)
def test_the_reference_results_judge_every_claim(claim: Claim) -> None:
    """Every beginning of a statement meets one in the committed results.

    Every sentence has its figures there, and the section named is one of the notebook's.
    """
    for subject in ("portraits", "portraits-t2i", "digits"):
        result = json.loads((ROOT / f"results/book/{subject}/{claim.notebook}.json").read_text())
        assert scorecard.judge(claim, {claim.notebook: result}).verdict != scorecard.UNTESTED
        filled = [scorecard.words([sentence], result) for sentence in claim.sentences]
        assert all(filled) and "{" not in "".join(filled)
    cells = json.loads((ROOT / f"notebooks/{claim.notebook}.ipynb").read_text())["cells"]
    headings = [
        line
        for c in cells
        if c["cell_type"] == "markdown"
        for line in "".join(c["source"]).splitlines()
        if line.startswith("## ")
    ]
    assert any(h.removeprefix("## ").startswith(claim.section) for h in headings)


def test_lines_of_the_readme_are_short() -> None:
    readme = (ROOT / "README.md").read_text()
    assert max(map(len, readme.splitlines())) <= 200
