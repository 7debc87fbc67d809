"""The conversion of guided-diffusion's checkpoints, compared with `guided`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from guided import guided
from torch import Tensor, nn

from difflens_utils.subjects.real import guided_diffusion
from difflens_utils.subjects.real.guided_diffusion import P2, Layout

SMALL = Layout(channels=32, multipliers=(1, 2, 2), attention=(2,), head=16, size=32)


def outputs(layout: Layout, size: int) -> tuple[Tensor, Tensor]:
    """Largest relative differences between theirs and ours: (of the output, of the bottleneck)."""
    theirs = guided(layout)
    ours = guided_diffusion.convert(theirs.state_dict(), layout)
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([3, 741])
    seen: list[Tensor] = []
    ours.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    want, middle = theirs(x, t)
    got = ours(x, t).sample
    return tuple((a - b).abs().max() / b.abs().max() for a, b in ((got, want), (seen[0], middle)))


@pytest.mark.parametrize(("layout", "size"), [(SMALL, 16), (SMALL, 32), (P2, 32), (P2, 64)])
def test_the_converted_network_is_the_same_function(layout: Layout, size: int) -> None:
    assert max(outputs(layout, size)) < 1e-5


def test_p2_has_as_many_parameters_as_the_released_checkpoint() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in guided_diffusion.unet(P2).parameters()) == 93_563_910


def test_a_checkpoint_is_read_from_disk(tmp_path: Path) -> None:
    theirs = guided(SMALL)
    torch.save(theirs.state_dict(), tmp_path / "small.pt")
    network = guided_diffusion.load(tmp_path / "small.pt", SMALL)
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([5])
    assert torch.allclose(network(x, t).sample, theirs(x, t)[0], atol=1e-5)
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda s: s.pop("middle_block.1.qkv.weight"),
            "lacks mid_block.attentions.0.to_k.weight and 2 more",
        ),
        (
            lambda s: s.update({"label_emb.weight": torch.zeros(10, 128)}),
            "has the unknown label_emb.weight",
        ),
        (
            lambda s: s.update({"out.2.weight": s["out.2.weight"][:3]}),
            r"conv_out.weight has shape \(3, 32, 3, 3\) instead of \(6, 32, 3, 3\)",
        ),
        (
            lambda s: s.update({"middle_block.1.qkv.bias": torch.zeros(100)}),
            "its attention has 100 rows",
        ),
        (lambda s: s["out.2.bias"].fill_(torch.nan), "out.2.bias holds values that are not finite"),
    ],
)
def test_a_foreign_state_is_refused(tmp_path: Path, change, told: str) -> None:  # noqa: ANN001
    state = guided(SMALL).state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=told) as refused:
        guided_diffusion.load(tmp_path / "x.pt", SMALL)
    assert "\n" not in str(refused.value) and "x.pt" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "told"), [(b"not a checkpoint", "damaged"), (b"", "damaged"), (None, "missing")]
)
def test_a_file_that_cannot_be_read_is_refused(
    tmp_path: Path, content: bytes | None, told: str
) -> None:
    path = tmp_path / "x.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=told) as refused:
        guided_diffusion.load(path)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_that_holds_more_than_tensors_is_refused(tmp_path: Path) -> None:
    for number, value in enumerate(([1, 2], {"model": "x"}, nn.Linear(2, 2))):
        torch.save(value, tmp_path / f"{number}.pt")
        with pytest.raises(ValueError, match="tensors"):
            guided_diffusion.load(tmp_path / f"{number}.pt")
