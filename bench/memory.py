"""Peak memory of recording h and training a k-SAE on it.

python -m bench.memory PIPELINE IMAGES STEPS
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

from difflens_utils import ksae
from difflens_utils import recording as activations
from difflens_utils.subjects import registry


def main(folder: str, images: int, steps: int) -> None:
    """Prints the peak resident size of this process in MiB."""
    subject = registry.load("portraits", folder=Path(folder))
    recording = activations.record(subject, images, seed=0, steps=4)
    width = recording.vectors(0, slice(0, 1)).shape[-1]
    config = ksae.KSAEConfig(width=width, latents=1024, k=32, steps=steps)
    ksae.train(config, recording.batches(config.batch, 0), progress=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
