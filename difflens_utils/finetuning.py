"""Finetuning for fairness (Shen et al., 2024): a LoRA of the network, learned so that the images of a prompt have the classes asked for.

Per batch of one prompt: images are generated, the labeller's probabilities are matched to the target distribution by optimal assignment,
and the loss is the cross-entropy to the assigned classes of all attributes (distributional alignment), plus KEEP (1 - CLIP-I) to the images
of the network as it was. The gradient at x_0 reaches every step directly and with the same weight, through epsilon of the detached x_t
(adjusted direct finetuning). Only for models that read prompts: texts, or names of classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import artifacts, sampling
from .errors import distribution
from .pipelines import Subject
from .precision import full_precision, halved

RANK, RATE, KEEP = 16, 1e-3, 4.0  # of the LoRA, of AdamW, and the weight of CLIP-I
TEMPERATURE = 10.0  # of the labeller, whose logits lie tens apart: without it the classes drown what should keep the image
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)  # linear layers of the attention blocks
RECIPE = {"rounds": 45, "batch": 24, "seed": 0}  # of what ships


def assign(probabilities: Tensor, target: Sequence[float]) -> Tensor:
    """The class that each of B images shall have, (B,): as often as `target` says, and as likely already as can be."""
    p, goal = (
        probabilities.detach().cpu(),
        torch.from_numpy(distribution("target", target, probabilities.shape[1])),
    )
    edges = (goal.cumsum(0) * len(p)).round().long()
    slots = torch.repeat_interleave(
        torch.arange(len(goal)), edges.diff(prepend=edges.new_zeros(1))
    )  # (B,) classes, sorted
    rows, columns = linear_sum_assignment(-p[:, slots].numpy())
    out = torch.empty(len(p), dtype=torch.int64)
    out[torch.from_numpy(rows)] = slots[torch.from_numpy(columns)]
    return out


def learn(
    subject: Subject,
    targets: Mapping[str, Sequence[float]],
    *,
    rounds: int,
    batch: int,
    seed: int,
    steps: int,
    progress: bool = True,
) -> dict[str, Tensor]:
    """What to add to the weights of the network: {weight: change}, learned in so many rounds over the prompts of the evaluation.

    From the store, or from what ships with the subject, if it is there. Raises ValueError for sizes <= 0, and for a subject that reads no prompts.
    """
    artifacts.check_sizes(rounds=rounds, batch=batch, steps=steps)
    if not any(subject.texts()):
        raise ValueError(
            f"subject {subject.name} reads no prompts; finetuning aligns the images of prompts"
        )
    lora = _lora(subject, targets, rounds, batch, seed, steps, progress)
    names = sorted({name.rpartition(".")[0] for name in lora})
    return {
        f"{name}.weight": lora[f"{name}.up"].float() @ lora[f"{name}.down"].float()
        for name in names
    }


@artifacts.stored(
    "finetuning",
    reads=("texts", "labeller", "clip"),
    shipped=lambda a: a["subject"].folder / "finetuning",
)
def _lora(
    subject: Subject,
    targets: Mapping[str, Sequence[float]],
    rounds: int,
    batch: int,
    seed: int,
    steps: int,
    progress: bool,
) -> dict[str, Tensor]:
    with full_precision(subject):
        return {
            k: halved(v)
            for k, v in _learn(subject, targets, rounds, batch, seed, steps, progress).items()
        }


def _learn(
    subject: Subject,
    targets: Mapping[str, Sequence[float]],
    rounds: int,
    batch: int,
    seed: int,
    steps: int,
    progress: bool,
) -> dict[str, Tensor]:
    """The two factors of every layer's change: {"layer.up": (out, RANK), "layer.down": (RANK, in)}."""
    from peft import LoraConfig, inject_adapter_in_model

    torch_seed = torch.initial_seed()
    torch.manual_seed(seed)
    network = inject_adapter_in_model(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)),
        copy.deepcopy(subject.network),
    )
    tuned = replace(subject, network=network)
    torch.manual_seed(torch_seed)
    weights = [p.requires_grad_("lora_" in name) for name, p in network.named_parameters()]
    optimizer = torch.optim.AdamW(
        [p for p in weights if p.requires_grad], lr=RATE, weight_decay=0.01
    )
    s, texts = sampling.trajectory(subject, steps), subject.texts()
    bar = tqdm(range(rounds * len(texts)), desc="finetuning", disable=not progress)
    for number in bar:
        rows = torch.arange(batch) * len(texts) + number % len(texts)  # of one prompt
        own = seed + 800 + number // len(texts)
        plain = _trajectory(subject, rows, own, s)[-1]
        states = _trajectory(tuned, rows, own, s)
        loss, slope = _slope(subject, states[-1], plain, targets)
        for index, timestep in enumerate(s.timesteps):
            epsilon = tuned.epsilon(states[index], timestep, [texts[number % len(texts)]] * batch)
            # less noise at a step is more of the image
            (-(slope * epsilon).sum() / len(s)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in weights if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
    return {
        f"{name}.{'down' if which == 'lora_A' else 'up'}": getattr(layer, which)["default"]
        .weight.detach()
        .cpu()
        for name, layer in network.named_modules()
        if hasattr(layer, "lora_A")
        for which in ("lora_A", "lora_B")
    }


def _trajectory(subject: Subject, rows: Tensor, seed: int, s: sampling.Schedule) -> list[Tensor]:
    """x_t at every step, and x_0: T + 1 tensors (B, C, H, W), without gradient."""
    states, last = [], None
    for index, x, clean, _texts in sampling.unedited(subject, rows, seed, s):
        states.append(x)
        last = (x, clean, index)
    x, clean, index = last
    return [*states, sampling.ddim_step(x, clean, clean, s, index)]


def _slope(
    subject: Subject, x: Tensor, plain: Tensor, targets: Mapping[str, Sequence[float]]
) -> tuple[float, Tensor]:
    """The loss and its gradient at x_0 (B, C, H, W), averaged over images."""
    x = x.detach().requires_grad_(True)
    images = subject.decode(x)
    logits = subject.labeller.logits(images)
    aligned = sum(
        F.cross_entropy(logits[a] / TEMPERATURE, assign(logits[a].softmax(-1), target).to(x.device))
        for a, target in targets.items()
    )
    with torch.no_grad():
        kept = subject.clip.image_features(subject.decode(plain))
    loss = aligned + KEEP * (1 - (subject.clip.image_features(images) * kept).sum(-1)).mean()
    return loss.item(), torch.autograd.grad(loss, x)[0]
