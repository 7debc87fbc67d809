"""A subject small enough for unit tests: the real architecture with random weights and stand-in evaluators."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DModel
from torch import Tensor

from difflens_utils import portraits
from difflens_utils.evaluators import AttributeNet
from difflens_utils.ksae import KSAE, KSAEConfig
from difflens_utils.subjects import Subject


def network() -> UNet2DModel:
    torch.manual_seed(3)
    return UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16, 24),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, attention_head_dim=8).eval().requires_grad_(False)


def scheduler(**options: object) -> DDIMScheduler:
    settings = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "clip_sample": True, "timestep_spacing": "leading"}
    return DDIMScheduler(1000, **(settings | options))


def labeller(architecture: str = "residual") -> AttributeNet:
    torch.manual_seed(5)
    return AttributeNet(architecture, {k: portraits.FACTORS[k].classes for k in (*portraits.ATTRIBUTES, "glasses")}).eval().requires_grad_(False)


def subject(**options: object) -> Subject:
    judge = labeller()
    return Subject("tiny", network(), scheduler(**options), "mid_block", (3, 16, 16), portraits.ATTRIBUTES, "tiny-float32",
                   torch.device("cpu"), torch.float32, lambda: (judge, judge, None), portraits)


def ksae(width: int = 24, latents: int = 48, k: int = 6) -> KSAE:
    model = KSAE(KSAEConfig(width=width, latents=latents, k=k, seed=1)).requires_grad_(False)
    generator = torch.Generator().manual_seed(9)
    model.b_dec.copy_(torch.randn(width, generator=generator) * 0.1)
    model.b_enc.copy_(torch.rand(latents, generator=generator) * 0.1)
    model.b_enc[7] = -50  # one latent that never fires
    model.scale.fill_(1.7)
    return model.eval()


def latent_like(x: Tensor) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
