"""What more work costs: exponents against closed forms, and the model against itself."""

from __future__ import annotations

import pytest

from bench import scale
from workflow import growth

FOUND = {
    "command": "python -m bench.scale",
    "environment": {"cores": 2, "processor": "a chip"},
    "subject": "digits",
    "steps": 10,
    "shared": 1000,
    "start": 5.0,
    "rows": [
        {"what": "images", "seconds": {"32": 1.0, "64": 2.0}, "exponent": 1.0},
        {"what": "workers", "seconds": {"1": 25.0, "2": 15.0, "4": 16.0}, "exponent": -0.74},
    ],
}


@pytest.mark.parametrize("exponent", [1.0, 2.0, -1.0, 0.5])
def test_the_exponent_is_that_of_a_power(exponent: float) -> None:
    assert scale.slope({2**i: 3 * (2**i) ** exponent for i in range(5)}) == pytest.approx(exponent)


def test_the_fastest_of_some_runs_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 5.0, 0.0, 2.0, 0.0, 3.0, 0.0, 9.0])  # two runs at two sizes
    monkeypatch.setattr(scale.time, "perf_counter", lambda: next(ticks))
    assert scale.timed(lambda size: None, [1, 2], 2) == {1: 3.0, 2: 2.0}


def test_the_model_is_a_start_and_images_that_are_shared() -> None:
    assert growth.per_image(FOUND) == pytest.approx(0.02)
    assert growth.modelled(FOUND, 1000, 1) == pytest.approx(25)
    assert growth.modelled(FOUND, 10_000, 64) == pytest.approx(5 + 200 / 64)


def test_the_page_has_what_was_measured_beside_the_model() -> None:
    text = growth.text(FOUND)
    assert "| images that are sampled | 1.00 | 1 | 32: 1.00 s | 64: 2.00 s |" in text
    assert "| 2 | 15.0 s | 15.0 s |" in text and "| 4 | 16.0 s | no cores |" in text
    assert "| 64 | 8 | 52.0 |" in text and "−0.74" in text
