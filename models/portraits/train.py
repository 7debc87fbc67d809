"""Train the unconditional subject: `python models/portraits/train.py [--images N] [--state FILE]`.

A pixel-space DDPM (Ho et al., 2020; linear beta, T = 1000, epsilon-prediction) on 131,072 portraits of the planted
world, with the loss weighting of P2 (Choi et al., 2022; k = 1, gamma = 0.5), an exponential moving average of the weights,
and a learning rate that stays constant and then falls linearly to zero over the last quarter. Every batch is a function
of (seed, step), so a run that was interrupted resumes exactly from its state file.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from difflens_utils import (
    portraits,
    precision,
)  # before diffusers: it mends a torchvision built for another torch
from difflens_utils.errors import at_least, within

# isort: split
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor
from tqdm import tqdm

HERE = Path(__file__).parent
SEED, POOL, BATCH, RATE, DECAY = 7, 131_072, 64, 6e-4, 0.999
OPEN = 1  # up blocks, from the finest, that read their skip connections


def network() -> UNet2DModel:
    """Narrow above, wide below: few channels cross the skips at high resolution, and `close_skips` shuts the others, so what
    a portrait IS has to pass the bottleneck (192 x 4 x 4)."""
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(24, 48, 96, 192),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=32,
    )


def close_skips(unet: UNet2DModel | UNet2DConditionModel, open_resnets: int) -> None:
    """Fewer skips: hold at zero, in all but the last `open_resnets` resnets of the up blocks, every weight that reads a skip connection.

    With all of diffusers' skips open the decoder asks the bottleneck for next to nothing, since what an image is can be read
    around it at every resolution; `difflens_utils.mediation` measures it. Zeros keep the file an ordinary `UNet2DModel`. A
    normalisation group that a skip shares with the channels from below is closed with it, or its mean would leak through.
    """
    widths = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        widths += [r.out_channels for r in block.resnets]
        widths += [d.out_channels for d in block.downsamplers or ()]
    closed = [resnet for block in unet.up_blocks for resnet in block.resnets]
    for resnet in closed[: len(closed) - open_resnets]:
        below = resnet.in_channels - widths.pop()
        group = resnet.in_channels // resnet.norm1.num_groups
        _hold_at_zero(resnet.conv1.weight, below // group * group)
        _hold_at_zero(resnet.conv_shortcut.weight, below)


def _hold_at_zero(weight: Tensor, start: int) -> None:
    """Zero the weights of the input channels from `start` on, and their gradients from now on."""
    with torch.no_grad():
        weight[:, start:] = 0
    keep = torch.ones(weight.shape[1])
    keep[start:] = 0
    weight.register_hook(lambda gradient: gradient * keep.reshape(1, -1, 1, 1))


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=True,
        set_alpha_to_one=True,
        steps_offset=0,
        timestep_spacing="leading",
    )


def data() -> Tensor:
    """The training set: (POOL, 3, 32, 32) uint8, rendered in a minute."""
    pool = torch.empty(POOL, 3, 32, 32, dtype=torch.uint8)
    for start in tqdm(range(0, POOL, 1024), desc="rendering", mininterval=10):
        images = portraits.render(portraits.WORLD.sample(1024, SEED * 100_000 + start))
        pool[start : start + 1024] = ((images + 1) * 127.5).round().to(torch.uint8)
    return pool


def save_atomically(state: dict, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def export(weights: dict[str, Tensor], folder: Path) -> None:
    """Write a `DDIMPipeline` that `from_pretrained` loads, in half precision."""
    unet = network()
    unet.load_state_dict(weights)
    DDIMPipeline(unet.half(), scheduler()).save_pretrained(folder)


def loop(
    name: str,
    model: torch.nn.Module,
    loss_at: Callable[[int], Tensor],
    rate: float,
    decay: float,
    total: int,
    state_file: Path,
    *,
    first: int = 0,
    warm_up: int = 200,
    falling: int = 4,
    minutes: float = 4.0,
    made_with: str = "",
) -> dict[str, Tensor]:
    """AdamW from step `first` to `total`, with `loss_at(step)`; returns the averaged weights. Resumes from `state_file`.

    The rate rises over `warm_up` steps, stays, and falls linearly to zero over the last of so many (`falling`) parts of all steps.
    Raises ValueError for a state file that was `made_with` something else.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    average, step, running = {k: v.clone() for k, v in model.state_dict().items()}, first, None
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        if (before := state.get("made_with", "")) != made_with:
            raise ValueError(
                f"{state_file} was made with {before or 'nothing that it names'}, and this "
                f"training is with {made_with}; remove it, or name another file with --state"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
    saved = time.monotonic()
    bar = tqdm(range(step, total), initial=step, total=total, desc=name, mininterval=20)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate * min(
                1.0, (step - first + 1) / warm_up, (total - step) / (total / falling)
            )
        loss = loss_at(step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        keep = min(decay, (1 + step) / (10 + step))
        for k, v in model.state_dict().items():
            average[k].lerp_(v, 1 - keep)
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if time.monotonic() - saved > 60 * minutes or step + 1 == total:
            save_atomically(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step + 1,
                    "made_with": made_with,
                },
                state_file,
            )
            saved = time.monotonic()
    return average


def weighted_loss(unet: UNet2DModel, x: Tensor, generator: torch.Generator) -> Tensor:
    """P2's loss of clean images x (B, C, H, W) at timesteps and with noise of their own: (). The weights are 1 / (k + SNR)^gamma."""
    alphas = scheduler().alphas_cumprod
    weight = (1 + alphas / (1 - alphas)) ** -0.5
    t = torch.randint(1000, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    a = alphas[t].reshape(-1, 1, 1, 1)
    noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).to(memory_format=torch.channels_last)
    with precision.autocast():
        predicted = unet(noisy, t, return_dict=False)[0]
    return ((predicted.float() - noise).square().mean((1, 2, 3)) * weight[t]).mean() / weight.mean()


def train(
    images: int,
    state_file: Path,
    warm: Path | None = None,
    seen: int = 0,
    open_blocks: int = OPEN,
    minutes_between_saves: float = 4.0,
) -> dict[str, Tensor]:
    """Run to `images` training images and return the averaged weights.

    `warm` starts from a pipeline's weights, which `seen` images made, instead of random ones: the batches and the
    learning rate go on from there, with a new optimizer.
    """
    torch.manual_seed(SEED)
    unet = network().to(memory_format=torch.channels_last)
    if warm is not None:
        unet.load_state_dict(
            DDIMPipeline.from_pretrained(
                warm, dtype=torch.float32, local_files_only=True
            ).unet.state_dict()
        )
    close_skips(unet, open_blocks * (unet.config.layers_per_block + 1))
    pool = data()

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        return weighted_loss(
            unet,
            pool[torch.randint(POOL, (BATCH,), generator=generator)].float() / 127.5 - 1,
            generator,
        )

    return loop(
        "portraits",
        unet,
        loss_at,
        RATE,
        DECAY,
        images // BATCH,
        state_file,
        first=seen // BATCH,
        minutes=minutes_between_saves,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512_000)
    parser.add_argument(
        "--warm", type=Path, help="folder of a pipeline to go on from, where no state file is left"
    )
    parser.add_argument(
        "--seen", type=int, default=0, help="training images behind the weights of --warm"
    )
    parser.add_argument(
        "--open-blocks",
        type=int,
        default=OPEN,
        help="up blocks whose skips are open, from the finest; 4 is all",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=HERE / "state.pt",
        help="checkpoint to resume from and write to",
    )
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    try:
        at_least("--images", args.images, args.seen + BATCH, "one batch more than --seen")
        at_least("--seen", args.seen, 0)
        within("--open-blocks", args.open_blocks, 0, 4)
        if args.warm and not (args.warm / "model_index.json").is_file():
            raise ValueError(
                f"--warm must be the folder of a pipeline, and {args.warm} has no model_index.json"
            )
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    export(train(args.images, args.state, args.warm, args.seen, args.open_blocks), args.out)


if __name__ == "__main__":
    main()
