"""Rules: which records a statement rests on, what it says, and how stable its verdict is."""

from __future__ import annotations

import numpy as np
import pytest

from difflens_utils import metrics
from difflens_utils.metrics import Estimate
from difflens_utils.pages import rules
from difflens_utils.pages.rules import Rule

RNG = np.random.default_rng(0)


def rule(record: str, **asked: object) -> Rule:
    return Rule("r", "C1", "06_debiasing", "it holds for {attribute}", record, **asked)


def test_one_statement_for_each_word_and_all_records_of_it_have_to_pass() -> None:
    good, bad = metrics.mean([1.0, 1.1, 0.9]), metrics.mean([-1.0, -1.1, -0.9])
    figures = {"age.lead.a": good, "age.lead.b": bad, "tone.lead.a": good, "tone.other": bad}
    age, tone = rules.judge(rule("{attribute}.lead.*", above=0), figures)
    assert (age.says, age.holds, list(age.records)) == (
        "it holds for age",
        False,
        ["age.lead.a", "age.lead.b"],
    )
    assert tone.holds and tone.stability == 1.0 and tone.stable


def test_a_star_takes_numbers_and_no_further_dot() -> None:
    one = metrics.mean([1.0, 1.0])
    figures = {"k.t3": one, "k.t0.5": one, "k.t3.more": one}
    (verdict,) = rules.judge(Rule("r", "C1", "n", "x", "k.*", above=0), figures)
    assert list(verdict.records) == ["k.t3", "k.t0.5"]


def test_stability_is_the_share_of_joint_resamples_with_the_same_verdict() -> None:
    values = RNG.normal(0.05, 1, size=(2, 300))
    a, b = metrics.mean(values[0]), metrics.mean(values[1])
    (verdict,) = rules.judge(rule("{attribute}.*", above=0), {"x.a": a, "x.b": b})
    passed = (a.draws > 0) & (b.draws > 0)
    assert verdict.holds == (a.value > 0 and b.value > 0)
    assert verdict.stability == pytest.approx((passed == verdict.holds).mean())


def test_a_figure_at_the_margin_is_unstable() -> None:
    centred = RNG.normal(size=500)
    (verdict,) = rules.judge(
        rule("{attribute}.x", above=0), {"a.x": metrics.mean(centred - centred.mean() + 1e-9)}
    )
    assert not verdict.stable and 0.4 < verdict.stability < 0.6


def test_a_statement_that_counts_needs_resamples_and_a_check_does_not() -> None:
    fixed = {"a.x": Estimate(0.5, 0.4, 0.6, 10)}
    with pytest.raises(ValueError, match=r"record a.x must have resamples: rule r counts"):
        rules.judge(rule("{attribute}.x", above=0), fixed)
    check = Rule("r", None, "n", "x", "a.x", above=0)
    assert rules.judge(check, fixed)[0].stability is None


def test_a_figure_that_is_missing_is_not_judged() -> None:
    assert rules.judge(rule("{attribute}.x", above=0), {}) == []


def test_rules_are_of_one_kind_and_name_claims_and_notebooks() -> None:
    names = [each.rule for each in rules.RULES]
    assert len(set(names)) == len(names)
    for each in rules.RULES:
        assert each.claim is None or each.claim in {f"C{i}" for i in range(13)}
        assert set(rules.NAMED.findall(each.says)) <= set(rules.NAMED.findall(each.record))
    with pytest.raises(ValueError, match="must have above or below, and not both"):
        rule("x", above=0, below=1)


def test_the_fingerprint_changes_with_what_a_rule_asks() -> None:
    changed = [*rules.RULES[1:], rule("x", above=0)]
    assert rules.fingerprint(changed) != rules.fingerprint()
    assert rules.fingerprint() == rules.fingerprint(rules.RULES)
