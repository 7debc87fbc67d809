"""Record and edit the output of any named module, without touching the network's code.

Every context removes its hooks, also after an error, and counts calls from 0 again, so two
generations see the same indices. `None` from an edit means unchanged. What an edit or a recording
gets is a copy, so that an edit may work in place: the network may go on with the memory behind it,
and the asymmetric step needs it unedited. A module that was never called is an error: the name was
wrong for the path that the network took.

>>> import torch
>>> from difflens_utils.sampling import hooks
>>> network = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Flatten())
>>> x = torch.tensor([[-1.0, 2.0]])
>>> with hooks.record(network, "0") as outputs, hooks.edit(network, "0", lambda h, call: 10 * h):
...     network(x).tolist()
[[0.0, 20.0]]
>>> outputs[0].tolist(), network(x).tolist()
([[0.0, 2.0]], [[0.0, 2.0]])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime import placement
from ..runtime.errors import one_of

HookEdit = Callable[[Tensor, int], Tensor | None]
"""From a module's output and the number of the call to the new output, or None: unchanged."""


class _Stop(Exception):
    """Raised by a hook to leave the forward pass early."""


def find(model: nn.Module, name: str) -> nn.Module:
    """The module of this name; ValueError with the closest names if there is none."""
    modules = dict(model.named_modules())
    modules.pop("", None)
    one_of("module", name, modules)
    parts = name.split(".")
    for outer in (".".join(parts[:i]) for i in range(1, len(parts))):
        if placement.is_compiled(modules[outer]):
            raise ValueError(
                f"module {name} lies inside {outer}, which is compiled; open the model with "
                f"module={name}, and {outer} stays as it is"
            )
    module: nn.Module = modules[name]
    return module


# Blocks that return the tokens of the text and then those of the image, which are h.
JOINT = frozenset(
    """
    JointTransformerBlock FluxTransformerBlock FluxSingleTransformerBlock Flux2TransformerBlock
    Flux2SingleTransformerBlock QwenImageTransformerBlock AuraFlowJointTransformerBlock
    ChromaTransformerBlock BriaTransformerBlock BriaSingleTransformerBlock BriaFiboTransformerBlock
    LongCatImageTransformerBlock LongCatImageSingleTransformerBlock OvisImageTransformerBlock
    OvisImageSingleTransformerBlock
    """.split()
)


def _place(module: nn.Module) -> int:
    """Which of the tensors that a module returns is h."""
    return 1 if type(module).__name__ in JOINT else 0


def _tensor(module: nn.Module, output: Any) -> Tensor:
    tensor: Tensor = output[_place(module)] if isinstance(output, tuple) else output
    return tensor


def _replaced(module: nn.Module, output: Any, new: Tensor | None, name: str) -> Any:
    """What the hook returns: the output with its tensor replaced, or None to leave it."""
    if new is None:
        return None
    same_kind(_tensor(module, output), new, name)
    if not isinstance(output, tuple):
        return new
    place = _place(module)
    return (*output[:place], new, *output[place + 1 :])


def same_kind(old: Tensor, new: Tensor, name: str) -> None:
    """Raises ValueError unless an edit has kept shape and dtype."""
    if new.shape != old.shape or new.dtype != old.dtype:
        expected = f"{tuple(old.shape)} {old.dtype}"
        got = f"{tuple(new.shape)} {new.dtype}"
        raise ValueError(f"the edit of {name} must keep {expected}, got {got}")


WHOLE = (slice(None),)  # parts: all of the batch that the network sees


def _changed(
    output: Tensor, function: HookEdit, call: int, parts: Sequence[slice], name: str
) -> Tensor | None:
    """The output with each part of its batch passed through `function`; None if unchanged."""
    if parts == WHOLE:
        return function(output.clone(), call)
    whole = None
    for part in parts:
        new = function(output[part].clone(), call)
        if new is not None:
            same_kind(output[part], new, name)  # an assignment would broadcast and convert
            whole = output.clone() if whole is None else whole
            whole[part] = new
    return whole


@contextmanager
def edit(
    model: nn.Module, name: str, function: HookEdit, parts: Sequence[slice] = WHOLE
) -> Iterator[None]:
    """Passes the module's output through `function(output, call)` while the context is open.

    `parts` of the batch are passed one by one, and the rest is left alone: with classifier-free
    guidance the network sees every image twice.
    """
    calls = 0

    def hook(module: nn.Module, _inputs: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        new = _changed(_tensor(module, output), function, calls - 1, parts, name)
        return _replaced(module, output, new, name)

    handle = find(model, name).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise RuntimeError(f"module {name} was never called, so nothing was edited")


@contextmanager
def record(model: nn.Module, name: str, stop: bool = False) -> Iterator[list[Tensor]]:
    """Collects the module's outputs, detached, one per call.

    `stop` leaves the forward pass right behind the module.
    """
    outputs: list[Tensor] = []

    def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(_tensor(module, output).detach().clone())
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
    """The output shapes of the modules that `run` calls and that can be edited: {name: shape}.

    They come in the network's order.
    """
    seen: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(out := _tensor(module, output), Tensor) and out.dim() > 1:
                seen.setdefault(name, tuple(out.shape))

        return hook

    named = {name: module for name, module in model.named_modules() if name}
    handles = [module.register_forward_hook(keep(name)) for name, module in named.items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled blocks call no hooks inside
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in named if name in seen}


JOINT_MODELS = ("SD3Transformer2DModel", "FluxTransformer2DModel")


def behind(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules that run behind a U-Net's bottleneck or a block of a transformer.

    None for other modules. A DiT's last layers read the conditioning once more, from its first
    block; those of Stable Diffusion 3 and Flux read it in `norm_out`.
    """
    up_blocks = getattr(model, "up_blocks", None)
    if isinstance(up_blocks, nn.ModuleList) and name == "mid_block":
        return list(up_blocks)
    if type(model).__name__ in JOINT_MODELS:
        lists = ("transformer_blocks", "single_transformer_blocks")
        every = [f"{part}.{i}" for part in lists for i in range(len(getattr(model, part, ())))]
        if name not in every:
            return []
        later = every[every.index(name) + 1 :]
        return [model.get_submodule(other) for other in (*later, "norm_out")]
    blocks = dict(getattr(model, "transformer_blocks", nn.Module()).named_children())
    number = name.removeprefix("transformer_blocks.")
    if hasattr(model, "proj_out_1") and number in blocks:
        return [*list(blocks.values())[int(number) + 1 :], blocks["0"].norm1.emb]
    return []


def forkable(model: nn.Module, name: str) -> bool:
    """Whether `fork` can run what lies behind the module alone."""
    return bool(behind(model, name))


POSITIONS = "image_rotary_emb"  # an argument that has a row per token, and none per image


class Fork:
    """The hooks of an open fork. `plain` is the batch before the module if this pass was forked."""

    def __init__(self, function: HookEdit, parts: Sequence[slice], name: str) -> None:
        self.function, self.parts, self.name = function, parts, name
        self.plain: int | None = None
        self.rows: Tensor | None = None  # of the plain batch, which the edited rows are versions of
        self.calls = 0

    def split(self, output: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """The network's answers without (B, ...) and with the edits (copies B, ...).

        They are the same tensor twice if nothing was edited.
        """
        return (output, output) if self.plain is None else (output[:images], output[images:])

    def start(self, _module: nn.Module, _args: Any) -> None:
        """Before the network."""
        self.plain = None

    def branch(self, module: nn.Module, _inputs: Any, whole: Any) -> Any:
        """Behind the module: the batch becomes [plain; edited parts]."""
        self.calls += 1
        call = self.calls - 1
        output = _tensor(module, whole)
        returned = [self.function(output[part].clone(), call) for part in self.parts]
        if all(new is None for new in returned):
            return None
        every = torch.arange(len(output), device=output.device)
        versions, rows = [], []
        for new, part in zip(returned, self.parts, strict=True):
            version = output[part] if new is None else new
            versions.append(version)
            rows.append(every[part].repeat(len(version) // len(output[part])))
        edited, self.rows = torch.cat(versions), torch.cat(rows)
        same_kind(output[self.rows], edited, self.name)
        self.plain = len(output)
        both = torch.cat([output, edited])
        if not isinstance(whole, tuple):
            return both
        return tuple(both if one is output else self._repeat(one) for one in whole)

    def widen(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Before each later block: skip connections and embeddings are repeated."""
        if self.plain is None:
            return None
        repeated = {
            name: value if name == POSITIONS else self._repeat(value)
            for name, value in kwargs.items()
        }
        return tuple(map(self._repeat, args)), repeated

    def _repeat(self, value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() and value.shape[0] == self.plain:
            return torch.cat([value, value[self.rows]])
        if isinstance(value, tuple):
            return tuple(map(self._repeat, value))
        return value


@contextmanager
def fork(
    model: nn.Module, name: str, function: HookEdit, parts: Sequence[slice] = WHOLE
) -> Iterator[Fork]:
    """Runs only what lies behind the module again: unedited and edited answers in one batch.

    `function` returns one edited version of h (B, ...) or several, (copies B, ...), of each of the
    `parts` of the batch. Behind the module the batch is [plain; edited parts]. Skip connections and
    embeddings were computed once; each later block finds those of the edited rows repeated. Where
    the edit returns None for all parts nothing is repeated, so an identity edit leaves every bit as
    it was; where it does for some, these go on as they are. Raises ValueError for a module that
    cannot be forked.
    """
    if not forkable(model, name):
        raise ValueError(
            f"module {name} cannot be forked: only mid_block of a U-Net and the "
            "transformer_blocks of a DiT, Stable Diffusion 3 or Flux can"
        )
    state = Fork(function, parts, name)
    handles = [
        model.register_forward_pre_hook(state.start),
        find(model, name).register_forward_hook(state.branch),
    ]
    for block in behind(model, name):
        handles.append(block.register_forward_pre_hook(state.widen, with_kwargs=True))
    try:
        yield state
    finally:
        for handle in handles:
            handle.remove()
    if not state.calls:
        raise RuntimeError(f"module {name} was never called, so nothing was edited")
