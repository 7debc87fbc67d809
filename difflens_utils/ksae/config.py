"""Everything that determines a trained k-SAE besides its data.

>>> from difflens_utils.ksae import KSAEConfig
>>> KSAEConfig(width=64, latents=1024, k=32).pre_bias
True
>>> KSAEConfig(width=64, latents=1024, k=2000)
Traceback (most recent call last):
    ...
ValueError: k must be at most latents (1024), got 2000
"""

from __future__ import annotations

from dataclasses import dataclass

from ..runtime.errors import one_of, positive, within


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
    random_decoder: bool = False
    """Whether the decoder keeps the random directions that it starts from.

    Encoder and biases are trained alone. It is the control of a learned dictionary.
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
