"""The entries of `study.yml` beside a diffusion model, as pydantic models.

Every scalar is read as the text that stands in the file. YAML itself would turn `yes`, `1` and `-1`
into a truth value and numbers. These would match no class of `labels.csv`, where all classes are
text.

>>> import tempfile
>>> from pathlib import Path
>>> from difflens_utils.subjects import declaration
>>> with tempfile.TemporaryDirectory() as folder:
...     path = Path(folder, "study.yml")
...     _ = path.write_text("{images: photos, attributes: [colour, 1]}")
...     declaration.read_declaration(path).attributes
('colour', '1')
"""

from __future__ import annotations

import reprlib
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..runtime.errors import line, one_of

Text = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]
WORDS = {
    "missing": "is missing",
    "list_type": "must be a list, such as [a, b]",
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be a mapping, such as {a: b}",
    "model_type": "must be a mapping, such as {a: b}",
    "float_parsing": "must be a number, such as 0.7",
    "float_type": "must be a number, such as 0.7",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}  # of the kinds of error that pydantic tells apart


EMPTY = ("", "~", "null", "Null", "NULL")  # how YAML says that an entry has no value


class _Entries(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Asked(_Entries):
    """A prompt: its text, what it states of the image {factor: class}, and how it reads without the
    class that it names.
    """

    text: Text
    given: dict[str, str] = {}
    without: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        """A text alone is a prompt that states nothing."""
        return {"text": value} if isinstance(value, str) else value


Prompts = Annotated[tuple[Asked, ...], Field(min_length=1)]


class Stages(_Entries):
    """The prompts of each stage. The kind of model decides the defaults of `learn` and `probe`."""

    evaluate: Prompts
    learn: Prompts | None = None
    probe: Prompts | None = None
    held_out: tuple[Asked, ...] = ()


class Declaration(_Entries):
    """The entries of `study.yml`. Paths are relative to its folder."""

    images: Text
    attributes: Annotated[tuple[Text, ...], Field(min_length=1)]
    shares: dict[str, dict[str, Number]] = {}
    evaluators: Text = "evaluators"
    clip: Text = "clip"
    second_clip: Text | None = None  # by default the folder `second` of clip, if it is there
    prompts: Stages | None = None
    guidance: Annotated[Number, Field(ge=1)] | None = None

    def asked(self) -> Iterator[tuple[str, Asked]]:
        """Every prompt with the path of its entry, such as prompts.learn.0."""
        for stage in Stages.model_fields if self.prompts else ():
            for i, prompt in enumerate(getattr(self.prompts, stage) or ()):
                yield f"prompts.{stage}.{i}", prompt

    def conditions(self) -> tuple[str, ...]:
        """The factors that the prompts of results state, in the order of their first mention."""
        reported = [prompt for entry, prompt in self.asked() if _reported(entry)]
        return tuple(dict.fromkeys(factor for prompt in reported for factor in prompt.given))


def read_declaration(path: Path) -> Declaration:
    """Reads `study.yml`. An entry without a value counts as left out.

    Raises ValueError, in one line with the file and the entry, for a file that is missing or no
    YAML, and for an entry that is missing, unknown or of the wrong kind.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{where} is no YAML: {error.problem}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is missing or no YAML: {line(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must have the entries images and attributes")
    try:
        filled = {name: value for name, value in content.items() if value not in EMPTY}
        declaration = Declaration.model_validate(filled)
    except ValidationError as error:
        raise ValueError(f"{path}: {_in_words(error)}") from None
    _check(path, declaration)
    return declaration


def _check(path: Path, declaration: Declaration) -> None:
    """Checks that nothing occurs twice, and that no prompt states an attribute that it measures."""
    if len(set(declaration.attributes)) < len(declaration.attributes):
        raise ValueError(
            f"{path}: attributes names a column twice: {', '.join(declaration.attributes)}"
        )
    first: dict[tuple[str, str], str] = {}
    for entry, prompt in declaration.asked():
        stage = entry.rpartition(".")[0]
        before = first.setdefault((stage, prompt.text), entry)
        if before != entry:
            raise ValueError(f"{path}: {entry} asks for the same as {before}: {prompt.text!r}")
        decided = [a for a in declaration.attributes if a in prompt.given]
        if decided and _reported(entry):
            raise ValueError(
                f"{path}: {entry}.given must not name an attribute, got {decided[0]}: "
                "its shares would be the prompt's"
            )


def _reported(entry: str) -> bool:
    """Whether results are reported on the images of a prompt; the others are learned from."""
    return entry.startswith(("prompts.evaluate.", "prompts.held_out."))


def _in_words(error: ValidationError) -> str:
    """The first thing that pydantic found, in one line."""
    first = error.errors()[0]
    *parents, name = map(str, first["loc"])
    where = ".".join([*parents, name])
    if first["type"] == "extra_forbidden":
        models: dict[tuple[str, ...], type[BaseModel]] = {(): Declaration, ("prompts",): Stages}
        model = models.get(tuple(parents), Asked)
        try:
            one_of(".".join([*parents, "an entry"]), name, model.model_fields)
        except ValueError as unknown:
            return str(unknown)
    words = WORDS.get(first["type"], first["msg"][0].lower() + first["msg"][1:])
    got = "" if first["type"] == "missing" else f"; got {reprlib.repr(first['input'])}"
    return f"{where} {words}{got}"


class _Loader(yaml.BaseLoader):
    """Reads scalars as text. A key that occurs twice is an error, where YAML takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            fault = None
            if not isinstance(key, yaml.ScalarNode):
                fault = "a name must be a text"
            elif key.value in seen:
                fault = f"{key.value} occurs twice"
            if fault:
                raise yaml.constructor.ConstructorError(None, None, fault, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
