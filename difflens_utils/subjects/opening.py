"""Checks what the folder of a pipeline declares, before its weights are read.

Every function raises ValueError, in one line that names the file, for a file that is missing and
for a pipeline that cannot be studied.

>>> from pathlib import Path
>>> from difflens_utils.subjects import opening
>>> opening.shape({"in_channels": 4, "sample_size": 64})
(4, 64, 64)
>>> opening.read_json(Path("nowhere/model_index.json"))
Traceback (most recent call last):
    ...
ValueError: nowhere/model_index.json is missing
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import line
from . import schedulers

Config = Mapping[str, Any]

# Settings by which networks read more than x_t, t and a text or a class, and their values where
# they do not.
PLAIN: dict[str, dict[str, str | None]] = {
    "UNet2DModel": {"class_embed_type": None},
    "UNet2DConditionModel": {
        "class_embed_type": None,
        "num_class_embeds": None,
        "encoder_hid_dim_type": None,
        "time_cond_proj_dim": None,
    },
}
# The same, of addition_embed_type.
ADDED: dict[str, str | None] = {
    "StableDiffusionPipeline": None,
    "StableDiffusionXLPipeline": "text_time",
}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that holds a dictionary."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__} instead of entries by name")
    return content


def index(folder: Path, kinds: Collection[str]) -> dict[str, Any]:
    """Reads the model_index.json of a folder, whose `_class_name` must be one of `kinds`."""
    path = folder / "model_index.json"
    content = read_json(path)
    if str(content.get("_class_name")) not in kinds:  # a list names code that comes with it
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
    kind = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if kind not in (None, *kinds):
        raise ValueError(f"{path} describes a {kind} instead of a {' or '.join(kinds)}")
    module = transformers if library == "transformers" else diffusers
    found: type = getattr(module, name)
    return found


def _entry(folder: Path, index: Config, part: str) -> tuple[str, str]:
    """Library and class of a part, by the pipeline's index."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:
        raise ValueError(f"{folder / 'model_index.json'} names no {part}")
    return str(entry[0]), str(entry[1])


def scheduler(folder: Path, index: Config) -> tuple[str, Config]:
    """The class of the scheduler that the model comes with, and its settings."""
    _, name = _entry(folder, index, "scheduler")
    schedulers.known(name, folder / "model_index.json")
    return name, read_json(place(folder, "scheduler") / "scheduler_config.json")


# --------------------------------------------------------------------------------------------------
# The network that predicts


def network(
    folder: Path, index: Config, parts: Sequence[str], side: int | None = None, packed: int = 1
) -> Config:
    """Returns the settings of a pipeline's network, and checks that the study can run it.

    The network must read x_t, t, and at most a text or a class. `parts` are the network, and, of a
    latent diffusion model, its autoencoder. `side` is the width of x_t where the settings do not
    tell it, and `packed` how many channels of the input belong to one of x_t.
    """
    paths = [place(folder, part) / "config.json" for part in parts[:2]]
    config = {"sample_size": side} | read_json(paths[0])
    if packed > 1:
        config |= {"in_channels": config.get("in_channels", 0) // packed, "out_channels": None}
    autoencoder = read_json(paths[1]) if len(paths) > 1 else None
    _check_plain(paths[0], index["_class_name"], config)
    if autoencoder is None:
        _check_channels(paths[0], config, "images", [1, 3])
    else:
        latent = autoencoder.get("latent_channels", 4)
        _check_channels(paths[0], config, "latents of its autoencoder", [latent])
    if _side(config) is None:
        raise ValueError(
            f"{paths[0]}: sample_size is {config.get('sample_size')}; only squares can be studied: "
            "set the width of x_t, one number"
        )
    if autoencoder is not None:
        _check_autoencoder(paths[1], autoencoder)
    return config


def _check_plain(path: Path, pipeline: str, config: Config) -> None:
    """Checks that a network reads nothing that the study does not have."""
    plain: dict[str, str | None] = dict(PLAIN.get(str(config.get("_class_name")), {}))
    if pipeline in ADDED:
        plain["addition_embed_type"] = ADDED[pipeline]
    for setting, value in plain.items():
        if config.get(setting) != value:
            raise ValueError(
                f"{path}: {setting} is {config.get(setting)!r}, and the study has "
                f"nothing to give such a network; only {value!r} can be studied"
            )


def _check_channels(path: Path, config: Config, what: str, channels: list[int]) -> None:
    """Checks that x_t has the channels of what is decoded from it, and the output as many."""
    ins, outs = config.get("in_channels"), config.get("out_channels")
    if ins not in channels:
        raise ValueError(
            f"{path}: in_channels is {ins}, and the {what} have "
            f"{' or '.join(map(str, channels))} channels"
        )
    if outs not in (ins, 2 * ins, None):
        raise ValueError(
            f"{path}: out_channels is {outs}; only {ins} can be studied, "
            f"or {2 * ins} with learned variances"
        )


def _side(config: Config) -> int | None:
    """The width and height of x_t, or None where they differ or are not given."""
    size = config.get("sample_size")
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        return int(size[0])
    return size if isinstance(size, int) else None


def shape(config: Config) -> tuple[int, int, int]:
    """The shape of x_t, (C, H, W), by the settings that `network` has checked."""
    side = _side(config) or 0
    return config["in_channels"], side, side


def _check_autoencoder(path: Path, config: Config) -> None:
    """Checks that latents are scaled by one number alone."""
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
    """Returns {name: number} of a class-conditional network's classes, empty without names.

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
