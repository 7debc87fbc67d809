"""Trains a small diffusion model on a folder of labelled images, from the root of the repository:

    python -m models.own.train FOLDER [--size 16] [--images N] [--state FILE]

FOLDER holds a `study.yml` (see "Bring your own model" in the book). The recipe is that of the
portraits (models/portraits/train.py): a pixel-space DDPM with the loss weighting of P2, averaged
weights, and closed skip connections, so that what an image shows has to pass the bottleneck. Images
are drawn with the weights that the planted shares ask for, and shifted a little. Half a million
images of 16x16 take some minutes on two cores. A training that was interrupted resumes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

# Before diffusers: the package mends a torchvision that was built for another torch.
from difflens_utils.runtime import keys
from difflens_utils.runtime.errors import at_least, within
from difflens_utils.worlds.labelled import LabelledImages, declared

# isort: split
import torch
from diffusers import DDIMPipeline, UNet2DModel
from torch import Tensor

from models.evaluators.train import shifted
from models.portraits.train import Run, close_skips, loop, scheduler, weighted_loss

SEED, BATCH, RATE, DECAY = 17, 64, 6e-4, 0.999
OPEN = 1  # up blocks, from the finest, that read their skip connections
WIDTHS = (32, 64, 128)  # channels per level, each half as wide as the one before


def network(size: int, widths: tuple[int, ...] = WIDTHS) -> UNet2DModel:
    """A U-Net whose bottleneck has the last of the widths, at size / 2^(levels - 1) pixels.

    Attention is one level above it.
    """
    last = len(widths) - 1
    down = ["AttnDownBlock2D" if i == last - 1 else "DownBlock2D" for i in range(last + 1)]
    up = ["AttnUpBlock2D" if name.startswith("Attn") else "UpBlock2D" for name in down[::-1]]
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=down,
        up_block_types=up,
        norm_num_groups=8,
        attention_head_dim=32,
    )


def train(
    world: LabelledImages, size: int, images: int, state_file: Path, open_blocks: int = OPEN
) -> dict[str, Tensor]:
    """Trains up to `images` training images, and returns the averaged weights.

    Raises ValueError for a state file of another size or of other data.
    """
    torch.manual_seed(SEED)
    unet = network(size).to(memory_format=torch.channels_last)
    close_skips(unet, open_blocks * (unet.config.layers_per_block + 1))

    def loss_at(step: int) -> Tensor:
        seed = SEED * 10_000_000 + step
        generator = torch.Generator().manual_seed(seed)
        images = world.render(world.sample(BATCH, seed), size)
        return weighted_loss(unet, shifted(images, generator), generator)

    data = dict(world.fingerprint())
    del data["world"]  # the code: a training goes on after it has changed
    made_with = f"size {size}, {open_blocks} open blocks and data {keys.key_of(data)}"
    run = Run(images // BATCH, RATE, DECAY, state_file, made_with=made_with)
    return loop(str(world.folder), unet, loss_at, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--size",
        type=int,
        default=16,
        help="width and height that images are trained at; a multiple of 4",
    )
    parser.add_argument("--images", type=int, default=512_000)
    parser.add_argument(
        "--open-blocks",
        type=int,
        default=OPEN,
        help="up blocks whose skips are open, from the finest; 3 is all",
    )
    parser.add_argument(
        "--state",
        type=Path,
        help="checkpoint to resume from and write to, by default FOLDER/state.pt",
    )
    args = parser.parse_args()
    try:
        if args.size < 8 or args.size % 4:
            raise ValueError(f"--size must be a multiple of 4 from 8 on, got {args.size}")
        at_least("--images", args.images, BATCH, "one batch")
        within("--open-blocks", args.open_blocks, 0, len(WIDTHS))
        world = declared(args.folder).world
        state = args.state or args.folder / "state.pt"
        weights = train(world, args.size, args.images, state, args.open_blocks)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    unet = network(args.size)
    unet.load_state_dict(weights)
    DDIMPipeline(unet.half(), scheduler()).save_pretrained(args.folder)


if __name__ == "__main__":
    main()
