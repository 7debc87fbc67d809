"""k-SAE trainers side by side: ours and three libraries, on the same vectors.

Every trainer gets the same batches, Adam with the same rate, warm-up and decay, and its own
initialisation, constraints and losses. Where a library leaves precision to the caller, fp32 and
bf16 autocast are both tried and the faster one is kept, so that nobody loses for a default.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from difflens_utils import ksae

RATE = 1e-3


@dataclass(frozen=True)
class Size:
    """What is trained: d = `width`, D = `latents`, `k` active, `steps` of `batch` vectors."""

    width: int
    latents: int
    k: int
    steps: int
    batch: int


class Contestant(Protocol):
    """A training under way."""

    def train(self, batches: Sequence[Tensor]) -> None:
        """One optimizer step per batch (n, d)."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """x (n, d) -> x̂ (n, d)."""


def factor(step: int, steps: int) -> float:
    """The learning rate's factor, as in `ksae.train`: up over 5 % of the steps, down over 20 %."""
    return min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.2 * steps))


class Ours:
    def __init__(self, size: Size, first: Tensor, bf16: bool) -> None:
        config = ksae.KSAEConfig(
            size.width,
            size.latents,
            size.k,
            rate=RATE,
            batch=size.batch,
            steps=size.steps,
            precision="bf16" if bf16 else "fp32",
        )
        self.trainer = ksae.Trainer(config, first)

    def train(self, batches: Sequence[Tensor]) -> None:
        for x in batches:
            self.trainer.update(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.trainer.ksae(x)


class Sparsify:
    """eai-sparsify's `SparseCoder`, stepped as its `Trainer` does with Adam.

    The `Trainer` itself needs a language model.
    """

    def __init__(self, size: Size, first: Tensor, bf16: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):  # it reports a missing Triton
            from sparsify import SparseCoder, SparseCoderConfig
        self.sae = SparseCoder(size.width, SparseCoderConfig(num_latents=size.latents, k=size.k))
        self.sae.b_dec.data = first.mean(0)
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=RATE, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda step: factor(step, size.steps)
        )
        self.cast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)

    def train(self, batches: Sequence[Tensor]) -> None:
        for x in batches:
            with self.cast:
                loss = self.sae(x).fvu
            loss.backward()
            self.sae.remove_gradient_parallel_to_decoder_directions()
            self.adam.step()
            self.adam.zero_grad()
            self.schedule.step()
            self.sae.set_decoder_norm_to_unit_norm()

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae(x).sae_out


class SAELens:
    """sae-lens' own `SAETrainer`, its `step` called as its `fit` does."""

    def __init__(self, size: Size, first: Tensor, bf16: bool) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.training.sae_trainer import SAETrainer

        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(d_in=size.width, d_sae=size.latents, k=size.k, device="cpu")
        )
        settings = SAETrainerConfig(
            total_training_samples=size.steps * size.batch,
            train_batch_size_samples=size.batch,
            lr=RATE,
            lr_end=RATE / 100,
            lr_warm_up_steps=size.steps // 20,
            lr_decay_steps=size.steps // 5,
            autocast=bf16,
            device="cpu",
        )
        self.trainer = SAETrainer(settings, sae, iter(()))

    def train(self, batches: Sequence[Tensor]) -> None:
        for x in batches:
            self.trainer.step(x)
            self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.trainer.sae(x)


class Overcomplete:
    """overcomplete's `TopKSAE` in its own `train_sae`."""

    def __init__(self, size: Size, first: Tensor, bf16: bool) -> None:
        import matplotlib
        import matplotlib.cm

        # overcomplete 0.3.0 imports a function that matplotlib has since moved.
        if not hasattr(matplotlib.cm, "get_cmap"):
            matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
        from overcomplete.sae import TopKSAE, train_sae

        self.sae, self.fit = TopKSAE(size.width, size.latents, top_k=size.k), train_sae
        self.adam = torch.optim.Adam(self.sae.parameters(), lr=RATE, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.adam, lambda step: factor(step, size.steps)
        )
        self.cast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)

    def train(self, batches: Sequence[Tensor]) -> None:
        with self.cast:
            self.fit(
                self.sae,
                batches,
                lambda x, x_hat, *_: (x - x_hat).square().mean(),
                self.adam,
                self.schedule,
                nb_epochs=1,
                monitoring=0,
            )

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.sae.eval()(x)[2]


PEERS: dict[str, type[Contestant]] = {
    "eai-sparsify": Sparsify,
    "sae-lens": SAELens,
    "overcomplete": Overcomplete,
}


class Curve(NamedTuple):
    """One contestant's race."""

    precision: str
    seconds: list[float]  # training time so far
    fvu: list[float]  # held-out FVU at that time

    def time_to(self, target: float) -> float:
        """Seconds until the FVU first falls to `target`, interpolated; else infinite."""
        for i, fvu in enumerate(self.fvu):
            if fvu <= target:
                share = (self.fvu[i - 1] - target) / (self.fvu[i - 1] - fvu) if i else 1.0
                start = self.seconds[i - 1] if i else 0.0
                return start + share * (self.seconds[i] - start)
        return float("inf")


def stream(width: int, n: int, seed: int = 0) -> Callable[[int], Tensor]:
    """Synthetic vectors like a bottleneck's, as a function: step -> (n, d).

    4 d features in superposition with power-law frequencies, a dense part of low rank, and noise;
    standardised, so that no library loses for lacking a pre-bias.
    """
    g = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(4 * width, width, generator=g), dim=1)
    dense = torch.randn(8, width, generator=g) / width**0.5
    often = torch.arange(1, 4 * width + 1).float() ** -0.7
    often = (often * 20 / often.sum()).clamp_max(0.5)  # about 20 features per vector

    def batch(step: int) -> Tensor:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        codes = (torch.rand(n, 4 * width, generator=g) < often) * (
            0.5 + torch.rand(n, 4 * width, generator=g)
        )
        x = codes @ atoms + torch.randn(n, 8, generator=g) @ dense
        x += 0.3 / width**0.5 * torch.randn(n, width, generator=g)
        return (x - often @ atoms) * (
            width / (often.sum() * 13 / 12 + 8)
        ) ** 0.5  # mean 0, rms about 1

    return batch


def faster(make: type[Contestant], size: Size, batches: Sequence[Tensor]) -> bool:
    """Whether bf16 trains faster than fp32 here (False also where a library cannot do it)."""
    seconds = []
    for bf16 in (False, True):
        try:
            contestant = make(size, batches[0], bf16)
            contestant.train(batches[:1])
            start = time.perf_counter()
            contestant.train(batches[1:3])
            seconds.append(time.perf_counter() - start)
        except RuntimeError:  # mixed dtypes that the library does not expect
            seconds.append(float("inf"))
    return seconds[1] < seconds[0]


def race(size: Size, rounds: int, pool: int = 16) -> tuple[dict[str, Curve], dict[str, str]]:
    """Trains all contestants in turns, a share of the steps per round.

    Each is scored on held-out vectors off the clock. Returns their curves, "ours" among them, and
    the peers that could not run with the reason.
    """
    source = stream(size.width, size.batch)
    batches, held_out = [source(i) for i in range(pool)], source(-1)
    curves: dict[str, Curve] = {}
    contestants: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for name, make in {"ours": Ours, **PEERS}.items():
        try:
            bf16 = faster(make, size, batches)
            contestants[name] = make(size, batches[0], bf16)
        except ImportError as error:
            absent = error.name is not None and name.endswith(error.name.replace("_", "-"))
            missing[name] = "not installed" if absent else str(error)
        else:
            curves[name] = Curve("bf16" if bf16 else "fp32", [], [])
    for turn in range(rounds):
        first, last = (turn * size.steps // rounds, (turn + 1) * size.steps // rounds)
        order = list(contestants)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            start = time.perf_counter()
            contestants[name].train([batches[i % pool] for i in range(first, last)])
            seconds = time.perf_counter() - start + (curves[name].seconds[-1] if turn else 0.0)
            curves[name].seconds.append(seconds)
            with torch.no_grad():
                curves[name].fvu.append(ksae.fvu(contestants[name].reconstruct, [held_out]))
    return curves, missing


def versions() -> dict[str, str]:
    """The installed version of each peer and of captum; "not installed" otherwise."""
    found = {}
    for name in (*PEERS, "captum"):
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return found
