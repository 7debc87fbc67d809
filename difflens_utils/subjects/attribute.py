"""An attribute under study: a name, its classes, and what shares of them can be asked for.

>>> from difflens_utils.subjects.attribute import Attribute
>>> age = Attribute("age", ["young", "adult", "old"])
>>> age == "age", age.classes[-1], age.with_last(0.5)
(True, 'old', [0.25, 0.25, 0.5])
"""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.errors import within


class Attribute(str):
    """The name of an attribute, which knows its classes."""

    classes: tuple[str, ...]

    def __new__(cls, name: str, classes: Sequence[str]) -> Attribute:
        attribute = super().__new__(cls, name)
        attribute.classes = tuple(classes)
        return attribute

    def __getnewargs__(self) -> tuple[str, tuple[str, ...]]:  # type: ignore[override]
        return str(self), self.classes

    @property
    def uniform(self) -> list[float]:
        """The target of equal shares."""
        return [1 / len(self.classes)] * len(self.classes)

    def with_last(self, share: float) -> list[float]:
        """The target in which the last class has a share and the others share the rest."""
        within("share", share, 0, 1)
        others = len(self.classes) - 1
        return [*[(1 - share) / others] * others, share]
