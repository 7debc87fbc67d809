"""What the files hold that the atlas and the laboratory are made of, at the size of a test."""

from __future__ import annotations

from typing import Any


def change(value: float, name: str = "male") -> dict[str, Any]:
    return {"class": name, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 32}


def latent(number: int, features: list[dict[str, Any]], auroc: float) -> dict[str, Any]:
    effects = {"gender": change(0.02), "hat_kind": change(-0.5, "<red>")}
    return {
        "latent": number,
        "features": features,
        "density": 0.031,
        "by_step": [0.1, 0.4],
        "tracks": {
            "factor": "hat_kind",
            "class": "<red>",
            "auroc": auroc,
            "each": {"gender": 0.55, "hat_kind": auroc},
        },
        "effect": {"off": effects, "up": effects},
        "near": [[3, 0.5], [99, 0.25]],
        "found_again": {"1": 0.9, "2": 0.4},
    }


def told() -> dict[str, Any]:
    """What atlas.json holds of a tiny subject: a bias feature, and another latent."""
    role = {"attribute": "gender", "class": "male", "rank": 2}
    return {
        "command": "python -m models.atlas tiny",
        "seed": 4,
        "n": 32,
        "up": 3.0,
        "factors": 1500,
        "found": 0.7,
        "images": 2000,
        "size": 32,
        "ksae": "abc",
        "timesteps": [900.0, 100.0],
        "classes": {"gender": ["female", "male"], "hat_kind": ["<red>", "none"]},
        "attributes": ["gender"],
        "per_sheet": 1,
        "top": 6,
        "shown": 3,
        "latents": [latent(7, [role], 0.8), latent(3, [], 0.6)],
    }


def cell(share: float) -> dict[str, Any]:
    figure = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 132}
    return {"shares": {"gender": [1 - share, share]}, "leak": figure, "clip_i": figure}


def told_by_laboratory() -> dict[str, Any]:
    """What laboratory.json holds: two methods, and a class with an odd name."""
    return {
        "command": "python -m models.laboratory",
        "subject": "tiny",
        "seed": 3,
        "n": 132,
        "shown": 12,
        "columns": 4,
        "size": 32,
        "asked": {"gender": [0.1, 0.5, 0.9], "age": [0.2, 0.6]},
        "before": {"gender": [0.45, 0.55], "age": [0.75, 0.25]},
        "classes": {"gender": ["female", "male"], "age": ["young", "</script>"]},
        "methods": {"DiffLens": [cell(0.1)] * 6, "one <feature>": [cell(0.5)] * 6},
        "strengths": [-1, 0, 2],
        "features": {"age: young, no. 1 (latent 7)": [cell(0.2), cell(0.3), cell(0.4)]},
    }
