"""Whatever is typed or stands in a file: it is read, or one line says what is wrong with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from difflens_utils.bench.submission import Submission
from difflens_utils.runtime import integrity, workers
from difflens_utils.subjects.declaration import read_declaration
from difflens_utils.worlds.labelled import read_labels
from workflow import assemble, execute

often = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,  # the same inputs on every machine
    suppress_health_check=[HealthCheck.too_slow],
)
texts = st.text(max_size=60)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=8), parts),
    max_leaves=12,
)
TYPES = ("int", "float", "bool", "str", "list", "dict", "list[int]", "int | None", "str | None")


def read_or_one_line(read: Callable[[], object]) -> None:
    """Reads, or raises ValueError with one line of text."""
    try:
        read()
    except ValueError as error:
        said = str(error)
        assert said.strip() and "\n" not in said, said


@often
@given(st.sampled_from(TYPES), texts)
def test_a_parameter(annotated: str, text: str) -> None:
    parameter = execute.Parameter("x", annotated, None, "")
    read_or_one_line(lambda: parameter.parse(text))


@often
@given(st.sampled_from(TYPES), plain)
def test_a_value_that_is_written_is_read_back(annotated: str, value: object) -> None:
    parameter = execute.Parameter("x", annotated, None, "")
    try:
        checked = parameter.check(value)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    if annotated != "str":  # which takes any text as it is
        assert parameter.parse(repr(value)) == checked


@often
@given(texts)
def test_a_list_of_subjects(text: str) -> None:
    read_or_one_line(lambda: execute.subjects_of(text))


@often
@given(texts)
def test_a_worker(text: str) -> None:
    read_or_one_line(lambda: workers.worker(text))


@often
@given(st.dictionaries(st.sampled_from(["subject", "k", "ks"]), plain, max_size=3))
def test_parameters_of_a_page_are_python(values: dict[str, object]) -> None:
    source = 'subject: str = "a"  # it\nk: int = 3\nks: list[int] = [\n  1,\n  2,\n]  # two'
    if any(isinstance(v, float) and v != v for v in values.values()):
        return  # nan is no literal, and no parameter: `execute` refuses it
    shown = assemble.with_values(source, values)
    cell = nbformat.v4.new_code_cell(shown, metadata={"tags": ["parameters"]})
    if "nan" not in shown and "inf" not in shown:
        read = execute.parameters(nbformat.v4.new_notebook(cells=[cell]))
        assert list(read) == ["subject", "k", "ks"]
        for name, value in values.items():
            assert read[name].default == value


@often
@given(st.binary(max_size=80) | texts.map(str.encode))
def test_a_sealed_file(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.json"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is damaged"):
            integrity.read(path)


@often
@given(plain)
def test_what_is_sealed_is_opened(content: object) -> None:
    whole = {"metadata": {"a": 1}, "content": content}
    if content != content or "nan" in repr(content):
        return
    assert integrity.opened(integrity.sealed(whole)) == whole


entries = st.dictionaries(
    st.sampled_from(["images", "attributes", "shares", "prompts", "evaluators", "clip", "other"]),
    plain,
    max_size=5,
)


@often
@given(entries.map(repr) | texts | st.binary(max_size=60).map(lambda b: b.decode("latin1")))
def test_a_study(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.yml"
        path.write_text(text, encoding="utf-8")
        read_or_one_line(lambda: read_declaration(path))


cells = st.sampled_from(["file", "gender", "a.png", "b.png", "male", "female", "", ",", '"', "\n"])


@often
@given(st.lists(cells, max_size=24).map("".join) | texts)
def test_a_table_of_labels(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.png", "b.png"):
            Image.new("RGB", (4, 4)).save(Path(folder) / name)
        (Path(folder) / "labels.csv").write_text(text, encoding="utf-8")
        read_or_one_line(lambda: read_labels(Path(folder)))


@often
@given(entries.map(repr) | texts, texts)
def test_a_submission(card: str, code: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "mine"
        folder.mkdir()
        (folder / "method.yml").write_text(card, encoding="utf-8")
        (folder / "method.py").write_text(code, encoding="utf-8")
        read_or_one_line(lambda: Submission.read(folder))


def test_what_is_no_line_is_noticed() -> None:
    def two_lines() -> None:
        raise ValueError("a\nb")

    with pytest.raises(AssertionError):
        read_or_one_line(two_lines)
