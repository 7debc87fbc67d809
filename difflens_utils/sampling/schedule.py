"""A trajectory over noise levels and its step (Eq. 10 and 11).

Both paths are one here: x_t = keep x_0 + spread epsilon (`subjects.schedulers`).

A step that knows the true noise leads to the same image at the next noise level:

>>> import torch
>>> from diffusers import DDIMScheduler
>>> from difflens_utils import sampling
>>> scheduler = DDIMScheduler(1000)
>>> s = sampling.schedule(scheduler, steps=4)  # at timesteps 750, 500, 250 and 0
>>> image, noise = torch.full((1, 3, 8, 8), 0.5), torch.randn(1, 3, 8, 8)
>>> x_750, x_500 = (scheduler.add_noise(image, noise, torch.tensor(t)) for t in s.timesteps[:2])
>>> clean = sampling.predicted_clean(x_750, noise, s, index=0)
>>> torch.allclose(sampling.advance(x_750, clean, clean, s, index=0), x_500, atol=1e-4)
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.errors import one_of, within
from ..subjects.schedulers import FLOW, GRIDS, SPACINGS, Scheduler, is_flow

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject


@dataclass(frozen=True)
class Schedule:
    """A trajectory of T steps: the timesteps, and the noise levels from the first to the last.

    x_t = keep x_0 + spread epsilon. Row T is where the trajectory ends.
    """

    timesteps: tuple[float, ...]
    keep: Tensor  # (T + 1,)
    spread: Tensor  # (T + 1,)
    sigma: Tensor  # (T,) deviation of the noise that a step adds
    clip: float | None = None  # the predicted clean image is clipped to [-clip, clip]
    threshold: tuple[float, float] | None = None  # (quantile, largest), instead of `clip`
    predicts: str = "epsilon"  # or v_prediction, sample (x_0), flow_prediction

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
    """The trajectory of `steps` steps over the noise levels of a diffusers scheduler.

    The spacing of timesteps is the scheduler's own unless another is given. Raises ValueError for
    steps outside 1..T, eta outside 0..1, or an unknown spacing.
    """
    within("eta", eta, 0, 1)
    if is_flow(scheduler):
        return _flow(scheduler.config, steps, eta, spacing)
    config = scheduler.config
    alphas = scheduler.alphas_cumprod.double()
    spacing = spacing or config.get("timestep_spacing", "leading")
    times = timesteps(len(alphas), steps, spacing, config.get("steps_offset", 0))
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0].item()
    alpha = torch.cat([alphas[times], torch.tensor([final], dtype=torch.float64)])
    keep, spread = alpha.sqrt(), (1 - alpha).sqrt()
    threshold = (config["dynamic_thresholding_ratio"], config["sample_max_value"])
    return Schedule(
        tuple(times.tolist()),
        keep,
        spread,
        sigma=eta * _posterior_deviation(keep, spread),
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None,
        threshold=threshold if config["thresholding"] else None,
        predicts=config["prediction_type"],
    )


def _posterior_deviation(keep: Tensor, spread: Tensor) -> Tensor:
    """The deviation of x_s given x_t and x_0, (T,), where x_t is x_s with noise (DDIM, Eq. 16)."""
    added = spread[:-1] ** 2 - (keep[:-1] / keep[1:] * spread[1:]) ** 2
    return (spread[1:] / spread[:-1]) * added.clamp_min(0).sqrt()


def _flow(config: Mapping[str, Any], steps: int, eta: float, spacing: str | None) -> Schedule:
    """The trajectory of a rectified flow. Its timestep is sigma times the number of levels.

    That is no whole number, except for solvers, which cut it off.
    """
    total = config["num_train_timesteps"]
    within("steps", steps, 1, total)
    spacing = spacing or config["timestep_spacing"]
    sigma = flow_sigmas(total, config["shift"], steps, spacing)
    times = (sigma[:-1].float() * total).tolist()
    if spacing == "solver":
        times = [int(t) for t in times]
    levels = 1 - sigma, sigma
    return Schedule(tuple(times), *levels, sigma=eta * _posterior_deviation(*levels), predicts=FLOW)


def flow_sigmas(total: int, shift: float, steps: int, spacing: str) -> Tensor:
    """The noise levels of a flow's trajectory, the noisiest first and 0 at its end: (T + 1,).

    They are those of diffusers before the shift sigma' = shift sigma / (1 + (shift - 1) sigma)
    (Esser et al., 2024, Eq. 23): `linspace` of `FlowMatchEulerDiscreteScheduler`, which ends at its
    own, shifted last level; `trailing` of the pipelines that name their sigmas, such as Flux;
    `solver` of DPM-Solver and its like. Raises ValueError for an unknown spacing.
    """
    one_of("spacing", spacing, GRIDS)
    if spacing == "trailing":
        sigma = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    elif spacing == "solver":
        sigma = torch.linspace(1 - 1 / total, 0, steps + 1, dtype=torch.float64)[:-1]
    else:
        last = shift / total / (1 + (shift - 1) / total)
        sigma = torch.linspace(1, last, steps, dtype=torch.float64)
    sigma = shift * sigma / (1 + (shift - 1) * sigma)
    return torch.cat([sigma, torch.zeros(1, dtype=torch.float64)])


def trajectory(
    subject: Subject, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """`schedule` of a subject, at its own spacing of timesteps unless another is given."""
    return schedule(subject.scheduler, steps, eta, spacing)


def clean_image(predicted: Tensor, x: Tensor, keep: float, spread: float, predicts: str) -> Tensor:
    """x_0 from what a network predicts of x_t = keep x_0 + spread epsilon: (B, C, H, W).

    Only epsilon has to be divided by `keep`, which is 0 at a signal-to-noise ratio of zero. The
    velocity v = keep epsilon - spread x_0 (Salimans and Ho, 2022) and that of a flow,
    epsilon - x_0, need not.
    """
    if predicts == FLOW:
        return x - spread * predicted
    if predicts == "sample":
        return predicted
    if predicts == "v_prediction":
        return keep * x - spread * predicted
    return (x - spread * predicted) / keep


def predicted_clean(x: Tensor, predicted: Tensor, s: Schedule, index: int) -> Tensor:
    """P_t of Eq. 11 from the network's answer, clipped if the schedule says so: (B, C, H, W)."""
    clean = clean_image(predicted, x, s.keep[index].item(), s.spread[index].item(), s.predicts)
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


def along(s: Schedule, index: int) -> float:
    """The weight of the direction D_t in a step (Eq. 10), 0 for one that ends without noise.

    >>> from diffusers import DDIMScheduler
    >>> from difflens_utils import sampling
    >>> s = sampling.schedule(DDIMScheduler(1000), steps=2)
    >>> along(s, 0) > 0, along(s, 1)
    (True, 0.0)
    """
    spread, sigma = s.spread[index + 1].item(), s.sigma[index].item()
    return math.sqrt(max(spread**2 - sigma**2, 0.0))


def advance(
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
    keep, spread = s.keep.tolist(), s.spread.tolist()
    epsilon = (x - keep[index] * direction) / spread[index]
    out: Tensor = keep[index + 1] * clean + along(s, index) * epsilon
    return out if noise is None else out + s.sigma[index].item() * noise
