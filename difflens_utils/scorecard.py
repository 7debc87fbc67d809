"""The paper's claims, judged from result files and nothing else.

A claim consists of checked statements: each was judged in the notebook that measured it, by a rule stated there. A claim holds if all
of its statements hold, does not hold if none does even partly, and holds partly otherwise; without its statements it cannot be
tested here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from . import intervals

Result = Mapping[str, Any]  # a result file
HOLDS, PARTLY, FAILS, UNTESTED = "holds", "partly", "does not hold", "cannot be tested here"


class Claim(NamedTuple):
    """`statements` are the beginnings of the checked statements, in `notebook`, that the claim consists of."""

    id: str
    text: str
    paper: str  # the paper's figures
    notebook: str
    section: str  # of that notebook, with the figure
    statements: tuple[str, ...]


class Row(NamedTuple):
    """One line of the scorecard, in words."""

    id: str
    claim: str
    paper: str
    ours: str
    verdict: str
    why: str
    notebook: str
    section: str
    close: bool = (
        False  # whether it rests on a statement whose figure is within noise of its target
    )


CLAIMS = (
    Claim(
        "C1",
        "DiffLens lowers FD on every attribute and keeps CLIP-I high",
        "FD 0.226 → 0.002, 0.592 → 0.401, 0.718 → 0.447; (cos + 1) / 2 of 0.948, 0.941, 0.911 (Table 1); with text FD 0.564 → 0.046, 0.752 → 0.049, 0.558 → 0.401 (Table 2)",
        "06_debiasing",
        "The plan, and the table",
        ("DiffLens balances", "DiffLens keeps CLIP-I high"),
    ),
    Claim(
        "C2",
        "Edits at balanced ratio do not raise the Fréchet distance",
        "FID 33.4 → 31.9, 31.7, 33.5 (Table 1); 120 → 113, 99, 120 (Table 2)",
        "06_debiasing",
        "The plan, and the table",
        ("balancing does not raise the Fréchet distance",),
    ),
    Claim(
        "C3",
        "Non-target attributes survive a reversed gender ratio",
        "shown in pictures (Figures 3, 12)",
        "05_interventions",
        "What else moved?",
        ("the ratio of", "what has nothing to do with"),
    ),
    Claim(
        "C4",
        "Any ratio is reachable, at less loss of fidelity than with latent editing or H-Distribution",
        "curves (Figures 4, 19)",
        "06_debiasing",
        "Any ratio",
        ("any ratio that is asked for comes out", "fidelity falls less"),
    ),
    Claim(
        "C5",
        "The k-SAE raises coherence (CLIP-I), attribution raises precision (FD)",
        "FD 0.190, 0.303, 0.072, 0.002; CLIP-I 0.806, 0.939, 0.860, 0.948 for Act@L, Act@S, Attr@L, DiffLens (Table 3)",
        "07_ablations",
        "Table 3",
        ("the k-SAE raises coherence", "attribution raises precision"),
    ),
    Claim(
        "C6",
        "Larger k reconstructs better",
        "CLIP-I 0.952, 0.970, 0.980 for k = 32, 64, 128 (Table 4)",
        "02_ksae",
        "Generating through the k-SAE",
        ("larger k reconstructs h better", "larger k keeps images closer"),
    ),
    Claim(
        "C7",
        "Reconstruction is not the key: larger k debiases no better",
        "FD 0.002, 0.005, 0.008 for k = 32, 64, 128 (Table 5)",
        "07_ablations",
        "Table 5",
        ("a larger k debiases no better",),
    ),
    Claim(
        "C8",
        "10 to 30 features suffice; more features, better FD and CLIP-I",
        "FD 0.003, 0.001, 0.002; CLIP-I 0.945, 0.947, 0.948 for N = 10, 20, 30 (Table 6)",
        "07_ablations",
        "Table 6",
        ("10 to 30 features suffice", "more features keep more of the images"),
    ),
    Claim(
        "C9",
        "An attribute is driven by several features; some are shared between attributes",
        "shown in pictures (Figure 6)",
        "04_attribution",
        "The bias features",
        ("one attribute is driven by several features",),
    ),
    Claim(
        "C10",
        "Attributes are linearly readable from h, better towards the clean image",
        "curves (Figure 10)",
        "03_probes",
        "Accuracy along the generation",
        ("linearly readable from h",),
    ),
    Claim(
        "C11",
        "Several attributes can be steered at once without interference",
        "shown in pictures (Figures 17, 18)",
        "08_multi_attribute",
        "Two at once",
        (
            "a second attribute does not interfere",
            "two attributes meet",
            "the joint distribution",
            "single features are steered",
        ),
    ),
    Claim(
        "C12",
        "One k-SAE serves all timesteps",
        "FVU falls and stays low (Figure 9)",
        "02_ksae",
        "At every timestep?",
        ("one k-SAE serves all timesteps",),
    ),
)


def number(value: object) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def estimate(record: Mapping[str, Any]) -> str:
    """A record's value, with its 95 % interval where it has one, marked if it lies outside."""
    value, low, high = (record.get(key) for key in ("value", "low", "high"))
    if low is None or high is None:
        return number(value)
    marked = intervals.mark(value, low, high)
    return f"{number(value)} [{number(low)}, {number(high)}]{marked}"


def judge(claim: Claim, results: Mapping[str, Result]) -> Row:
    """A claim's line, from the result files {notebook: result}."""
    rest = claim.id, claim.text, claim.paper
    found = [
        _statements(results.get(claim.notebook, {}), beginning) for beginning in claim.statements
    ]
    if not all(found):
        missing = next(s for s, f in zip(claim.statements, found, strict=True) if not f)
        return Row(
            *rest,
            "",
            UNTESTED,
            f"nothing was measured of: {missing}",
            claim.notebook,
            claim.section,
        )
    checked = [pair for f in found for pair in f]
    verdicts = [v["verdict"] for v, _ in checked]
    verdict = HOLDS if set(verdicts) == {HOLDS} else FAILS if set(verdicts) == {FAILS} else PARTLY
    short = [
        f"{v['claim']} ({estimate(record)}; asked: {v['target']}): {v['verdict']}"
        for v, record in checked
        if v["verdict"] != HOLDS
    ]
    close = any(v.get("close") for v, _ in checked)
    why = "; ".join(short) if short else f"every checked statement holds ({len(checked)})"
    measured = dict.fromkeys(
        f"{record['name'].replace('.difflens', '')} {estimate(record)}" for _, record in checked
    )  # two statements may rest on one
    return Row(*rest, "; ".join(measured), verdict, why, claim.notebook, claim.section, close)


def _statements(
    result: Result, beginning: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The verdicts whose statement begins so, each with the record that it rests on."""
    records = {r["name"]: r for r in result.get("records", [])}
    return [
        (v, records[v["record"]])
        for v in result.get("verdicts", [])
        if v["claim"].startswith(beginning)
    ]


def scorecard(results: Mapping[str, Result], claims: Sequence[Claim] = CLAIMS) -> list[Row]:
    """Every claim's line."""
    return [judge(claim, results) for claim in claims]
