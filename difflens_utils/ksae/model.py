"""The k-SAE, the neurons as a dictionary of the same kind, and h as vectors.

One more unit of latent 3 writes direction 3:

>>> import torch
>>> from difflens_utils.ksae import KSAE, KSAEConfig, map_to_vectors
>>> ksae = KSAE(KSAEConfig(width=4, latents=16, k=2))
>>> s = ksae.latents(map_to_vectors(torch.randn(2, 4, 8, 8)))
>>> s.shape
torch.Size([2, 64, 16])
>>> written = ksae.decode(s + torch.eye(16)[3]) - ksae.decode(s)
>>> torch.allclose(written, ksae.directions[3].expand_as(written), atol=1e-5)
True
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from ..runtime.artifacts import atomic
from ..runtime.errors import line, positive
from .config import KSAEConfig
from .sparse import Codes, _rows_sum, top_k


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

    def decode(self, s: Tensor) -> Tensor:
        """Latents (..., D) -> vectors (..., d)."""

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

    def save(self, folder: str | Path, half: bool = False) -> None:
        """Writes cfg.json and model.safetensors into `folder`, each atomically.

        The weights are float32, or `half` precision in half of the space.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        if half:
            tensors = {name: tensor.half() for name, tensor in tensors.items()}
        with atomic(folder / "model.safetensors") as temporary:
            temporary.write_bytes(serialize(tensors))
        with atomic(folder / "cfg.json") as temporary:
            temporary.write_text(json.dumps(asdict(self.config), indent=2) + "\n")

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
            reason = f"{type(error).__name__}: {line(error)[:200]}"
            raise ValueError(f"folder {folder} holds no readable k-SAE: {reason}") from None
        ksae = cls(config)
        tensors = {n: t.float() if t.dtype == torch.float16 else t for n, t in tensors.items()}
        _check_tensors(folder / "model.safetensors", tensors, ksae.state_dict())
        ksae.load_state_dict(tensors)
        return ksae.eval().requires_grad_(False)


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

    def decode(self, s: Tensor) -> Tensor:
        """(..., d) as it is."""
        return s

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
