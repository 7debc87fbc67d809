"""Makes the folders of tests/test_foreign.py anew, with the libraries that write such folders.

    PYTHONHASHSEED=0 python tests/foreign/make.py

Each folder holds the files as its library wrote them, of a tiny autoencoder with drawn weights, and
expected.safetensors: some x, and the latents and the reconstruction that the library gave for them
once it had loaded the folder in float32. Continuous integration does not run this. The versions of
the libraries stand in requirements-bench.txt; dictionary_learning is 0.1.0, installed with
`pip install --no-deps dictionary_learning==0.1.0 einops`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
WIDTH, LATENTS, K = 6, 16, 4  # d, D, k
N = 12  # vectors of `expected`


def stand_in(name: str, **content: Any) -> None:
    """An empty module in place of one that a library imports and that nothing here calls."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        sys.modules[name] = module


def vectors(n: int = N, seed: int = 1) -> Tensor:
    """x (n, d), with a mean, and of different lengths."""
    drawn = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.linspace(0.5, 2, n)[:, None] + torch.linspace(-0.5, 0.5, WIDTH)


@torch.no_grad()
def draw(network: torch.nn.Module, seed: int = 0) -> None:
    """Draws all parameters. Encoders look along decoders, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(LATENTS, WIDTH, generator=generator)
    directions *= torch.linspace(0.4, 1.6, LATENTS)[:, None] / directions.norm(dim=1, keepdim=True)
    for name, parameter in network.named_parameters():
        drawn = 0.3 * torch.randn(parameter.shape, generator=generator)
        if "threshold" in name:
            drawn = drawn.abs()
        if parameter.shape == directions.shape:
            drawn = directions + 0.1 * drawn
        if parameter.shape == directions.T.shape:
            drawn = directions.T + 0.1 * drawn
        parameter.copy_(drawn)


def empty(name: str) -> Path:
    """The folder, with nothing in it."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@torch.no_grad()
def expect(
    folder: Path, encode: Callable[[Tensor], Tensor], reconstruct: Callable[[Tensor], Tensor]
) -> None:
    """Writes what the library gives. Refuses latents that would not tell activations apart."""
    x = vectors()
    expected = {"x": x, "latents": encode(x), "reconstruction": reconstruct(x)}
    assert 0.05 < (expected["latents"] > 0).float().mean() < 0.8, folder
    assert all(tensor.isfinite().all() for tensor in expected.values()), folder
    expected = {name: tensor.contiguous() for name, tensor in expected.items()}
    save_file(expected, folder / "expected.safetensors")


# ------------------------------------------------------------------------------------------ SAELens


def saelens() -> None:
    """Those that are trained are saved for inference. Two others are as somebody converts them."""
    stand_in("wandb")
    import sae_lens

    size = {"d_in": WIDTH, "d_sae": LATENTS}
    bare = {**size, "apply_b_dec_to_input": False}
    trained = {
        "standard": ("StandardTrainingSAE", size),
        "topk": ("TopKTrainingSAE", {**size, "k": K}),
        "batchtopk": ("BatchTopKTrainingSAE", {**size, "k": K}),
        "matryoshka": (
            "MatryoshkaBatchTopKTrainingSAE",
            {**bare, "k": K, "matryoshka_widths": [4, 16]},
        ),
        "jumprelu": ("JumpReLUTrainingSAE", bare),
        "gated": ("GatedTrainingSAE", size),
        "bfloat16": ("StandardTrainingSAE", {**bare, "dtype": "bfloat16"}),
    }
    for name, (kind, options) in trained.items():
        sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**options))
        draw(sae)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold += 0.7
        sae.save_inference_model(empty(f"saelens-{name}"))
    converted = {"topk-rescaled": True, "topk-plain": False}
    for name, rescale in converted.items():
        config = sae_lens.TopKSAEConfig(**size, k=K, rescale_acts_by_decoder_norm=rescale)
        other = sae_lens.TopKSAE(config)
        draw(other)
        other.save_model(empty(f"saelens-{name}"))
    for name in [*trained, *converted]:
        folder = HERE / f"saelens-{name}"
        loaded = sae_lens.SAE.load_from_disk(folder, dtype="float32")
        expect(folder, loaded.encode, loaded)


# ----------------------------------------------------------------------------------------- sparsify


def sparsify() -> None:
    """Both activations."""
    from sparsify import SparseCoder, SparseCoderConfig

    for activation in ("topk", "groupmax"):
        config = SparseCoderConfig(activation=activation, num_latents=LATENTS, k=K)
        coder = SparseCoder(WIDTH, config)
        draw(coder)
        folder = empty(f"sparsify-{activation}")
        coder.save_to_disk(folder)
        loaded = SparseCoder.load_from_disk(folder)

        expect(folder, partial(scattered, loaded), lambda x, loaded=loaded: loaded(x).sae_out)


def scattered(coder: Any, x: Tensor) -> Tensor:
    """The values that the library's `encode` gives, where its indices say: (n, d) -> (n, D)."""
    values, indices, _ = coder.encode(x)
    return x.new_zeros(len(x), LATENTS).scatter(1, indices, values)


# ------------------------------------------------------------------------------ dictionary_learning


def begun(trainer: type, **options: Any) -> Any:
    """A trainer of the library whose dictionary is drawn."""
    made = trainer(**options)
    draw(made.ae)
    return made


def batches() -> Iterator[Tensor]:
    """Batches (64, d) without end."""
    seed = 100
    while True:
        yield vectors(64, seed)
        seed += 1


def dictionary_learning() -> None:
    """A few steps of the library's own `trainSAE`, which saves."""
    stand_in("wandb")
    stand_in("nnsight", LanguageModel=object)
    stand_in("zstandard")
    from dictionary_learning import trainers
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
    from dictionary_learning.trainers.standard import StandardTrainerAprilUpdate
    from dictionary_learning.training import trainSAE
    from dictionary_learning.utils import load_dictionary

    slow: dict[str, Any] = {"lr": 1e-3, "warmup_steps": 0, "sparsity_warmup_steps": None}
    sparse: dict[str, Any] = {"lr": 1e-3, "warmup_steps": 0, "k": K, "threshold_start_step": 0}
    options: dict[str, tuple[type, dict[str, Any]]] = {
        "standard": (trainers.StandardTrainer, slow),
        "april": (StandardTrainerAprilUpdate, slow),
        "gated": (trainers.GatedSAETrainer, slow),
        "jumprelu": (trainers.JumpReluTrainer, slow),
        "topk": (trainers.TopKTrainer, sparse),
        "batchtopk": (trainers.BatchTopKTrainer, sparse),
        "matryoshka": (MatryoshkaBatchTopKTrainer, {**sparse, "group_fractions": [0.25, 0.75]}),
    }
    steps = 4
    for name, (trainer, chosen) in options.items():
        config = {
            "trainer": partial(begun, trainer),
            "steps": steps,
            "activation_dim": WIDTH,
            "dict_size": LATENTS,
            "layer": 0,
            "lm_name": "none",
            "device": "cpu",
            **chosen,
        }
        folder = empty(f"dictionary_learning-{name}")
        trainSAE(batches(), [config], steps, save_dir=str(folder), device="cpu")
        for file in (folder / "trainer_0").iterdir():
            file.rename(folder / file.name)
        (folder / "trainer_0").rmdir()
        loaded, _ = load_dictionary(str(folder), "cpu")
        expect(folder, loaded.encode, loaded)


# ------------------------------------------------------------------------------------- overcomplete


def overcomplete() -> None:
    """The library has no format: a `state_dict`, and what `foreign` asks for beside it."""
    import matplotlib
    import matplotlib.cm

    # overcomplete 0.3.0 imports a function that matplotlib has since moved.
    if not hasattr(matplotlib.cm, "get_cmap"):
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete import sae

    models = {
        "topk": (sae.TopKSAE, "l2", {"top_k": K}),
        "topk-max": (sae.TopKSAE, "max_l2", {"top_k": K}),
        "batchtopk": (sae.BatchTopKSAE, "max_l1", {"top_k": 40}),
        "jump": (sae.JumpSAE, "identity", {}),
        "sae": (sae.SAE, "l1", {}),
    }
    for name, (kind, normalization, options) in models.items():
        chosen = {"normalization": normalization, "use_multiplier": name != "sae"}
        model = kind(WIDTH, LATENTS, dictionary_params=chosen, **options)
        draw(model)
        cfg: dict[str, Any] = {"class": kind.__name__, "normalization": normalization}
        if name == "batchtopk":
            model(vectors(64, 2))  # sets the threshold
            cfg["running_threshold"] = model.running_threshold.item()
        if name.startswith("topk"):
            cfg["k"] = model.top_k
        folder = empty(f"overcomplete-{name}")
        (folder / "cfg.json").write_text(json.dumps(cfg) + "\n")
        weights = {n: t.clone() for n, t in model.state_dict().items()}
        if name == "jump":
            save_file(weights, folder / "state_dict.safetensors")
        else:
            torch.save(weights, folder / "state_dict.pt")
        model.eval()
        expect(folder, lambda x, m=model: m.encode(x)[1], lambda x, m=model: m(x)[2])


def main() -> None:
    from difflens_utils.runtime.torchvision import mend

    mend()  # before the libraries import torchvision
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for library in (saelens, sparsify, dictionary_learning, overcomplete):
        library()


if __name__ == "__main__":
    main()
