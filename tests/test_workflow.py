"""Executing, assembling and promoting notebooks: on tiny ones, and without a kernel wherever that is enough."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from workflow import assemble, cost, execute, reference, verdicts

PARAMETERS = '''subject: str = "portraits"  # the model under study
profile: str = "book"  # sizes
seed: int = 0  # of every random draw
device: str = "auto"  # auto, cpu or cuda
β: float = 1.0  # strength; β = 1 is the identity
ks: list[int] = [16, 32]  # active latents
module: str | None = None  # the bottleneck if None'''

WRITES = '''import json
from pathlib import Path
from workflow.execute import slug
path = Path("_build/results", profile, slug(subject), "00_tiny.json")
path.parent.mkdir(parents=True, exist_ok=True)
_ = path.write_text(json.dumps({"notebook": "00_tiny", "subject": subject, "profile": profile,
                                "parameters": {"seed": seed}, "environment": {}, "records": [], "verdicts": []}))'''


def tiny(*cells: str) -> nbformat.NotebookNode:
    return new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        cells=[new_markdown_cell("# A card"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
               *map(new_code_cell, cells)])


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one tiny notebook and a profile."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "workflow/profiles").mkdir(parents=True)
    (tmp_path / "workflow/profiles/quick.yml").write_text("all: {seed: 3, elsewhere: 1}\n00_tiny: {ks: [8]}\n")
    nbformat.write(tiny("print(seed)"), tmp_path / "notebooks/00_tiny.ipynb")
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setattr(execute, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(execute, "PROFILES", ("book", "quick"))
    return tmp_path


def test_parameters_are_read_with_types_defaults_and_comments() -> None:
    known = execute.parameters(tiny())
    assert list(known) == ["subject", "profile", "seed", "device", "β", "ks", "module"]
    assert known["β"] == execute.Parameter("β", "float", 1.0, "strength; β = 1 is the identity")
    assert known["ks"].default == [16, 32] and known["module"].type == "str | None"


def test_plan_for_the_book_and_for_another_profile(study: Path) -> None:
    assert execute.plan("00_tiny", "book", "portraits", []) == {"subject": "portraits", "profile": "book"}
    assert execute.plan("00_tiny", "quick", "portraits", []) == {
        "subject": "portraits", "profile": "quick", "seed": 3, "ks": [8]}


def test_values_of_ones_own_never_replace_a_page_of_the_book(study: Path) -> None:
    assert execute.plan("00_tiny", "book", "portraits", [("seed", "5")])["profile"] == "mine"
    assert execute.plan("notebooks/00_tiny.ipynb", "book", "a", [("subject", "b")])["profile"] == "book"
    own = execute.plan("00_tiny", "book", "a", [("ks", "[4]"), ("β", "2"), ("module", "None"), ("profile", "trial")])
    assert own == {"subject": "a", "profile": "trial", "ks": [4], "β": 2, "module": None}


@pytest.mark.parametrize(("arguments", "told"), [
    (("00_tiny", "book", [("sed", "1")]), "parameter of 00_tiny must be one of seed, "),
    (("09_none", "book", []), "notebook must be one of 00_tiny"),
    (("00_tiny", "huge", []), "profile must be one of book, quick"),
    (("00_tiny", "book", [("seed", "many")]), "seed must be of type int; got 'many'"),
    (("00_tiny", "book", [("seed", "True")]), "seed must be of type int; got True"),
])
def test_bad_input_gets_one_line_before_anything_runs(study: Path, arguments: tuple, told: str) -> None:
    notebook, profile, own = arguments
    with pytest.raises(ValueError, match=told.replace("[", r"\[")) as caught:
        execute.plan(notebook, profile, "portraits", own)
    assert "\n" not in str(caught.value)


def test_a_profile_with_an_unknown_parameter_is_refused(study: Path) -> None:
    (study / "workflow/profiles/quick.yml").write_text("00_tiny: {sizes: 3}\n")
    with pytest.raises(ValueError, match="quick.yml: a parameter of 00_tiny must be one of"):
        execute.plan("00_tiny", "quick", "portraits", [])


def test_command_line_says_it_in_one_line() -> None:
    done = subprocess.run([sys.executable, "workflow/execute.py", "99_none"], cwd=Path(__file__).parents[1],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: notebook must be one of")
    assert done.stderr.count("\n") == 1


def test_an_executed_notebook_appears_whole_or_not_at_all(study: Path, capfd: pytest.CaptureFixture) -> None:
    (study / "workflow/execute.py").write_text(Path(execute.__file__).read_text())
    nbformat.write(tiny(WRITES, "assert seed != 7, 'seed seven'"), study / "notebooks/00_tiny.ipynb")
    with pytest.raises(SystemExit, match=r"00_tiny: AssertionError: seed seven \(cell 4; .*partial-00_tiny.ipynb"):
        execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", [("seed", "7")]))
    assert not execute.executed_path("mine", "a/b", "00_tiny").exists()

    path = execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", []))
    assert path == study / "_build/executed/book/a--b/00_tiny.ipynb" and path.exists()
    assert not list(path.parent.glob("partial-*"))

    nbformat.write(tiny("1"), study / "notebooks/00_tiny.ipynb")
    execute.result_path("book", "a/b", "00_tiny").unlink()
    with pytest.raises(SystemExit, match="wrote no _build/results/book/a--b/00_tiny.json"):
        execute.run("00_tiny", execute.plan("00_tiny", "book", "a/b", []))


RESULTS = [{
    "notebook": "00_bias",
    "records": [{"name": "gender.fd", "value": 0.27812, "low": 0.26, "high": 0.2999, "n": 1000, "seed": 0}],
    "verdicts": [
        {"claim": "biased | so", "target": "> 0.2", "verdict": "holds", "record": "gender.fd"},
        {"claim": "in words", "measured": "0.9 both ways", "target": 0.9, "verdict": "partly", "record": "gender.fd"},
        {"claim": "no record", "measured": 12345.6, "target": 10000, "verdict": "holds", "record": "missing"}]}]


def test_verdicts_are_rows_with_intervals() -> None:
    assert verdicts.rows(RESULTS) == [
        ("00_bias", "biased | so", "0.278 [0.26, 0.3]", "> 0.2", "holds"),
        ("00_bias", "in words", "0.9 both ways", "0.9", "partly"),
        ("00_bias", "no record", "12,346", "10,000", "holds")]
    table = verdicts.markdown(RESULTS, lambda name: f"[{name}](x)").splitlines()
    assert table[0] == "| notebook | claim | measured | target | verdict |"
    assert table[2] == r"| [00_bias](x) | biased \| so | 0.278 [0.26, 0.3] | > 0.2 | holds |"
    assert len({len(line) for line in verdicts.text(RESULTS).splitlines()[:2]}) == 1


def test_a_close_verdict_is_marked() -> None:
    assert verdicts.with_close({"verdict": "partly"}) == "partly"
    assert verdicts.with_close({"verdict": "partly", "close": True}) == "partly (close)"


def test_the_scorecard_is_a_table_of_whoever_judged() -> None:
    row = {"id": "C1", "claim": "a | b", "paper": "0.2", "ours": "0.3", "verdict": "partly", "why": "so", "notebook": "06_x", "section": "S"}
    table = verdicts.scorecard({"a": [*RESULTS, {"notebook": "09_scorecard", "scorecard": [row]}]}, lambda name: f"[{name}](x)").splitlines()
    assert len(table) == 3
    assert table[2] == r"| C1 | a \| b ([06_x](x), *S*) | 0.2 | **partly**: 0.3 |"
    assert verdicts.scorecard({"a": RESULTS}) == ""
    scored = [{"notebook": "09_scorecard", "scorecard": [row]}], [{"notebook": "09_scorecard", "scorecard": [row | {"ours": "less"}]}]
    header, _, line = verdicts.scorecard({"a": scored[0], "b": scored[1]}).splitlines()
    assert "`a`" in header and "`b`" in header and "less" in line and line.replace(r"\|", "").count("|") == header.count("|")


def executed_twin(source: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` as papermill leaves it."""
    done = nbformat.from_dict(source)
    done.metadata["papermill"] = {"parameters": {"seed": 0}}
    for number, cell in enumerate(c for c in done.cells if c.cell_type == "code"):
        cell.execution_count, cell.metadata["papermill"] = number, {"duration": 1.0}
        cell.outputs = [new_output("execute_result", {"text/plain": str(number)}, execution_count=number)]
    done.cells.insert(2, new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]}))
    return done


def test_reference_keeps_the_outputs_of_checked_cells_only() -> None:
    source = tiny("1", "2")
    source.cells[3].metadata["tags"] = ["nbval-check-output"]
    kept = reference.with_checked_outputs(nbformat.from_dict(source), executed_twin(source))
    assert [len(cell.get("outputs", [])) for cell in kept.cells] == [0, 0, 0, 1]
    assert kept.cells[3].outputs[0].data == {"text/plain": "2"}
    assert [cell.get("execution_count") for cell in kept.cells] == [None, None, None, 3]  # its place
    assert kept.cells[3].outputs[0].execution_count == 3
    assert "papermill" not in kept.metadata and not any("papermill" in cell.metadata for cell in kept.cells)
    again = reference.with_checked_outputs(nbformat.from_dict(kept), executed_twin(source))
    assert nbformat.writes(again) == nbformat.writes(kept)
    with pytest.raises(ValueError, match="has changed since"):
        reference.with_checked_outputs(tiny("1", "3"), executed_twin(source))


def test_the_picture_is_that_of_the_tagged_cell() -> None:
    done = executed_twin(tiny("1", "2"))
    assert reference.picture(done) is None
    done.cells[-1].metadata["tags"] = ["result-picture"]
    done.cells[-1].outputs = [new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "a figure"})]
    assert reference.picture(done) == b"hello"


def test_a_model_card_shows_what_the_result_file_holds() -> None:
    def record(name: str, value: float, low: float | None = None, high: float | None = None) -> dict:
        return {"name": name, "value": value, "low": low, "high": high, "n": 2000, "seed": 0}

    card = reference.model_card({"parameters": {"steps": 20}, "records": [
        record("quality.frechet", 40.0, 35.0, 45.0), record("quality.frechet_floor", 10.0, 9.0, 11.0),
        record("quality.agreement.age", 0.9, 0.88, 0.92), record("planted.hair_length.short", 0.25),
        record("share.hair_length.short", 0.5, 0.48, 0.52)]})
    assert card.startswith("Of 2,000 generated images (20 DDIM steps, seed 0)")
    assert "| Fréchet distance to the data, features of the scorer | 40 [35, 45] | 10 [9, 11] |" in card
    assert "| both evaluators agree on age | 0.9 [0.88, 0.92] | |" in card
    assert "| hair length: short | 0.250 | 0.5 [0.48, 0.52] |" in card


def test_readme_table_is_replaced_between_its_markers() -> None:
    readme = f"a\n{reference.START}\nold\n{reference.END}\nb\n"
    assert reference.with_table(readme, "new") == f"a\n{reference.START}\nnew\n{reference.END}\nb\n"


def test_a_page_hides_injected_parameters_that_repeat_the_defaults() -> None:
    source = tiny("1")
    assert len(assemble.page_of(executed_twin(source), "portraits").cells) == len(source.cells)
    other = executed_twin(source)
    other.metadata["papermill"]["parameters"] = {"seed": 1}
    assert len(assemble.page_of(other, "portraits").cells) == len(source.cells) + 1


def test_a_page_says_nothing_of_other_subjects() -> None:
    page = executed_twin(tiny("1"))
    for tag in ("portraits", "labelled", "digits"):
        page.cells.append(nbformat.v4.new_markdown_cell(tag, metadata={"tags": [tag]}))
    for subject, kept in (("portraits-t2i", ["portraits"]), ("digits", ["labelled", "digits"]), ("my-model", ["labelled"])):
        shown = assemble.page_of(nbformat.from_dict(page), subject).cells
        assert [c.source for c in shown if c.source in ("portraits", "labelled", "digits")] == kept


def test_contents_follow_the_subjects_and_the_bench() -> None:
    toc = assemble.contents(["portraits", "a/b"], {"00_bias": "The bias"}, has_bench=False)
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert files[:2] == ["notebooks/portraits/00_bias", "notebooks/a--b/00_bias"]
    assert "method" in files and "bench" not in files


def test_the_bench_page_shows_what_was_missed_and_what_was_not_measured() -> None:
    met = {"what": "sampling", "ours": 20.0, "beside": 10.0, "ratio": 2.0, "target": ">= 2", "met": True,
           "note": "bf16"}
    page = assemble.bench_page({"environment": {"cores": 2}, "rows": [
        met, {**met, "what": "memory", "met": False, "note": ""}, {**met, "what": "peers", "ratio": None,
                                                                "met": None}]})
    assert "| sampling | 20 | 10 | 2 | >= 2 | yes |" in page and "| memory | 20 | 10 | 2 | >= 2 | **no** |" in page
    assert "| peers | 20 | 10 | – | >= 2 | not measured |" in page
    assert "- sampling: bf16" in page and "- memory" not in page and "- cores: 2" in page


def test_a_profile_may_have_sizes_of_its_own_for_one_subject(study: Path) -> None:
    (study / "workflow/profiles/book.a--b.yml").write_text("00_tiny: {ks: [2]}\n")
    (study / "workflow/profiles/quick.a--b.yml").write_text("all: {seed: 4}\n")
    assert execute.plan("00_tiny", "book", "a/b", []) == {"subject": "a/b", "profile": "book", "ks": [2]}
    assert execute.plan("00_tiny", "quick", "a/b", []) == {"subject": "a/b", "profile": "quick", "seed": 4, "ks": [8]}
    assert execute.plan("00_tiny", "book", "portraits", []) == {"subject": "portraits", "profile": "book"}


def test_a_worker_keeps_neither_page_nor_result(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (study / "workflow/execute.py").write_text(Path(execute.__file__).read_text())
    shown = 'import os\nopen("seen", "w").write(os.environ["DIFFLENS_WORKER"] + " " + os.environ["DIFFLENS_RESULTS"])'
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
    assert execute.launched() == "1/3" and execute.launched() is None  # the kernel is no member of the group


def snakemake(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "snakemake", "-s", "workflow/Snakefile", "-n", "--forceall", "--nolock", "--cores", "1", *arguments],
                          cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_shards_are_jobs_before_their_notebook_and_none_by_default() -> None:
    told = snakemake("--config", "profile=quick", "subject=portraits", "shards={02_ksae: 3}", "--", "_build/results/quick/portraits/02_ksae.json")
    assert all(f"_build/workers/quick/portraits/02_ksae/{i}-of-3" in told for i in range(3)) and "00_bias/0-of" not in told
    assert "rule worker" not in snakemake("--config", "profile=quick", "subject=portraits", "--", "_build/results/quick/portraits/02_ksae.json")
    assert "shards must name notebooks among 00_bias" in snakemake("--config", "shards={02_x: 3}")


def test_a_cluster_that_loses_jobs_says_which(tmp_path: Path) -> None:
    cluster = Path(__file__).parents[1] / "workflow/profiles/local-cluster/cluster.py"
    (tmp_path / "job").write_text("#!/bin/sh\nexec sleep $1 5\n")
    (tmp_path / "good").write_text("#!/bin/sh\nexit 0\n")
    for script in ("job", "good"):
        (tmp_path / script).chmod(0o755)

    def call(*arguments: str, **environment: str) -> str:
        return subprocess.run([sys.executable, cluster, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env={**os.environ, **environment}).stdout.strip()

    jobs = [call("submit", str(tmp_path / "job"), LOSE="1", LOSE_WITHIN="0.2"), call("submit", str(tmp_path / "good"), LOSE="0")]
    deadline = time.time() + 20
    while (told := [call("status", job) for job in jobs]).count("running") and time.time() < deadline:
        time.sleep(0.2)
    assert told == ["failed", "success"] and jobs == ["0", "1"]
    assert "job 0 was killed" in (tmp_path / "_build/cluster/0.log").read_text()


def test_kubernetes_jobs_are_filled_in_and_their_end_is_understood(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "workflow/profiles/kubernetes"
    (tmp_path / "kubectl").write_text('#!/bin/sh\ncase $1 in create) cat > manifest; printf difflens-x1;; get) printf "$TOLD";; esac\n')
    (tmp_path / "kubectl").chmod(0o755)

    def call(*arguments: str, told: str = "") -> str:
        return subprocess.run([sys.executable, folder / "cluster.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True,
                              env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TOLD": told}).stdout.strip()

    assert call("submit", "4", "1", "a/job.sh") == "difflens-x1"
    pod = yaml.safe_load((tmp_path / "manifest").read_text())["spec"]["template"]["spec"]["containers"][0]
    assert pod["command"] == ["sh", str(tmp_path / "a/job.sh")] and pod["workingDir"] == str(tmp_path)
    assert pod["resources"] == {"requests": {"cpu": 4, "memory": "32Gi"}, "limits": {"nvidia.com/gpu": 1}}
    ends = {"": "failed", "there  ": "running", "there 1 ": "success", "there  1": "failed"}
    assert {told: call("status", "x", told=told) for told in ends} == ends


RATES = {"subject": "portraits", "device": "X", "cuda": False, "precision": "float32", "batch": 64, "images": 64, "steps": 10, "seed": 0, "repeats": 5,
         "images_per_second": {"bare pipeline": 11.0, "sampling": 10.0, "recording": 8.0, "symmetric edit": 9.0, "asymmetric edit": 5.0},
         "activations_per_second": 80.0, "over_bare_percent": {"sampling": 10.0}}


def test_hours_are_images_times_steps_over_the_measured_rate() -> None:
    assert cost.hours(Counter({"sampling": 36000}), 50, RATES) == pytest.approx(5)
    rows = {notebook: (count, hours) for notebook, count, hours in cost.table("paper", RATES)}
    assert rows["00_bias"][0] == {"recording": 35000} and rows["00_bias"][1] == pytest.approx(35000 * 5 / 8 / 3600)
    assert rows["06_debiasing"][0]["sampling"] == 500 + 10000 + 1000 + 152
    text = {notebook: count for notebook, count, _ in cost.table("paper", RATES | {"subject": "portraits-t2i"})}
    assert text["00_bias"]["recording"] == 3 * 35000


def test_the_page_on_scaling_says_itself_what_was_not_measured() -> None:
    page = assemble.scaling_tables([RATES])
    assert "Nothing here was measured on a GPU" in page and "| portraits, X | 00_bias | 35,000 | 6.08 |" in page and "sampling +10 %" in page
    assert "Nothing here" not in assemble.scaling_tables([RATES | {"cuda": True}])
    assert "No rates were measured" in assemble.scaling_tables([])


def test_lost_jobs_are_submitted_again(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parents[1] / "workflow/profiles", tmp_path / "workflow/profiles")
    (tmp_path / "Snakefile").write_text('rule all:\n    input: "0", "1"\nrule part:\n    output: touch("{n}")\n    shell: "true"\n')
    done = subprocess.run([sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/local-cluster", "--", "0", "1"], cwd=tmp_path, text=True,
                          capture_output=True, check=False, env={**os.environ, "LOSE": "0.5", "LOSE_SEED": "2", "LOSE_WITHIN": "0.3"})
    logs = [path.read_text() for path in (tmp_path / "_build/cluster").glob("*.log")]
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "0").exists() and (tmp_path / "1").exists() and any("was killed" in log for log in logs) and len(logs) > 2
