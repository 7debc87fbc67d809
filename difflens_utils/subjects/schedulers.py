"""The sampler that a model comes with: its noise levels, timesteps and clipping.

Every model here learned to undo x_t = keep x_0 + spread epsilon, on one of two paths. Diffusion
has keep = sqrt(alpha-bar) and spread = sqrt(1 - alpha-bar), and becomes a `DDIMScheduler`.
Rectified flow has keep = 1 - sigma and spread = sigma, and becomes a
`FlowMatchEulerDiscreteScheduler`. Other samplers of the same process (PNDM, Euler, Heun,
DPM-Solver ...) take other steps over the same noise levels. Their way of stepping (order,
algorithm, noise) is dropped. What belongs to the model is kept. A setting that the study's steps
cannot keep is refused.

>>> from diffusers import EulerDiscreteScheduler
>>> from difflens_utils.subjects import schedulers
>>> euler = EulerDiscreteScheduler(prediction_type="v_prediction")
>>> ddim = schedulers.as_ddim(euler, "the example")
>>> type(ddim).__name__, ddim.config["prediction_type"]
('DDIMScheduler', 'v_prediction')
>>> bool((ddim.alphas_cumprod == euler.alphas_cumprod).all())
True
>>> schedulers.level(schedulers.flow(shift=3.0), 250)
Level(keep=0.75, spread=0.25)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ..runtime.errors import at_least, one_of

SPACINGS = ("leading", "trailing", "linspace")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
FLOW = "flow_prediction"  # what a rectified flow predicts: the velocity epsilon - x_0
# Where the sigmas of a flow lie before they are shifted: see `sampling.schedule`.
GRIDS = ("linspace", "trailing", "solver")

_KINDS = """
    DDIM DDPM PNDM LMSDiscrete EulerDiscrete EulerAncestralDiscrete HeunDiscrete KDPM2Discrete
    KDPM2AncestralDiscrete DEISMultistep DPMSolverMultistep DPMSolverSinglestep DPMSolverSDE
    UniPCMultistep DDIMParallel DDPMParallel
"""
READ = [f"{kind}Scheduler" for kind in _KINDS.split()]
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")

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


# What bends the sigmas of a flow, and its value where it does not.
BENT = {
    "shift_terminal": None,
    "invert_sigmas": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}


class Level(NamedTuple):
    """A noise level: x_t = keep x_0 + spread epsilon."""

    keep: float
    spread: float


class Scheduler(Protocol):
    """What is read of a scheduler of diffusers. One of a flow has no betas and no alphas."""

    betas: Tensor
    alphas_cumprod: Tensor

    @property
    def config(self) -> Mapping[str, Any]: ...


def is_flow(scheduler: Scheduler) -> bool:
    """Whether the noise levels are those of a rectified flow."""
    name = type(scheduler).__name__
    return name in FLOWS or bool(scheduler.config.get("use_flow_sigmas"))


def level(scheduler: Scheduler, t: float) -> Level:
    """The noise level at a timestep, of a `DDIMScheduler` or a flow's scheduler."""
    if is_flow(scheduler):
        sigma = t / scheduler.config["num_train_timesteps"]
        return Level(1 - sigma, sigma)
    alpha = scheduler.alphas_cumprod[int(t)]
    return Level(alpha.sqrt().item(), (1 - alpha).sqrt().item())


def known(name: str, where: Path | str) -> None:
    """Raises ValueError, in one line, for a class whose noise levels are on neither path."""
    if name not in (*READ, *FLOWS):
        raise ValueError(
            f"{where}: {name} cannot be read as steps over given noise levels; take another, such "
            "as DDIMScheduler, or FlowMatchEulerDiscreteScheduler for a rectified flow"
        )


def check(scheduler: Scheduler, where: Path | str) -> None:
    """Raises ValueError, in one line that names it, for a setting that DDIM cannot keep.

    `where` is the file that the scheduler came from, or the name of the subject.
    """
    known(type(scheduler).__name__, where)
    config = scheduler.config
    at_least(f"{where}: num_train_timesteps", config["num_train_timesteps"])
    if is_flow(scheduler):
        _check_flow(scheduler, where)
        return
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


def flow(**settings: Any) -> Scheduler:
    """A `FlowMatchEulerDiscreteScheduler` with two settings more, as all schedulers here have.

    These are `prediction_type`, and `timestep_spacing`, one of `GRIDS`.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind: Any = FlowMatchEulerDiscreteScheduler
    spacing = settings.pop("timestep_spacing", "linspace")
    scheduler: Any = kind(**settings)
    scheduler.register_to_config(prediction_type=FLOW, timestep_spacing=spacing)
    found: Scheduler = scheduler
    return found


def studied(
    scheduler: Scheduler, where: Path | str, tokens: int = 0, spacing: str = "linspace"
) -> Scheduler:
    """Returns the scheduler that the study steps by: `as_ddim`, or `as_flow` for a flow."""
    if is_flow(scheduler):
        return as_flow(scheduler, where, tokens, spacing)
    return as_ddim(scheduler, where)


def as_flow(
    scheduler: Scheduler, where: Path | str, tokens: int = 0, spacing: str = "linspace"
) -> Scheduler:
    """Returns `flow` with the noise levels of another flow's scheduler.

    `tokens` is the number of tokens of an image. A scheduler with `use_dynamic_shifting` shifts by
    it, and gets the shift of this number once and for all. `spacing` is the grid at which the
    pipeline asks for the sigmas; solvers with `use_flow_sigmas` have one of their own. Raises
    ValueError, in one line, for a setting that bends the sigmas.
    """
    _check_flow(scheduler, where)
    config = scheduler.config
    total = config["num_train_timesteps"]
    if type(scheduler).__name__ not in FLOWS:
        shift = config.get("flow_shift", 1.0)
        return flow(num_train_timesteps=total, shift=shift, timestep_spacing="solver")
    shift = (
        _dynamic_shift(config, tokens) if config.get("use_dynamic_shifting") else config["shift"]
    )
    return flow(num_train_timesteps=total, shift=shift, timestep_spacing=spacing)


def _check_flow(scheduler: Scheduler, where: Path | str) -> None:
    """Raises ValueError for a setting that bends the sigmas, or for another prediction."""
    config = scheduler.config
    for setting, without in BENT.items():
        if config.get(setting, without) not in (without, None):
            raise ValueError(
                f"{where}: {setting} is {config[setting]!r}, which the study's steps cannot "
                f"honour; set it to {without!r}"
            )
    if type(scheduler).__name__ not in FLOWS:
        one_of(f"{where}: prediction_type", config.get("prediction_type", FLOW), [FLOW])


def _dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """The shift that belongs to a number of tokens: linear in it, up to an exponential."""
    first, last = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (last - first)
    mu: float = config["base_shift"] + slope * (tokens - first)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


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
