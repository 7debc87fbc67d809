"""Checkpoints of guided-diffusion (Dhariwal and Nichol, 2021), such as P2's of CelebA-HQ, as diffusers' `UNet2DModel`: the same function, other names.

Only the layout that the paper's subject has is converted: residual blocks that resample, scale-shift normalisation, attention with the
*legacy* order of its heads. A state that is anything else is refused, since tensors of equal shapes would load and compute nonsense.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import checkpoints

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Layout:
    """The sizes of a guided-diffusion U-Net; the defaults are those of `celebahq_p2.pt` (93,563,910 parameters)."""

    channels: int = 128
    multipliers: tuple[int, ...] = (
        1,
        1,
        2,
        2,
        4,
        4,
    )  # channels per level, each half as wide as the one before
    blocks: int = 1  # residual blocks per level, one more on the way up
    attention: tuple[int, ...] = (16,)  # at which downsampling factors
    head: int = 64  # channels per attention head
    out: int = 6  # epsilon, and the learned variances that sampling here cuts off
    size: int = 256  # of the images it was trained on

    def attends(self, level: int) -> bool:
        return 2**level in self.attention


P2 = Layout()


def unet(layout: Layout = P2) -> UNet2DModel:
    """The same network in diffusers, with random weights."""
    from diffusers import UNet2DModel  # seconds that reading the package's texts can do without

    last = len(layout.multipliers) - 1
    down = [
        "AttnDownBlock2D" if layout.attends(i) else "ResnetDownsampleBlock2D"
        for i in range(last + 1)
    ]
    return UNet2DModel(
        sample_size=layout.size,
        out_channels=layout.out,
        layers_per_block=layout.blocks,
        block_out_channels=[layout.channels * m for m in layout.multipliers],
        down_block_types=down,
        up_block_types=[
            "AttnUpBlock2D" if name.startswith("Attn") else "ResnetUpsampleBlock2D"
            for name in down[::-1]
        ],
        attention_head_dim=layout.head,
        resnet_time_scale_shift="scale_shift",
        norm_eps=1e-5,
        attn_norm_num_groups=32,
        downsample_type="resnet",
        upsample_type="resnet",
    )


def load(path: Path, layout: Layout = P2) -> UNet2DModel:
    """A checkpoint from disk, converted. ValueError, in one line, for a file that is missing, damaged, no state of tensors, or of another network."""
    state = checkpoints.tensors(path)
    try:
        return convert(state, layout)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def convert(state: Mapping[str, Tensor], layout: Layout = P2) -> UNet2DModel:
    """The network with the weights of a guided-diffusion state; ValueError for a tensor that is missing, unexpected or of another shape."""
    with torch.device("meta"):
        network = unet(layout)
    wanted, made, used = network.state_dict(), {}, set()
    for theirs, ours in modules(layout):
        for name in [n for n in state if n.startswith(f"{theirs}.")]:
            used.add(name)
            made |= _renamed(name.removeprefix(f"{theirs}."), ours, state[name], layout.head)
    for what, names in (
        ("lacks", wanted.keys() - made.keys()),
        ("has the unknown", (state.keys() - used) | (made.keys() - wanted.keys())),
    ):
        if names:
            raise ValueError(
                f"not a guided-diffusion network of this layout: it {what} {min(names)}"
                + f" and {len(names) - 1} more" * (len(names) > 1)
            )
    for name, value in made.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"not a guided-diffusion network of this layout: {name} has shape {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
            )
    network.load_state_dict(made, assign=True)
    return network.eval().requires_grad_(False)


def modules(layout: Layout) -> Iterator[tuple[str, str]]:
    """Pairs of module names, guided-diffusion's and diffusers', for all that has weights."""
    yield from (
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("middle_block.0", "mid_block.resnets.0"),
        ("middle_block.1", "mid_block.attentions.0"),
        ("middle_block.2", "mid_block.resnets.1"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    )
    last, number = len(layout.multipliers) - 1, 1  # input_blocks.0 is the first convolution
    for level in range(last + 1):
        for block in range(layout.blocks):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}"
            if layout.attends(level):
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{block}"
            number += 1
        if level < last:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1
    number = 0
    for up, level in enumerate(range(last, -1, -1)):
        for block in range(layout.blocks + 1):
            yield f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{block}"
            if layout.attends(level):
                yield f"output_blocks.{number}.1", f"up_blocks.{up}.attentions.{block}"
            if level and block == layout.blocks:  # behind the attention, where there is one
                yield (
                    f"output_blocks.{number}.{1 + layout.attends(level)}",
                    f"up_blocks.{up}.upsamplers.0",
                )
            number += 1


RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def _renamed(part: str, ours: str, value: Tensor, head: int) -> dict[str, Tensor]:
    """What one tensor of a module becomes: {name: tensor}."""
    inner, _, kind = part.rpartition(".")
    if inner == "qkv":
        return {
            f"{ours}.to_{name}.{kind}": tensor
            for name, tensor in zip("qkv", _split_heads(value, head), strict=True)
        }
    if inner == "proj_out":
        return {f"{ours}.to_out.0.{kind}": value.squeeze(-1)}
    if inner == "norm":
        return {f"{ours}.group_norm.{kind}": value}
    return {
        f"{ours}.{RESIDUAL[inner]}.{kind}"
        if inner in RESIDUAL
        else ".".join(filter(None, (ours, inner, kind))): value
    }


def _split_heads(value: Tensor, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K and V of a legacy projection, whose rows are ordered (heads, [q, k, v], head): weights (3C, C, 1) or biases (3C,)."""
    if value.shape[0] % (3 * head):
        raise ValueError(
            f"its attention has {value.shape[0]} rows, not three times a multiple of {head} channels per head"
        )
    rows = value.reshape(-1, 3, head, *value.shape[1:2])
    return tuple(rows[:, i].reshape(-1, *value.shape[1:2]) for i in range(3))
