"""Leaves out what no weight reads: the channels of skip connections that were closed.

A closed skip (`models/portraits/README.md`) is a block of zeros in the weights that would read it.
Normalising those channels and multiplying them by zero takes time and changes nothing.

>>> import torch
>>> from diffusers.models.resnet import ResnetBlock2D
>>> from difflens_utils.subjects import unread
>>> block = ResnetBlock2D(in_channels=8, out_channels=4, groups=2, temb_channels=None)
>>> for layer in (block.conv1, block.conv_shortcut):
...     layer.weight.data[:, 4:] = 0  # the skip
>>> x = torch.randn(1, 8, 2, 2)
>>> with torch.no_grad():
...     before = block(x, None)
>>> unread.leave_out(block)
>>> block.conv1.in_channels
4
>>> with torch.no_grad():
...     torch.allclose(block(x, None), before)
True
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn


def leave_out(network: nn.Module) -> None:
    """Narrows the layers of a network that read skip connections to the channels they do read."""
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and isinstance(module.conv_shortcut, nn.Conv2d):
            _narrow(module, module.conv_shortcut)


def _narrow(block: ResnetBlock2D, shortcut: nn.Conv2d) -> None:
    norm, conv = block.norm1, block.conv1
    if isinstance(norm, nn.GroupNorm):
        group = norm.num_channels // norm.num_groups
        groups = -(-_read(conv) // group)  # whole ones: a group has one mean
        if 0 < groups < norm.num_groups:
            norm.num_groups, norm.num_channels = groups, groups * group
            norm.weight.data = norm.weight.data[: groups * group].clone()
            norm.bias.data = norm.bias.data[: groups * group].clone()
            _take(conv, groups * group)
            norm.register_forward_pre_hook(partial(_first, groups * group))
    if 0 < (read := _read(shortcut)) < shortcut.in_channels:
        _take(shortcut, read)
        shortcut.register_forward_pre_hook(partial(_first, read))


def _read(conv: nn.Conv2d) -> int:
    """How many channels, from the first, some weight of a convolution reads."""
    used = conv.weight.flatten(2).any(-1).any(0).nonzero()
    return int(used.max()) + 1 if len(used) else 0


def _take(conv: nn.Conv2d, channels: int) -> None:
    conv.weight.data = conv.weight.data[:, :channels].clone()
    conv.in_channels = channels


def _first(channels: int, _layer: nn.Module, args: tuple[Tensor, ...]) -> Any:
    x, *others = args
    last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return (x[:, :channels].contiguous(memory_format=layout), *others)
