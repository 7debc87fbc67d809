"""The table of pipelines: each of its rows is measured again."""

from __future__ import annotations

import json

import doors
import made
import pytest

from difflens_utils.subjects import pipelines
from workflow import doors as page

# Chroma imports a part of diffusers from where it will not be for ever
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")
STORED = json.loads(doors.RESULT.read_text())


@pytest.mark.parametrize("name", doors.ROWS)
def test_a_row_is_what_is_measured(name: str) -> None:
    row = doors.measured(name)
    stored = STORED["rows"][list(doors.ROWS).index(name)]
    assert row.difference < 2e-5
    assert stored | {"difference": 0} == row._asdict() | {"difference": 0}
    assert stored["difference"] < 2e-5


def test_every_kind_that_the_own_sampler_opens_has_a_row() -> None:
    shown = {row["pipeline"] for row in STORED["rows"] if row["door"] == "own sampler"}
    assert shown == set(pipelines.KINDS) - {"DDIMPipeline"}  # the same network as DDPMPipeline's
    assert len(STORED["rows"]) == len(doors.ROWS) == len(made.MADE) + len(made.NATIVE) + 5


def test_the_page_shows_every_row() -> None:
    lines = page.table(STORED).splitlines()
    assert len(lines) == 2 + len(STORED["rows"])
    assert "| StableDiffusion3, without T5 | own |" in page.table(STORED)
    assert "2e-06" in page.table(STORED)
