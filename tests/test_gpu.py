"""What only happens on a GPU, without one: tensors on a device that pretends to be one."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from difflens_utils import edits, sampling
from difflens_utils import ksae as ksae_module
from difflens_utils.ksae import Neurons
from difflens_utils.probes import Heads
from difflens_utils.runtime import gpu, precision
from difflens_utils.sampling import Step

H = (6, 24, 4, 4)


class Pretend(TorchFunctionMode):
    """Takes the device `meta` for a GPU.

    `waits` names what the host would wait for, or what would mix devices.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        tensors = [a for a in args if isinstance(a, Tensor)]
        if name == "pin_memory":
            return args[0]
        on_gpu = [t.is_meta for t in tensors if t.ndim]
        if name in ("item", "tolist", "nonzero", "cpu", "numpy", "__bool__") and args[0].is_meta:
            self.waits.append(name)
            if name == "cpu":
                return torch.zeros(args[0].shape, dtype=args[0].dtype)
        elif any(on_gpu) and not all(on_gpu):
            self.waits.append(f"{name} of two devices")
        result = function(*args, **(kwargs or {}))
        if (
            name == "to"
            and result.device != args[0].device
            and not (kwargs or {}).get("non_blocking")
        ):
            self.waits.append(name)
        return result


CASES = {
    "steer": lambda k: edits.steer(k, torch.tensor([1, 5]), 3.0),
    "steer, add": lambda k: edits.steer(k, torch.tensor([1, 5]), 3.0, "add", torch.ones(2, 16, 2)),
    "neurons": lambda k: edits.steer(Neurons(24), torch.tensor([1, 5]), 3.0),
    "push": lambda k: edits.push(torch.ones(2, *H[1:]), 1.0),
    "guide": lambda k: edits.guide(
        Heads(torch.ones(2, 2, *H[1:]), torch.zeros(2, 2)), [0.5, 0.5], 1.0
    ),
    "reconstruct": lambda k: edits.reconstruct(k),
    "compose": lambda k: edits.compose(
        edits.push(torch.ones(2, *H[1:]), 1.0), edits.steer(k, torch.tensor([1]), 3.0)
    ),
    "only": lambda k: edits.only(edits.steer(k, torch.tensor([1]), 3.0), [0, 1]),
    "per image": lambda k: edits.per_image(
        {1: edits.steer(k, torch.tensor([1]), 3.0)}, torch.tensor([0, 1, 1, 0, 1, 0])
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_no_edit_waits_for_the_gpu_once_it_is_there(name: str) -> None:
    edit, rows = CASES[name](tiny.ksae()), torch.arange(6)
    with Pretend() as mode:
        h = torch.empty(H, dtype=torch.bfloat16, device="meta")
        for index in range(2):
            mode.waits.clear()  # what the first step brings there stays there
            out = edit(h, Step(index, 500, rows, rows % 2))
            assert out.shape == h.shape and out.dtype == h.dtype and out.is_meta
        assert mode.waits == []


def test_the_pretended_gpu_notices_what_waits() -> None:
    with Pretend() as mode:
        h = torch.empty(2, device="meta")
        torch.zeros(2).to(h.device)
        with pytest.raises(RuntimeError, match="cpu is not on the expected device"):
            h + torch.zeros(2)
        with pytest.raises((RuntimeError, NotImplementedError)):
            h.sum().item()
    assert mode.waits == ["to", "add of two devices", "item"]


@pytest.mark.parametrize("make", [tiny.subject, tiny.text_subject])
@pytest.mark.parametrize("asymmetric", [True, False])
def test_sampling_waits_per_batch_and_not_per_step(make, asymmetric: bool) -> None:
    subject, written = make(), []
    subject.embed(["", "a"])  # the encoder has read the prompts
    for module in subject.modules:
        module.to("meta")
    embedded = getattr(subject.condition, "embedded", {})
    for text, values in embedded.items():
        embedded[text] = {name: value.to("meta") for name, value in values.items()}
    edit = edits.per_image(
        {1: edits.steer(tiny.ksae(), torch.tensor([1]), 3.0)}, torch.tensor([0, 1, 1, 0, 1, 0])
    )
    waits = {}
    for steps in (2, 5):
        copies = gpu.HostCopies(lambda h, index: written.append(index), start=lambda h: (h, int))

        def watch(h: Tensor, _x: Tensor, step: Step, copies=copies) -> None:
            copies.put(h, step.index)

        with Pretend() as mode:
            sampling.sample(
                subject,
                6,
                steps=steps,
                batch=3,
                edit=edit,
                asymmetric=asymmetric,
                prompts=["a"],
                watch=watch,
            )
        copies.flush()
        waits[steps] = len(mode.waits)
        brought = mode.waits
    assert brought == ["to", "cpu"] * 2  # per batch: noise goes there, images come back
    assert waits[2] >= waits[5] and written == [0, 1] * 2 + [0, 1, 2, 3, 4] * 2


def test_what_is_sent_is_what_arrives_and_a_copy_is_made_once() -> None:
    ksae = tiny.ksae()
    assert ksae.on_device(torch.device("cpu")) is ksae
    elsewhere = ksae.on_device(torch.device("meta"))
    assert elsewhere is ksae.on_device(torch.device("meta"))
    assert elsewhere.W_enc.is_meta and not ksae.W_enc.is_meta
    assert Neurons(4).on_device(torch.device("meta")).directions.is_meta
    rows = torch.arange(3)
    assert gpu.to_device(rows, torch.device("cpu")) is rows


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_bf16_is_for_gpus_that_multiply_it_themselves(monkeypatch, native, expected) -> None:
    """A GPU as torch describes an older one: it supports bf16 only if its emulation counts."""

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    card = torch.device("cuda")
    assert precision.fast_dtype(card) is expected
    assert ksae_module.training._product_dtype("auto", card) is expected


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, torch.bfloat16),
        ({"avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"amx_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bf16_is_for_processors_that_multiply_it_faster(monkeypatch, units, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert precision.fast_dtype(torch.device("cpu")) is expected
    enabled = expected is torch.bfloat16
    with precision.autocast():
        assert torch.is_autocast_enabled("cpu") is enabled
