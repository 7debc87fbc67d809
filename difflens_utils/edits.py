"""Every kind of edit, as functions that make an `Edit`: a change of h at every step.

A method of the study is a function here, and one row of a table. An edit that asks for no change
returns None, and the sampler then does exactly what it does without an edit: beta = 1 (scale) and
beta = 0 (add) are the identity, bit for bit.

>>> import torch
>>> from difflens_utils import edits
>>> from difflens_utils.ksae import Neurons
>>> from difflens_utils.sampling import Step
>>> h = torch.tensor([1.0, 5.0]).reshape(1, 2, 1, 1)  # one image, two channels, one position
>>> step = Step(index=0, timestep=900, rows=torch.arange(1))
>>> edits.steer(Neurons(2), torch.tensor([0]), beta=3.0)(h, step).flatten().tolist()
[3.0, 5.0]
>>> edits.steer(Neurons(2), torch.tensor([0]), beta=1.0)(h, step) is None
True
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, wraps
from typing import ParamSpec

import torch
from torch import Tensor, nn

from .ksae import KSAE, Dictionary, map_to_vectors, vectors_to_map
from .probes import Heads
from .runtime import gpu, keys
from .runtime.errors import distribution, one_of, positive
from .sampling import Edit, Step

MODES = ("scale", "add")
Arguments = ParamSpec("Arguments")


def keyed(factory: Callable[Arguments, Edit]) -> Callable[Arguments, Edit]:
    """Gives the edits that a function makes their key: the function's name and its arguments.

    Tensors among the arguments are copied: whoever changes them later does not change the edit.
    """

    @wraps(factory)
    def make(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Edit:
        copied = [_copied(value) for value in args]
        named = {name: _copied(value) for name, value in kwargs.items()}
        edit = factory(*copied, **named)  # type: ignore[arg-type]
        arguments = keys.bound(factory, copied, named)
        key = keys.digest({"edit": factory.__name__, **arguments})
        moves = edit.moves_batches or any(map(_moves_batches, arguments.values()))
        return replace(edit, key=key, moves_batches=moves)

    return make


def _copied(value: object) -> object:
    return value.clone() if isinstance(value, Tensor) else value


def _moves_batches(argument: object) -> bool:
    """Whether an argument is, or holds, an edit that depends on the batch."""
    if isinstance(argument, Mapping):
        return any(map(_moves_batches, argument.values()))
    if isinstance(argument, tuple):
        return any(map(_moves_batches, argument))
    return isinstance(argument, Edit) and argument.moves_batches


@keyed
def identity() -> Edit:
    """The edit that changes nothing."""
    return Edit(lambda h, step: None)


@keyed
def steer(
    dictionary: Dictionary,
    features: Tensor,
    beta: float,
    mode: str = "scale",
    unit: Tensor | None = None,
) -> Edit:
    """Turns features up or down and writes back only the difference (Eq. 7 and 9).

    `features` (N,) are latents of a k-SAE, or channels of h if the dictionary is `Neurons` (Act@L
    and Attr@L of Table 3). Mode "scale": s_j <- beta s_j; beta = 1 is the identity. Mode "add":
    s_j <- s_j + beta u_j, never below the dictionary's floor; beta = 0 is the identity. `unit` u is
    (N,), or (T, P, N) for a unit per timestep and position. Scaling cannot wake a latent that did
    not fire; adding can. Raises ValueError for an unknown mode, or for no features or no unit.
    """
    one_of("mode", mode, MODES)
    if len(features) == 0:
        raise ValueError("features must name at least one latent")
    if mode == "add" and unit is None:
        raise ValueError("unit must be given for mode add")
    if beta == (1 if mode == "scale" else 0):
        return identity()

    @cache
    def on(device: torch.device) -> tuple[Dictionary, Tensor, Tensor, Tensor | None]:
        model, chosen = dictionary.on_device(device), features.to(device)
        units = None if unit is None else unit.to(device)
        return model, chosen, model.directions[chosen], units  # directions (N, d)

    def apply(h: Tensor, step: Step) -> Tensor:
        model, chosen, directions, units = on(h.device)
        s = model.latents(map_to_vectors(h).float())[..., chosen]  # (B, P, N)
        if units is None or mode == "scale":
            change = (beta - 1) * s
        else:
            u = units[step.index] if units.ndim == 3 else units
            change = (s + beta * u.to(s)).clamp_min(model.floor) - s
        return (h.float() + vectors_to_map(change @ directions, h.shape)).to(h.dtype)

    return Edit(apply)


@keyed
def approach(
    dictionary: Dictionary,
    features: Tensor,
    beta: float,
    level: Tensor,
    up: Tensor,
    gains: Tensor | None = None,
) -> Edit:
    """Moves features the share beta of the way to a level, and none that is beyond it already.

    `features` (N,) go to `level` (T, P, N) from below where `up` (T, P, N) is true, and from above
    elsewhere: s_j <- s_j + beta max(0, tau_j - s_j), or the mirror image. beta = 0 is the identity.
    `gains` (T, N) multiply beta, per step and feature. An image that has enough of the class stays
    as it is, whatever beta is. Raises ValueError for no features.
    """
    if len(features) == 0:
        raise ValueError("features must name at least one latent")
    if beta == 0:
        return identity()

    @cache
    def on(device: torch.device) -> tuple[Dictionary, Tensor, Tensor, Tensor, Tensor]:
        model = dictionary.on_device(device)
        each = torch.ones(len(level), 1) if gains is None else gains
        return model, features.to(device), level.to(device), up.to(device), each.to(device)

    def apply(h: Tensor, step: Step) -> Tensor:
        model, chosen, levels, rising, each = on(h.device)
        s = model.latents(map_to_vectors(h).float())[..., chosen]  # (B, P, N)
        missing = levels[step.index].to(s) - s
        wanted = torch.where(rising[step.index], missing.clamp_min(0), missing.clamp_max(0))
        moved = (s + beta * each[step.index].to(s) * wanted).clamp_min(model.floor)
        change = (moved - s) @ model.directions[chosen]
        return (h.float() + vectors_to_map(change, h.shape)).to(h.dtype)

    return Edit(apply)


@keyed
def push(direction: Tensor, beta: float) -> Edit:
    """Adds beta times a dense direction (T, *h), one per timestep, to h; beta = 0 is the identity.

    With a mean difference or an h-classifier's weights it is the classical control, with a learned
    direction (`latent_editing`) Asyrp's edit.
    """
    if beta == 0:
        return identity()
    on = cache(direction.to)

    def apply(h: Tensor, step: Step) -> Tensor:
        return (h.float() + beta * on(h.device)[step.index]).to(h.dtype)

    return Edit(apply)


@keyed
def guide(heads: Heads, target: Sequence[float], strength: float, temperature: float = 8.0) -> Edit:
    """H-Distribution (Parihar et al., 2024): moves a batch's distribution towards `target`.

    Per prompt, with p_i = softmax(logits_i / temperature), their mean p over the batch and the loss
    chi^2 = sum_c (p_c - r_c)^2 / r_c, each image takes a step h_i <- h_i - strength B d chi^2 / d
    h_i. The head is linear, so the gradient is closed and the network takes no backward pass.
    strength = 0 is the identity. Raises ValueError for a target that is no distribution or has a
    class with share 0.
    """
    shares = torch.from_numpy(distribution("target", target)).float()
    if (shares <= 0).any():
        raise ValueError(f"target must give every class a share above 0, got {list(target)}")

    @cache
    def on(device: torch.device) -> tuple[Heads, Tensor]:
        return Heads(heads.weight.to(device), heads.bias.to(device)), shares.to(device)

    def apply(h: Tensor, step: Step) -> Tensor | None:
        if strength == 0:
            return None
        here, r = on(h.device)
        p = (here.logits(h.float(), step.index) / temperature).softmax(-1)  # (B, classes)
        mean = _prompt_means(p, step.prompt)
        pull = 2 * (mean - r) / r  # (B, classes): d chi^2 / d mean p
        slope = p * (pull - (p * pull).sum(1, keepdim=True)) / temperature  # B d chi^2 / d logits
        change = slope @ here.weight[step.index].flatten(1)
        return (h.float() - strength * change.reshape(h.shape)).to(h.dtype)

    return Edit(apply, moves_batches=True)


def _prompt_means(p: Tensor, prompt: Tensor | None) -> Tensor:
    """For each image the mean of p (B, classes) over the images with its prompt: (B, classes)."""
    if prompt is None:
        return p.mean(0).expand_as(p)
    mean = torch.empty_like(p)
    for g in torch.unique(prompt):
        rows = gpu.to_device((prompt == g).nonzero().flatten(), p.device)
        mean[rows] = p[rows].mean(0)
    return mean


@keyed
def adapt(change: Mapping[str, Tensor], strength: float) -> Edit:
    """Finetuning as an edit: `strength` times {weight: change} is added to the network's weights.

    h stays; strength = 0 is the identity. It is for a whole batch, with the symmetric step.
    """

    @contextmanager
    def around(network: nn.Module) -> Iterator[None]:
        parameters = dict(network.named_parameters())
        kept = {name: parameters[name].data for name in change}
        for name, delta in change.items():
            parameters[name].data = kept[name] + (strength * delta).to(kept[name])
        try:
            yield
        finally:
            for name, weight in kept.items():
                parameters[name].data = weight

    return Edit(lambda h, step: None, around=around)


@keyed
def reconstruct(ksae: KSAE) -> Edit:
    """Replaces h by the k-SAE's reconstruction (Table 4)."""

    def apply(h: Tensor, _step: Step) -> Tensor:
        vectors = ksae.on_device(h.device)(map_to_vectors(h).float())
        return vectors_to_map(vectors, h.shape).to(h.dtype)

    return Edit(apply)


def _check_of_h(*edits: Edit) -> None:
    """Raises ValueError for an edit of the network: it holds for a whole batch and every step."""
    if any(edit.changes_network for edit in edits):
        raise ValueError("an edit of the network itself (adapt) cannot be combined with others")


@keyed
def only(edit: Edit, steps: Sequence[int]) -> Edit:
    """The edit at the given sampling steps only (0 is the noisiest)."""
    _check_of_h(edit)
    chosen = frozenset(steps)
    return Edit(lambda h, step: edit(h, step) if step.index in chosen else None, images=edit.images)


@keyed
def compose(*edits: Edit) -> Edit:
    """One edit after the other; the identity if all of them are. Each may work in place."""
    _check_of_h(*edits)

    def apply(h: Tensor, step: Step) -> Tensor | None:
        current = h
        for edit in edits:
            new = edit(current.clone(), step)
            current = current if new is None else new
        return None if current is h else current

    sizes = {edit.images for edit in edits if edit.images is not None}
    if len(sizes) > 1:
        raise ValueError(f"edits are for runs of different numbers of images: {sorted(sizes)}")
    return Edit(apply, images=next(iter(sizes), None))


@keyed
def per_image(edits: Mapping[int, Edit], classes: Tensor) -> Edit:
    """Gives every image the edit of its class: `classes` (n,) for all n images of a run.

    Images of a class without an edit stay as they are.
    """
    _check_of_h(*edits.values())

    def apply(h: Tensor, step: Step) -> Tensor | None:
        batch = classes[step.rows]
        out = None
        for c, edit in edits.items():
            chosen = (batch == c).nonzero().flatten()  # on the host, so that no one waits for a GPU
            rows = gpu.to_device(chosen, h.device)
            new = edit(h[rows], step.at(chosen)) if len(rows) else None
            if new is not None:
                out = h.clone() if out is None else out
                out[rows] = new
        return out

    edited = torch.isin(classes, torch.tensor(list(edits), dtype=torch.int64))
    return Edit(apply, rows=edited.nonzero().flatten(), images=len(classes))


def draw_classes(n: int, target: Sequence[float], seed: int, group: int = 1) -> Tensor:
    """The class that each of n images shall have: (n,) int64, in random order.

    Classes occur as often as the target distribution says, to within one: independent draws would
    add noise. `group` gives so many images in a row the same class, as the released code does with
    its batches of 16. Raises ValueError for a target that is no distribution, or group <= 0.
    """
    positive("group", group)
    generator = torch.Generator().manual_seed(seed)
    draws = -(-n // group)
    order = torch.randperm(draws, generator=generator)
    points = (order + torch.rand(1, generator=generator)) / draws  # one in each of `draws` parts
    edges = torch.from_numpy(distribution("target", target)).cumsum(0)[:-1]
    return torch.searchsorted(edges, points.double(), right=True).repeat_interleave(group)[:n]
