"""Trains the unconditional subject, from the root of the repository:

    python -m models.portraits.train [--images N] [--state FILE]

It is a pixel-space DDPM (Ho et al., 2020; linear beta, T = 1000, epsilon-prediction) on 131,072
portraits of the planted world. The loss has the weighting of P2 (Choi et al., 2022; k = 1,
gamma = 0.5), and the weights an exponential moving average. The learning rate stays constant and
then falls linearly to zero over the last quarter. Every batch is a function of (seed, step), so a
run that was interrupted resumes exactly from its state file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from difflens_utils.runtime import artifacts, precision
from difflens_utils.runtime.errors import at_least, within

# Before diffusers: the package mends a torchvision that was built for another torch.
from difflens_utils.worlds import portraits

# isort: split
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from tqdm import tqdm

HERE = Path(__file__).parent
SEED, POOL, BATCH, RATE, DECAY = 7, 131_072, 64, 6e-4, 0.999
OPEN = 1  # up blocks, from the finest, that read their skip connections


def network() -> UNet2DModel:
    """A U-Net with few channels at high resolution and many below.

    Few channels cross the open skips, and `close_skips` shuts the others. So what a portrait shows
    has to pass the bottleneck (192 x 4 x 4).
    """
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
    """Holds at zero every weight that reads a skip connection.

    The last `open_resnets` resnets of the up blocks are left as they are. With all of diffusers'
    skips open the decoder takes next to nothing from the bottleneck, since it reads the image
    around it at every resolution; `difflens_utils.mediation` measures it. Zeros keep the file an
    ordinary `UNet2DModel`. A normalisation group that a skip shares with the channels from below is
    closed too, or its mean would leak through.
    """
    readers = readers_of_skips(unet)
    for resnet, below in readers[: len(readers) - open_resnets]:
        group = resnet.in_channels // resnet.norm1.num_groups
        _hold_at_zero(resnet.conv1.weight, below // group * group)
        _hold_at_zero(resnet.conv_shortcut.weight, below)


def readers_of_skips(unet: UNet2DModel | UNet2DConditionModel) -> list[tuple[nn.Module, int]]:
    """The resnets of the up blocks in order, and how many of their channels come from below.

    The other channels of their input are a skip connection.
    """
    widths = [unet.conv_in.out_channels]
    for block in unet.down_blocks:
        widths += [r.out_channels for r in block.resnets]
        widths += [d.out_channels for d in block.downsamplers or ()]
    resnets = [resnet for block in unet.up_blocks for resnet in block.resnets]
    return [(resnet, resnet.in_channels - widths.pop()) for resnet in resnets]


def _hold_at_zero(weight: Tensor, start: int) -> None:
    """Zeroes the weights of the input channels from `start` on, and their gradients from now on."""
    with torch.no_grad():
        weight[:, start:] = 0
    keep = torch.ones(weight.shape[1], device=weight.device)
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
        images = portraits.WORLD.render(portraits.WORLD.sample(1024, SEED * 100_000 + start))
        pool[start : start + 1024] = ((images + 1) * 127.5).round().to(torch.uint8)
    return pool


def save_atomically(state: dict, path: Path) -> None:
    """Writes a state so that a killed run leaves the old file or the new one, and no half."""
    with artifacts.atomic(path) as temporary:
        torch.save(state, temporary)


def export(weights: dict[str, Tensor], folder: Path) -> None:
    """Write a `DDIMPipeline` that `from_pretrained` loads, in half precision."""
    unet = network()
    unet.load_state_dict(weights)
    DDIMPipeline(unet.half(), scheduler()).save_pretrained(folder)


@dataclass(frozen=True)
class Run:
    """How a training goes: its steps, its learning rate, its average, and where its state lies."""

    total: int  # the step at which it ends
    rate: float  # the learning rate between its rise and its fall
    decay: float  # of the moving average of the weights
    state_file: Path  # what it resumes from and writes
    first: int = 0  # the step that it starts with
    warm_up: int = 200  # steps over which the rate rises
    falling: int = 4  # the rate falls to zero over the last of so many equal parts of the steps
    minutes: float = 4.0  # between saves
    made_with: str = ""  # what must be the same for a state to be resumed

    def rate_at(self, step: int) -> float:
        """The learning rate of a step."""
        rising = (step - self.first + 1) / self.warm_up
        falling = (self.total - step) / (self.total / self.falling)
        return self.rate * min(1.0, rising, falling)


def _state(run: Run) -> dict | None:
    """The state in the run's file, or None where there is none yet.

    Raises ValueError for a state that was made with something else.
    """
    if not run.state_file.exists():
        return None
    state = torch.load(run.state_file, weights_only=True)
    before = state.get("made_with", "")
    if before != run.made_with:
        raise ValueError(
            f"{run.state_file} was made with {before or 'nothing that it names'}, and this "
            f"training is with {run.made_with}; remove it, or name another file with --state"
        )
    return state


def loop(
    name: str, model: torch.nn.Module, loss_at: Callable[[int], Tensor], run: Run
) -> dict[str, Tensor]:
    """Trains with AdamW and `loss_at(step)`, and returns the averaged weights.

    It resumes from the run's state file. Raises ValueError for a state of something else.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=0.01, fused=True)
    average = {k: v.clone() for k, v in model.state_dict().items()}
    start, running, saved = run.first, None, time.monotonic()
    if (state := _state(run)) is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["step"]
    bar = tqdm(range(start, run.total), name, initial=start, total=run.total, mininterval=20)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = run.rate_at(step)
        loss = _step(model, optimizer, loss_at, step)
        _update(average, model, min(run.decay, (1 + step) / (10 + step)))
        running = loss if running is None else 0.99 * running + 0.01 * loss
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if time.monotonic() - saved > 60 * run.minutes or step + 1 == run.total:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"average": average, "step": step + 1, "made_with": run.made_with}
            save_atomically(state, run.state_file)
            saved = time.monotonic()
    return average


def _step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    step: int,
) -> float:
    """One step of gradient descent; returns the loss before it."""
    loss = loss_at(step)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _update(average: dict[str, Tensor], model: torch.nn.Module, keep: float) -> None:
    """Moves the average towards the weights, in place."""
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 1 - keep)


def weighted_loss(unet: UNet2DModel, x: Tensor, generator: torch.Generator) -> Tensor:
    """P2's loss of clean images x (B, C, H, W), at random timesteps: ().

    The weights are 1 / (k + SNR)^gamma. What is random is drawn on the CPU, for every device alike.
    """
    alphas = scheduler().alphas_cumprod
    weight = (1 + alphas / (1 - alphas)) ** -0.5
    t = torch.randint(1000, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    a = alphas[t].reshape(-1, 1, 1, 1)
    noisy = (a.sqrt() * x + (1 - a).sqrt() * noise).to(memory_format=torch.channels_last)
    device = next(unet.parameters()).device
    with precision.autocast(device):
        predicted = unet(noisy.to(device), t.to(device), return_dict=False)[0]
    per_image = (predicted.float() - noise.to(device)).square().mean((1, 2, 3))
    return (per_image * weight[t].to(device)).mean() / weight.mean()


def train(
    images: int,
    state_file: Path,
    warm: Path | None = None,
    seen: int = 0,
    open_blocks: int = OPEN,
    decay: float = DECAY,
    minutes_between_saves: float = 4.0,
    device: str = "cpu",
) -> dict[str, Tensor]:
    """Trains up to `images` training images, and returns the averaged weights.

    `warm` is a pipeline whose weights `seen` images made. The training starts from them instead of
    random ones: the batches and the learning rate go on from there, with a new optimizer. `decay`
    is that of the moving average.
    """
    torch.manual_seed(SEED)
    unet = network().to(device=precision.pick_device(device), memory_format=torch.channels_last)
    if warm is not None:
        loaded = DDIMPipeline.from_pretrained(warm, dtype=torch.float32, local_files_only=True)
        unet.load_state_dict(loaded.unet.state_dict())
    close_skips(unet, open_blocks * (unet.config.layers_per_block + 1))
    pool = data()

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(SEED * 10_000_000 + step)
        rows = torch.randint(POOL, (BATCH,), generator=generator)
        return weighted_loss(unet, pool[rows].float() / 127.5 - 1, generator)

    run = Run(
        total=images // BATCH,
        rate=RATE,
        decay=decay,
        state_file=state_file,
        first=seen // BATCH,
        minutes=minutes_between_saves,
    )
    return loop("portraits", unet, loss_at, run)


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
        "--decay", type=float, default=DECAY, help="of the moving average of the weights"
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda")
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
        within("--decay", args.decay, 0, 1)
        precision.pick_device(args.device)
        if args.warm and not (args.warm / "model_index.json").is_file():
            raise ValueError(
                f"--warm must be the folder of a pipeline, and {args.warm} has no model_index.json"
            )
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    weights = train(
        args.images,
        args.state,
        args.warm,
        args.seen,
        args.open_blocks,
        args.decay,
        device=args.device,
    )
    export(weights, args.out)


if __name__ == "__main__":
    main()
