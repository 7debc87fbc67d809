"""Record and edit the output of any named module, without touching the network's code.

Every context removes its hooks, also after an error, and counts calls from 0 again, so two
generations see the same indices. `None` from an edit means unchanged. What an edit or a recording
gets is a copy, so that an edit may work in place: the network may go on with the memory behind it,
and the asymmetric step needs it unedited. A module that was never called is an error: the name was
wrong for the path that the network took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import one_of

HookEdit = Callable[
    [Tensor, int], Tensor | None
]  # (output, index of the call) -> new output, or None: unchanged


class _Stop(Exception):
    """Raised by a hook to leave the forward pass early."""


def find(model: nn.Module, name: str) -> nn.Module:
    """The module called `name` in `model.named_modules()`; ValueError with the closest names if there is none."""
    modules = dict(model.named_modules())
    modules.pop("", None)
    one_of("module", name, modules)
    return modules[name]


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _replaced(output: Any, new: Tensor | None, name: str) -> Any:
    """What the hook returns: the output with its tensor replaced, or None to leave it."""
    if new is None:
        return None
    _same_kind(_tensor(output), new, name)
    return (new, *output[1:]) if isinstance(output, tuple) else new


def _same_kind(old: Tensor, new: Tensor, name: str) -> None:
    """Raise ValueError unless an edit has kept shape and dtype."""
    if new.shape != old.shape or new.dtype != old.dtype:
        expected = f"{tuple(old.shape)} {old.dtype}"
        got = f"{tuple(new.shape)} {new.dtype}"
        raise ValueError(f"the edit of {name} must keep {expected}, got {got}")


WHOLE = (slice(None),)  # parts: all of the batch that the network sees


def _changed(
    output: Tensor, function: HookEdit, call: int, parts: Sequence[slice], name: str
) -> Tensor | None:
    """The output with each part of its batch passed through `function`; None where that changes nothing."""
    if parts == WHOLE:
        return function(output.clone(), call)
    whole = None
    for part in parts:
        new = function(output[part].clone(), call)
        if new is not None:
            _same_kind(output[part], new, name)  # an assignment would broadcast and convert
            whole = output.clone() if whole is None else whole
            whole[part] = new
    return whole


@contextmanager
def edit(
    model: nn.Module, name: str, function: HookEdit, parts: Sequence[slice] = WHOLE
) -> Iterator[None]:
    """Pass the module's output through `function(output, call)` while the context is open.

    `parts` of the batch are passed one by one, and the rest is left alone: with classifier-free guidance the network sees
    every image twice.
    """
    calls = 0

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        new = _changed(_tensor(output), function, calls - 1, parts, name)
        return _replaced(output, new, name)

    handle = find(model, name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise RuntimeError(f"module {name} was never called, so nothing was edited")


@contextmanager
def record(model: nn.Module, name: str, stop: bool = False) -> Iterator[list[Tensor]]:
    """Collect the module's outputs, detached, one per call; `stop` leaves the forward pass right behind the module."""
    outputs: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(_tensor(output).detach().clone())
        if stop:
            raise _Stop

    handle = find(model, name).register_forward_hook(hook)
    try:
        yield outputs
    except _Stop:
        pass
    finally:
        handle.remove()
    if not outputs:
        raise RuntimeError(f"module {name} was never called, so nothing was recorded")


def shapes(model: nn.Module, run: Callable[[], object]) -> dict[str, tuple[int, ...]]:
    """The shape of the output of every module that `run` calls and whose output can be edited: {name: shape}, in the network's order."""
    seen: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(out := _tensor(output), Tensor) and out.dim() > 1:
                seen.setdefault(name, tuple(out.shape))

        return hook

    named = {name: module for name, module in model.named_modules() if name}
    handles = [module.register_forward_hook(keep(name)) for name, module in named.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in named if name in seen}


@dataclass
class Fork:
    """State of an open fork: `plain` is the batch size before the module if this pass was forked, else None."""

    plain: int | None = None
    rows: Tensor | None = None  # which rows of the plain batch the edited ones are versions of
    calls: int = 0

    def split(self, output: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """Epsilon of some images without (B, ...) and with the edits (copies B, ...); the same tensor twice if none was made."""
        return (output, output) if self.plain is None else (output[:images], output[images:])


def behind(model: nn.Module, name: str) -> list[nn.Module]:
    """What runs behind the module, where that is a chain of blocks: a U-Net's bottleneck, or a block of a DiT; else nothing.

    A DiT's last layers read the conditioning once more, from its first block.
    """
    if hasattr(model, "up_blocks") and name == "mid_block":
        return list(model.up_blocks)
    blocks = dict(getattr(model, "transformer_blocks", nn.Module()).named_children())
    number = name.removeprefix("transformer_blocks.")
    if hasattr(model, "proj_out_1") and number in blocks:
        return [*list(blocks.values())[int(number) + 1 :], blocks["0"].norm1.emb]
    return []


def forkable(model: nn.Module, name: str) -> bool:
    """Whether `fork` can run what lies behind the module alone."""
    return bool(behind(model, name))


@contextmanager
def fork(
    model: nn.Module, name: str, function: HookEdit, parts: Sequence[slice] = WHOLE
) -> Iterator[Fork]:
    """Run only what lies behind the module again: the network returns unedited and edited outputs in one batch.

    `function` returns one edited version of h (B, ...) or several, (copies B, ...), of each of the
    `parts` of the batch. Behind the module the batch is [plain; edited parts]. Skip connections and
    embeddings were computed once; each later block finds those of the edited rows repeated. Where
    the edit returns None for all parts nothing is repeated, so an identity edit leaves every bit as
    it was; where it does for some, these go on as they are.
    """
    if not forkable(model, name):
        raise ValueError(
            f"module {name} cannot be forked: only mid_block of a U-Net and the transformer_blocks of a DiT can"
        )
    state = Fork()

    def repeat(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == state.plain:
            return torch.cat([value, value[state.rows]])
        if isinstance(value, tuple):
            return tuple(repeat(v) for v in value)
        return value

    def start(_module: nn.Module, _args: Any) -> None:
        state.plain = None

    def split(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        state.calls += 1
        returned = [function(output[part].clone(), state.calls - 1) for part in parts]
        if all(n is None for n in returned):
            return None
        pairs = zip(returned, parts, strict=True)
        new = [output[part] if n is None else n for n, part in pairs]
        rows = [torch.arange(len(output), device=output.device)[part] for part in parts]
        state.plain = len(output)
        state.rows = torch.cat([r.repeat(len(n) // len(r)) for r, n in zip(rows, new, strict=True)])
        edited = torch.cat(new)
        _replaced(output[state.rows], edited, name)  # for its check of shape and dtype
        return torch.cat([output, edited])

    def widen(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if state.plain is None:
            return None
        return tuple(repeat(a) for a in args), {k: repeat(v) for k, v in kwargs.items()}

    handles = [
        model.register_forward_pre_hook(start),
        find(model, name).register_forward_hook(split),
    ]
    handles += [
        block.register_forward_pre_hook(widen, with_kwargs=True) for block in behind(model, name)
    ]
    try:
        yield state
    finally:
        for handle in handles:
            handle.remove()
    if not state.calls:
        raise RuntimeError(f"module {name} was never called, so nothing was edited")
