"""What a stored result is filed under: everything that determines it.

A key is made by one mechanism, from the arguments of the function that computes the result, the
code of its module and of what that imports, and the versions of the libraries that multiply the
matrices. Nobody lists by hand what a result depends on: an argument that cannot be described is an
error, and so is a stage that reads a part of its subject which it has not declared (`reads`).
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from .weights import file_fingerprint

Parameters = dict[str, Any]  # what `of` returns: plain values, as JSON holds them

PARTS = (
    "texts",
    "prompts",
    "labeller",
    "scorer",
    "clip",
    "data",
)  # of a subject, beside what generates
# They keep, check, name and describe; they compute no figure.
CARRIERS = {
    "artifacts",
    "descriptions",
    "errors",
    "intervals",
    "keys",
    "names",
    "paper",
    "shards",
    "weights",
    "workers",
}
LONG = 160  # characters
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "tokenizers",
    "peft",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
)

# The code as it was loaded: a file that is edited meanwhile is not what computes.
_SOURCES = {path: path.read_text() for path in Path(__file__).parent.glob("*.py")}


def _source(path: Path) -> str:
    return _SOURCES.get(path) or path.read_text()


def of(
    function: Callable[..., Any], arguments: Mapping[str, Any], reads: Sequence[str] = ()
) -> Parameters:
    """Everything that determines what `function` makes of `arguments`.

    A subject among them counts with what generates its images, and with the parts of it that the
    function `reads`, among PARTS. Raises TypeError for an argument that cannot be described.
    """
    arguments = {name: described(value, reads) for name, value in arguments.items()}
    module = sys.modules[function.__module__]
    return {
        "function": f"{module.__name__.rpartition('.')[2]}.{function.__qualname__}",
        "arguments": arguments,
        "reads": list(reads),
        "code": code(module),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def key_of(parameters: Any) -> str:
    """16 hex digits that stand for plain values, and for their order: columns are stacked in that
    of names.

    Raises TypeError for what is no plain value (`digest` makes it one).
    """
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:16]


def bound(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call by name, defaults included."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def described(value: Any, reads: Sequence[str]) -> Any:
    """What stands for an argument in a key: a subject by its `identity`, others by `digest`.

    Raises TypeError for what has none.
    """
    identity = getattr(value, "identity", None)  # of a subject
    if identity is None:
        return short(digest(value))
    return {part: short(digest(own)) for part, own in identity(reads).items()}


def short(value: Any) -> Any:
    """A plain value, or 16 hex digits that stand for it where it is long: a manifest is there to be
    read.
    """
    return value if len(json.dumps(value)) < LONG else key_of(value)


# ------------------------------------------------------------------------------------------- values


def digest(value: Any) -> Any:
    """A plain value that stands for another: arrays and networks by the hash of their bytes,
    objects by their `fingerprint()`.

    Raises TypeError for what has none: a value that is described by its address, or by nothing,
    would share its key with others.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value)
    if isinstance(value, slice):
        return ["slice", value.start, value.stop, value.step]
    if isinstance(value, np.generic):
        return digest(value.item())
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_array(value)
    if isinstance(value, Mapping):
        return {str(name): digest(part) for name, part in value.items()}
    if (fingerprint := getattr(value, "fingerprint", None)) is not None:
        return fingerprint()
    if isinstance(value, (list, tuple, range)):
        return [digest(part) for part in value]
    if isinstance(value, nn.Module):
        return _of_network(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: digest(getattr(value, field.name)) for field in fields(value)}
    if (parts := getattr(value, "parts", None)) is not None:  # of an edit
        return digest(parts)
    raise TypeError(
        f"{value!r} cannot be part of a key: give its {type(value).__name__} a method fingerprint()"
    )


def _of_array(value: Tensor | np.ndarray) -> str:
    value = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
    tensor = torch.as_tensor(value).detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    hashed.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()[:16]


def state_of(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """What changes when one of the tensors is replaced by another, or changed in place."""
    return [(id(tensor), tensor._version) for tensor in tensors]


_networks: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def _of_network(network: nn.Module) -> str:
    """A network: its weights, its configuration, and the classes that it tells apart."""
    state = state_of([*network.parameters(), *network.buffers()])
    if network not in _networks or _networks[network][0] != state:
        hashed = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            hashed.update(f"{name} {_of_array(tensor)}\n".encode())
        about = [digest(getattr(network, "factors", None)), configuration(network)]
        hashed.update(json.dumps(about).encode())
        _networks[network] = state, hashed.hexdigest()[:16]
    return _networks[network][1]


def configuration(part: object) -> dict[str, Any]:
    """The settings of a model or a scheduler, as plain values, without who wrote them and in which precision it runs."""
    config = getattr(part, "config", None)
    config = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    plain = in_order(json.loads(json.dumps(config, default=str)))
    return _without(plain, UNSAID | {"dtype", "torch_dtype"})


def _without(value: Any, names: set[str]) -> Any:
    """Plain values without the entries of these names, or of names that begin with an underscore, at any depth."""
    if isinstance(value, dict):
        return {
            k: _without(v, names)
            for k, v in value.items()
            if k not in names and not k.startswith("_")
        }
    return [_without(v, names) for v in value] if isinstance(value, list) else value


# --------------------------------------------------------------------------------------------- code


def code(module: ModuleType) -> str:
    """A hash of a module's code and of the modules beside it that it imports, without comments and
    docstrings.
    """
    return _code(Path(module.__file__))


def code_of(value: object) -> str:
    """`code` of the module that an object's class is from; of a class of a notebook its own source."""
    module = sys.modules[type(value).__module__]
    if getattr(module, "__file__", None):
        return code(module)
    return hashlib.sha256(inspect.getsource(type(value)).encode()).hexdigest()[:12]


@cache
def _code(path: Path) -> str:
    hashed = hashlib.sha256()
    for file in sorted(_imported(path, set())):
        hashed.update(ast.dump(_bare(file)).encode())
    return hashed.hexdigest()[:12]


def _imported(path: Path, found: set[Path]) -> set[Path]:
    """The file itself and all that it imports from its folder, directly or not, but for the
    CARRIERS.
    """
    found.add(path)
    for name in _imports(path):
        beside = path.with_name(f"{name}.py")
        if beside not in found and name not in CARRIERS and beside.exists():
            _imported(beside, found)
    return found


@cache
def _imports(path: Path) -> frozenset[str]:
    """The modules of its own package that a file imports when it runs."""
    package, names = path.parent.name, set()
    for node in _running(ast.parse(_source(path))):
        if isinstance(node, ast.ImportFrom) and (
            node.level == 1 or (node.module or "").split(".")[0] == package
        ):
            inner = node.module if node.level else (node.module or "").partition(".")[2]
            names |= {inner.split(".")[0]} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith(f"{package}.")
            }
    return frozenset(names)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    for child in ast.iter_child_nodes(node):
        yield from _running(child)


def _bare(path: Path) -> ast.AST:
    """A file's syntax tree without docstrings."""
    tree = ast.parse(_source(path))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = None
    return tree


# ------------------------------------------------------------------------------------------ reading


_declared: ContextVar[tuple[str, frozenset[str]] | None] = ContextVar("declared", default=None)


@contextmanager
def making(parameters: Mapping[str, Any]) -> Iterator[None]:
    """While a result is made, `reading` allows what its key declares and nothing else."""
    own = parameters.get("of", parameters)  # a part of a result has its key
    declared = frozenset(own["reads"]) if "reads" in own else None
    token = _declared.set(None if declared is None else (own["function"], declared))
    try:
        yield
    finally:
        _declared.reset(token)


def reading(part: str) -> None:
    """Called wherever a part of a subject is read. Raises RuntimeError if a stage is being made
    whose key lacks it.
    """
    if (now := _declared.get()) is not None and part not in now[1]:
        raise RuntimeError(
            f"{now[0]} reads the subject's {part}, which is not in its key: declare it in `reads`"
        )


# -------------------------------------------------------------------------------------------- files


UNSAID = {
    "_name_or_path",
    "_diffusers_version",
    "transformers_version",
    "_commit_hash",
}  # who wrote a file, and where


def in_order(value: Any) -> Any:
    """Plain values whose names are sorted throughout: for what JSON says, where their order means
    nothing.
    """
    return json.loads(json.dumps(value, sort_keys=True))


def of_file(path: Path) -> str:
    """16 hex digits that stand for a file: JSON by what it says, others by their bytes."""
    if path.suffix == ".json":
        with suppress(ValueError):
            said = json.loads(path.read_bytes())
            if isinstance(said, dict):
                return key_of(
                    in_order({name: part for name, part in said.items() if name not in UNSAID})
                )
    return file_fingerprint(path)


def of_files(paths: Sequence[Path]) -> str:
    """16 hex digits that stand for files, their names and their order; not for the folders they lie
    in.
    """
    listed = "\n".join(f"{path.name} {of_file(path)}" for path in paths)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
