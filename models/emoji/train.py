"""Trains the subject `emoji`, from the root of the repository:

    python -m models.emoji.train vae|transformer [--images N] [--scratch DIR]

It is a Stable Diffusion 3 in miniature (Esser et al., 2024), trained on the people of four emoji
sets (`difflens_utils.worlds.emoji`). An autoencoder with a Kullback-Leibler penalty (64 x 64 to
16 x 16) comes first, then a multimodal diffusion transformer over its latents, as a rectified flow:
x_t = (1 - sigma) x_0 + sigma epsilon, whose velocity epsilon - x_0 the network predicts, with sigma
logit-normal. Two small text encoders of CLIP's architecture learn together with it, because no CLIP
was trained on so few words; there is no T5. A tenth of the captions is empty, for classifier-free
guidance (Ho and Salimans, 2022). Every batch is a function of (seed, step), so a run that was
interrupted resumes exactly from its state file.

Four fifths of the people come from the planted shares. One fifth has both genders and every tone
equally often, and captions that name both. So prompts that name classes are obeyed for every role,
and a prompt that names none gets the planted bias. What `emoji.held_out` keeps is in neither.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

from difflens_utils.runtime import precision
from difflens_utils.runtime.errors import at_least
from difflens_utils.subjects.real import weights

# Before diffusers: the package mends a torchvision that was built for another torch.
from difflens_utils.worlds import Scenes, emoji
from difflens_utils.worlds.emoji import ATTRIBUTES, SIDE, WORLD

# isort: split
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from models.clip.train import tokenizer_of
from models.latents import reconstruction_loss, token_ids
from models.portraits.train import Run, loop, save_atomically

HERE = Path(__file__).parent
SEED, POOL = 41, 65_536
PLANTED = round(0.8 * POOL)  # of the pool; the others are uniform
VAE_BATCH, VAE_RATE = 32, 2e-3
BATCH, RATE, DECAY, UNCONDITIONAL = 64, 1.5e-3, 0.9995, 0.1
CONTEXT = 16  # tokens of a caption
IMAGES = {"vae": 80_000, "transformer": 384_000}  # to train on


# ------------------------------------------------------------------------------------------------
# Data


def population() -> Scenes:
    """The people to learn from, (POOL,). The last fifth of them is uniform in all factors."""
    planted = WORLD.to_learn(PLANTED, SEED)
    uniform = WORLD.to_learn(POOL - PLANTED, SEED + 1, balanced=True)
    return Scenes(
        {name: torch.cat([row, uniform.labels[name]]) for name, row in planted.labels.items()},
        torch.cat([planted.nuisance, uniform.nuisance]),
    )


def captions(people: Scenes) -> Callable[[list[int], int], list[str]]:
    """A function (rows, seed) -> random captions of these people, some of them empty."""
    names = [WORLD.names(people, row) for row in range(len(people))]

    def draw(rows: list[int], seed: int) -> list[str]:
        rng = random.Random(seed)
        texts = []
        for row in rows:
            if rng.random() < UNCONDITIONAL:
                texts.append("")
                continue
            named = None if row < PLANTED else ATTRIBUTES
            texts.append(emoji.caption(names[row], rng, named)[0])
        return texts

    return draw


# ------------------------------------------------------------------------------------------------
# The models


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        sample_size=SIDE,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
    )


def network() -> SD3Transformer2DModel:
    """Each 2 x 2 places of a latent are a token: 64 of them."""
    return SD3Transformer2DModel(
        sample_size=SIDE // 4,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=5,
        caption_projection_dim=160,
        joint_attention_dim=128,
        pooled_projection_dim=128,
        pos_embed_max_size=SIDE // 8,
        qk_norm="rms_norm",
    )


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """A text encoder in CLIP's architecture. Two of them fill `joint_attention_dim`."""
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=64,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


class Flow(nn.Module):
    """The transformer and the two text encoders that it reads."""

    def __init__(self, tokens: CLIPTokenizer) -> None:
        super().__init__()
        self.transformer = network()
        self.text_encoder = text_encoder(tokens)
        self.text_encoder_2 = text_encoder(tokens)

    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
        """The velocity (B, 4, 16, 16) of latents with noise, for token ids (B, CONTEXT).

        The encoders' last but one states and their projections are read as the pipeline does.
        """
        read = [e(ids, output_hidden_states=True) for e in (self.text_encoder, self.text_encoder_2)]
        velocity: Tensor = self.transformer(
            noisy,
            encoder_hidden_states=torch.cat([one.hidden_states[-2] for one in read], -1),
            pooled_projections=torch.cat([one.text_embeds for one in read], -1),
            timestep=1000 * sigma,
            return_dict=False,
        )[0]
        return velocity


# ------------------------------------------------------------------------------------------------
# Training


def train_vae(images: int, scratch: Path) -> None:
    """The loss of `models.latents`, on people a little moved and scaled."""
    torch.manual_seed(SEED)
    people = population()
    vae = autoencoder().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        rows = torch.randint(len(people), (VAE_BATCH,), generator=generator)
        x = WORLD.render(people[rows]).to(memory_format=torch.channels_last)
        return reconstruction_loss(vae, x, generator)

    run = Run(images // VAE_BATCH, VAE_RATE, 0.999, scratch / "vae.pt", warm_up=200, falling=3)
    vae.load_state_dict(loop("vae", vae, loss_at, run))
    vae.register_to_config(scaling_factor=scaling_factor(vae, people))
    vae.half().save_pretrained(HERE / "vae")


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, people: Scenes) -> float:
    """One over the standard deviation of the latents of the first 4,096 people."""
    latents = []
    for start in range(0, min(4096, len(people)), 256):
        images = WORLD.render(people[slice(start, start + 256)])
        latents.append(vae.encode(images).latent_dist.mean)
    return round(1 / torch.cat(latents).std().item(), 5)


def latents(people: Scenes, scratch: Path) -> Tensor:
    """The scaled latents of all people, (n, 4, 16, 16) float16; encoded once."""
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float32)
    vae.to(memory_format=torch.channels_last)
    version = weights.file_fingerprint(HERE / "vae/diffusion_pytorch_model.safetensors")
    path = scratch / f"latents-{version}.pt"
    if not path.exists():
        chunks = []
        with torch.no_grad(), precision.autocast():
            for start in tqdm(range(0, len(people), 256), desc="encoding", mininterval=10):
                images = WORLD.render(people[slice(start, start + 256)])
                mean = vae.encode(images.to(memory_format=torch.channels_last)).latent_dist.mean
                chunks.append((mean * vae.config.scaling_factor).half())
        save_atomically({"latents": torch.cat(chunks)}, path)
    found: Tensor = torch.load(path, weights_only=True)["latents"]
    return found


def train_transformer(images: int, scratch: Path) -> None:
    """The flow-matching loss, with sigma logit-normal (Esser et al., 2024, Eq. 19)."""
    torch.manual_seed(SEED)
    people = population()
    texts = captions(people)
    pool = latents(people, scratch)
    tokens = tokenizer_of(emoji.vocabulary(), CONTEXT)
    flow = Flow(tokens)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        rows = torch.randint(len(pool), (BATCH,), generator=generator)
        ids = token_ids(tokens, texts(rows.tolist(), SEED * 10_000_000 + step), CONTEXT)
        clean = pool[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        sigma = torch.randn(BATCH, generator=generator).sigmoid()
        share = sigma.reshape(-1, 1, 1, 1)
        with precision.autocast():
            velocity = flow((1 - share) * clean + share * noise, sigma, ids)
        return F.mse_loss(velocity.float(), noise - clean)

    state_file = scratch / "transformer.pt"
    run = Run(images // BATCH, RATE, DECAY, state_file, warm_up=500, falling=3)
    flow.load_state_dict(loop("transformer", flow, loss_at, run))
    export(flow, tokens, HERE)


def export(flow: Flow, tokens: CLIPTokenizer, folder: Path) -> None:
    """Write a `StableDiffusion3Pipeline` that `from_pretrained` loads, in half precision."""
    vae = AutoencoderKL.from_pretrained(HERE / "vae").half()
    vae.register_to_config(_name_or_path="")  # where it lay here is no one's business
    flow = flow.half()
    StableDiffusion3Pipeline(
        transformer=flow.transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(1000, shift=1.0),
        vae=vae,
        text_encoder=flow.text_encoder,
        tokenizer=tokens,
        text_encoder_2=flow.text_encoder_2,
        tokenizer_2=tokens,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(folder)
    for name in ("tokenizer", "tokenizer_2"):  # vocab.json and merges.txt, as CLIP's
        tokens.backend_tokenizer.model.save(str(folder / name))


def check(part: str, images: int) -> None:
    """ValueError for too few images, and where what the transformer learns from is not there."""
    at_least("--images", images, VAE_BATCH if part == "vae" else BATCH, "one batch")
    if part == "transformer" and not (HERE / "vae/config.json").is_file():
        raise ValueError(
            f"{HERE / 'vae'} has no autoencoder; train it first, with vae in the place of "
            "transformer"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=tuple(IMAGES))
    defaults = ", ".join(f"{n:,} for {part}" for part, n in IMAGES.items())
    parser.add_argument("--images", type=int, help=f"default: {defaults}")
    parser.add_argument(
        "--scratch", type=Path, default=HERE / "scratch", help="latents and states to resume from"
    )
    args = parser.parse_args()
    images = IMAGES[args.part] if args.images is None else args.images
    try:
        check(args.part, images)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    args.scratch.mkdir(parents=True, exist_ok=True)
    (train_vae if args.part == "vae" else train_transformer)(images, args.scratch)


if __name__ == "__main__":
    main()
