"""What the folder of a pipeline declares, checked before its weights are read.

Every function raises ValueError, in one line that names the file, for what is missing or cannot be
studied.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import loading, schedulers

Config = Mapping[str, Any]

# Settings by which networks read more than x_t, t and a text or a class, and their values where
# they do not.
PLAIN = {
    "UNet2DModel": {"class_embed_type": None},
    "UNet2DConditionModel": {
        "class_embed_type": None,
        "num_class_embeds": None,
        "encoder_hid_dim_type": None,
        "time_cond_proj_dim": None,
    },
}
# The same, of addition_embed_type.
ADDED = {"StableDiffusionPipeline": None, "StableDiffusionXLPipeline": "text_time"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a dictionary."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__} instead of entries by name")
    return content


def index(folder: Path, kinds: Collection[str]) -> dict[str, Any]:
    """The model_index.json of a folder; its `_class_name` is one of `kinds`."""
    path = folder / "model_index.json"
    content = read_json(path)
    if content.get("_class_name") not in kinds:
        raise ValueError(
            f"{path}: {content.get('_class_name')} is none of the pipelines that can "
            f"be studied: {', '.join(kinds)}"
        )
    return content


def place(folder: Path, part: str) -> Path:
    """Where a part lies: in a folder of its own, or, in old pipelines, flat beside the others."""
    flat = (folder / "config.json").is_file() and not (folder / part).is_dir()
    return folder if flat else folder / part


def declared(folder: Path, index: Config, part: str, kinds: Sequence[str]) -> type:
    """The class of a part, one of `kinds`, by the pipeline's index and the part's config.json."""
    import diffusers
    import transformers

    library, name = _entry(folder, index, part)
    if name not in kinds:
        raise ValueError(
            f"{folder / 'model_index.json'}: {part} is a {name} instead of a {' or '.join(kinds)}"
        )
    path = place(folder, part) / "config.json"
    config = read_json(path)
    said = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if said not in (None, *kinds):
        raise ValueError(f"{path} describes a {said} instead of a {' or '.join(kinds)}")
    return getattr(transformers if library == "transformers" else diffusers, name)


def _entry(folder: Path, index: Config, part: str) -> tuple[str, str]:
    """Library and class of a part, by the pipeline's index."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"{folder / 'model_index.json'} names no {part}")
    return str(entry[0]), str(entry[1])


def scheduler(folder: Path, index: Config) -> object:
    """The scheduler that the model comes with, whose settings DDIM steps can honour."""
    import diffusers

    _, name = _entry(folder, index, "scheduler")
    path = place(folder, "scheduler") / "scheduler_config.json"
    schedulers.known(name, folder / "model_index.json")
    config = read_json(path)
    try:
        with loading.quiet():
            made = getattr(diffusers, name).from_config(config)
    except Exception as error:  # of any kind: the user needs the file's name and one line
        raise ValueError(f"{path} describes no {name}: {_line(error)}") from None
    schedulers.check(made, path)
    return made


def pipeline(folder: Path, index: Config, **parts: object) -> object:
    """The pipeline of loaded parts; what else it has, such as tokenizers, from disk."""
    import diffusers

    try:
        with loading.quiet():
            made = getattr(diffusers, index["_class_name"]).from_pretrained(
                folder, local_files_only=True, **parts
            )
    except Exception as error:  # of any kind: the user needs the file's name and one line
        raise ValueError(
            f"files in {folder} are missing, damaged or foreign: {_line(error)}"
        ) from None
    for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")):
        if tokenizer in made.components:
            loading.check_tokenizer(
                folder / tokenizer,
                made.components[tokenizer],
                made.components[encoder].config.vocab_size,
            )
    made.set_progress_bar_config(disable=True)
    return made


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --------------------------------------------------------------------------------------------------
# The network that predicts


def check_network(path: Path, pipeline: str, config: Config, latent: Config | None = None) -> None:
    """Check that a network reads what the study gives it: x_t, t, and a text or a class.

    `config` is that of the network, from the file `path`, and `latent` that of the autoencoder.
    """
    plain = dict(PLAIN.get(str(config.get("_class_name")), {}))
    if pipeline in ADDED:
        plain["addition_embed_type"] = ADDED[pipeline]
    for setting, value in plain.items():
        if config.get(setting) != value:
            raise ValueError(
                f"{path}: {setting} is {config.get(setting)!r}, and the study has "
                f"nothing to give such a network; only {value!r} can be studied"
            )
    ins, outs = config.get("in_channels"), config.get("out_channels")
    wanted = (1, 3) if latent is None else (latent.get("latent_channels", 4),)
    if ins not in wanted:
        what = "images" if latent is None else "latents of its autoencoder"
        raise ValueError(
            f"{path}: in_channels is {ins}, and the {what} have "
            f"{' or '.join(map(str, wanted))} channels"
        )
    if outs not in (ins, 2 * ins, None):
        raise ValueError(
            f"{path}: out_channels is {outs}; only {ins} can be studied, "
            f"or {2 * ins} with learned variances"
        )
    size(path, config)


def size(path: Path, config: Config) -> int:
    """The width and height of x_t."""
    said = config.get("sample_size")
    if isinstance(said, list | tuple) and len(said) == 2 and said[0] == said[1]:
        return int(said[0])
    if not isinstance(said, int):
        raise ValueError(
            f"{path}: sample_size is {said}; only squares can be studied: "
            "set the width of x_t, one number"
        )
    return said


def check_autoencoder(path: Path, config: Config) -> None:
    """Check that latents are scaled by one number alone."""
    if not isinstance(config.get("scaling_factor", 1.0), int | float):
        raise ValueError(
            f"{path}: scaling_factor must be a number, got {config['scaling_factor']!r}"
        )
    if config.get("latents_mean") is not None or config.get("latents_std") is not None:
        raise ValueError(
            f"{path}: latents_mean and latents_std are given, and the study scales "
            "latents by scaling_factor alone"
        )


def labels(folder: Path, index: Config, classes: int) -> dict[str, int]:
    """The names of a class-conditional network's classes: {name: number}; none if none are given.

    `id2label` of model_index.json is {"0": "name, other name"}, as of a DiT.
    """
    path = folder / "model_index.json"
    given = index.get("id2label") or {}
    found: dict[str, int] = {}
    try:
        for number, names in given.items():
            found |= {name.strip(): int(number) for name in str(names).split(",")}
    except (AttributeError, ValueError, TypeError):
        raise ValueError(
            f'{path}: id2label must name classes by their numbers, such as {{"0": "cat"}}'
        ) from None
    if outside := [number for number in found.values() if not 0 <= number < classes]:
        raise ValueError(
            f"{path}: id2label names class {outside[0]}, and the network has "
            f"{classes}, from 0 to {classes - 1}"
        )
    return found
