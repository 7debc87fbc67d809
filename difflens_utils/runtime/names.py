"""The names of subjects' folders, and the files of the subjects that are known by name.

This module imports only the standard library. The workflow loads it without the package, whose
import takes seconds.

>>> from difflens_utils.runtime import names
>>> names.slug("google/ddpm-celebahq-256")
'google--ddpm-celebahq-256'
>>> names.results_folder("portraits", "book").as_posix()
'results/book/portraits'
"""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePath

# Subjects that ship: their folders under `models/`, besides those that a `study.yml` names.
SHIPPED = {
    "portraits": ("portraits", "evaluators", "clip"),
    "portraits-open": ("portraits-open", "evaluators", "clip"),
    "portraits-t2i": ("portraits-t2i",),
    "digits": ("digits",),
    "emoji": ("emoji",),
}

# Subjects that others publish: their places under `weights/` (as in `weights.ASSETS`).
FETCHED = {
    "p2-celebahq": ("celebahq_p2.pt", "celebahq"),
    "ddpm-celebahq": ("ddpm-celebahq-256", "celebahq"),
    "sd-v1-5": ("stable-diffusion-v1-5", "ffhq"),
    "sdxl": ("stable-diffusion-xl-base-1.0", "ffhq"),
    "dit-imagenet": ("DiT-XL-2-256",),
}
# The evaluators of all of these, which show faces.
FACES = (
    "res34_fair_align_multi_7_20190809.pt",
    "res34_fair_align_multi_4_20190809.pt",
    "clip-vit-large-patch14",
    "inception-2015-12-05.pt",
)
IMAGES = (".png", ".jpg", ".jpeg")  # how image files in a folder end, in lower case


def slug(subject: str) -> str:
    """Returns the name of a subject's folder, a different one for each subject.

    A plain name stays as it is. A hub id, or a path inside the repository, keeps its words: a/b
    becomes a--b. Any other name is cut to its last word, followed by digits of its hash.
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
