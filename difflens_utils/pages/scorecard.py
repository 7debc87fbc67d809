"""The verdict on each claim of the paper, from result files alone.

A claim consists of statements. Each statement was judged in the notebook that measured it, by a
rule stated there. A claim holds if all of its statements hold. It does not hold if none of them
holds even partly. Otherwise it holds partly. A claim whose statements are missing cannot be tested
here. `claims.yml` lists the claims, and says how their figures are put into words.

>>> from difflens_utils.pages import scorecard
>>> scorecard.judge(scorecard.CLAIMS[0], {}).verdict  # no result file
'cannot be tested here'
>>> record = {"name": "fd", "value": 0.02, "low": 0.01, "high": 0.03}
>>> scorecard.words(["FD is {fd:i}."], {"records": [record]})
'FD is 0.02 [0.01, 0.03].'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..metrics import intervals

Result = Mapping[str, Any]  # a result file
Record = Mapping[str, Any]  # one of its records
HOLDS, PARTLY, FAILS, UNTESTED = "holds", "partly", "does not hold", "cannot be tested here"

FIELD = re.compile(r"\{([^{}:]+):?([^{}]*)\}")  # {name} or {name:form}
REPEATED = re.compile(r"\[([^\[\]]+)\]")
WORD = r"([\w-]+(?:\.\d+)?)"  # what * stands for: a part of a record's name, or a number


class Claim(NamedTuple):
    """A claim of the paper: an entry of `claims.yml`, which explains the fields."""

    id: str
    text: str
    paper: str
    notebook: str
    section: str
    statements: Sequence[str]
    sentences: Sequence[str]


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
    close: bool = False  # whether the figure of a statement lies within noise of its target


def _claims() -> tuple[Claim, ...]:
    entries = yaml.safe_load(Path(__file__).with_name("claims.yml").read_text(encoding="utf-8"))
    return tuple(Claim(**entry) for entry in entries)


CLAIMS = _claims()


def number(value: object) -> str:
    """Three significant digits, without an exponent where that stays short."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def estimate(record: Record) -> str:
    """A record's value, with its 95 % interval where it has one, marked if it lies outside."""
    value, low, high = (record.get(key) for key in ("value", "low", "high"))
    if low is None or high is None:
        return number(value)
    marked = intervals.mark(value, low, high)
    return f"{number(value)} [{number(low)}, {number(high)}]{marked}"


def judge(claim: Claim, results: Mapping[str, Result]) -> Row:
    """Returns the line of a claim, from the result files {notebook: result}."""
    result = results.get(claim.notebook, {})
    checked = []
    for beginning in claim.statements:
        statements = _statements(result, beginning)
        if not statements:
            return _row(claim, verdict=UNTESTED, why=f"nothing was measured of: {beginning}")
        checked += statements
    misses = [
        f"{verdict['claim']} ({estimate(record)}; asked: {verdict['target']}): {verdict['verdict']}"
        for verdict, record in checked
        if verdict["verdict"] != HOLDS
    ]
    return _row(
        claim,
        ours=words(claim.sentences, result),
        verdict=_overall({verdict["verdict"] for verdict, _ in checked}),
        why="; ".join(misses) or f"every checked statement holds ({len(checked)})",
        close=any(verdict.get("close") for verdict, _ in checked),
    )


def _row(claim: Claim, *, verdict: str, why: str, ours: str = "", close: bool = False) -> Row:
    return Row(
        claim.id,
        claim.text,
        claim.paper,
        ours,
        verdict,
        why,
        claim.notebook,
        claim.section,
        close,
    )


def _overall(verdicts: set[str]) -> str:
    return verdicts.pop() if verdicts in ({HOLDS}, {FAILS}) else PARTLY


def _statements(result: Result, beginning: str) -> list[tuple[Mapping[str, Any], Record]]:
    """The verdicts whose statement has this beginning, each with the record that it rests on."""
    records = {record["name"]: record for record in result.get("records", [])}
    return [
        (verdict, records[verdict["record"]])
        for verdict in result.get("verdicts", [])
        if verdict["claim"].startswith(beginning)
    ]


def scorecard(results: Mapping[str, Result], claims: Sequence[Claim] = CLAIMS) -> list[Row]:
    """Returns the line of every claim."""
    return [judge(claim, results) for claim in claims]


def words(sentences: Sequence[str], result: Result) -> str:
    """Returns sentences with the figures of a result file. One that lacks a figure is left out.

    `claims.yml` explains the fields of the sentences.
    """
    figures = {
        f"parameters.{name}": {"value": value}
        for name, value in result.get("parameters", {}).items()
    }
    figures |= {record["name"]: record for record in result.get("records", [])}
    filled = (_filled(sentence, figures) for sentence in sentences)
    return " ".join(sentence for sentence in filled if sentence)


def _filled(sentence: str, figures: Mapping[str, Record]) -> str:
    """One sentence with its figures. It is empty if a figure is missing."""
    try:
        repeated = REPEATED.sub(lambda part: _repeated(part[1], figures), sentence)
        return _with_figures(repeated, figures)
    except KeyError:
        return ""


def _repeated(part: str, figures: Mapping[str, Record]) -> str:
    """A part of a sentence, once for each word that stands for the first * of its names.

    Raises KeyError if nothing was measured for any of the words.
    """
    variants = []
    for word in _words(part, figures):
        known = {**figures, "*": {"value": word.replace("_", " ")}}
        try:
            variants.append(_with_figures(_with_word(part, word), known))
        except KeyError:
            continue  # not measured for this word
    if not variants and "*" in part:
        raise KeyError(part)
    return ", ".join(variants)


def _with_word(part: str, word: str) -> str:
    """A part with a word in place of the first * of its names; {*} stays."""

    def named(field: re.Match[str]) -> str:
        return field[0] if field[1] == "*" else field[0].replace("*", word, 1)

    return FIELD.sub(named, part)


def _with_figures(text: str, figures: Mapping[str, Record]) -> str:
    return FIELD.sub(lambda field: _shown(field[1], field[2], figures), text)


def _words(part: str, figures: Mapping[str, Record]) -> list[str]:
    """What the first * of a part's names can stand for, in the records' order."""
    starred = [name for name, _ in FIELD.findall(part) if "*" in name and name != "*"]
    if not starred:
        return [""]
    return list(dict.fromkeys(word for word, _ in _matches(starred[0], figures)))


def _matches(name: str, figures: Mapping[str, Record]) -> Iterator[tuple[str, Record]]:
    """The records that a name with * meets, each with the word that its first * stands for."""
    pattern = re.compile(re.escape(name).replace(r"\*", WORD))
    for candidate, record in figures.items():
        if match := pattern.fullmatch(candidate):
            yield match[1], record


def _shown(name: str, form: str, figures: Mapping[str, Record]) -> str:
    """Returns a figure in one of the forms of `claims.yml`. Raises KeyError if there is none."""
    if "*" in name and name not in figures:
        return number(_chosen(name, form, figures))
    record = figures[name]
    if form == "i":
        return estimate(record)
    if form == "%":
        return _percent(record["value"])
    if form == "+":
        return f"{record['value']:+.3g}".replace("-", "−")
    return number(record["value"])


def _chosen(name: str, form: str, figures: Mapping[str, Record]) -> float:
    """One of the values that a name with * meets. Raises KeyError if it meets none."""
    values = [record["value"] for _, record in _matches(name, figures)]
    if not values:
        raise KeyError(name)
    choice = {"least": min(values), "most": max(values), "first": values[0], "last": values[-1]}
    return float(choice[form])


def _percent(share: float | str) -> str:
    return f"{100 * float(share):.3g} %"
