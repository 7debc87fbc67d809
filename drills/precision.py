"""Threads and precision change figures by no more than their noise, and no stable verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from drills.scene import PROFILE, SUBJECT, Row, Scene

DRILL = "threads and precision"
WAYS = [(threads, precision) for precision in ("float32", "bfloat16") for threads in (1, 2, 4)]
STABLE = 0.95
SLOW = 3600  # seconds: a processor without instructions for bfloat16 takes long
SHARE = 0.9  # of the figures that must lie in the other way's 95 % interval


def drill(scene: Scene, _expected: dict[str, str]) -> Iterator[Row]:
    """The build in each way, compared with that of one thread in float32."""
    first: dict[str, Any] | None = None
    for threads, precision in WAYS:
        scene.forget()
        way = Scene(scene.root, threads, threads, {"DIFFLENS_PRECISION": precision}, SLOW)
        done = way.run(way.build())
        case = f"{threads} threads, {precision}"
        if done.code:
            yield Row(DRILL, case, 1, 0, done.lines[-1])
            if first is None:  # nothing to compare with
                return
        elif first is None:
            first = _results(scene)
        else:
            same, verdicts, figures, inside = compared(first, _results(scene))
            passed = 0 < same == verdicts and inside >= SHARE * figures > 0
            told = f"{same} of {verdicts} stable verdicts the same"
            note = f"{told}, {inside} of {figures} figures inside"
            yield Row(DRILL, case, 1, int(passed), note)


def _results(scene: Scene) -> dict[str, Any]:
    folder = scene.root / "_build/results" / PROFILE / SUBJECT
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def compared(first: dict[str, Any], found: dict[str, Any]) -> tuple[int, int, int, int]:
    """How many stable verdicts are the same, of how many; figures inside intervals, of how many."""
    same = verdicts = figures = inside = 0
    for notebook, result in first.items():
        other = found[notebook]
        holds = {v["says"]: v["holds"] for v in other["verdicts"] if _stable(v)}
        for verdict in filter(_stable, result["verdicts"]):
            if verdict["says"] in holds:
                verdicts += 1
                same += holds[verdict["says"]] == verdict["holds"]
        values = {record["name"]: record["value"] for record in other["records"]}
        for record in result["records"]:
            low, high, value = record["low"], record["high"], values.get(record["name"])
            if low is None or high is None or value is None:
                continue
            figures += 1
            inside += low <= value <= high
    return same, verdicts, figures, inside


def _stable(verdict: dict[str, Any]) -> bool:
    return (verdict["stability"] or 0) >= STABLE
