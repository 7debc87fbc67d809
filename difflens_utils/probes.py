"""h-classifiers (Appendix B.3): linear heads from h to the classes, one per timestep.

A head that always names class 0 reads three of the four images below right. Its balanced accuracy
is still that of chance:

>>> import torch
>>> from difflens_utils.probes import Fit, Heads
>>> weight = torch.zeros(1, 2, 3, 8, 8)  # (T, classes, C, H, W)
>>> heads = Heads(weight, bias=torch.tensor([[1.0, 0.0]]))
>>> labels = torch.tensor([0, 0, 0, 1])
>>> read = heads.logits(torch.randn(4, 3, 8, 8), step=0).argmax(-1)
>>> Fit(heads, correct=(read == labels)[None], labels=labels).accuracy(step=0).value
0.5
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import metrics
from .metrics import Array, Estimate
from .recording import Recording
from .runtime import artifacts


@dataclass(frozen=True)
class Heads:
    """softmax(weight[t] . h + bias[t]): weight (T, classes, *h), bias (T, classes)."""

    weight: Tensor
    bias: Tensor

    def logits(self, h: Tensor, step: int) -> Tensor:
        """(B, *h) to (B, classes) at sampling step `step`."""
        return h.flatten(1) @ self.weight[step].flatten(1).T + self.bias[step]


@dataclass(frozen=True)
class Fit:
    heads: Heads
    correct: Tensor  # (T, n_test) whether each held-out image was read right
    labels: Tensor  # (n_test,)

    def accuracy(self, step: int) -> Estimate:
        """Held-out balanced accuracy (mean over classes), with its interval; chance is 1 / classes.

        It counts the classes that the held-out images have, and is `metrics.NOTHING` for one class.
        """
        if len(self.labels.unique()) < 2:
            return metrics.NOTHING

        def balanced(right: np.ndarray, labels: np.ndarray) -> float:
            return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))

        return metrics.bootstrap(balanced, self.correct[step], self.labels, n_boot=300)

    def gain(self) -> Estimate:
        """How much better held-out images are read than by naming one class for all of them.

        Balanced accuracy over the later half of the steps, minus 1 / classes. `metrics.NOTHING` for
        one class.
        """
        chance = 1 / max(len(self.labels.unique()), 1)
        late = self.correct[len(self.correct) // 2 :].double().mean(0)
        return metrics.combined(lambda accuracy: accuracy - chance, self._balanced(late))

    def slope(self) -> Estimate:
        """How much better held-out images are read in the later half of the steps.

        Balanced accuracy there, minus that in the earlier half. `metrics.NOTHING` for one class,
        and for one step.
        """
        half = len(self.correct) // 2
        if half == 0:
            return metrics.NOTHING
        right = self.correct.double()
        return self._balanced(right[half:].mean(0) - right[:half].mean(0))

    def _balanced(self, values: Tensor) -> Estimate:
        """The mean over classes of the mean of values (n_test,) in each; NOTHING for one class."""
        names = self.labels.unique()
        if len(names) < 2:
            return metrics.NOTHING
        member = (self.labels[:, None] == names).double()

        def over_classes(sums: Array, share: Array) -> Array:
            with np.errstate(invalid="ignore"):  # a resample may lack a class
                balanced: Array = np.nanmean(sums / share, -1)
            return balanced

        return metrics.bootstrap_means(over_classes, member * values[:, None], member)


@dataclass(frozen=True)
class Training:
    """How heads are fitted. The penalty is what makes their weights mean something."""

    seed: int = 0
    decay: float = 1e-2
    iterations: int = 60
    test_share: float = 0.25


def fit(
    recording: Recording,
    labels: Tensor,
    classes: int,
    *,
    decay: float = 1e-2,
    iterations: int = 60,
    seed: int = 0,
) -> Fit:
    """Fits one head per timestep by class-balanced logistic regression.

    `labels` (n,) int64; a quarter of the images is held out. Standardised inputs, L2 penalty
    `decay`, full-batch Adam: with a few thousand images and thousands of dimensions an unpenalised
    head fits noise. Every class weighs the same, as in the paper, which generates 1,000 images of
    each. The head never names a class without images. The heads are kept in the store. Raises
    ValueError for fewer than 4 images.
    """
    if len(labels) < 4:
        raise ValueError(
            f"n_images must be at least 4, of which one is held out, got {len(labels)}"
        )
    t = _fit(recording, labels, classes, Training(seed, decay, iterations))
    return Fit(Heads(t["weight"], t["bias"]), t["correct"], t["labels"])


@artifacts.stored("probes")
def _fit(
    recording: Recording, labels: Tensor, classes: int, training: Training
) -> dict[str, Tensor]:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(training.seed))
    held_out = int(training.test_share * len(labels))
    test = order[:held_out].sort().values
    train = order[held_out:].sort().values
    weights, biases, correct = [], [], []
    for step in tqdm(range(recording.h.shape[1]), desc="h-classifiers", leave=False):
        h = recording.at(step)
        w, b = _logistic(h[train].flatten(1), labels[train], classes, training)
        weights.append(w.reshape(classes, *h.shape[1:]))
        biases.append(b)
        correct.append((h[test].flatten(1) @ w.T + b).argmax(-1) == labels[test])
    return {
        "weight": torch.stack(weights),
        "bias": torch.stack(biases),
        "correct": torch.stack(correct),
        "labels": labels[test],
    }


def _logistic(x: Tensor, y: Tensor, classes: int, training: Training) -> tuple[Tensor, Tensor]:
    """Class-balanced multinomial logistic regression on standardised x (n, F).

    Weights (classes, F) and biases (classes,), in the units of x itself.
    """
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4 * x.std().item() + 1e-12)
    z = (x - mean) / std
    class_weight = len(y) / (classes * y.bincount(minlength=classes).float().clamp_min(1))
    w = torch.zeros(classes, x.shape[1], requires_grad=True)
    b = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.Adam([w, b], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, training.iterations)
    for _ in range(training.iterations):
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ w.T + b, y, weight=class_weight)
        loss = loss + training.decay * w.square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
    w = (w / std).detach()
    return w, (b - w @ mean).detach()
