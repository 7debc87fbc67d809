"""The sources of training data: drawn worlds, and images with labels.

>>> from difflens_utils import worlds
>>> worlds.root("shade", dark=0.75, light=0.25).classes
('dark', 'light')
"""

from __future__ import annotations

from .base import Factor, Scenes, World, binary, categorical, root

__all__ = ["Factor", "Scenes", "World", "binary", "categorical", "root"]
