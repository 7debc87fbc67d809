"""Every method and every control as the same kind of thing: `edit(h, step) -> h`, or None where nothing changes.

A method is a function here that returns such an edit, and one row in a table. An edit that asks for no change returns
None, and the sampler then does exactly what it does without an edit: beta = 1 is the identity, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .errors import one_of
from .ksae import KSAE, map_to_vectors, vectors_to_map
from .sampling import Edit, Step

MODES = ("scale", "add")


def _keyed(edit: Edit, method: str, /, **parts: object) -> Edit:
    """Let an edit carry what it does, so that stored images can be filed under it."""
    edit.parts = {"method": method, **parts}
    return edit


def steer(ksae: KSAE, features: Tensor, beta: float, mode: str = "scale", unit: Tensor | None = None) -> Edit:
    """Turn features up or down and write back only the difference (Eq. 7 and 9).

    `features` (N,) latent indices. "scale": s_j <- beta s_j; beta = 1 is the identity. "add": s_j <- max(0, s_j + beta u_j);
    beta = 0 is the identity. `unit` u is (N,), or (T, P, N) for a unit per timestep and position. Scaling cannot wake a
    latent that did not fire; adding can. Raises ValueError for an unknown mode, no features, or adding without a unit.
    """
    one_of("mode", mode, MODES)
    if len(features) == 0:
        raise ValueError("features must name at least one latent")
    if mode == "add" and unit is None:
        raise ValueError("unit must be given for mode add")
    directions = ksae.directions[features]  # (N, d)
    identity = beta == (1 if mode == "scale" else 0)

    def edit(h: Tensor, step: Step) -> Tensor | None:
        if identity:
            return None
        s = ksae.latents(map_to_vectors(h).float())[..., features]  # (B, P, N)
        if mode == "scale":
            change = (beta - 1) * s
        else:
            u = unit[step.index] if unit.ndim == 3 else unit
            change = (s + beta * u.to(s)).clamp_min(0) - s
        return (h.float() + vectors_to_map(change @ directions, h.shape)).to(h.dtype)

    return _keyed(edit, "steer", ksae=ksae.fingerprint(), features=features.tolist(), beta=beta, mode=mode, unit=unit)


def push(direction: Tensor, beta: float) -> Edit:
    """Add beta times a dense direction to h: (T, *h), one per timestep. The classical control; beta = 0 is the identity."""

    def edit(h: Tensor, step: Step) -> Tensor | None:
        return None if beta == 0 else (h.float() + beta * direction[step.index].to(h.device)).to(h.dtype)

    return _keyed(edit, "push", direction=direction, beta=beta)


def reconstruct(ksae: KSAE) -> Edit:
    """Replace h by the k-SAE's reconstruction: what Table 4 measures."""

    def edit(h: Tensor, _step: Step) -> Tensor:
        return vectors_to_map(ksae(map_to_vectors(h).float()), h.shape).to(h.dtype)

    return _keyed(edit, "reconstruct", ksae=ksae.fingerprint())


def only(edit: Edit, steps: Sequence[int]) -> Edit:
    """The edit at the given sampling steps only (0 is the noisiest)."""
    chosen = frozenset(steps)
    return _keyed(lambda h, step: edit(h, step) if step.index in chosen else None, "only", edit=edit.parts, steps=sorted(chosen))


def compose(*edits: Edit) -> Edit:
    """One edit after the other; the identity where all are."""

    def combined(h: Tensor, step: Step) -> Tensor | None:
        current = h
        for edit in edits:
            new = edit(current, step)
            current = current if new is None else new
        return None if current is h else current

    return _keyed(combined, "compose", edits=[e.parts for e in edits])


def per_image(edits: Mapping[int, Edit], classes: Tensor) -> Edit:
    """Give every image the edit of its class: `classes` (n,) for all n images of a run; a class without an edit stays."""

    def edit(h: Tensor, step: Step) -> Tensor | None:
        mine = classes[step.rows].to(h.device)
        out = None
        for c, method in edits.items():
            rows = (mine == c).nonzero().flatten()
            new = method(h[rows], step) if len(rows) else None
            if new is not None:
                out = h.clone() if out is None else out
                out[rows] = new
        return out

    return _keyed(edit, "per_image", edits={c: e.parts for c, e in edits.items()}, classes=classes)


def draw_classes(n: int, target: Sequence[float], seed: int) -> Tensor:
    """Which class each of n images shall have: independent draws from the target distribution, (n,) int64."""
    weights = torch.tensor(target, dtype=torch.float64)
    if (weights < 0).any() or abs(weights.sum().item() - 1) > 1e-6:
        raise ValueError(f"target must be a distribution that sums to 1, got {list(target)}")
    return torch.multinomial(weights, n, replacement=True, generator=torch.Generator().manual_seed(seed))


def random_features(features: Tensor, density: Tensor, seed: int, exclude: Tensor | None = None) -> Tensor:
    """The negative control: as many latents, each drawn among the 20 with the nearest density to its counterpart's."""
    generator = torch.Generator().manual_seed(seed)
    taken = set(features.tolist()) | set([] if exclude is None else exclude.tolist())
    chosen = []
    for j in features.tolist():
        near = (density - density[j]).abs().argsort().tolist()
        near = [i for i in near if i not in taken][:20]
        pick = near[int(torch.randint(len(near), (1,), generator=generator))]
        taken.add(pick)
        chosen.append(pick)
    return torch.tensor(chosen)
