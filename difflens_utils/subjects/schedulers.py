"""The sampler that a model comes with, read as DDIM: its noise levels, timesteps and clipping.

Other samplers of the same process (PNDM, Euler, DPM-Solver ...) take other steps over the same
noise levels. Their way of stepping (order, algorithm, noise) is dropped. What belongs to the model
is kept. A setting that DDIM cannot keep is refused.

>>> from diffusers import EulerDiscreteScheduler
>>> from difflens_utils.subjects import schedulers
>>> euler = EulerDiscreteScheduler(prediction_type="v_prediction")
>>> ddim = schedulers.as_ddim(euler, "the example")
>>> type(ddim).__name__, ddim.config["prediction_type"]
('DDIMScheduler', 'v_prediction')
>>> bool((ddim.alphas_cumprod == euler.alphas_cumprod).all())
True
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ..runtime.errors import one_of

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")

_KINDS = """
    DDIM DDPM PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete KDPM2Discrete
    KDPM2AncestralDiscrete DEISMultistep DPMSolverMultistep DPMSolverSinglestep DPMSolverSDE
    UniPCMultistep DDIMParallel DDPMParallel
"""
READ = [f"{kind}Scheduler" for kind in _KINDS.split()]

# What chooses other noise levels than those at the timesteps, and its value where it does not.
ELSEWHERE = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "timestep_type": "discrete",
    "lambda_min_clipped": -math.inf,
}


class Scheduler(Protocol):
    """What is read of a scheduler of diffusers."""

    betas: Tensor
    alphas_cumprod: Tensor

    @property
    def config(self) -> Mapping[str, Any]: ...


def known(name: str, where: Path | str) -> None:
    """Raises ValueError, in one line, for a class whose noise levels are not those of DDIM."""
    if name not in READ:
        raise ValueError(
            f"{where}: {name} cannot be read as DDIM steps over given noise levels; "
            "take another, such as DDIMScheduler"
        )


def check(scheduler: Scheduler, where: Path | str) -> None:
    """Raises ValueError, in one line that names it, for a setting that DDIM cannot keep.

    `where` is the file that the scheduler came from, or the name of the subject.
    """
    known(type(scheduler).__name__, where)
    config = scheduler.config
    for setting, without in ELSEWHERE.items():
        value = config.get(setting)
        if value is not None and value != without:
            raise ValueError(
                f"{where}: {setting} is {value!r}, which DDIM steps cannot honour; "
                f"set it to {without!r}, or put a DDIMScheduler there"
            )
    one_of(f"{where}: timestep_spacing", config.get("timestep_spacing", "leading"), SPACINGS)
    one_of(f"{where}: prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS)
    _check_levels(scheduler.betas, config, where)


def _check_levels(betas: Tensor, config: Mapping[str, Any], where: Path | str) -> None:
    total = config["num_train_timesteps"]
    if len(betas) != total:
        raise ValueError(
            f"{where}: trained_betas has {len(betas)} values, and num_train_timesteps is {total}"
        )
    if not ((betas >= 0) & (betas <= 1)).all():
        raise ValueError(
            f"{where}: the betas must lie between 0 and 1; they go from "
            f"{betas.min():.4g} to {betas.max():.4g}"
        )
    rescaled = config.get("rescale_betas_zero_snr", False)
    zero_snr = rescaled or (1 - betas).prod() == 0
    if config.get("prediction_type", "epsilon") == "epsilon" and zero_snr:
        setting = "rescale_betas_zero_snr" if rescaled else "trained_betas"
        raise ValueError(
            f"{where}: {setting} leaves nothing of the image at the last timestep, where the "
            "prediction_type epsilon says nothing of it; only v_prediction and sample do"
        )


def ddim(**settings: Any) -> Scheduler:
    """A `DDIMScheduler`, which diffusers leaves untyped."""
    from diffusers import DDIMScheduler

    kind: Any = DDIMScheduler
    scheduler: Scheduler = kind(**settings)
    return scheduler


def as_ddim(scheduler: Scheduler, where: Path | str) -> Scheduler:
    """Returns a `DDIMScheduler` with the same noise levels, spacing, prediction and clipping.

    x_0 is clipped only where the scheduler does so itself: latents of samplers that know no
    clipping go beyond 1. Raises ValueError, in one line, for what `check` refuses.
    """
    from diffusers import DDIMScheduler

    check(scheduler, where)
    if isinstance(scheduler, DDIMScheduler):
        return scheduler
    accepted = inspect.signature(DDIMScheduler.__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in accepted}
    config["clip_sample"] = scheduler.config.get("clip_sample", False)
    if scheduler.config.get("final_sigmas_type", "zero") == "sigma_min":
        config["set_alpha_to_one"] = False
    if config.get("beta_schedule") not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        config |= {
            "beta_schedule": "linear",
            "rescale_betas_zero_snr": False,
            "trained_betas": scheduler.betas.tolist(),
        }
    return ddim(**config)
