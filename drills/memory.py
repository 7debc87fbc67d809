"""Peak memory does not grow with the number of images.

Counted is anonymous memory, which a process holds until it frees it. Pages of mapped files are not:
the system takes them back when somebody needs the place. (On Linux; elsewhere all resident pages.)

python -m drills.memory KIND IMAGES     one kind alone, in this process: prints MiB
"""

from __future__ import annotations

import resource
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from drills.scene import Row, Scene

DRILL = "memory"
FEW, MANY = 500, 20_000
SIDE, FEW_LARGE, MANY_LARGE = 1024, 2, 16  # images of so many pixels
WITHIN, MOST = 1.10, 4096  # times, MiB
STEPS = 2  # of sampling
STATUS = Path("/proc/self/status")
EVERY = 0.005  # seconds between two looks at it


def drill(scene: Scene, _expected: dict[str, str]) -> Iterator[Row]:
    """Each kind of work with few and with many images, each in a process of its own."""
    for kind in WORK:
        large = kind.endswith("pixels")
        few, many = (FEW_LARGE, MANY_LARGE) if large else (FEW, MANY)
        peaks, fault = [], ""
        for images in (few, many):
            scene.forget()
            done = scene.run([sys.executable, "-m", "drills.memory", kind, str(images)])
            if done.code:
                fault = done.lines[-1]
                break
            peaks.append(float(done.lines[-1]))
        if fault:
            yield Row(DRILL, kind, 1, 0, fault)
            continue
        grown = peaks[1] / peaks[0]
        note = f"{peaks[0]:,.0f} MiB at {few:,} images, {peaks[1]:,.0f} at {many:,}: {grown:.2f}"
        yield Row(DRILL, kind, 1, int(grown <= WITHIN and max(peaks) < MOST), note)


# --------------------------------------------------------------------------------------------------
# The work, which imports what it needs: the drill itself needs none of it


def _study(images: int):  # noqa: ANN202
    import difflens_utils as dl

    return dl.open("digits", device="cpu", n_images=images, steps=STEPS, train_steps=50)


def recording(images: int) -> None:
    """Sampling with h kept on disk."""
    _study(images).recording()


def sampling(images: int) -> None:
    """Sampling under an edit, images kept on disk."""
    import difflens_utils as dl

    study = _study(images)
    h = dl.sampling.activation(study.subject, _noise(study), 0)
    edit = dl.edits.push(h.float().expand(STEPS, *h.shape[1:]), 1.0)
    dl.outcome.draw(study.subject, edit, images, 0, STEPS)


def _noise(study):  # noqa: ANN001, ANN202
    import torch

    return torch.zeros(1, *study.subject.shape, device=study.subject.device)


def training(images: int) -> None:
    """Training a k-SAE on what was recorded."""
    _study(images).ksae()


def attribution(images: int) -> None:
    """Integrated gradients to what an h-classifier reads, on every recorded image."""
    import torch

    from difflens_utils import attribution as scores
    from difflens_utils.probes import Heads

    study = _study(images)
    rec = study.recording()
    shape = rec.h.shape[2:]
    heads = Heads(torch.zeros(STEPS, 2, *shape), torch.zeros(STEPS, 2))
    scores.through_head(heads, study.ksae(), rec, torch.arange(images), points=2)


def judging(images: int) -> None:
    """What evaluators and CLIP say of recorded images."""
    study = _study(images)
    study.judge(study.recording().images)


def large(images: int) -> None:
    """What evaluators and CLIP say of images of 1,024 pixels a side."""
    import numpy as np

    from difflens_utils.runtime import arrays

    study = _study(FEW)
    blank = (np.zeros((1, 3, SIDE, SIDE), np.float16) for _ in range(images))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        arrays.write(path, images, blank)
        study.judge(arrays.mapped(path))


WORK: dict[str, Callable[[int], None]] = {
    "recording": recording,
    "sampling under an edit": sampling,
    "training a k-SAE": training,
    "attribution": attribution,
    "judging": judging,
    "judging images of 1,024 pixels": large,
}


def peak(work: Callable[[], None]) -> float:
    """The most memory in MiB that this process held while it did the work."""
    if not STATUS.exists():
        work()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    seen, done = [_anonymous()], threading.Event()

    def look() -> None:
        while not done.wait(EVERY):
            seen.append(max(_anonymous(), seen.pop()))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return seen[0] / 2**10


def _anonymous() -> int:
    """KiB that no file on a disk stands behind."""
    held = dict(line.split(":") for line in STATUS.read_text().splitlines())
    return sum(int(held[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def main(kind: str, images: int) -> None:
    """Does the work of a kind and prints its peak memory in MiB."""
    print(peak(lambda: WORK[kind](images)))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
