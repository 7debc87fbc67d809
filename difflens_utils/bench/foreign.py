"""Sparse autoencoders that other libraries have trained, as dictionaries of this package.

`load` reads a folder as its library wrote it. Latents and reconstructions are those of the
library's own `encode` and `decode` in inference, of single vectors:

    saelens              cfg.json and sae_weights.safetensors, as `save_inference_model` of a
                         trained SAE and `save_model` of another write them (SAELens 6.54)
    sparsify             cfg.json and sae.safetensors, as `save_to_disk` writes them (1.3)
    dictionary_learning  config.json and ae.pt, as `trainSAE` writes them (0.1.0)
    overcomplete         a `state_dict` of 0.3.0, as state_dict.pt or state_dict.safetensors, and
                         cfg.json with `class` (TopKSAE, BatchTopKSAE, JumpSAE or SAE), the
                         `normalization` of its dictionary, and `k` for TopKSAE or
                         `running_threshold` for BatchTopKSAE. The library saves none of these.

Weights in half precision become float32, as when the library is asked for float32. What cannot be
applied as the library means it is refused: other architectures, options that are not known here,
and an input that is normalised vector by vector, whose scale `decode` would not know. Nothing of a
folder is executed: of a pickle, tensors alone are read.

>>> import json, tempfile
>>> from pathlib import Path
>>> import torch
>>> from safetensors.torch import save_file
>>> from difflens_utils.bench import foreign
>>> folder, options = Path(tempfile.mkdtemp()), {"d_in": 2, "num_latents": 2, "k": 1}
>>> _ = (folder / "cfg.json").write_text(json.dumps(options))
>>> weights = {"encoder.weight": torch.eye(2), "encoder.bias": torch.zeros(2)}
>>> weights |= {"W_dec": torch.eye(2), "b_dec": torch.tensor([1.0, 1.0])}
>>> save_file(weights, folder / "sae.safetensors")
>>> sae = foreign.load(folder, "sparsify")
>>> sae.latents(torch.tensor([4.0, 3.0])).tolist()
[3.0, 0.0]
>>> sae.decode(torch.tensor([3.0, 0.0])).tolist()
[4.0, 1.0]
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ..runtime.errors import line, one_of

Tensors = dict[str, Tensor]  # by name
Options = dict[str, Any]  # by name

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int32, torch.int64)
COUNTS = ("k", "group_sizes")  # tensors of integers

# -------------------------------------------------------------------------------------- activations


def _relu(pre: Tensor) -> Tensor:
    return pre.relu()


def _top_k(pre: Tensor, k: int) -> Tensor:
    """The k largest of each row."""
    largest = pre.relu().topk(k)
    return torch.zeros_like(pre).scatter(-1, largest.indices, largest.values)


def _group_max(pre: Tensor, k: int) -> Tensor:
    """The largest of each of k groups of neighbours."""
    groups = pre.relu().unflatten(-1, (k, -1))  # (..., k, D/k)
    largest = groups.max(-1, keepdim=True)
    return torch.zeros_like(groups).scatter(-1, largest.indices, largest.values).flatten(-2)


def _above(pre: Tensor, threshold: Tensor) -> Tensor:
    """What is greater than a threshold: () or (D,)."""
    return pre.relu() * (pre > threshold)


def _reaching(pre: Tensor, threshold: Tensor) -> Tensor:
    """What is a threshold, () or (D,), or greater."""
    return pre.relu() * (pre >= threshold)


def _gated(pre: Tensor, gate: Tensor, gain: Tensor, magnitude: Tensor) -> Tensor:
    """relu(gain·pre + magnitude) where pre + gate > 0. All (D,)."""
    return (gain * pre + magnitude).relu() * (pre + gate > 0)


ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": _relu,
    "top_k": _top_k,
    "group_max": _group_max,
    "above": _above,
    "reaching": _reaching,
    "gated": _gated,
}


class Activation(NamedTuple):
    """A function of `ACTIVATIONS` with what it takes beside the encoder's output."""

    name: str
    arguments: tuple[int | Tensor, ...] = ()

    def __call__(self, pre: Tensor) -> Tensor:
        """The encoder's output (..., D) -> latents (..., D)."""
        return ACTIVATIONS[self.name](pre, *self.arguments)


# --------------------------------------------------------------------------------------- dictionary


@dataclass(frozen=True, eq=False)
class Encoded:
    """A `Dictionary` of D latents of vectors of d values, whichever library trained it.

    latents(x) = activation(weight (x − centre) + bias), decode(s) = directionsᵀ s + offset.
    """

    weight: Tensor  # (D, d)
    bias: Tensor  # (D,)
    centre: Tensor  # (d,)
    activation: Activation
    directions: Tensor  # (D, d)
    offset: Tensor  # (d,)
    _copies: dict[torch.device, Encoded] = field(default_factory=dict, init=False, repr=False)

    floor = 0.0

    def latents(self, x: Tensor) -> Tensor:
        """Vectors (..., d) -> latents (..., D). Raises ValueError unless x has vectors of d."""
        width = len(self.centre)
        if x.shape[-1] != width:
            raise ValueError(f"x must hold vectors of {width} values, got shape {tuple(x.shape)}")
        centred = x.to(self.weight.dtype) - self.centre
        return self.activation(F.linear(centred, self.weight, self.bias))

    def decode(self, s: Tensor) -> Tensor:
        """Latents (..., D) -> vectors (..., d)."""
        return s @ self.directions + self.offset

    def tensors(self) -> list[Tensor]:
        """All that determines the dictionary beside the name of its activation."""
        linear = [self.weight, self.bias, self.centre, self.directions, self.offset]
        return linear + [torch.as_tensor(argument) for argument in self.activation.arguments]

    def on_device(self, device: torch.device) -> Encoded:
        """Returns the dictionary itself if it is on the device, else a copy, made once."""
        if self.weight.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = self._copied(device)
        return self._copies[device]

    def _copied(self, device: torch.device) -> Encoded:
        name, arguments = self.activation
        there = tuple(a.to(device) if isinstance(a, Tensor) else a for a in arguments)
        return replace(
            self,
            weight=self.weight.to(device),
            bias=self.bias.to(device),
            centre=self.centre.to(device),
            activation=Activation(name, there),
            directions=self.directions.to(device),
            offset=self.offset.to(device),
        )

    def fingerprint(self) -> str:
        """16 hex digits that stand for the weights and the activation, for the keys of results."""
        digest = hashlib.sha256(self.activation.name.encode())
        for tensor in self.tensors():
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def _unit_norm(encoded: Encoded) -> Encoded:
    """Directions of unit norm, and latents in units of what they write."""
    norms = encoded.directions.norm(dim=1)  # (D,)
    return replace(
        encoded,
        weight=encoded.weight * norms[:, None],
        bias=encoded.bias * norms,
        directions=encoded.directions / norms[:, None],
    )


def load(folder: str | Path, library: str) -> Encoded:
    """Returns the dictionary in a folder that a `library` of `READERS` wrote.

    Raises ValueError, in one line, for a file that is missing, damaged or of other tensors, for
    values that are not finite, and for what the module does not support.
    """
    one_of("library", library, READERS)
    try:
        encoded = READERS[library](Path(folder))
        if not all(tensor.isfinite().all() for tensor in encoded.tensors()):
            problem = "a direction of length 0 or a factor too large"
            raise ValueError(f"its weights are not finite once applied, as with {problem}")
    except ValueError as error:
        reason = line(error)
        raise ValueError(f"folder {folder} holds no {library} dictionary: {reason}") from None
    return encoded


# -------------------------------------------------------------------------------------------- files


def _options(path: Path) -> Options:
    """What a file of settings says."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is damaged: {line(error)[:200]}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must hold options by name")
    return found


def _known(options: Options, *names: str) -> None:
    """Raises ValueError for an option of another name, unless it is off: it may change latents."""
    for name in sorted(options.keys() - set(names)):
        if options[name]:
            raise ValueError(f"option {name!r} is not known; known are {', '.join(names)}")


def _flag(options: Options, name: str, default: bool) -> bool:
    value = options.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def _count(options: Options, name: str, most: float = math.inf) -> int:
    """An integer from 1 to `most`."""
    value = options.get(name)
    if type(value) is not int or not 1 <= value <= most:  # True is an int too
        raise ValueError(f"{name} must be an integer from 1 to {most}, got {value!r}")
    return value


def _tensors(path: Path, shapes: Mapping[str, str], sizes: Mapping[str, int]) -> Tensors:
    """Reads the tensors of these names and shapes, in float32 (`COUNTS` as they are).

    A shape such as "Dd" has a letter per dimension. A size that `sizes` does not tell is that of
    the first tensor. Raises ValueError for other names, shapes and types, and for values that are
    not finite.
    """
    found, known = _read(path), dict(sizes)
    for name in sorted(map(str, found.keys() ^ shapes.keys())):
        problem = "is missing" if name in shapes else "is not known"
        raise ValueError(f"{path.name}: {name} {problem}; it must hold {', '.join(shapes)}")
    for name, shape in shapes.items():
        _check(f"{path.name}: {name}", found[name], INTEGERS if name in COUNTS else FLOATS)
        _fit(f"{path.name}: {name}", found[name], shape, known)
    return {n: t.detach() if n in COUNTS else t.detach().float() for n, t in found.items()}


def _read(path: Path) -> Tensors:
    """All that a file of tensors holds, by name. Executes nothing."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then refuses
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        problem = "is damaged, or holds code or objects, which are not run"
        raise ValueError(f"{path.name} {problem}; tensors by name are supported") from None
    except Exception as error:  # bytes at random can fail in any way
        reason = f"{type(error).__name__}: {line(error)[:200]}"
        raise ValueError(f"{path.name} is damaged: {reason}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} must hold tensors by name, got a {type(found).__name__}")
    return found


def _check(name: str, tensor: object, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raises ValueError unless it is a plain tensor of one of these types, and finite."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor, got a {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        expected = ", ".join(map(str, dtypes))
        raise ValueError(f"{name} must be one of {expected}, got {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"{name} must be a dense tensor, got {tensor.layout} on {tensor.device}")
    if not tensor.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")


def _fit(name: str, tensor: Tensor, shape: str, sizes: dict[str, int]) -> None:
    """Raises ValueError unless it is of this shape. Adds the sizes that were not known."""
    if len(shape) == tensor.ndim:
        for letter, size in zip(shape, tensor.shape, strict=True):
            sizes.setdefault(letter, size)
    expected = tuple(sizes.get(letter, letter) for letter in shape)
    if tuple(tensor.shape) != expected or not tensor.numel():
        raise ValueError(f"{name} must be of shape {expected}, got {tuple(tensor.shape)}")


# ------------------------------------------------------------------------------------------ SAELens

_SAELENS = {  # the tensors of each architecture; batchtopk and matryoshka are saved as jumprelu
    "standard": {"b_enc": "D"},
    "topk": {"b_enc": "D"},
    "jumprelu": {"b_enc": "D", "threshold": "D"},
    "gated": {"b_gate": "D", "b_mag": "D", "r_mag": "D"},
}
_SAELENS_OPTIONS = (
    "architecture d_in d_sae dtype device metadata apply_b_dec_to_input normalize_activations "
    "reshape_activations"
).split()


def _saelens(folder: Path) -> Encoded:
    """`SAE.load_from_disk`, in float32."""
    options = _options(folder / "cfg.json")
    architecture = _saelens_architecture(options)
    sizes = {"d": _count(options, "d_in"), "D": _count(options, "d_sae")}
    shapes = {"W_enc": "dD", "W_dec": "Dd", "b_dec": "d"} | _SAELENS[architecture]
    t = _tensors(folder / "sae_weights.safetensors", shapes, sizes)
    centred = _flag(options, "apply_b_dec_to_input", True)
    encoded = Encoded(
        weight=t["W_enc"].T,
        bias=t.get("b_enc", torch.zeros(sizes["D"])),
        centre=t["b_dec"] if centred else torch.zeros(sizes["d"]),
        activation=Activation("relu"),
        directions=t["W_dec"],
        offset=t["b_dec"],
    )
    if architecture == "topk":
        return _saelens_top_k(encoded, options)
    if architecture == "jumprelu":
        return replace(encoded, activation=Activation("above", (t["threshold"],)))
    if architecture == "gated":
        gates = (t["b_gate"], t["r_mag"].exp(), t["b_mag"])
        return replace(encoded, activation=Activation("gated", gates))
    return encoded


def _saelens_architecture(options: Options) -> str:
    """Raises ValueError for an architecture or an option that is not supported."""
    metadata = options.get("metadata")
    version = metadata.get("sae_lens_version") if isinstance(metadata, dict) else None
    if str(version).split(".")[0] != "6":
        raise ValueError(f"sae_lens_version must be 6, got {version!r}")
    one_of("architecture", options.get("architecture"), _SAELENS)
    architecture = str(options["architecture"])
    own = ("k", "rescale_acts_by_decoder_norm") if architecture == "topk" else ()
    _known(options, *_SAELENS_OPTIONS, *own)
    # A factor or a whitening of the data is not in the folder. A norm or a mean of each vector
    # would have to reach `decode`.
    one_of("normalize_activations", options.get("normalize_activations", "none"), ["none"])
    one_of("reshape_activations", options.get("reshape_activations", "none"), ["none"])
    return architecture


def _saelens_top_k(encoded: Encoded, options: Options) -> Encoded:
    """Where activations are rescaled, directions have unit norm and latents make up for it."""
    activation = Activation("top_k", (_count(options, "k", len(encoded.bias)),))
    if not _flag(options, "rescale_acts_by_decoder_norm", False):
        return replace(encoded, activation=activation)
    return replace(_unit_norm(encoded), activation=activation)


# ----------------------------------------------------------------------------------------- sparsify

_SPARSIFY_OPTIONS = (
    "activation expansion_factor normalize_decoder num_latents k multi_topk skip_connection "
    "transcode d_in"
).split()


def _sparsify(folder: Path) -> Encoded:
    """`SparseCoder.load_from_disk`. Its latents are dense here, not pairs of value and index."""
    options = _options(folder / "cfg.json")
    _known(options, *_SPARSIFY_OPTIONS)
    for name in ("skip_connection", "transcode"):
        if _flag(options, name, False):
            problem = "its decoder must give x itself, from latents alone"
            raise ValueError(f"{name} must be false: {problem}")
    activation = options.get("activation", "topk")
    one_of("activation", activation, ("topk", "groupmax"))
    width = _count(options, "d_in")
    latents = _sparsify_latents(options, width)
    k = _count(options, "k", latents)
    if activation == "groupmax" and latents % k:
        raise ValueError(f"k must divide the {latents} latents into groups, got {k}")
    shapes = {"encoder.weight": "Dd", "encoder.bias": "D", "W_dec": "Dd", "b_dec": "d"}
    t = _tensors(folder / "sae.safetensors", shapes, {"d": width, "D": latents})
    return Encoded(
        weight=t["encoder.weight"],
        bias=t["encoder.bias"],
        centre=t["b_dec"],
        activation=Activation("top_k" if activation == "topk" else "group_max", (k,)),
        directions=t["W_dec"],
        offset=t["b_dec"],
    )


def _sparsify_latents(options: Options, width: int) -> int:
    """The number of latents. 0 or none leaves it to the expansion."""
    if options.get("num_latents"):
        return _count(options, "num_latents")
    return width * _count({"expansion_factor": 32} | options, "expansion_factor")


# ------------------------------------------------------------------------------ dictionary_learning

_LINEAR = {"encoder.weight": "Dd", "decoder.weight": "dD"}
_MATRICES = {"W_enc": "dD", "b_enc": "D", "W_dec": "Dd", "b_dec": "d"}
_TOP_K = _LINEAR | {"encoder.bias": "D", "b_dec": "d", "k": "", "threshold": ""}
_DICTIONARY_LEARNING = {  # the tensors of each class
    "AutoEncoder": _LINEAR | {"encoder.bias": "D", "bias": "d"},
    "AutoEncoderTopK": _TOP_K,
    "BatchTopKSAE": _TOP_K,
    "MatryoshkaBatchTopKSAE": _MATRICES | {"k": "", "threshold": "", "group_sizes": "g"},
    "JumpReluAutoEncoder": _MATRICES | {"threshold": "D"},
    "GatedAutoEncoder": _LINEAR
    | {"decoder_bias": "d", "r_mag": "D", "gate_bias": "D", "mag_bias": "D"},
}


def _dictionary_learning(folder: Path) -> Encoded:
    """`utils.load_dictionary`, which gives the directions of an `AutoEncoder` unit norm."""
    trainer = _options(folder / "config.json").get("trainer")
    if not isinstance(trainer, dict):
        raise ValueError("config.json must hold options of a trainer")
    one_of("dict_class", trainer.get("dict_class"), _DICTIONARY_LEARNING)
    kind = str(trainer["dict_class"])
    t = _tensors(folder / "ae.pt", _DICTIONARY_LEARNING[kind], {})
    matrices = "W_enc" in t
    weight = t["W_enc"].T if matrices else t["encoder.weight"]
    offset = next(t[name] for name in ("b_dec", "bias", "decoder_bias") if name in t)
    encoded = Encoded(
        weight=weight,
        bias=t.get("b_enc", t.get("encoder.bias", torch.zeros(len(weight)))),
        # apply_b_dec_to_input of a loaded JumpReluAutoEncoder is always False.
        centre=torch.zeros_like(offset) if kind == "JumpReluAutoEncoder" else offset,
        activation=_learned_activation(kind, trainer, t, len(weight)),
        directions=t["W_dec"] if matrices else t["decoder.weight"].T,
        offset=offset,
    )
    norms = encoded.directions.norm(dim=1)
    unit = norms.allclose(torch.ones_like(norms))
    return _unit_norm(encoded) if kind == "AutoEncoder" and not unit else encoded


def _learned_activation(kind: str, trainer: Options, t: Tensors, latents: int) -> Activation:
    if kind == "AutoEncoder":
        return Activation("relu")
    if kind == "JumpReluAutoEncoder":
        return Activation("above", (t["threshold"],))
    if kind == "GatedAutoEncoder":
        return Activation("gated", (t["gate_bias"], t["r_mag"].exp(), t["mag_bias"]))
    k = _count(trainer, "k", latents)
    if k != int(t["k"]):
        raise ValueError(f"k must be that of ae.pt, which is {int(t['k'])}, got {k}")
    if kind == "AutoEncoderTopK":
        return Activation("top_k", (k,))
    sizes = t.get("group_sizes", torch.tensor([latents]))
    if sizes.min() < 1 or sizes.sum() != latents:
        raise ValueError(f"group_sizes must be positive and sum to {latents}")
    if t["threshold"] < 0:
        # The library would go on with all that is above 0.
        raise ValueError("threshold was never set: training ended before threshold_start_step")
    return Activation("above", (t["threshold"],))


# ------------------------------------------------------------------------------------- overcomplete

_OVERCOMPLETE = ("SAE", "TopKSAE", "BatchTopKSAE", "JumpSAE")
_NORMALIZATIONS = ("l2", "max_l2", "l1", "max_l1", "identity")


def _overcomplete(folder: Path) -> Encoded:
    """The model in `eval()`, with its linear encoder."""
    options = _options(folder / "cfg.json")
    _known(options, "class", "normalization", "k", "running_threshold")
    one_of("class", options.get("class"), _OVERCOMPLETE)
    one_of("normalization", options.get("normalization"), _NORMALIZATIONS)
    shapes = {"encoder.final_block.0.weight": "Dd", "encoder.final_block.0.bias": "D"}
    shapes |= {"dictionary._weights": "Dd", "dictionary.multiplier": ""}
    if options["class"] == "JumpSAE":
        shapes["thresholds"] = "D"
    t = _tensors(_state_dict(folder), shapes, {})
    weight = t["encoder.final_block.0.weight"]
    directions = _normalized(t["dictionary._weights"], options["normalization"])
    zeros = torch.zeros(weight.shape[1])
    return Encoded(
        weight=weight,
        bias=t["encoder.final_block.0.bias"],
        centre=zeros,
        activation=_overcomplete_activation(options, t, len(weight)),
        directions=directions * t["dictionary.multiplier"].exp(),
        offset=zeros,
    )


def _state_dict(folder: Path) -> Path:
    files = [folder / f"state_dict.{suffix}" for suffix in ("pt", "safetensors")]
    there = [file for file in files if file.is_file()]
    if len(there) != 1:
        raise ValueError("it must hold state_dict.pt or state_dict.safetensors, one of them")
    return there[0]


def _normalized(weights: Tensor, normalization: str) -> Tensor:
    """As the library's `dictionary` module normalises rows: weights (D, d)."""
    if normalization == "identity":
        return weights
    norms = weights.norm(p=2 if normalization.endswith("l2") else 1, dim=1, keepdim=True)
    length: Tensor = norms.max() if normalization.startswith("max") else norms + 1e-8
    return weights / length


def _overcomplete_activation(options: Options, t: Tensors, latents: int) -> Activation:
    if options["class"] == "TopKSAE":
        return Activation("top_k", (_count(options, "k", latents),))
    if options["class"] == "JumpSAE":
        return Activation("reaching", (t["thresholds"].exp(),))
    if options["class"] == "SAE":
        return Activation("relu")
    threshold: Any = options.get("running_threshold")
    most = torch.finfo(torch.float32).max
    if type(threshold) not in (int, float) or not 0 <= threshold <= most:
        expected = "a finite number of at least 0, the model's own after training"
        raise ValueError(f"running_threshold must be {expected}, got {threshold!r}")
    return Activation("reaching", (torch.tensor(float(threshold)),))


READERS: dict[str, Callable[[Path], Encoded]] = {
    "saelens": _saelens,
    "sparsify": _sparsify,
    "dictionary_learning": _dictionary_learning,
    "overcomplete": _overcomplete,
}
