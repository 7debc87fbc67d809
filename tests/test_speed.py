"""The page on speed: what was missed is shown, and a profile counts each look once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import timing
from workflow import speed

ROW = {
    "what": "sampling",
    "ours": 20.0,
    "beside": 10.0,
    "ratio": 2.0,
    "target": ">= 2",
    "met": True,
    "note": "bf16",
}
BENCH = {
    "environment": {"cores": 2},
    "rows": [
        ROW,
        {**ROW, "what": "memory", "met": False, "note": ""},
        {**ROW, "what": "peers", "ratio": None, "met": None},
    ],
}
PROFILED = {
    "digits": {
        "command": "python -m bench.timing --subject digits",
        "environment": {"processor": "a chip", "precision": "float32"},
        "seconds": {
            "00_bias": {"imports": 10.0, "sampling": 20.0},
            "02_ksae": {"training": 60.0, "sampling": 10.0},
        },
    }
}
UTILS = "difflens_utils"
CONV = f"sample ({UTILS}/sampling/sampler.py:9);conv (torch/x.py:1)"
TOP_K = f"top_k ({UTILS}/ksae/sparse.py:42)"
STACKS = [
    f"launch (ipykernel/app.py:1);draw ({UTILS}/outcome.py:5);{CONV} 40",
    f"draw ({UTILS}/outcome.py:5);judge ({UTILS}/outcome.py:7);read ({UTILS}/evaluators/x.py:3) 10",
    f"clean ({UTILS}/analysis/mediation.py:4);predict ({UTILS}/subjects/pipelines.py:6);conv 20",
    f"open ({UTILS}/study.py:3);_find_and_load (<frozen importlib._bootstrap>:1176);{CONV} 20",
    f"update ({UTILS}/ksae/training.py:144);{TOP_K} 30",
    f"apply ({UTILS}/sampling/sampler.py:3);steer ({UTILS}/edits.py:2);{TOP_K} 20",
    "run_forever (asyncio/base_events.py:607);EpollSelector.select (selectors.py:468) 4000",
    "Thread.run (threading.py:982);ParentPollerUnix.run (ipykernel/parentpoller.py:62) 4000",
    "Thread.run (threading.py:982);Pool._handle_results (multiprocessing/pool.py:579) 4000",
    f"fit ({UTILS}/analysis/x.py:1);Parallel._retrieve (joblib/parallel.py:1822) 4000",
]


def test_the_page_shows_what_was_missed_and_what_was_not_measured() -> None:
    page = speed.page(BENCH, {})
    assert "| sampling | 20 | 10 | 2 | >= 2 | yes | 1 |" in page
    assert "| memory | 20 | 10 | 2 | >= 2 | **no** |  |" in page
    assert "| peers | 20 | 10 | – | >= 2 | not measured | 2 |" in page
    assert "\n1. bf16\n2. bf16\n" in page and "- cores: 2" in page
    assert "Where the time goes" not in page


def test_the_profile_has_sums_of_both_ways_and_the_largest_kind_first() -> None:
    page = speed.page(BENCH, PROFILED)
    rows = [
        "| notebook | 00 | 02 | all | % |",
        "| --- | --- | --- | --- | --- |",
        "| training | 0 | 60 | 60 | 60 |",
        "| sampling | 20 | 10 | 30 | 30 |",
        "| imports | 10 | 0 | 10 | 10 |",
        "| all | 30 | 70 | **100** | 100 |",
    ]
    assert "\n".join(rows) in page
    assert "`python -m bench.timing --subject digits`, on a chip, float32." in page


def test_a_look_counts_for_what_a_thread_does_and_not_while_it_waits() -> None:
    seconds = timing.seconds_of(STACKS, rate=20)
    assert seconds == {"imports": 1.0, "evaluators": 0.5, "sampling": 4.0, "training": 1.5}


def test_a_subject_replaces_its_own_profile_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "OUTPUT", tmp_path / "profile.json")
    for subject, seconds in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        timing.written(subject, {"00_bias": {"sampling": seconds}}, {"command": subject})
    found = json.loads((tmp_path / "profile.json").read_text())
    assert [found[s]["seconds"]["00_bias"]["sampling"] for s in "ab"] == [3.0, 2.0]
