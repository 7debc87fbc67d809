"""Pipelines of diffusers with random weights, of every kind that opens.

Their images are of 16x16 pixels; those of Sana, whose pipeline makes multiples of 32 only, 32x32.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LDMPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
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


# --------------------------------------------------------------------------------------------------
# U-Nets and class-conditional transformers

LABELS = {"1": "groom, bridegroom", "3": "ballplayer"}  # of the classes of a DiT
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def unet(side: int, channels: int, outputs: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=outputs,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        attention_head_dim=8,
    )


def grey() -> DDPMPipeline:
    return DDPMPipeline(unet(16, 1, outputs=2), DDPMScheduler(1000))


def xl() -> StableDiffusionXLPipeline:
    tokenizer = tiny.tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 24),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16 + 12,
        attention_head_dim=2,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )
    return StableDiffusionXLPipeline(
        tiny.autoencoder(),
        CLIPTextModel(tiny.text_config(tokenizer, 16)),
        CLIPTextModelWithProjection(tiny.text_config(tokenizer, 12)),
        tokenizer,
        tokenizer,
        unet,
        EulerDiscreteScheduler(**LATENT, steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
    )


def dit(classes: int = 10) -> DiTPipeline:
    network = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_num_groups=4,
    )
    return DiTPipeline(
        network,
        tiny.autoencoder(),
        DDIMScheduler(1000, clip_sample=False),
        {int(number): name for number, name in LABELS.items()},
    )


# --------------------------------------------------------------------------------------------------
# Text encoders that read letters


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


# --------------------------------------------------------------------------------------------------
# Transformers that read texts


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


# --------------------------------------------------------------------------------------------------
# Pipelines that the native door alone opens


def chroma() -> ChromaPipeline:
    """It calls its network once with the texts and once without."""
    encoder, tokens = t5()
    network = ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=1,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    network.register_to_config(sample_size=8)
    return ChromaPipeline(
        FlowMatchEulerDiscreteScheduler(), autoencoder(), encoder, tokens, network
    )


def ldm() -> LDMPipeline:
    """It reads no text, and its autoencoder has a codebook."""
    vae = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_num_groups=4,
    )
    return LDMPipeline(vae, unet(8, 4, outputs=4), DDIMScheduler(1000))


# --------------------------------------------------------------------------------------------------
# All of them


class Made(NamedTuple):
    """How a pipeline is made, the shape of its x_t, its default module, and h of one image."""

    make: Callable[[], Any]
    shape: tuple[int, int, int]
    module: str
    h: tuple[int, ...]


_SMALL = (4, 8, 8), "transformer_blocks.1", (16, 16)
MADE = {
    "grey": Made(grey, (1, 16, 16), "mid_block", (16, 8, 8)),
    "stable_diffusion": Made(tiny.stable_diffusion, (4, 8, 8), "mid_block", (24, 4, 4)),
    "xl": Made(xl, (4, 8, 8), "mid_block", (24, 4, 4)),
    "dit": Made(dit, *_SMALL),
    "sd3": Made(sd3, *_SMALL),
    "sd3_without_t5": Made(sd3_without_t5, *_SMALL),
    "flux": Made(flux, *_SMALL),
    "pixart_alpha": Made(pixart_alpha, *_SMALL),
    "pixart_sigma": Made(pixart_sigma, *_SMALL),
    "sana": Made(sana, (4, 16, 16), "transformer_blocks.1", (256, 16)),
}
NATIVE: dict[str, Callable[[], Any]] = {"chroma": chroma, "ldm": ldm}


def stirred(pipeline: Any) -> Any:
    """The pipeline, with no weight of its transformer at zero: some start as the identity."""
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    for network in networks:
        network.eval().requires_grad_(False)
    if "transformer" in pipeline.components:
        for value in pipeline.transformer.parameters():
            value += 0.1 * torch.randn_like(value)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved(pipeline: Any, folder: Path, **options: Any) -> Path:
    """The folder, which the pipeline is saved to."""
    pipeline.save_pretrained(folder, **options)
    if isinstance(pipeline, DiTPipeline):  # diffusers reads the labels and does not write them
        path = folder / "model_index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": LABELS}))
    return folder


def pipeline(name: str) -> Any:
    """One of `MADE` or `NATIVE`, the same at every call."""
    torch.manual_seed(1)
    return stirred(NATIVE[name]() if name in NATIVE else MADE[name].make())
