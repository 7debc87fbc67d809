"""The sizes with which the book studies a subject, for the scripts beside the subjects."""

from __future__ import annotations

from typing import Any

from workflow.execute import SETTINGS, overrides


def of_the_book(subject: str) -> dict[str, Any]:
    """The settings of `workflow/profiles` that are no defaults, {name: value}."""
    return overrides("", "book", subject, SETTINGS)  # those of all notebooks, and of none alone
