"""Subjects small enough for unit tests: random weights, and an untrained labeller as judge."""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from difflens_utils.evaluators import AttributeNet
from difflens_utils.ksae import KSAE, KSAEConfig
from difflens_utils.subjects.conditions import Prompt, Texts
from difflens_utils.subjects.pipelines import MODELS, Subject
from difflens_utils.subjects.registry import FacePrompts
from difflens_utils.worlds import occupations, portraits


def network(**options: object) -> UNet2DModel:
    torch.manual_seed(3)
    return (
        UNet2DModel(
            sample_size=16,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(8, 16, 24),
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=8,
            **options,
        )
        .eval()
        .requires_grad_(False)
    )


def scheduler(**options: object) -> DDIMScheduler:
    settings = {
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": True,
        "timestep_spacing": "leading",
    }
    return DDIMScheduler(1000, **(settings | options))


def labeller(architecture: str = "residual") -> AttributeNet:
    torch.manual_seed(5)
    return (
        AttributeNet(
            architecture,
            {k: portraits.WORLD.factors[k].classes for k in (*portraits.ATTRIBUTES, "glasses")},
        )
        .eval()
        .requires_grad_(False)
    )


def subject(**options: object) -> Subject:
    judge = labeller()
    return Subject(
        "tiny",
        network(),
        scheduler(**options),
        "mid_block",
        (3, 16, 16),
        "tiny-float32",
        portraits.ATTRIBUTES,
        evaluators=lambda: (judge, judge, None),
        world=portraits.WORLD,
    )


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


def tokenizer() -> CLIPTokenizer:
    """The tokenizer that ships."""
    return CLIPTokenizer.from_pretrained(MODELS / "clip", model_max_length=12)


def text_config(words: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=12,
        eos_token_id=words.eos_token_id,
        projection_dim=width,
    )


def autoencoder() -> AutoencoderKL:
    """Of 16x16 images, to 8x8 latents of 4 channels."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
    )


def stable_diffusion() -> StableDiffusionPipeline:
    """A `StableDiffusionPipeline` with random weights: 8x8 latents, 16x16 images."""
    torch.manual_seed(4)
    words = tokenizer()
    text = CLIPTextModel(text_config(words, 16))
    vae = autoencoder()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 24),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    steps = DDIMScheduler(
        1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for module in (vae, text, unet):
        module.eval().requires_grad_(False)
    return StableDiffusionPipeline(
        vae, text, words, unet, steps, None, None, requires_safety_checker=False
    )


def text_subject(**options: object) -> Subject:
    """`stable_diffusion` as a subject, with the world and the labeller of portraits."""
    pipeline = stable_diffusion()
    judge = labeller()
    asked = [Prompt(f"a face of a {w}", {"occupation": w}) for w in ("doctor", "nurse")]
    named = [Prompt(f"a {c} person", {"gender": c}, "a person") for c in ("female", "male")]
    text_model = Subject(
        "tiny-text",
        pipeline.unet,
        pipeline.scheduler,
        "mid_block",
        (4, 8, 8),
        "tiny-float32",
        portraits.ATTRIBUTES,
        condition=Texts(),
        guidance=2.0,
        pipeline=pipeline,
        evaluators=lambda: (judge, judge, None),
        world=occupations.WORLD,
        prompts=FacePrompts(tuple(asked), tuple(named)),
    )
    return replace(text_model, **options)
