"""Snakemake's errors, in one line each: `--quiet all` swallows them with everything else."""

from __future__ import annotations

import logging
import re
import sys

# What Snakemake adds after the error of a failed job.
ECHOES = (
    "Exiting because a job execution failed",
    "WorkflowError:\nAt least one job did not complete",
)
FRAME = re.compile(r'\s*File ".*", line \d+(, in .*)?$')
HEADING = re.compile(r'\w+( in (rule \w+ in )?file ".*", line \d+)?:$')


class OneLine(logging.Handler):
    """Writes errors, and nothing else, to stderr."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.end = ""  # how the last command ended

    def emit(self, record: logging.LogRecord) -> None:
        if line := self.line_of(record):
            print(f"error: {line}", file=sys.stderr, flush=True)

    def line_of(self, record: logging.LogRecord) -> str:
        """An error in one line; empty for an echo."""
        text = record.getMessage() if record.msg else ""
        outputs = getattr(record, "output", None)
        if outputs and hasattr(record, "rule_name"):
            end, self.end = self.end, ""
            return f"{outputs[0]} was not made: rule {record.rule_name}{end}"
        if "CalledProcessError" in text:  # comes first, and shows the whole command
            ended = re.search(r"non-zero (exit status \d+)|died with (.*)\.", text)
            self.end = f" ended with {ended[1] or ended[2]}" if ended else " failed"
            return ""
        if text.startswith(ECHOES):
            return ""
        lines = [
            line.strip() for line in text.splitlines() if line.strip() and not FRAME.match(line)
        ]
        message = " ".join(line for line in lines if not HEADING.match(line))
        return message.removeprefix("ValueError: ")
