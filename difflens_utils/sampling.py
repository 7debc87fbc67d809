"""DDIM sampling with edits of the bottleneck, symmetric or asymmetric.

The step is our own because three things have to be exact that schedulers leave to the caller: the
previous timestep (the next entry of the list, not t - T/steps), the same epsilon in the edited and
the unedited path, and the asymmetric step (Eq. 11), in which only the predicted clean image feels
the edit. Timesteps are those of diffusers' `DDIMScheduler` at every spacing. Images are the same
too if its `step` is called with `use_clipped_model_output=True`, wherever its previous timestep,
t - T // steps, is the next entry, as it always is where the spacing is leading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import hooks
from .errors import one_of, positive, within
from .schedulers import SPACINGS

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

    from .pipelines import Subject


@dataclass(frozen=True)
class Step:
    """The moment of a generation at which an edit is called."""

    index: int  # 0 is the noisiest step, T - 1 the cleanest
    timestep: int  # training timestep t
    rows: Tensor  # (B,) which of the requested images are in this batch
    prompt: Tensor | None = None  # (B,) the number of each image's prompt; None if all have one

    def at(self, chosen: Tensor) -> Step:
        """The same step for the images `chosen` (b,) of the batch."""
        prompt = None if self.prompt is None else self.prompt[chosen.cpu()]
        return replace(self, rows=self.rows[chosen.cpu()], prompt=prompt)


Apply = Callable[[Tensor, Step], Tensor | None]
Watch = Callable[[Tensor, Tensor, Step], None]  # gets copies of h and x_t before any edit


def _unchanged(_network: nn.Module) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Edit:
    """A change of h at every step of a generation. Call it like a function: `edit(h, step)`.

    h is (B, C, H, W), or (B, tokens, C) in a transformer. The answer has the same shape, or is None
    where nothing changes; the sampler then does exactly what it does without an edit.
    """

    apply: Apply
    key: Any = None
    """Plain values that tell what the edit does; images are stored under them."""
    rows: Tensor | None = None
    """The images of the run that the edit changes, (m,); None: all of them."""
    around: Callable[[nn.Module], AbstractContextManager[None]] = _unchanged
    """A context that holds a change of the network itself, for the symmetric step."""
    moves_batches: bool = False
    """Whether an image's change depends on the batch that it is in."""

    def __call__(self, h: Tensor, step: Step) -> Tensor | None:
        return self.apply(h, step)

    @property
    def changes_network(self) -> bool:
        """Whether the edit changes the network instead of h."""
        return self.around is not _unchanged

    def fingerprint(self) -> Any:
        """What stands for the edit in the key of a result. Raises TypeError if it has no key."""
        if self.key is None:
            raise TypeError("edit has no key: make it with a function of difflens_utils.edits")
        return self.key


@dataclass(frozen=True)
class Schedule:
    """A DDIM trajectory: per step the timestep, alpha-bar there and at the next step, and sigma."""

    timesteps: tuple[int, ...]
    alpha: Tensor  # (T,)
    alpha_previous: Tensor  # (T,)
    sigma: Tensor  # (T,)
    clip: float | None  # the predicted clean image is clipped to [-clip, clip]
    threshold: tuple[float, float] | None = None  # (quantile, largest), instead of `clip`
    predicts: str = "epsilon"  # the network's answer: epsilon, v_prediction, or sample (x_0)

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
    scheduler: DDIMScheduler, steps: int, eta: float = 0.0, spacing: str | None = None
) -> Schedule:
    """The trajectory of `steps` DDIM steps over the noise levels of a diffusers scheduler.

    The spacing of timesteps is the scheduler's own unless another is given. Raises ValueError for
    steps outside 1..T, eta outside 0..1, or an unknown spacing.
    """
    within("eta", eta, 0, 1)
    config = scheduler.config
    alphas = scheduler.alphas_cumprod.double()
    spacing = spacing or config.get("timestep_spacing", "leading")
    times = timesteps(len(alphas), steps, spacing, config.get("steps_offset", 0))
    final = 1.0 if config.get("set_alpha_to_one", True) else alphas[0].item()
    alpha = alphas[times]
    previous = torch.cat([alphas[times[1:]], torch.tensor([final], dtype=torch.float64)])
    variance = (1 - previous) / (1 - alpha) * (1 - alpha / previous)
    threshold = (config["dynamic_thresholding_ratio"], config["sample_max_value"])
    return Schedule(
        tuple(times.tolist()),
        alpha,
        previous,
        sigma=eta * variance.clamp_min(0).sqrt(),
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample") else None,
        threshold=threshold if config["thresholding"] else None,
        predicts=config["prediction_type"],
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
    """x_{t-1} of Eq. 10: P_t is `clean`; D_t points along the epsilon that belongs to `direction`.

    `direction` is a clean image too. In the symmetric step it is `clean`; in the asymmetric step
    `clean` is edited and `direction` is not.
    """
    a, b, sigma = s.alpha[index].item(), s.alpha_previous[index].item(), s.sigma[index].item()
    epsilon = (x - a**0.5 * direction) / (1 - a) ** 0.5
    out = b**0.5 * clean + max(1 - b - sigma**2, 0.0) ** 0.5 * epsilon
    return out if noise is None else out + sigma * noise


@dataclass(frozen=True)
class Moment:
    """One step of a batch: x_t, the texts it is conditioned on, and where on the schedule it is."""

    subject: Subject
    x: Tensor  # (B, C, H, W)
    texts: Sequence[str]
    schedule: Schedule
    index: int

    @property
    def timestep(self) -> int:
        return self.schedule.timesteps[self.index]

    @property
    def halves(self) -> tuple[slice, ...]:
        """Where in the batch that the network sees an edit acts, see `Subject.parts`."""
        return self.subject.parts(len(self.x))

    def predict(self) -> Tensor:
        """The network's answer: (B, C, H, W), or (copies B, ...) behind a fork."""
        return self.subject.predict(self.x, self.timestep, self.texts)

    def clean(self, predicted: Tensor) -> Tensor:
        """P_t of an answer (copies B, C, H, W) of the network."""
        x = self.x.repeat(len(predicted) // len(self.x), 1, 1, 1)
        return predicted_clean(x, predicted, self.schedule, self.index)

    def editing(self, function: hooks.HookEdit) -> AbstractContextManager[None]:
        """`hooks.edit` of the subject's module, where an edit acts on this batch."""
        return hooks.edit(self.subject.network, self.subject.module, function, self.halves)

    def forking(self, function: hooks.HookEdit) -> AbstractContextManager[hooks.Fork]:
        """`hooks.fork` of the subject's module, where an edit acts on this batch."""
        return hooks.fork(self.subject.network, self.subject.module, function, self.halves)


def image_seeds(n: int, seed: int) -> list[int]:
    """One seed per image: image i is the same in every batch, whatever else is sampled."""
    positive("n", n)
    return [seed * 1_000_003 + i for i in range(n)]


class Noise:
    """Independent noise per image: generator i belongs to image i."""

    def __init__(self, seeds: Sequence[int], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]
        self.shape = shape
        self.device = device

    def draw(self) -> Tensor:  # (B, C, H, W) float32
        draws = [torch.randn(self.shape, generator=g) for g in self.generators]
        return torch.stack(draws).to(self.device)


def assigned(n: int, prompts: int) -> Tensor:
    """The prompt of each of n images, which take them in turn: (n,) int64."""
    return torch.arange(n) % prompts


def unedited(
    subject: Subject, rows: Tensor, seed: int, s: Schedule
) -> Iterator[tuple[Moment, Tensor]]:
    """Walk the unedited, deterministic trajectory of the images `rows` (B,) of a set.

    Yields the moment and its predicted clean image (B, C, H, W) at every step.
    """
    seeds = image_seeds(int(rows.max()) + 1, seed)
    prompts = subject.texts()
    texts = [prompts[i % len(prompts)] for i in rows.tolist()]
    x = Noise([seeds[i] for i in rows.tolist()], subject.shape, subject.device).draw()
    for index in range(len(s)):
        moment = Moment(subject, x, texts, s, index)
        with torch.no_grad():
            clean = moment.clean(moment.predict())
        yield moment, clean
        x = ddim_step(x, clean, clean, s, index)


@torch.no_grad()
def activation(
    subject: Subject, x: Tensor, timestep: int, texts: Sequence[str] | None = None
) -> Tensor:
    """h of x_t (B, C, H, W): the output of the subject's module; under guidance the text's half."""
    with hooks.record(subject.network, subject.module, stop=True) as outputs:
        subject.epsilon(x, timestep, texts)
    return outputs[0][subject.parts(len(x))[-1]]


@dataclass(frozen=True)
class _Run:
    """What stays the same over all batches of a generation."""

    subject: Subject
    schedule: Schedule
    edit: Edit | None
    asymmetric: bool
    watch: Watch | None
    prompts: Sequence[str]
    seeds: Sequence[int] = field(repr=False)
    eta: float


@torch.no_grad()
def sample(
    subject: Subject,
    n: int,
    seed: int = 0,
    *,
    steps: int = 20,
    eta: float = 0.0,
    edit: Edit | Apply | None = None,
    asymmetric: bool = True,
    watch: Watch | None = None,
    batch: int = 64,
    spacing: str | None = None,
    prompts: Sequence[str] | None = None,
    rows: Tensor | None = None,
    progress: str | None = None,
) -> Tensor:
    """Generate `n` images: (n, 3, H, W) float32 in [-1, 1] on the CPU. A seed gives paired images.

    The images take the `prompts` in turn, by default those that the subject is evaluated on. `rows`
    (m,) makes only these of the n images, in their order: (m, 3, H, W).

    `edit` sees the output of the subject's module at every step. With the asymmetric step it acts
    on the predicted clean image only (Asyrp, and the released DiffLens), and only what lies behind
    the module runs twice. `watch` sees (h, x_t, step) before any edit. `progress` names the bar.
    Raises ValueError for sizes <= 0, for an edit of the network itself with the asymmetric step,
    and for images that are not finite.
    """
    positive("batch", batch)
    edit = edit if edit is None or isinstance(edit, Edit) else Edit(edit)
    if asymmetric and edit is not None and edit.changes_network:
        raise ValueError(
            "edit changes the network itself, where no asymmetric step is defined; "
            "take asymmetric=False"
        )
    prompts = subject.texts() if prompts is None else prompts
    s = trajectory(subject, steps, eta, spacing)
    run = _Run(subject, s, edit, asymmetric, watch, prompts, image_seeds(n, seed), eta)
    chosen = torch.arange(n) if rows is None else rows
    images = []
    with tqdm(
        total=len(chosen) * steps,
        desc=progress,
        unit="step",
        disable=progress is None,
        mininterval=1,
        leave=False,
    ) as bar:
        for part in chosen.split(batch):
            images.append(_sample_batch(run, part, bar))
    return _finite(torch.cat(images), subject, chosen).clamp(-1, 1)


def _sample_batch(run: _Run, rows: Tensor, bar: tqdm[Any]) -> Tensor:
    """The images `rows` (B,) of a run: (B, 3, H, W) float32 on the CPU."""
    subject, s = run.subject, run.schedule
    prompt = assigned(len(run.seeds), len(run.prompts))[rows]
    texts = [run.prompts[i] for i in prompt.tolist()]
    noise = Noise([run.seeds[i] for i in rows.tolist()], subject.shape, subject.device)
    x = noise.draw()
    for index, timestep in enumerate(s.timesteps):
        moment = Moment(subject, x, texts, s, index)
        plain, edited = _predictions(run, moment, Step(index, timestep, rows, prompt))
        clean = moment.clean(edited)
        direction = clean if plain is edited else moment.clean(plain)
        x = ddim_step(x, clean, direction, s, index, noise.draw() if run.eta > 0 else None)
        bar.update(len(x))
    return subject.decode(x).float().cpu()


def _finite(images: Tensor, subject: Subject, rows: Tensor) -> Tensor:
    """The images as they are; ValueError, in one line, for values that are not finite."""
    if images.isfinite().all():
        return images
    first = int((~images.isfinite()).flatten(1).any(1).nonzero()[0])
    raise ValueError(
        f"{subject.name} drew image {int(rows[first])} with values that are not finite, in "
        f"{subject.dtype}: its network, its decoder or an edit has overflowed"
    )


def _predictions(run: _Run, moment: Moment, step: Step) -> tuple[Tensor, Tensor]:
    """The network's answers for D_t and for P_t, (B, C, H, W) each.

    They are one tensor twice unless an asymmetric edit changed something.
    """
    edit = run.edit
    if edit is None and run.watch is None:
        predicted = moment.predict()
        return predicted, predicted

    def function(h: Tensor, _call: int) -> Tensor | None:
        if run.watch is not None:
            run.watch(h.clone(), moment.x.clone(), step)  # an edit may change h in place afterwards
        return None if edit is None else edit(h, step)

    subject = run.subject
    if edit is None or not run.asymmetric:
        around = nullcontext() if edit is None else edit.around(subject.network)
        with around, moment.editing(function):
            predicted = moment.predict()
        return predicted, predicted
    if hooks.forkable(subject.network, subject.module):
        with moment.forking(function) as forked:
            return forked.split(moment.predict(), len(moment.x))
    with moment.editing(function):
        edited = moment.predict()
    return moment.predict(), edited
