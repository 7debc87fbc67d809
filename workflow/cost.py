"""What the images of a profile cost: how many are drawn in which way, times the measured seconds per image and step.

    hours = sum over the ways of (images x steps / (rate x the steps of the measurement)) / 3600

A count is an upper bound where the notebooks decide as they go: images that a plan leaves unedited are not drawn again. Not counted are
what needs no sampling (training k-SAEs and h-classifiers, evaluators, references) and what methods learn.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import nbformat

from difflens_utils import methods
from workflow.execute import ROOT, parameters, plan

RECORDED, PLAIN, SYMMETRIC, ASYMMETRIC = WAYS = (
    "recording",
    "sampling",
    "symmetric edit",
    "asymmetric edit",
)  # as bench/rates.py calls them
ROWS = 9  # of notebook 07, besides those that its lists name: four dictionaries, three ways to edit, two kinds of k-SAE


@dataclass(frozen=True)
class Study:
    """What of a subject decides how much is drawn."""

    classes: tuple[int, ...] = (2, 3, 4)  # per attribute
    text: bool = False

    def searched(self, grid: int, whole: bool = False) -> int:
        """Points of the searches of one method, for all attributes."""
        return sum(grid * (1 if whole else c) for c in self.classes)


def values_of(notebook: str, profile: str, subject: str) -> dict[str, object]:
    """Every parameter of a notebook as a profile sets it."""
    known = parameters(nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", as_version=4))
    return {name: p.default for name, p in known.items()} | plan(notebook, profile, subject, [])


def images(notebook: str, v: dict[str, object], study: Study) -> Counter[str]:
    """Images that a notebook draws, by way, where those before it have been executed."""
    return COUNTS[notebook](v, study) if notebook in COUNTS else Counter()


def _bias(v: dict, study: Study) -> Counter[str]:
    return Counter(
        {RECORDED: (3 if study.text else 1) * v["n_images"]}
    )  # of what is evaluated, learned and probed from text


def _ksae(v: dict, study: Study) -> Counter[str]:
    return Counter(
        {PLAIN: 2 * v["n_reconstructed"], SYMMETRIC: (len(v["ks"]) + 1) * v["n_reconstructed"]}
    )


def _attribution(v: dict, study: Study) -> Counter[str]:
    """Slopes of every class, each as dear as an edit; and candidates at two steps, half as many again as are kept."""
    measured = sum(study.classes) * int(1.5 * v["n_features"]) * v["n_measured"] * 2 // v["steps"]
    return Counter(
        {PLAIN: v["n_support"], ASYMMETRIC: sum(study.classes) * v["n_support"] + measured}
    )


def _interventions(v: dict, study: Study) -> Counter[str]:
    curves = 2 * (len(v["betas"]) + 2) + sum(study.classes[1:])
    return Counter(
        {PLAIN: v["n_curve"] + v["n_final"], ASYMMETRIC: curves * v["n_curve"] + 4 * v["n_final"]}
    )


def _debiasing(v: dict, study: Study) -> Counter[str]:
    cells, ratios, grid = len(study.classes), len(v["ratios"]), len(methods.GUIDED)
    edited = 3 * study.searched(len(methods.DENSE)) + 3 * study.searched(len(methods.SPARSE))
    whole = study.searched(grid, whole=True) + ratios * grid
    count = Counter(
        {
            PLAIN: v["n_tuned"] + v["n_final"] + v["n_sweep"] + v["n_wanted"],
            ASYMMETRIC: edited * v["n_tuned"]
            + (6 * cells + 1) * v["n_final"]
            + 2 * ratios * v["n_sweep"]
            + len(v["wanted"]) * v["n_wanted"],
            SYMMETRIC: whole * v["n_tuned"] + cells * v["n_final"] + ratios * v["n_sweep"],
        }
    )
    if study.text:
        learned = study.searched(len(methods.DIRECTION)) + study.searched(
            len(methods.TUNED), whole=True
        )
        count.update(
            {
                PLAIN: v["n_final"] + v["n_images"] // 2,
                SYMMETRIC: learned * v["n_tuned"] + 2 * cells * v["n_final"],
                ASYMMETRIC: 2 * cells * v["n_final"],
            }
        )
    return count


def _ablations(v: dict, study: Study) -> Counter[str]:
    rows = ROWS + len(v["ks"]) + len(v["counts"]) + len(v["seeds"])
    return Counter(
        {
            PLAIN: v["n_tuned"] + v["n_final"],
            ASYMMETRIC: rows
            * (len(methods.SPARSE) * study.classes[0] * v["n_tuned"] + v["n_final"]),
        }
    )


def _multi(v: dict, study: Study) -> Counter[str]:
    pairs = (sum(study.classes) ** 2 - sum(c * c for c in study.classes)) // 2
    singles = len(v["singles"]) * (1 + study.classes[0])
    return Counter(
        {
            PLAIN: v["n_pair"] + v["n_final"],
            ASYMMETRIC: (sum(study.classes) + pairs + singles) * v["n_pair"] + v["n_final"],
        }
    )


COUNTS = {
    "00_bias": _bias,
    "02_ksae": _ksae,
    "04_attribution": _attribution,
    "05_interventions": _interventions,
    "06_debiasing": _debiasing,
    "07_ablations": _ablations,
    "08_multi_attribute": _multi,
}


def hours(count: Counter[str], steps: int, rates: dict) -> float:
    """Hours of one device for a count of images of `steps` steps, at rates that were measured on it."""
    per_second = rates["images_per_second"]
    return sum(n * steps / (per_second[way] * rates["steps"]) for way, n in count.items()) / 3600


def table(profile: str, entry: dict) -> list[tuple[str, Counter[str], float]]:
    """(notebook, images by way, hours) of every notebook that samples, for the subject of one measurement on its device."""
    study, found = Study(text=entry["subject"] != "portraits"), []
    for notebook in COUNTS:
        v = values_of(notebook, profile, entry["subject"])
        count = images(notebook, v, study)
        found.append((notebook, count, hours(count, v["steps"], entry)))
    return found
