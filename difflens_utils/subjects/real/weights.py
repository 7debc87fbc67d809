"""Published files that real subjects need: their sources, and their places on this machine.

They lie in `weights/` at the root of the repository, or in the folder that the environment variable
DIFFLENS_WEIGHTS names. Nothing is downloaded here.

>>> from pathlib import Path
>>> from difflens_utils.subjects.real import weights
>>> weights.ASSETS["p2"].place
'celebahq_p2.pt'
>>> weights.require("p2", root=Path("nowhere"))  # doctest: +ELLIPSIS
Traceback (most recent call last):
    ...
ValueError: 1 of the 1 files that are needed is missing: fetch the CelebA-HQ checkpoint of P2 ...
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import one_of
from ...runtime.keys import file_fingerprint as file_fingerprint

ROOT = Path(os.environ.get("DIFFLENS_WEIGHTS", Path(__file__).parents[3] / "weights"))
HUB = "https://huggingface.co/"
# The same weights once more, in formats that are not read here.
SPARE = ("*.ckpt", "*fp16*", "*onnx*", "*openvino*", "*.msgpack", "*.h5")
IMAGES = "**/*.[pj][np]*g"  # png, jpg, jpeg


@dataclass(frozen=True)
class Asset:
    """A file or folder that someone else publishes."""

    what: str
    place: str  # where it lies, under the folder of weights
    source: str  # the page or address that it comes from
    holds: str = ""  # of a folder: a pattern that one of its files must match

    def found(self, root: Path) -> Path | None:
        """The path of the asset, or None where it is missing."""
        path = root / self.place
        exists = any(path.glob(self.holds)) if self.holds else path.is_file()
        return path if exists else None

    def advice(self, root: Path) -> str:
        """What to fetch, from where, and where to put it."""
        path = root / self.place
        if not self.source.startswith(HUB):
            return f"fetch {self.what} from {self.source} and put it at {path}"
        repository = self.source.removeprefix(HUB)
        excluded = " ".join(f"--exclude '{pattern}'" for pattern in SPARE)
        return (
            f"fetch {self.what} from {self.source} "
            f"with: hf download {repository} --local-dir {shlex.quote(str(path))} {excluded}"
        )


def _hub(what: str, repository: str, holds: str = "model_index.json") -> Asset:
    return Asset(what, repository.rpartition("/")[2], HUB + repository, holds)


def _fairface(races: int) -> Asset:
    return Asset(
        f"FairFace's network of {races} races (Karkkainen and Joo, 2021)",
        f"res34_fair_align_multi_{races}_20190809.pt",
        "https://github.com/dchen236/FairFace",
    )


ASSETS: dict[str, Asset] = {
    "p2": Asset(
        "the CelebA-HQ checkpoint of P2 weighting (Choi et al., 2022)",
        "celebahq_p2.pt",
        "https://github.com/jychoi118/P2-weighting",
    ),
    "ddpm-celebahq": _hub("the DDPM of CelebA-HQ (Ho et al., 2020)", "google/ddpm-celebahq-256"),
    "sd-v1-5": _hub(
        "Stable Diffusion v1.5 (Rombach et al., 2022)",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
    "sdxl": _hub(
        "Stable Diffusion XL (Podell et al., 2023)", "stabilityai/stable-diffusion-xl-base-1.0"
    ),
    "dit-imagenet": _hub("DiT-XL/2 of ImageNet (Peebles and Xie, 2023)", "facebook/DiT-XL-2-256"),
    "fairface-7": _fairface(7),
    "fairface-4": _fairface(4),
    "clip": _hub(
        "CLIP ViT-L/14 (Radford et al., 2021)",
        "openai/clip-vit-large-patch14",
        "preprocessor_config.json",
    ),
    "inception": Asset(
        "the Inception of FID, as clean-fid takes it (Parmar et al., 2022)",
        "inception-2015-12-05.pt",
        "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
        "inception-2015-12-05.pt",
    ),
    "celebahq": Asset(
        "the images of CelebA-HQ (Karras et al., 2018)",
        "celebahq",
        "https://github.com/tkarras/progressive_growing_of_gans",
        IMAGES,
    ),
    "ffhq": Asset(
        "the images of FFHQ (Karras et al., 2019)",
        "ffhq",
        "https://github.com/NVlabs/ffhq-dataset",
        IMAGES,
    ),
}


def require(*names: str, root: Path | None = None) -> list[Path]:
    """The paths of some assets, in their order.

    Raises ValueError, in one line that names all that are missing and how to get each.
    """
    root = root or ROOT
    paths, missing = [], []
    for name in names:
        one_of("asset", name, ASSETS)
        path = ASSETS[name].found(root)
        if path is None:
            missing.append(ASSETS[name].advice(root))
        else:
            paths.append(path)
    if missing:
        number = f"{len(missing)} of the {len(names)} files that are needed"
        verb = "is" if len(missing) == 1 else "are"
        raise ValueError(f"{number} {verb} missing: {'; '.join(missing)}")
    return paths
