"""Trains the text-to-image subject, from the root of the repository:

    python -m models.portraits-t2i.train vae|unet [--images N] [--scratch DIR]

It is a Stable Diffusion in miniature (Rombach et al., 2022), trained on captioned portraits with
occupations. An autoencoder with a Kullback-Leibler penalty (64x64 to 8x8) comes first, then a U-Net
over its latents that reads the frozen text tower of PortraitCLIP (`models.clip.train --world
occupations` makes it). Scaled-linear beta, T = 1000, epsilon-prediction. A tenth of the captions is
empty, for classifier-free guidance (Ho and Salimans, 2022). Every batch is a function of (seed,
step), so a run that was interrupted resumes exactly from its state file.

Four fifths of the portraits are drawn from the planted world. One fifth has every gender, age and
tone equally often, and captions that always name all three. So prompts that name classes are obeyed
for each occupation, and a prompt that names none gets the planted bias.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

from difflens_utils.evaluators import Clip
from difflens_utils.runtime import precision
from difflens_utils.runtime.errors import at_least
from difflens_utils.subjects.real import weights

# Before diffusers: the package mends a torchvision that was built for another torch.
from difflens_utils.worlds import Scenes, occupations
from difflens_utils.worlds.occupations import ATTRIBUTES, WORLD

# isort: split
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPTextModel

from models.latents import reconstruction_loss, token_ids
from models.portraits.train import Run, close_skips, loop, save_atomically

HERE = Path(__file__).parent
SEED, SIZE, POOL, UNIFORM = 17, 64, 131_072, 0.2
VAE_BATCH, VAE_RATE = 32, 1.5e-3
BATCH, RATE, DECAY, UNCONDITIONAL = 64, 8e-4, 0.9995, 0.1
IMAGES = {"vae": 176_000, "unet": 409_600}  # to train on
OPEN = 1  # resnets of the up blocks, from the last, that read their skip connections


# ------------------------------------------------------------------------------------------------
# Data


def population() -> Scenes:
    """The training portraits (POOL,).

    The last fifth of them is uniform in the attributes and the occupation.
    """
    planted = WORLD.sample(round(POOL * (1 - UNIFORM)), SEED)
    uniform = WORLD.sample(POOL - len(planted), SEED + 1, balanced=(*ATTRIBUTES, "occupation"))
    return Scenes(
        {k: torch.cat([v, uniform.labels[k]]) for k, v in planted.labels.items()},
        torch.cat([planted.nuisance, uniform.nuisance]),
    )


def renders(people: Scenes, scratch: Path) -> np.ndarray:
    """Their images, (POOL, 3, 64, 64) uint8, rendered once into a memory map."""
    path = scratch / f"renders-{SEED}-{len(people)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial.npy")
        pool = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(people), 3, SIZE, SIZE))
        for start in tqdm(range(0, len(people), 1024), desc="rendering", mininterval=10):
            images = WORLD.render(people[slice(start, start + 1024)], SIZE)
            pool[start : start + 1024] = ((images + 1) * 127.5).round().to(torch.uint8).numpy()
        partial.rename(path)
    return np.load(path, mmap_mode="r")


def picked(pool: np.ndarray, rows: Tensor) -> Tensor:
    """Some images in [-1, 1], (B, 3, 64, 64) float32."""
    return torch.from_numpy(pool[rows.numpy()]).float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------
# The models


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=SIZE,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
    )


def network(text_width: int) -> UNet2DConditionModel:
    """A U-Net that the text enters before and in the middle block only.

    `close_skips` shuts the skips, so what a portrait shows has to pass h (160 x 4 x 4).
    """
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=8,
        out_channels=8,
        layers_per_block=1,
        block_out_channels=(96, 160),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) * 2,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


def text_tower() -> tuple[CLIPTextModel, Clip]:
    """The text half of PortraitCLIP, as a pipeline's text encoder."""
    clip = Clip.load(HERE / "clip")
    tower = CLIPTextModel(clip.model.config.text_config)
    tower.load_state_dict(clip.model.text_model.state_dict())
    return tower.eval().requires_grad_(False), clip


def train_vae(images: int, scratch: Path) -> None:
    """The loss of `models.latents`, on the renders."""
    torch.manual_seed(SEED)
    pool = renders(population(), scratch)
    vae = autoencoder().to(memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        rows = torch.randint(len(pool), (VAE_BATCH,), generator=generator)
        x = picked(pool, rows).to(memory_format=torch.channels_last)
        return reconstruction_loss(vae, x, generator)

    state_file = scratch / "vae.pt"
    run = Run(images // VAE_BATCH, VAE_RATE, 0.999, state_file, warm_up=300, falling=3)
    vae.load_state_dict(loop("vae", vae, loss_at, run))
    vae.register_to_config(scaling_factor=scaling_factor(vae, pool))
    vae.half().save_pretrained(HERE / "vae")


@torch.no_grad()
def scaling_factor(vae: AutoencoderKL, pool: np.ndarray) -> float:
    """One over the standard deviation of the latents of 4,096 images."""
    latents = []
    for start in range(0, 4096, 256):
        images = picked(pool, torch.arange(start, start + 256))
        latents.append(vae.encode(images).latent_dist.mean)
    return round(1 / torch.cat(latents).std().item(), 5)


def posteriors(pool: np.ndarray, scratch: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every portrait's scaled latent, (POOL, 8, 8, 8) float16 each."""
    vae = AutoencoderKL.from_pretrained(HERE / "vae", dtype=torch.float32)
    vae.to(memory_format=torch.channels_last)
    version = weights.file_fingerprint(HERE / "vae/diffusion_pytorch_model.safetensors")
    path = scratch / f"latents-{version}.pt"
    if not path.exists():
        chunks = []
        with torch.no_grad(), precision.autocast():
            for i in tqdm(range(0, len(pool), 256), desc="encoding", mininterval=10):
                images = picked(pool, torch.arange(i, min(i + 256, len(pool))))
                d = vae.encode(images.to(memory_format=torch.channels_last)).latent_dist
                chunks.append(torch.stack([d.mean, d.std]).mul(vae.config.scaling_factor).half())
        save_atomically({"latents": torch.cat(chunks, 1)}, path)
    mean, std = torch.load(path, weights_only=True)["latents"]
    return mean, std


def captions(people: Scenes) -> Callable[[list[int], int], list[str]]:
    """A function (rows, seed) -> random captions of these people, some of them empty."""
    names = [WORLD.names(people, i) for i in range(len(people))]
    planted = round(POOL * (1 - UNIFORM))

    def draw(rows: list[int], seed: int) -> list[str]:
        rng = random.Random(seed)
        texts = []
        for row in rows:
            if rng.random() < UNCONDITIONAL:
                texts.append("")
                continue
            named = None if row < planted else ATTRIBUTES
            texts.append(occupations.caption(names[row], rng, named)[0])
        return texts

    return draw


def train_unet(images: int, scratch: Path) -> None:
    torch.manual_seed(SEED)
    people = population()
    texts = captions(people)
    mean, std = posteriors(renders(people, scratch), scratch)
    tower, clip = text_tower()
    unet = network(tower.config.hidden_size).to(memory_format=torch.channels_last)
    close_skips(unet, OPEN)
    alphas = scheduler().alphas_cumprod

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        rows = torch.randint(POOL, (BATCH,), generator=generator)
        tokens = token_ids(
            clip.tokenizer, texts(rows.tolist(), SEED * 10_000_000 + step), clip.context
        )
        noise = torch.randn(BATCH, *mean.shape[1:], generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        x = mean[rows].float() + std[rows].float() * torch.randn(noise.shape, generator=generator)
        a = alphas[t].reshape(-1, 1, 1, 1)
        with torch.no_grad():
            condition = tower(tokens).last_hidden_state
        with precision.autocast():
            noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).to(memory_format=torch.channels_last)
            predicted = unet(noisy, t, condition, return_dict=False)[0]
        return F.mse_loss(predicted.float(), noise)

    state_file = scratch / "unet.pt"
    run = Run(images // BATCH, RATE, DECAY, state_file, warm_up=300, falling=3)
    export(loop("unet", unet, loss_at, run))


def export(weights: dict[str, Tensor]) -> None:
    """Write a `StableDiffusionPipeline` that `from_pretrained` loads, in half precision."""
    tower, clip = text_tower()
    unet = network(tower.config.hidden_size)
    unet.load_state_dict(weights)
    vae = AutoencoderKL.from_pretrained(HERE / "vae").half()
    vae.register_to_config(_name_or_path="")  # where it lay here is no one's business
    StableDiffusionPipeline(
        vae,
        tower.half(),
        clip.tokenizer,
        unet.half(),
        scheduler(),
        None,
        None,
        requires_safety_checker=False,
    ).save_pretrained(HERE)
    clip.tokenizer.backend_tokenizer.model.save(
        str(HERE / "tokenizer")
    )  # vocab.json and merges.txt, as CLIP's


def check(part: str, images: int) -> None:
    """ValueError for too few images, and where what the U-Net is trained on is not there yet."""
    at_least("--images", images, VAE_BATCH if part == "vae" else BATCH, "one batch")
    if part == "unet":
        Clip.load(HERE / "clip")
        if not (HERE / "vae/config.json").is_file():
            raise ValueError(
                f"{HERE / 'vae'} has no autoencoder; train it first, with vae in the place of unet"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("vae", "unet"))
    defaults = ", ".join(f"{n:,} for {part}" for part, n in IMAGES.items())
    parser.add_argument("--images", type=int, help=f"default: {defaults}")
    parser.add_argument(
        "--scratch",
        type=Path,
        default=HERE / "scratch",
        help="renders, latents and checkpoints to resume from",
    )
    args = parser.parse_args()
    images = IMAGES[args.part] if args.images is None else args.images
    try:
        check(args.part, images)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    (train_vae if args.part == "vae" else train_unet)(images, args.scratch)


if __name__ == "__main__":
    main()
