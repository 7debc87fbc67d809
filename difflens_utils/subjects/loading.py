"""Loads pipelines and their parts from disk strictly.

All tensors must be there, of the right shapes, and finite. diffusers and transformers would fill
missing tensors with random numbers and continue.

>>> import tempfile
>>> from pathlib import Path
>>> from difflens_utils.subjects import loading
>>> with tempfile.TemporaryDirectory() as folder:
...     Path(folder, "model.fp16.safetensors").touch()
...     loading.files(Path(folder)).variant
'fp16'
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ..runtime.errors import line
from .real import checkpoints

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# diffusion_pytorch_model.safetensors, model.fp16-00001-of-00002.safetensors, pytorch_model.bin ...
_WEIGHTS = re.compile(
    r"(diffusion_pytorch_|pytorch_)?model(\.(?P<variant>\w+))?(-\d+-of-\d+)?"
    r"(\.(?P<late>\w+))?\.(safetensors|bin)"
)


class Files(NamedTuple):
    """Which files hold the weights of a part."""

    paths: tuple[Path, ...]  # several where the weights are sharded
    variant: str | None  # such as fp16, in diffusion_pytorch_model.fp16.safetensors

    def holding(self) -> Path:
        """The path that an error about a tensor names: the file, or the folder of the shards."""
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent


def files(place: Path) -> Files:
    """The files with the weights in a folder: the plain ones, or the only variant that is there.

    Raises ValueError, in one line, if there are none, or several variants and no plain one.
    """
    found: dict[str | None, list[Path]] = {}
    for path in sorted(place.glob("*model*")):
        if match := _WEIGHTS.fullmatch(path.name):
            found.setdefault(match["variant"] or match["late"], []).append(path)
    if not found:
        raise ValueError(f"{place} holds no weights: neither *.safetensors nor *.bin")
    if None not in found and len(found) > 1:
        variants = ", ".join(map(str, found))
        raise ValueError(f"{place} holds several variants of the weights, {variants}; leave one")
    variant = None if None in found else next(iter(found))
    safe = [path for path in found[variant] if path.suffix == ".safetensors"]
    return Files(tuple(safe or found[variant]), variant)


def part(kind: type[Any], place: Path, dtype: torch.dtype) -> nn.Module:
    """A model of diffusers or transformers from its folder, in `dtype`, on the CPU.

    Raises ValueError, in one line that names the file and the tensor, for files that are missing
    or damaged, and for tensors that are missing, unknown, of another shape or not finite.
    """
    found = files(place)
    model: nn.Module
    try:
        with quiet():
            model, report = kind.from_pretrained(
                place,
                dtype=dtype,
                variant=found.variant,
                local_files_only=True,
                use_safetensors=found.paths[0].suffix == ".safetensors",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # of any kind: the user needs the file's name and one line
        file = found.paths[0].name if len(found.paths) == 1 else "a shard of its weights"
        raise ValueError(
            f"{place}: config.json or {file} is missing, damaged or foreign: {line(error)}"
        ) from None
    _check(found.holding(), model, report)
    return model


def _check(path: Path, model: nn.Module, report: Mapping[str, Sequence[Any]]) -> None:
    """Raises ValueError unless the file holds every tensor of the model, and no other."""
    state = model.state_dict()
    unfilled = {name for name, value in state.items() if value.is_meta}
    wrong = {name: (tuple(theirs), tuple(ours)) for name, theirs, ours in report["mismatched_keys"]}
    computed = {name for name, _ in model.named_buffers()}  # older versions saved these, too
    unknown = set(report["unexpected_keys"]) - computed
    checkpoints.complete(
        path,
        lacking=(unfilled | set(report["missing_keys"])) - wrong.keys(),
        unknown={name for name in unknown if not name.endswith("position_ids")},
        shapes=wrong,
    )
    checkpoints.finite(path, state)


def scheduler(path: Path, name: str, config: Mapping[str, Any]) -> Any:
    """A scheduler of diffusers by the name of its class, with the settings that `path` holds."""
    import diffusers

    try:
        with quiet():
            return getattr(diffusers, name).from_config(config)
    except Exception as error:  # of any kind: the user needs the file's name and one line
        raise ValueError(f"{path} describes no {name}: {line(error)}") from None


def pipeline(folder: Path, kind: str, **parts: Any) -> Any:
    """The pipeline of loaded parts. Its other parts, such as tokenizers, are read from disk."""
    import diffusers

    try:
        with quiet():
            made = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, **parts)
    except Exception as error:  # of any kind: the user needs the file's name and one line
        reason = line(error)
        raise ValueError(f"files in {folder} are missing, damaged or foreign: {reason}") from None
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if tokenizer in made.components:
            vocabulary = getattr(made, encoder).config.get_text_config().vocab_size
            check_tokenizer(folder / tokenizer, getattr(made, tokenizer), vocabulary)
    made.set_progress_bar_config(disable=True)
    return made


def check_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> None:
    """Raises ValueError for a tokenizer that knows no words, or more of them than the network.

    Without its vocabulary, transformers builds a tokenizer to which all texts are the same.
    """
    known = tokenizer.get_vocab()
    if not known.keys() - set(tokenizer.all_special_tokens):
        raise ValueError(
            f"{path} holds no vocabulary: no tokenizer.json, or vocab.json and merges.txt"
        )
    if max(known.values()) >= vocabulary:
        raise ValueError(
            f"{path} knows {max(known.values()) + 1} words, and the network {vocabulary}; "
            "they do not belong together"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the libraries' reports of filled tensors within the block. They are errors here."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    levels = of_diffusers.get_verbosity(), of_transformers.get_verbosity()
    of_diffusers.set_verbosity(logging.CRITICAL)
    of_transformers.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        of_diffusers.set_verbosity(levels[0])
        of_transformers.set_verbosity(levels[1])
