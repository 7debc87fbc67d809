"""Finetuning for fairness (Shen et al., 2024): a LoRA, learned so that a prompt's images are fair.

Per batch of one prompt images are generated, the labeller's probabilities are matched to the target
distribution by optimal assignment, and the loss is the cross-entropy to the assigned classes of all
attributes (distributional alignment), plus KEEP (1 - CLIP-I) to the images of the network as it
was. The gradient at x_0 reaches every step directly and with the same weight, through epsilon of
the detached x_t (adjusted direct finetuning). Only for models that read prompts: texts, or names of
classes.

For equal shares, the two images that are least surely of class 0 are assigned class 1:

>>> import torch
>>> from difflens_utils.methods import finetuning
>>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]])
>>> finetuning.assign(p, target=[0.5, 0.5]).tolist()
[0, 1, 0, 1]
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from .. import edits, sampling
from ..runtime import artifacts
from ..runtime.errors import all_positive, distribution
from ..runtime.precision import full_precision, halved
from ..sampling import Schedule
from ..subjects.pipelines import Subject
from .base import TUNED, Method

if TYPE_CHECKING:
    from ..study import Study

RANK, RATE, KEEP = 16, 1e-3, 4.0  # of the LoRA, of AdamW, and the weight of CLIP-I
TEMPERATURE = 10.0  # the labeller's logits lie tens apart: undivided they would drown CLIP-I
TARGETS = (  # linear layers of the attention blocks
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "ff.net.0.proj",
    "ff.net.2",
)
Shares = Mapping[str, Sequence[float]]  # {attribute: target distribution}


@dataclass(frozen=True)
class Recipe:
    """How the LoRA is learned."""

    rounds: int = 45  # over the prompts of the evaluation
    batch: int = 24
    seed: int = 0


RECIPE = Recipe()  # of what ships


def rows(study: Study, attribute: str) -> list[Method]:
    """Finetuning for all attributes at once, for models that read prompts (Table 2)."""
    if study.subject.native or not any(study.texts):
        return []
    fair = {str(a): a.uniform for a in study.attributes}
    change = learn(study.subject, fair, study.settings.steps)
    return [
        Method(
            "finetuning",
            lambda _class, strength: edits.adapt(change, strength),
            TUNED,
            asymmetric=False,
            whole=True,
            network=True,
        )
    ]


def assign(probabilities: Tensor, target: Sequence[float]) -> Tensor:
    """The class that each of B images shall have: (B,) int64.

    Classes occur as often as `target` says, on the images that are likeliest to have them already.
    """
    p = probabilities.detach().cpu()
    goal = torch.from_numpy(distribution("target", target, p.shape[1]))
    edges = (goal.cumsum(0) * len(p)).round().long()
    counts = edges.diff(prepend=edges.new_zeros(1))
    slots = torch.repeat_interleave(torch.arange(len(goal)), counts)  # (B,) classes, sorted
    rows, columns = linear_sum_assignment(-p[:, slots].numpy())
    out = torch.empty(len(p), dtype=torch.int64)
    out[torch.from_numpy(rows)] = slots[torch.from_numpy(columns)]
    return out


def learn(
    subject: Subject, targets: Shares, steps: int, recipe: Recipe | None = None
) -> dict[str, Tensor]:
    """What to add to the weights of the network: {weight: change}.

    It comes from the store, or from what ships with the subject, if it is there. Raises ValueError
    for sizes <= 0, and for a subject that reads no prompts.
    """
    recipe = recipe or RECIPE
    all_positive(rounds=recipe.rounds, batch=recipe.batch, steps=steps)
    if not any(subject.texts()):
        raise ValueError(
            f"subject {subject.name} reads no prompts; finetuning aligns the images of prompts"
        )
    lora = _lora(subject, targets, recipe, steps)
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
def _lora(subject: Subject, targets: Shares, recipe: Recipe, steps: int) -> dict[str, Tensor]:
    """The two factors of every layer's change, (out, RANK) and (RANK, in).

    {"layer.up": ..., "layer.down": ...}
    """
    with full_precision(subject):
        network = _with_lora(subject.network, recipe.seed)
        _train(subject, network, targets, recipe, steps)
    factors = {}
    for name, layer in network.named_modules():
        if hasattr(layer, "lora_A"):
            factors[f"{name}.down"] = halved(layer.lora_A["default"].weight.detach().cpu())
            factors[f"{name}.up"] = halved(layer.lora_B["default"].weight.detach().cpu())
    return factors


def _with_lora(network: nn.Module, seed: int) -> nn.Module:
    """A copy of the network in which nothing but a new LoRA is trained."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
    torch_seed = torch.initial_seed()
    torch.manual_seed(seed)
    adapted = inject_adapter_in_model(config, copy.deepcopy(network))
    torch.manual_seed(torch_seed)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return adapted


def _train(
    subject: Subject, network: nn.Module, targets: Shares, recipe: Recipe, steps: int
) -> None:
    tuned = replace(subject, network=network)
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01)
    s, texts = sampling.trajectory(subject, steps), subject.texts()
    bar = tqdm(range(recipe.rounds * len(texts)), desc="finetuning")
    for number in bar:
        rows = torch.arange(recipe.batch) * len(texts) + number % len(texts)  # of one prompt
        seed = recipe.seed + 800 + number // len(texts)
        prompt = [texts[number % len(texts)]] * recipe.batch
        plain = _trajectory(subject, rows, seed, s)[-1]
        states = _trajectory(tuned, rows, seed, s)
        loss, slope = _slope(subject, states[-1], plain, targets)
        for state, timestep in zip(states[:-1], s.timesteps, strict=True):
            epsilon = tuned.epsilon(state, timestep, prompt)
            # Less noise at a step is more of the image.
            (-(slope * epsilon).sum() / len(s)).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def _trajectory(subject: Subject, rows: Tensor, seed: int, s: Schedule) -> list[Tensor]:
    """x_t at every step, and x_0: T + 1 tensors (B, C, H, W), without gradient."""
    walk = list(sampling.unedited(subject, rows, seed, s))
    moment, clean = walk[-1]
    last = sampling.advance(moment.x, clean, clean, s, moment.index)
    return [*(moment.x for moment, _ in walk), last]


def _slope(subject: Subject, x: Tensor, plain: Tensor, targets: Shares) -> tuple[float, Tensor]:
    """The loss and its gradient at x_0 (B, C, H, W), averaged over images."""
    x = x.detach().requires_grad_(True)
    images = subject.decode(x)
    logits = subject.labeller.logits(images)
    aligned = torch.zeros((), device=x.device)
    for a, target in targets.items():
        wanted = assign(logits[a].softmax(-1), target).to(x.device)
        aligned = aligned + F.cross_entropy(logits[a] / TEMPERATURE, wanted)
    with torch.no_grad():
        kept = subject.clip.image_features(subject.decode(plain))
    cosine = (subject.clip.image_features(images) * kept).sum(-1)
    loss = aligned + KEEP * (1 - cosine).mean()
    return loss.item(), torch.autograd.grad(loss, x)[0]
