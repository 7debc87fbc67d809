"""Links to the glossary: which words they are on, and that each term has one on a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow import terms

GLOSSARY = Path(__file__).parents[1] / "book/glossary.md"
NAMES = ["class", "class difference", "k-SAE", "h", "latent"]


def words(text: str, seen: set[str] | None = None) -> list[str]:
    found = terms.uses(text, NAMES, set() if seen is None else seen)
    return [text[use.start : use.end] for use in found]


def test_the_terms_are_the_lines_that_definitions_hang_on() -> None:
    page = (
        "# Glossary\n\n:::{glossary}\nFD\n  A distance,\n  in shares.\n\nk-SAE\n  It.\n:::\nMore."
    )
    assert terms.terms(page) == ["FD", "k-SAE"]
    own = terms.terms(GLOSSARY.read_text())
    assert {"bias feature", "h", "CLIP-I"} <= set(own) and own == sorted(own, key=str.lower)


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("A latent, and another latent.", ["latent"]),  # the first alone
        ("Latents of classes", ["Latents", "classes"]),
        ("the class difference of a class", ["class difference", "class"]),  # the longest first
        ("a K-SAE", ["K-SAE"]),
        ("latently, sub-latent, latent-wise, classic", []),
        ("It takes 2 h", []),  # hours
        ("what h is", ["h"]),
    ],
)
def test_whole_words_are_linked_once(text: str, linked: list[str]) -> None:
    assert words(text) == linked


def test_a_term_that_was_linked_on_the_page_is_not_again() -> None:
    seen: set[str] = set()
    assert words("a latent", seen) == ["latent"]
    assert words("the latent of a class", seen) == ["class"]
