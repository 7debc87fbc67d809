"""Networks that judge images: classes, features and CLIP.

>>> from difflens_utils import evaluators
>>> evaluators.with_article("old man")
'an old man'
"""

from __future__ import annotations

from .base import (
    ARCHITECTURES,
    AttributeNet,
    Clip,
    Embedder,
    Evaluator,
    Preprocessing,
    class_texts,
    embed,
    look,
    read,
    resized,
    with_article,
)

__all__ = [
    "ARCHITECTURES",
    "AttributeNet",
    "Clip",
    "Embedder",
    "Evaluator",
    "Preprocessing",
    "class_texts",
    "embed",
    "look",
    "read",
    "resized",
    "with_article",
]
