"""Upsampling and the convolution behind it as one transposed convolution.

Behind an upsampling, nine weights read each pixel four times over. Sums of those weights read it
once: less than half of the products, and the same image.

>>> import torch
>>> from diffusers.models.upsampling import Upsample2D
>>> from difflens_utils.subjects import upsampling
>>> network, x = torch.nn.Sequential(Upsample2D(4, use_conv=True)), torch.randn(1, 4, 8, 8)
>>> with torch.no_grad():
...     before = network(x)
>>> upsampling.merge(network)
>>> network[0].conv
ConvTranspose2d(4, 4, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
>>> with torch.no_grad():
...     torch.allclose(network(x), before, atol=1e-6)
True
"""

from __future__ import annotations

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn


class Merged(nn.Module):
    """An `Upsample2D` that doubles an image, and convolves it 3 x 3, at once."""

    def __init__(self, layer: Upsample2D) -> None:
        super().__init__()
        self.layer = layer  # for other sizes than twice the image's
        self.conv = _transposed(layer.get_submodule("conv"))

    def forward(self, x: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        out: Tensor = self.conv(x) if output_size is None else self.layer(x, output_size)
        return out


def merge(network: nn.Module) -> None:
    """Puts a `Merged` in the place of every layer of a network that it can stand for."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is Upsample2D and _mergeable(child):
                setattr(parent, name, Merged(child))


def _mergeable(layer: Upsample2D) -> bool:
    repeats = layer.interpolate and not layer.use_conv_transpose and layer.norm is None
    return repeats and layer.name == "conv" and _is_plain(layer.conv)


def _is_plain(conv: nn.Module | None) -> bool:
    if not isinstance(conv, nn.Conv2d):
        return False
    known = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return known == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.padding_mode == "zeros"


def _transposed(conv: nn.Module) -> nn.ConvTranspose2d:
    assert isinstance(conv, nn.Conv2d)
    merged = nn.ConvTranspose2d(1, 1, 4, 2, 1, device="meta")  # which draws no random weights
    merged.in_channels, merged.out_channels = conv.in_channels, conv.out_channels
    merged.weight = nn.Parameter(_sums(conv.weight.data))
    merged.bias = conv.bias
    return merged


def _sums(weight: Tensor) -> Tensor:
    """The weights (in, out, 4, 4) that do what (out, in, 3, 3) do behind an upsampling."""
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = torch.stack([last, middle + last, first + middle, first], axis)
    return weight.transpose(0, 1).contiguous()
