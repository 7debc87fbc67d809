"""Big pipelines, exercised with small ones on a CPU: compiled blocks, parts on the host."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import made
import pytest
import torch
from torch import Tensor, nn

from difflens_utils import sampling
from difflens_utils.runtime import placement, precision
from difflens_utils.sampling import hooks
from difflens_utils.subjects import pipelines, registry
from difflens_utils.subjects.pipelines import Subject

CPU = torch.device("cpu")
TEXTS = ["a man", "a cat"]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    folder = made.saved(made.pipeline("sd3"), tmp_path)
    return registry.load(str(folder), "cpu", dtype=torch.float32)


def louder(h: Tensor, _step: sampling.Step) -> Tensor:
    return 1.5 * h + 0.1


def drawn(subject: Subject, **options: object) -> Tensor:
    return sampling.sample(subject, 2, 3, steps=3, prompts=TEXTS, **options)


# --------------------------------------------------------------------------------------------------
# Compiled blocks


def test_compiled_blocks_draw_and_are_edited_as_before(subject: Subject) -> None:
    plain, edited = drawn(subject), drawn(subject, edit=louder)
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        def run(*args: object) -> object:
            calls.append(1)
            return graph(*args)

        return run

    placement.compile_blocks(subject.network, subject.module, backend)
    torch.testing.assert_close(drawn(subject), plain, atol=1e-5, rtol=0)
    assert len(calls) >= 3 * 3  # three blocks at three steps
    torch.testing.assert_close(drawn(subject, edit=louder), edited, atol=1e-5, rtol=0)
    same = sampling.sample(
        subject, 2, 3, steps=3, prompts=TEXTS, edit=lambda h, _step: h.clone(), asymmetric=False
    )
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)


def test_a_module_inside_a_compiled_block_is_refused(subject: Subject) -> None:
    """Its hooks would not be called, and an edit would do nothing without a word."""
    placement.compile_blocks(subject.network, "transformer_blocks.1.attn", "eager")
    blocks = subject.network.transformer_blocks
    assert [placement.is_compiled(block) for block in blocks] == [True, False, True]
    assert hooks.find(subject.network, "transformer_blocks.1.attn") is blocks[1].attn
    with pytest.raises(ValueError, match="lies inside transformer_blocks.0, which is compiled"):
        hooks.find(subject.network, "transformer_blocks.0.attn")
    listed = {module.name for module in registry.describe(subject)}
    assert {"transformer_blocks.0.attn", "transformer_blocks.1.attn"} <= listed


def test_only_big_networks_on_a_gpu_are_worth_compiling(subject: Subject) -> None:
    assert not placement.worth_compiling(subject.network, CPU)
    assert not placement.worth_compiling(subject.network, torch.device("cuda"))


# --------------------------------------------------------------------------------------------------
# Parts on the host


def test_a_streamed_network_draws_records_and_is_edited_as_before(subject: Subject) -> None:
    plain, edited = drawn(subject), drawn(subject, edit=louder)
    placement.stream(subject.network, CPU)
    assert next(subject.network.parameters()).device.type == "meta"
    streamed = replace(subject, placed=CPU, opened=[])
    assert streamed.device == CPU and streamed.dtype == torch.float32
    torch.testing.assert_close(drawn(streamed), plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn(streamed, edit=louder), edited, atol=1e-6, rtol=0)
    assert streamed.identity()["files"] == subject.fingerprint  # nothing was changed
    with precision.full_precision(streamed):
        torch.testing.assert_close(drawn(streamed), plain, atol=1e-6, rtol=0)


def test_encoders_that_wait_are_there_when_they_read(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[tuple[str, str]] = []
    to = nn.Module.to

    def moved(module: nn.Module, place: object, **options: object) -> nn.Module:
        moves.append((type(module).__name__, str(place)))
        return to(module, place, **options)

    waiting = (subject.pipeline.text_encoder, subject.pipeline.text_encoder_3)
    guest = replace(subject, waiting=waiting)
    guest.condition.embedded.clear()
    monkeypatch.setattr(nn.Module, "to", moved)
    expected = ["CLIPTextModelWithProjection", "T5EncoderModel"]
    torch.testing.assert_close(drawn(guest), drawn(subject))
    names = [name for name, _ in moves if name in expected]
    assert names == expected * 2  # there and back, once for all texts


def test_what_fits_stays_and_what_does_not_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = made.pipeline("flux")
    parts = ["transformer", "vae", "text_encoder", "text_encoder_2"]
    sizes = {part: placement.weight(getattr(pipeline, part)) for part in parts}
    assert sizes["vae"] == sum(p.numel() * 4 for p in pipeline.vae.parameters())
    gpu = torch.device("cuda")
    encoders, stay = ("text_encoder", "text_encoder_2"), sizes["transformer"] + sizes["vae"]
    for free, plan in (
        (2 * sum(sizes.values()), placement.Placement((), False)),
        (int(1.5 * stay), placement.Placement(encoders, False)),
        (stay, placement.Placement(encoders, True)),
    ):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        assert pipelines.placed_on(pipeline, parts, gpu) == plan
    assert pipelines.placed_on(pipeline, parts, CPU) == placement.Placement((), False)
