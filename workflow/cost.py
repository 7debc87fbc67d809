"""What the images of a study cost: their number, times the measured seconds per image and step.

    hours = sum over the ways of (images x steps / (rate x the steps of the measurement)) / 3600

Images are counted while they are drawn, and every result file holds the counts of its notebook. An
image that the notebook found in the store counts too, with the artifact that it belongs to. Not
counted is what needs no sampling, such as training k-SAEs, evaluators and references.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from workflow.execute import BUILD, ROOT, SETTINGS, plan, settings_of, slug

Results = Mapping[str, list[dict[str, Any]]]  # {profile: result files of a subject}

RECORDED = "recording"
WAYS = ("sampling", RECORDED, "symmetric edit", "asymmetric edit")  # as bench/rates.py names them


class Cost(NamedTuple):
    """What one notebook drew."""

    notebook: str
    images: Counter[str]  # by way
    hours: float


def hours(images: Mapping[str, int], steps: int, rates: Mapping[str, Any]) -> float:
    """Hours of one device for images of `steps` steps, at rates that were measured on it."""
    per_second = rates["images_per_second"]
    seconds = [n * steps / (per_second[way] * rates["steps"]) for way, n in images.items()]
    return sum(seconds) / 3600


def results_of(subject: str) -> Results:
    """The result files of one subject: {profile: those of all notebooks}.

    Those of the last run take the place of the committed ones. Runs with values of their own,
    under the profile `mine`, are no profile's.
    """
    folders = {"book": ROOT / "results/book" / slug(subject)}
    for folder in sorted((BUILD / "results").glob(f"*/{slug(subject)}")):
        folders[folder.parent.name] = folder
    folders.pop("mine", None)
    return {profile: _load(folder) for profile, folder in folders.items()}


def _load(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("[0-9][0-9]_*.json"))]


def table(results: list[dict[str, Any]], rates: Mapping[str, Any]) -> list[Cost]:
    """What each notebook drew, and the hours of that at the rates of a device.

    Result files without counts, and notebooks that draw nothing, are left out.
    """
    costs = []
    for result in results:
        images = Counter(result.get("drawn") or {})
        if images.total():
            steps = result["parameters"]["steps"]
            costs.append(Cost(result["notebook"], images, hours(images, steps, rates)))
    return costs


def recording(profile: str, files: list[dict[str, Any]], rates: Mapping[str, Any]) -> Cost | None:
    """What the recordings of h cost in a profile that was not run; None where nothing was counted.

    Nothing decides on the way how many images these are: as many times `n_images` as in the result
    files of another profile.
    """
    counted = {result["notebook"]: result for result in files if result.get("drawn")}
    bias = counted.get("00_bias")
    if bias is None:
        return None
    times, rest = divmod(bias["drawn"].get(RECORDED, 0), bias["parameters"]["n_images"])
    if rest or not times:
        return None
    settings = _settings(profile, rates["subject"])
    images = Counter({RECORDED: times * settings["n_images"]})
    return Cost("00_bias", images, hours(images, settings["steps"], rates))


def _settings(profile: str, subject: str) -> dict[str, Any]:
    changed = settings_of(plan("00_bias", profile, subject, []))
    return {name: setting.default for name, setting in SETTINGS.items()} | changed
