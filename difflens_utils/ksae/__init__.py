"""k-sparse autoencoders (k-SAE) on vectors of h: the model, its training, and the error it leaves.

    s = TopK(W_enc (x − b_dec) + b_enc)        Eq. 3, with the pre-bias of Gao et al. (2024)
    x̂ = W_dec s + b_dec                        Eq. 4, W_dec starts as W_encᵀ at unit norm
    loss = ‖x − x̂‖² / ‖x − mean(x)‖²           Eq. 5 and 12

Callers see raw units of h throughout. One scalar, the rms of the centred data, is divided out
inside and multiplied back.

References: Makhzani & Frey, "k-Sparse Autoencoders" (2013); Gao et al., "Scaling and evaluating
sparse autoencoders" (2024), for AuxK, unit-norm decoders and dead latents.

>>> import torch
>>> from difflens_utils.ksae import KSAE, KSAEConfig
>>> ksae = KSAE(KSAEConfig(width=4, latents=32, k=2))
>>> x = torch.eye(4)  # four vectors
>>> s = ksae.latents(x)
>>> s.shape, (s > 0).sum(-1).tolist()
(torch.Size([4, 32]), [2, 2, 2, 2])
>>> torch.allclose(ksae(x), ksae.decode(s))
True
"""

from __future__ import annotations

from .config import KSAEConfig
from .measures import CHUNK, ErrorSums, chunks, density, fvu
from .model import KSAE, Dictionary, Neurons, map_to_vectors, vectors_to_map
from .sparse import Codes, top_k
from .training import Batches, History, Trainer, auxiliary_loss, train

__all__ = [
    "Batches",
    "CHUNK",
    "Codes",
    "Dictionary",
    "ErrorSums",
    "History",
    "KSAE",
    "KSAEConfig",
    "Neurons",
    "Trainer",
    "auxiliary_loss",
    "chunks",
    "density",
    "fvu",
    "map_to_vectors",
    "top_k",
    "train",
    "vectors_to_map",
]
