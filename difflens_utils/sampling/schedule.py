"""A DDIM trajectory and its step (Eq. 10 and 11).

A step that knows the true noise leads to the same image at the next noise level:

>>> import torch
>>> from diffusers import DDIMScheduler
>>> from difflens_utils import sampling
>>> scheduler = DDIMScheduler(1000)
>>> s = sampling.schedule(scheduler, steps=4)  # at timesteps 750, 500, 250 and 0
>>> image, noise = torch.full((1, 3, 8, 8), 0.5), torch.randn(1, 3, 8, 8)
>>> x_750, x_500 = (scheduler.add_noise(image, noise, torch.tensor(t)) for t in s.timesteps[:2])
>>> clean = sampling.predicted_clean(x_750, noise, s, index=0)
>>> torch.allclose(sampling.ddim_step(x_750, clean, clean, s, index=0), x_500, atol=1e-4)
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..runtime.errors import one_of, within
from ..subjects.schedulers import SPACINGS, Scheduler

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject


@dataclass(frozen=True)
class Schedule:
    """A DDIM trajectory: per step the timestep, alpha-bar there and at the next step, and sigma."""

    timesteps: tuple[int, ...]
    alpha: Tensor  # (T,)
    alpha_previous: Tensor  # (T,)
    sigma: Tensor  # (T,)
    clip: float | None  # the predicted clean image is clipped to [-clip, clip]
    threshold: tuple[float, float] | None = None  # (quantile, largest), instead of `clip`
    predicts: str = "epsilon"  # the network's answer: epsilon, v_prediction, or sample (x_0)

    def __len__(self) -> int:
        return len(self.timesteps)


def timesteps(total: int, steps: int, spacing: str, offset: int = 0) -> Tensor:
    """The timesteps of `steps` steps over `total` noise levels, the noisiest first: (T,) int64.

    They are those of Table 2 of Lin et al. (2024), rounded as diffusers rounds them. `offset` moves
    those of the leading spacing. Raises ValueError for an unknown spacing, for steps outside
    1..total, and where the offset leads beyond the last noise level.
    """
    within("steps", steps, 1, total)
    one_of("spacing", spacing, SPACINGS)
    if spacing == "trailing":
        times = np.arange(total, 0, -total / steps)[:steps].round() - 1
    elif spacing == "linspace":
        times = np.linspace(0, total - 1, steps).round()[::-1]
    else:
        times = (np.arange(steps) * (total // steps) + offset)[::-1]
    if times[0] >= total:
        raise ValueError(
            f"steps={steps} with steps_offset {offset} starts at timestep {times[0]}, "
            f"and the last one is {total - 1}; take fewer steps"
        )
    return torch.from_numpy(times.astype(np.int64))


def schedule(
    scheduler: Scheduler, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """The trajectory of `steps` DDIM steps over the noise levels of a diffusers scheduler.

    The spacing of timesteps is the scheduler's own unless another is given. Raises ValueError for
    steps outside 1..T, eta outside 0..1, or an unknown spacing.
    """
    within("eta", eta, 0, 1)
    config = scheduler.config
    alphas = scheduler.alphas_cumprod.double()
    spacing = spacing or config.get("timestep_spacing", "leading")
    times = timesteps(len(alphas), steps, spacing, config.get("steps_offset", 0))
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0].item()
    alpha = alphas[times]
    previous = torch.cat([alphas[times[1:]], torch.tensor([final], dtype=torch.float64)])
    variance = (1 - previous) / (1 - alpha) * (1 - alpha / previous)
    threshold = (config["dynamic_thresholding_ratio"], config["sample_max_value"])
    return Schedule(
        tuple(times.tolist()),
        alpha,
        previous,
        sigma=eta * variance.clamp_min(0).sqrt(),
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None,
        threshold=threshold if config["thresholding"] else None,
        predicts=config["prediction_type"],
    )


def trajectory(
    subject: Subject, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """`schedule` of a subject, at its own spacing of timesteps unless another is given."""
    return schedule(subject.scheduler, steps, eta, spacing)


def clean_image(predicted: Tensor, x: Tensor, keep: float, spread: float, predicts: str) -> Tensor:
    """x_0 from what a network predicts of x_t = keep x_0 + spread epsilon: (B, C, H, W).

    Only epsilon has to be divided by `keep`, which is 0 at a signal-to-noise ratio of zero; the
    velocity v = keep epsilon - spread x_0 need not (Salimans and Ho, 2022).
    """
    if predicts == "sample":
        return predicted
    if predicts == "v_prediction":
        return keep * x - spread * predicted
    return (x - spread * predicted) / keep


def predicted_clean(x: Tensor, predicted: Tensor, s: Schedule, index: int) -> Tensor:
    """P_t of Eq. 11 from the network's answer, clipped if the schedule says so: (B, C, H, W)."""
    a = s.alpha[index].item()
    clean = clean_image(predicted, x, a**0.5, (1 - a) ** 0.5, s.predicts)
    if s.threshold is not None:
        return dynamically_thresholded(clean, *s.threshold)
    return clean if s.clip is None else clean.clamp(-s.clip, s.clip)


def dynamically_thresholded(clean: Tensor, quantile: float, largest: float) -> Tensor:
    """Images (B, C, H, W), each clipped to a quantile s of its absolute values and divided by s.

    1 <= s <= `largest` (Saharia et al., 2022, section 2.3).
    """
    s = torch.stack([image.abs().flatten().quantile(quantile) for image in clean])
    s = s.clamp(1, largest)[:, None, None, None]
    return clean.clamp(-s, s) / s


def ddim_step(
    x: Tensor,
    clean: Tensor,
    direction: Tensor,
    s: Schedule,
    index: int,
    noise: Tensor | None = None,
) -> Tensor:
    """x_{t-1} of Eq. 10: P_t is `clean`; D_t points along the epsilon that belongs to `direction`.

    `direction` is a clean image too. In the symmetric step it is `clean`; in the asymmetric step
    `clean` is edited and `direction` is not.
    """
    a, b, sigma = s.alpha[index].item(), s.alpha_previous[index].item(), s.sigma[index].item()
    epsilon = (x - a**0.5 * direction) / (1 - a) ** 0.5
    out: Tensor = b**0.5 * clean + max(1 - b - sigma**2, 0.0) ** 0.5 * epsilon
    return out if noise is None else out + sigma * noise
