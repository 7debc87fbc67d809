"""Bad inputs: a line that says what is wrong, exit code 1, before anything is computed or kept."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

from drills.scene import Row, Scene

DRILL = "bad inputs"
NOTEBOOK = "00_bias"
PARTS = ("images", "evaluators", "clip", "scheduler", "unet")  # of the digits, in a folder
FILES = ("study.yml", "model_index.json")
SOON = 90  # seconds, on a busy machine, within which an error must be there


@dataclass(frozen=True)
class Case:
    """An input, and what has to be said of it."""

    of: str  # what kind of input it is
    name: str
    says: str  # a regular expression
    options: tuple[str, ...] = ()  # of workflow/execute.py, behind the notebook
    notebook: str = NOTEBOOK
    environment: dict[str, str] = field(default_factory=dict)
    make: tuple[str, ...] = ()  # of make, instead of a notebook
    spoil: Callable[[Path], None] | None = None  # of a folder with the digits


# --------------------------------------------------------------------------------------------------
# The table


def _parameter(name: str, value: str, says: str) -> Case:
    return Case("parameters", f"-p {name} {value}", says, ("-p", name, value))


def _named(name: str, says: str, *options: str) -> Case:
    return Case("names and paths", name, says, options)


ARGUMENTS = [
    _parameter("n_imagez", "64", "must be one of n_images"),
    _parameter("n_images", "0", "n_images must be"),
    _parameter("n_images", "-5", "n_images must be"),
    _parameter("n_images", "2.5", "n_images must be of type int"),
    _parameter("n_images", "many", "n_images must be of type int"),
    _parameter("n_images", "nan", "n_images must be"),
    _parameter("n_images", "[64]", "n_images must be of type int"),
    _parameter("n_images", "True", "n_images must be of type int"),
    _parameter("n_images", "__import__('os').getpid()", "n_images must be of type int"),
    _parameter("max_density", "1e400", "max_density must be finite"),
    _parameter("max_density", "-0.1", "max_density must be"),
    _parameter("steps", "0", "steps must be"),
    _parameter("steps", "2000", "steps must be"),
    _parameter("k", "0", "k must be"),
    _parameter("k", "100000", "k must be"),
    _parameter("latents", "-1", "latents must be"),
    _parameter("train_steps", "0", "train_steps must be"),
    _parameter("seed", "-1", "seed must be"),
    _parameter("seed", "first", "seed must be of type int"),
    _parameter("device", "cudaa", "device must be one of"),
    _parameter("module", "middle", "module must be one of"),
    _parameter("settings", "3", "settings must be of type dict"),
    _parameter("settings", "{'kk': 3}", "a name in settings must be one of k"),
    Case(
        "parameters",
        "a notebook that there is not",
        "notebook must be one of 00_bias",
        notebook="00_biass",
    ),
    _named("--profile huge", "profile must be one of", "--profile", "huge"),
    _named("--subject digitz", "subject must be one of digits", "--subject", "digitz"),
    _named("a folder that is not there", "there is no folder", "--subject", "./no where/ü\"'&"),
    _named("a folder without a pipeline", "has no model_index.json", "--subject", "../study/book"),
    _named("a file", "has no model_index.json", "--subject", "README.md"),
    _named("--subject ''", "subject", "--subject", ""),
    _named("--subject ..", "has no model_index.json", "--subject", ".."),
    _named("--worker 4/4", "worker", "--worker", "4/4"),
    _named("--worker one", "worker", "--worker", "one"),
]


def _environment(name: str, value: str, says: str) -> Case:
    return Case("environment", f"{name}={value}", says, environment={name: value})


def _make(says: str, *variables: str) -> Case:
    return Case("make", f"make book {' '.join(variables)}", says, make=("book", *variables))


SURROUNDINGS = [
    _environment("DIFFLENS_ARTIFACTS", "README.md", "README.md"),
    _environment("DIFFLENS_ARTIFACTS", "/proc/store", "/proc/store"),
    _environment("DIFFLENS_WORKER", "3/2", "worker"),
    _environment("DIFFLENS_PRECISION", "float8", "DIFFLENS_PRECISION must be one of float32"),
    _environment("DIFFLENS_RESULTS", "/proc/results", "/proc/results"),
    _make("PROFILE must be one of", "PROFILE=huge"),
    _make("subject must be one of digits", "SUBJECT=digitz"),
    _make("subject", "SUBJECT=,"),
    _make("subject must be one of digits", "SUBJECT=digits,digitz"),
    _make("CORES", "CORES=none"),
    _make("CORES", "CORES=0"),
    Case("make", "make submit METHOD=nowhere", "nowhere", make=("submit", "METHOD=nowhere")),
    Case("make", "make submit", "METHOD", make=("submit", "METHOD=")),
]


def _yaml(**entries: object) -> Callable[[Path], None]:
    """Other entries of study.yml; None removes one."""

    def spoil(folder: Path) -> None:
        path = folder / "study.yml"
        content = yaml.safe_load(path.read_text()) | entries
        kept = {name: value for name, value in content.items() if value is not None}
        path.write_text(yaml.safe_dump(kept))

    return spoil


def _text(name: str, text: str) -> Callable[[Path], None]:
    """Another text in a file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_text(text)

    return spoil


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _cut(name: str, share: float) -> Callable[[Path], None]:
    """The first part of a file alone."""

    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: math.floor(share * len(content))])

    return spoil


def _table(change: Callable[[list[list[str]]], object]) -> Callable[[Path], None]:
    """Another table of labels, changed in place."""

    def spoil(folder: Path) -> None:
        path = folder / "images/labels.csv"
        rows = list(csv.reader(path.read_text().splitlines()))
        change(rows)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)

    return spoil


def _weights(
    name: str, change: Callable[[dict[str, torch.Tensor]], object]
) -> Callable[[Path], None]:
    """Other weights, changed in place."""

    def spoil(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return spoil


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name in tensors if name.endswith("weight"))


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)].view(-1)[0] = float("nan")


def _bomb(folder: Path) -> None:
    """A picture that says it is of 60,000 pixels a side."""
    path = folder / "images/0000.png"
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)


def _config(name: str, **entries: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | entries
        (folder / name).write_text(json.dumps(content))

    return spoil


UNET = "unet/diffusion_pytorch_model.safetensors"


def _spoiled(of: str, name: str, says: str, spoil: Callable[[Path], None]) -> Case:
    return Case(of, name, says, spoil=spoil)


FOLDERS = [
    _spoiled("study.yml", "no YAML", "study.yml", _text("study.yml", "a: [")),
    _spoiled("study.yml", "a list", "study.yml", _text("study.yml", "- images\n")),
    _spoiled("study.yml", "empty", "study.yml", _text("study.yml", "")),
    _spoiled("study.yml", "an unknown entry", "imagez", _yaml(imagez="images")),
    _spoiled("study.yml", "no images", "images", _yaml(images=None)),
    _spoiled("study.yml", "images that are not there", "nowhere", _yaml(images="nowhere")),
    _spoiled("study.yml", "an attribute without a column", "colour", _yaml(attributes=["colour"])),
    _spoiled("study.yml", "attributes twice", "stroke", _yaml(attributes=["stroke", "stroke"])),
    _spoiled(
        "study.yml",
        "shares that make 0.9",
        "shares",
        _yaml(shares={"stroke": {"thin": 0.2, "bold": 0.7}}),
    ),
    _spoiled(
        "study.yml",
        "a negative share",
        "share",
        _yaml(shares={"stroke": {"thin": -0.5, "bold": 1.5}}),
    ),
    _spoiled(
        "study.yml",
        "a share of no class",
        "medium",
        _yaml(shares={"stroke": {"thin": 0.5, "medium": 0.5}}),
    ),
    _spoiled(
        "study.yml",
        "an object of Python",
        "study.yml",
        _text("study.yml", "images: !!python/object/apply:os.getpid []\n"),
    ),
    _spoiled("labels.csv", "no table", "labels.csv", _remove("images/labels.csv")),
    _spoiled("labels.csv", "empty", "labels.csv", _text("images/labels.csv", "")),
    _spoiled(
        "labels.csv",
        "a header alone",
        "labels.csv",
        _table(lambda rows: rows.__delitem__(slice(1, None))),
    ),
    _spoiled(
        "labels.csv",
        "no column of files",
        "file",
        _table(lambda rows: rows[0].__setitem__(0, "name")),
    ),
    _spoiled("labels.csv", "a row too short", "labels.csv", _table(lambda rows: rows[3].pop())),
    _spoiled(
        "labels.csv",
        "a picture that is not there",
        "none.png",
        _table(lambda rows: rows[3].__setitem__(0, "none.png")),
    ),
    _spoiled(
        "labels.csv",
        "a picture outside of the folder",
        "study.yml",
        _table(lambda rows: rows[3].__setitem__(0, "../study.yml")),
    ),
    _spoiled(
        "labels.csv", "a picture twice", "0000.png", _table(lambda rows: rows.append(rows[1]))
    ),
    _spoiled(
        "labels.csv",
        "an empty class",
        "labels.csv",
        _table(lambda rows: rows[3].__setitem__(1, "")),
    ),
    _spoiled(
        "labels.csv",
        "one class alone",
        "stroke",
        _table(lambda rows: [row.__setitem__(2, "thin") for row in rows[1:]]),
    ),
    _spoiled("images", "cut off", "0000.png", _cut("images/0000.png", 0.5)),
    _spoiled("images", "empty", "0000.png", _text("images/0000.png", "")),
    _spoiled("images", "a text", "0000.png", _text("images/0000.png", "no picture")),
    _spoiled("images", "of 60,000 pixels a side", "0000.png", _bomb),
    _spoiled("weights", "cut off", "unet", _cut(UNET, 0.5)),
    _spoiled("weights", "empty", "unet", _text(UNET, "")),
    _spoiled(
        "weights", "a tensor missing", "unet|conv", _weights(UNET, lambda t: t.pop(_first(t)))
    ),
    _spoiled(
        "weights",
        "a tensor of another shape",
        "unet|conv",
        _weights(UNET, lambda t: t.__setitem__(_first(t), t[_first(t)][:1].clone())),
    ),
    _spoiled("weights", "not a number", "finite|nan", _weights(UNET, _nan)),
    _spoiled("weights", "not there", "unet", _remove(UNET)),
    _spoiled("weights", "no configuration", "unet", _remove("unet/config.json")),
    _spoiled("weights", "a configuration that is no JSON", "unet", _text("unet/config.json", "{")),
    _spoiled("weights", "other channels", "unet|shape", _config("unet/config.json", in_channels=7)),
    _spoiled(
        "weights", "a pipeline that is none", "model_index.json", _text("model_index.json", "[]")
    ),
    _spoiled(
        "weights",
        "a pipeline that is unknown",
        "NoPipeline",
        _config("model_index.json", _class_name="NoPipeline"),
    ),
    _spoiled(
        "weights",
        "a scheduler without steps",
        "scheduler|timesteps",
        _config("scheduler/scheduler_config.json", num_train_timesteps=0),
    ),
    _spoiled(
        "weights",
        "evaluators cut off",
        "labeller",
        _cut("evaluators/labeller/model.safetensors", 0.5),
    ),
    _spoiled("weights", "a CLIP without words", "clip", _remove("clip/vocab.json")),
]
CASES = [*ARGUMENTS, *SURROUNDINGS, *FOLDERS]

# --------------------------------------------------------------------------------------------------
# The drill


def drill(scene: Scene, _expected: dict[str, str]) -> Iterator[Row]:
    """Every case, as many at once as there are cores."""
    with ThreadPoolExecutor(scene.cores) as pool:
        faults = list(pool.map(lambda numbered: fault(scene, *numbered), enumerate(CASES)))
    told = sorted(zip(CASES, faults, strict=True), key=lambda pair: pair[0].of)
    for of, pairs in groupby(told, key=lambda pair: pair[0].of):
        kind = list(pairs)
        notes = [f"{case.name}: {wrong}" for case, wrong in kind if wrong]
        yield Row(DRILL, of, len(kind), len(kind) - len(notes), "; ".join(notes))


def fault(scene: Scene, number: int, case: Case) -> str:
    """What is wrong with how a case is answered; "" if nothing is."""
    store = scene.root / f"cases/{number}/store"
    place = Scene(scene.root, extra={"DIFFLENS_ARTIFACTS": str(store)} | case.environment)
    before = kept(scene, store)
    if case.make:
        done = place.run(["make", "-s", "-o", ".venv/.ready", *case.make])
    else:
        done = place.run(_command(scene, number, case))
    lines = [line for line in done.lines if not _expected_of(line)]
    faults = []
    if not case.make and done.code != 1 or not done.code:
        faults.append(f"exit code {done.code}")
    if len(lines) != 1:
        faults.append(f"{len(lines)} lines")
    if not re.search(case.says, " ".join(lines)):
        faults.append(f"says {(lines or ['nothing'])[-1]:.100}")
    if done.seconds > SOON:
        faults.append(f"after {done.seconds:.0f} s")
    if new := kept(scene, store) - before:
        faults.append(f"left {min(new)}")
    shutil.rmtree(scene.root / f"cases/{number}", ignore_errors=True)
    return ", ".join(faults)


def _command(scene: Scene, number: int, case: Case) -> list[str]:
    options = case.options
    if case.spoil:
        folder = scene.root / f"cases/{number}/the model"
        copy_digits(scene, folder)
        case.spoil(folder)
        options = ("--subject", str(folder))
    elif "--subject" not in options:
        options = ("--subject", "digits", *options)
    script = str(scene.root / "workflow/execute.py")
    return [sys.executable, script, case.notebook, "--profile", "quick", *options]


def copy_digits(scene: Scene, folder: Path) -> None:
    """The digits as a model of one's own, in a folder."""
    folder.mkdir(parents=True)
    for name in PARTS:
        shutil.copytree(scene.root / "models/digits" / name, folder / name)
    for name in FILES:
        shutil.copy(scene.root / "models/digits" / name, folder / name)


def _expected_of(line: str) -> bool:
    """Whether a line is what a notebook starts with, or make's own last words."""
    return bool(re.match(rf"{NOTEBOOK}  subject=|make: \*\*\* ", line))


def kept(scene: Scene, store: Path) -> set[str]:
    """What lies in a store and among results and pages, but for the notebook up to its fault."""
    built = ("artifacts", "_build/results", "_build/executed", "_build/leaderboard")
    places = [store, *(scene.root / place for place in built)]
    found = (path for place in places for path in place.rglob("*"))
    files = (path for path in found if path.is_file() and "locks" not in path.parts)
    return {str(p.relative_to(scene.root)) for p in files if not p.name.startswith("partial-")}
