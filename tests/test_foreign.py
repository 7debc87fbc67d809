"""Folders of other libraries give what those libraries gave, or one line that says why not.

The folders of tests/foreign were written by the libraries themselves (tests/foreign/make.py).
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from difflens_utils.bench import foreign
from difflens_utils.ksae import Dictionary

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent / "foreign"
FOLDERS = sorted(
    folder.name for folder in HERE.iterdir() if (folder / "expected.safetensors").is_file()
)
FILES = ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "state_dict.pt")
FILES = (*FILES, "state_dict.safetensors")
Weights = dict[str, Any]


def library_of(folder: str) -> str:
    return folder.split("-")[0]


def load(folder: Path) -> foreign.Encoded:
    return foreign.load(folder, library_of(folder.name))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """A function: the name of a folder -> a copy of it, to be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(HERE / name, tmp_path / name)
        return tmp_path / name

    return copy


def refused(folder: Path, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"folder {folder} holds no ")


def set_options(folder: Path, **changes: Any) -> None:
    """Changes what the settings say; None takes an option away."""
    path = next(folder / name for name in ("cfg.json", "config.json") if (folder / name).is_file())
    content = json.loads(path.read_text())
    options = content["trainer"] if path.name == "config.json" else content
    options.update(changes)
    for name in [name for name, value in changes.items() if value is None]:
        del options[name]
    path.write_text(json.dumps(content))


def weights_of(folder: Path) -> Path:
    return next(folder / name for name in FILES if (folder / name).is_file())


def set_weights(folder: Path, change: Callable[[Weights], Any]) -> None:
    """Changes the tensors in place."""
    path = weights_of(folder)
    if path.suffix == ".safetensors":
        weights: Weights = load_file(path)
        change(weights)
        save_file(weights, path)
    else:
        weights = torch.load(path)
        change(weights)
        torch.save(weights, path)


# -------------------------------------------------------------------------------- what is supported


@pytest.mark.parametrize("name", FOLDERS)
def test_latents_and_reconstruction_are_those_of_the_library(name: str) -> None:
    expected = load_file(HERE / name / "expected.safetensors")
    sae = load(HERE / name)
    latents = sae.latents(expected["x"])
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, expected["latents"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(
        sae.decode(latents), expected["reconstruction"], rtol=1e-6, atol=1e-6
    )
    assert torch.equal(latents == 0, expected["latents"] == 0)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_foreign_autoencoder_is_a_dictionary(name: str) -> None:
    sae: Dictionary = load(HERE / name)
    x = load_file(HERE / name / "expected.safetensors")["x"]
    s = sae.latents(x)
    assert sae.directions.shape == (16, 6)
    assert s.min() >= sae.floor == 0
    torch.testing.assert_close(sae.latents(x.view(2, 6, 6)), s.view(2, 6, 16))
    torch.testing.assert_close(sae.latents(x[3]), s[3])
    for j in (0, 7, 15):
        written = sae.decode(s + torch.eye(16)[j]) - sae.decode(s)
        torch.testing.assert_close(
            written, sae.directions[j].expand_as(written), rtol=1e-5, atol=1e-5
        )
    with pytest.raises(ValueError, match=r"vectors of 6 values, got shape \(2, 5\)"):
        sae.latents(torch.zeros(2, 5))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_copy_lies_on_another_device(name: str) -> None:
    sae, meta = load(HERE / name), torch.device("meta")
    assert sae.on_device(torch.device("cpu")) is sae
    there = sae.on_device(meta)
    assert there is sae.on_device(meta)
    assert there.activation.name == sae.activation.name
    x = torch.zeros(3, 6, device=meta)
    assert there.decode(there.latents(x)).is_meta
    assert not any(tensor.is_meta for tensor in sae.tensors())


def test_fingerprints_tell_weights_and_activations_apart(copied: Callable[[str], Path]) -> None:
    prints = {name: load(HERE / name).fingerprint() for name in FOLDERS}
    assert len(set(prints.values())) == len(FOLDERS)
    assert prints == {name: load(HERE / name).fingerprint() for name in FOLDERS}
    folder = copied("sparsify-topk")
    set_options(folder, k=3)
    assert load(folder).fingerprint() != prints["sparsify-topk"]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["overcomplete-jump", "sparsify-groupmax", "saelens-gated"])
def test_half_precision_becomes_float32(
    name: str, half: torch.dtype, copied: Callable[[str], Path]
) -> None:
    folder, original = copied(name), load(HERE / name).fingerprint()
    set_weights(folder, lambda w: w.update({n: t.to(half).float() for n, t in w.items()}))
    rounded = load(folder).fingerprint()
    set_weights(folder, lambda w: w.update({n: t.to(half) for n, t in w.items()}))
    assert load(folder).fingerprint() == rounded != original


def test_only_overcomplete_lets_pass_what_equals_its_threshold() -> None:
    pre, one = torch.tensor([-2.0, 0.5, 1.0, 2.0]), torch.tensor(1.0)
    assert foreign.Activation("above", (one,))(pre).tolist() == [0, 0, 0, 2]
    assert foreign.Activation("reaching", (one,))(pre).tolist() == [0, 0, 1, 2]
    below = torch.tensor(-1.0)
    assert foreign.Activation("above", (below,))(pre).tolist() == [0, 0.5, 1, 2]


def test_an_option_that_is_not_known_may_be_off(copied: Callable[[str], Path]) -> None:
    folder = copied("sparsify-topk")
    set_options(folder, signed=False)
    assert load(folder).fingerprint() == load(HERE / folder.name).fingerprint()


def test_the_number_of_latents_may_be_left_to_the_expansion(copied: Callable[[str], Path]) -> None:
    folder = copied("sparsify-topk")
    set_weights(folder, lambda w: w.update({n: t[:12].clone() for n, t in w.items()}))
    set_options(folder, num_latents=0, expansion_factor=2)
    assert load(folder).directions.shape == (12, 6)


# ---------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "changes", "match"),
    [
        (
            "saelens-standard",
            {"architecture": "temporal"},
            "architecture must be one of .*jumprelu",
        ),
        ("saelens-standard", {"architecture": None}, "architecture must be one of"),
        ("saelens-jumprelu", {"architecture": "batchtopk"}, "architecture must be one of"),
        ("saelens-standard", {"architecture": "gated"}, "b_enc is not known; it must hold W_enc"),
        ("saelens-standard", {"normalize_activations": "layer_norm"}, "must be one of none; got"),
        ("saelens-standard", {"normalize_activations": "constant_norm_rescale"}, "one of none"),
        ("saelens-standard", {"normalize_activations": "expected_average_only_in"}, "one of none"),
        ("saelens-standard", {"normalize_activations": "covariance_whitening"}, "one of none"),
        ("saelens-standard", {"reshape_activations": "hook_z"}, "reshape_activations must be"),
        ("saelens-standard", {"apply_b_dec_to_input": "no"}, "must be true or false, got 'no'"),
        ("saelens-standard", {"metadata": {"sae_lens_version": "5.11.0"}}, "must be 6, got '5.11"),
        ("saelens-standard", {"metadata": None}, "sae_lens_version must be 6, got None"),
        ("saelens-standard", {"l1_coefficient": 1.0}, "option 'l1_coefficient' is not known"),
        ("saelens-jumprelu", {"rescale_acts_by_decoder_norm": True}, "is not known; known are"),
        ("saelens-standard", {"d_in": 7}, r"W_enc must be of shape \(7, 16\), got \(6, 16\)"),
        ("saelens-standard", {"d_sae": 10**400}, "W_enc must be of shape"),
        ("saelens-standard", {"d_sae": 0}, "d_sae must be an integer from 1 to inf, got 0"),
        ("saelens-topk", {"k": 17}, "k must be an integer from 1 to 16, got 17"),
        ("saelens-topk", {"k": 2.5}, "k must be an integer"),
        ("saelens-topk", {"k": True}, "k must be an integer"),
        ("saelens-topk", {"k": None}, "k must be an integer from 1 to 16, got None"),
        ("saelens-topk", {"rescale_acts_by_decoder_norm": 1}, "must be true or false, got 1"),
        ("sparsify-topk", {"activation": "batchtopk"}, "activation must be one of topk, groupmax"),
        ("sparsify-topk", {"skip_connection": True}, "skip_connection must be false"),
        ("sparsify-topk", {"transcode": True}, "transcode must be false"),
        ("sparsify-topk", {"signed": True}, "option 'signed' is not known; known are activation"),
        ("sparsify-topk", {"k": None}, "k must be an integer from 1 to 16"),
        ("sparsify-topk", {"num_latents": 17}, r"encoder.weight must be of shape \(17, 6\)"),
        ("sparsify-topk", {"num_latents": 0}, r"encoder.weight must be of shape \(192, 6\)"),
        ("sparsify-groupmax", {"k": 3}, "k must divide the 16 latents into groups, got 3"),
        ("dictionary_learning-topk", {"dict_class": "AutoEncoderNew"}, "dict_class must be one of"),
        ("dictionary_learning-topk", {"dict_class": None}, "dict_class must be one of"),
        ("dictionary_learning-topk", {"dict_class": "AutoEncoder"}, "b_dec is not known"),
        ("dictionary_learning-topk", {"k": 5}, "k must be that of ae.pt, which is 4, got 5"),
        ("dictionary_learning-matryoshka", {"k": None}, "k must be an integer from 1 to 16"),
        ("overcomplete-topk", {"class": "QSAE"}, "class must be one of"),
        ("overcomplete-topk", {"class": "JumpSAE"}, "thresholds is missing"),
        ("overcomplete-topk", {"k": None}, "k must be an integer from 1 to 16, got None"),
        ("overcomplete-topk", {"normalization": None}, "normalization must be one of .*max_l2"),
        ("overcomplete-topk", {"encoder": "mlp_bn_1"}, "option 'encoder' is not known"),
        ("overcomplete-batchtopk", {"running_threshold": None}, "the model's own after training"),
        ("overcomplete-batchtopk", {"running_threshold": -1.0}, "of at least 0"),
        ("overcomplete-batchtopk", {"running_threshold": float("nan")}, "a finite number"),
        ("overcomplete-batchtopk", {"running_threshold": float("inf")}, "a finite number"),
        ("overcomplete-batchtopk", {"running_threshold": 10**400}, "a finite number"),
        ("overcomplete-batchtopk", {"running_threshold": "1"}, "a finite number"),
    ],
)
def test_options_that_are_not_supported_are_refused(
    name: str, changes: dict[str, Any], match: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(name)
    set_options(folder, **changes)
    refused(folder, match)


def put(name: str, value: Any) -> Callable[[Weights], None]:
    return lambda weights: weights.update({name: value})


def take(name: str) -> Callable[[Weights], None]:
    return lambda weights: weights.pop(name)


def spoil(name: str, value: float) -> Callable[[Weights], None]:
    """The first of a tensor's rows becomes `value`."""
    return lambda weights: weights[name].__setitem__(0, value)


@pytest.mark.parametrize(
    ("name", "change", "match"),
    [
        ("saelens-standard", take("b_enc"), "sae_weights.safetensors: b_enc is missing"),
        ("saelens-standard", put("scaling_factor", torch.ones(16)), "scaling_factor is not known"),
        ("saelens-standard", put("b_dec", torch.zeros(5)), r"b_dec must be .*\(6,\), got \(5,\)"),
        ("saelens-standard", put("W_dec", torch.ones(6, 16)), r"W_dec must be .*\(16, 6\)"),
        ("saelens-standard", put("b_enc", torch.zeros(16, 1)), "b_enc must be of shape"),
        (
            "saelens-standard",
            spoil("W_dec", float("nan")),
            "W_dec holds values that are not finite",
        ),
        ("saelens-jumprelu", spoil("threshold", float("inf")), "threshold holds values"),
        ("saelens-standard", put("b_enc", torch.zeros(16).double()), "b_enc must be .*float64"),
        ("saelens-standard", put("b_enc", torch.zeros(16, dtype=torch.int64)), "got torch.int64"),
        ("saelens-topk-rescaled", spoil("W_dec", 0.0), "a direction of length 0"),
        ("saelens-gated", spoil("r_mag", 100.0), "not finite once applied"),
        ("sparsify-topk", put("W_skip", torch.zeros(6, 6)), "W_skip is not known; it must hold"),
        ("sparsify-topk", take("W_dec"), "sae.safetensors: W_dec is missing"),
        ("dictionary_learning-topk", take("threshold"), "ae.pt: threshold is missing"),
        ("dictionary_learning-topk", put("bias", torch.zeros(6)), "bias is not known"),
        ("dictionary_learning-topk", put(7, torch.zeros(6)), "7 is not known"),
        ("dictionary_learning-topk", put("k", torch.tensor(4.0)), "k must be one of torch.int32"),
        ("dictionary_learning-topk", put("k", 4), "k must be a tensor, got a int"),
        ("dictionary_learning-topk", put("b_dec", torch.zeros(6).to_sparse()), "a dense tensor"),
        ("dictionary_learning-topk", put("b_dec", torch.zeros(6, device="meta")), "on meta"),
        ("dictionary_learning-topk", put("b_dec", torch.zeros(7)), r"b_dec must be .*\(6,\)"),
        ("dictionary_learning-batchtopk", put("threshold", torch.tensor(-1.0)), "was never set"),
        ("dictionary_learning-matryoshka", put("threshold", torch.tensor(-1.0)), "was never set"),
        ("dictionary_learning-matryoshka", put("group_sizes", torch.tensor([4, 8])), "sum to 16"),
        ("dictionary_learning-matryoshka", put("group_sizes", torch.tensor([20, -4])), "sum to 16"),
        ("dictionary_learning-april", put("decoder.weight", torch.zeros(6, 16)), "of length 0"),
        ("overcomplete-topk", put("encoder.final_block.1.weight", torch.ones(16)), "is not known"),
        ("overcomplete-topk", put("encoder.weight", torch.ones(16, 6)), "is not known"),
        ("overcomplete-topk", put("dictionary._weights", torch.ones(15, 6)), r"\(16, 6\), got"),
        ("overcomplete-topk", put("dictionary.multiplier", torch.tensor(100.0)), "not finite once"),
        (
            "overcomplete-topk-max",
            put("dictionary._weights", torch.zeros(16, 6)),
            "not finite once",
        ),
        ("overcomplete-jump", put("thresholds", torch.full((16,), 100.0)), "not finite once"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    name: str, change: Callable[[Weights], None], match: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(name)
    set_weights(folder, change)
    refused(folder, match)


@pytest.mark.parametrize("name", FOLDERS)
def test_missing_and_damaged_files_are_named(name: str, copied: Callable[[str], Path]) -> None:
    folder = copied(name)
    weights = weights_of(folder)
    options = next(folder.glob("c*.json"))
    whole = weights.read_bytes()
    for damage in (b"", b"{", whole[:40], whole[: len(whole) // 2], bytes(range(256)) * 9):
        weights.write_bytes(damage)
        refused(folder, weights.name)
    weights.unlink()
    refused(folder, weights.stem)
    for written in ("", "[1]", '{"d_in": ', "[" * 100_000):
        options.write_text(written)
        refused(folder, options.name)
    options.write_bytes(b"\xff\xfe{")
    refused(folder, f"{options.name} is damaged")
    options.unlink()
    refused(folder, f"{options.name} is missing")


def test_folders_and_libraries_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no saelens dictionary: cfg.json is missing"):
        foreign.load(tmp_path / "nothing", "saelens")
    with pytest.raises(ValueError, match="library must be one of .*sparsify.*; got 'sparsfy'"):
        foreign.load(tmp_path, "sparsfy")
    (tmp_path / "config.json").write_text('{"trainer": 3}')
    with pytest.raises(ValueError, match="must hold options of a trainer"):
        foreign.load(tmp_path, "dictionary_learning")


def test_two_files_of_weights_are_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("overcomplete-topk")
    save_file(torch.load(folder / "state_dict.pt"), folder / "state_dict.safetensors")
    refused(folder, "state_dict.pt or state_dict.safetensors, one of them")


# ------------------------------------------------------------------------------ nothing is executed


class Code:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("name", ["dictionary_learning-topk", "overcomplete-topk"])
@pytest.mark.parametrize("bare", [True, False])
def test_a_pickle_with_code_is_refused_and_not_executed(
    name: str, bare: bool, copied: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, file = copied(name), tmp_path / "executed"
    path = weights_of(folder)
    weights: dict[str, Any] = {**torch.load(path), "b_dec": Code(file)}
    if bare:
        path.write_bytes(pickle.dumps(Code(file)))
    else:
        torch.save(weights, path)
    refused(folder, "holds code or objects, which are not run")
    assert not file.exists()
    pickle.loads(pickle.dumps(Code(file)))
    assert file.exists()  # the code would have run


@pytest.mark.parametrize("saved", [nn.Linear(2, 2), Tensor([1.0]), ["encoder.weight"]])
def test_a_pickle_of_anything_else_is_refused(saved: Any, copied: Callable[[str], Path]) -> None:
    folder = copied("overcomplete-topk")
    torch.save(saved, weights_of(folder))
    refused(folder, "which are not run|must hold tensors by name")
