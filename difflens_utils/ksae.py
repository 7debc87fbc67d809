"""k-sparse autoencoders (k-SAE) on vectors of h: the model, its training, and its honest figures.

    s = TopK(W_enc (x − b_dec) + b_enc)        Eq. 3, with the pre-bias of Gao et al. (2024)
    x̂ = W_dec s + b_dec                        Eq. 4, W_dec starts as W_encᵀ at unit norm
    loss = ‖x − x̂‖² / ‖x − mean(x)‖²           Eq. 5 and 12

Callers see raw units of h throughout: one scalar, the rms of the centred data, is divided out inside and folded back.
References: Makhzani & Frey, "k-Sparse Autoencoders" (2013); Gao et al., "Scaling and evaluating sparse autoencoders"
(2024), for AuxK, unit-norm decoders and dead latents.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from tqdm.auto import tqdm

from .errors import one_of, positive, within
from .precision import fast_dtype

Batches = Iterable[Tensor] | Callable[[int], Tensor]
MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's state, by PyTorch's names
CHUNK = 8192  # vectors encoded at once by the metrics: bounds their memory at CHUNK·D values


@dataclass(frozen=True)
class KSAEConfig:
    """Everything that determines a trained k-SAE besides its data. Raises ValueError naming the parameter."""

    width: int
    """d: values per vector, the channels of the module's output."""
    latents: int
    """D: latents in the dictionary."""
    k: int
    """Latents that stay active per vector."""
    pre_bias: bool = True
    """Subtract b_dec before encoding, starting from the data's mean; False is the paper's variant, b_dec from zero."""
    auxk: float = 1 / 32
    """Weight of the AuxK loss, which lets dead latents explain what the living leave over; 0 turns it off."""
    aux_latents: int | None = None
    """Dead latents that AuxK uses per vector; None is width / 2, as in Gao et al."""
    dead_after: int = 200_000
    """Vectors on which a latent may stay silent before it counts as dead.

    With AuxK a latent that counts as dead may be retired for good (`auxiliary_loss`): take more
    than the pauses of rare features.
    """
    rate: float = 1e-3
    """Adam's learning rate after the warm-up (5 % of the steps) and before the decay to 0 (the last 20 %)."""
    batch: int = 2048
    """Vectors per step, for whoever makes the batches; one of another size is taken as it is."""
    steps: int = 1500
    """Optimizer steps."""
    seed: int = 0
    """Seed of the initial directions."""
    precision: str = "auto"
    """The encoder's matrix product in training: "fp32", "bf16", or "auto", bf16 where the hardware multiplies in it."""

    def __post_init__(self) -> None:
        whole = {
            name: getattr(self, name)
            for name in ("width", "latents", "k", "dead_after", "batch", "steps")
        }
        if self.aux_latents is not None:
            whole["aux_latents"] = self.aux_latents
        for name, value in whole.items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"{name} must be a whole number, got {value!r}")
            positive(name, value)
        if self.k > self.latents:
            raise ValueError(f"k must be at most latents ({self.latents}), got {self.k}")
        positive("rate", self.rate)
        within("auxk", self.auxk, 0, 1)
        one_of("precision", self.precision, ("auto", "fp32", "bf16"))


# ---------------------------------------------------------------------------------------------------- sparse products


def top_k(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of x (..., D), in no particular order: values and indices (..., k).

    A tournament: the k largest lie in the k columns of 8 with the largest maxima, so only those are searched. On a CPU
    that is about a third faster than one search of the whole row, and top-k is half the price of a training step.
    """
    if x.shape[-1] % 8 or x.shape[-1] < 16 * k:
        return x.topk(k, sorted=False)
    columns = x.shape[-1] // 8
    rounds = x.unflatten(-1, (8, columns))  # (..., 8, D/8)
    finalists = rounds.amax(-2).topk(k, sorted=False).indices  # (..., k)
    pool = rounds.gather(-1, finalists.unsqueeze(-2).expand(*finalists.shape[:-1], 8, k)).flatten(
        -2
    )  # (..., 8k)
    values, winners = pool.topk(k, sorted=False)
    return values, finalists.gather(-1, winners % k) + winners.div(
        k, rounding_mode="floor"
    ) * columns


def _rows_sum(indices: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Σ_k values·weight[indices]: (n, k), (n, k), (D, d) -> (n, d), touching n·k rows and not n·D."""
    return F.embedding_bag(indices, weight, per_sample_weights=values, mode="sum")


class _SparseAutoencode(torch.autograd.Function):
    """x (n, d) -> W_decᵀ relu(TopK(W_enc x + b_enc)) (n, d), and the codes, with gradients as sparse as the codes.

    Autograd's own backward multiplies four dense (n, D) matrices that are zero but for k of D values. Here the n·k
    active pairs are sorted by latent once, and each weight's gradient is a sum of n·k rows: O(n·k·d), not O(n·D·d).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_enc: Tensor, b_enc: Tensor, w_dec: Tensor, k: int, dtype: torch.dtype
    ) -> Any:
        values, indices = top_k(F.linear(x.to(dtype), w_enc.to(dtype), b_enc.to(dtype)), k)
        with (
            torch.enable_grad()
        ):  # autograd keeps what the gradient with respect to the values needs
            ctx.values = values.float().relu().requires_grad_()  # (n, k)
            ctx.decoded = _rows_sum(indices, ctx.values, w_dec.detach())  # (n, d)
        ctx.save_for_backward(x, indices)
        ctx.latents = len(w_dec)
        ctx.mark_non_differentiable(indices)
        return ctx.decoded.detach(), ctx.values.detach(), indices

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Any:
        x, indices = ctx.saved_tensors
        (grad_values,) = torch.autograd.grad(ctx.decoded, ctx.values, grad)
        grad_values = torch.where(ctx.values > 0, grad_values, 0)  # behind the ReLU
        owners, order = indices.flatten().sort(stable=True)  # (n·k,) pairs by latent
        starts = torch.searchsorted(owners, torch.arange(ctx.latents, device=x.device))
        vectors = order.div(
            indices.shape[1], rounding_mode="floor"
        )  # the vector each pair came from

        def per_latent(weights: Tensor, rows: Tensor) -> Tensor:  # (n, k), (n, d) -> (D, d)
            weights = weights.detach().flatten()[order]
            return F.embedding_bag(vectors, rows, starts, mode="sum", per_sample_weights=weights)

        grad_b = torch.bincount(indices.flatten(), grad_values.flatten(), minlength=ctx.latents).to(
            x.dtype
        )
        return (
            None,
            per_latent(grad_values, x),
            grad_b,
            per_latent(ctx.values, grad.contiguous()),
            None,
            None,
        )


# ---------------------------------------------------------------------------------------------------- the model


class KSAE(nn.Module):
    """A k-sparse autoencoder of vectors x (..., d) in units of h, with D latents of which k are active.

    Parameters W_enc (D, d), b_enc (D), W_dec (D, d: row j is the direction d_j, of unit norm), b_dec (d); buffer
    `scale`, the unit in which those are given.
    """

    floor = 0.0  # no latent is below

    def __init__(self, config: KSAEConfig) -> None:
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(config.seed)
        directions = F.normalize(
            torch.randn(config.latents, config.width, generator=generator), dim=1
        )
        self.W_enc = nn.Parameter(directions.clone())  # (D, d)
        self.b_enc = nn.Parameter(torch.zeros(config.latents))
        self.W_dec = nn.Parameter(
            directions
        )  # (D, d), tied at the start (Eq. 4), up to the factor of `_start_from`
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("scale", torch.ones(()))
        self.scale: Tensor

    @property
    def directions(self) -> Tensor:
        """(D, d) in units of h: decode(s + e_j) − decode(s) = directions[j]."""
        return self.scale * self.W_dec

    def pre_activations(self, x: Tensor) -> Tensor:
        """W_enc (x − b_dec) + b_enc: (..., d) -> (..., D). Raises ValueError unless x has vectors of d values."""
        if x.shape[-1] != self.config.width:
            raise ValueError(
                f"x must hold vectors of {self.config.width} values, got shape {tuple(x.shape)}"
            )
        return F.linear(self._centred(x), self.W_enc, self.b_enc)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 3: (..., d) -> values (..., k) >= 0, some perhaps 0, and indices (..., k), in no particular order."""
        values, indices = top_k(self.pre_activations(x), self.config.k)
        return values.relu(), indices

    def dense(self, values: Tensor, indices: Tensor) -> Tensor:
        """Sparse codes (..., k), (..., k) as s (..., D)."""
        return values.new_zeros(*values.shape[:-1], self.config.latents).scatter(
            -1, indices, values
        )

    def latents(self, x: Tensor) -> Tensor:
        """s of Eq. 3: (..., d) -> (..., D), at most k of them above 0."""
        return self.dense(*self.encode(x))

    def decode(self, s: Tensor) -> Tensor:
        """Eq. 4: s (..., D) -> x̂ (..., d)."""
        return (s @ self.W_dec + self.b_dec) * self.scale

    def decode_sparse(self, values: Tensor, indices: Tensor) -> Tensor:
        """Eq. 4 from sparse codes (..., k), (..., k) -> x̂ (..., d), at k/D of the price."""
        total = _rows_sum(indices.flatten(0, -2), values.flatten(0, -2), self.W_dec).unflatten(
            0, values.shape[:-1]
        )
        return (total + self.b_dec) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) -> x̂ (..., d), in the dtype of x."""
        return self.decode_sparse(*self.encode(x)).to(x.dtype)

    def _centred(self, x: Tensor) -> Tensor:
        x = x.to(self.W_enc.dtype) / self.scale
        return x - self.b_dec if self.config.pre_bias else x

    @torch.no_grad()
    def _start_from(self, x: Tensor) -> None:
        """Take the scale, b_dec (with a pre-bias) and the length of W_enc's rows from the first vectors x (n, d).

        The encoder stays W_decᵀ up to one factor, the one that reconstructs x best: at unit norm the k overlapping
        directions overshoot, and the first hundred steps would go into shrinking them.
        """
        mean = x.mean(0)
        scale = (x - mean).square().mean().sqrt()
        if not 0 < scale.item() < math.inf:
            raise ValueError(
                f"batches must hold finite vectors that differ, but the rms of the first is {scale:.3g}"
            )
        self.scale.copy_(scale)
        if self.config.pre_bias:
            self.b_dec.copy_(mean / scale)
        centred, written = self._centred(x), self(x) / scale - self.b_dec
        self.W_enc *= (centred * written).sum() / written.square().sum()

    def fingerprint(self) -> str:
        """16 hex digits that stand for the weights and settings, for the keys of what is computed with them."""
        digest = hashlib.sha256(json.dumps(asdict(self.config)).encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: str | Path) -> None:
        """Write cfg.json and model.safetensors into `folder`, each atomically."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(folder / "model.safetensors", self.state_dict())
        with _atomic(folder / "cfg.json") as temporary:
            temporary.write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> KSAE:
        """The k-SAE that `save` wrote, frozen. Raises ValueError, in one line, for missing, damaged, foreign files."""
        folder = Path(folder)
        try:
            config = KSAEConfig(**json.loads((folder / "cfg.json").read_text()))
            tensors = load_file(folder / "model.safetensors")
        except FileNotFoundError as error:
            missing = Path(error.filename or folder).name
            raise ValueError(f"folder {folder} holds no k-SAE: {missing} is missing") from None
        except (TypeError, ValueError, OSError, SafetensorError) as error:
            raise ValueError(f"folder {folder} holds no readable k-SAE: {_line(error)}") from None
        ksae = cls(config)
        _check_tensors(folder / "model.safetensors", tensors, ksae.state_dict())
        ksae.load_state_dict(tensors)
        return ksae.eval().requires_grad_(False)


class Neurons:
    """The channels of h themselves as a dictionary: latent j is channel j, and writes along unit vector j.

    What is done with a k-SAE's latents can so be done with neurons (the L of Act@L and Attr@L, Table 3). Unlike a latent, a
    neuron may be negative.
    """

    floor = -math.inf

    def __init__(self, width: int) -> None:
        positive("width", width)
        self.directions = torch.eye(width)  # (d, d)

    def latents(self, x: Tensor) -> Tensor:
        """(..., d) as it is."""
        return x

    def fingerprint(self) -> str:
        return f"neurons{len(self.directions)}"


def map_to_vectors(h: Tensor) -> Tensor:
    """h (B, C, H, W) -> its positions as vectors (B, H·W, C); tokens (B, tokens, C) are vectors already."""
    if h.ndim == 3:
        return h
    if h.ndim != 4:
        raise ValueError(f"h must be (B, C, H, W) or (B, tokens, C), got shape {tuple(h.shape)}")
    return h.flatten(2).transpose(1, 2)


def vectors_to_map(x: Tensor, shape: Iterable[int]) -> Tensor:
    """The inverse of `map_to_vectors`: x (B, H·W, C) -> (B, C, H, W) for the `shape` of h; tokens stay as they are."""
    shape = tuple(shape)
    return x.reshape(shape) if len(shape) == 3 else x.transpose(1, 2).reshape(shape)


# ---------------------------------------------------------------------------------------------------- training


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
    """AuxK of Gao et al. (2024): the share of the residual (n, d) that the dead latents alone leave unexplained.

    `centred` (n, d) is the encoder's input, `dead` (D,) a mask. The tensors given are constants here, and the decoder's
    bias takes no part (the residual holds it already), so the gradient reaches the dead latents' own parameters only.

    This revives latents where features are missing: the residual then holds such a feature at its
    full size. Where the living latents have all features, the residual is small, the dead latents'
    pre-activations shrink to its size, and they no longer enter the k, as they otherwise do now and
    then by chance. The method then leaves *more* latents dead. With 32 planted directions in d =
    16, k = 4 and D = 256 the dead share rose from 0.29-0.39 to 0.55-0.65 with `dead_after` 10,000
    (FVU 2 % higher) and from 0.10 to 0.24-0.27 with 200,000 (FVU the same), after 1,500 steps.
    """
    rows = dead.nonzero().squeeze(1)
    pre = F.linear(centred.detach(), ksae.W_enc[rows], ksae.b_enc[rows])  # (n, dead)
    values, indices = pre.topk(
        min(ksae.config.aux_latents or (ksae.config.width + 1) // 2, len(rows)), sorted=False
    )
    explained = torch.zeros_like(pre).scatter(1, indices, values.relu()) @ ksae.W_dec[rows]
    residual = residual.detach()
    return (residual - explained).square().sum() / residual.square().sum().clamp_min(1e-30)


def train(
    config: KSAEConfig,
    batches: Batches,
    *,
    validation: Tensor | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    on_log: Callable[[History], None] | None = None,
) -> tuple[KSAE, History]:
    """Train a k-SAE on vectors in units of h, on whatever device they live, and return it frozen with its curves.

    `batches` is a function of the step, or an iterable read from its start, giving tensors (n, d). `validation` (m, d)
    is scored at every log. With a `checkpoint` file, training continues from it bit for bit (an iterable's first
    batches are drawn again and dropped), and it is rewritten ten times on the way, at the end and on an interrupt.
    Raises ValueError for batches of another shape, too few of them, values that are not finite, and a checkpoint of
    other settings.
    """
    first, stream_from = _open(batches)
    run, path = (
        Trainer(config, _checked(config, first, 0)),
        None if checkpoint is None else Path(checkpoint),
    )
    if path is not None and path.exists():
        run.restore(path)
    if validation is not None:
        fvu(run.ksae, [validation])  # a wrong shape shows now, not at the first log
    logs, saves = max(1, config.steps // 60), max(1, config.steps // 10)
    stream = stream_from(run.step)
    with tqdm(
        total=config.steps, initial=run.step, desc=f"k-SAE k={config.k}", disable=not progress
    ) as bar:
        try:
            while run.step < config.steps:
                batch = _checked(config, next(stream, None), run.step)
                with _uninterrupted():
                    run.update(batch)
                    if logged := run.step % logs == 0 or run.step == config.steps:
                        run.log(validation)
                bar.update()
                if logged:
                    bar.set_postfix_str(f"FVU {run.history.fvu[-1]:.3f}", refresh=False)
                    if on_log is not None:
                        on_log(run.history)
                if path is not None and (run.step % saves == 0 or run.step == config.steps):
                    run.save(path)
        except KeyboardInterrupt:
            if path is not None:
                run.save(path)
            raise
    return run.ksae.eval().requires_grad_(False), run.history


class Trainer:
    """All that a training step changes, so what a checkpoint holds: model, Adam's moments, silence counts, curves."""

    def __init__(self, config: KSAEConfig, first: Tensor) -> None:
        self.config = config
        self.ksae = KSAE(config).to(first.device)
        self.ksae._start_from(first)
        # Gao et al.'s small epsilon: a normalised loss over D·d weights has gradients near Adam's default one.
        self.adam = torch.optim.Adam(
            self.ksae.parameters(), lr=config.rate, eps=6.25e-10, fused=True
        )
        self.silent = torch.zeros(
            config.latents, dtype=torch.long, device=first.device
        )  # vectors since a latent fired
        self.step = 0
        self.history = History([], [], [], [], [])
        self.dtype = _product_dtype(config.precision, first.device)

    def update(self, x: Tensor) -> None:
        """One step of Adam on x (n, d), with the decoder's rows held at unit norm."""
        ksae, config = self.ksae, self.config
        with torch.no_grad():
            centred = ksae._centred(x)  # (n, d), a constant: no gradient GEMM for the pre-bias ...
        b_enc = ksae.b_enc
        if config.pre_bias:  # ... whose gradient comes through a term of the bias that is 0
            b_enc = b_enc - ksae.W_enc.detach() @ (ksae.b_dec - ksae.b_dec.detach())
        decoded, values, indices = _SparseAutoencode.apply(
            centred, ksae.W_enc, b_enc, ksae.W_dec, config.k, self.dtype
        )
        target = x / ksae.scale
        residual = target - ksae.b_dec - decoded
        loss = residual.square().sum() / (target - target.mean(0)).square().sum()
        self.last = (loss.item(), (values > 0).sum(1).float().mean())
        if not math.isfinite(self.last[0]):
            raise ValueError(
                f"batches or rate: the loss of step {self.step} is not finite (rate {config.rate:g})"
            )
        dead = self.silent >= config.dead_after
        if config.auxk and dead.any():
            loss = loss + config.auxk * auxiliary_loss(ksae, centred, residual, dead)
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self._apply()
        self.silent += len(x)
        self.silent[indices[values > 0]] = 0
        self.step += 1

    @torch.no_grad()
    def _apply(self) -> None:
        directions, gradient = self.ksae.W_dec, self.ksae.W_dec.grad
        assert gradient is not None
        gradient -= (gradient * directions).sum(
            1, keepdim=True
        ) * directions  # no step along a direction's length
        warm_up, decay = 0.05 * self.config.steps, 0.2 * self.config.steps
        factor = min(1.0, (self.step + 1) / warm_up, (self.config.steps - self.step) / decay)
        self.adam.param_groups[0]["lr"] = self.config.rate * factor
        self.adam.step()
        directions /= directions.norm(dim=1, keepdim=True)

    def log(self, validation: Tensor | None) -> None:
        """Add an entry to the curves."""
        history, (loss, active) = self.history, self.last
        history.step.append(self.step)
        history.fvu.append(loss)
        history.validation_fvu.append(
            math.nan if validation is None else fvu(self.ksae, [validation])
        )
        history.l0.append(active.item())
        history.dead.append((self.silent >= self.config.dead_after).float().mean().item())

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; step, settings and curves go into its metadata."""
        tensors = dict(self.ksae.state_dict()) | {"silent": self.silent}
        for name, parameter in self.ksae.named_parameters():
            state = self.adam.state.get(parameter, {})
            tensors |= {
                f"{moment}.{name}": state.get(moment, torch.zeros_like(parameter))
                for moment in MOMENTS
            }
        metadata = {
            "step": self.step,
            "config": asdict(self.config),
            "history": self.history._asdict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(path, tensors, {"ksae": json.dumps(metadata)})

    def restore(self, path: Path) -> None:
        """Continue where `save` was called. Raises ValueError for a damaged file and for one of other settings."""
        try:
            with safe_open(path, "pt", device=str(self.silent.device)) as file:
                metadata = json.loads((file.metadata() or {})["ksae"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (KeyError, ValueError, OSError, SafetensorError) as error:
            raise ValueError(
                f"checkpoint {path} cannot be read, delete it to start again: {_line(error)}"
            ) from None
        for name, value in asdict(self.config).items():
            if metadata["config"].get(name) != value:
                was = metadata["config"].get(name)
                raise ValueError(
                    f"checkpoint {path} is of another training: its {name} is {was!r}, not {value!r}"
                )
        state = dict(self.ksae.state_dict()) | {"silent": self.silent}
        names = dict(self.ksae.named_parameters())
        _check_tensors(
            path, tensors, state | {f"{m}.{n}": p for m in MOMENTS for n, p in names.items()}
        )
        self.ksae.load_state_dict({name: tensors[name] for name in self.ksae.state_dict()})
        self.silent, self.step, self.history = (
            tensors["silent"],
            metadata["step"],
            History(**metadata["history"]),
        )
        for name, parameter in names.items():
            moments = {m: tensors[f"{m}.{name}"] for m in MOMENTS}
            self.adam.state[parameter] = {
                "step": torch.tensor(float(self.step), device=parameter.device),
                **moments,
            }


def _open(batches: Batches) -> tuple[Tensor | None, Callable[[int], Iterator[Tensor]]]:
    """The first batch, and the stream of batches from any step on, of a function of the step or of an iterable."""
    if callable(batches):
        return batches(0), lambda step: map(batches, itertools.count(step))
    rest = iter(batches)
    first = next(rest, None)
    return first, lambda step: itertools.islice(itertools.chain([first], rest), step, None)


def _checked(config: KSAEConfig, batch: Tensor | None, step: int) -> Tensor:
    """The batch (n, d) in fp32. Raises ValueError for none and for another shape."""
    if batch is None:
        raise ValueError(f"batches ended after {step} of {config.steps} steps")
    if batch.ndim != 2 or len(batch) < 2 or batch.shape[1] != config.width:
        expected = f"(n, width={config.width}) with n > 1"
        raise ValueError(f"batches must give {expected}, got {tuple(batch.shape)} at step {step}")
    return batch.detach().float()


def _product_dtype(precision: str, device: torch.device) -> torch.dtype:
    return (
        fast_dtype(device)
        if precision == "auto"
        else torch.bfloat16
        if precision == "bf16"
        else torch.float32
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold an interrupt back until the block is done, so that it never leaves half an optimizer step behind."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return
    caught: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)
    if caught:
        raise KeyboardInterrupt


# ---------------------------------------------------------------------------------------------------- files


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block succeeds, and vanishes when it does not."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    with _atomic(
        path
    ) as temporary:  # written by Python, so that a full disk is the OSError that callers know
        temporary.write_bytes(
            serialize({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        )


def _check_tensors(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError, in one line, unless `found` has the names, shapes and dtypes of `expected`, all finite."""
    for name in itertools.chain(expected, found):
        if name not in found or name not in expected:
            problem = "missing" if name in expected else "unknown"
            raise ValueError(f"file {path} is not of this k-SAE: {name} is {problem}")
        ours, theirs = expected[name], found[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            shapes = f"{theirs.dtype} {tuple(theirs.shape)}, not {ours.dtype} {tuple(ours.shape)}"
            raise ValueError(f"file {path} is not of this k-SAE: {name} is {shapes}")
        if not theirs.isfinite().all():
            raise ValueError(f"file {path} is damaged: {name} holds values that are not finite")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


# ---------------------------------------------------------------------------------------------------- metrics


@dataclass
class _Sums:
    """Running sums over vectors, in float64, from which FVU follows for any mean."""

    n: int = 0
    total: Tensor | float = 0.0  # (d,)
    squares: float = 0.0
    errors: float = 0.0

    def add(self, x: Tensor, x_hat: Tensor) -> None:
        """x, x_hat (n, d)."""
        wide = x.double()
        self.n += len(x)
        self.total = self.total + wide.sum(0)
        self.squares += wide.square().sum().item()
        self.errors += (wide - x_hat.double()).square().sum().item()

    def spread(self, mean: Tensor) -> float:
        """Σ ‖x − mean‖²."""
        return self.squares - 2 * float(mean @ self.total) + self.n * float(mean @ mean)


def _vectors(batches: Iterable[Tensor], width: int) -> Iterator[Tensor]:
    """Tensors (..., d) as chunks (n <= CHUNK, d), not empty."""
    for batch in batches:
        if batch.shape[-1] != width:
            raise ValueError(
                f"batches must hold vectors of {width} values, got shape {tuple(batch.shape)}"
            )
        yield from (chunk for chunk in batch.reshape(-1, width).split(CHUNK) if len(chunk))


class GroupFVU(NamedTuple):
    """FVU by group (for instance by timestep), against two means."""

    within: dict[Any, float]
    """‖x − x̂‖² / ‖x − mean of the group‖²: how much of the group's own variation is lost."""
    pooled: dict[Any, float]
    """‖x − x̂‖² / ‖x − mean of all‖²: the same error against what one common mean would leave of the group."""
    all: float
    """Eq. 12 over all groups together."""


@torch.no_grad()
def fvu_per_group(
    ksae: Callable[[Tensor], Tensor], groups: Iterable[tuple[Any, Tensor]]
) -> GroupFVU:
    """FVU of every group in a stream of (group, vectors (..., d)), in any order and repeated at will.

    `ksae` is anything that maps x (n, d) to x̂ (n, d). Raises ValueError for groups without vectors or variation.
    """
    sums: dict[Any, _Sums] = {}
    for group, batch in groups:
        for x in _vectors([batch], batch.shape[-1]):
            sums.setdefault(group, _Sums()).add(x, ksae(x))
    if not sums:
        raise ValueError("batches hold no vectors")
    count = sum(s.n for s in sums.values())
    mean = torch.as_tensor(sum(s.total for s in sums.values())) / count  # (d,)
    own = {group: s.spread(torch.as_tensor(s.total) / s.n) for group, s in sums.items()}
    common = {group: s.spread(mean) for group, s in sums.items()}
    for group, variation in own.items():
        # Below the rounding of float64 sums, all vectors of a group are the same and the quotient means nothing.
        if variation <= 1e-12 * sums[group].squares:
            where = "" if group is None else f" in group {group!r}"
            raise ValueError(f"batches hold no variation{where}: FVU is undefined")
    return GroupFVU(
        within={group: s.errors / own[group] for group, s in sums.items()},
        pooled={group: s.errors / common[group] for group, s in sums.items()},
        all=sum(s.errors for s in sums.values()) / sum(common.values()),
    )


def fvu(ksae: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> float:
    """Eq. 12, pooled: numerator and denominator summed in float64 over all vectors (..., d), then divided."""
    return fvu_per_group(ksae, ((None, batch) for batch in batches)).all


@torch.no_grad()
def density(ksae: KSAE, batches: Iterable[Tensor]) -> Tensor:
    """(D,) float64: the share of vectors (..., d) on which each latent is above 0."""
    fired, count = torch.zeros(ksae.config.latents, dtype=torch.long), 0
    for x in _vectors(batches, ksae.config.width):
        values, indices = ksae.encode(x)
        fired += torch.bincount(indices[values > 0], minlength=ksae.config.latents).cpu()
        count += len(x)
    if not count:
        raise ValueError("batches hold no vectors")
    return fired.double() / count


def l0(density: Tensor) -> float:
    """Mean number of latents above 0 per vector, from their `density` (D,)."""
    return density.sum().item()


def dead_share(density: Tensor) -> float:
    """Share of latents that never fire, from their `density` (D,)."""
    return (density == 0).double().mean().item()


@torch.no_grad()
def decoder_cosine(ksae: KSAE, block: int = 1024) -> dict[str, float]:
    """|cos(d_i, d_j)| over all pairs i ≠ j: {"mean", "max"}, in blocks of rows so that (D, D) is never held."""
    positive("block", block)
    directions = F.normalize(ksae.W_dec, dim=1)
    total, largest = 0.0, 0.0
    for start in range(0, len(directions), block):
        cosines = (directions[start : start + block] @ directions.T).abs()  # (block, D)
        cosines[:, start:].fill_diagonal_(0)
        total += cosines.sum(dtype=torch.float64).item()
        largest = max(largest, cosines.max().item())
    pairs = len(directions) * (len(directions) - 1)
    return {"mean": total / max(pairs, 1), "max": largest}


def matched_cosines(a: Tensor, b: Tensor) -> Tensor:
    """Are the same directions found again? Cosines of each of `a` (N, d) with its partner in `b` (M, d), M >= N: (N,).

    Partners are the one-to-one assignment with the largest sum of cosines (the Hungarian method). Raises ValueError for M < N.
    """
    if len(b) < len(a):
        raise ValueError(f"b must hold at least as many directions as a ({len(a)}), got {len(b)}")
    cosines = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).cpu()
    rows, columns = linear_sum_assignment(cosines.numpy(), maximize=True)
    return cosines[rows, columns]
