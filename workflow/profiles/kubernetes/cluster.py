#!/usr/bin/env python3
"""Snakemake's jobs as Kubernetes jobs, by kubectl.

cluster.py submit CPUS GPUS JOBSCRIPT    create a job from job.yaml and print its name
cluster.py status NAME                   running, success or failed; a job that is gone has failed
cluster.py cancel NAME ...
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from string import Template


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        ["kubectl", *arguments], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"kubectl {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def submit(cpus: str, gpus: str, script: str) -> str:
    manifest = Template(Path(__file__).with_name("job.yaml").read_text())
    # The script lies in a temporary folder of Snakemake's under the repository: on the volume.
    # JSON's strings are YAML's too, whatever characters a folder's name has.
    paths = {"folder": json.dumps(os.getcwd()), "script": json.dumps(os.path.abspath(script))}
    return kubectl(
        "create",
        "-f",
        "-",
        "-o",
        "jsonpath={.metadata.name}",
        stdin=manifest.substitute(paths, cpus=cpus, gpus=gpus),
    )


def status(name: str) -> str:
    told = kubectl(
        "get",
        "job",
        name,
        "--ignore-not-found",
        "-o",
        "jsonpath=there {.status.succeeded} {.status.failed}",
    ).split(" ")
    return (
        "failed"
        if told[0] != "there" or told[2:] == ["1"]
        else "success"
        if told[1:2] == ["1"]
        else "running"
    )


def cancel(*names: str) -> None:
    kubectl("delete", "job", *names, "--wait=false")


if __name__ == "__main__":
    commands: dict[str, Callable[..., object]] = {
        "submit": submit,
        "status": status,
        "cancel": cancel,
    }
    shown = commands[sys.argv[1]](*sys.argv[2:])
    if shown is not None:
        print(shown)
