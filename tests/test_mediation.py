from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from torch import Tensor, nn

from difflens_utils.analysis import mediation
from difflens_utils.runtime import artifacts
from difflens_utils.subjects.pipelines import Subject
from difflens_utils.worlds import portraits

TIMES = (800, 400)


class Bypass(nn.Module):
    """A network whose output passes the module `inner` by `share`; the rest goes around it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.inner, self.share = nn.Identity(), share
        self.unused = nn.Parameter(torch.zeros(1))  # a network's precision is its parameters'

    def forward(self, x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (self.share * self.inner(x) + (1 - self.share) * x,)


pytestmark = pytest.mark.usefixtures("store")


TONES = portraits.WORLD.factors["tone"].classes
EXCHANGE = mediation.Exchange("tone", TONES[0], TONES[3])


def run(share: float, n: int = 6) -> mediation.Mediation:
    subject = replace(
        tiny.subject(),
        network=Bypass(share),
        module="inner",
        fingerprint=f"bypass{share}",
        opened=[],
    )
    return mediation.through_modules(subject, EXCHANGE, TIMES, ["inner"], n=n, seed=2)["inner"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_effect_splits_as_in_closed_form(share: float) -> None:
    """With epsilon = x the clean image is (1 - sigma) x / sqrt(alpha-bar).

    Of it, -sigma share comes by way of h.
    """
    sigma = (1 - tiny.scheduler().alphas_cumprod[list(TIMES)]).sqrt()[:, None].expand(-1, 6)
    got = run(share)
    torch.testing.assert_close(got.total, 1 - sigma, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.through, -share * sigma, atol=1e-4, rtol=1e-4)
    # Another background lies in other pixels than another skin, but for soft edges.
    assert got.control.abs().mean() < 0.02


def test_a_share_pools_timesteps_and_has_an_interval() -> None:
    got = mediation.Mediation(torch.full((3, 50), 0.5), torch.rand(3, 50) * 0.4, torch.zeros(3, 50))
    share = got.share((0, 2))
    assert share.value == pytest.approx(float(got.through[[0, 2]].mean() / 0.5), rel=1e-5)
    assert share.low < share.value < share.high and share.n == 50
    assert [e.value for e in got.curve("total")] == pytest.approx([0.5] * 3)


def test_bad_input_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="n_pairs"):
        run(0.5, n=0)
    with pytest.raises(ValueError, match="nothing is known of the data"):
        sweep(replace(tiny.subject(), world=None), "mid_block")
    subject = tiny.subject()
    monkeypatch.setattr(subject.network, "forward", None)
    with pytest.raises(ValueError, match="module must be one of"):
        sweep(subject, *BLOCKS, "down_blocks.9")


BLOCKS = ("conv_in", "down_blocks.0", "mid_block", "up_blocks.0", "up_blocks.1")


def sweep(subject: Subject, *modules: str) -> dict[str, mediation.Mediation]:
    return mediation.through_modules(subject, EXCHANGE, TIMES, modules, n=4, seed=0)


def test_a_sweep_shares_what_modules_have_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit by bit the effects of each module alone, for three fifths of the network's answers."""
    subject = tiny.subject()
    alone = {module: sweep(subject, module)[module] for module in BLOCKS}
    monkeypatch.setattr(artifacts, "STORE", artifacts.STORE / "another")
    passes: list[object] = []
    subject.network.register_forward_pre_hook(lambda *_: passes.append(None))
    swept = sweep(subject, *BLOCKS)
    assert mediation.TOGETHER == 4 and len(passes) == len(TIMES) * (2 * 3 + 2 * len(BLOCKS))
    for module, effect in swept.items():
        assert all(map(torch.equal, effect, alone[module]))
    assert not torch.equal(swept["mid_block"].through, swept["up_blocks.0"].through)
    passes.clear()
    assert list(sweep(subject, *BLOCKS, "conv_out")) == [*BLOCKS, "conv_out"]
    assert len(passes) == len(TIMES) * 5  # of the new one alone: the others are stored
    assert sweep(subject) == {}
