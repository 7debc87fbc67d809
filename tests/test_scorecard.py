"""The scorecard: statements counted, sentences filled, and claims that fit the rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import tiny

from difflens_utils import metrics
from difflens_utils.pages import results, rules, score, scorecard
from difflens_utils.pages.rules import FAILS, HOLDS, UNDECIDED
from difflens_utils.pages.scorecard import CLAIMS, Claim
from difflens_utils.settings import Settings

ROOT = Path(__file__).parents[1]


def record(name: str, value: float) -> dict:
    return {"name": name, "value": value, "low": value - 0.01, "high": value + 0.01, "n": 10}


def verdict(number: int, holds: bool, stability: float | None, **changes: object) -> dict:
    """An entry of a result file, on the record of that number."""
    return {
        "rule": "works",
        "claim": "C1",
        "says": f"it works for {number}",
        "records": [f"r{number}"],
        "asks": "above 0.1",
        "chance": 0,
        "holds": holds,
        "stability": stability,
    } | changes


def judged(*verdicts: dict, notebook: str = "06_debiasing") -> dict:
    records = [record(f"r{i}", i / 10) for i in range(9)]
    result = {"notebook": notebook, "subject": "a", "rules": rules.fingerprint()}
    return {notebook: result | {"records": records, "verdicts": list(verdicts)}}


CLAIM = Claim(
    "C1", "it works", "0.5 (Table 1)", "06_debiasing", "A section", ("It is {r1}.", "{r99} never.")
)


@pytest.mark.parametrize(
    ("holds", "stability", "state", "in_words"),
    [
        (True, 1.0, HOLDS, "holds"),
        (True, 0.95, HOLDS, "holds"),
        (False, 0.99, FAILS, "does not hold"),
        (True, 0.78, UNDECIDED, "undecided, holds in 78 % of resamples"),
        (False, 0.78, UNDECIDED, "undecided, holds in 22 % of resamples"),
        (True, None, HOLDS, "holds"),  # a check without resamples
    ],
)
def test_a_verdict_that_resamples_do_not_share_is_undecided(
    holds: bool, stability: float | None, state: str, in_words: str
) -> None:
    judged = rules.Verdict(**verdict(1, holds, stability))
    assert judged.state == state and judged.in_words == in_words


def test_a_line_counts_what_holds_and_keeps_what_does_not() -> None:
    found = judged(
        verdict(1, True, 1.0),
        verdict(2, True, 0.5),
        verdict(3, False, 0.97),
        verdict(4, True, 1.0, claim=None),
        verdict(5, True, 1.0, claim="C2"),
    )
    line = scorecard.judge(CLAIM, found)
    assert line.verdict == "1 of 3 hold, 1 undecided" and line.ours == ["It is 0.1."]
    assert [one.verdict.says for one in line.that(FAILS, UNDECIDED)] == [
        "it works for 2",
        "it works for 3",
    ]
    assert line.statements[2].failing == (
        "it works for 3: **does not hold** "
        "(measured 0.300 [0.290, 0.310]; asked above 0.1; by chance 0)"
    )
    nothing = scorecard.judge(CLAIM, judged(verdict(4, True, 1.0, claim=None)))
    assert nothing.verdict == "cannot be tested here"


@pytest.mark.parametrize(
    ("asks", "measured"),
    [("above 0.1", "0.100 [0.090, 0.110]"), ("below 0.6", "0.500 [0.490, 0.510]")],
)
def test_the_figure_that_is_nearest_to_failing_is_shown(asks: str, measured: str) -> None:
    several = verdict(0, True, 1.0, records=["r1", "r5", "r3"], asks=asks, chance="r7")
    (statement,) = scorecard.statements(judged(several))
    assert statement.measured == f"{measured}, the worst of 3" and statement.chance == "0.7"
    (statement,) = scorecard.statements(judged(verdict(0, True, 1.0, chance="unmeasured")))
    assert statement.chance == ""


def test_results_of_other_rules_are_refused() -> None:
    found = judged(verdict(1, True, 1.0))
    found["06_debiasing"]["rules"] = "others"
    with pytest.raises(ValueError, match="06_debiasing of a was judged by other rules") as refused:
        scorecard.scorecard(found)
    assert "\n" not in str(refused.value)


RESULT = {
    "records": [
        {"name": name, "value": value}
        for name, value in {
            "age.before": 0.5,
            "hair_colour.before": 0.25,
            "age.after": 0.1,
            "hair_colour.after": 0.0625,
            "age.rival": 0.2,
            "age.lead.latent_editing": -0.021,
            "age.lead.finetuning": 0.4,
            "hair_colour.lead.finetuning": 0.05,
            "lead": -0.02,
            "age.t900": 0.4,
            "age.t0": 0.9,
            "gain.k16": 0.004,
            "gain.k64": 0.006,
        }.items()
    ],
}


@pytest.mark.parametrize(
    ("sentence", "want"),
    [
        ("{age.before}.", "0.5."),
        ("{age.before:%}, {lead:+}, {age.after:2}", "50 %, −0.02, 0.10"),
        ("{lead:lead}, {age.after:lead}", "0.02 less, 0.10 more"),
        ("[{*} {*.before} → {*.after}]", "age 0.5 → 0.1, hair colour 0.25 → 0.0625"),
        ("[{*} {*.after} beside {*.rival}]", "age 0.1 beside 0.2"),
        ("[{*} {*.t*:first} to {*.t*:last %}]", "age 0.4 to 90 %"),
        ("{*.before:least} to {*.before:most}", "0.25 to 0.5"),
        ("{gain.k*:most lead}", "0.01 more"),
        (
            "[{*.lead.*:least lead} than {*.lead.*:rival} in {*}]",
            "0.02 less than latent editing in age, 0.05 more than finetuning in hair colour",
        ),
        ("A {nothing}.", ""),
        ("[{*.nothing}]", ""),
        ("{*.nothing:least}", ""),
    ],
)
def test_sentences_are_filled_with_figures(sentence: str, want: str) -> None:
    assert scorecard.words([sentence], RESULT) == [want] * bool(want)


def test_every_claim_is_there_once_and_the_one_that_decides_stands_first() -> None:
    assert [c.id for c in CLAIMS] == ["C12", *(f"C{i}" for i in range(1, 12)), "C0"]
    assert {rule.claim for rule in rules.RULES} - {None} == {c.id for c in CLAIMS}


def test_the_page_shows_counts_dots_and_what_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    made = results.Results("00_bias", subject="tiny", profile="quick", seed=0)
    figures = {"gender": [0.1, 0.2], "age": [0.5, 0.6], "tone": [0.1, 0.3], "head": [0.0, 0.01]}
    for attribute, values in figures.items():
        made.add(f"{attribute}.original.fd", metrics.mean(values * 40))
    made.save()
    study = SimpleNamespace(subject=tiny.subject(), settings=Settings(profile="quick"), factors={})
    page = score.Score(study, "09_scorecard")
    page.picture()
    plt.close("all")
    assert page.lines[-1].verdict == "2 of 4 hold, 1 undecided"
    assert "| 2 of 4 hold, 1 undecided | C0 |" in page.claims().data
    listed = page.failing().data
    assert "biased in head: **does not hold** (" in listed and "by chance 0)" in listed
    assert "biased in gender: **" in listed and "undecided, holds in " in listed
    assert "biased in age" not in listed
    page.judge()
    assert "no reference results" in capsys.readouterr().out
    table = page.counts()["statements"].to_dict()
    assert table == {"holds": 2, "undecided": 1, "does not hold": 1}
    again = score.Score(study, "09_scorecard")  # its own file is none of the others
    assert page.records["scorecard.C0.holds"]["n"] == 4 and again.notebooks == ["00_bias"]


# Records that sentences name and no rule does: before and after, a rival, and what a control has.
BESIDE = {
    "06_debiasing": [
        f"gender.{row}.fd"
        for row in ("original", "difflens_best", "difflens_published", "latent_editing")
    ],
    "02_ksae": ["reconstruction.k32.clip_i", "reconstruction.untrained_k_SAE.clip_i"],
    "03_probes": ["probes.gender.accuracy.t900", "probes.gender.accuracy.t0"],
    "01_polysemanticity": ["polysemanticity.latents.several"],
}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_sentence_has_its_figures_and_names_no_record(claim: Claim) -> None:
    names = [*BESIDE.get(claim.notebook, ())]
    for rule in rules.RULES:
        if rule.notebook == claim.notebook:
            chance = [rule.chance] if isinstance(rule.chance, str) else []
            for name in (rule.record, *chance):
                names.append(re.sub(r"\{\w+\}", "gender", name).replace("*", "latent_editing"))
    result = {"records": [record(name, 0.5) for name in dict.fromkeys(names)]}
    filled = scorecard.words(claim.sentences, result)
    assert len(filled) == len(claim.sentences)
    assert not re.search(r"[{}\[\]_]|\w\.\w*[a-z]", " ".join(filled))
    assert len(f"{claim.text}. {filled[0]}") < 200


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.id)
def test_every_claim_names_a_section_of_its_notebook(claim: Claim) -> None:
    cells = json.loads((ROOT / f"notebooks/{claim.notebook}.ipynb").read_text())["cells"]
    texts = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
    headings = re.findall(r"^## (.+)$", "\n".join(texts), re.MULTILINE)
    assert any(heading.startswith(claim.section) for heading in headings)


def test_lines_of_the_readme_are_short() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert max(len(line) for line in lines if not line.startswith("| ")) <= 200
