"""Open a diffusion model at its bottleneck, find the sparse features behind a bias, turn them.

    import difflens_utils as dl

    study = dl.open("portraits")

Data flows one way. Each line below is a floor, and a module imports only from the lines above its
own. `name/` stands for all modules of a folder, which import each other without a circle, but for
those that have a floor of their own (`name.module`).

    descriptions, errors, intervals, keys, names, paper, settings, workers
    artifacts, checkpoints
    declaration, gpu, guided_diffusion, hooks, loading, metrics, planning, schedulers, scorecard
    disentanglement, figures, opening, precision, results, sampling, shards, weights
    evaluators, ksae, worlds
    dictionaries, fairface, inception, pictures, portraits
    labelled, occupations
    pipelines
    activations, factors, finetuning, latent_direction, latent_editing, mediation, subjects
    outcome, probes, sizes
    attribution, edits
    features
    methods
    debiasing
    pages/
    study
"""

from __future__ import annotations


def _mend_torchvision() -> None:
    """Let a torchvision built for another torch be imported; nothing here uses the operators it misses.

    A CUDA torchvision beside a CPU torch registers `torchvision::nms` as missing and then fails to import, and takes
    clean-fid and diffusers down with it.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_torchvision_library"] = library  # the definitions live as long as this object
        import torchvision  # noqa: F401


_mend_torchvision()

from . import edits, figures, methods, metrics  # noqa: E402
from .edits import Edit  # noqa: E402
from .settings import Seeds, Settings  # noqa: E402
from .study import Attribute, Study, open  # noqa: E402

__version__ = "0.2.0"
__all__ = [
    "Attribute",
    "Edit",
    "Seeds",
    "Settings",
    "Study",
    "edits",
    "figures",
    "methods",
    "metrics",
    "open",
]
