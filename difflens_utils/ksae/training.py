"""Training of a k-SAE: reconstruction, AuxK, and its curves.

Every vector below is one of four directions, so one active latent of eight is enough:

>>> import torch
>>> from difflens_utils.ksae import KSAEConfig, fvu, train
>>> generator = torch.Generator().manual_seed(0)
>>> which = torch.randint(4, (100, 256), generator=generator)
>>> config = KSAEConfig(width=4, latents=8, k=1, steps=100, rate=0.03, precision="fp32")
>>> ksae, history = train(config, torch.eye(4)[which], progress=False)
>>> fvu(ksae, [torch.eye(4)]) < 0.05
True
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from ..runtime.precision import fast_dtype
from .config import KSAEConfig
from .measures import fvu
from .model import KSAE
from .sparse import Codes, _SparseAutoencode, top_k

Batches = Iterable[Tensor] | Callable[[int], Tensor]


class History(NamedTuple):
    """The curves of a training, one entry per log (about sixty in all)."""

    step: list[int]
    """Steps done."""
    fvu: list[float]
    """FVU of that step's batch, before its update."""
    validation_fvu: list[float]
    """Pooled FVU of the validation vectors after the update; NaN without any."""
    l0: list[float]
    """Mean number of latents above 0 per vector of the batch, at most k."""
    dead: list[float]
    """Share of latents silent for the last `dead_after` vectors."""


def auxiliary_loss(ksae: KSAE, centred: Tensor, residual: Tensor, dead: Tensor) -> Tensor:
    """AuxK of Gao et al. (2024): the share of the residual that the dead latents leave unexplained.

    `centred` (n, d) is the encoder's input, `residual` (n, d), `dead` (D,) a mask. The tensors
    given are constants here, and the decoder's bias takes no part (the residual holds it already),
    so the gradient reaches the dead latents' own parameters only.

    This revives latents where features are missing: the residual then holds such a feature at its
    full size. Where the living latents have all features, the residual is small, the dead latents'
    pre-activations shrink to its size, and they no longer enter the k, as they otherwise do now and
    then by chance. The method then leaves *more* latents dead. With 32 planted directions in d =
    16, k = 4 and D = 256 the dead share rose from 0.29-0.39 to 0.55-0.65 with `dead_after` 10,000
    (FVU 2 % higher) and from 0.10 to 0.24-0.27 with 200,000 (FVU the same), after 1,500 steps.
    """
    rows = dead.nonzero().squeeze(1)
    most = ksae.config.aux_latents
    if most is None:
        most = (ksae.config.width + 1) // 2
    pre = F.linear(centred.detach(), ksae.W_enc[rows], ksae.b_enc[rows])  # (n, dead)
    values, indices = pre.topk(min(most, len(rows)), sorted=False)
    explained = torch.zeros_like(pre).scatter(1, indices, values.relu()) @ ksae.W_dec[rows]
    residual = residual.detach()
    unexplained = (residual - explained).square().sum()
    return unexplained / residual.square().sum().clamp_min(1e-30)


def train(
    config: KSAEConfig,
    batches: Batches,
    *,
    validation: Tensor | None = None,
    progress: bool = True,
) -> tuple[KSAE, History]:
    """Trains a k-SAE on vectors in units of h, and returns it frozen with its curves.

    `batches` is a function of the step, or an iterable, and gives tensors (n, d), on whatever
    device. `validation` (m, d) is scored at every log. Raises ValueError for batches of another
    shape, too few of them, and values that are not finite.
    """
    stream = map(batches, itertools.count()) if callable(batches) else iter(batches)
    batch = _next_batch(stream, config, 0)
    trainer = Trainer(config, batch)
    if validation is not None:
        fvu(trainer.ksae, [validation])  # a wrong shape shows now, not at the first log
    log_every = max(1, config.steps // 60)
    bar = tqdm(range(config.steps), desc=f"k-SAE k={config.k}", disable=not progress)
    for step in bar:
        if step > 0:
            batch = _next_batch(stream, config, step)
        trainer.update(batch)
        if trainer.step % log_every == 0 or trainer.step == config.steps:
            trainer.log(validation)
            bar.set_postfix_str(f"FVU {trainer.loss:.3f}", refresh=False)
    return trainer.ksae.eval().requires_grad_(False), trainer.history


def _next_batch(stream: Iterator[Tensor], config: KSAEConfig, step: int) -> Tensor:
    """The next batch (n, d) in fp32. Raises ValueError for none and for another shape."""
    batch = next(stream, None)
    if batch is None:
        raise ValueError(f"batches ended after {step} of {config.steps} steps")
    if batch.ndim != 2 or len(batch) < 2 or batch.shape[1] != config.width:
        expected = f"(n, width={config.width}) with n > 1"
        raise ValueError(f"batches must give {expected}, got {tuple(batch.shape)} at step {step}")
    return batch.detach().float()


class Trainer:
    """All that a training step changes: model, Adam's moments, silence counts, curves."""

    def __init__(self, config: KSAEConfig, first: Tensor) -> None:
        """`first` (n, d) is the batch that the model's starting values are taken from."""
        self.config = config
        self.ksae = KSAE(config).to(first.device)
        self.ksae.start_from(first)
        self.ksae.W_dec.requires_grad_(not config.random_decoder)
        # Gao et al.'s small epsilon: a normalised loss over D·d weights has gradients near
        # Adam's default one.
        parameters = [p for p in self.ksae.parameters() if p.requires_grad]
        self.adam = torch.optim.Adam(parameters, lr=config.rate, eps=6.25e-10, fused=True)
        # (D,) vectors since a latent fired
        self.silent = torch.zeros(config.latents, dtype=torch.long, device=first.device)
        self.step = 0
        self.history = History([], [], [], [], [])
        self.dtype = _product_dtype(config.precision, first.device)
        self.loss = math.nan  # the last batch's FVU
        self.active = torch.tensor(math.nan)  # the last batch's L0

    def update(self, x: Tensor) -> None:
        """One step of Adam on x (n, d), with the decoder's rows held at unit norm."""
        ksae, config = self.ksae, self.config
        with torch.no_grad():
            centred = ksae.centred(x)  # (n, d)
        codes, decoded = self._autoencode(centred)
        target = x / ksae.scale
        residual = target - ksae.b_dec - decoded
        loss = residual.square().sum() / (target - target.mean(0)).square().sum()
        self.loss = loss.item()
        if not math.isfinite(self.loss):
            problem = f"the loss of step {self.step} is not finite (rate {config.rate:g})"
            raise ValueError(f"batches or rate: {problem}")
        fired = codes.values > 0
        self.active = fired.sum(1).float().mean()
        dead = self.silent >= config.dead_after
        if config.auxk and dead.any():
            loss = loss + config.auxk * auxiliary_loss(ksae, centred, residual, dead)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self._apply()
        self.silent += len(x)
        self.silent[codes.indices[fired]] = 0
        self.step += 1

    def _autoencode(self, centred: Tensor) -> tuple[Codes, Tensor]:
        """The codes (n, k) of the encoder's input (n, d), and what they decode to (n, d).

        The input is a constant, which saves a product. The pre-bias gets its gradient through a
        term of the encoder's bias that is 0.
        """
        ksae, dtype = self.ksae, self.dtype
        b_enc: Tensor = ksae.b_enc
        if self.config.pre_bias:
            b_enc = b_enc - ksae.W_enc.detach() @ (ksae.b_dec - ksae.b_dec.detach())
        with torch.no_grad():
            pre = F.linear(centred.to(dtype), ksae.W_enc.to(dtype), b_enc.to(dtype))
            values, indices = top_k(pre, self.config.k)
            codes = Codes(values.float().relu(), indices)
        weights = (ksae.W_enc, b_enc, ksae.W_dec)
        decoded = _SparseAutoencode.apply(centred, *weights, codes)
        return codes, decoded

    @torch.no_grad()
    def _apply(self) -> None:
        directions = self.ksae.W_dec
        gradient = directions.grad  # None of a decoder that stays
        if gradient is not None:  # no step changes a direction's length
            gradient -= (gradient * directions).sum(1, keepdim=True) * directions
        warm_up = (self.step + 1) / (0.05 * self.config.steps)
        decay = (self.config.steps - self.step) / (0.2 * self.config.steps)
        self.adam.param_groups[0]["lr"] = self.config.rate * min(1.0, warm_up, decay)
        self.adam.step()
        if gradient is not None:
            directions.div_(directions.norm(dim=1, keepdim=True))

    def log(self, validation: Tensor | None) -> None:
        """Adds an entry to the curves."""
        dead = self.silent >= self.config.dead_after
        lost = math.nan if validation is None else fvu(self.ksae, [validation])
        self.history.step.append(self.step)
        self.history.fvu.append(self.loss)
        self.history.validation_fvu.append(lost)
        self.history.l0.append(self.active.item())
        self.history.dead.append(dead.float().mean().item())


def _product_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision == "auto":
        return fast_dtype(device)
    return torch.bfloat16 if precision == "bf16" else torch.float32
