"""Lists the files that ship with their checksums, in shipped.sha256:

    make sums

What ships are the models and the results that are committed: `git ls-files` names them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from workflow.execute import integrity

FOLDERS = ("models", "results")
TEXTS = (".py", ".md")  # code and cards, whose changes are seen in a review


def shipped(root: Path) -> list[str]:
    """The files under FOLDERS that git keeps, or would add, but for TEXTS."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *FOLDERS]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    names = filter(None, found.stdout.split("\0"))
    return sorted(n for n in names if not n.endswith(TEXTS) and (root / n).is_file())


def main() -> None:
    names = shipped(integrity.ROOT)
    integrity.write_list(names)
    print(f"{integrity.LIST} lists {len(names)} files")


if __name__ == "__main__":
    main()
