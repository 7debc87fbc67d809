"""Checks of a notebook's parameters, before anything is computed.

The rules go by the parameters' names, which mean the same in all notebooks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch

from . import factors
from .errors import distribution, one_of, positive, within
from .pipelines import Subject

SHARES = ("max_density", "target_share", "matched")
STRENGTHS = ("betas", "strong", "strength_single")
LEAST = {"n_images": 4, "n_probe": 4}  # the h-classifiers and the trees hold out every fourth image
AT_MOST_LATENTS = ("k", "ks")
EACH_PROMPT = (  # sets of images that are read prompt by prompt
    "n_images",
    "n_tuned",
    "n_final",
    "n_sweep",
    "n_wanted",
    "n_pair",
    "n_curve",
    "n_reconstructed",
)


def check(
    subject: Subject, *, seed: int = 0, frechet: Collection[str] = (), **parameters: object
) -> None:
    """Raise ValueError, in one line that names the parameter, unless a notebook can run with these.

    `frechet` names the sizes of sets whose Fréchet distance is taken: more images than the scorer
    has features.
    """
    _whole("seed", seed, 0)
    within("seed", seed, 0, 2**31 - 1)
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            continue
        for label, one in _entries(name, value):
            _check_one(name, label, one)
    _check_together(seed, parameters)
    _check_subject(subject, frechet, parameters)
    _check_classes(subject, seed, parameters)


def _entries(name: str, value: object) -> list[tuple[str, object]]:
    """A parameter's values and what to call them: (name, value), or (name[i], value) of a list."""
    if not isinstance(value, list | tuple):
        return [(name, value)]
    if not value:
        raise ValueError(f"{name} must name at least one value, got {value!r}")
    if not all(isinstance(one, int | float) for one in value):
        raise ValueError(f"{name} must be numbers, got {value!r}")
    if len(set(value)) < len(value) or (name != "seeds" and list(value) != sorted(value)):
        raise ValueError(
            f"{name} must be different values{' that rise' * (name != 'seeds')}, got {value!r}"
        )
    return [(f"{name}[{i}]", one) for i, one in enumerate(value)]


def _check_one(name: str, label: str, value: object) -> None:
    """One number by the rule of its parameter."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{label} must be a number, got {value!r}")
    if name in SHARES:
        within(label, value, 0, 1)
    elif name == "threshold":
        within(label, value, 0.5, 1)
    elif name == "ratios":
        if not 0 < value < 1:
            raise ValueError(f"{label} must be greater than 0 and less than 1, got {value!r}")
    elif name in STRENGTHS:
        positive(label, value)
        within(label, value, 0, math.inf)
    else:
        _whole(label, value, 0 if name == "seeds" else LEAST.get(name, 1))


def _whole(label: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{label} must be a whole number, got {value!r}")
    if least == 1:
        positive(label, value)
    elif value < least:
        raise ValueError(f"{label} must be at least {least}, got {value!r}")


def _check_together(seed: int, parameters: Mapping[str, object]) -> None:
    """What holds between parameters."""
    for name in AT_MOST_LATENTS:
        for label, k in _entries(name, parameters.get(name, 1)):
            if k > parameters.get("latents", math.inf):
                raise ValueError(
                    f"{label} must be at most latents ({parameters['latents']}), got {k}"
                )
    if seed in parameters.get("seeds", ()):
        raise ValueError(f"seeds must not hold seed itself ({seed}), got {parameters['seeds']!r}")


def _check_subject(
    subject: Subject, frechet: Collection[str], parameters: Mapping[str, object]
) -> None:
    """What the subject's schedule, prompts and scorer ask for."""
    total, prompts = len(subject.scheduler.alphas_cumprod), len(subject.texts())
    within("steps", parameters.get("steps", 1), 1, total)
    for name in EACH_PROMPT:
        if name in parameters and parameters[name] < prompts:
            raise ValueError(
                f"{name} must be at least {prompts}, one image for each prompt, "
                f"got {parameters[name]}"
            )
    if "n_images" in parameters and subject.prompts.held_out:
        least = 2 * len(subject.prompts.held_out)  # half as many images tell their shares
        if parameters["n_images"] < least:
            raise ValueError(
                f"n_images must be at least {least}, two for each held-out prompt, "
                f"got {parameters['n_images']}"
            )
    if frechet:
        blank = torch.zeros(1, 3, subject.size, subject.size, device=subject.device)
        with torch.no_grad():
            features = subject.scorer.features(blank).shape[1]
        for name in frechet:
            if parameters[name] <= features:
                raise ValueError(
                    f"{name} must be more than {features}, the scorer's features that a "
                    f"Fréchet distance is taken in, got {parameters[name]}"
                )


def _check_classes(subject: Subject, seed: int, parameters: Mapping[str, object]) -> None:
    """What the attributes and other factors ask for."""
    if {"latents", "n_features"} <= parameters.keys():
        least = (
            2 * parameters["n_features"] * max(len(subject.classes(a)) for a in subject.attributes)
        )
        if parameters["latents"] < least:
            raise ValueError(
                f"latents must be at least {least}, for {parameters['n_features']} features "
                "(n_features) of "
                f"each class and as many random ones, got {parameters['latents']}"
            )
    for factor, name in parameters.get("singles", {}).items():
        one_of("singles: a factor", factor, subject.factors)
        one_of(f"singles: a class of {factor}", name, subject.classes(factor))
    for attribute, shares in parameters.get("wanted", {}).items():
        one_of("wanted: an attribute", attribute, subject.attributes)
        distribution(f"wanted: {attribute}", shares, len(subject.classes(attribute)))
    if "n_probe" in parameters:
        _check_probe(subject, seed, parameters["n_probe"])


def _check_probe(subject: Subject, seed: int, n_probe: int) -> None:
    for factor, y in factors.factor_labels(subject, n_probe, seed).labels.items():
        for c, name in enumerate(subject.classes(factor)):
            if not 0 < int((y == c).sum()) < n_probe:
                raise ValueError(
                    f"n_probe must be larger: of {n_probe} images none, or each, has {factor} {name}"
                )
