"""The rules of the study (`rules.yml`), and the verdicts that follow from them and the records.

A verdict is a function of a rule and of figures, and of nothing else. Beside it stands its
stability: the share of the joint resamples of its figures that give the same verdict.

>>> from difflens_utils import metrics
>>> from difflens_utils.pages import rules
>>> asked = {"says": "{attribute} is fair", "record": "{attribute}.fd", "below": 0.1}
>>> rule = rules.Rule("fair", "C1", "06_debiasing", **asked)
>>> verdict = rules.judge(rule, {"age.fd": metrics.mean([0.0] * 90 + [0.2] * 10)})[0]
>>> verdict.says, verdict.holds, verdict.stability
('age is fair', True, 1.0)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from ..metrics import Estimate

STABLE = 0.95  # the stability from which a verdict should be the same on every machine
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
NAMED = re.compile(r"\{(\w+)\}")
T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """An entry of `rules.yml`, which explains the fields."""

    rule: str
    claim: str | None
    notebook: str
    says: str
    record: str
    above: float | None = None
    below: float | None = None
    chance: float | str | None = None

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise ValueError(f"rule {self.rule} must have above or below, and not both")

    @property
    def asks(self) -> str:
        """What the figures have to be, in words."""
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"

    def passes(self, figures: np.ndarray) -> np.ndarray:
        """Whether figures, of any shape, are as asked for; nan is not."""
        passed: np.ndarray = (
            figures > self.above if self.above is not None else figures < self.below
        )
        return passed

    def matches(self, records: Mapping[str, Any]) -> dict[tuple[tuple[str, str], ...], list[str]]:
        """The records of each statement: {words that the rule's names stand for: records}."""
        pattern = _pattern(self.record)
        found: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for record in records:
            if match := pattern.fullmatch(record):
                found.setdefault(tuple(match.groupdict().items()), []).append(record)
        return found


@dataclass(frozen=True)
class Verdict:
    """One statement, judged."""

    rule: str
    claim: str | None
    says: str
    records: Sequence[str]
    asks: str
    chance: float | str | None
    holds: bool
    stability: float | None
    """None where no figure has resamples."""

    @property
    def stable(self) -> bool:
        return self.stability is not None and self.stability >= STABLE

    @property
    def counts(self) -> bool:
        """Whether it is a statement of a claim, and not a check."""
        return self.claim is not None

    @property
    def state(self) -> str:
        """What it counts as: one that too few resamples share is undecided."""
        return str(self) if self.stable or self.stability is None else UNDECIDED

    @property
    def in_words(self) -> str:
        """The state, and where it is undecided, how many resamples are for it."""
        if self.state != UNDECIDED or self.stability is None:
            return self.state
        share = self.stability if self.holds else 1 - self.stability
        return f"{UNDECIDED}, holds in {100 * share:.0f} % of resamples"

    def __str__(self) -> str:
        return HOLDS if self.holds else FAILS


def _pattern(record: str) -> re.Pattern[str]:
    """The names that a rule's record stands for: {word} and * are each a part between dots.

    A number may have a dot of its own.
    """
    part = r"[^.]+(?:\.\d+)?"
    names = [re.escape(piece).replace(r"\*", part) for piece in NAMED.split(record)[::2]]
    words = NAMED.findall(record)
    joined = names[0]
    for word, rest in zip(words, names[1:], strict=True):
        joined += f"(?P<{word}>{part})" + rest
    return re.compile(joined)


def _load() -> tuple[Rule, ...]:
    entries = yaml.safe_load(Path(__file__).with_name("rules.yml").read_text(encoding="utf-8"))
    return tuple(Rule(**{"claim": None, **entry}) for entry in entries)


RULES = _load()


def fingerprint(rules: Sequence[Rule] = RULES) -> str:
    """A hash of what the rules ask for: it stands in every result file."""
    content = json.dumps([asdict(rule) for rule in rules], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def judge(rule: Rule, figures: Mapping[str, Estimate]) -> list[Verdict]:
    """The verdicts of a rule on figures {record: figure}: one for each of its statements.

    Raises ValueError for a statement of a claim that rests on figures without resamples.
    """
    verdicts = []
    for words, records in rule.matches(figures).items():
        estimates = [figures[record] for record in records]
        named = dict(words)
        values = np.array([estimate.value for estimate in estimates])
        holds = bool(rule.passes(values).all())
        stability = _stability(rule, estimates, holds)
        if rule.claim is not None and stability is None:
            raise ValueError(f"record {records[0]} must have resamples: rule {rule.rule} counts")
        chance = rule.chance.format(**named) if isinstance(rule.chance, str) else rule.chance
        says = rule.says.format(**{name: word.replace("_", " ") for name, word in named.items()})
        verdicts.append(
            Verdict(rule.rule, rule.claim, says, records, rule.asks, chance, holds, stability)
        )
    return verdicts


def worst(
    verdict: Verdict, figures: Sequence[T], value: Callable[[T], float] = attrgetter("value")
) -> T:
    """The figure that comes nearest to failing, or fails by most; `value` reads its value."""
    choose = min if verdict.asks.startswith("above") else max
    return choose(figures, key=value)


def _stability(rule: Rule, estimates: Sequence[Estimate], holds: bool) -> float | None:
    """The share of joint resamples that give the verdict that the figures themselves give."""
    draws = [estimate.draws for estimate in estimates if estimate.draws is not None]
    if not draws:
        return None
    fixed = [np.full(len(draws[0]), e.value) for e in estimates if e.draws is None]
    passed = rule.passes(np.stack([*draws, *fixed])).all(0)
    return float((passed == holds).mean())


def judge_all(
    notebook: str, figures: Mapping[str, Estimate], rules: Sequence[Rule] = RULES
) -> list[Verdict]:
    """The verdicts of a notebook's rules, in their order; rules without a figure give none."""
    return [
        verdict for rule in rules if rule.notebook == notebook for verdict in judge(rule, figures)
    ]
