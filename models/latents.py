"""What the recipes of the latent models share: the loss of an autoencoder, and token ids."""

from __future__ import annotations

from difflens_utils.runtime import precision

# isort: split
from diffusers import AutoencoderKL
from torch import Generator, Tensor
from transformers import CLIPTokenizer

KL_WEIGHT = 0.03


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, generator: Generator) -> Tensor:
    """L1 on pixels and on their differences, so that thin lines count, and a small KL penalty.

    `images` are (B, 3, H, W) in [-1, 1]; `generator` draws the latents.
    """
    with precision.autocast():
        posterior = vae.encode(images).latent_dist
        out = vae.decode(posterior.sample(generator=generator)).sample
    out = out.float()
    pixels = (out - images).abs().mean()
    edges = sum((out.diff(dim=d) - images.diff(dim=d)).abs().mean() for d in (2, 3))
    return pixels + edges + KL_WEIGHT * posterior.kl().float().mean() / images[0].numel()


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], context: int) -> Tensor:
    """The ids (B, context) of B texts."""
    ids: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=context, return_tensors="pt"
    ).input_ids
    return ids
