"""k-sparse autoencoders (k-SAE) on vectors of h: the model, its training, and the error it leaves.

    s = TopK(W_enc (x − b_dec) + b_enc)        Eq. 3, with the pre-bias of Gao et al. (2024)
    x̂ = W_dec s + b_dec                        Eq. 4, W_dec starts as W_encᵀ at unit norm
    loss = ‖x − x̂‖² / ‖x − mean(x)‖²           Eq. 5 and 12

Callers see raw units of h throughout. One scalar, the rms of the centred data, is divided out
inside and multiplied back.

References: Makhzani & Frey, "k-Sparse Autoencoders" (2013); Gao et al., "Scaling and evaluating
sparse autoencoders" (2024), for AuxK, unit-norm decoders and dead latents.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn
from tqdm.auto import tqdm

from .errors import one_of, positive, within
from .precision import fast_dtype

Batches = Iterable[Tensor] | Callable[[int], Tensor]
CHUNK = 8192  # vectors encoded at once by the measures: bounds their memory at CHUNK·D values


@dataclass(frozen=True)
class KSAEConfig:
    """Everything that determines a trained k-SAE besides its data.

    Raises ValueError naming the parameter.
    """

    width: int
    """d: values per vector, the channels of the module's output."""
    latents: int
    """D: latents in the dictionary."""
    k: int
    """Latents that stay active per vector."""
    pre_bias: bool = True
    """Whether b_dec is subtracted before encoding and starts from the data's mean.

    False is the paper's variant: b_dec starts from zero.
    """
    auxk: float = 1 / 32
    """Weight of the AuxK loss, which lets dead latents explain what the living leave over.

    0 turns it off.
    """
    aux_latents: int | None = None
    """Dead latents that AuxK uses per vector; None is width / 2, as in Gao et al."""
    dead_after: int = 200_000
    """Vectors on which a latent may stay silent before it counts as dead.

    With AuxK a latent that counts as dead may be retired for good (`auxiliary_loss`): take more
    than the pauses of rare features.
    """
    rate: float = 1e-3
    """Adam's learning rate after the warm-up (5 % of the steps), before the decay to 0 (20 %)."""
    batch: int = 2048
    """Vectors per step, for whoever makes the batches; one of another size is used as it is."""
    steps: int = 1500
    """Optimizer steps."""
    seed: int = 0
    """Seed of the initial directions."""
    precision: str = "auto"
    """The encoder's matrix product in training: "fp32", "bf16" or "auto".

    "auto" is bf16 where the hardware multiplies in it.
    """

    def __post_init__(self) -> None:
        counts = ["width", "latents", "k", "dead_after", "batch", "steps"]
        if self.aux_latents is not None:
            counts.append("aux_latents")
        for name in counts:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            positive(name, value)
        if self.k > self.latents:
            raise ValueError(f"k must be at most latents ({self.latents}), got {self.k}")
        positive("rate", self.rate)
        within("auxk", self.auxk, 0, 1)
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))


# ------------------------------------------------------------------------------ sparse products


class Codes(NamedTuple):
    """The active latents of vectors, in no particular order."""

    values: Tensor
    """(..., k), some perhaps 0."""
    indices: Tensor
    """(..., k) int64, which latents they are."""


def top_k(x: Tensor, k: int) -> Codes:
    """Returns the k largest of each row of x (..., D), in no particular order.

    A tournament: the k largest lie in the k columns of 8 with the largest maxima, so only those
    are searched. On a CPU that is about a third faster than one search of the whole row, and top-k
    is half the price of a training step.
    """
    if x.shape[-1] % 8 or x.shape[-1] < 16 * k:
        return Codes(*x.topk(k, sorted=False))
    columns = x.shape[-1] // 8
    rows = x.reshape(*x.shape[:-1], 8, columns)
    finalists = rows.amax(-2).topk(k, sorted=False).indices  # (..., k) columns
    chosen = finalists.unsqueeze(-2).expand(*finalists.shape[:-1], 8, k)
    pool = rows.gather(-1, chosen).flatten(-2)  # (..., 8k)
    values, winners = pool.topk(k, sorted=False)
    column = finalists.gather(-1, winners % k)
    row = winners.div(k, rounding_mode="floor")
    return Codes(values, row * columns + column)


def _rows_sum(codes: Codes, weight: Tensor) -> Tensor:
    """Σ_k values·weight[indices]: codes (n, k), weight (D, d) -> (n, d).

    Touches n·k rows and not n·D.
    """
    return F.embedding_bag(codes.indices, weight, per_sample_weights=codes.values, mode="sum")


class _SparseAutoencode(torch.autograd.Function):
    """x (n, d), W_enc, b_enc, W_dec and the codes of x (n, k) -> W_decᵀ s (n, d).

    The codes are relu(TopK(W_enc x + b_enc)). The gradients are as sparse as the codes. Autograd's
    own backward multiplies four dense (n, D) matrices that are zero but for k of D values. Here
    the n·k active pairs are sorted by latent once, and each weight's gradient is a sum of n·k
    rows: O(n·k·d), not O(n·D·d).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, _w_enc: Tensor, _b_enc: Tensor, w_dec: Tensor, codes: Codes
    ) -> Tensor:
        with torch.enable_grad():  # autograd keeps what the gradient of the values needs
            ctx.values = codes.values.detach().requires_grad_()
            ctx.decoded = _rows_sum(Codes(ctx.values, codes.indices), w_dec.detach())
        ctx.save_for_backward(x, codes.indices)
        ctx.latents = len(w_dec)
        decoded: Tensor = ctx.decoded.detach()
        return decoded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads  # (n, d)
        x, indices = ctx.saved_tensors
        (grad_values,) = torch.autograd.grad(ctx.decoded, ctx.values, grad)
        grad_values = torch.where(ctx.values > 0, grad_values, 0)  # behind the ReLU
        latents, order = indices.flatten().sort(stable=True)  # (n·k,) pairs by latent
        starts = torch.searchsorted(latents, torch.arange(ctx.latents, device=x.device))
        vectors = order.div(indices.shape[1], rounding_mode="floor")  # each pair's vector

        def per_latent(weights: Tensor, rows: Tensor) -> Tensor:  # (n, k), (n, d) -> (D, d)
            weights = weights.detach().flatten()[order]
            return F.embedding_bag(vectors, rows, starts, mode="sum", per_sample_weights=weights)

        grad_b = torch.bincount(indices.flatten(), grad_values.flatten(), minlength=ctx.latents)
        grad_w_enc = per_latent(grad_values, x)
        grad_w_dec = per_latent(ctx.values, grad.contiguous())
        return None, grad_w_enc, grad_b.to(x.dtype), grad_w_dec, None


# ------------------------------------------------------------------------------------ the model


class Dictionary(Protocol):
    """Latents of vectors of h and the direction each writes: a `KSAE`, or the `Neurons` of h."""

    @property
    def floor(self) -> float:
        """The least value that a latent can have."""

    @property
    def directions(self) -> Tensor:
        """(D, d) in units of h: what one unit of each latent writes."""

    def latents(self, x: Tensor) -> Tensor:
        """Vectors (..., d) -> latents (..., D)."""

    def on_device(self, device: torch.device) -> Dictionary:
        """Returns the dictionary itself if it is on the device, else a copy that is."""

    def fingerprint(self) -> str:
        """Returns what stands for the dictionary in the keys of what is computed with it."""


class KSAE(nn.Module):
    """A k-sparse autoencoder of vectors x (..., d) in units of h, with D latents, k of them active.

    Parameters W_enc (D, d), b_enc (D), W_dec (D, d: row j is the direction d_j, of unit norm),
    b_dec (d); buffer `scale`, the unit in which those are given.
    """

    floor = 0.0

    def __init__(self, config: KSAEConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        drawn = torch.randn(config.latents, config.width, generator=generator)
        directions = F.normalize(drawn, dim=1)
        # Encoder and decoder start tied (Eq. 4), up to the factor of `start_from`.
        self.W_enc = nn.Parameter(directions.clone())  # (D, d)
        self.b_enc = nn.Parameter(torch.zeros(config.latents))
        self.W_dec = nn.Parameter(directions)  # (D, d)
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor
        self._copies: dict[torch.device, KSAE] = {}

    @property
    def directions(self) -> Tensor:
        """(D, d) in units of h: decode(s + e_j) − decode(s) = directions[j]."""
        return self.scale * self.W_dec

    def centred(self, x: Tensor) -> Tensor:
        """The encoder's input: x (..., d) in units of `scale`, less the pre-bias."""
        x = x.to(self.W_enc.dtype) / self.scale
        return x - self.b_dec if self.config.pre_bias else x

    def encode(self, x: Tensor) -> Codes:
        """Eq. 3: (..., d) -> codes (..., k), values >= 0.

        Raises ValueError unless x has vectors of d values.
        """
        if x.shape[-1] != self.config.width:
            expected = f"vectors of {self.config.width} values"
            raise ValueError(f"x must hold {expected}, got shape {tuple(x.shape)}")
        values, indices = top_k(F.linear(self.centred(x), self.W_enc, self.b_enc), self.config.k)
        return Codes(values.relu(), indices)

    def latents(self, x: Tensor) -> Tensor:
        """s of Eq. 3: (..., d) -> (..., D), at most k of them above 0."""
        values, indices = self.encode(x)
        silent = values.new_zeros(*values.shape[:-1], self.config.latents)
        return silent.scatter(-1, indices, values)

    def decode(self, s: Tensor) -> Tensor:
        """Eq. 4: s (..., D) -> x̂ (..., d)."""
        return (s @ self.W_dec + self.b_dec) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> x̂ (..., d), in the dtype of x: decode(latents(x)) at k/D of the price."""
        values, indices = self.encode(x)
        k = self.config.k
        written = _rows_sum(Codes(values.reshape(-1, k), indices.reshape(-1, k)), self.W_dec)
        x_hat = (written.reshape(x.shape) + self.b_dec) * self.scale
        return x_hat.to(x.dtype)

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Takes scale, b_dec (with a pre-bias) and the length of W_enc's rows from x (n, d).

        The encoder stays W_decᵀ up to one factor, the one that reconstructs x best: at unit norm
        the k overlapping directions overshoot, and the first hundred steps would go into shrinking
        them. Raises ValueError for vectors that are not finite or all the same.
        """
        mean = x.mean(0)
        scale = (x - mean).square().mean().sqrt()
        if not 0 < scale.item() < math.inf:
            expected = "finite vectors that differ"
            raise ValueError(
                f"batches must hold {expected}, but the rms of the first is {scale:.3g}"
            )
        self.scale.copy_(scale)
        if self.config.pre_bias:
            self.b_dec.copy_(mean / scale)
        centred = self.centred(x)
        written = self(x) / scale - self.b_dec
        self.W_enc.mul_((centred * written).sum() / written.square().sum())

    def on_device(self, device: torch.device) -> KSAE:
        """Returns this k-SAE if it is on the device, else a copy there, which is made once.

        Unlike `to`, it moves nothing that others hold.
        """
        if self.W_dec.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(self).to(device)
        return self._copies[device]

    def fingerprint(self) -> str:
        """16 hex digits that stand for the weights and settings, for the keys of results."""
        digest = hashlib.sha256(json.dumps(asdict(self.config)).encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Writes cfg.json and model.safetensors into `folder`, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        _write(folder / "model.safetensors", serialize(tensors))
        config = json.dumps(asdict(self.config), indent=2) + "\n"
        _write(folder / "cfg.json", config.encode())

    @classmethod
    def load(cls, folder: str | Path) -> KSAE:
        """Returns the k-SAE that `save` wrote, frozen.

        Raises ValueError, in one line, for missing, damaged and foreign files.
        """
        folder = Path(folder)
        try:
            config = KSAEConfig(**json.loads((folder / "cfg.json").read_text()))
            tensors = load_file(folder / "model.safetensors")
        except FileNotFoundError as error:
            missing = Path(error.filename or folder).name
            raise ValueError(f"folder {folder} holds no k-SAE: {missing} is missing") from None
        except (TypeError, ValueError, OSError, SafetensorError) as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise ValueError(f"folder {folder} holds no readable k-SAE: {reason}") from None
        ksae = cls(config)
        _check_tensors(folder / "model.safetensors", tensors, ksae.state_dict())
        ksae.load_state_dict(tensors)
        return ksae.eval().requires_grad_(False)


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless `found` has the names, shapes and dtypes expected, all finite."""
    for name in sorted(found.keys() ^ expected.keys()):
        problem = "missing" if name in expected else "unknown"
        raise ValueError(f"file {path} is not of this k-SAE: {name} is {problem}")
    for name, tensor in found.items():
        kind = f"{tensor.dtype} {tuple(tensor.shape)}"
        expected_kind = f"{expected[name].dtype} {tuple(expected[name].shape)}"
        if kind != expected_kind:
            problem = f"{name} is {kind}, not {expected_kind}"
            raise ValueError(f"file {path} is not of this k-SAE: {problem}")
        if not tensor.isfinite().all():
            raise ValueError(f"file {path} is damaged: {name} holds values that are not finite")


class Neurons:
    """The channels of h as a dictionary: latent j is channel j, and writes along unit vector j.

    What is done with a k-SAE's latents can so be done with neurons (the L of Act@L and Attr@L,
    Table 3). Unlike a latent, a neuron may be negative.
    """

    floor = -math.inf

    def __init__(self, width: int, device: torch.device | None = None) -> None:
        positive("width", width)
        self.directions = torch.eye(width, device=device)  # (d, d)

    def latents(self, x: Tensor) -> Tensor:
        """(..., d) as it is."""
        return x

    def on_device(self, device: torch.device) -> Neurons:
        """Returns the neurons with their directions on the device."""
        if self.directions.device == device:
            return self
        return Neurons(len(self.directions), device)

    def fingerprint(self) -> str:
        """Returns what stands for the neurons in the keys of results: their number."""
        return f"neurons{len(self.directions)}"


def map_to_vectors(h: Tensor) -> Tensor:
    """h (B, C, H, W) -> its positions as vectors (B, H·W, C).

    Tokens (B, tokens, C) are vectors already. Raises ValueError for another shape.
    """
    if h.ndim == 3:
        return h
    if h.ndim != 4:
        raise ValueError(f"h must be (B, C, H, W) or (B, tokens, C), got shape {tuple(h.shape)}")
    return h.flatten(2).transpose(1, 2)


def vectors_to_map(x: Tensor, shape: Iterable[int]) -> Tensor:
    """The inverse of `map_to_vectors`: x (B, H·W, C) -> (B, C, H, W), the `shape` of h.

    Tokens stay as they are.
    """
    shape = tuple(shape)
    return x.reshape(shape) if len(shape) == 3 else x.transpose(1, 2).reshape(shape)


# ------------------------------------------------------------------------------------- training


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
        # Gao et al.'s small epsilon: a normalised loss over D·d weights has gradients near
        # Adam's default one.
        parameters = self.ksae.parameters()
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
        loss.backward()  # type: ignore[no-untyped-call]
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
        decoded = _SparseAutoencode.apply(centred, *weights, codes)  # type: ignore[no-untyped-call]
        return codes, decoded

    @torch.no_grad()
    def _apply(self) -> None:
        directions = self.ksae.W_dec
        gradient = directions.grad
        assert gradient is not None
        # No step changes a direction's length.
        gradient -= (gradient * directions).sum(1, keepdim=True) * directions
        warm_up = (self.step + 1) / (0.05 * self.config.steps)
        decay = (self.config.steps - self.step) / (0.2 * self.config.steps)
        self.adam.param_groups[0]["lr"] = self.config.rate * min(1.0, warm_up, decay)
        self.adam.step()
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


# ------------------------------------------------------------------------------------- measures


@dataclass
class ErrorSums:
    """Running sums over vectors, in float64, from which FVU follows for any mean."""

    n: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))  # (d,)
    squares: float = 0.0
    errors: float = 0.0

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """Adds vectors x and their reconstructions, (n, d) each."""
        wide = x.double()
        self.n += len(x)
        self.total = self.total + wide.sum(0)
        self.squares += wide.square().sum().item()
        self.errors += (wide - x_hat.double()).square().sum().item()

    def spread(self, mean: Tensor) -> float:
        """Σ ‖x − mean‖², for a mean (d,)."""
        return self.squares - 2 * float(mean @ self.total) + self.n * float(mean @ mean)

    def variation(self, where: str = "") -> float:
        """Σ ‖x − mean of all x‖². Raises ValueError if all vectors are the same."""
        variation = self.spread(self.total / self.n)
        # Below the rounding of float64 sums the vectors are the same, and a quotient means nothing.
        if variation <= 1e-12 * self.squares:
            raise ValueError(f"batches hold no variation{where}: FVU is undefined")
        return variation


def chunks(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Tensors (..., d) as chunks (n <= CHUNK, d), not empty. Raises ValueError for no vectors."""
    empty = True
    for batch in batches:
        for chunk in torch.split(batch.reshape(-1, batch.shape[-1]), CHUNK):
            if len(chunk):
                empty = False
                yield chunk
    if empty:
        raise ValueError("batches hold no vectors")


@torch.no_grad()
def fvu(ksae: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> float:
    """Eq. 12, pooled: Σ ‖x − x̂‖² / Σ ‖x − mean‖² over all vectors (..., d), summed in float64.

    `ksae` is anything that maps x (n, d) to x̂ (n, d). Raises ValueError for no vectors, and for
    vectors without variation.
    """
    sums = ErrorSums()
    for x in chunks(batches):
        sums.add(x, ksae(x))
    return sums.errors / sums.variation()


@torch.no_grad()
def density(ksae: KSAE, batches: Iterable[Tensor]) -> Tensor:
    """(D,) float64: the share of vectors (..., d) on which each latent is above 0."""
    fired = torch.zeros(ksae.config.latents, dtype=torch.long)
    count = 0
    for x in chunks(batches):
        values, indices = ksae.encode(x)
        fired += torch.bincount(indices[values > 0], minlength=ksae.config.latents).cpu()
        count += len(x)
    return fired.double() / count


_MOVED = ("GroupFVU", "fvu_per_group", "l0", "dead_share", "decoder_cosine", "matched_cosines")


def __getattr__(name: str) -> Any:  # the old names, until their callers use `dictionaries`
    if name in _MOVED:
        return getattr(importlib.import_module(".dictionaries", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
