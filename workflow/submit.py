"""Runs a submission of the benchmark and shows its row among the others:

    make submit METHOD=submissions/pca

Every subject runs in a process of its own, two at a time, with a limit of time and of memory. The
row is written to `_build/leaderboard/<name>.json`; with --ship to `results/leaderboard`, which the
book's page is made from. `--data` only freezes the activations, and `--truth` measures anew what
single latents and blocks do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import difflens_utils as dl
from difflens_utils.bench import TRACKS, VERSION, board, seeds, truth
from difflens_utils.bench.frozen import freeze
from difflens_utils.bench.run import Arena, Entry, Figures
from difflens_utils.bench.submission import Submission
from difflens_utils.ksae import KSAE
from difflens_utils.metrics import Estimate
from difflens_utils.pages import results
from difflens_utils.runtime.errors import line
from models import sizes
from workflow.execute import BUILD, ROOT

# The skips of the second are open. No k-SAE ships with it, so it has the first and the last track.
SUBJECTS = ("portraits", "portraits-open", "portraits-t2i", "digits", "emoji")
N_IMAGES = 400  # recorded with h, of which the frozen ones are the first
MINUTES, GIB = 10, 10  # of the whole on two cores, and of the address space of a process
AT_ONCE = 2
SLOWEST = ("emoji", "portraits-t2i", "portraits", "digits", "portraits-open")  # these start first
DATA = ROOT / "artifacts/bench"
TRUTH = ROOT / "results/bench/truth"
SHIPPED, OWN = ROOT / "results/leaderboard", BUILD / "leaderboard"


# --------------------------------------------------------------------------------------------------
# Subjects


def study_of(name: str) -> dl.Study:
    """The study of a subject with the benchmark's sizes."""
    return dl.open(name, **sizes.of_the_book(name) | {"n_images": N_IMAGES})


def dictionary_of(study: dl.Study) -> KSAE | None:
    """The k-SAE that ships with a subject; None where none does."""
    folder = study.subject.folder / "ksae"
    return KSAE.load(folder / f"k_{study.settings.k}") if folder.is_dir() else None


def subject_of(name: str, chosen: seeds.Seeds = seeds.CURRENT) -> Arena:
    """A subject with all that is frozen of it."""
    study = study_of(name)
    known, dictionary = truth.Truth.load(TRUTH / f"{name}.json"), dictionary_of(study)
    if (dictionary.fingerprint() if dictionary else "") != known.ksae:
        raise ValueError(f"the truth of {name} is of another k-SAE: run --truth")
    book = dl.open(name, **sizes.of_the_book(name))
    return Arena(study, freeze(study, chosen.probes), known, dictionary, book, chosen)


def measure(name: str) -> None:
    """Measures the truth of a subject anew."""
    study = study_of(name)
    found = truth.measure(study, dictionary_of(study), freeze(study).h)
    found.save(TRUTH / f"{name}.json", f"python -m workflow.submit --truth --subject {name}")


# --------------------------------------------------------------------------------------------------
# Processes


def child(folder: Path, name: str, out: Path, chosen: seeds.Seeds) -> None:
    """What runs in a process of its own: one submission on one subject."""
    entry = Entry(Submission.read(folder), subject_of(name, chosen), partial(_say, name))
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # it may print a lot
        figures = entry.figures()
    plain = {track: {n: _numbers(e) for n, e in found.items()} for track, found in figures.items()}
    out.write_text(json.dumps(plain))


def _say(name: str, track: str) -> None:
    print(f"{name}: {track}", file=sys.__stdout__, flush=True)


def _numbers(estimate: Estimate) -> dict[str, Any]:
    draws = None if estimate.draws is None else estimate.draws.tolist()
    return {**estimate.numbers(), "draws": draws}


def _estimate(numbers: dict[str, Any]) -> Estimate:
    draws = numbers["draws"]
    return Estimate(**{**numbers, "draws": None if draws is None else np.array(draws)})


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (GIB * 2**30, GIB * 2**30))


def run(folder: Path, name: str, end: float, stream: int = VERSION) -> dict[str, Figures]:
    """The figures of a submission on a subject, which has to be done when the clock says `end`.

    `stream` is that of `seeds.of`.
    Raises ValueError, in one line, where it fails.
    """
    seconds = max(0.0, end - time.monotonic())
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "figures"
        arguments = [str(folder.resolve()), "--child", name, str(out), "--stream", str(stream)]
        command = [sys.executable, "-m", "workflow.submit", *arguments]
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "PYTHONPATH": str(ROOT),
        }
        try:
            done = subprocess.run(
                command,
                cwd=scratch,  # where it may leave what it writes
                env=environment,
                timeout=seconds,
                preexec_fn=_limited,
                stderr=subprocess.PIPE,
                text=True,
            )
        except subprocess.TimeoutExpired:
            late = f"{folder.name}, {name}: not done after the {seconds:.0f} s that were left"
            raise ValueError(late) from None
        if done.returncode or not out.exists():
            ended = (
                f"{folder.name}, {name}: it ended without an answer, exit code {done.returncode}"
            )
            raise ValueError((done.stderr.strip().splitlines() or [ended])[-1])
        found = json.loads(out.read_text())
        return {
            track: {figure: _estimate(numbers) for figure, numbers in figures.items()}
            for track, figures in found.items()
        }


def submitted(
    folder: Path, names: Sequence[str], minutes: float, stream: int = VERSION
) -> board.Row:
    """The row of a submission on some subjects."""
    submission = Submission.read(folder)
    chosen = [name for name in names if name in (submission.card.subjects or SUBJECTS)]
    if not chosen:
        raise ValueError(f"{submission.slug} is for none of {', '.join(names)}")
    start = time.monotonic()
    command = f"python -m workflow.submit {folder.as_posix()} --minutes {minutes:g}"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        end = start + 60 * minutes
        queue = sorted(chosen, key=SLOWEST.index)
        found = pool.map(lambda name: run(folder, name, end, stream), queue)
        by_name = dict(zip(queue, found, strict=True))
    figures = {name: by_name[name] for name in chosen}
    about: dict[str, Any] = {
        "command": f"make submit METHOD={folder.as_posix()}" if minutes == MINUTES else command,
        "seconds": round(time.monotonic() - start),
        "environment": results.environment(),
    }
    return board.row(submission, figures, about)


# --------------------------------------------------------------------------------------------------
# The row among the others


def shown(own: board.Row, others: Sequence[board.Row]) -> str:
    """The ranks that the noise allows a row among the others, as lines of text."""
    rows = list({row["submission"]: row for row in (*others, own)}.values())
    lines = []
    for subject, tracks in own["subjects"].items():
        for track, figures in tracks.items():
            figure = TRACKS[track][0]
            ranks = board.ranked(rows, subject, track)
            best, worst = ranks[own["submission"]]
            lines.append(
                f"{subject:14} {track:10} {figure:12} {text(figures[figure]):24} "
                f"rank {best} to {worst} of {len(ranks)}"
            )
    return "\n".join(lines)


def text(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "not reached"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--subject", default=",".join(SUBJECTS))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--ship", action="store_true")
    parser.add_argument("--data", action="store_true")
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--stream", type=int, default=VERSION, help=argparse.SUPPRESS)
    parser.add_argument("--child", nargs=2, metavar=("SUBJECT", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = [name for name in options.subject.split(",") if name]
    try:
        if unknown := set(names) - set(SUBJECTS):
            raise ValueError(f"subject must be among {', '.join(SUBJECTS)}; got {min(unknown)}")
        if options.child:
            name, out = options.child
            child(options.folder, name, Path(out), seeds.of(options.stream))
        elif options.truth:
            for name in names:
                measure(name)
        elif options.data:
            for name in names:
                freeze(study_of(name)).save(DATA / f"{name}.safetensors")
        elif options.folder in (None, Path()):
            raise ValueError("name the folder of a submission: make submit METHOD=folder")
        else:
            own = submitted(options.folder, names, options.minutes)
            path = board.save(own, SHIPPED if options.ship else OWN)
            print(shown(own, [*board.load(SHIPPED), *board.load(OWN)]))
            print(f"Written to {path}")
    except (ValueError, RuntimeError) as error:
        sys.exit(line(error))


if __name__ == "__main__":
    main()
