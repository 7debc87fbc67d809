"""Executing, assembling and promoting notebooks: on tiny ones, without a kernel where possible."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import nbformat
import pytest
import torch
import yaml
from examples import examples
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import difflens_utils as dl
from difflens_utils.pages import results, rules, scorecard
from difflens_utils.settings import Settings
from difflens_utils.subjects import registry
from difflens_utils.subjects.real import weights
from workflow import assemble, atlas, cost, execute, inputs, reference, verdicts

REPOSITORY = Path(__file__).parents[1]

PARAMETERS = """subject: str = "portraits"  # the model under study
settings: dict = {}  # fields of Settings
β: float = 1.0  # strength; β = 1 is the identity
ks: list[int] = [16, 32]  # active latents
layer: str | None = None  # the last one if None"""

WRITES = """import json
from pathlib import Path
from workflow.execute import slug
path = Path("_build/results", settings["profile"], slug(subject), "00_tiny.json")
path.parent.mkdir(parents=True, exist_ok=True)
_ = path.write_text(json.dumps({"notebook": "00_tiny", "subject": subject}))"""


def ran(
    command: str,
    *words: object,
    cwd: Path = REPOSITORY,
    python: str | Path = sys.executable,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    """What Python has done with the words of a command, and with further ones that have spaces."""
    return subprocess.run(
        [python, *command.split(), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def tiny(*cells: str) -> nbformat.NotebookNode:
    return new_notebook(
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
        cells=[
            new_markdown_cell("# A card"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            *map(new_code_cell, cells),
        ],
    )


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one tiny notebook and a profile."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "workflow/profiles").mkdir(parents=True)
    (tmp_path / "workflow/profiles/quick.yml").write_text(
        "all: {seed: 3, elsewhere: 1}\n00_tiny: {ks: [8]}\n"
    )
    nbformat.write(tiny("print(settings)"), tmp_path / "notebooks/00_tiny.ipynb")
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(execute, "PROFILES", ("book", "quick"))
    return tmp_path


def with_code(study: Path) -> None:
    """What a notebook of the study imports."""
    package = ("runtime/integrity.py", "runtime/names.py", "settings.py")
    for name in ("workflow/execute.py", *(f"difflens_utils/{module}" for module in package)):
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, study / name)


def planned(profile: str = "book", subject: str = "portraits", **sizes: object) -> dict:
    """What is injected, with settings that are given as `seed_`, and own sizes as they are."""
    settings = {name[:-1]: sizes.pop(name) for name in list(sizes) if name.endswith("_")}
    return {"subject": subject, "settings": {"profile": profile, **settings}, **sizes}


def test_parameters_are_read_with_types_defaults_and_comments() -> None:
    known = execute.parameters(tiny())
    assert list(known) == ["subject", "settings", "β", "ks", "layer"]
    assert known["β"] == execute.Parameter("β", "float", 1.0, "strength; β = 1 is the identity")
    assert known["ks"].default == [16, 32] and known["layer"].type == "str | None"
    assert list(execute.own_sizes(tiny())) == ["β", "ks", "layer"]


def test_settings_are_those_of_the_package() -> None:
    assert {name: s.default for name, s in execute.SETTINGS.items()} == asdict(Settings())
    assert {name: s.comment for name, s in execute.SETTINGS.items()} == Settings.meanings()
    for setting in execute.SETTINGS.values():
        assert setting.check(setting.default) == setting.default


def test_plan_for_the_book_and_for_another_profile(study: Path) -> None:
    assert execute.plan("00_tiny", "book", "portraits", []) == planned()
    assert execute.plan("00_tiny", "quick", "portraits", []) == planned("quick", seed_=3, ks=[8])


@pytest.mark.parametrize("arguments", examples(), ids=" ".join)
def test_no_example_of_the_documentation_is_refused_by_its_notebook(arguments: list[str]) -> None:
    """Here, where it takes no book: `examples.py` executes them after one."""
    args = execute._parser().parse_args(arguments)
    sizes = execute.plan(args.notebook, args.profile, args.subject, args.choices)
    study = dl.open(sizes.pop("subject"), **sizes.pop("settings"))
    notebook = nbformat.read(REPOSITORY / f"notebooks/{args.notebook}.ipynb", as_version=4)
    defaults = {name: size.default for name, size in execute.own_sizes(notebook).items()}
    study.page(args.notebook, **defaults | sizes)


def test_values_of_ones_own_never_replace_a_page_of_the_book(study: Path) -> None:
    assert execute.plan("00_tiny", "book", "a", [("seed", "5")]) == planned("mine", "a", seed_=5)
    sizes = execute.plan("00_tiny", "quick", "a", [("ks", "[4]"), ("β", "2"), ("layer", "None")])
    assert sizes == planned("mine", "a", seed_=3, ks=[4], β=2, layer=None)
    # a device is where, not what
    assert execute.plan("00_tiny", "book", "a", [("device", "cuda")]) == planned(
        "book", "a", device_="cuda"
    )


def test_settings_reach_a_notebook_by_name_or_together_without_the_defaults(study: Path) -> None:
    together = execute.plan("00_tiny", "quick", "a", [("settings", "{'seed': 0, 'k': 64}")])
    by_name = execute.plan("notebooks/00_tiny.ipynb", "quick", "a", [("seed", "0"), ("k", "64")])
    assert together == by_name == planned("mine", "a", k_=64, ks=[8])
    last = execute.plan("00_tiny", "book", "a", [("k", "8"), ("settings", "{'k': 9}")])
    assert last == planned("mine", "a", k_=9)
    (study / "workflow/profiles/quick.yml").write_text("00_tiny: {max_density: 1, module: mid}\n")
    assert execute.plan("00_tiny", "quick", "a", []) == planned(
        "quick", "a", module_="mid", max_density_=1.0
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("00_tiny", "book", [("sed", "1")]), "parameter of 00_tiny must be one of seed, "),
        (("09_none", "book", []), "notebook must be one of 00_tiny"),
        (("00_tiny", "huge", []), "profile must be one of book, quick"),
        (("00_tiny", "book", [("seed", "many")]), "seed must be of type int; got 'many'"),
        (("00_tiny", "book", [("seed", "True")]), "seed must be of type int; got True"),
        (("00_tiny", "book", [("n_image", "1")]), "parameter of 00_tiny must be one of n_images, "),
        (("00_tiny", "book", [("profile", "x")]), "parameter of 00_tiny must be one of "),
        (("00_tiny", "book", [("settings", "{'ke': 1}")]), "a name in settings must be one of k, "),
        (("00_tiny", "book", [("settings", "{'k': 'a'}")]), "k must be of type int; got 'a'"),
        (("00_tiny", "book", [("settings", "{'profile': 'x'}")]), "a name in settings must be"),
        (("00_tiny", "book", [("settings", "3")]), "settings must be of type dict[str, Any]"),
    ],
)
def test_bad_input_gets_one_line_before_anything_runs(
    study: Path, arguments: tuple, told: str
) -> None:
    notebook, profile, own = arguments
    with pytest.raises(ValueError, match=told.replace("[", r"\[")) as caught:
        execute.plan(notebook, profile, "portraits", own)
    assert "\n" not in str(caught.value)


def test_a_profile_with_an_unknown_parameter_is_refused(study: Path) -> None:
    (study / "workflow/profiles/quick.yml").write_text("00_tiny: {stepps: 3}\n")
    with pytest.raises(ValueError, match="quick.yml: a parameter of 00_tiny must be one of steps"):
        execute.plan("00_tiny", "quick", "portraits", [])


def test_command_line_says_it_in_one_line() -> None:
    done = ran("workflow/execute.py 99_none")
    assert done.returncode == 1 and done.stderr.startswith("error: notebook must be one of")
    assert done.stderr.count("\n") == 1


def test_an_executed_notebook_appears_whole_or_not_at_all(
    study: Path, capfd: pytest.CaptureFixture
) -> None:
    with_code(study)
    nbformat.write(
        tiny(WRITES, "assert settings.get('seed') != 7, 'seed seven'"),
        study / "notebooks/00_tiny.ipynb",
    )
    with pytest.raises(
        SystemExit, match=r"00_tiny: AssertionError: seed seven \(cell 4; .*partial-00_tiny.ipynb"
    ):
        execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", [("seed", "7")]))
    assert not execute.executed_path("mine", "a/b", "00_tiny").exists()

    path = execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", []))
    assert path == study / "_build/executed/book/a--b/00_tiny.ipynb" and path.exists()
    assert not list(execute.integrity.damaged([path]))
    assert not list(path.parent.glob("partial-*"))

    nbformat.write(tiny("1"), study / "notebooks/00_tiny.ipynb")
    execute.result_path("book", "a/b", "00_tiny").unlink()
    with pytest.raises(SystemExit, match="wrote no _build/results/book/a--b/00_tiny.json"):
        execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", []))


def judged(*verdicts: tuple[str, str | None, bool, float | None]) -> dict[str, dict]:
    """Result files {notebook: result} with verdicts: (says, claim, holds, stability) each."""
    entry = {"rule": "x", "records": ["gender.fd"], "asks": "above 0.2", "chance": "gender.chance"}
    names = ("says", "claim", "holds", "stability")
    values = {"gender.fd": 0.27812, "gender.chance": 0.05, "gender.original.fd": 0.5}
    values["gender.difflens_best.fd"] = 0.1
    result = {
        "notebook": "06_debiasing",
        "subject": "a",
        "rules": rules.fingerprint(),
        "records": [
            {"name": name, "value": value, "low": 0.26, "high": 0.2999, "n": 1000, "seed": 0}
            for name, value in values.items()
        ],
        "verdicts": [entry | dict(zip(names, verdict, strict=True)) for verdict in verdicts],
    }
    return {"06_debiasing": result}


RESULTS = judged(
    ("it is clear", None, True, None),
    ("biased | so", "C1", True, 1.0),
    ("fair", "C1", False, 0.6),
    ("best", "C12", False, 0.98),
)


def test_verdicts_are_rows_in_the_order_of_the_claims_and_checks_stand_apart() -> None:
    counted, checks = verdicts.rows(RESULTS)
    figures = ("06_debiasing", "0.278 [0.260, 0.300]", "above 0.2", "0.05")
    assert counted[1:] == [
        ("C12", "best", *figures, "does not hold", "98 %"),
        ("C1", "biased | so", *figures, "holds", "100 %"),
        ("C1", "fair", *figures, "undecided, holds in 40 % of resamples", "60 %"),
    ]
    assert checks[1:] == [("it is clear", *figures, "holds", "")]
    table = verdicts.markdown(RESULTS, lambda name: f"[{name}](x)").splitlines()
    assert table[0].startswith("| claim | statement | notebook | measured | asked | by chance |")
    assert table[3].startswith(r"| C1 | biased \| so | [06_debiasing](x) | 0.278 [0.260, 0.300] | ")
    assert "Checks, which belong to no claim:" in table
    assert len({len(line) for line in verdicts.text(RESULTS).splitlines()[:2]}) == 1


def test_the_scorecard_has_a_row_for_each_claim_with_its_counts_first() -> None:
    other = judged(("best", "C12", True, 1.0))
    card = verdicts.scorecard({"a": RESULTS, "b": other}, lambda name, text: f"[{text}]({name})")
    header, _, *lines = card.splitlines()
    assert header == "| `a` | `b` | claim, and what `a` shows of it |"
    assert len(lines) == len(scorecard.CLAIMS) == 13
    for claim, line in zip(scorecard.CLAIMS, lines, strict=True):
        assert f"**[{claim.id}]({claim.notebook}) {claim.text}.**" in line
    assert lines[0].startswith("| 0 of 1 hold | **1 of 1 hold** | **[C12]")
    assert lines[1].startswith("| 1 of 2 hold, 1 undecided | cannot be tested here | **[C1]")
    assert verdicts.scorecard({"a": {}}, lambda _name, text: text) == ""


def executed_twin(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` as papermill leaves it."""
    done = nbformat.from_dict(source)
    injected = {"subject": "portraits", "settings": {"profile": "book"}, "β": 1.0}
    done.metadata["papermill"] = {"parameters": injected}
    for number, cell in enumerate(c for c in done.cells if c.cell_type == "code"):
        cell.execution_count, cell.metadata["papermill"] = number, {"duration": 1.0}
        cell.outputs = [
            new_output("execute_result", {"text/plain": str(number)}, execution_count=number)
        ]
    done.cells.insert(2, new_code_cell("β = 1.0", metadata={"tags": ["injected-parameters"]}))
    return done


def test_reference_keeps_the_outputs_of_checked_cells_only() -> None:
    source = tiny("1", "2")
    source.cells[3].metadata["tags"] = ["nbval-check-output"]
    kept = reference.with_checked_outputs(nbformat.from_dict(source), executed_twin(source))
    assert [len(cell.get("outputs", [])) for cell in kept.cells] == [0, 0, 0, 1]
    assert kept.cells[3].outputs[0].data == {"text/plain": "2"}
    assert [cell.get("execution_count") for cell in kept.cells] == [
        None,
        None,
        None,
        3,
    ]  # its place
    assert kept.cells[3].outputs[0].execution_count == 3
    assert "papermill" not in kept.metadata and not any(
        "papermill" in cell.metadata for cell in kept.cells
    )
    again = reference.with_checked_outputs(nbformat.from_dict(kept), executed_twin(source))
    assert nbformat.writes(again) == nbformat.writes(kept)
    with pytest.raises(ValueError, match="has changed since"):
        reference.with_checked_outputs(tiny("1", "3"), executed_twin(source))


def test_what_becomes_the_reference_agrees_with_it() -> None:
    notebook = tiny("1", "page.judge()")
    notebook.cells[3].outputs = [new_output("stream", name="stdout", text="There are none.\n")]
    reference.agree(notebook)
    assert notebook.cells[3].outputs[0].text == f"{results.AGREED}\n"
    assert [len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"][:-1] == [0, 0]


def test_the_picture_is_that_of_the_tagged_cell() -> None:
    done = executed_twin(tiny("1", "2"))
    assert reference.picture(done) is None
    done.cells[-1].metadata["tags"] = ["result-picture"]
    done.cells[-1].outputs = [
        new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "a figure"})
    ]
    assert reference.picture(done) == b"hello"


def test_a_model_card_shows_what_the_result_file_holds() -> None:
    def record(
        name: str, value: float, low: float | None = None, high: float | None = None
    ) -> dict:
        return {"name": name, "value": value, "low": low, "high": high, "n": 2000, "seed": 0}

    card = reference.model_card(
        {
            "parameters": {"steps": 20},
            "records": [
                record("quality.frechet", 40.0, 35.0, 45.0),
                record("quality.frechet_floor", 10.0, 9.0, 11.0),
                record("quality.kernel", 0.5, 0.4, 0.6),
                record("quality.kernel_floor", 0.0, -0.1, 0.1),
                record("quality.agreement.age", 0.9, 0.88, 0.92),
                record("planted.hair_length.short", 0.25),
                record("share.hair_length.short", 0.5, 0.48, 0.52),
                record("planted.role.mage", 0.0),
                record("share.role.mage", 0.0, 0.0, 0.002),
            ],
        }
    )
    assert card.startswith("Of 2,000 generated images (20 steps, seed 0)")
    assert (
        "| Fréchet distance to the data, features of the scorer "
        "| 40.0 [35.0, 45.0] | 10.0 [9.0, 11.0] |" in card
    )
    assert (
        "| kernel distance (KID's estimator) to the data, features of the scorer "
        "| 0.500 [0.400, 0.600] | 0.000 [-0.100, 0.100] |" in card
    )
    assert "role: mage" not in card  # no prompt asks for it, and none is drawn
    assert "| both evaluators agree on age | 0.900 [0.880, 0.920] | |" in card
    assert "| hair length: short | 0.250 | 0.500 [0.480, 0.520] |" in card


def test_results_are_replaced_between_its_markers() -> None:
    readme = f"a\n{reference.START}\nold\n{reference.END}\nb\n"
    assert (
        reference.with_results(readme, "new") == f"a\n{reference.START}\nnew\n{reference.END}\nb\n"
    )


def test_a_page_has_the_parameters_that_were_injected_in_their_cell() -> None:
    source = tiny("1")
    for injected, line, instead in (
        ({}, "", ""),
        ({"β": 2.0}, "β: float = 1.0 ", "β: float = 2.0 "),
        ({"subject": "a/b"}, 'subject: str = "portraits"', 'subject: str = "a/b"'),
        ({"ks": [8], "layer": "mid"}, "ks: list[int] = [16, 32]", "ks: list[int] = [8]"),
        (
            {"settings": {"profile": "book", "seed": 1}},
            "settings: dict = {}",
            "settings: dict = {'seed': 1}",
        ),
    ):
        other = executed_twin(source)
        other.metadata["papermill"]["parameters"] |= injected
        page = assemble.page_of(other, "portraits")
        assert len(page.cells) == len(source.cells)
        before = next(c for c in source.cells if "parameters" in c.metadata.get("tags", ()))
        assert line in before.source
        after = page.cells[source.cells.index(before)].source
        if "layer" not in injected:
            assert after == before.source.replace(line, instead)
        else:
            assert instead in after and "'mid'" in after.replace('"', "'")
        assert execute.ast.parse(after)


def test_cells_about_prompts_are_for_models_that_read_them() -> None:
    for subject, shown in (("portraits", False), ("digits", False), ("emoji", True), ("a/b", True)):
        page = executed_twin(tiny("1"))
        page.cells.append(new_code_cell("prompts", metadata={"tags": ["texts"]}))
        cells = assemble.page_of(page, subject).cells
        assert any(cell.source == "prompts" for cell in cells) == shown


def test_a_page_says_nothing_of_other_subjects() -> None:
    page = executed_twin(tiny("1"))
    tags = ("portraits", "labelled", "digits", "emoji")
    for tag in tags:
        page.cells.append(nbformat.v4.new_markdown_cell(tag, metadata={"tags": [tag]}))
    for subject, kept in (
        ("portraits-t2i", ["portraits"]),
        ("digits", ["labelled", "digits"]),
        ("emoji", ["emoji"]),
        ("my-model", ["labelled"]),
    ):
        shown = assemble.page_of(nbformat.from_dict(page), subject).cells
        assert [c.source for c in shown if c.source in tags] == kept


def test_contents_follow_the_subjects_and_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atlas, "MEASURED", tmp_path)
    (tmp_path / "a--b").mkdir()
    (tmp_path / "a--b/atlas.json").write_text("{}")
    missing = ["bench", "law", "laboratory"]
    toc = assemble.contents(["portraits", "a/b"], {"00_bias": "The bias"}, missing)
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    own = ["notebooks/portraits/00_bias", "notebooks/a--b/00_bias", "atlas/a--b"]
    assert files[:5] == ["ten", "scratch", *own]
    assert "method" in files and not set(missing) & set(files)


def test_a_profile_may_have_sizes_of_its_own_for_one_subject(study: Path) -> None:
    (study / "workflow/profiles/book.a--b.yml").write_text("00_tiny: {ks: [2]}\n")
    (study / "workflow/profiles/quick.a--b.yml").write_text("all: {seed: 4}\n")
    assert execute.plan("00_tiny", "book", "a/b", []) == planned("book", "a/b", ks=[2])
    assert execute.plan("00_tiny", "quick", "a/b", []) == planned("quick", "a/b", seed_=4, ks=[8])
    assert execute.plan("00_tiny", "book", "portraits", []) == planned()


def test_the_page_of_parameters_has_one_table_of_settings_and_one_of_sizes(study: Path) -> None:
    page = assemble.parameters_page([study / "notebooks/00_tiny.ipynb"])
    settings, sizes = page.split("## `00_tiny`")
    assert (
        "| `k` | int | `32` | active latents per vector of the k-SAE | k-SAE, features, searches |"
        in settings
    )
    assert "| `layer` | str or None | `None` | the last one if None |" in sizes
    assert "| `subject`" not in sizes and "| `settings`" not in sizes
    assert "| `ks`" not in settings


def test_a_worker_keeps_neither_page_nor_result(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_code(study)
    shown = """import os
open("seen", "w").write(os.environ["DIFFLENS_WORKER"] + " " + os.environ["DIFFLENS_RESULTS"])"""
    nbformat.write(tiny(shown), study / "notebooks/00_tiny.ipynb")
    monkeypatch.setenv("DIFFLENS_WORKER", "1/2")  # what `main` sets
    monkeypatch.setenv("DIFFLENS_RESULTS", "")  # restored after the test
    execute.share("00_tiny", execute.plan("00_tiny", "book", "a/b", []))
    worker, results = (study / "seen").read_text().split()
    assert worker == "1/2" and results.startswith(str(study / "_build/workers/00_tiny-"))
    assert [path.name for path in (study / "_build").rglob("*")] == ["workers"]


def test_processes_of_accelerate_are_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert execute.launched() is None
    for name, value in {"RANK": "1", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert (
        execute.launched() == "1/3" and execute.launched() is None
    )  # the kernel is no member of the group


def snakemake(*arguments: str) -> str:
    options = "-n --forceall --nolock --cores 1"
    done = ran(f"-m snakemake -s workflow/Snakefile {options}", *arguments)
    return done.stdout + done.stderr


def test_shards_are_jobs_before_their_notebook_and_none_by_default() -> None:
    told = snakemake(
        "--config",
        "profile=quick",
        "subject=portraits",
        "shards={02_ksae: 3}",
        "--",
        "_build/results/quick/portraits/02_ksae.json",
    )
    assert (
        all(f"_build/workers/quick/portraits/02_ksae/{i}-of-3" in told for i in range(3))
        and "00_bias/0-of" not in told
    )
    assert "rule worker" not in snakemake(
        "--config",
        "profile=quick",
        "subject=portraits",
        "--",
        "_build/results/quick/portraits/02_ksae.json",
    )
    assert "shards must name notebooks among 00_bias" in snakemake("--config", "shards={02_x: 3}")


# The inputs of a dry run's jobs that execute notebooks, and the notebooks.
JOB = r"rule notebook:\n    input: (.*)\n    output: \S+/(\w+)\.ipynb,"


def test_chosen_notebooks_alone_are_executed_in_order() -> None:
    chosen = ("profile=try", "subject=digits", "notebooks=[00_bias, 05_interventions]")
    site = "_build/parts/try/digits/html/index.html"
    told = snakemake("-p", "--config", *chosen, "--", site)
    executed = r"_build/executed/try/digits/(\w+)\.ipynb"
    assert set(re.findall(executed, told)) == {"00_bias", "05_interventions"}
    inputs_of = {output: re.findall(executed, before) for before, output in re.findall(JOB, told)}
    assert inputs_of == {"00_bias": [], "05_interventions": ["00_bias"]}
    assert "--executed 00_bias 05_interventions --to _build/parts/try/digits" in told
    refused = snakemake("--config", "notebooks=[5_no]")
    assert "notebooks must be a list of 00_bias" in refused and "got 5_no" in refused


def test_make_try_asks_for_sizes_with_which_all_that_ships_is_found() -> None:
    command = ["make", "-n", "-o", ".venv/.ready", "try"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert " profile=try subject=digits " in done.stdout
    (names,) = re.findall(r"notebooks=\[(.*?)\]", done.stdout)
    (site,) = re.findall(r" -- (\S+)", done.stdout)
    told = snakemake(
        "--config", "profile=try", "subject=digits", f"notebooks=[{names}]", "--", site
    )
    for notebook in names.split(", "):
        assert f"output: _build/executed/try/digits/{notebook}.ipynb" in told
        book, small = (
            execute.settings_of(execute.plan(notebook, profile, "digits", []))
            for profile in ("book", "try")
        )
        assert book | {"profile": "try"} == small


def test_a_cluster_that_loses_jobs_says_which(tmp_path: Path) -> None:
    cluster = REPOSITORY / "workflow/profiles/local-cluster/cluster.py"
    (tmp_path / "job").write_text("#!/bin/sh\nexec sleep $1 5\n")
    (tmp_path / "good").write_text("#!/bin/sh\nexit 0\n")
    for script in ("job", "good"):
        (tmp_path / script).chmod(0o755)

    def call(*arguments: str, **environment: str) -> str:
        done = ran("", cluster, *arguments, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    jobs = [
        call("submit", str(tmp_path / "job"), LOSE="1", LOSE_WITHIN="0.2"),
        call("submit", str(tmp_path / "good"), LOSE="0"),
    ]
    deadline = time.time() + 20
    while (told := [call("status", job) for job in jobs]).count(
        "running"
    ) and time.time() < deadline:
        time.sleep(0.2)
    assert told == ["failed", "success"] and jobs == ["0", "1"]
    assert "job 0 was killed" in (tmp_path / "_build/cluster/0.log").read_text()


def test_kubernetes_jobs_are_filled_in_and_their_end_is_understood(tmp_path: Path) -> None:
    folder = REPOSITORY / "workflow/profiles/kubernetes"
    (tmp_path / "kubectl").write_text(
        "#!/bin/sh\ncase $1 in\n"
        'create) cat > manifest; printf difflens-x1;;\nget) printf "$TOLD";;\nesac\n'
    )
    (tmp_path / "kubectl").chmod(0o755)

    def call(*arguments: str, told: str = "") -> str:
        programs = f"{tmp_path}:{os.environ['PATH']}"
        done = ran("", folder / "cluster.py", *arguments, cwd=tmp_path, PATH=programs, TOLD=told)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert call("submit", "4", "1", "a/job.sh") == "difflens-x1"
    job = yaml.safe_load((tmp_path / "manifest").read_text())["spec"]["template"]["spec"]
    pod = job["containers"][0]
    assert pod["command"] == ["sh", str(tmp_path / "a/job.sh")]
    assert pod["workingDir"] == str(tmp_path)
    assert pod["resources"] == {
        "requests": {"cpu": 4, "memory": "32Gi"},
        "limits": {"nvidia.com/gpu": 1},
    }
    ends = {"": "failed", "there  ": "running", "there 1 ": "success", "there  1": "failed"}
    assert {told: call("status", "x", told=told) for told in ends} == ends


RATES = {
    "subject": "portraits",
    "device": "X",
    "cuda": False,
    "precision": "float32",
    "batch": 64,
    "images": 64,
    "steps": 10,
    "seed": 0,
    "repeats": 5,
    "images_per_second": {
        "bare pipeline": 11.0,
        "sampling": 10.0,
        "recording": 8.0,
        "symmetric edit": 9.0,
        "asymmetric edit": 5.0,
    },
    "activations_per_second": 80.0,
    "over_bare_percent": {"sampling": 10.0},
}


def counted(notebook: str, **drawn: int) -> dict:
    ways = {way.replace("_", " "): number for way, number in drawn.items()}
    return {
        "notebook": notebook,
        "parameters": {"steps": 50, "n_images": 2000},
        "records": [],
        "drawn": ways,
    }


def test_hours_are_images_times_steps_over_the_measured_rate() -> None:
    assert cost.hours(Counter({"sampling": 36000}), 50, RATES) == pytest.approx(5)
    results = [counted("00_bias", recording=6000), counted("06", asymmetric_edit=3600, sampling=0)]
    bias, edits = cost.table([*results, {"notebook": "07", "records": []}], RATES)
    assert bias.images == {"recording": 6000} and bias.hours == pytest.approx(6000 * 5 / 8 / 3600)
    assert edits.notebook == "06" and edits.hours == pytest.approx(1)


def test_the_recordings_of_a_profile_are_told_by_its_sizes() -> None:
    three = cost.recording("paper", [counted("00_bias", recording=6000)], RATES)
    assert three is not None and three.images == {"recording": 3 * 35000}
    assert three.hours == pytest.approx(3 * 35000 * 5 / 8 / 3600)
    assert cost.recording("paper", [counted("00_bias", recording=2001)], RATES) is None
    assert cost.recording("paper", [{"notebook": "00_bias", "parameters": {}}], RATES) is None


def test_counts_are_those_of_the_last_run_before_the_committed_ones(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "ROOT", study)
    monkeypatch.setattr(cost, "BUILD", study / "_build")
    assert cost.results_of("a/b") == {"book": []}
    folders = ("results/book", "_build/results/book", "_build/results/quick", "_build/results/mine")
    for number, folder in enumerate(folders):
        path = study / folder / "a--b/00_bias.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(number))
        expected = {"book": [min(number, 1)], "quick": [2]}
        assert cost.results_of("a/b") == {k: expected[k] for k in list(expected)[: max(1, number)]}


def test_the_page_on_scaling_says_itself_what_was_not_measured() -> None:
    page = assemble.scaling_tables([RATES])
    assert "None of the rates below is a GPU's" in page and "sampling +10 %" in page
    assert "counted" not in page and "profile" not in page  # result files without counts
    assert "| portraits | X, float32 | 64 | 11 | 10 | 8 | 9 | 5 | 80 |" in page
    assert "Nothing here" not in assemble.scaling_tables([RATES | {"cuda": True}])
    assert "No rates were measured" in assemble.scaling_tables([])
    results = {"portraits": {"book": [counted("00_bias", recording=2000)]}}
    page = assemble.scaling_tables([RATES], results)
    assert "| portraits, X | book | 00_bias | 0 | 2,000 | 0 | 0 | 0.347 |" in page
    assert "| paper, recordings alone | 00_bias | 0 | 35,000 | 0 | 0 | 6.08 |" in page


def test_lost_jobs_are_submitted_again(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "workflow/profiles", tmp_path / "workflow/profiles")
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    input: "0", "1"\nrule part:\n    output: touch("{n}")\n    shell: "true"\n'
    )
    losses = {"LOSE": "0.5", "LOSE_SEED": "2", "LOSE_WITHIN": "0.3"}
    profile = "workflow/profiles/local-cluster"
    done = ran(f"-m snakemake --profile {profile} -- 0 1", cwd=tmp_path, **losses)
    logs = [path.read_text() for path in (tmp_path / "_build/cluster").glob("*.log")]
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        (tmp_path / "0").exists()
        and (tmp_path / "1").exists()
        and any("was killed" in log for log in logs)
        and len(logs) > 2
    )


# --------------------------------------------------------------------------------------------------
# What people type: values, names with spaces, folders seen from elsewhere; and what then is stale


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("float", "2", 2.0),
        ("int", "2", 2),
        ("bool", "true", True),
        ("str", "5", "5"),
        ("str | None", "5", "5"),
        ("str | None", "None", None),
        ("tuple[int, ...]", "[1, 2]", (1, 2)),
        ("tuple[int, ...]", "(1, 2)", (1, 2)),
        ("list[float]", "[1, 2.5]", [1.0, 2.5]),
        ("list", "[1]", [1]),
        ("dict", "{'a': [0.5]}", {"a": [0.5]}),
        ("dict[str, list[float]]", "{'a': [1]}", {"a": [1.0]}),
        ("Optional[int]", "3", 3),
        ("", "[1]", [1]),
        ("Literal['a', 'b']", "b", "b"),
        ("int | None", "None", None),
    ],
)
def test_a_parameter_takes_values_of_its_annotated_type(
    annotation: str, text: str, value: object
) -> None:
    found = execute.Parameter("x", annotation, None, "").parse(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "True"),
        ("int", "1.0"),
        ("int", "1e999"),
        ("float", "True"),
        ("float", "1e999"),
        ("float", "inf"),
        ("float", "nan"),
        ("bool", "1"),
        ("tuple[int, ...]", "[1, 'a']"),
        ("tuple[int, int]", "[1, 2, 3]"),
        ("list[int]", "[1, True]"),
        ("list", "[1e999]"),
        ("list", "(1, 2)"),
        ("list", "a"),
        ("dict", "[1]"),
        ("dict", "{[]: 1}"),
        ("dict[str, float]", "{'a': True}"),
        ("dict", "{'a': [1e999]}"),
        ("int | None", "none"),
        ("Literal['a']", "c"),
        ("int", "many\nlines"),
        ("Nothing", "1"),
    ],
)
def test_a_parameter_of_another_type_is_named_in_one_line(annotation: str, text: str) -> None:
    with pytest.raises(ValueError, match="^strength (must be|has an annotation)") as caught:
        execute.Parameter("strength", annotation, None, "").parse(text)
    assert "\n" not in str(caught.value)


def test_what_yaml_calls_infinite_is_refused_in_a_profile(study: Path) -> None:
    (study / "workflow/profiles/quick.yml").write_text("00_tiny: {β: .inf}\n")
    with pytest.raises(ValueError, match="β must be finite; got inf"):
        execute.plan("00_tiny", "quick", "portraits", [])


def test_every_subject_has_a_folder_of_its_own_name() -> None:
    assert {
        name: execute.slug(name) for name in ("portraits-t2i", "my-model", "a/b", "size/größe_2.1")
    } == {
        "portraits-t2i": "portraits-t2i",
        "my-model": "my-model",
        "a/b": "a--b",
        "size/größe_2.1": "size--größe_2.1",
    }
    alike = [
        "my model",
        "my/model",
        "my--model",
        "my&model",
        "/my/model",
        "/my model",
        "/other/my-model",
        "/a/my-model",
        "my,model",
        "..",
        ".",
    ]
    slugs = [execute.slug(name) for name in alike]
    assert len(set(slugs)) == len(alike) and all(
        s == Path(s).name and not s.startswith((".", "-")) for s in slugs
    )
    assert [results.results_folder(name, "quick").name for name in alike] == slugs


def test_known_names_and_their_files_are_those_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(execute.KNOWN) == set(registry.SUBJECTS)
    for name, places in execute.names.FETCHED.items():
        asked: list[str] = []

        def require(*assets: str, root: Path | None = None, asked: list[str] = asked) -> list[Path]:
            asked.extend(assets)
            raise ValueError("asked")

        monkeypatch.setattr(weights, "require", require)
        with pytest.raises(ValueError, match="asked"):
            registry.SUBJECTS[name](torch.device("cpu"), torch.float32, tmp_path)
        there = {weights.ASSETS[asset].place for asset in asked}
        reference = {weights.ASSETS[asset].place for asset in ("celebahq", "ffhq")}
        assert there == {*places, *execute.names.FACES} - reference


def model(folder: Path) -> Path:
    """A folder that looks like a pipeline, with data and evaluators elsewhere."""
    data, judges = folder.parent / f"{folder.name} data", folder.parent / f"{folder.name} judges"
    files = {
        "model_index.json": "{}",
        "unet/config.json": "{}",
        "unet/diffusion_pytorch_model.fp16.safetensors": "w",
        "vae/model.bin": "w",
        "scheduler/scheduler_config.json": "{}",
        "tokenizer/merges.txt": "a b",
        "README.md": "a card",
        "search/gender/manifest.json": "{}",
        "study.yml": f"images: {data}\nattributes: [a]\n"
        f"evaluators: ../{judges.name}\nclip: ../{judges.name}/clip\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for path, text in {
        data / "labels.csv": "file,a\n0.png,x\n",
        data / "0.png": "p",
        judges / "scorer/model.safetensors": "w",
        judges / "clip/config.json": "{}",
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_folder_is_meant_from_where_it_is_typed(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = model(study.parent / f"{study.name} outside/my model")
    model(study / "studies/my-model")
    for name in ("digits", "a,b", "b"):
        model(study / f"studies/{name}")
    monkeypatch.chdir(study / "studies")
    assert (
        execute.located("my-model")
        == execute.located("./my-model")
        == execute.located(str(study / "studies/my-model"))
        == "studies/my-model"
    )
    assert (
        execute.located(f"../../{study.name} outside/my model")
        == str(outside)
        == execute.located(str(outside))
    )
    assert (
        execute.located("digits") == "digits" and execute.located("./digits") == "studies/digits"
    )  # a known name, and a folder
    assert execute.located("owner/name") == "owner/name"
    assert execute.subjects_of("portraits, a,b,my-model,b,") == [
        "portraits",
        "studies/a,b",
        "studies/my-model",
        "studies/b",
    ]
    monkeypatch.chdir(outside)
    assert execute.located(".") == str(outside)
    for name, told in {
        "studies/my-model": f"do you mean {study}/studies/my-model",
        "unet": "unet has no model_index.json",
        "./unet2": "no folder",
        "~/no/where": "no folder",
        "my modle/x": "no folder",
        "my modle": "subject must be one of",
        "/x": "no folder",
    }.items():
        with pytest.raises(ValueError, match=told):
            execute.located(name)


def test_the_command_line_means_what_is_in_its_folder(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "workflow/profiles/quick.studies--m.yml").write_text("00_tiny: {ks: [5]}\n")
    model(study / "studies/m")
    monkeypatch.chdir(study / "studies")
    monkeypatch.setenv("DIFFLENS_ARTIFACTS", "my store")
    monkeypatch.setenv("DIFFLENS_WEIGHTS", "")
    ran: list[dict] = []
    monkeypatch.setattr(
        execute, "run", lambda notebook, values: ran.append(values) or study / notebook
    )
    for given in (
        ["--subject", "m", "--profile", "quick"],
        ["-p", "subject", "m", "-p", "profile", "quick"],
    ):
        monkeypatch.setattr(sys, "argv", ["execute.py", "00_tiny", *given])
        execute.main()
        assert ran.pop() == planned("quick", "studies/m", seed_=3, ks=[5])
    assert (
        os.environ["DIFFLENS_ARTIFACTS"] == str(study / "studies/my store")
        and "DIFFLENS_WEIGHTS" not in os.environ
    )


def test_the_kernel_is_the_python_that_executes(
    study: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("jupyter") / "kernels/python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text(
        '{"argv": ["/bin/false", "{connection_file}"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(other.parents[1]))
    nbformat.write(
        tiny('import sys\n_ = open("python", "w").write(sys.executable)'),
        study / "notebooks/00_tiny.ipynb",
    )
    (study / "done").mkdir()
    execute.execute("00_tiny", planned(), study / "done/00_tiny.ipynb")
    assert (study / "python").read_text() == sys.executable


@pytest.mark.parametrize(
    "name",
    [
        "m/model_index.json",
        "m/unet/config.json",
        "m/unet/diffusion_pytorch_model.fp16.safetensors",
        "m/vae/model.bin",
        "m/tokenizer/merges.txt",
        "m/scheduler/scheduler_config.json",
        "m/study.yml",
        "m data/labels.csv",
        "m data/0.png",
        "m judges/scorer/model.safetensors",
        "m judges/clip/config.json",
    ],
)
def test_a_subject_is_all_of_its_files_by_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    subject, kept, path = str(model(tmp_path / "m")), tmp_path / "kept.json", tmp_path / name
    monkeypatch.setattr(
        inputs, "RECENT", -1
    )  # or what was written just now would be read each time
    before = inputs.digest(subject, kept)
    times = path.stat()
    os.utime(path, (1, 1))
    assert inputs.digest(subject, kept) == before
    text = path.read_text()
    path.write_text(text[:-1] + chr(ord(text[-1]) ^ 1))  # as long as before, and as old
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert inputs.digest(subject, kept) != before
    path.write_text(text)
    assert inputs.digest(subject, kept) == before
    path.unlink()
    assert inputs.digest(subject, kept) != before


@pytest.mark.parametrize("name", ["2024", "2024-05-01", "yes", "grün"])
def test_a_folder_of_images_is_called_what_stands_in_the_file(tmp_path: Path, name: str) -> None:
    """YAML would read a number, a date or a truth value; the study reads the text."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "0.png").write_bytes(b"a")
    (tmp_path / "study.yml").write_text(
        f"\ufeffimages: {name}\nattributes: [a]\n", encoding="utf-8"
    )
    before = inputs.digest(str(tmp_path), tmp_path / "kept.json")
    (tmp_path / name / "0.png").write_bytes(b"b")
    assert inputs.digest(str(tmp_path), tmp_path / "kept.json") != before


def test_other_versions_of_libraries_make_notebooks_stale() -> None:
    assert inputs.libraries()["torch"].startswith("2.") and "diffusers" in inputs.libraries()
    rules = (inputs.ROOT / "workflow/Snakefile").read_text()
    assert rules.count("libraries=inputs.libraries()") == 2  # of a notebook and of its workers


def test_what_a_subject_does_not_consist_of_makes_nothing_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, kept = str(model(tmp_path / "m")), tmp_path / "kept.json"
    monkeypatch.setattr(inputs, "RECENT", -1)
    before = inputs.digest(subject, kept)
    for name in (
        "m/README.md",
        "m/search/gender/manifest.json",
        "m/state.pt",
        "m/.git/config.json",
        "elsewhere.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("other")
    (tmp_path / "m/loop").symlink_to(tmp_path / "m")
    assert inputs.digest(subject, kept) == before
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("a file was read again"))
    assert inputs.digest(subject, kept) == before


def test_the_files_of_known_and_of_fetched_subjects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(subject: str) -> set[str]:
        return {str(path.relative_to(REPOSITORY)) for _, path in inputs.files_of(subject)}

    assert {
        "models/portraits/unet/config.json",
        "models/evaluators/scorer/model.safetensors",
        "models/clip/merges.txt",
    } <= found("portraits")
    assert {
        "models/portraits-t2i/vae/config.json",
        "models/portraits-t2i/clip/vocab.json",
    } <= found("portraits-t2i")
    digits = found("digits")
    assert {
        "models/digits/study.yml",
        "models/digits/images/labels.csv",
        "models/digits/images/0000.png",
    } <= digits
    assert not any("/search/" in name or name.endswith(".py") for name in digits)

    monkeypatch.setenv("DIFFLENS_WEIGHTS", str(tmp_path))
    digests = [inputs.digest("p2-celebahq", tmp_path / "kept.json")]
    for name in (
        "celebahq_p2.pt",
        "celebahq/deep/0.jpg",
        "celebahq/labels.csv",
        "res34_fair_align_multi_7_20190809.pt",
        "clip-vit-large-patch14/pytorch_model.bin",
        "inception-2015-12-05.pt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        digests.append(inputs.digest("p2-celebahq", tmp_path / "kept.json"))
    assert len(set(digests)) == 7
    (tmp_path / "ffhq").mkdir()
    (tmp_path / "ffhq/0.png").write_text("of Stable Diffusion")
    assert inputs.digest("p2-celebahq", tmp_path / "kept.json") == digests[-1]


def test_a_model_of_the_hub_is_what_its_cache_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert (
        inputs.is_hub_id("owner/name")
        and inputs.snapshot("owner/name") is None
        and inputs.files_of("owner/name") == []
    )
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("abc")
    (folder / "blobs").mkdir()
    (folder / "blobs/1").write_text("{}")
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "snapshots/abc/model_index.json").symlink_to("../../blobs/1")
    assert [path.name for _, path in inputs.files_of("owner/name")] == ["model_index.json"]


def test_what_the_hub_does_not_have_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched by the package, in a process of its own."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        ValueError, match="^subject owner/no-such-model is neither here nor"
    ) as told:
        inputs.fetch("owner/no-such-model")
    assert "\n" not in str(told.value)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """The repository without models, in a folder whose name needs quotes; one notebook is tiny."""
    folder = tmp_path / "it's my & stüdy"
    for name in ("workflow", "difflens_utils", "notebooks"):
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / ".venv").symlink_to(sys.prefix)
    nbformat.write(tiny(WRITES.replace("00_tiny", "00_bias")), folder / "notebooks/00_bias.ipynb")
    return folder


def test_a_folder_with_odd_characters_and_what_is_stale_in_it(odd: Path) -> None:
    subject = "my, moðel & x"
    model(odd / subject)
    target = f"_build/executed/quick/{execute.slug(subject)}/00_bias.ipynb"

    def make(*options: str) -> str:
        rules = "-m snakemake -s workflow/Snakefile --cores 1 --nolock"
        words = (*options, "--config", "profile=quick", "--", target)
        python = odd / ".venv/bin/python"  # the folder's own link to Python has the odd path too
        done = ran(rules, *words, cwd=odd, python=python, SUBJECT=subject)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    make("--quiet", "all")
    assert (
        nbformat.read(odd / target, as_version=4).metadata.papermill.parameters.subject == subject
    )
    weights_file = odd / subject / "unet/diffusion_pytorch_model.fp16.safetensors"
    weights_file.touch()
    assert "Nothing to be done" in make("-n")
    weights_file.write_text("v")
    assert "Params have changed" in make("-n")


def test_make_says_in_one_line_what_is_wrong(odd: Path) -> None:
    def make(**variables: str) -> list[str]:
        given = [f"{name}={value}" for name, value in variables.items()]
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
        done = subprocess.run(
            ["make", "-s", "-o", ".venv/.ready", "book", *given],
            cwd=odd,
            env=outer,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode
        return [line for line in done.stderr.splitlines() if not line.startswith("make")]

    assert make(SUBJECT="./my model") == [
        f"error: subject ./my model: there is no folder {odd}/my model"
    ]
    assert make(PROFILE="it's & large", SUBJECT="digits") == [
        'error: PROFILE must be one of book, paper, quick, try; got "it\'s & large"'
    ]


STUB = """
def gather(*_arguments):
    pass


def build(to=None):
    page = (to or BUILD) / "html/index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.touch()
    return page


"""


def with_stubbed_sites(folder: Path) -> None:
    """Of a copy of the repository: sites of one empty page."""
    for name in ("_config.yml", "_toc.yml", "models/emoji/occupations.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    assembles = folder / "workflow/assemble.py"
    main = 'if __name__ == "__main__":'
    assembles.write_text(assembles.read_text().replace(main, STUB + main))


def test_each_part_of_several_is_said_to_be_ready_once(odd: Path) -> None:
    with_stubbed_sites(odd)
    names = ["a", "b"]
    for name in names:
        model(odd / name)

    def lines() -> list[str]:
        rules = "-m snakemake -s workflow/Snakefile --cores 2 --nolock --quiet all --config"
        config = ("profile=quick", "notebooks=[00_bias]")
        done = ran(rules, *config, cwd=odd, SUBJECT=",".join(names))
        assert done.returncode == 0, done.stderr
        return sorted(done.stdout.splitlines())

    sites = [odd / f"_build/parts/quick/{name}/html/index.html" for name in names]
    told = lines()
    assert [line for line in told if "is ready" in line] == [
        f"{name} is ready: {site}" for name, site in zip(names, sites, strict=True)
    ]
    assert all(site.exists() for site in [*sites, odd / "_build/html/index.html"])
    assert lines() == []


def test_a_part_that_is_the_book_has_no_site_of_its_own() -> None:
    assert "rule part:" not in snakemake("--config", "subject=digits")
    assert snakemake("--config", "subject=digits,portraits").count("rule part:") == 2
    assert assemble.ready("digits", Path("x")) == "Part III (digits) is ready: x"


SNAKEFILE = """
from snakemake.logging import logger
from workflow.quiet import OneLine
logger.addHandler(OneLine())
rule all:
    input: "failed", "killed", "missing"
rule failed:
    output: "failed"
    shell: "exit 3"
rule killed:
    output: "killed"
    shell: "kill -9 $$"
rule missing:
    output: "missing"
    shell: "true"
"""


def test_what_snakemake_swallows_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    options = "--cores 1 -k --nolock --latency-wait 0 --quiet all"
    done = ran(f"-m snakemake {options}", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    told = sorted(done.stderr.splitlines())
    assert len(told) == 3 and "some output files are missing" in told[0] and "missing" in told[0]
    assert told[1:] == [
        "error: failed was not made: rule failed ended with exit status 3",
        "error: killed was not made: rule killed ended with <Signals.SIGKILL: 9>",
    ]


def test_a_job_of_kubernetes_runs_in_a_folder_with_odd_characters(tmp_path: Path) -> None:
    folder, programs = tmp_path / "it's: my, #1 [stüdy]", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "kubectl").write_text("#!/bin/sh\ncat > manifest\n")
    (programs / "kubectl").chmod(0o755)
    cluster = REPOSITORY / "workflow/profiles/kubernetes/cluster.py"
    path = f"{programs}:{os.environ['PATH']}"
    done = ran("", cluster, "submit", 4, 1, "a/job.sh", cwd=folder, PATH=path)
    assert done.returncode == 0, done.stderr
    job = yaml.safe_load((folder / "manifest").read_text())["spec"]["template"]["spec"]
    assert job["containers"][0]["workingDir"] == str(folder)
    assert job["containers"][0]["command"] == ["sh", str(folder / "a/job.sh")]


def test_defaults_and_profiles_are_of_the_annotated_types() -> None:
    for path in sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for parameter in execute.parameters(nbformat.read(path, as_version=4)).values():
            assert parameter.type and parameter.check(parameter.default) == parameter.default
        for profile in execute.PROFILES:
            for subject in execute.KNOWN:
                assert execute.profile_of(execute.plan(path.stem, profile, subject, [])) == profile


def test_two_kernels_share_no_port_and_each_answers(tmp_path: Path) -> None:
    from jupyter_client.manager import KernelManager

    managers = [execute.through_files(KernelManager)(kernel_name="python3") for _ in range(2)]
    infos = [manager.get_connection_info() for manager in managers]
    assert {info["transport"] for info in infos} == {"ipc"}
    assert infos[0]["ip"] != infos[1]["ip"]
    clients = []
    try:
        for manager in managers:
            manager.start_kernel(cwd=tmp_path)
            clients.append(manager.client())
            clients[-1].start_channels()
        for client in clients:
            client.wait_for_ready(timeout=execute.STARTS_WITHIN)
            reply = client.execute_interactive("1 + 1", timeout=60)
            assert reply["content"]["status"] == "ok"
    finally:
        for client in clients:
            client.stop_channels()
        for manager in managers:
            manager.shutdown_kernel(now=True)
    del manager, managers, client, clients
    gc.collect()
    assert not any(Path(info["ip"]).parent.exists() for info in infos)


def test_a_kernel_that_does_not_start_gets_one_line(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*_: object, **__: object) -> None:
        raise RuntimeError("Kernel didn't respond in 300 seconds")

    monkeypatch.setattr("papermill.execute_notebook", silent)
    with pytest.raises(SystemExit, match=r"^00_tiny: RuntimeError: Kernel didn't .*partial-00"):
        execute.run("00_tiny", planned())
