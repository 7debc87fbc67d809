"""guided-diffusion's U-Net (Dhariwal and Nichol, 2021): what conversions are compared with.

It is written from the published architecture, with its own names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from difflens_utils.subjects.real.guided_diffusion import Layout


class Norm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(32, channels, 1e-5)


class Residual(nn.Module):
    """BigGAN-style residual block.

    It resamples between normalisation and convolution, and scales and shifts by the time.
    """

    def __init__(self, ins: int, outs: int, time: int, resample: str = "") -> None:
        super().__init__()
        self.in_layers = nn.Sequential(Norm(ins), nn.SiLU(), nn.Conv2d(ins, outs, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * outs))
        self.out_layers = nn.Sequential(
            Norm(outs), nn.SiLU(), nn.Dropout(0), nn.Conv2d(outs, outs, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)
        self.resample = {
            "down": lambda x: F.avg_pool2d(x, 2),
            "up": lambda x: F.interpolate(x, scale_factor=2.0),
            "": lambda x: x,
        }[resample]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.in_layers[2](self.resample(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(time)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(self.resample(x)) + h


class Attention(nn.Module):
    """The legacy order: rows of the projection are [head, (q, k, v), channel]."""

    def __init__(self, channels: int, head: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        self.head = head

    def forward(self, x: Tensor, _time: Tensor) -> Tensor:
        flat = x.flatten(2)
        by_head = self.qkv(self.norm(flat)).reshape(-1, 3 * self.head, flat.shape[-1])
        q, k, v = by_head.split(self.head, dim=1)
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(self.head), dim=-1)
        read = torch.einsum("bts,bcs->bct", weight, v).reshape(flat.shape)
        return x + self.proj_out(read).reshape(x.shape)


class Guided(nn.Module):
    """`UNetModel` with `resblock_updown`, `use_scale_shift_norm` and learned variances."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        wide, time, levels = layout.channels, 4 * layout.channels, len(layout.multipliers)
        self.wide = wide
        self.time_embed = nn.Sequential(nn.Linear(wide, time), nn.SiLU(), nn.Linear(time, time))
        now, skips = wide, [wide]
        downs = [nn.ModuleList([nn.Conv2d(3, wide, 3, padding=1)])]
        ups = []
        for level, m in enumerate(layout.multipliers):
            for _ in range(layout.blocks):
                downs.append(nn.ModuleList([Residual(now, m * wide, time)]))
                now = m * wide
                if 2**level in layout.attention:
                    downs[-1].append(Attention(now, layout.head))
                skips.append(now)
            if level < levels - 1:
                downs.append(nn.ModuleList([Residual(now, now, time, "down")]))
                skips.append(now)
        self.middle_block = nn.ModuleList(
            [Residual(now, now, time), Attention(now, layout.head), Residual(now, now, time)]
        )
        for level, m in reversed(list(enumerate(layout.multipliers))):
            for i in range(layout.blocks + 1):
                ups.append(nn.ModuleList([Residual(now + skips.pop(), m * wide, time)]))
                now = m * wide
                if 2**level in layout.attention:
                    ups[-1].append(Attention(now, layout.head))
                if level and i == layout.blocks:
                    ups[-1].append(Residual(now, now, time, "up"))
        self.input_blocks, self.output_blocks = nn.ModuleList(downs), nn.ModuleList(ups)
        self.out = nn.Sequential(Norm(now), nn.SiLU(), nn.Conv2d(now, layout.out, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        half = self.wide // 2
        angles = t[:, None].float() * torch.exp(-math.log(10_000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1))
        h, kept = x, []
        for block in self.input_blocks:
            for layer in block:
                h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, time)
            kept.append(h)
        for layer in self.middle_block:
            h = layer(h, time)
        bottleneck = h
        for block in self.output_blocks:
            h = torch.cat([h, kept.pop()], 1)
            for layer in block:
                h = layer(h, time)
        return self.out(h), bottleneck


def guided(layout: Layout, seed: int = 0) -> Guided:
    torch.manual_seed(seed)
    network = Guided(layout).eval().requires_grad_(False)
    for value in network.parameters():  # norms and biases too, so that a swap of any two shows
        if value.ndim == 1:
            value += 0.1 * torch.randn_like(value)
    return network
