"""Upsampling and the convolution behind it as one transposed convolution.

Behind an upsampling, nine weights read each pixel four times over. Sums of those weights read it
once: less than half of the products, and the same image up to rounding.

>>> import torch
>>> from diffusers.models.upsampling import Upsample2D
>>> from difflens_utils.subjects import upsampling
>>> network, x = torch.nn.Sequential(Upsample2D(4, use_conv=True)), torch.randn(1, 4, 8, 8)
>>> with torch.no_grad():
...     before = network(x)
>>> upsampling.merge(network)
>>> with torch.no_grad():
...     torch.allclose(network(x), before, atol=1e-6)
True
"""

from __future__ import annotations

from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn, stack
from torch.nn import functional as F


class Doubling(nn.Conv2d):
    """A 3 x 3 convolution of an image that is doubled before it, with the weights of another."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Doubling:
        """With the weights of a convolution, which it shares."""
        channels = conv.in_channels, conv.out_channels
        doubling = cls(*channels, 3, padding=1, bias=conv.bias is not None, device="meta")
        doubling.weight, doubling.bias = conv.weight, conv.bias
        return doubling

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(B, C, H, W) to (B, out, 2 H, 2 W), or to the height and width that are given."""
        if self.kernel_size != (3, 3):  # a factor of a LoRA, which peft makes of this class
            return super().forward(x)
        if size is not None:
            return super().forward(F.interpolate(x, size, mode="nearest"))
        if x[:, 0].numel() < self.in_channels:  # then the sums take longer than they save
            return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return F.conv_transpose2d(x, _sums(self.weight), self.bias, stride=2, padding=1)


class Upsampling(nn.Module):
    """An `Upsample2D`, with the same names of weights, that doubles and convolves at once."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = Doubling.of(conv)

    def forward(self, hidden_states: Tensor, output_size: tuple[int, int] | None = None) -> Tensor:
        doubled: Tensor = self.conv(hidden_states, output_size)
        return doubled


def merge(network: nn.Module) -> None:
    """Puts an `Upsampling` in the place of every layer of a network that it can stand for."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if (conv := _convolution(child)) is not None:
                setattr(parent, name, Upsampling(conv))


def _convolution(layer: nn.Module) -> nn.Conv2d | None:
    """The convolution of a layer that doubles an image and convolves it 3 x 3, or None."""
    if type(layer) is not Upsample2D or layer.use_conv_transpose or layer.norm is not None:
        return None
    conv = getattr(layer, "conv", None)
    if not layer.interpolate or type(conv) is not nn.Conv2d or conv.padding_mode != "zeros":
        return None
    known = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    return conv if known == ((3, 3), (1, 1), (1, 1), (1, 1), 1) else None


def _sums(weight: Tensor) -> Tensor:
    """The weights (in, out, 4, 4) that do what (out, in, 3, 3) do behind an upsampling."""
    for axis in (2, 3):
        first, middle, last = weight.unbind(axis)
        weight = stack([last, middle + last, first + middle, first], axis)
    return weight.transpose(0, 1)
