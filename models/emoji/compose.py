"""Measures whether an edit composes what was held out of training, from the root of the repository:

    python -m models.emoji.compose

Prompts name a role and a style, and leave the tone open. A method of notebook 06 turns one tone up
as far as its search found useful, whatever the prompt. Of every role and style some tones were
never shown. So there are images that no training image and no tuning image can tell the method how
to make. Beside them stand tones that were shown with the role and the style, images without an
edit, and images whose prompt names the tone. The figures go to results/emoji-composed.json, with
95 % intervals, and the page of `emoji` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import difflens_utils as dl
from difflens_utils import debiasing, methods, outcome
from difflens_utils.debiasing import Search
from difflens_utils.metrics import wilson
from difflens_utils.sampling import Edit
from difflens_utils.study import Study
from difflens_utils.subjects.conditions import Prompt
from difflens_utils.worlds import emoji
from difflens_utils.worlds.emoji import ROLES, STYLES, TONES
from models import sizes
from models.emoji import card

# isort: split
import torch
from torch import Tensor
from tqdm import tqdm

RESULT = Path(__file__).parents[2] / "results/emoji-composed.json"
ATTRIBUTE = "tone"
COMPARED = ("DiffLens", "DiffLens, best", "latent editing", "mean difference")
SEED, EACH = 9201, 8  # images of each held-out combination; learned ones are as many in all
Figures = dict[str, Any]


class Cells(NamedTuple):
    """One tone, and the people who are asked for: half of them were never shown in it."""

    tone: int
    people: Tensor  # (n, 2): numbers of style and role
    held_out: Tensor  # (n,) bool: whether the tone was never shown with them

    def prompts(self, named: bool = False) -> list[Prompt]:
        """What each image is asked for; the tone is left open unless it is `named`."""
        tone = list(TONES)[self.tone] if named else ""
        return [
            Prompt(emoji.prompt(list(ROLES)[role], style=STYLES[style], tone=tone))
            for style, role in self.people.tolist()
        ]


def cells_of(tone: int, each: int = EACH) -> Cells:
    """`each` images of every held-out combination with this tone, and as many of learned ones."""
    people = torch.cartesian_prod(torch.arange(len(STYLES)), torch.arange(len(ROLES)))
    labels = {"style": people[:, 0], "role": people[:, 1], "tone": torch.full((len(people),), tone)}
    kept = emoji.held_out(labels)
    composed = people[kept].repeat(each, 1)
    learned = people[~kept]
    order = torch.randperm(len(learned), generator=torch.Generator().manual_seed(SEED + tone))
    taken = learned[order[torch.arange(len(composed)) % len(learned)]]
    where = torch.arange(2 * len(composed)) < len(composed)
    return Cells(tone, torch.cat([composed, taken]), where)


def edit_towards(own: Search, tone: int, n: int) -> Edit:
    """The edit of n images that brings the shares of a tone as near to 1 as a search can.

    `own` is a search in one way.
    """
    wanted = [float(number == tone) for number in range(len(TONES))]
    return debiasing.edit_of(own, debiasing.plans(own, wanted, together=True), n, SEED + tone)


def shown(study: Study, images: Tensor, cells: Cells) -> dict[str, Tensor]:
    """What the scorer sees in each image: the tone, the rest as named, and both: (n,) bool each."""
    classes = {factor: seen.cpu() for factor, seen in card.read(study.subject, images).items()}
    tone = classes["tone"] == cells.tone
    rest = (classes["style"] == cells.people[:, 0]) & (classes["role"] == cells.people[:, 1])
    return {"tone": tone, "style and role": rest, "all three": tone & rest}


def shares(hits: Mapping[str, Tensor], held_out: Tensor) -> Figures:
    """Shares of images with 95 % intervals, of learned and of held-out combinations."""
    return {
        name: {
            label: wilson(int(seen[rows].sum()), int(rows.sum())).numbers()
            for label, rows in (("learned", ~held_out), ("held out", held_out))
        }
        for name, seen in hits.items()
    }


def ways(study: Study) -> Iterator[tuple[str, Search | None, bool]]:
    """Every row of the table: its name, its search in one way, and whether tones are named."""
    yield "no edit", None, False
    yield "tone named in the prompt", None, True
    rows = {row.name: row for row in methods.rows(study, ATTRIBUTE)}
    for name in COMPARED:
        method = methods.in_all_ways(rows[name], study.settings.steps)
        yield name, study.search(method, ATTRIBUTE).in_one_way(), False


def measure(study: Study, own: Search | None, named: bool) -> Figures:
    """The shares of one row, over all tones."""
    hits: list[dict[str, Tensor]] = []
    held_out: list[Tensor] = []
    for tone in range(len(TONES)):
        cells = cells_of(tone)
        images = _drawn(study, own, tone, cells.prompts(named))
        hits.append(shown(study, images, cells))
        held_out.append(cells.held_out)
    return shares({k: torch.cat([h[k] for h in hits]) for k in hits[0]}, torch.cat(held_out))


def _drawn(study: Study, own: Search | None, tone: int, prompts: Sequence[Prompt]) -> Tensor:
    """An image of each prompt; without a search, or with an edit towards the tone."""
    n, seed, steps = len(prompts), SEED + tone, study.settings.steps
    if own is None:
        return outcome.draw(study.subject, None, n, seed, steps, prompts=prompts)
    edit = edit_towards(own, tone, n)
    return debiasing.draw(study.subject, own.method, edit, n, seed, steps, prompts=prompts)


def main() -> None:
    study = dl.open("emoji", **sizes.of_the_book("emoji"))
    rows = {
        name: measure(study, own, named)
        for name, own, named in tqdm(list(ways(study)), desc="rows")
    }
    about = {
        "command": "python -m models.emoji.compose",
        "seed": SEED,
        "steps": study.settings.steps,
        "attribute": ATTRIBUTE,
    }
    RESULT.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
