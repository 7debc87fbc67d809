"""DDIM sampling with edits of the bottleneck, symmetric or asymmetric.

The step is our own because three things have to be exact that schedulers leave to the caller: the previous timestep (the
next entry of the list, not t - T/steps), the same epsilon in the edited and the unedited path, and the asymmetric step
(Eq. 11), in which only the predicted clean image feels the edit. Timesteps are those of diffusers'
`DDIMScheduler` at every spacing. So are images, if its `step` is called with
`use_clipped_model_output=True`, wherever its previous timestep, t - T // steps, is the next entry,
as it always is where the spacing is leading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import hooks
from .errors import one_of, positive, within
from .schedulers import SPACINGS

if TYPE_CHECKING:
    from .pipelines import Subject


class Step(NamedTuple):
    """Where in a generation an edit is called."""

    index: int  # 0 is the noisiest step, steps - 1 the cleanest
    timestep: int  # training timestep t
    rows: slice | Tensor  # which of the requested images are in this batch
    prompt: Tensor | None = (
        None  # (B,) the number of each image's prompt; None where all have the same
    )

    def at(self, chosen: Tensor) -> Step:
        """The same step for some images (b,) of the batch."""
        rows = (
            self.rows
            if isinstance(self.rows, Tensor)
            else torch.arange(self.rows.start, self.rows.stop)
        )
        return self._replace(
            rows=rows[chosen.cpu()],
            prompt=None if self.prompt is None else self.prompt[chosen.cpu()],
        )


Edit = Callable[
    [Tensor, Step], Tensor | None
]  # h (B, C, H, W) or (B, tokens, C) -> the same shape, or None: unchanged
Watch = Callable[[Tensor, Tensor, Step], None]  # copies of h and x_t, before any edit, and the step


@dataclass(frozen=True)
class Schedule:
    """A DDIM trajectory: per step the training timestep, alpha-bar here and at the previous timestep, and sigma."""

    timesteps: tuple[int, ...]
    alpha: Tensor  # (T,)
    alpha_previous: Tensor  # (T,)
    sigma: Tensor  # (T,)
    clip: (
        float | None
    )  # the predicted clean image is clipped to [-clip, clip], and epsilon re-derived from it
    threshold: tuple[float, float] | None = None  # (quantile, largest), instead of `clip`
    predicts: str = "epsilon"  # what the network says: epsilon, v_prediction, or sample (x_0)

    def __len__(self) -> int:
        return len(self.timesteps)


def timesteps(total: int, steps: int, spacing: str, offset: int = 0) -> Tensor:
    """The timesteps of `steps` steps over `total` noise levels, the noisiest first: (T,) int64.

    They are those of Table 2 of Lin et al. (2024), rounded as diffusers rounds them. `offset` moves
    those of the spacing leading. Raises ValueError for an unknown spacing, for steps outside
    1..total, and where the offset leads beyond the last noise level.
    """
    within("steps", steps, 1, total)
    one_of("spacing", spacing, SPACINGS)
    if spacing == "trailing":
        times = np.arange(total, 0, -total / steps)[:steps].round() - 1
    elif spacing == "linspace":
        times = np.linspace(0, total - 1, steps).round()[::-1]
    else:
        times = (np.arange(steps) * (total // steps) + offset)[::-1]
    if times[0] >= total:
        raise ValueError(
            f"steps={steps} with steps_offset {offset} starts at timestep {times[0]}, "
            f"and the last one is {total - 1}; take fewer steps"
        )
    return torch.from_numpy(times.astype(np.int64))


def schedule(
    scheduler: object, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """The trajectory of `steps` DDIM steps over the noise levels of a diffusers scheduler.

    The spacing of timesteps is the scheduler's own unless another is given. Raises ValueError for
    steps outside 1..T, eta outside 0..1, or an unknown spacing.
    """
    alphas, config = scheduler.alphas_cumprod.double(), scheduler.config
    within("eta", eta, 0, 1)
    spacing = config.get("timestep_spacing", "leading") if spacing is None else spacing
    times = timesteps(len(alphas), steps, spacing, config.get("steps_offset", 0))
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0].item()
    alpha = alphas[times]
    previous = torch.cat([alphas[times[1:]], torch.tensor([final], dtype=torch.float64)])
    sigma = eta * ((1 - previous) / (1 - alpha) * (1 - alpha / previous)).clamp_min(0).sqrt()
    clip = config.get("clip_sample_range", 1.0) if config.get("clip_sample", False) else None
    threshold = (config["dynamic_thresholding_ratio"], config["sample_max_value"])
    return Schedule(
        tuple(times.tolist()),
        alpha,
        previous,
        sigma,
        clip,
        threshold if config["thresholding"] else None,
        config["prediction_type"],
    )


def trajectory(
    subject: Subject, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """`schedule` of a subject, at its own spacing of timesteps unless another is given."""
    return schedule(subject.scheduler, steps, eta, spacing)


def clean_image(predicted: Tensor, x: Tensor, keep: float, spread: float, predicts: str) -> Tensor:
    """x_0 by what a network predicts of x_t = keep x_0 + spread epsilon: (B, C, H, W).

    Only epsilon has to be divided by `keep`, which is 0 at a signal-to-noise ratio of zero; the
    velocity v = keep epsilon - spread x_0 need not (Salimans and Ho, 2022).
    """
    if predicts == "sample":
        return predicted
    if predicts == "v_prediction":
        return keep * x - spread * predicted
    return (x - spread * predicted) / keep


def predicted_clean(x: Tensor, predicted: Tensor, s: Schedule, index: int) -> Tensor:
    """P_t of Eq. 11 by what the network predicts, clipped if the schedule says so: (B, C, H, W)."""
    a = s.alpha[index].item()
    clean = clean_image(predicted, x, a**0.5, (1 - a) ** 0.5, s.predicts)
    if s.threshold is not None:
        return dynamically_thresholded(clean, *s.threshold)
    return clean if s.clip is None else clean.clamp(-s.clip, s.clip)


def dynamically_thresholded(clean: Tensor, quantile: float, largest: float) -> Tensor:
    """Images (B, C, H, W), each clipped to a quantile s of its absolute values and divided by s.

    1 <= s <= `largest` (Saharia et al., 2022, section 2.3).
    """
    s = torch.stack([image.abs().flatten().quantile(quantile) for image in clean])
    s = s.clamp(1, largest)[:, None, None, None]
    return clean.clamp(-s, s) / s


def ddim_step(
    x: Tensor,
    clean: Tensor,
    direction: Tensor,
    s: Schedule,
    index: int,
    noise: Tensor | None = None,
) -> Tensor:
    """x_{t-1} of Eq. 10: P_t is `clean`; D_t points along the epsilon that belongs to `direction`, a clean image too.

    Symmetric step: `direction is clean`. Asymmetric step: `clean` edited, `direction` unedited.
    """
    a, b, sigma = s.alpha[index].item(), s.alpha_previous[index].item(), s.sigma[index].item()
    epsilon = (x - a**0.5 * direction) / (1 - a) ** 0.5
    out = b**0.5 * clean + max(1 - b - sigma**2, 0.0) ** 0.5 * epsilon
    return out if noise is None else out + sigma * noise


def image_seeds(n: int, seed: int) -> list[int]:
    """One seed per image, so that image i is the same whatever the batch size, and whatever else is sampled."""
    positive("n", n)
    return [seed * 1_000_003 + i for i in range(n)]


class _Noise:
    """Independent noise per image: generator i belongs to image i."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.shape, self.device = shape, device

    def draw(self) -> Tensor:  # (B, C, H, W) float32
        return torch.stack([torch.randn(self.shape, generator=g) for g in self.generators]).to(
            self.device
        )


def assigned(n: int, prompts: int) -> Tensor:
    """Which prompt each of n images has, in turn: (n,) int64. So the first images of a set have all prompts alike."""
    return torch.arange(n) % prompts


def unedited(
    subject: Subject, rows: Tensor, seed: int, s: Schedule
) -> Iterator[tuple[int, Tensor, Tensor, list[str]]]:
    """Walk the unedited, deterministic trajectory of the images `rows` (B,) of a set: (index, x_t, predicted clean image, texts)."""
    seeds, texts = image_seeds(int(rows.max()) + 1, seed), subject.texts()
    own = [texts[i % len(texts)] for i in rows.tolist()]
    x = _Noise([seeds[i] for i in rows.tolist()], subject.shape, subject.device).draw()
    for index, timestep in enumerate(s.timesteps):
        with torch.no_grad():
            clean = predicted_clean(x, subject.predict(x, timestep, own), s, index)
        yield index, x, clean, own
        x = ddim_step(x, clean, clean, s, index)


@torch.no_grad()
def activation(
    subject: Subject, x: Tensor, timestep: int, texts: Sequence[str] | None = None
) -> Tensor:
    """h of x_t (B, C, H, W): the output of the subject's module, of the half with the prompt where there is guidance."""
    with hooks.record(subject.network, subject.module, stop=True) as seen:
        subject.epsilon(x, timestep, texts)
    return seen[0][subject.parts(len(x))[-1]]


@torch.no_grad()
def sample(
    subject: Subject,
    n: int,
    seed: int = 0,
    *,
    steps: int = 20,
    eta: float = 0.0,
    edit: Edit | None = None,
    asymmetric: bool = True,
    watch: Watch | None = None,
    batch: int = 64,
    spacing: str | None = None,
    prompts: Sequence[str] | None = None,
    rows: Tensor | None = None,
    progress: str | None = None,
) -> Tensor:
    """Generate `n` images: (n, 3, H, W) float32 in [-1, 1] on the CPU. The same seed gives paired images.

    The images take the `prompts` in turn, by default those that the subject is evaluated on. `rows` (m,) makes only these of the n images, in
    their order: (m, 3, H, W).

    `edit` sees the output of the subject's module at every step. With the asymmetric step it acts on the predicted
    clean image only (Asyrp, and the released DiffLens), and only what lies behind the module runs twice. `watch` sees
    (h, x_t, step) before any edit. `progress` names the bar. Raises ValueError for sizes <= 0, for an edit of the network itself
    with the asymmetric step, and for images that are not finite.
    """
    positive("batch", batch)
    if asymmetric and hasattr(edit, "around"):
        raise ValueError(
            "edit changes the network itself, where no asymmetric step is defined; take asymmetric=False"
        )
    seeds = image_seeds(n, seed)
    s = trajectory(subject, steps, eta, spacing)
    prompts = subject.texts() if prompts is None else prompts
    parts = (
        [slice(i, min(i + batch, n)) for i in range(0, n, batch)]
        if rows is None
        else rows.split(batch)
    )
    total, prompt_of = n if rows is None else len(rows), assigned(n, len(prompts))
    images = []
    with tqdm(
        total=total * steps,
        desc=progress,
        unit="step",
        disable=progress is None,
        mininterval=1,
        leave=False,
    ) as bar:
        for part in parts:
            noise = _Noise(
                seeds[part] if rows is None else [seeds[i] for i in part.tolist()],
                subject.shape,
                subject.device,
            )
            x = noise.draw()
            texts = [prompts[i] for i in prompt_of[part].tolist()]
            for index, timestep in enumerate(s.timesteps):
                step = Step(index, timestep, part, prompt_of[part])
                plain, edited = _predictions(subject, x, texts, step, edit, asymmetric, watch)
                clean = predicted_clean(x, edited, s, index)
                direction = clean if plain is edited else predicted_clean(x, plain, s, index)
                x = ddim_step(x, clean, direction, s, index, noise.draw() if eta > 0 else None)
                bar.update(len(x))
            images.append(subject.decode(x).float().cpu())
    return _finite(torch.cat(images), subject, rows).clamp(-1, 1)


def _finite(images: Tensor, subject: Subject, rows: Tensor | None) -> Tensor:
    """The images as they are; ValueError, in one line, for values that are not finite."""
    if images.isfinite().all():
        return images
    first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
    first = first if rows is None else int(rows[first])
    raise ValueError(
        f"{subject.name} drew image {first} with values that are not finite, in {subject.dtype}: "
        "its network, its decoder or an edit has overflowed"
    )


def _predictions(
    subject: Subject,
    x: Tensor,
    texts: Sequence[str],
    step: Step,
    edit: Edit | None,
    asymmetric: bool,
    watch: Watch | None,
) -> tuple[Tensor, Tensor]:
    """The network's predictions for D_t and for P_t, (B, C, H, W) each.

    They are one tensor twice unless an asymmetric edit moved something.
    """
    run = lambda: subject.predict(x, step.timestep, texts)  # noqa: E731
    if edit is None and watch is None:
        predicted = run()
        return predicted, predicted
    parts = subject.parts(len(x))

    def function(h: Tensor, _call: int) -> Tensor | None:
        if watch is not None:
            watch(h.clone(), x.clone(), step)  # it may keep what the edit then changes in place
        return None if edit is None else edit(h, step)

    around = getattr(edit, "around", nullcontext)  # an edit of the network itself
    if not asymmetric or edit is None:
        with around(subject.network), hooks.edit(subject.network, subject.module, function, parts):
            predicted = run()
        return predicted, predicted
    if hooks.forkable(subject.network, subject.module):
        with hooks.fork(subject.network, subject.module, function, parts) as forked:
            return forked.split(run(), len(x))
    with hooks.edit(subject.network, subject.module, function, parts):
        edited = run()
    return run(), edited
