"""An upsampling merged with its convolution, beside diffusers' own layer."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers.models.upsampling import Upsample2D
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from difflens_utils.sampling import hooks
from difflens_utils.subjects import upsampling


def merged(layer: nn.Module) -> nn.Module:
    """The layer as it stands in a network after merging."""
    network = nn.Sequential(copy.deepcopy(layer))
    upsampling.merge(network)
    return network[0]


@pytest.mark.parametrize("options", [{}, {"out_channels": 5}, {"bias": False}], ids=str)
@pytest.mark.parametrize("size", [(1, 2), (4, 6), (5, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_merged_layer_does_the_same(
    options: dict, size: tuple[int, int], layout: torch.memory_format
) -> None:
    """In float64, also at the borders, where the convolution reads zeros."""
    torch.manual_seed(0)
    layer = Upsample2D(3, use_conv=True, **options).double().to(memory_format=layout)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=layout)
    same = merged(layer)
    assert type(same) is upsampling.Upsampling
    torch.testing.assert_close(same(x), layer(x), atol=1e-12, rtol=1e-12)


def test_weights_keep_their_names_and_are_read_when_they_change() -> None:
    """A pipeline that was opened can be saved, and a network that is finetuned is run as it is."""
    layer = Upsample2D(3, use_conv=True).double()
    same, x = merged(layer), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert {name: tuple(value.shape) for name, value in same.state_dict().items()} == {
        name: tuple(value.shape) for name, value in layer.state_dict().items()
    }
    with torch.no_grad():
        for weight in (layer.conv.weight, same.conv.weight):
            weight.mul_(2)
    torch.testing.assert_close(same(x), layer(x), atol=1e-12, rtol=1e-12)


def test_the_convolution_is_a_module_that_can_be_read_and_edited() -> None:
    network = nn.Sequential(Upsample2D(3, use_conv=True))
    upsampling.merge(network)
    x = torch.randn(1, 3, 4, 4)
    with hooks.record(network, "0.conv") as outputs:
        after = network(x)
    assert torch.equal(outputs[0], after)


def test_sizes_that_are_not_doubled_are_those_of_diffusers() -> None:
    """A U-Net names the size where an image cannot be halved evenly on the way down."""
    layer, x = Upsample2D(3, use_conv=True), torch.randn(2, 3, 4, 4)
    same = merged(layer)
    with hooks.record(same, "conv") as outputs:
        found = same(hidden_states=x, output_size=(7, 7))
    assert torch.equal(found, layer(x, (7, 7))) and torch.equal(found, outputs[0])


def test_wide_layers_of_few_pixels_are_those_of_diffusers() -> None:
    """There the sums of weights would take longer than they save."""
    layer, x = Upsample2D(40, use_conv=True), torch.randn(2, 40, 4, 4)
    assert torch.equal(merged(layer)(x), layer(x))


def test_a_lora_of_the_convolution_does_what_it_does_in_diffusers() -> None:
    """peft makes the factors of a LoRA as layers of the convolution's class."""
    layer, x = Upsample2D(3, use_conv=True), torch.randn(2, 3, 4, 4)
    adapted = []
    for network in (nn.Sequential(layer), nn.Sequential(merged(layer))):
        config = LoraConfig(r=2, target_modules=["conv"], init_lora_weights=False)
        torch.manual_seed(1)
        adapted.append(inject_adapter_in_model(config, copy.deepcopy(network)))
    plain, same = (network(x) for network in adapted)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, layer(x), atol=1e-2)


def test_gradients_are_the_same_too() -> None:
    """Attribution goes backwards through the network."""
    layer = Upsample2D(3, use_conv=True).double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    same = merged(layer)
    plain = torch.autograd.grad((layer(x) * slope).sum(), [x, layer.conv.weight])
    found = torch.autograd.grad((same(x) * slope).sum(), [x, same.conv.weight])
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
