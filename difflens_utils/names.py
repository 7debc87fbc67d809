"""What subjects are called, as folders, and of which files those consist that are known by name.

This module imports the standard library only: the workflow reads it without the package, whose
import takes the seconds of torch's.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

# What ships: its folders under `models/`, besides those that its `study.yml` names.
SHIPPED = {
    "portraits": ("portraits", "evaluators", "clip"),
    "portraits-t2i": ("portraits-t2i",),
    "digits": ("digits",),
}

# What others publish: its places under `weights/` (`weights.ASSETS`), besides those of FACES.
FETCHED = {
    "p2-celebahq": ("celebahq_p2.pt", "celebahq"),
    "ddpm-celebahq": ("ddpm-celebahq-256", "celebahq"),
    "sd-v1-5": ("stable-diffusion-v1-5", "ffhq"),
    "sdxl": ("stable-diffusion-xl-base-1.0", "ffhq"),
    "dit-imagenet": ("DiT-XL-2-256",),
}
FACES = (
    "res34_fair_align_multi_7_20190809.pt",
    "res34_fair_align_multi_4_20190809.pt",
    "clip-vit-large-patch14",
    "inception-2015-12-05.pt",
)


def slug(subject: str) -> str:
    """A subject's name as that of a folder, a different one for each subject.

    A name stays as it is. A hub id, or a path inside the repository, keeps its words: a/b is a--b.
    Any other path, and any with other characters, becomes its last word with digits of its hash.
    """
    words = re.sub(r"[^\w.-]+", "--", subject)
    if words.replace("--", "/") == subject and not words.startswith((".", "-")):
        return words
    last = re.sub(r"[^\w.-]+", "-", PurePath(subject).name).strip(".-")
    digits = hashlib.sha256(subject.encode()).hexdigest()[:8]
    return f"{last}-{digits}" if last else digits


def results_folder(subject: str, profile: str) -> PurePath:
    """Where the result files of one subject and profile lie, in the folder of builds."""
    return PurePath("results", profile, slug(subject))
