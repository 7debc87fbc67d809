"""Transformers that people use today, as pipelines of diffusers with random weights.

Stable Diffusion 3 with and without T5, Flux, PixArt-alpha and -sigma: images of 16x16. Sana, whose
pipeline makes multiples of 32 only: 32x32.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any

import tiny
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

LETTERS = [*string.ascii_letters, *string.punctuation, *string.digits]


def t5() -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 of 16 channels that reads letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    letters = [(letter, -1.0) for letter in ("▁", *LETTERS)]
    tokens = T5Tokenizer([*special, *letters], extra_ids=0)
    config = T5Config(
        vocab_size=len(tokens), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config), tokens


def gemma() -> tuple[Gemma2Model, GemmaTokenizer]:
    """A Gemma 2 of 16 channels that reads letters."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]
    tokens = GemmaTokenizer({word: i for i, word in enumerate(words)}, [])
    config = Gemma2Config(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Gemma2Model(config), tokens


def autoencoder() -> AutoencoderKL:
    """Of 16x16 images, to 8x8 latents of 4 channels, which are moved and scaled."""
    vae = tiny.autoencoder()
    vae.register_to_config(shift_factor=0.3, scaling_factor=1.5)
    return vae


def sd3(with_t5: bool = True, **steps: Any) -> StableDiffusion3Pipeline:
    words = tiny.tokenizer()
    encoder, tokens = t5() if with_t5 else (None, None)
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
    )
    return StableDiffusion3Pipeline(
        network,
        FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | steps)),
        autoencoder(),
        CLIPTextModelWithProjection(tiny.text_config(words, 8)),
        words,
        CLIPTextModelWithProjection(tiny.text_config(words, 8)),
        words,
        encoder,
        tokens,
    )


def sd3_without_t5() -> StableDiffusion3Pipeline:
    return sd3(with_t5=False)


def flux(guidance: bool = True) -> FluxPipeline:
    words = tiny.tokenizer()
    encoder, tokens = t5()
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        guidance_embeds=guidance,
        axes_dims_rope=(4, 4, 8),
    )
    network.register_to_config(sample_size=8)  # the study's own entry: the width of a latent
    steps = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    return FluxPipeline(
        steps,
        autoencoder(),
        CLIPTextModel(tiny.text_config(words, 8)),
        words,
        encoder,
        tokens,
        network,
    )


def _pixart(kind: type[DiffusionPipeline]) -> DiffusionPipeline:
    encoder, tokens = t5()
    network = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
        patch_size=2,
        norm_num_groups=4,
        use_additional_conditions=False,
    )
    steps = DPMSolverMultistepScheduler(
        beta_start=0.0001, beta_end=0.02, beta_schedule="linear", timestep_spacing="leading"
    )
    return kind(tokens, encoder, tiny.autoencoder(), network, steps)


def pixart_alpha() -> DiffusionPipeline:
    return _pixart(PixArtAlphaPipeline)


def pixart_sigma() -> DiffusionPipeline:
    return _pixart(PixArtSigmaPipeline)


def sana() -> SanaPipeline:
    encoder, tokens = gemma()
    network = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=16,
        patch_size=1,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.5,
    )
    steps = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        algorithm_type="dpmsolver++",
    )
    return SanaPipeline(tokens, encoder, vae, network, steps)


MADE: dict[str, tuple[Callable[[], Any], tuple[int, ...], str, tuple[int, ...]]] = {
    "sd3": (sd3, (4, 8, 8), "transformer_blocks.1", (16, 16)),
    "sd3_without_t5": (sd3_without_t5, (4, 8, 8), "transformer_blocks.1", (16, 16)),
    "flux": (flux, (4, 8, 8), "transformer_blocks.1", (16, 16)),
    "pixart_alpha": (pixart_alpha, (4, 8, 8), "transformer_blocks.1", (16, 16)),
    "pixart_sigma": (pixart_sigma, (4, 8, 8), "transformer_blocks.1", (16, 16)),
    "sana": (sana, (4, 16, 16), "transformer_blocks.1", (256, 16)),
}


def stirred(pipeline: Any) -> Any:
    """The pipeline, with no weight of its network at zero: some start as the identity."""
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    for network in networks:
        network.eval().requires_grad_(False)
    for value in pipeline.transformer.parameters():
        value += 0.1 * torch.randn_like(value)
    return pipeline
