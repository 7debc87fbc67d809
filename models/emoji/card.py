"""Measures what only the subject `emoji` can tell, from the root of the repository:

    python -m models.emoji.card

Obedience per word; the share of men behind each occupation, planted and generated; whether held-out
combinations are composed; how near images come to drawings that were learned; and, unplanted, how
the designers' gender-neutral drawings read to a network that has only seen their women and men. The
figures go to results/emoji.json, with 95 % intervals, and the book shows them on a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from difflens_utils import evaluators, sampling
from difflens_utils.metrics import mean, rank_correlation, wilson
from difflens_utils.subjects import registry
from difflens_utils.subjects.pipelines import Subject
from difflens_utils.worlds import Scenes, emoji
from difflens_utils.worlds.emoji import GENDERS, ROLES, STYLES, TONES, WORLD, Drawing

# isort: split
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

ROOT = Path(__file__).parents[2]
RESULT, PICTURE = ROOT / "results/emoji.json", ROOT / "book/_static/emoji.png"
SHOWN = (  # the prompts of the picture, and how many images each has
    "health worker",
    "teacher",
    "technologist",
    "farmer",
    "woman farmer: dark skin tone, twemoji",
    "man fairy: yellow skin tone, fluent",
    "woman judge, flat",
    "person with veil: medium skin tone, noto",
)
EACH, GAP = 8, 2
STEPS, SEED = 6, 9001  # the steps of the book
OTHER_STEPS = (3, 4, 10, 20)  # tried on the first BLOCK people
NAMED, PER_ROLE = 2000, 100  # people whose every factor is named; images of each open prompt
JUDGED, BLOCK = 4000, 250  # drawings for the judges; images whose neighbours are sought
ROWS = 250  # images whose distances are computed at once
Figures = dict[str, Any]


def drawn(subject: Subject, texts: Sequence[str], seed: int, steps: int | None = None) -> Tensor:
    """An image of each text, in `STEPS` steps by default: (n, 3, 64, 64)."""
    return sampling.sample(
        subject, len(texts), seed, steps=steps or STEPS, prompts=texts, batch=31, progress="card"
    )


def read(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """What the scorer takes images for: {factor: (n,) class numbers}."""
    seen = evaluators.read(subject.scorer, images, subject.device)
    return {factor: p.argmax(-1) for factor, p in seen.items()}


def names_of(people: Scenes) -> list[str]:
    """A caption of each person that names everything."""
    return [emoji.prompt(**WORLD.names(people, row)) for row in range(len(people))]


def show(subject: Subject, path: Path) -> None:
    """Writes a picture of what the model draws: a row for each of `SHOWN`."""
    images = drawn(subject, [text for text in SHOWN for _ in range(EACH)], SEED)
    side = emoji.SIDE + GAP
    page = torch.ones(3, side * len(SHOWN), side * EACH)
    for i, image in enumerate(images):
        top, left = i // EACH * side, i % EACH * side
        page[:, top : top + emoji.SIDE, left : left + emoji.SIDE] = image
    pixels = ((page + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels)
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC).save(path)


# --------------------------------------------------------------------------------------------------
# What the model does with its prompts


def obedience(labels: Mapping[str, Tensor], seen: Mapping[str, Tensor]) -> Figures:
    """The share of images that show what their prompt names: of each factor, and of each word."""
    found: Figures = {}
    for name, factor in WORLD.factors.items():
        right = seen[name] == labels[name]
        words = {}
        for number, word in enumerate(factor.classes):
            rows = labels[name] == number
            if rows.any():
                words[word] = wilson(int(right[rows].sum()), int(rows.sum())).numbers()
        found[name] = {"all": wilson(int(right.sum()), len(right)).numbers(), "words": words}
    every = torch.stack([seen[name] == labels[name] for name in WORLD.factors]).all(0)
    found["everything"] = {"all": wilson(int(every.sum()), len(every)).numbers()}
    return found


def stepwise(subject: Subject, people: Scenes, texts: Sequence[str]) -> Figures:
    """The share of images that show all that their prompt names, by the number of steps."""
    found = {}
    for steps in sorted((STEPS, *OTHER_STEPS)):
        seen = read(subject, drawn(subject, texts, SEED + 2, steps))
        found[str(steps)] = obedience(people.labels, seen)["everything"]["all"]
    return found


def planted(subject: Subject) -> Figures:
    """The share of men of each role, planted and generated, where the prompt leaves it open."""
    texts = [emoji.prompt(role) for role in ROLES for _ in range(PER_ROLE)]
    seen = read(subject, drawn(subject, texts, SEED + 1))
    men = (seen["gender"] == GENDERS.index("man")).reshape(len(ROLES), PER_ROLE)
    rows = {}
    for (name, role), hits in zip(ROLES.items(), men, strict=True):
        found = wilson(int(hits.sum()), PER_ROLE).numbers()
        rows[name] = {"planted": role.men, "generated": found, "source": role.source}
    shares = [role.men for role in ROLES.values()], men.float().mean(1).tolist()
    tones = torch.bincount(seen["tone"], minlength=len(TONES))
    return {
        "roles": rows,
        "rank correlation": rank_correlation(*shares),
        "mean absolute difference": float(
            (torch.tensor(shares[0]) - torch.tensor(shares[1])).abs().mean()
        ),
        "tones": {
            tone: {"planted": share, "generated": wilson(int(count), len(texts)).numbers()}
            for tone, share, count in zip(
                TONES, WORLD.marginal("tone").tolist(), tones, strict=True
            )
        },
    }


# --------------------------------------------------------------------------------------------------
# How near images come to drawings


def every_drawing(held_out: bool) -> tuple[Tensor, Tensor]:
    """The drawings that were held out or learned, (n, 3, 64, 64), and their cells (n, 4)."""
    images, cells = [], []
    for drawing, image in emoji.drawings().items():
        if drawing.gender == "neutral":
            continue
        cell = cell_of(drawing)
        labels = dict(zip(WORLD.factors, torch.tensor(cell)[:, None], strict=True))
        if bool(emoji.held_out(labels)) == held_out:
            images.append(image / 127.5 - 1)
            cells.append(cell)
    return torch.stack(images), torch.tensor(cells)


def cell_of(drawing: Drawing) -> list[int]:
    """Its class numbers, in the order of the world's factors."""
    tone = next(i for i, modifiers in enumerate(TONES.values()) if drawing.tone in modifiers)
    return [
        STYLES.index(drawing.style),
        list(ROLES).index(drawing.role),
        GENDERS.index(drawing.gender),
        tone,
    ]


def nearest(images: Tensor, drawings: Tensor) -> tuple[Tensor, Tensor]:
    """The distance to the nearest drawing, (n,) root of the mean square of pixels, and which it is.

    An image may be moved by up to two pixels, as it was in training.
    """
    best = torch.full((len(images),), torch.inf)
    which = torch.zeros(len(images), dtype=torch.long)
    flat = drawings.flatten(1)
    for x in range(-2, 3):
        for y in range(-2, 3):
            moved = torch.roll(images, (y, x), (2, 3)).flatten(1)
            for start in range(0, len(moved), ROWS):
                rows = slice(start, start + ROWS)
                distance, place = torch.cdist(moved[rows], flat).min(1)
                nearer = distance < best[rows]
                best[rows] = torch.where(nearer, distance, best[rows])
                which[rows] = torch.where(nearer, place, which[rows])
    return best / flat.shape[1] ** 0.5, which


def memorised(images: Tensor, composed: Tensor, cells: Tensor) -> Figures:
    """Nearest learned drawings of generated images, with those of held-out drawings as yardstick.

    `composed` are images of held-out combinations, `cells` (n, 4). Of them it is told, too, how
    many have the drawing that they were asked for as their nearest of all.
    """
    learned, own = every_drawing(held_out=False)
    kept, others = every_drawing(held_out=True)
    yardstick, _ = nearest(kept, learned)
    of_seen, _ = nearest(images, learned)
    of_composed, _ = nearest(composed, learned)
    _, which = nearest(composed, torch.cat([learned, kept]))
    right = (torch.cat([own, others])[which] == cells).all(1)
    near = torch.quantile(yardstick, 0.05)
    return {
        "held-out drawings": mean(yardstick).numbers(),
        "generated, combinations that were learned": mean(of_seen).numbers(),
        "generated, combinations that were held out": mean(of_composed).numbers(),
        "nearer than 95 % of held-out drawings": wilson(
            int((of_seen < near).sum()), len(of_seen)
        ).numbers(),
        "nearest drawing is the held-out one": wilson(int(right.sum()), len(right)).numbers(),
    }


# --------------------------------------------------------------------------------------------------
# The judges, and what nobody planted


def judged(subject: Subject) -> Figures:
    """How often each judge is right about held-out combinations, per factor and style."""
    people = WORLD.kept_out(JUDGED, SEED + 4)
    images = WORLD.render(people)
    found: Figures = {}
    for name, judge in (("labeller", subject.labeller), ("scorer", subject.scorer)):
        seen = evaluators.read(judge, images, subject.device)
        right = {f: p.argmax(-1) == people.labels[f] for f, p in seen.items()}
        rows = {"all": torch.ones(JUDGED, dtype=torch.bool)}
        rows |= {style: people.labels["style"] == i for i, style in enumerate(STYLES)}
        found[name] = {
            factor: {
                label: wilson(int(hits[some].sum()), int(some.sum())).numbers()
                for label, some in rows.items()
            }
            for factor, hits in right.items()
        }
    return found


def neutral(subject: Subject) -> Figures:
    """The share of gender-neutral drawings that read as men, per style and per role and style."""
    found = {d: image for d, image in emoji.drawings().items() if d.gender == "neutral"}
    images = torch.stack([image / 127.5 - 1 for image in found.values()])
    man = read(subject, images)["gender"] == GENDERS.index("man")
    result: Figures = {"styles": {}, "roles": {}}
    for style in STYLES:
        rows = torch.tensor([drawing.style == style for drawing in found])
        result["styles"][style] = wilson(int(man[rows].sum()), int(rows.sum())).numbers()
        for role in ROLES:
            rows = torch.tensor([d.style == style and d.role == role for d in found])
            if rows.any():
                result["roles"].setdefault(role, {})[style] = float(man[rows].float().mean())
    return result


def main() -> None:
    subject = registry.load("emoji", "auto")
    seen, kept = WORLD.to_learn(NAMED, SEED, balanced=True), WORLD.kept_out(NAMED // 2, SEED)
    names = names_of(seen)
    images = drawn(subject, names, SEED + 2)
    composed = drawn(subject, names_of(kept), SEED + 3)
    cells = torch.stack([kept.labels[name] for name in WORLD.factors], 1)
    steps = {
        "obeyed": lambda: obedience(seen.labels, read(subject, images)),
        "composed": lambda: obedience(kept.labels, read(subject, composed)),
        "steps": lambda: stepwise(subject, seen[slice(0, BLOCK)], names[:BLOCK]),
        "planted": lambda: planted(subject),
        "nearest": lambda: memorised(images[:BLOCK], composed[:BLOCK], cells[:BLOCK]),
        "judges": lambda: judged(subject),
        "neutral": lambda: neutral(subject),
    }
    found: Figures = {
        "about": {"command": "python -m models.emoji.card", "seed": SEED, "steps": STEPS},
        **{name: step() for name, step in tqdm(steps.items(), desc="card")},
    }
    show(subject, PICTURE)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
