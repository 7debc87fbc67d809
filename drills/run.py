"""Runs the drills, in a clone of what is committed, and writes results/drills.json:

    make drill
    python -m drills.run [--only kills,inputs] [--cores 2]

A drill that has run to its end replaces its own rows, and no others. The rows of one that is
stopped are kept where there are none yet.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from drills import damage, dependencies, inputs, kills, memory, outside, places, precision, together
from drills.scene import ROOT, Row, Scene
from workflow.execute import names_of

OUTPUT = ROOT / "results/drills.json"
Drill = Callable[[Scene, dict[str, str]], Iterator[Row]]
DRILLS: dict[str, Drill] = {
    "kills": kills.drill,
    "damage": damage.drill,
    "places": places.drill,
    "together": together.drill,
    "inputs": inputs.drill,
    "outside": outside.drill,
    "memory": memory.drill,
    "precision": precision.drill,
    "dependencies": dependencies.drill,
}
BUILT = ("kills", "damage", "places", "together")  # what takes a finished build


def undisturbed(scene: Scene) -> dict[str, str]:
    """The results of a build that nothing disturbs, which is there from then on."""
    scene.forget()
    done = scene.run(scene.build())
    if done.code:
        raise SystemExit(f"the undisturbed build failed: {done.lines[-1]}")
    return scene.results()


def show(row: Row) -> None:
    """Prints a row."""
    end = {True: "ok", False: "FAILED", None: "not tried"}[row.ok]
    print(f"{row.drill}: {row.case}: {row.passed} of {row.tried}  {end}  {row.note}", flush=True)


def written(name: str, rows: list[Row], seconds: float, scene: Scene, ended: bool) -> None:
    """Writes the rows of a drill, with the command and the commit that the clone is of."""
    found = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    if not ended and found.get(name, {}).get("ended"):
        return
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, cwd=scene.root, capture_output=True, text=True, check=True)
    entry: dict[str, Any] = {
        "command": f"python -m drills.run --only {name} --cores {scene.cores}",
        "commit": commit.stdout.strip(),
        "seconds": round(seconds),
        "ended": ended,
        "rows": [row._asdict() for row in rows],
    }
    if name == "dependencies":
        entry["licences"] = dependencies.licences()
    found[name] = entry
    ordered = {drill: found[drill] for drill in DRILLS if drill in found}
    OUTPUT.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(DRILLS), help="drills, separated by commas")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    named = names_of(parser, "--only", options.only, DRILLS)
    chosen = [name for name in DRILLS if name in named]
    with tempfile.TemporaryDirectory(prefix="difflens drill ") as folder:
        scene = Scene.clone(Path(folder) / "study", options.cores)
        failed, expected = 0, {}
        for name in chosen:
            if name in BUILT:
                expected = undisturbed(scene)
            began = time.monotonic()
            rows = []
            for row in DRILLS[name](scene, expected):
                show(row)
                rows.append(row)
                written(name, rows, time.monotonic() - began, scene, ended=False)
            written(name, rows, time.monotonic() - began, scene, ended=True)
            failed += sum(row.ok is False for row in rows)
    print(f"Written to {OUTPUT.relative_to(ROOT)}")
    if failed:
        raise SystemExit(f"{failed} cases did not go as they should")


if __name__ == "__main__":
    main()
