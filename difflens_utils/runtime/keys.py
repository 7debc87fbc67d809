"""The keys of stored results. A key hashes everything that determines a result.

A key is made from the arguments of the function that computes the result, from the code of its
module and of the modules that this one imports, and from the versions of the numerical libraries.
Nobody lists by hand what a result depends on. An argument that cannot be described raises
TypeError. A stage that reads a part of its subject without declaring it in `reads` raises
RuntimeError.

>>> import torch
>>> from difflens_utils.runtime import keys
>>> keys.digest(torch.zeros(2)) == keys.digest(torch.zeros(2))
True
>>> keys.digest(torch.zeros(2)) == keys.digest(torch.zeros(1, 2))
False
>>> keys.digest({1, 2})
Traceback (most recent call last):
    ...
TypeError: {1, 2} cannot be part of a key: give its set a method fingerprint()
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

Parameters = dict[str, Any]  # what `of` returns: plain values, as JSON holds them

# The parts of a subject that a stage may read, beside what generates images.
JUDGES = ("labeller", "scorer", "clip", "second_clip")
PARTS = ("texts", "prompts", *JUDGES, "data")
# Modules that keep, check, name and describe: they compute no figure. Dotted, from the package.
CARRIERS = set(
    "pages.descriptions pages.results runtime.arrays runtime.artifacts runtime.errors "
    "runtime.integrity runtime.keys runtime.names runtime.shards runtime.tally runtime.workers "
    "subjects.paper subjects.real.weights".split()
)
LIBRARIES = "torch diffusers transformers tokenizers peft numpy scipy scikit-learn pillow".split()
LONG = 160  # characters of a description that a hash replaces in a manifest
# Entries of configurations that say who wrote a file, and where.
TYPE_CHECKING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
UNSAID = {"_name_or_path", "_diffusers_version", "transformers_version", "_commit_hash"}


def of(
    function: Callable[..., Any], arguments: Mapping[str, Any], reads: Sequence[str] = ()
) -> Parameters:
    """Returns everything that determines the result of `function(**arguments)`.

    A subject among them counts with what generates its images, and with the parts of it that the
    function `reads`, among PARTS. Raises TypeError for an argument that cannot be described, and
    RuntimeError for a seed that must not be asked for (`allowing`).
    """
    module = sys.modules[function.__module__]
    entries = {name: described(value, reads) for name, value in arguments.items()}
    _check_seeds(entries)
    return {
        "function": f"{module.__name__.rpartition('.')[2]}.{function.__qualname__}",
        "arguments": entries,
        "reads": list(reads),
        "code": code(module),
        "libraries": dict(_libraries()),
    }


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def key_of(parameters: Any) -> str:
    """Returns 16 hex digits that identify plain values.

    The order of names counts, because columns are stacked in it. Raises TypeError for a value that
    is not plain (`digest` makes it plain).
    """
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()[:16]


def bound(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the arguments of a call by name, defaults included."""
    call = inspect.signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def described(value: Any, reads: Sequence[str]) -> Any:
    """Returns the entry of an argument in a key.

    The entry is the `identity` of a subject, the fields of a dataclass, and the `digest` of any
    other value. Raises TypeError for a value without a digest.
    """
    if (identity := getattr(value, "identity", None)) is not None:  # of a subject
        return {name: _short(digest(part)) for name, part in identity(reads).items()}
    if (compared := _compared(value)) is not None:
        return {name: described(part, reads) for name, part in compared.items()}
    return _short(digest(value))


def _short(value: Any) -> Any:
    """A plain value, or 16 hex digits for a long one: people read manifests."""
    return value if len(json.dumps(value)) < LONG else key_of(value)


def _compared(value: Any) -> dict[str, Any] | None:
    """Returns the fields that are compared between dataclasses. None if it has a fingerprint.

    A field with `compare=False` changes no value, and is in no key.
    """
    if not is_dataclass(value) or isinstance(value, type) or hasattr(value, "fingerprint"):
        return None
    return {field.name: getattr(value, field.name) for field in fields(value) if field.compare}


# ------------------------------------------------------------------------------------------- values


def digest(value: Any) -> Any:
    """Returns a plain value that identifies another value.

    It is a hash of the bytes of an array or a network, and the `fingerprint()` of an object. Raises
    TypeError for an object without one. Described by its address, or by nothing, it would share its
    key with other objects.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if isinstance(value, slice):
        return ["slice", value.start, value.stop, value.step]
    if isinstance(value, np.generic):
        return digest(value.item())
    if isinstance(value, Tensor | np.ndarray):
        return _of_array(value)
    if isinstance(value, Mapping):
        return {str(name): digest(part) for name, part in value.items()}
    if (fingerprint := getattr(value, "fingerprint", None)) is not None:
        return fingerprint()
    if isinstance(value, list | tuple | range):
        return [digest(part) for part in value]
    if isinstance(value, nn.Module):
        return _of_network(value)
    if (compared := _compared(value)) is not None:
        return digest(compared)
    if (parts := getattr(value, "parts", None)) is not None:  # of an edit
        return digest(parts)
    raise TypeError(
        f"{value!r} cannot be part of a key: give its {type(value).__name__} a method fingerprint()"
    )


def _of_array(value: Tensor | np.ndarray) -> str:
    if isinstance(value, np.ndarray):
        value = torch.as_tensor(np.ascontiguousarray(value))
    tensor = value.detach().cpu().contiguous()
    hashed = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:16]


def state_of(tensors: Iterable[Tensor]) -> list[tuple[int, int]]:
    """Returns a value that differs once a tensor has been replaced or changed in place."""
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
    """Returns the settings of a model or a scheduler as plain values.

    The author of the settings and the precision of the model are left out.
    """
    config: Any = getattr(part, "config", None)
    plain = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    kept: dict[str, Any] = json.loads(json.dumps(plain, default=str), object_pairs_hook=_settings)
    return kept


def _settings(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    left_out = UNSAID | {"dtype", "torch_dtype"}
    kept = {k: v for k, v in pairs if k not in left_out and not k.startswith("_")}
    return dict(sorted(kept.items()))


# --------------------------------------------------------------------------------------------- code


# The code as it was loaded: a file that is edited meanwhile is not what computes.
_SOURCES = {path: path.read_text() for path in Path(__file__).parents[1].rglob("*.py")}


def _source(path: Path) -> str:
    return _SOURCES.get(path) or path.read_text()


def _tree(source: str) -> ast.Module:
    """A syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = None
    return tree


def code(module: ModuleType) -> str:
    """Returns a hash of the code of a module, without comments and docstrings.

    It covers the modules of the same package that the module imports, directly or not.
    """
    return _code(Path(inspect.getfile(module)))


def code_of(value: object) -> str:
    """Returns `code` of the module of an object's class, or a hash of a notebook's class."""
    module = sys.modules[type(value).__module__]
    if getattr(module, "__file__", None):
        return code(module)
    return hashlib.sha256(inspect.getsource(type(value)).encode()).hexdigest()[:12]


@cache
def _code(path: Path) -> str:
    hashed = hashlib.sha256()
    for file in sorted(_needed(path)):
        hashed.update(_dumped(_source(file)))
    return hashed.hexdigest()[:12]


@cache
def _dumped(source: str) -> bytes:
    """The syntax tree of a file, whose code many modules have in common."""
    return ast.dump(_tree(source)).encode()


def _needed(path: Path) -> set[Path]:
    """The file and all that it imports from its package, directly or not, but for the CARRIERS."""
    needed: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in needed:
            needed.add(file)
            waiting += [other for other in imports(file) if dotted(other) not in CARRIERS]
    return needed


def package_of(path: Path) -> Path:
    """The outermost package that a file is in; of a file outside of packages its folder."""
    folder = path.parent
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
    return folder


def dotted(path: Path) -> str:
    """The name of a file's module from its package: `worlds.base`, or `worlds` of its __init__."""
    names = path.relative_to(package_of(path)).with_suffix("").parts
    return ".".join(name for name in names if name != "__init__")


@cache
def imports(path: Path) -> frozenset[Path]:
    """The files of its own package that a file imports when it runs.

    A folder stands for its __init__.py, unless only modules in it are imported.
    """
    package = package_of(path)
    found: set[Path | None] = set()
    for node in _running(_tree(_source(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, *inner = alias.name.split(".")
                found.add(_file(package.joinpath(*inner)) if first == package.name else None)
        elif isinstance(node, ast.ImportFrom):
            inner = node.module.split(".") if node.module else []
            if node.level:
                base = path.parents[node.level - 1].joinpath(*inner)
            elif inner[0] == package.name:
                base = package.joinpath(*inner[1:])
            else:
                continue
            found |= {_file(base / alias.name) or _file(base) for alias in node.names}
    return frozenset(file for file in found if file is not None)


def _file(place: Path) -> Path | None:
    """The file of a module, or of a package."""
    for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if file.exists():
            return file
    return None


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    yield node
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.If) and ast.unparse(node.test) in TYPE_CHECKING:
        children = list(node.orelse)
    for child in children:
        yield from _running(child)


# ------------------------------------------------------------------------------------------ reading


class _Allowed(NamedTuple):
    """Who reads a subject, which parts they may read, and what is wrong with the others."""

    who: str
    parts: frozenset[str]
    otherwise: str
    refused: list[str]  # what was said of the others that were read
    seeds: Container[int] = ()  # what they may not ask for, from the store neither


_allowed: ContextVar[_Allowed | None] = ContextVar("allowed", default=None)
_UNDECLARED = "which is not in its key: declare it in `reads`"


@contextmanager
def making(parameters: Mapping[str, Any]) -> Iterator[None]:
    """Within the block, `reading` allows only the parts that the key of a result declares."""
    key = parameters.get("of", parameters)  # a block has the key of the whole
    declares = "reads" in key
    allowed = (
        _Allowed(key["function"], frozenset(key["reads"]), _UNDECLARED, []) if declares else None
    )
    with _only(allowed):
        yield


@contextmanager
def allowing(
    who: str, parts: Iterable[str], otherwise: str, seeds: Container[int] = ()
) -> Iterator[None]:
    """Within the block, `reading` allows `who` only some parts; `otherwise` ends its error.

    No result of these `seeds` is given out, even if the store has it. Whoever catches the error
    gets it again at the end of the block.
    """
    allowed = _Allowed(who, frozenset(parts), otherwise, [], seeds)
    with _only(allowed):
        yield
    if allowed.refused:
        raise RuntimeError(allowed.refused[0])


@contextmanager
def _only(allowed: _Allowed | None) -> Iterator[None]:
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def readable(part: str) -> bool:
    """Whether a part of a subject may be read: not while a result is made whose key lacks it."""
    now = _allowed.get()
    return now is None or part in now.parts


def reading(part: str) -> None:
    """Checks that a part of a subject may be read. Every access to a part calls it.

    Raises RuntimeError while a result is made whose key does not declare the part.
    """
    now = _allowed.get()
    if now is not None and not readable(part):
        now.refused.append(f"{now.who} reads the subject's {part}, {now.otherwise}")
        raise RuntimeError(now.refused[-1])


def _check_seeds(arguments: Mapping[str, Any]) -> None:
    """Raises RuntimeError for a seed among the arguments of a result that `allowing` forbids."""
    now = _allowed.get()
    if now is None:
        return
    for seed in _seeds(arguments):
        if seed in now.seeds:
            now.refused.append(f"{now.who} asks for seed {seed}, which is reserved")
            raise RuntimeError(now.refused[-1])


def _seeds(entries: Mapping[str, Any]) -> Iterator[int]:
    for name, value in entries.items():
        if name == "seed" and isinstance(value, int):
            yield value
        if isinstance(value, Mapping):
            yield from _seeds(value)


# -------------------------------------------------------------------------------------------- files


def in_order(value: Any) -> Any:
    """Returns plain values with all names sorted, for JSON, where their order means nothing."""
    return json.loads(json.dumps(value, sort_keys=True))


def file_fingerprint(path: Path) -> str:
    """The first 16 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def of_file(path: Path) -> str:
    """Returns 16 hex digits that identify a file: JSON by its content, others by their bytes."""
    if path.suffix == ".json":
        with suppress(ValueError):
            content = json.loads(path.read_bytes())
            if isinstance(content, dict):
                said = {name: value for name, value in content.items() if name not in UNSAID}
                return key_of(in_order(said))
    return file_fingerprint(path)


def of_files(paths: Sequence[Path]) -> str:
    """Returns 16 hex digits that identify files, their names and their order.

    The folders that they lie in do not count.
    """
    listed = "\n".join(f"{path.name} {of_file(path)}" for path in paths)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
