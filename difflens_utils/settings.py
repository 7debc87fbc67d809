"""Settings that the shared stages need, and the seeds of every stream of randomness.

This module imports the standard library alone, so that the workflow can read it within
milliseconds.

>>> from difflens_utils.settings import Seeds, Settings
>>> Settings(n_images=480).n_images, Settings().steps
(480, 10)
>>> Seeds.of(1000).report
4105
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

# What another value of a setting makes anew: what is learned, and what follows from it.
NOTHING, SEARCHES = "nothing", "searches"
PRECISION = "everything, where the device computes in another precision"
FEATURES = f"features, {SEARCHES}"
DICTIONARY = f"k-SAE, {FEATURES}"
RECORDING = f"recording, h-classifiers, {DICTIONARY}"


def _setting(default: Any, meaning: str, makes: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "makes": makes})


@dataclass(frozen=True)
class Settings:
    """Sizes and choices of the stages that several notebooks share."""

    profile: str = _setting("book", "try, quick, book or paper: labels the result files", NOTHING)
    device: str = _setting("auto", "auto, cpu or cuda", PRECISION)
    module: str = _setting("", "the module whose output is h; empty: the bottleneck", RECORDING)
    seed: int = _setting(0, "the base of all seeds", RECORDING)
    steps: int = _setting(10, "sampling steps, T", RECORDING)
    n_images: int = _setting(
        2000, "unedited images that are recorded with h at every step", RECORDING
    )
    k: int = _setting(32, "active latents per vector of the k-SAE", DICTIONARY)
    latents: int = _setting(1024, "latents in the dictionary of the k-SAE, D", DICTIONARY)
    train_steps: int = _setting(1200, "optimizer steps of the k-SAE", DICTIONARY)
    n_support: int = _setting(64, "images on which latents are attributed", FEATURES)
    n_measured: int = _setting(16, "images on which each candidate feature is measured", FEATURES)
    n_features: int = _setting(20, "bias features per class, N", FEATURES)
    max_density: float = _setting(
        0.5, "a latent that fires on a larger share of vectors is no candidate", FEATURES
    )
    n_tuned: int = _setting(128, "images per strength of a search", SEARCHES)

    def numbers(self) -> dict[str, Any]:
        """The settings that are numbers: {name: value}. The others say what is studied, and how."""
        named = ("profile", "device", "module")
        return {name: value for name, value in asdict(self).items() if name not in named}

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What each setting means: {name: meaning}."""
        return {setting.name: setting.metadata["meaning"] for setting in fields(cls)}


class Seeds(NamedTuple):
    """A seed for every stream of randomness. Images of two streams share no noise.

    Streams that results are reported on are new with every release whose rules or methods changed:
    nobody has seen their images before the rules were written.
    """

    main: int = 0
    """Recordings, training of k-SAEs and h-classifiers, resampling."""
    through: int = 1
    """Images that are generated through a k-SAE (notebook 02)."""
    strangers: int = 2
    """Other images: what is left when images lose their identity altogether (notebook 02)."""
    curve: int = 3003
    """Images of dose-response curves, and renders that show the data (notebooks 00 and 05)."""
    shown: int = 4
    """Images that are only shown (notebook 05)."""
    control: int = 5
    """Balanced renders, the negative control of the evaluators (notebook 00)."""
    support: int = 10
    """Images on which latents are attributed."""
    measured: int = 20
    """Images on which single features are measured."""
    moved: int = 3021
    """Images on which features are moved alone once they are chosen (notebook 04)."""
    balanced_classes: int = 40
    """Images of which as many of every class are recorded."""
    pairs: int = 30
    """Pairs of renders whose h is exchanged (notebook 03)."""
    of_class: int = 70
    """Renders of one class; class c takes the seed after the previous class (notebook 05)."""
    reference: int = 90
    """Renders that Fréchet distances are taken to (notebook 06)."""
    data: int = 91
    """Renders that generated images are compared with (notebook 00)."""
    data_again: int = 92
    """A second set of renders: the floor of a Fréchet distance (notebook 00)."""
    report: int = 3105
    """Images that results are reported on. Nothing is tuned on them."""
    draw: int = 3106
    """Which edit each reported image draws from its plan."""
    sweep: int = 3107
    """Images of the sweep over ratios (notebook 06)."""
    wanted: int = 3108
    """Images of distributions that are not uniform (notebook 06)."""
    held_out: int = 3109
    """Images of held-out prompts (notebook 06)."""
    held_out_base: int = 3110
    """Unedited images that tell the shares under held-out prompts (notebook 06)."""
    combined: int = 3205
    """Images under several edits at once (notebook 08)."""
    joint: int = 3300
    """Which edits an image of the joint distribution draws (notebook 08)."""
    tuning: int = 400
    """Images of searches over strengths. Nothing is reported on them."""
    factors: int = 555
    """Renders with independent factors that tell what a unit tracks."""
    directions: int = 777
    """Random directions that decoder directions are compared with (notebook 07)."""

    @classmethod
    def of(cls, seed: int) -> Seeds:
        """The streams of a base seed: each has its own offset."""
        return cls(*(seed + offset for offset in cls()))
