"""Where training data come from: drawn worlds, and images with labels."""

from __future__ import annotations

from .base import Factor, Scenes, World, binary, categorical, root

__all__ = ["Factor", "Scenes", "World", "binary", "categorical", "root"]
