"""The verdict on each claim of the paper, from result files alone.

A claim consists of the statements of `rules.yml` that name it. Each was judged in the notebook that
measured it. The line of a claim says how many of them hold, and which do not. A statement whose
verdict too few resamples share is undecided, and counts as neither. A claim of which nothing was
measured cannot be tested here. `claims.yml` puts the claims into words.

>>> from difflens_utils.pages import scorecard
>>> scorecard.judge(scorecard.CLAIMS[0], {}).verdict  # no result file
'cannot be tested here'
>>> record = {"name": "fd", "value": 0.02, "low": 0.01, "high": 0.03}
>>> scorecard.words(["FD is {fd:2}.", "Nobody knows {more}."], {"records": [record]})
['FD is 0.02.']
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from .. import methods
from ..metrics import Estimate
from . import rules
from .rules import HOLDS, UNDECIDED, Verdict

Result = Mapping[str, Any]  # a result file
Record = Mapping[str, Any]  # one of its records
UNTESTED = "cannot be tested here"

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
    sentences: Sequence[str]


class Statement(NamedTuple):
    """A verdict with its figures, in words."""

    verdict: Verdict
    notebook: str
    measured: str
    chance: str
    """What comes out where nothing is known or done; empty where nobody can say."""

    @property
    def failing(self) -> str:
        """The statement with what was measured and asked, as a list of misses has it."""
        chance = f"; by chance {self.chance}" if self.chance else ""
        verdict = self.verdict
        told = f"measured {self.measured}; asked {verdict.asks}{chance}"
        return f"{verdict.says}: **{verdict.in_words}** ({told})"


class Line(NamedTuple):
    """One line of the scorecard."""

    claim: Claim
    ours: Sequence[str]
    """What was measured, in sentences, the first one in short."""
    statements: Sequence[Statement]

    @property
    def verdict(self) -> str:
        """How many of its statements hold, such as "5 of 9 hold, 2 undecided"."""
        if not self.statements:
            return UNTESTED
        counted = f"{len(self.that(HOLDS))} of {len(self.statements)} hold"
        undecided = len(self.that(UNDECIDED))
        return f"{counted}, {undecided} undecided" if undecided else counted

    def that(self, *states: str) -> list[Statement]:
        """The statements in these states (`Verdict.state`)."""
        return [one for one in self.statements if one.verdict.state in states]


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
    """A record's value, with its 95 % interval where it has one, as tables have it."""
    value, low, high = (record.get(key) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return number(value)
    return str(Estimate(value, low, high, 0))


# ------------------------------------------------------------------------------------- statements


def statements(results: Mapping[str, Result]) -> list[Statement]:
    """Every statement of result files {notebook: result}, in their order, checks among them.

    Raises ValueError, in one line, for a file that was judged by other rules than those of today.
    """
    found = []
    for notebook, result in results.items():
        if result.get("rules") != rules.fingerprint():
            which = f"{notebook} of {result['subject']}"
            raise ValueError(f"{which} was judged by other rules: execute it again (make book)")
        records = {record["name"]: record for record in result["records"]}
        for entry in result["verdicts"]:
            found.append(_statement(Verdict(**entry), notebook, records))
    return found


def _statement(verdict: Verdict, notebook: str, records: Mapping[str, Record]) -> Statement:
    known = [records[name] for name in verdict.records]
    shown = estimate(rules.worst(verdict, known, itemgetter("value")))
    if len(known) > 1:
        shown += f", the worst of {len(known)}"
    chance = verdict.chance
    if isinstance(chance, str):
        chance = records[chance]["value"] if chance in records else None
    return Statement(verdict, notebook, shown, "" if chance is None else number(chance))


def judge(claim: Claim, results: Mapping[str, Result]) -> Line:
    """The line of a claim, from result files {notebook: result}."""
    return _line(claim, results, statements(results))


def scorecard(results: Mapping[str, Result], claims: Sequence[Claim] = CLAIMS) -> list[Line]:
    """The line of every claim."""
    known = statements(results)
    return [_line(claim, results, known) for claim in claims]


def _line(claim: Claim, results: Mapping[str, Result], known: Sequence[Statement]) -> Line:
    own = [one for one in known if one.verdict.claim == claim.id]
    return Line(claim, words(claim.sentences, results.get(claim.notebook, {})), own)


# -------------------------------------------------------------------------------------- sentences


def words(sentences: Sequence[str], result: Result) -> list[str]:
    """Returns sentences with the figures of a result file. One that lacks a figure is left out.

    `claims.yml` explains the fields of the sentences.
    """
    figures = {record["name"]: record["value"] for record in result.get("records", [])}
    filled = (_filled(sentence, figures) for sentence in sentences)
    return [sentence for sentence in filled if sentence]


def _filled(sentence: str, figures: Mapping[str, Any]) -> str:
    """One sentence with its figures. It is empty if a figure is missing."""
    try:
        repeated = REPEATED.sub(lambda part: _repeated(part[1], figures), sentence)
        return _with_figures(repeated, figures)
    except KeyError:
        return ""


def _repeated(part: str, figures: Mapping[str, Any]) -> str:
    """A part of a sentence, once for each word that stands for the first * of its names.

    Raises KeyError if nothing was measured for any of the words.
    """
    variants = []
    for word in _words(part, figures):
        known = {**figures, "*": word.replace("_", " ")}
        try:
            variants.append(_with_figures(_with_word(part, word), known))
        except KeyError:
            continue  # not measured for this word
    if not variants:
        raise KeyError(part)
    return ", ".join(variants)


def _with_word(part: str, word: str) -> str:
    """A part with a word in place of the first * of its names; {*} stays."""

    def named(field: re.Match[str]) -> str:
        return field[0] if field[1] == "*" else field[0].replace("*", word, 1)

    return FIELD.sub(named, part)


def _with_figures(text: str, figures: Mapping[str, Any]) -> str:
    return FIELD.sub(lambda field: _shown(field[1], field[2].split(), figures), text)


def _words(part: str, figures: Mapping[str, Any]) -> list[str]:
    """What the first * of a part's names can stand for, in the records' order."""
    starred = next(name for name, _ in FIELD.findall(part) if "*" in name and name != "*")
    return list(dict.fromkeys(word for word, _ in _matches(starred, figures)))


def _matches(name: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The records that a name with * meets, each with the word that its first * stands for."""
    pattern = re.compile(re.escape(name).replace(r"\*", WORD))
    for candidate, value in figures.items():
        if match := pattern.fullmatch(candidate):
            yield match[1], value


def _shown(name: str, forms: Sequence[str], figures: Mapping[str, Any]) -> str:
    """Returns a figure in the forms of `claims.yml`. Raises KeyError if there is none."""
    if name in figures:
        return _in_form(figures[name], *forms)
    met = list(_matches(name, figures))
    if not met:
        raise KeyError(name)
    by_value = sorted(met, key=lambda pair: pair[1])
    choice, *rest = forms
    if choice == "rival":
        return _method(by_value[0][0])
    chosen = {"least": by_value[0], "most": by_value[-1], "first": met[0], "last": met[-1]}
    return _in_form(chosen[choice][1], *rest)


def _method(word: str) -> str:
    """The name of a method that is known by a word in records."""
    names = {methods.key(name): name for name in methods.ORDER}
    return names.get(word, word.replace("_", " "))


def _in_form(value: Any, form: str = "") -> str:
    if form == "%":
        return f"{round(100 * value)} %".replace("-", "−")
    if form == "2":
        return f"{value:.2f}"
    if form == "+":
        return f"{value:+.2f}".replace("-", "−")
    if form == "lead":
        size = f"{abs(value):.2f}"
        return f"{size} {'less' if value < 0 and float(size) else 'more'}"
    return number(value)
