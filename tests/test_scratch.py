"""The page *Build it in 100 lines*: it runs, its checks hold, and a wrong piece fails its check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pytest
from torch import Tensor

from workflow import scratch

BLOCKS = scratch.blocks(scratch.PAGE.read_text())
SMALL = 1_000_000  # numbers of a tensor that a later block may change in place


@dataclass(frozen=True, repr=False)
class Ran:
    """The page after it ran: its names, and what they were before each block."""

    names: dict[str, Any]
    before: list[dict[str, Any]]


def kept(value: object) -> object:
    """A value that no later block changes."""
    if isinstance(value, Tensor) and value.numel() < SMALL:
        return value.detach().clone().requires_grad_(value.requires_grad)
    return value


@pytest.fixture(scope="module")
def page(one_thread: None) -> Ran:
    names: dict[str, Any] = {}
    before = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch.ROOT)
        for block in BLOCKS:
            before.append({name: kept(value) for name, value in names.items()})
            scratch.run([block], names)
    plt.close(names["figure"])
    return Ran(dict(names), [*before, names])


def test_the_page_has_at_most_100_lines_of_code_and_a_check_for_each_piece() -> None:
    lines = [line for b in BLOCKS if not b.checks for line in b.code.splitlines() if line.strip()]
    assert 80 < len(lines) <= 100
    assert max(map(len, lines)) <= 100
    assert sum(block.checks for block in BLOCKS) == 8
    source = scratch.PAGE.read_text().splitlines()
    assert all(source[b.line - 1] == b.code.splitlines()[0] for b in BLOCKS)


def test_only_checks_use_the_library() -> None:
    assert not any("difflens_utils" in b.code or "assert" in b.code for b in BLOCKS if not b.checks)
    assert all("assert" in b.code for b in BLOCKS if b.checks)


def test_the_page_runs_and_its_figure_shows_the_shares(page: Ran) -> None:
    """All checks hold, or the fixture would have failed."""
    figure, shares = page.names["figure"], page.names["shares"]
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert len(titles) == len(shares) == 3
    for title, (beta, share) in zip(titles, shares.items(), strict=True):
        assert title.startswith(f"β = {beta}: zero {share[0]:.0%}, one")
        assert share.sum().item() == pytest.approx(1)
    assert scratch.TARGET.stat().st_size > 10_000


# A mistake in one piece, and a line of the check that has to notice it.
MISTAKES = {
    "other noise levels": ("1e-4, 0.02, 1000", "1e-4, 0.03, 1000", "levels.keep"),
    "other timesteps": ("* (1000 // T)", "* (1000 // T) + 1", "levels.timesteps =="),
    "no clipping": (".clamp(-1, 1)", "", "n=16, seed=0"),
    "a step to the level it comes from": ("b[i + 1] * direction", "b[i] * direction", "n=16, seed"),
    "the noise of the network as the direction": (
        "direction = (x_t - a[i] * P(x_t, epsilon, i)) / b[i]",
        "direction = epsilon",
        "n=16, seed=0",
    ),
    "other seeds": ("manual_seed(seed) for", "manual_seed(seed + 1) for", "n=16, seed=0"),
    "what goes into the block instead of h": (
        "append(h))\nimages",
        "append(inputs[0]))\nimages",
        "watched",
    ),
    "rows for columns": (".unflatten(-1, (4, 4))", ".unflatten(-1, (4, 4)).mT", "watched"),
    "ReLU instead of TopK": (".topk(k)", ".topk(D)", "ksae.latents"),
    "no pre-bias": ("(h - b_dec) @", "h @", "ksae.latents"),
    "latents below zero": ("values.relu()", "values", "ksae.latents"),
    "a k-SAE that was not trained": ("range(300)", "range(1)", "fvu < 0.2"),
    "labels of other images": (
        '["digit"].argmax(-1)  #',
        '["digit"].argmax(-1).roll(1)  #',
        "read ==",
    ),
    "gradients times the code alone": ("(s - baseline) * total", "s * total", "through_head"),
    "weights of another interval": ("share / 2 *", "share *", "through_head"),
    "another class": ("[..., c].sum()", "[..., c - 1].sum()", "through_head"),
    "a unit of the wrong sign": ("beta * u[i]", "beta * -u[i]", "edits.steer"),
    "a latent below zero": (".clamp_min(0) - active", " - active", "edits.steer"),
    "the reconstruction in place of the difference": (
        "return h + to_maps(change @ W_dec[I_c])",
        "return to_maps(decode(encode(to_vectors(h))) + change @ W_dec[I_c])",
        "edits.steer",
    ),
    "the symmetric step": (
        "epsilon, edited, i)\n    return x_t",
        "edited, edited, i)\n    return x_t",
        "edits.steer",
    ),
    "a difference the wrong way round": ("u = s[labels == c]", "u = -s[labels == c]", "threes"),
}


def again(page: Ran, start: int, check: int, first: scratch.Block) -> None:
    """Runs the page anew from one block, in place of which `first` runs, up to a check."""
    names = page.before[-1]  # the very one that the page's functions look their names up in
    names.clear()
    names.update({name: kept(value) for name, value in page.before[start].items()})
    scratch.run([first, *map(fewer, BLOCKS[start + 1 : check])], names)
    scratch.run([BLOCKS[check]], names)


def fewer(block: scratch.Block) -> scratch.Block:
    """A block that draws fewer of the last images."""
    return block._replace(code=block.code.replace("range(200, 296)", "range(200, 232)"))


def place(mistake: str) -> tuple[int, int]:
    """Which block has a mistake, and which check has to notice it."""
    right, _, noticed = MISTAKES[mistake]
    (start,) = (i for i, b in enumerate(BLOCKS) if right in b.code and not b.checks)
    (check,) = (i for i, b in enumerate(BLOCKS) if noticed in b.code and b.checks)
    assert start < check and BLOCKS[start].code.count(right) == 1
    return start, check


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_check(
    mistake: str, page: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scratch.ROOT)
    start, check = place(mistake)
    right, wrong, _ = MISTAKES[mistake]
    broken = BLOCKS[start]._replace(code=BLOCKS[start].code.replace(right, wrong))
    with pytest.raises(AssertionError) as failed:
        again(page, start, check, broken)
    lines = [entry.lineno + 1 for entry in failed.traceback if entry.path == scratch.PAGE]
    assert lines[0] >= BLOCKS[check].line


@pytest.mark.parametrize(
    "mistake", ["no clipping", "another class", "the symmetric step", "no pre-bias"]
)
def test_without_the_mistake_the_check_holds(
    mistake: str, page: Ran, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scratch.ROOT)
    start, check = place(mistake)
    again(page, start, check, BLOCKS[start])
