"""Execute one notebook: `python workflow/execute.py 05_interventions -p n_curve 64 -p k 16`.

`-p` sets a size of the notebook's own, or any of the settings that all notebooks share
(`difflens_utils/settings.py`). Everything is checked before a kernel starts: papermill itself only
warns about an unknown parameter and then runs for as long as it takes, with the default. A run with
values of its own is kept under the profile name `mine`, so that it never replaces a page of the
book.

Several processes may execute the same notebook and share its samplings: `--worker 1/4` is the
second of four, whose page and result file are thrown away. Under `accelerate launch` every process
is such a worker, and the first keeps page and result.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
import json
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
import typing
import weakref
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType

import nbformat
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
STARTS_WITHIN = 300  # seconds a kernel may take to start, on a busy machine
PROFILES = (
    "book",
    *sorted(p.stem for p in (ROOT / "workflow/profiles").glob("*.yml") if "." not in p.stem),
)


def _module(name: str) -> ModuleType:
    """A file of the package without the package around it, whose import takes torch's seconds."""
    path = ROOT / f"difflens_utils/{name}.py"
    spec = importlib.util.spec_from_file_location(f"difflens_{Path(name).name}_alone", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look annotations up
    spec.loader.exec_module(module)
    return module


names = _module("runtime/names")
integrity = _module("runtime/integrity")
Settings = _module("settings").Settings
slug = names.slug
KNOWN = (*names.SHIPPED, *names.FETCHED)
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


def located(subject: str) -> str:
    """What was typed in the current folder, as a subject: a known name, a folder, or a hub id.

    A folder in the repository is called by its path from the root, and any other by its absolute
    path, so that the kernel finds it. Raises ValueError, in one line, for a path that is no
    pipeline's folder: it is not looked up on the hub.
    """
    if subject in KNOWN:
        return subject
    path = _expanded(subject)
    full = path.resolve() if ".." in path.parts else path.absolute()
    if (full / "model_index.json").is_file():
        inside = str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else None
        return str(full) if inside is None or inside in KNOWN else inside
    if full.exists():
        raise ValueError(f"subject {subject}: {full} has no model_index.json, as a pipeline has")
    if "/" in subject and not HUB_ID.fullmatch(subject):
        raise ValueError(f"subject {subject}: there is no folder {full}")
    other = ROOT / path
    if other.exists():  # the kernel runs there, and would find it
        raise ValueError(f"subject {subject}: there is no folder {full}; do you mean {other}?")
    if "/" not in subject:
        one_of("subject", subject, [*KNOWN, "a folder with a model_index.json", "a hub id"])
    return subject


def _expanded(text: str) -> Path:
    """A path that may begin with ~; one of somebody who is not known here stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def subjects_of(text: str) -> list[str]:
    """The subjects of a list with commas, as `located` calls them; folders may have commas too."""
    pieces, subjects = text.split(","), []
    while pieces:
        joined = {n: ",".join(pieces[:n]).strip() for n in range(len(pieces), 0, -1)}
        count = next((n for n, name in joined.items() if name and Path(name).exists()), 1)
        if joined[count]:
            subjects.append(located(joined[count]))
        pieces = pieces[count:]
    return list(dict.fromkeys(subjects))


def one_of(parameter: str, value: object, allowed: Iterable[object]) -> None:
    """Raises ValueError, in one line, unless `value` is allowed."""
    allowed = [str(name) for name in allowed]
    if str(value) not in allowed:
        from difflens_utils.runtime import errors

        errors.one_of(parameter, value, allowed)


def names_of(
    parser: argparse.ArgumentParser, option: str, text: str, allowed: Iterable[object]
) -> list[str]:
    """The names of an option, separated by commas. Ends the program for one that is not allowed."""
    names, known = text.split(","), list(allowed)
    try:
        for name in names:
            one_of(option, name, known)
    except ValueError as error:
        parser.error(str(error))
    return names


def check_worker(text: str) -> None:
    """Raises ValueError, in one line, unless `text` names a worker, such as 1/4."""
    from difflens_utils.runtime.workers import worker

    worker(text)


def executed_path(profile: str, subject: str, notebook: str) -> Path:
    return BUILD / "executed" / profile / slug(subject) / f"{notebook}.ipynb"


def executed_notebook(profile: str, subject: str, notebook: str) -> nbformat.NotebookNode:
    """An executed notebook. Raises ValueError, in one line, for one that is damaged."""
    path = executed_path(profile, subject, notebook)
    return nbformat.reads(json.dumps(integrity.read(path)), as_version=4)


def result_path(profile: str, subject: str, notebook: str) -> Path:
    """Where the notebook itself writes its result file."""
    return BUILD / names.results_folder(subject, profile) / f"{notebook}.json"


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell, `name: type = default  # comment`, or one of the settings."""

    name: str
    type: str  # as annotated, "" if it is not
    default: object
    comment: str
    makes: str = ""  # what another value makes anew, of a setting

    def parse(self, text: str) -> object:
        """The value that a command line means by `text`.

        Raises ValueError if it is not of the annotated type.
        """
        if self.type == "str":
            return text
        try:
            literal = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError, TypeError):
            return self.check(text)
        try:
            return self.check(literal)
        except ValueError:
            with suppress(ValueError):  # of `str | None`, 5 may be a text
                return self.check(text)
            raise

    def check(self, value: object) -> object:
        """The value as the annotated type has it.

        An integer is a number too, a truth value is neither, and a list of YAML may be a tuple.
        Raises ValueError, in one line, for a value of another type, and for a number that is not
        finite.
        """
        if not _is_finite(value):
            raise ValueError(f"{self.name} must be finite; got {value!r}")
        readings = [value, tuple(value)] if isinstance(value, list) else [value]
        for reading in readings:
            with suppress(ValidationError):
                return self._adapter.validate_python(reading)
        raise ValueError(f"{self.name} must be of type {self.type or 'any'}; got {value!r}")

    @property
    def _adapter(self) -> TypeAdapter:
        try:
            # The annotation stands in a notebook, which is executed anyway.
            annotated = eval(self.type or "Any", vars(typing) | vars(builtins))
            return TypeAdapter(annotated, config=ConfigDict(strict=True))
        except Exception as error:
            fault = f"{self.name} has an annotation that is no type, {self.type}: {error}"
            raise ValueError(fault) from None


def _is_finite(value: object) -> bool:
    """Whether every number in a value is finite."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


SETTINGS = {
    field.name: Parameter(
        field.name,
        str(field.type),
        field.default,
        field.metadata["meaning"],
        field.metadata["makes"],
    )
    for field in fields(Settings)
}


def parameters(notebook: nbformat.NotebookNode) -> dict[str, Parameter]:
    """The parameters of a notebook, in order.

    Read from the syntax tree: `papermill.inspect_notebook` drops a line whose comment holds an
    equals sign.
    """
    cells = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    source = cells[0] if cells else ""
    lines, known = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        assert isinstance(target, ast.Name) and node.end_lineno and node.end_col_offset
        last = lines[node.end_lineno - 1].encode()  # ast counts columns in UTF-8 bytes
        after = last[node.end_col_offset :].decode().strip()
        known[target.id] = Parameter(
            target.id,
            ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else "",
            ast.literal_eval(node.value),
            after.removeprefix("#").strip(),
        )
    return known


def own_sizes(notebook: nbformat.NotebookNode) -> dict[str, Parameter]:
    """The parameters that a notebook has besides the subject and the settings."""
    shared = {"subject", "settings", *SETTINGS}
    return {name: p for name, p in parameters(notebook).items() if name not in shared}


def profile_files(profile: str, subject: str) -> list[Path]:
    """Where the values of a profile stand; without any they are the defaults.

    First the file for every subject, then the files for this subject in any profile, then those for
    this subject in this profile. A file that is not for every subject names its own behind the
    first dot, separated by commas: `any.sd-v1-5,sdxl.yml`.
    """
    folder = ROOT / "workflow/profiles"
    files = [folder / f"{profile}.yml"]
    for name in ("any", profile):
        for path in sorted(folder.glob(f"{name}.*.yml")):
            if slug(subject) in path.stem.partition(".")[2].split(","):
                files.append(path)
    return [path for path in files if path.exists()]


def overrides(
    notebook: str, profile: str, subject: str, known: Mapping[str, Parameter]
) -> dict[str, object]:
    """What a profile sets for a notebook: {name of a setting or of an own size: value}.

    `all` reaches every notebook that has the size, and its settings reach all notebooks.
    """
    one_of("profile", profile, PROFILES)
    values: dict[str, object] = {}
    for path in profile_files(profile, subject):
        sections = yaml.safe_load(path.read_text()) or {}
        for_all, for_this = sections.get("all") or {}, sections.get(notebook) or {}
        for name in for_this:
            one_of(f"{path.name}: a parameter of {notebook}", name, known)
        values |= {name: value for name, value in for_all.items() if name in known}
        values |= for_this
    return {name: known[name].check(value) for name, value in values.items()}


def plan(
    notebook: str, profile: str, subject: str, choices: Iterable[tuple[str, str]]
) -> dict[str, object]:
    """The parameters to inject: the subject, the settings that are no defaults, and own sizes.

    `choices` are names and values as they were typed. Raises ValueError, in one line, for anything
    that neither the notebook nor the settings know.
    """
    stem = Path(notebook).stem
    notebooks = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    one_of("notebook", stem, [path.stem for path in notebooks])
    source = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4)
    known = {**own_sizes(source), **SETTINGS}
    del known["profile"]  # which is named beside them
    values = overrides(stem, profile, subject, known)
    chosen: dict[str, object] = {}
    for name, text in choices:
        chosen |= _chosen(stem, name, text, known)
    values |= chosen
    label = "mine" if chosen.keys() - {"device"} else profile
    settings: dict[str, object] = {"profile": label}
    for name in [name for name in SETTINGS if name in values]:
        value = values.pop(name)
        if value != SETTINGS[name].default:
            settings[name] = value
    return {"subject": subject, "settings": settings, **values}


def _chosen(
    notebook: str, name: str, text: str, known: Mapping[str, Parameter]
) -> dict[str, object]:
    """What `-p name text` sets: one value, or those of a dictionary of settings."""
    if name != "settings":
        one_of(f"parameter of {notebook}", name, known)
        return {name: known[name].parse(text)}
    values = Parameter("settings", "dict[str, Any]", {}, "").parse(text)
    assert isinstance(values, dict)
    allowed = [setting for setting in SETTINGS if setting in known]
    for setting in values:
        one_of("a name in settings", setting, allowed)
    return {setting: SETTINGS[setting].check(value) for setting, value in values.items()}


def launched() -> str | None:
    """Which worker this process is, if `accelerate launch` or torchrun has started several.

    The variables go, because the kernel is no member of their group.
    """
    rank, count = (os.environ.pop(name, None) for name in ("RANK", "WORLD_SIZE"))
    return None if count in (None, "1") else f"{rank}/{count}"


def settings_of(values: Mapping[str, object]) -> dict[str, typing.Any]:
    """The settings among the parameters to inject."""
    settings = values["settings"]
    assert isinstance(settings, dict)
    return settings


def profile_of(values: Mapping[str, object]) -> str:
    """The profile under which a run with these parameters is kept."""
    return str(settings_of(values)["profile"])


def share(notebook: str, values: dict[str, object]) -> None:
    """Execute as a worker, into the store alone: page and result file are deleted.

    Raises SystemExit, in one line, if it fails.
    """
    (BUILD / "workers").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{notebook}-", dir=BUILD / "workers"))
    os.environ["DIFFLENS_RESULTS"] = str(folder)
    execute(notebook, values, folder / f"{notebook}.ipynb")
    shutil.rmtree(folder)


def run(notebook: str, values: dict[str, object]) -> Path:
    """Execute and return the executed notebook's path.

    Raises SystemExit, in one line, if it fails or writes no result file.
    """
    place = (profile_of(values), str(values["subject"]), notebook)
    target, result = executed_path(*place), result_path(*place)
    partial = target.with_name(f"partial-{notebook}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    began = time.time() - 1  # file systems may keep whole seconds only
    execute(notebook, values, partial)
    if not result.exists() or result.stat().st_mtime < began:
        missing, kept = result.relative_to(ROOT), partial.relative_to(ROOT)
        raise SystemExit(f"{notebook}: ran, but wrote no {missing} (the notebook: {kept})")
    partial.write_text(integrity.sealed(json.loads(partial.read_text("utf-8"))), "utf-8")
    os.replace(partial, target)
    return target


def execute(notebook: str, values: dict[str, object], partial: Path) -> None:
    """Execute a notebook into a file that holds it up to where it came.

    Raises SystemExit, in one line, if it fails.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    started = f"{notebook}  subject={values['subject']}  profile={profile_of(values)}"
    if worker := os.environ.get("DIFFLENS_WORKER"):
        started += f"  worker={worker}"
    print(started, file=sys.stderr, flush=True)
    kept = f"the notebook up to there: {partial.relative_to(ROOT)}"
    logging.getLogger("papermill").setLevel(logging.ERROR)  # warns of what `parameters` can read
    try:
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{notebook}.ipynb",
            partial,
            values,
            kernel_name="python3",
            cwd=ROOT,
            kernel_manager_class=_this_python(),
            start_timeout=STARTS_WITHIN,
            progress_bar=True,
            stderr_file=sys.stderr,  # the progress bars of the cells
            # ipykernel warns of the interrupt that ends it at last
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        reason = error.evalue.splitlines()[-1] if error.evalue else ""
        failure = f"{error.ename}: {reason} (cell {error.cell_index}; {kept})"
        raise SystemExit(f"{notebook}: {failure}") from None
    except (DeadKernelError, CellTimeoutError, OSError, RuntimeError) as error:
        raise SystemExit(f"{notebook}: {type(error).__name__}: {error} ({kept})") from None
    except KeyboardInterrupt:
        resumes = "the same command goes on from the stored artifacts"
        raise SystemExit(f"{notebook}: interrupted; {resumes}") from None


def _this_python() -> type:
    """A manager whose kernels run this process's Python, whatever `python3` means to Jupyter."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class ThisPython(through_files(AsyncKernelManager)):  # type: ignore[misc]
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    return ThisPython


def through_files(manager: type) -> type:
    """A manager of kernels, talking to each through sockets in a folder of its own.

    Kernels that start at once may otherwise choose the same TCP port, and one dies of it.
    """
    if os.name != "posix":
        return manager

    class ThroughFiles(manager):
        def __init__(self, **options: object) -> None:
            folder = tempfile.mkdtemp(prefix="kernel-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            super().__init__(**options | {"transport": "ipc", "ip": f"{folder}/socket"})

    return ThroughFiles


def _resolve_folders() -> None:
    """Make folders that the environment names absolute: the kernel runs elsewhere.

    Raises ValueError, in one line, for one that results could not be written to.
    """
    for name in ("DIFFLENS_ARTIFACTS", "DIFFLENS_WEIGHTS", "DIFFLENS_RESULTS"):
        folder = os.environ.pop(name, "")  # an empty one would be the current folder
        if folder:
            os.environ[name] = os.path.abspath(_expanded(folder))
            if name != "DIFFLENS_WEIGHTS":
                _check_writable(name, Path(os.environ[name]))


def _check_writable(name: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{name} is {folder}, where nothing can be written: {reason}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects = f"{', '.join(KNOWN)}, a folder with a model_index.json, or a hub id"
    profiles = f"sizes to run with: {', '.join(PROFILES)}"
    parser.add_argument("notebook", help="its name, such as 05_interventions")
    parser.add_argument("--profile", default="book", help=profiles)
    parser.add_argument("--subject", default="portraits", help=subjects)
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="choices",
        help="set a size of the notebook or one of the settings; may be repeated",
    )
    parser.add_argument(
        "--worker",
        metavar="I/N",
        help="share the samplings with the other workers 0/N .. (N-1)/N, and keep nothing else",
    )
    return parser


def main() -> None:
    args = _parser().parse_args()
    worker = args.worker or launched()
    # The sizes are those of the subject and the profile, whichever way these are named.
    named = {"subject": args.subject, "profile": args.profile} | dict(args.choices)
    choices = [choice for choice in args.choices if choice[0] not in ("subject", "profile")]
    try:
        _resolve_folders()
        values = plan(args.notebook, named["profile"], located(named["subject"]), choices)
        if worker:
            check_worker(worker)
            os.environ["DIFFLENS_WORKER"] = worker  # the kernel inherits it
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    notebook = Path(args.notebook).stem
    try:
        if args.worker or (worker and not worker.startswith("0/")):
            share(notebook, values)
        else:
            print(run(notebook, values).relative_to(ROOT))
    except OSError as error:  # of the build: those of the store are raised in the kernel
        raise SystemExit(f"{notebook}: {error}") from None


if __name__ == "__main__":
    main()
