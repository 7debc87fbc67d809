"""The law of the mediated share: its correlation, how open a network is, and its page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from difflens_utils import Study
from difflens_utils.subjects import registry
from models import law
from models.portraits.train import close_skips, network
from workflow import law as pages

METHODS = ("DiffLens", "mean difference")


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 64}


def place(pairs: list[tuple[float, float]], module: str = "mid_block") -> dict:
    rows = {
        f"attribute {i}": {"mediated": figure(m)} | {name: {"kept": figure(k)} for name in METHODS}
        for i, (m, k) in enumerate(pairs)
    }
    return {"settings": {"module": module}, "open": "2 of 8", "rows": rows}


@pytest.fixture
def found() -> dict:
    places = {
        "portraits": place([(0.9, 0.95), (0.8, 0.8)]),
        "portraits=ladder/open-3": place([(0.2, 0.7), (0.02, 0.4)]),
        "portraits-open@up_blocks.0": place([(0.1, 0.6), (-0.001, 0.0)], "up_blocks.0"),
    }
    return {"places": places, "law": {name: law.law(places, name) for name in METHODS}}


def test_the_law_is_spearmans_correlation_with_the_interval_of_resampled_places() -> None:
    rng = np.random.default_rng(3)
    pairs = rng.random((8, 3, 2))
    places = {str(i): place(own.tolist()) for i, own in enumerate(pairs)}
    got = law.law(places)
    want = stats.spearmanr(*pairs.reshape(-1, 2).T).statistic
    assert got["correlation"] == pytest.approx(want)
    assert (got["places"], got["n"]) == (8, 24)
    drawn = pairs[rng.integers(8, size=(3000, 8))].reshape(3000, 24, 2)
    draws = [stats.spearmanr(*own.T).statistic for own in drawn]
    ends = np.percentile(draws, [2.5, 97.5])
    np.testing.assert_allclose([got["low"], got["high"]], ends, atol=0.04)


def test_a_law_that_goes_the_other_way_does_not_hold(found: dict) -> None:
    assert pages.verdict(found).startswith("**It holds**: over 6 attributes of 3 places")
    for measured in found["places"].values():
        for row in measured["rows"].values():
            row["mediated"] = figure(-row["mediated"]["value"])
    found["law"] = {"DiffLens": law.law(found["places"])}
    assert found["law"]["DiffLens"]["correlation"] == pytest.approx(-1)
    assert pages.verdict(found).startswith("**It does not hold**")


def test_the_page_names_every_place_and_draws_them(found: dict, tmp_path: Path) -> None:
    for folder in ("generated", "_static"):
        (tmp_path / folder).mkdir()
    pages.write(found, tmp_path)
    _, _, *rows = (tmp_path / "generated/law_table.md").read_text().splitlines()
    assert len(rows) == 6
    first = "| -0.00 [-0.01, 0.01] | attribute 1 | portraits-open, up_blocks.0 | 2 of 8 | 0.00 "
    assert rows[0].startswith(first) and rows[-1].startswith("| 0.90 ")
    assert "| open-3 |" in rows[3]
    assert (tmp_path / "_static/law.png").stat().st_size > 10_000


def test_openness_is_read_from_the_weights() -> None:
    base = registry.load("portraits", "cpu")
    for blocks, share in ((0, "0 of 8"), (1, "2 of 8"), (4, "8 of 8")):
        unet = network()
        close_skips(unet, 2 * blocks)
        assert law.openness(Study(replace(base, network=unet))) == share


def test_a_place_is_a_subject_with_weights_and_a_module_of_its_own() -> None:
    study = law.opened("portraits=models/portraits-open@up_blocks.0")
    assert (study.subject.name, study.subject.module) == ("portraits", "up_blocks.0")
    assert law.openness(study) == "8 of 8"
    with pytest.raises(ValueError, match="subject must be one of"):
        law.opened("nowhere")
