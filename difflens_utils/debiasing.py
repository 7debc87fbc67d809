"""From a method to a fair set of images: search its strengths once, plan a mixture for a target distribution, carry it out, score it.

The search runs on seeds on which nothing is reported, and is the same for every method. It takes longer than the rest of the
book, so its outcome ships with the subject (`make methods` makes it anew); whether it still tells the truth shows on the fresh seeds, where
what a plan expects stands beside what it reaches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from . import artifacts, edits, evaluators, metrics, planning, sampling, stages
from .methods import Method
from .metrics import Estimate
from .planning import Plan
from .stages import Outcome
from .subjects import Subject

UNEDITED, WHOLE = -1, -2  # targets of arms that are no class


class Arm(NamedTuple):
    """What one edit did to a set of images: where images of each class went, the mean CLIP-I, and whether both evaluators still agree."""

    target: int  # class, UNEDITED, or WHOLE for an edit that takes the distribution
    strength: float
    transitions: list[list[float]]  # (classes, classes): of the images that were one class unedited, the share that is each now
    similar: Estimate  # CLIP-I to the unedited images
    agreement: Estimate

    def shares(self, base: ArrayLike) -> NDArray[np.float64]:
        """The class shares (classes,) where the unedited ones are `base`: those of a hundred tuning images are too noisy to plan with."""
        return np.asarray(base) @ np.asarray(self.transitions)


class Debiased(NamedTuple):
    """A plan, and the images that came of it."""

    plan: Plan
    outcome: Outcome


# ---------------------------------------------------------------------------------------------------------------------
# Search

def respond(subject: Subject, method: Method, attribute: str, *, n: int, seed: int, steps: int) -> list[Arm]:
    """What a method does to `n` images at each strength of its grid, towards each class; the first arm is no edit."""
    plain = stages.judge(subject, stages.generate(subject, None, n, seed, steps))
    arms = [arm(plain, plain, attribute, UNEDITED, 0.0)]
    for target in [WHOLE] if method.whole else range(len(subject.classes(attribute))):
        for strength in method.grid:
            images = generate(subject, method, method.towards(target, strength), n, seed, steps)
            arms.append(arm(plain, stages.judge(subject, images), attribute, target, strength))
    return arms


def arm(plain: Outcome, edited: Outcome, attribute: str, target: int, strength: float) -> Arm:
    return Arm(target, strength, metrics.transitions(plain.scored[attribute], edited.scored[attribute]).tolist(),
               metrics.clip_i(plain.clip, edited.clip).raw, edited.agreement(attribute))


def base_shares(subject: Subject, images: torch.Tensor) -> dict[str, NDArray[np.float64]]:
    """The class shares of many unedited images (N, 3, H, W), by the scorer: {attribute: (classes,)}."""
    scored = evaluators.read(subject.scorer, images.to(subject.device))
    return {a: metrics.shares(scored[a]) for a in subject.attributes}


def generate(subject: Subject, method: Method, edit: sampling.Edit, n: int, seed: int, steps: int) -> torch.Tensor:
    """Images (n, 3, H, W) under an edit, with the step that the method asks for."""
    return stages.generate(subject, edit, n, seed, steps, asymmetric=method.asymmetric, progress=method.name)


def search(subject: Subject, method: Method, attribute: str, *, n: int, seed: int, steps: int, recipe: Mapping[str, Any]) -> list[Arm]:
    """`respond`, from what ships with the subject or from the store if it is there; `recipe` is all that the method was made with."""
    artifacts.check_sizes(n_tuned=n, steps=steps)
    parameters = {"weights": subject.weights, "module": subject.module, "method": method.name, "grid": method.grid,
                  "attribute": attribute, "n": n, "seed": seed, "steps": steps, "recipe": dict(recipe),
                  "code": artifacts.code_version(sampling, edits, stages)}

    def make(folder: Path) -> None:
        (folder / "arms.json").write_text(json.dumps(respond(subject, method, attribute, n=n, seed=seed, steps=steps), indent=1) + "\n")

    folder = artifacts.cached("search", parameters, make, subject.folder / "search" / attribute / method.key)
    return [Arm(target, strength, transitions, Estimate(*similar), Estimate(*agreement))
            for target, strength, transitions, similar, agreement in json.loads((folder / "arms.json").read_text())]


# ---------------------------------------------------------------------------------------------------------------------
# Plan and carry out

def plan(arms: Sequence[Arm], base: ArrayLike, target: Sequence[float], least_agreement: float = 0.9) -> Plan:
    """The mixture of arms that takes the class shares from `base` nearest to `target` at the least loss of CLIP-I; one arm alone, if
    the arms take the distribution.

    Arms on which the two evaluators agree on less than `least_agreement` of the images are left out: washed-out images
    fool one evaluator. No edit always stays.
    """
    usable = [i for i, a in enumerate(arms) if a.target == UNEDITED or a.agreement.value >= least_agreement]
    shares, costs = [arms[i].shares(base) for i in usable], [1 - arms[i].similar.value for i in usable]
    alone = any(a.target == WHOLE for a in arms)
    found = (planning.single if alone else planning.mixture)(shares, costs, target)
    weights = np.zeros(len(arms))
    weights[usable] = found.weights
    return Plan(weights, found.expected, found.cost)


def edit_of(method: Method, arms: Sequence[Arm], planned: Plan, n: int, seed: int, group: int = 1) -> sampling.Edit:
    """The edit that carries a plan out on n images: each draws its arm, or each batch of `group` does."""
    drawn = edits.draw_classes(n, planned.weights.tolist(), seed, group)
    used = [i for i, a in enumerate(arms) if a.target != UNEDITED and planned.weights[i] > 0]
    return edits.per_image({i: method.towards(arms[i].target, arms[i].strength) for i in used}, drawn)


def debias(subject: Subject, method: Method, arms: Sequence[Arm], base: ArrayLike, target: Sequence[float], *, n: int, seed: int,
           steps: int, group: int = 1) -> Debiased:
    """`n` images that shall have the classes of `target`, by the plan that the arms suggest where unedited shares are `base`."""
    planned = plan(arms, base, target)
    edit = edit_of(method, arms, planned, n, seed + 1, group)
    return Debiased(planned, stages.judge(subject, generate(subject, method, edit, n, seed, steps)))


# ---------------------------------------------------------------------------------------------------------------------
# Score

def unrelated(subject: Subject, attribute: str) -> list[str]:
    """The factors that an edit of an attribute has no business with: neither the attribute nor, where the causes are known, its effects."""
    caused = set(subject.world.planted_causes(attribute)) if subject.world else set()
    return [f for f in subject.factors if f != attribute and f not in caused]


def score(subject: Subject, before: Outcome, after: Outcome, attribute: str, target: Sequence[float],
          references: Mapping[str, ArrayLike], seed: int) -> dict[str, Estimate]:
    """One cell of Table 1: fairness (Eq. 13), Fréchet distances (Eq. 14) to each reference (N, F) and to the unedited set, CLIP-I
    (Eq. 15), and leakage: the mean shift (total variation) of the factors that are `unrelated`, and the largest."""
    fd = metrics.fairness_discrepancy(after.scored[attribute], target)
    similar = metrics.clip_i(before.clip, after.clip)
    away = unrelated(subject, attribute)
    changes = list(metrics.class_changes({f: before.scored[f] for f in away}, after.scored).values())
    worst = max(changes, key=lambda c: metrics.total_variation(c.mean(0)))
    distances = {f"frechet_{name}": metrics.frechet(after.features, features, seed=seed) for name, features in references.items()}
    return {"fd": fd.soft, "fd_hard": fd.hard, **distances, "frechet_unedited": metrics.frechet(after.features, before.features, seed=seed),
            "clip_i": similar.raw, "clip_i_rescaled": similar.rescaled, "agreement": after.agreement(attribute),
            "leak": metrics.bootstrap_means(metrics.total_variation, *changes),
            "leak_worst": metrics.bootstrap_means(metrics.total_variation, worst)}
