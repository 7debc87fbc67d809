"""DDIM sampling with edits of the bottleneck, symmetric or asymmetric.

The step is our own because three things have to be exact that schedulers leave to the caller: the
previous timestep (the next entry of the list, not t - T/steps), the same epsilon in the edited and
the unedited path, and the asymmetric step (Eq. 11), in which only the predicted clean image feels
the edit. Timesteps are those of diffusers' `DDIMScheduler` at every spacing. Images are the same
too if its `step` is called with `use_clipped_model_output=True`, wherever its previous timestep,
t - T // steps, is the next entry, as it always is where the spacing is leading.

A network without training draws noise, but an edit that changes nothing leaves every bit:

>>> import torch
>>> from diffusers import DDIMScheduler, UNet2DModel
>>> from difflens_utils import edits, sampling
>>> from difflens_utils.subjects.pipelines import Subject
>>> blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
>>> network = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=2, **blocks)
>>> subject = Subject("tiny", network, DDIMScheduler(), "mid_block", (3, 8, 8), "untrained")
>>> images = sampling.sample(subject, n=3, steps=2)  # (3, 3, 8, 8)
>>> torch.equal(images, sampling.sample(subject, n=3, steps=2, edit=edits.identity()))
True
"""

from __future__ import annotations

from .edit import Apply, Edit, Step
from .sampler import (
    Moment,
    Noise,
    Watch,
    activation,
    assigned,
    batches,
    image_seeds,
    reserved,
    sample,
    texts_of,
    unedited,
)
from .schedule import (
    Schedule,
    advance,
    clean_image,
    dynamically_thresholded,
    predicted_clean,
    schedule,
    timesteps,
    trajectory,
)

__all__ = [
    "Apply",
    "Edit",
    "Moment",
    "Noise",
    "Schedule",
    "Step",
    "Watch",
    "activation",
    "assigned",
    "batches",
    "clean_image",
    "advance",
    "dynamically_thresholded",
    "image_seeds",
    "predicted_clean",
    "reserved",
    "sample",
    "schedule",
    "texts_of",
    "timesteps",
    "trajectory",
    "unedited",
]
