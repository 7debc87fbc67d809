from __future__ import annotations

import json
from pathlib import Path

import pytest

from difflens_utils import scorecard
from difflens_utils.scorecard import Claim

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


CLAIM = Claim("C1", "it works", "0.5 (Table 1)", "nb", "A section", ("it works for",))


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
    assert row.ours == "r0 0 [-0.01, 0.01]; r1 0.1 [0.09, 0.11]"
    assert row.why == "it works for 1 (0.1 [0.09, 0.11]; asked: below 1): does not hold"


def test_a_figure_that_two_statements_rest_on_is_told_once() -> None:
    found = results("holds", "partly")
    found["nb"]["verdicts"][1]["record"] = "r0"
    assert scorecard.judge(CLAIM, found).ours == "r0 0 [-0.01, 0.01]"


def test_a_claim_is_close_if_one_of_its_statements_is() -> None:
    found = results("holds", "partly")
    assert not scorecard.judge(CLAIM, found).close
    found["nb"]["verdicts"][1]["close"] = True
    assert scorecard.judge(CLAIM, found).close


def test_every_claim_of_the_paper_is_there_once() -> None:
    assert [c.id for c in scorecard.CLAIMS] == [f"C{i}" for i in range(1, 13)]


@pytest.mark.parametrize("claim", scorecard.CLAIMS, ids=lambda c: c.id)
def test_the_reference_results_judge_every_claim(claim: Claim) -> None:
    """Every beginning of a statement meets one in the committed results, and the section named is one of the notebook's."""
    result = json.loads((ROOT / f"results/book/portraits/{claim.notebook}.json").read_text())
    assert scorecard.judge(claim, {claim.notebook: result}).verdict != scorecard.UNTESTED
    cells = json.loads((ROOT / f"notebooks/{claim.notebook}.ipynb").read_text())["cells"]
    headings = [
        line
        for c in cells
        if c["cell_type"] == "markdown"
        for line in "".join(c["source"]).splitlines()
        if line.startswith("## ")
    ]
    assert any(h.removeprefix("## ").startswith(claim.section) for h in headings)
