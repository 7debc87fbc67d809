"""Execute one notebook: `python workflow/execute.py 05_interventions -p n_images 64 -p subject portraits`.

Everything is checked against the notebook's parameters cell before a kernel starts: papermill itself only warns about
an unknown parameter and then runs for as long as it takes, with the default. A run with values of its own (`-p`) is
kept under the profile name `mine`, so that it never replaces a page of the book.

Several processes may execute the same notebook and share its samplings: `--worker 1/4` is the second of four, whose page and
result file are thrown away. Under `accelerate launch` every process is such a worker, and the first keeps page and result.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib.util
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import time
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nbformat
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build"
PROFILES = (
    "book",
    *sorted(p.stem for p in (ROOT / "workflow/profiles").glob("*.yml") if "." not in p.stem),
)


def _names() -> ModuleType:
    """difflens_utils/names.py without the package around it, whose import takes torch's seconds."""
    spec = importlib.util.spec_from_file_location("names", ROOT / "difflens_utils/names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


names = _names()
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
    path = Path(subject).expanduser()
    full = path.resolve() if ".." in path.parts else path.absolute()
    if (full / "model_index.json").is_file():
        inside = str(full.relative_to(ROOT)) if full.is_relative_to(ROOT) else None
        return str(full) if inside is None or inside in KNOWN else inside
    if full.exists():
        raise ValueError(f"subject {subject}: {full} has no model_index.json, as a pipeline has")
    if "/" in subject and not HUB_ID.fullmatch(subject):
        raise ValueError(f"subject {subject}: there is no folder {full}")
    if (other := ROOT / path).exists():  # the kernel runs there, and would find it
        raise ValueError(f"subject {subject}: there is no folder {full}; do you mean {other}?")
    if "/" not in subject:
        one_of("subject", subject, [*KNOWN, "a folder with a model_index.json", "a hub id"])
    return subject


def subjects_of(text: str) -> list[str]:
    """The subjects of a list with commas, as `located` calls them; folders may have commas too."""
    pieces, found = text.split(","), []
    while pieces:
        joined = {n: ",".join(pieces[:n]).strip() for n in range(len(pieces), 0, -1)}
        count = next((n for n, name in joined.items() if name and Path(name).exists()), 1)
        found += [located(joined[count])] if joined[count] else []
        pieces = pieces[count:]
    return list(dict.fromkeys(found))


def one_of(parameter: str, value: object, allowed: Iterable[object]) -> None:
    from difflens_utils.errors import (
        one_of,
    )  # imports torch: seconds that the workflow itself can do without

    one_of(parameter, value, allowed)


def check_worker(text: str) -> None:
    from difflens_utils.workers import worker

    worker(text)


def executed_path(profile: str, subject: str, notebook: str) -> Path:
    return BUILD / "executed" / profile / slug(subject) / f"{notebook}.ipynb"


def result_path(profile: str, subject: str, notebook: str) -> Path:
    """Where the notebook itself writes its result file."""
    return BUILD / names.results_folder(subject, profile) / f"{notebook}.json"


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # comment`."""

    name: str
    type: str  # as annotated, "" if it is not
    default: object
    comment: str

    def parse(self, text: str) -> object:
        """The value that a command line means by `text`; ValueError if it is not of the annotated type."""
        if self.type == "str":
            return text
        try:
            value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
        except (ValueError, SyntaxError, TypeError):
            return self.check(text)
        try:
            return self.check(value)
        except ValueError as error:  # of `str | None`, 5 may be a text
            try:
                return self.check(text)
            except ValueError:
                raise error from None

    def check(self, value: object) -> object:
        """The value as the annotated type has it; ValueError, in one line, if it has no such value.

        An integer is a number too, a truth value is neither, and a list of YAML may be a tuple.
        Numbers are finite.
        """
        refused = ValueError(f"{self.name} must be of type {self.type or 'any'}; got {value!r}")
        if not _finite(value):
            raise ValueError(f"{self.name} must be finite; got {value!r}")
        try:
            return self._adapter.validate_python(value)
        except ValidationError:
            if not isinstance(value, list):
                raise refused from None
        try:
            return self._adapter.validate_python(tuple(value))
        except ValidationError:
            raise refused from None

    @property
    def _adapter(self) -> TypeAdapter:
        try:
            # The annotation stands in a notebook, which is executed anyway.
            annotated = eval(self.type or "Any", vars(typing) | vars(builtins))
            return TypeAdapter(annotated, config=ConfigDict(strict=True))
        except Exception as error:
            told = f"{self.name} has an annotation that is no type, {self.type}: {error}"
            raise ValueError(told) from None


def _finite(value: object) -> bool:
    """Whether every number in a value is finite."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple | set):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def parameters(notebook: nbformat.NotebookNode) -> dict[str, Parameter]:
    """The parameters of a notebook, in order.

    Read from the syntax tree: `papermill.inspect_notebook` drops a line whose comment holds an equals sign.
    """
    source = next(
        (c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])), ""
    )
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        # ast counts columns in UTF-8 bytes
        after = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
        found[target.id] = Parameter(
            target.id,
            ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else "",
            ast.literal_eval(node.value),
            after.removeprefix("#").strip(),
        )
    return found


def profile_files(profile: str, subject: str) -> list[Path]:
    """Where the sizes of a profile stand: for every subject, for this one in any profile, and for both. Without them they are the notebooks' own defaults.

    A file that is not for every subject names its own behind the first dot, separated by commas: `any.sd-v1-5,sdxl.yml`.
    """
    folder = ROOT / "workflow/profiles"
    own = [
        path
        for name in ("any", profile)
        for path in sorted(folder.glob(f"{name}.*.yml"))
        if slug(subject) in path.stem.partition(".")[2].split(",")
    ]
    return [path for path in (folder / f"{profile}.yml", *own) if path.exists()]


def overrides(
    notebook: str, profile: str, subject: str, known: dict[str, Parameter]
) -> dict[str, object]:
    """What a profile sets for a notebook. `all` reaches every notebook that has the parameter."""
    one_of("profile", profile, PROFILES)
    found: dict[str, object] = {}
    for path in profile_files(profile, subject):
        values = yaml.safe_load(path.read_text()) or {}
        for name in (own := values.get(notebook) or {}):
            one_of(f"{path.name}: a parameter of {notebook}", name, known)
        found |= {k: v for k, v in (values.get("all") or {}).items() if k in known} | own
    return {name: known[name].check(value) for name, value in found.items()}


def plan(
    notebook: str, profile: str, subject: str, own: list[tuple[str, str]]
) -> dict[str, object]:
    """The parameters to inject; ValueError, in one line, for anything that the notebook does not know."""
    stem = Path(notebook).stem
    one_of(
        "notebook", stem, sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    )
    known = parameters(nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4))
    for name, _ in own:
        one_of(f"parameter of {stem}", name, known)
    values = {"subject": subject, "profile": profile, **overrides(stem, profile, subject, known)}
    chosen = {name: known[name].parse(text) for name, text in own}
    if chosen.keys() - {"subject", "device", "profile"}:
        values["profile"] = "mine"
    return {**values, **chosen}


def launched() -> str | None:
    """Which worker this process is, if `accelerate launch` or torchrun has started several; the kernel is no member of their group."""
    rank, count = (os.environ.pop(name, None) for name in ("RANK", "WORLD_SIZE"))
    return None if count in (None, "1") else f"{rank}/{count}"


def share(notebook: str, values: dict[str, object]) -> None:
    """Execute as a worker, into the store alone: page and result file go; SystemExit, in one line, if it fails."""
    (BUILD / "workers").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{notebook}-", dir=BUILD / "workers"))
    os.environ["DIFFLENS_RESULTS"] = str(folder)
    execute(notebook, values, folder / f"{notebook}.ipynb")
    shutil.rmtree(folder)


def run(notebook: str, values: dict[str, object]) -> Path:
    """Execute and return the executed notebook's path; SystemExit, in one line, if it fails or has no result."""
    where = (str(values["profile"]), str(values["subject"]), notebook)
    target, result = executed_path(*where), result_path(*where)
    partial = target.with_name(f"partial-{notebook}.ipynb")
    target.parent.mkdir(parents=True, exist_ok=True)
    began = time.time()
    execute(notebook, values, partial)
    if (
        not result.exists() or result.stat().st_mtime < began - 1
    ):  # file systems may keep whole seconds only
        raise SystemExit(
            f"{notebook}: ran, but wrote no {result.relative_to(ROOT)} (the notebook: {partial.relative_to(ROOT)})"
        )
    os.replace(partial, target)
    return target


def execute(notebook: str, values: dict[str, object], partial: Path) -> None:
    """Execute a notebook into a file that holds it up to where it came; SystemExit, in one line, if it fails."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    worker = os.environ.get("DIFFLENS_WORKER")
    print(
        f"{notebook}  subject={values['subject']}  profile={values['profile']}{f'  worker={worker}' * bool(worker)}",
        file=sys.stderr,
        flush=True,
    )
    shown = partial.relative_to(ROOT)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # warns of what `parameters` can read
    try:
        # The progress bars of the cells are their stderr. ipykernel warns, on each start, of its local TCP connection.
        papermill.execute_notebook(
            ROOT / "notebooks" / f"{notebook}.ipynb",
            partial,
            values,
            kernel_name="python3",
            cwd=ROOT,
            kernel_manager_class=_own_python(),
            progress_bar=True,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=ERROR"],
        )
    except papermill.PapermillExecutionError as error:
        raise SystemExit(
            f"{notebook}: {error.ename}: {error.evalue.splitlines()[-1] if error.evalue else ''} "
            f"(cell {error.cell_index}; the notebook up to there: {shown})"
        ) from None
    except (DeadKernelError, CellTimeoutError, OSError) as error:
        raise SystemExit(
            f"{notebook}: {type(error).__name__}: {error} (the notebook up to there: {shown})"
        ) from None
    except KeyboardInterrupt:
        raise SystemExit(
            f"{notebook}: interrupted; the same command goes on from the stored artifacts"
        ) from None


def _own_python() -> type:
    """A manager whose kernels run this process's Python, whatever `python3` means to Jupyter."""
    from ipykernel.kernelspec import get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnPython(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(**get_kernel_dict())

    return OwnPython


def _resolve_folders() -> None:
    """Make folders that the environment names absolute: the kernel runs elsewhere."""
    for name in ("DIFFLENS_ARTIFACTS", "DIFFLENS_WEIGHTS", "DIFFLENS_RESULTS"):
        if folder := os.environ.get(name):
            os.environ[name] = os.path.abspath(Path(folder).expanduser())
        else:
            os.environ.pop(name, None)  # an empty one would be the current folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", help="its name, such as 05_interventions")
    parser.add_argument(
        "--profile", default="book", help=f"sizes to run with: {', '.join(PROFILES)}"
    )
    parser.add_argument(
        "--subject",
        default="portraits",
        help=f"{', '.join(KNOWN)}, a folder with a model_index.json, or a hub id",
    )
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        dest="own",
        help="set one parameter of the notebook; may be repeated",
    )
    parser.add_argument(
        "--worker",
        metavar="I/N",
        help="share the samplings with the other workers 0/N .. (N-1)/N, and keep nothing else",
    )
    args = parser.parse_args()
    worker = args.worker or launched()
    # The sizes are those of the subject and the profile, whichever way these are named.
    named = {"subject": args.subject, "profile": args.profile} | dict(args.own)
    own = [(name, value) for name, value in args.own if name not in ("subject", "profile")]
    _resolve_folders()
    try:
        values = plan(args.notebook, named["profile"], located(named["subject"]), own)
        if worker:
            check_worker(worker)
            os.environ["DIFFLENS_WORKER"] = worker  # the kernel inherits it
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    notebook = Path(args.notebook).stem
    if args.worker or (worker and not worker.startswith("0/")):
        share(notebook, values)
    else:
        print(run(notebook, values).relative_to(ROOT))


if __name__ == "__main__":
    main()
