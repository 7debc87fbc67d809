"""Find the sparse features behind a diffusion model's bias, and turn them up or down.

Data flows one way. Each line below is a floor, and a module imports only from the lines above its
own. `name/` stands for all modules of a folder, which import each other without a circle, but for
those that have a floor of their own (`name.module`).

    checkpoints, descriptions, errors, intervals, keys, names, paper, settings, workers
    artifacts, declaration, gpu, guided_diffusion, hooks, loading, metrics, planning, schedulers
    disentanglement, figures, opening, precision, results, sampling, scorecard, shards, weights
    evaluators, ksae, worlds
    fairface, inception, pictures, portraits
    labelled, occupations
    pipelines
    activations, finetuning, latent_direction, latent_editing, mediation, subjects
    probes
    attribution, edits
    stages
    methods, sizes
    debiasing
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
