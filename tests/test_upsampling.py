"""An upsampling merged with its convolution, beside diffusers' own layer."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from torch import nn

from difflens_utils.subjects import upsampling


def merged(layer: nn.Module) -> nn.Module:
    """The layer as it stands in a network after merging."""
    network = nn.Sequential(copy.deepcopy(layer))
    upsampling.merge(network)
    return network[0]


@pytest.mark.parametrize("options", [{}, {"out_channels": 5}, {"bias": False}], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (5, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_merged_layer_does_the_same(
    options: dict, size: tuple[int, int], layout: torch.memory_format
) -> None:
    """In float64, also at the borders, where the convolution reads zeros."""
    torch.manual_seed(0)
    layer = Upsample2D(3, use_conv=True, **options).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    same = merged(layer)
    assert isinstance(same.conv, nn.ConvTranspose2d)
    torch.testing.assert_close(same(x), layer(x), atol=1e-12, rtol=1e-12)


def test_sizes_that_are_not_doubled_are_those_of_diffusers() -> None:
    """A U-Net names the size where an image cannot be halved evenly on the way down."""
    layer, x = Upsample2D(3, use_conv=True), torch.randn(2, 3, 4, 4)
    assert torch.equal(merged(layer)(x, (7, 7)), layer(x, (7, 7)))


def test_gradients_are_the_same_too() -> None:
    """Attribution goes backwards through the network."""
    layer = Upsample2D(3, use_conv=True).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    (plain,) = torch.autograd.grad((layer(x) * slope).sum(), x)
    (found,) = torch.autograd.grad((merged(layer)(x) * slope).sum(), x)
    torch.testing.assert_close(found, plain, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"use_conv": False},
        {"use_conv": True, "kernel_size": 1, "padding": 0},
        {"use_conv_transpose": True},
        {"use_conv": True, "interpolate": False},
        {"use_conv": True, "name": "Conv2d_0"},
    ],
    ids=str,
)
def test_other_layers_are_left_alone(options: dict) -> None:
    layer = Upsample2D(3, **options)
    assert type(merged(layer)) is Upsample2D
