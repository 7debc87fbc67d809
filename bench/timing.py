"""Where the time of a book goes: by notebook, and by kind of work.

    python -m bench.timing [--subject digits] [--notebooks 00_bias,02_ksae] [--quick]

py-spy looks RATE times a second at what each thread of a notebook's processes computes. The
notebooks of a subject run one after the other in one thread, with a store of their own that is
empty at first, so each has what the ones before it have left. A whole subject replaces its own rows
in results/profile.json; of some notebooks, and of small sizes, nothing is written. py-spy must be
allowed to look into processes (ptrace).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from workflow.assemble import all_notebooks
from workflow.execute import ROOT, names_of

OUTPUT = ROOT / "results/profile.json"
NOTEBOOKS = [path.stem for path in all_notebooks()]
RATE = 20  # looks per second

# The first whose pattern one of the frames has: what an edit does is sampling's, and what an
# evaluator does there is the evaluator's. Passes of the network that are not attribution's
# count as sampling.
KINDS = {
    "imports": r"<frozen importlib|_find_and_load|_load_unlocked",
    "figures": r"matplotlib|seaborn|/PIL/",
    "attribution": r"difflens_utils/attribution\.py",
    "evaluators": r"difflens_utils/evaluators/",
    "sampling": r"difflens_utils/(sampling/|recording\.py)|predict \(difflens_utils/subjects/",
    "training": r"difflens_utils/(ksae/|probes\.py|features\.py)|sklearn/",
    "statistics": r"difflens_utils/metrics/|difflens_utils/analysis/",
    "store and keys": r"difflens_utils/runtime/",
    "other computing": r"difflens_utils/",
    "notebook": r"",
}
# The last frame of a thread that waits, which py-spy may take for one that computes.
WAITS = re.compile(
    r"(?:select|wait|device|poll|_try_wait|_watch_pipe_fd|\w*(?:Poller|Heartbeat|Garbage)\w*"
    r"\.run|worker|Pool\._handle_\w+|Parallel\._retrieve) \([^;]*$"
)


def kind_of(stack: str) -> str:
    """The kind of work of a stack, its frames joined by semicolons.

    >>> from bench.timing import kind_of
    >>> kind_of("main (execute.py:9);sample (difflens_utils/sampling/sampler.py:7);conv2d")
    'sampling'
    """
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, stack))


def seconds_of(lines: Iterable[str], rate: int = RATE) -> dict[str, float]:
    """Seconds by kind of what py-spy wrote: one stack per line, and how often it was seen."""
    seen: Counter[str] = Counter()
    for line in lines:
        stack, _, times = line.rstrip().rpartition(" ")
        if not WAITS.search(stack):
            seen[kind_of(stack)] += int(times)
    return {kind: round(seen[kind] / rate, 1) for kind in KINDS if seen[kind]}


def measure(notebook: str, subject: str, profile: str, scratch: Path) -> dict[str, float]:
    """Executes a notebook under py-spy. Raises RuntimeError with its last line if it fails."""
    stacks = scratch / "stacks"
    command = [shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))]
    command += ["record", "--subprocesses", "--rate", str(RATE), "--format", "raw"]
    command += ["--output", str(stacks), "--", sys.executable, "workflow/execute.py", notebook]
    command += ["--subject", subject, "--profile", profile]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ
        | {
            "DIFFLENS_ARTIFACTS": str(scratch / "artifacts"),
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
        },
        capture_output=True,
        text=True,
    )
    if done.returncode or not stacks.exists():
        raise RuntimeError((done.stderr.strip().splitlines() or ["py-spy failed"])[-1])
    found = seconds_of(stacks.read_text().splitlines())
    stacks.unlink()
    return found


def written(subject: str, rows: dict[str, dict[str, float]], about: dict[str, Any]) -> None:
    """Writes the rows of a subject beside those of others."""
    found = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    found[subject] = about | {"seconds": rows}
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", default="digits")
    parser.add_argument("--notebooks", default=",".join(NOTEBOOKS))
    parser.add_argument("--quick", action="store_true", help="small sizes: measures nothing")
    options = parser.parse_args()
    chosen = names_of(parser, "--notebooks", options.notebooks, NOTEBOOKS)
    from difflens_utils.pages import results

    profile, rows = "quick" if options.quick else "book", {}
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            rows[name] = measure(name, options.subject, profile, Path(folder))
            print(f"{name}: {rows[name]}", flush=True)
    if not options.quick and chosen == NOTEBOOKS:
        about = {
            "command": f"python -m bench.timing --subject {options.subject}",
            "environment": results.environment(),
        }
        written(options.subject, rows, about)
        print(f"Written to {OUTPUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
