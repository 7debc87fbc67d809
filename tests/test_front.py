"""What the first pages show of a run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output

from difflens_utils.pages import figures, scorecard
from workflow import front, verdicts

SHIPPED = Path(__file__).parents[1] / "results/book"


@pytest.fixture(scope="module")
def results() -> dict[str, verdicts.Results]:
    return {name: verdicts.load(SHIPPED / name) for name in ("portraits", "digits")}


def linked(notebook: str, text: str) -> str:
    return f"[{text}]({notebook}.ipynb)"


def test_findings_count_the_statements_of_their_claims(
    results: dict[str, verdicts.Results],
) -> None:
    lines = front.findings(results["portraits"], linked).splitlines()
    assert [line.split("**")[1] for line in lines] == [q for q, _ in front.FINDINGS.values()]
    decides = [
        verdict
        for result in results["portraits"].values()
        for verdict in result["verdicts"]
        if verdict["claim"] == "C12"
    ]
    assert "Of the statements of [C12](06_debiasing.ipynb), " in lines[1]
    assert f"of {len(decides)} hold" in lines[1]


def test_the_short_answer_counts_attributes_of_all_models(
    results: dict[str, verdicts.Results],
) -> None:
    told = front.in_short(results)
    states = {"balances": Counter(), "beats baselines": Counter()}
    for files in results.values():
        for result in files.values():
            for v in result["verdicts"]:
                if v["rule"] in states:
                    sure = (v["stability"] or 0) >= 0.95
                    states[v["rule"]]["holds" if sure and v["holds"] else sure] += 1
    gone, ahead = states.values()
    assert "On 2 models" in told and gone.total() == ahead.total() == 5
    assert f"in {gone['holds']} of 5 attributes ({gone[False]} undecided)" in told
    assert f"every baseline in {ahead['holds']} of 5." in told
    assert f"told from it ({ahead[False]}), or does as well or better ({ahead[True]})" in told
    assert front.in_short({"mine": {}}) == ""


def test_every_attribute_of_every_model_has_a_row(results: dict[str, verdicts.Results]) -> None:
    lines = front.models(results).splitlines()[2:]
    assert [line.split(" | ")[3] for line in lines] == ["gender", "age", "tone", "digit", "stroke"]
    records = {r["name"]: r["value"] for r in results["portraits"]["00_bias"]["records"]}
    planted, drawn = (100 * records[f"{of}.gender.male"] for of in ("planted", "share"))
    assert (
        f"male\N{NO-BREAK SPACE}{planted:.3g}→{drawn:.0f}" in lines[0]
        and f"{records['gender.original.fd']:.2f}" in lines[0]
    )
    assert lines[1].startswith("|  |  |  | age")
    assert front.models({"mine": {}}).count("\n") == 1  # nothing but the header


def test_nothing_is_found_where_nothing_was_judged() -> None:
    assert front.findings({}, linked) == "" and front.losses({}) == ""


def test_losses_are_all_statements_that_do_not_hold(results: dict[str, verdicts.Results]) -> None:
    line = next(x for x in scorecard.scorecard(results["portraits"]) if x.claim.id == "C12")
    lost = front.losses(results["portraits"]).splitlines()
    assert len(lost) == len(line.statements) - len(line.that(scorecard.HOLDS)) > 0


def test_there_is_a_dot_for_each_statement(results: dict[str, verdicts.Results]) -> None:
    figure = front.dots(results)
    for axis, files in zip(figure.axes, results.values(), strict=True):
        shown = sum(len(marks.get_offsets()) for marks in axis.collections)
        counted = sum(len(line.statements) for line in scorecard.scorecard(files))
        assert shown == counted


def test_the_slider_is_that_of_the_notebook() -> None:
    made = figures.slider({"β = 0": torch.zeros(2, 3, 8, 8)}, {})
    output = new_output("display_data", {"text/html": made})
    table = new_output("display_data", {"text/html": "<table></table>"})
    page = new_notebook(cells=[new_code_cell("a", outputs=[table, output])])
    page = nbformat.reads(json.dumps(page), as_version=4)
    assert front.slider(list(front.sliders(page))) == f"```{{raw}} html\n{made}\n```"
    assert front.slider(list(front.sliders(new_notebook()))) == front.NO_SLIDER
