"""Checks the parameters of a notebook, before anything is computed.

The rules depend on the names of the parameters, which mean the same in all notebooks. `settings`
explains the parameters that notebooks share.

>>> from difflens_utils.pages import sizes
>>> sizes.RULES["threshold"]("threshold", 0.9)
>>> sizes.RULES["ratios"]("ratios", 1.5)
Traceback (most recent call last):
    ...
ValueError: ratios must be greater than 0 and less than 1, got 1.5
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ..analysis import factors
from ..runtime.errors import at_least, distribution, one_of, positive, within
from ..subjects.pipelines import Subject


def _whole(label: str, value: float, low: int = 1, high: int | None = None) -> None:
    if not isinstance(value, int):
        raise ValueError(f"{label} must be a whole number, got {value!r}")
    if high is None:
        at_least(label, value, low)
    else:
        within(label, value, low, high)


def _between_0_and_1(label: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{label} must be greater than 0 and less than 1, got {value!r}")


_share = partial(within, low=0, high=1)

# What a number may be, by the parameter's name; all others are whole numbers from 1.
RULES: dict[str, Callable[[str, float], None]] = {
    "seed": partial(_whole, low=0, high=2**31 - 1),
    "seeds": partial(_whole, low=0),
    "n_images": partial(_whole, low=4),  # the h-classifiers hold out every fourth image
    "n_probe": partial(_whole, low=4),  # and so do the trees
    "max_density": _share,
    "target_share": _between_0_and_1,
    "matched": _share,
    "threshold": partial(within, low=0.5, high=1),
    "ratios": _between_0_and_1,
    "betas": positive,
    "strong": positive,
    "strength_single": positive,
}
EACH_PROMPT = (  # sizes of sets of images that are read prompt by prompt
    "n_images",
    "n_tuned",
    "n_final",
    "n_sweep",
    "n_wanted",
    "n_pair",
    "n_curve",
    "n_reconstructed",
)


def check_values(*, seed: int = 0, **parameters: Any) -> None:
    """Raises ValueError, in one line with the parameter, for values that suit no subject."""
    for name, value in {"seed": seed, **parameters}.items():
        for label, entry in _entries(name, value):
            if not isinstance(entry, int | float) or isinstance(entry, bool):
                raise ValueError(f"{label} must be a number, got {entry!r}")
            RULES.get(name, _whole)(label, entry)
    for name in ("k", "ks"):
        for label, k in _entries(name, parameters.get(name, 1)):
            most = parameters.get("latents", math.inf)
            if k > most:
                raise ValueError(f"{label} must be at most latents ({most}), got {k}")
    if seed in parameters.get("seeds", ()):
        raise ValueError(f"seeds must not hold seed itself ({seed}), got {parameters['seeds']!r}")


def check(
    subject: Subject, *, seed: int = 0, frechet: Collection[str] = (), **parameters: Any
) -> None:
    """Raises ValueError, in one line with the parameter, unless a notebook can run with these.

    `frechet` names the sizes of sets whose Fréchet distance is taken: more images than the scorer
    has features.
    """
    check_values(seed=seed, **parameters)
    levels = subject.scheduler.config.get("num_train_timesteps", 1000)
    within("steps", parameters.get("steps", 1), 1, levels)
    for name, least, reason in _least(subject, parameters):
        if parameters[name] < least:
            raise ValueError(f"{name} must be at least {least}, {reason}, got {parameters[name]}")
    _check_frechet(subject, {name: parameters[name] for name in frechet})
    _check_classes(subject, parameters)
    if "n_probe" in parameters:
        _check_probe(subject, seed, parameters["n_probe"])


def _entries(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A parameter's values and what to call them: (name, value), or (name[i], value) of a list.

    A mapping has none.
    """
    if isinstance(value, Mapping):
        return
    if not isinstance(value, list | tuple):
        yield name, value
        return
    if not value:
        raise ValueError(f"{name} must name at least one value, got {value!r}")
    if not all(isinstance(entry, int | float) for entry in value):
        raise ValueError(f"{name} must be numbers, got {value!r}")
    if len(set(value)) < len(value):
        raise ValueError(f"{name} must be different values, got {value!r}")
    if name != "seeds" and list(value) != sorted(value):
        raise ValueError(f"{name} must be different values that rise, got {value!r}")
    for i, entry in enumerate(value):
        yield f"{name}[{i}]", entry


def _least(subject: Subject, parameters: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    """The least value of a parameter for this subject, and why: (name, least, reason)."""
    prompts = len(subject.texts())
    for name in EACH_PROMPT:
        if name in parameters:
            yield name, prompts, "one image for each prompt"
    if "n_images" in parameters:  # half as many images tell the shares of the held-out prompts
        yield "n_images", 2 * len(subject.prompts.held_out), "two for each held-out prompt"
    if "latents" in parameters and "n_features" in parameters:
        features = parameters["n_features"]
        classes = max(len(subject.classes(a)) for a in subject.attributes)
        reason = f"for {features} features (n_features) of each class and as many random ones"
        yield "latents", 2 * features * classes, reason


def _check_frechet(subject: Subject, sizes: Mapping[str, int]) -> None:
    if not sizes:
        return
    blank = torch.zeros(1, 3, subject.size, subject.size, device=subject.device)
    with torch.no_grad():
        features = subject.scorer.features(blank).shape[1]
    for name, size in sizes.items():
        if size <= features:
            raise ValueError(
                f"{name} must be more than {features}, the scorer's features that a "
                f"Fréchet distance is taken in, got {size}"
            )


def _check_classes(subject: Subject, parameters: Mapping[str, Any]) -> None:
    """Raises ValueError for attributes, other factors and classes that the subject lacks."""
    for factor, name in parameters.get("singles", {}).items():
        one_of("singles: a factor", factor, subject.factors)
        one_of(f"singles: a class of {factor}", name, subject.classes(factor))
    for attribute, shares in parameters.get("wanted", {}).items():
        one_of("wanted: an attribute", attribute, subject.attributes)
        distribution(f"wanted: {attribute}", shares, len(subject.classes(attribute)))


def _check_probe(subject: Subject, seed: int, n_probe: int) -> None:
    for factor, y in factors.factor_labels(subject, n_probe, seed).labels.items():
        for c, name in enumerate(subject.classes(factor)):
            if not 0 < int((y == c).sum()) < n_probe:
                raise ValueError(
                    f"n_probe must be larger: of {n_probe} images "
                    f"none, or each, has {factor} {name}"
                )
