"""Every method and every control as the same kind of thing: `edit(h, step) -> h`, or None where nothing changes.

A method is a function here that returns such an edit, and one row in a table. An edit that asks for no change returns
None, and the sampler then does exactly what it does without an edit: beta = 1 is the identity, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, wraps

import torch
from torch import Tensor, nn

from . import gpu, keys
from .errors import distribution, one_of, positive, within
from .ksae import KSAE, Neurons, map_to_vectors, vectors_to_map
from .probes import Heads
from .sampling import Edit, Step

MODES = ("scale", "add")


def keyed(factory: Callable[..., Edit]) -> Callable[..., Edit]:
    """Let the edits that a function makes carry what they do, its arguments, so that images can be filed under them.

    Tensors among them are copied: whoever changes them later does not change the edit. `whole` tells
    that an edit moves the images of a batch together, so that they depend on its size.
    """

    @wraps(factory)
    def make(*args: object, **kwargs: object) -> Edit:
        copied = [a.clone() if isinstance(a, Tensor) else a for a in args]
        named = {name: a.clone() if isinstance(a, Tensor) else a for name, a in kwargs.items()}
        edit = factory(*copied, **named)
        arguments = keys.bound(factory, copied, named)
        edit.parts = keys.digest({"edit": factory.__name__, **arguments})
        edit.whole = factory.__name__ == "guide" or any(map(_moves_a_batch, arguments.values()))
        return edit

    return make


def _moves_a_batch(argument: object) -> bool:
    """Whether an argument is an edit that moves a batch as one, or holds such edits."""
    held = (
        argument.values()
        if isinstance(argument, Mapping)
        else argument
        if isinstance(argument, tuple)
        else [argument]
    )
    return any(getattr(edit, "whole", False) is True for edit in held)


@keyed
def steer(
    ksae: KSAE | Neurons,
    features: Tensor,
    beta: float,
    mode: str = "scale",
    unit: Tensor | None = None,
) -> Edit:
    """Turn features up or down and write back only the difference (Eq. 7 and 9).

    `features` (N,) latent indices, or channels where `ksae` is `Neurons` (Act@L and Attr@L of Table 3). "scale": s_j <- beta s_j;
    beta = 1 is the identity. "add": s_j <- s_j + beta u_j, a latent not below 0; beta = 0 is the identity. `unit` u is (N,), or
    (T, P, N) for a unit per timestep and position. Scaling cannot wake a latent that did not fire; adding can. Raises ValueError for an unknown mode, no features, or adding without a unit.
    """
    one_of("mode", mode, MODES)
    if len(features) == 0:
        raise ValueError("features must name at least one latent")
    if mode == "add" and unit is None:
        raise ValueError("unit must be given for mode add")
    identity = beta == (1 if mode == "scale" else 0)

    @cache
    def there(device: torch.device) -> tuple[KSAE | Neurons, Tensor, Tensor, Tensor | None]:
        model, chosen = gpu.on(ksae, device), features.to(device)
        return (
            model,
            chosen,
            model.directions[chosen],
            None if unit is None else unit.to(device),
        )  # directions (N, d)

    def edit(h: Tensor, step: Step) -> Tensor | None:
        if identity:
            return None
        model, chosen, directions, units = there(h.device)
        s = model.latents(map_to_vectors(h).float())[..., chosen]  # (B, P, N)
        if mode == "scale":
            change = (beta - 1) * s
        else:
            u = units[step.index] if units.ndim == 3 else units
            change = (s + beta * u.to(s)).clamp_min(ksae.floor) - s
        return (h.float() + vectors_to_map(change @ directions, h.shape)).to(h.dtype)

    return edit


@keyed
def push(direction: Tensor, beta: float) -> Edit:
    """Add beta times a dense direction to h: (T, *h), one per timestep; beta = 0 is the identity.

    With a mean difference or an h-classifier's weights it is the classical control, with a learned one (`latent_editing`) Asyrp's.
    """

    there = cache(direction.to)

    def edit(h: Tensor, step: Step) -> Tensor | None:
        return None if beta == 0 else (h.float() + beta * there(h.device)[step.index]).to(h.dtype)

    return edit


@keyed
def guide(heads: Heads, target: Sequence[float], strength: float, temperature: float = 8.0) -> Edit:
    """H-Distribution (Parihar et al., 2024): move the whole batch so that the h-classifier's mean answer nears `target`, for each prompt.

    With p_i = softmax(logits_i / temperature), their mean p over the B images of a batch and the loss
    chi^2 = sum_c (p_c - r_c)^2 / r_c, each image takes a step h_i <- h_i - strength B d chi^2 / d h_i. The head is linear, so the
    gradient is closed and the network takes no backward pass. strength = 0 is the identity. Raises ValueError for a target
    that is no distribution or has a class with share 0.
    """
    share = torch.from_numpy(distribution("target", target)).float()
    if (share <= 0).any():
        raise ValueError(f"target must give every class a share above 0, got {list(target)}")

    @cache
    def there(device: torch.device) -> tuple[Heads, Tensor]:
        return Heads(heads.weight.to(device), heads.bias.to(device)), share.to(device)

    def edit(h: Tensor, step: Step) -> Tensor | None:
        if strength == 0:
            return None
        here, r = there(h.device)
        p = (here.logits(h.float(), step.index) / temperature).softmax(-1)  # (B, classes)
        mean = torch.empty_like(p)
        for rows in (
            [slice(None)]
            if step.prompt is None
            else [
                gpu.send((step.prompt == g).nonzero().flatten(), h.device)
                for g in step.prompt.unique()
            ]
        ):
            mean[rows] = p[rows].mean(0)
        pull = 2 * (mean - r) / r  # (B, classes): d chi^2 / d mean p
        slope = p * (pull - (p * pull).sum(1, keepdim=True)) / temperature  # B d chi^2 / d logits
        change = slope @ here.weight[step.index].flatten(1)
        return (h.float() - strength * change.reshape(h.shape)).to(h.dtype)

    return edit


@keyed
def adapt(change: Mapping[str, Tensor], strength: float) -> Edit:
    """Finetuning as an edit: h stays, and `strength` times a change {weight: change} is added to the network's weights meanwhile.

    strength = 0 is the identity. Only for a whole batch, with the symmetric step.
    """

    @contextmanager
    def around(network: nn.Module) -> Iterator[None]:
        own = dict(network.named_parameters())
        kept = {name: own[name].data for name in change}
        for name, delta in change.items():
            own[name].data = kept[name] + (strength * delta).to(kept[name])
        try:
            yield
        finally:
            for name, weight in kept.items():
                own[name].data = weight

    def edit(_h: Tensor, _step: Step) -> None:
        return None

    edit.around = around
    return edit


@keyed
def reconstruct(ksae: KSAE) -> Edit:
    """Replace h by the k-SAE's reconstruction: what Table 4 measures."""

    def edit(h: Tensor, _step: Step) -> Tensor:
        return vectors_to_map(gpu.on(ksae, h.device)(map_to_vectors(h).float()), h.shape).to(
            h.dtype
        )

    return edit


def _of_h(*edits: Edit) -> None:
    """Raise ValueError for an edit of the network itself: it is for a whole batch and every step, or for none."""
    if any(hasattr(edit, "around") for edit in edits):
        raise ValueError("an edit of the network itself (adapt) cannot be combined with others")


@keyed
def only(edit: Edit, steps: Sequence[int]) -> Edit:
    """The edit at the given sampling steps only (0 is the noisiest)."""
    _of_h(edit)
    chosen = frozenset(steps)
    return lambda h, step: edit(h, step) if step.index in chosen else None


@keyed
def compose(*edits: Edit) -> Edit:
    """One edit after the other; the identity where all are. Each may work in place."""
    _of_h(*edits)

    def combined(h: Tensor, step: Step) -> Tensor | None:
        current = h
        for edit in edits:
            new = edit(current.clone(), step)
            current = current if new is None else new
        return None if current is h else current

    return combined


@keyed
def per_image(edits: Mapping[int, Edit], classes: Tensor) -> Edit:
    """Give every image the edit of its class: `classes` (n,) for all n images of a run; a class without an edit stays."""
    _of_h(*edits.values())

    def edit(h: Tensor, step: Step) -> Tensor | None:
        mine, out = classes[step.rows], None
        for c, method in edits.items():
            chosen = (
                (mine == c).nonzero().flatten()
            )  # on the host: a GPU would have to be waited for
            rows = gpu.send(chosen, h.device)
            new = method(h[rows], step.at(chosen)) if len(rows) else None
            if new is not None:
                out = h.clone() if out is None else out
                out[rows] = new
        return out

    edit.rows = (
        torch.isin(classes, torch.tensor(list(edits), dtype=torch.int64)).nonzero().flatten()
    )  # all other images stay as they are
    return edit


def draw_classes(n: int, target: Sequence[float], seed: int, group: int = 1) -> Tensor:
    """Which class each of n images shall have, (n,) int64: in random order, and as often as the target distribution says, to within one.

    Independent draws would add noise that nobody asked for. `group` gives so many images in a row the same class, as the released
    code does with its batches of 16. Raises ValueError for a target that is no distribution, or group <= 0.
    """
    positive("group", group)
    generator = torch.Generator().manual_seed(seed)
    draws = -(-n // group)
    points = (
        torch.randperm(draws, generator=generator) + torch.rand(1, generator=generator)
    ) / draws  # one in each of `draws` equal parts
    edges = torch.from_numpy(distribution("target", target)).cumsum(0)[:-1]
    return torch.searchsorted(edges, points.double(), right=True).repeat_interleave(group)[:n]


def with_share(classes: int, target: int, share: float) -> list[float]:
    """A distribution (classes,) in which one class has a share and the others have the rest in equal parts. Raises ValueError for a share outside 0..1."""
    within("share", share, 0, 1)
    return [share if c == target else (1 - share) / (classes - 1) for c in range(classes)]


def random_features(
    features: Tensor, density: Tensor, seed: int, exclude: Tensor | None = None
) -> Tensor:
    """The negative control: as many latents, each drawn among the 20 with the nearest density to its counterpart's.

    Raises ValueError where no latents are left to draw.
    """
    generator = torch.Generator().manual_seed(seed)
    taken = set(features.tolist()) | set([] if exclude is None else exclude.tolist())
    chosen = []
    for j in features.tolist():
        near = (density - density[j]).abs().argsort().tolist()
        near = [i for i in near if i not in taken][:20]
        if not near:
            raise ValueError(
                f"latents must be more than {len(density)}: none is left as a random control"
            )
        pick = near[int(torch.randint(len(near), (1,), generator=generator))]
        taken.add(pick)
        chosen.append(pick)
    return torch.tensor(chosen, dtype=torch.int64)
