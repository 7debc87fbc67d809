"""Trains the two attribute networks, from the root of the repository:

    python -m models.evaluators.train labeller|scorer
        [--world portraits|occupations|emoji|FOLDER] [--images N]

They share neither architecture nor seed nor data. The data are fresh renders from their own seeds,
half from the planted world and half with every factor uniform and independent, so that neither can
read one factor through another. A FOLDER holds a `study.yml`; its images are drawn again and again,
shifted a little, and the card is measured on those that were held out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from difflens_utils.evaluators import AttributeNet
from difflens_utils.runtime import precision
from difflens_utils.runtime.errors import at_least
from difflens_utils.worlds import World, emoji, occupations, portraits
from difflens_utils.worlds.labelled import LabelledImages, declared

HERE = Path(__file__).parent
BATCH = 256
RECIPES = {
    "labeller": ("residual", 11, 3e-3),
    "scorer": ("strided", 23, 2e-3),
}  # architecture, seed, learning rate
WORLDS = {
    "portraits": (portraits.WORLD, HERE),
    "occupations": (occupations.WORLD, HERE.parent / "portraits-t2i/evaluators"),
    "emoji": (emoji.WORLD, HERE.parent / "emoji/evaluators"),
}


def world_of(name: str) -> tuple[World, Path]:
    """A world by name, or that of a folder with a `study.yml`, and where its networks lie."""
    if name in WORLDS:
        return WORLDS[name]
    study = declared(Path(name))
    return study.world, study.evaluators


def unseen(
    world: World, n: int, seed: int, balanced: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """Images that no network was trained on, (n, 3, 32, 32), and their labels.

    They are fresh renders, all that a folder holds out, or combinations that are held out.
    """
    if isinstance(world, LabelledImages):
        return world.held_out(32)
    people = world.kept_out(n, seed, balanced)
    return world.render(people, 32), people.labels


def shifted(images: Tensor, generator: torch.Generator, most: float = 0.06) -> Tensor:
    """Images moved by up to a share of their width in x and y: few real images become more."""
    theta = torch.eye(2, 3).repeat(len(images), 1, 1)
    theta[:, :, 2] = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * 2 * most
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def distort(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images with what samples may have and renders have not.

    That is blur, noise, another contrast and another brightness.
    """

    def pick() -> Tensor:
        return torch.rand(len(images), 1, 1, 1, generator=generator)

    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, pick() * (pick() < 0.4) * 0.7)
    noise = torch.randn(images.shape, generator=generator) * 0.12 * pick() * (pick() < 0.4)
    return (images * (1 + 0.15 * (pick() - 0.5)) + 0.15 * (pick() - 0.5) + noise).clamp(-1, 1)


def batch(world: World, n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    natural = world.to_learn(n // 2, seed)
    uniform = world.to_learn(n - n // 2, seed + 1, balanced=True)
    images = torch.cat([world.render(natural, 32), world.render(uniform, 32)])
    return images, {k: torch.cat([natural.labels[k], uniform.labels[k]]) for k in natural.labels}


def train(name: str, images: int, world: World, size: int = BATCH) -> AttributeNet:
    architecture, seed, rate = RECIPES[name]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    net = AttributeNet(architecture, {k: f.classes for k, f in world.factors.items()})
    steps = images // size
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.15
    )
    for step in tqdm(range(steps), desc=name, mininterval=20):
        x, labels = batch(world, size, seed * 1_000_000 + 2 * step)
        x = shifted(x, generator) if isinstance(world, LabelledImages) else x
        with precision.autocast():
            logits = net.logits(distort(x, generator))
            loss = sum(F.cross_entropy(logits[k].float(), labels[k]) for k in labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    return net.eval().requires_grad_(False)


def calibrate(net: AttributeNet, seed: int, world: World) -> None:
    """Sets one temperature per factor, by maximum likelihood on held-out distorted images."""
    images, labels = unseen(world, 4000, seed)
    images = distort(images, torch.Generator().manual_seed(seed))
    grid = torch.logspace(-1, 1, 81)
    with torch.no_grad():
        logits = net.logits(images)
        for i, (k, z) in enumerate(logits.items()):
            losses = torch.stack([F.cross_entropy(z / t, labels[k]) for t in grid])
            net.temperature[i] = grid[losses.argmin()]


@torch.no_grad()
def card(
    net: AttributeNet, seed: int, world: World, n: int = 10_000
) -> dict[str, dict[str, float]]:
    """Held-out accuracy and expected calibration error (15 bins) per factor."""
    images, labels = unseen(world, n, seed)
    uniform, uniform_labels = unseen(world, n, seed + 1, balanced=True)
    other = net.logits(uniform)
    result = {}
    for k, z in net.logits(images).items():
        confidence, guess = z.softmax(-1).max(-1)
        right = (guess == labels[k]).float()
        bins = (confidence * 15).long().clamp(max=14)
        ece = sum(abs((right - confidence)[bins == b].sum().item()) for b in range(15)) / len(guess)
        balanced = (other[k].argmax(-1) == uniform_labels[k]).float().mean().item()
        result[k] = {
            "accuracy": round(right.mean().item(), 4),
            "ece": round(ece, 4),
            "accuracy_balanced": round(balanced, 4),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument(
        "--world", default="portraits", help=f"{', '.join(WORLDS)}, or a folder with a study.yml"
    )
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        at_least("--images", args.images, BATCH, "one batch")
        world, home = world_of(args.world)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    _, seed, _ = RECIPES[args.name]
    net = train(args.name, args.images, world)
    calibrate(net, seed + 100, world)
    folder = (args.out or home) / args.name
    net.save(folder)
    held_out = card(AttributeNet.load(folder), seed + 200, world)
    report = {"images": args.images, "held_out": held_out}
    (folder / "card.json").write_text(json.dumps(report, indent=1) + "\n")
    for k, row in held_out.items():
        print(f"{k:12s} " + "  ".join(f"{a} {b:.4f}" for a, b in row.items()))


if __name__ == "__main__":
    main()
