"""Checkpoints of guided-diffusion (Dhariwal and Nichol, 2021) as diffusers' `UNet2DModel`.

P2's checkpoint of CelebA-HQ is one. The converted network computes the same function, and its
tensors have other names. Only the layout of that checkpoint is converted: residual blocks that
resample, scale-shift normalisation, and attention with the *legacy* order of its heads. Any other
state is refused, since tensors of equal shapes would load and compute nonsense.

>>> from difflens_utils.subjects.real import guided_diffusion
>>> names = dict(guided_diffusion.modules(guided_diffusion.P2))
>>> names["middle_block.1"]
'mid_block.attentions.0'
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
    from diffusers.models.unets.unet_2d import UNet2DModel


@dataclass(frozen=True)
class Layout:
    """The sizes of a guided-diffusion U-Net.

    The defaults are those of `celebahq_p2.pt`, which has 93,563,910 parameters.
    """

    channels: int = 128
    # Of the channels, per level; a level has half of the width and height of the one before.
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
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
    from diffusers.models.unets.unet_2d import (
        UNet2DModel,  # takes seconds, and few subjects need it
    )

    levels = range(len(layout.multipliers))
    attends = [layout.attends(level) for level in levels]
    network: UNet2DModel = UNet2DModel(
        sample_size=layout.size,
        out_channels=layout.out,
        layers_per_block=layout.blocks,
        block_out_channels=tuple(layout.channels * m for m in layout.multipliers),
        down_block_types=tuple(
            "AttnDownBlock2D" if attention else "ResnetDownsampleBlock2D" for attention in attends
        ),
        up_block_types=tuple(
            "AttnUpBlock2D" if attention else "ResnetUpsampleBlock2D" for attention in attends[::-1]
        ),
        attention_head_dim=layout.head,
        resnet_time_scale_shift="scale_shift",
        norm_eps=1e-5,
        attn_norm_num_groups=32,
        downsample_type="resnet",
        upsample_type="resnet",
    )
    return network


def load(path: Path, layout: Layout = P2) -> UNet2DModel:
    """Reads a checkpoint and converts it.

    Raises ValueError, in one line, for a file that is missing or damaged, or of another network.
    """
    state = checkpoints.tensors(path)
    try:
        return convert(state, layout)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def convert(state: Mapping[str, Tensor], layout: Layout = P2) -> UNet2DModel:
    """The network with the weights of a guided-diffusion state.

    Raises ValueError for a tensor that is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = unet(layout)
    converted: dict[str, Tensor] = {}
    used: set[str] = set()
    for theirs, ours in modules(layout):
        prefix = f"{theirs}."
        for name in [n for n in state if n.startswith(prefix)]:
            used.add(name)
            converted |= _renamed(name.removeprefix(prefix), ours, state[name], layout.head)
    wanted = network.state_dict()
    checkpoints.complete(
        "not a guided-diffusion network of this layout: it",
        lacking=wanted.keys() - converted.keys(),
        unknown=(state.keys() - used) | (converted.keys() - wanted.keys()),
        shapes=checkpoints.other_shapes(converted, wanted),
    )
    network.load_state_dict(converted, assign=True)
    return network.eval().requires_grad_(False)


def modules(layout: Layout) -> Iterator[tuple[str, str]]:
    """Pairs of names, guided-diffusion's and diffusers', of every module that has weights."""
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
    yield from _modules_down(layout)
    yield from _modules_up(layout)


def _modules_down(layout: Layout) -> Iterator[tuple[str, str]]:
    number = 1  # input_blocks.0 is the first convolution
    last = len(layout.multipliers) - 1
    for level in range(last + 1):
        for block in range(layout.blocks):
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{block}"
            if layout.attends(level):
                yield f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{block}"
            number += 1
        if level < last:
            yield f"input_blocks.{number}.0", f"down_blocks.{level}.downsamplers.0"
            number += 1


def _modules_up(layout: Layout) -> Iterator[tuple[str, str]]:
    number = 0
    for up, level in enumerate(reversed(range(len(layout.multipliers)))):
        for block in range(layout.blocks + 1):
            yield f"output_blocks.{number}.0", f"up_blocks.{up}.resnets.{block}"
            if layout.attends(level):
                yield f"output_blocks.{number}.1", f"up_blocks.{up}.attentions.{block}"
            if level > 0 and block == layout.blocks:
                index = 2 if layout.attends(level) else 1  # behind the attention, if there is one
                yield f"output_blocks.{number}.{index}", f"up_blocks.{up}.upsamplers.0"
            number += 1


RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def _renamed(name: str, ours: str, value: Tensor, head: int) -> dict[str, Tensor]:
    """{name in diffusers: tensor} of one tensor of a module; that of q, k and v becomes three."""
    inner, _, kind = name.rpartition(".")
    if inner == "qkv":
        split = zip("qkv", _split_heads(value, head), strict=True)
        return {f"{ours}.to_{letter}.{kind}": tensor for letter, tensor in split}
    if inner == "proj_out":
        return {f"{ours}.to_out.0.{kind}": value.squeeze(-1)}
    if inner == "norm":
        return {f"{ours}.group_norm.{kind}": value}
    if inner == "":
        return {f"{ours}.{kind}": value}
    return {f"{ours}.{RESIDUAL.get(inner, inner)}.{kind}": value}


def _split_heads(value: Tensor, head: int) -> list[Tensor]:
    """Q, K and V of a legacy projection: weights (3C, C, 1) or biases (3C,).

    Its rows are ordered (heads, [q, k, v], head).
    """
    rows = value.shape[0]
    if rows % (3 * head):
        raise ValueError(
            f"its attention has {rows} rows, not three times a multiple of {head} channels per head"
        )
    columns = value.shape[1:2]  # (C,) of weights, () of biases
    by_head = value.reshape(-1, 3, head, *columns)
    return [by_head[:, i].reshape(-1, *columns) for i in range(3)]
