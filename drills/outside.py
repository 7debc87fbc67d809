"""Loading what comes from outside executes nothing of it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from drills.inputs import copy_digits
from drills.scene import Row, Scene

DRILL = "files that would execute something"


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.canary),)


def drill(scene: Scene, _expected: dict[str, str]) -> Iterator[Row]:
    """Each trap in a folder of the digits, and whether it snapped."""
    for number, (case, lay) in enumerate(TRAPS.items()):
        folder, canary = scene.root / f"traps/{number}/model", scene.root / f"traps/{number}/canary"
        copy_digits(scene, folder)
        lay(folder, canary)
        command = scene.notebook("00_bias", "--subject", str(folder))
        done = scene.run(command)
        note = done.lines[-1].replace(str(scene.root), "")[:160] if done.code else "it is not read"
        yield Row(DRILL, case, 1, 0 if canary.exists() else 1, note)
        shutil.rmtree(folder.parent)


def _pickled(name: str) -> Callable[[Path, Path], None]:
    """A pickle where weights in safetensors were."""

    def lay(folder: Path, canary: Path) -> None:
        place = folder / name
        for path in place.parent.glob("*.safetensors"):
            path.unlink()
        place.write_bytes(pickle.dumps(Trap(canary)))

    return lay


def _code(folder: Path, canary: Path) -> None:
    """A pipeline that brings its own code."""
    (folder / "pipeline.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": ["pipeline", "Own"], "unet": ["pipeline", "Own"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def _mapped(folder: Path, canary: Path) -> None:
    """A configuration that asks for code of the repository it comes from."""
    (folder / "unet/own.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    path = folder / "unet/config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModel": "own.Own"}}
    path.write_text(json.dumps(config))


def _tagged(folder: Path, canary: Path) -> None:
    text = f"images: !!python/object/apply:os.mkdir [{str(canary)!r}]\n"
    (folder / "study.yml").write_text(text)


def _in_csv(folder: Path, canary: Path) -> None:
    """A formula, and a call, where classes stand."""
    path = folder / "images/labels.csv"
    trap = f"\"__import__('os').mkdir('{canary}')\""
    path.write_text(path.read_text().replace("zero", trap, 1))


def _archived(folder: Path, canary: Path) -> None:
    """Archives that would unpack to other places, where weights are looked for."""
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    with tarfile.open(folder / "unet/diffusion_pytorch_model.bin", "w") as tar:
        for name in (str(canary), f"../../{canary.name}"):
            tar.addfile(tarfile.TarInfo(name))
    with zipfile.ZipFile(folder / "images/more.zip", "w") as archive:
        archive.writestr(f"../../{canary.name}", "unpacked")


TRAPS: dict[str, Callable[[Path, Path], None]] = {
    "pickled weights of a network": _pickled("unet/diffusion_pytorch_model.bin"),
    "pickled weights of an evaluator": _pickled("evaluators/labeller/model.bin"),
    "pickled weights of a CLIP": _pickled("clip/pytorch_model.bin"),
    "a pipeline with code of its own": _code,
    "a configuration with code of its own": _mapped,
    "tags of YAML": _tagged,
    "code in a table": _in_csv,
    "archives with absolute paths": _archived,
}
