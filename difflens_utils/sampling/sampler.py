"""Images and walks along trajectories, with and without edits.

Image 2 starts from the same noise, whatever else is in its batch, and images take the prompts in
turn:

>>> import torch
>>> from difflens_utils import sampling
>>> seeds, cpu = sampling.image_seeds(3, seed=0), torch.device("cpu")
>>> three = sampling.Noise(seeds, (3, 8, 8), cpu).draw()
>>> torch.equal(three[2:], sampling.Noise(seeds[2:], (3, 8, 8), cpu).draw())
True
>>> sampling.assigned(5, prompts=2).tolist()
[0, 1, 0, 1, 0]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..runtime import tally
from ..runtime.errors import positive
from . import hooks, native
from .edit import Apply, Edit, Step
from .schedule import Schedule, advance, along, predicted_clean, trajectory

if TYPE_CHECKING:
    from ..subjects.pipelines import Subject

Watch = Callable[[Tensor, Tensor, Step], None]  # gets copies of h and x_t before any edit


@dataclass(frozen=True)
class Moment:
    """One step of a batch: x_t, the texts it is conditioned on, and where on the schedule it is."""

    subject: Subject
    x: Tensor  # (B, C, H, W)
    texts: Sequence[str]
    schedule: Schedule
    index: int

    @property
    def timestep(self) -> float:
        return self.schedule.timesteps[self.index]

    @property
    def halves(self) -> tuple[slice, ...]:
        """The parts of the network's batch that an edit acts on, see `Subject.parts`."""
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

    def answers(self, function: hooks.HookEdit) -> tuple[Tensor, Tensor]:
        """The network's answers without (B, ...) and with the edits of h, (copies B, ...).

        `function` returns one edited version of h or several, or None. The answers are one tensor
        twice if nothing was edited. Only what lies behind the module runs again, where `hooks.fork`
        can do that, and else the network.
        """
        network, module = self.subject.network, self.subject.module
        if not hooks.forkable(network, module):
            return self._again(function)
        with hooks.fork(network, module, function, self.halves) as forked:
            return forked.split(self.predict(), len(self.x))

    def _again(self, function: hooks.HookEdit) -> tuple[Tensor, Tensor]:
        made: list[Tensor | None] = []  # what the function returns, call by call

        def look(h: Tensor, call: int) -> None:
            made.append(function(h, call))

        with self.editing(look):
            plain = self.predict()
        # of none if nothing was edited; each call is about one part of the batch, of len(x) rows
        copies = max(0 if new is None else len(new) // len(self.x) for new in made)
        if not copies:
            return plain, plain
        edited = []
        for copy in range(copies):
            versions = (None if new is None else new.chunk(copies)[copy] for new in made)
            with self.editing(partial(_next, versions)):
                edited.append(self.predict())
        return plain, torch.cat(edited)


def _next(versions: Iterator[Tensor | None], _h: Tensor, _call: int) -> Tensor | None:
    return next(versions)


class _Reserved(NamedTuple):
    seeds: frozenset[int]
    asked: list[int]  # those that somebody tried to draw from


_reserved: ContextVar[_Reserved | None] = ContextVar("reserved", default=None)


@contextmanager
def reserved(seeds: Iterable[int]) -> Iterator[None]:
    """Within the block nothing can be drawn from these seeds, which results are reported on.

    Whoever catches the RuntimeError gets it again at the end of the block.
    """
    kept = _Reserved(frozenset(seeds), [])
    token = _reserved.set(kept)
    try:
        yield
    finally:
        _reserved.reset(token)
    if kept.asked:
        raise RuntimeError(_is_reserved(kept.asked[0]))


def _is_reserved(seed: int) -> str:
    return f"seed {seed} is reserved: results are reported on its images"


def image_seeds(n: int, seed: int) -> list[int]:
    """One seed per image: image i is the same in every batch, whatever else is sampled.

    Raises ValueError for n <= 0, and RuntimeError for a `reserved` seed.
    """
    positive("n", n)
    kept = _reserved.get()
    if kept is not None and seed in kept.seeds:
        kept.asked.append(seed)
        raise RuntimeError(_is_reserved(seed))
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


def texts_of(subject: Subject, rows: Tensor) -> list[str]:
    """The texts of the images `rows` (B,) of a set, which take the subject's prompts in turn."""
    texts = subject.texts()
    return [texts[i % len(texts)] for i in rows.tolist()]


def unedited(
    subject: Subject, rows: Tensor, seed: int, s: Schedule
) -> Iterator[tuple[Moment, Tensor]]:
    """Walks the unedited, deterministic trajectory of the images `rows` (B,) of a set.

    Yields the moment and its predicted clean image (B, C, H, W) at every step.
    """
    seeds = image_seeds(int(rows.max()) + 1, seed)
    texts = texts_of(subject, rows)
    x = Noise([seeds[i] for i in rows.tolist()], subject.shape, subject.device).draw()
    for index in range(len(s)):
        moment = Moment(subject, x, texts, s, index)
        with torch.no_grad():
            clean = moment.clean(moment.predict())
        yield moment, clean
        x = advance(x, clean, clean, s, index)


@torch.no_grad()
def activation(
    subject: Subject, x: Tensor, timestep: float, texts: Sequence[str] | None = None
) -> Tensor:
    """h of x_t (B, C, H, W): the output of the subject's module; under guidance the text's half."""
    with hooks.record(subject.network, subject.module, stop=True) as outputs:
        subject.epsilon(x, timestep, texts)
    return outputs[0][subject.parts(len(x))[-1]]


@dataclass(frozen=True)
class _Run:
    """What stays the same over all batches of a generation."""

    subject: Subject
    schedule: Schedule | None  # None where the pipeline samples by itself
    steps: int
    edit: Edit | None
    asymmetric: bool
    watch: Watch | None
    prompts: Sequence[str]
    seeds: Sequence[int] = field(repr=False)
    eta: float


@torch.no_grad()
def batches(
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
) -> Iterator[Tensor]:
    """Generates `n` images, batch by batch: (B, 3, H, W) float32 in [-1, 1] on the CPU.

    Images of equal seeds are paired. The images take the `prompts` in turn, by default those that
    the subject is evaluated on. `rows` (m,) makes only these of the n images, in their order:
    (m, 3, H, W).

    `edit` sees the output of the subject's module at every step. With the asymmetric step it acts
    on the predicted clean image only (Asyrp, and the released DiffLens), and only what lies behind
    the module runs twice. `watch` sees (h, x_t, step) before any edit. `progress` names the bar.
    Raises ValueError for sizes <= 0, for an edit of the network itself with the asymmetric step,
    and for images that are not finite.
    """
    positive("batch", batch)
    _check_native(subject, eta, edit, asymmetric, spacing)
    edit = edit if edit is None or isinstance(edit, Edit) else Edit(edit)
    if edit is not None:
        edit.check_run(n)
    if asymmetric and edit is not None and edit.changes_network:
        raise ValueError(
            "edit changes the network itself, where no asymmetric step is defined; "
            "take asymmetric=False"
        )
    prompts = subject.texts() if prompts is None else prompts
    s = None if subject.native else trajectory(subject, steps, eta, spacing)
    run = _Run(subject, s, steps, edit, asymmetric, watch, prompts, image_seeds(n, seed), eta)
    chosen = torch.arange(n) if rows is None else rows
    tally.count(_way(run), len(chosen))
    with tqdm(
        total=len(chosen) * steps,
        desc=progress,
        unit="step",
        disable=progress is None,
        mininterval=1,
        leave=False,
    ) as bar:
        for part in chosen.split(batch):
            yield _finite(_sample_batch(run, part, bar), subject, part).clamp(-1, 1)


_Options = ParamSpec("_Options")


def _joined(drawn: Callable[_Options, Iterator[Tensor]]) -> Callable[_Options, Tensor]:
    """The function of the same parameters that gives all images at once."""

    def sample(*args: _Options.args, **kwargs: _Options.kwargs) -> Tensor:
        """Generates `n` images at once, as `batches` does: (n, 3, H, W)."""
        return torch.cat(list(drawn(*args, **kwargs)))

    sample.__qualname__ = sample.__name__
    vars(sample)["__signature__"] = signature(drawn).replace(return_annotation="Tensor")
    return sample


sample = _joined(batches)


def _way(run: _Run) -> str:
    """The way in which images are drawn, under which `tally` counts them."""
    if run.edit is not None:
        return "asymmetric edit" if run.asymmetric else "symmetric edit"
    return "sampling" if run.watch is None else "recording"


def _sample_batch(run: _Run, rows: Tensor, bar: tqdm[Any]) -> Tensor:
    """The images `rows` (B,) of a run: (B, 3, H, W) float32 on the CPU."""
    subject, s = run.subject, run.schedule
    prompt = assigned(len(run.seeds), len(run.prompts))[rows]
    texts = [run.prompts[i] for i in prompt.tolist()]
    if s is None:
        return _own_batch(run, rows, prompt, texts, bar)
    noise = Noise([run.seeds[i] for i in rows.tolist()], subject.shape, subject.device)
    x = noise.draw()
    for index, timestep in enumerate(s.timesteps):
        moment = Moment(subject, x, texts, s, index)
        plain, edited = _predictions(run, moment, Step(index, timestep, rows, prompt))
        clean = moment.clean(edited)
        direction = clean if plain is edited else moment.clean(plain)
        x = advance(x, clean, direction, s, index, noise.draw() if run.eta > 0 else None)
        bar.update(len(x))
    return subject.decode(x).float().cpu()


def _own_batch(
    run: _Run, rows: Tensor, prompt: Tensor, texts: Sequence[str], bar: tqdm[Any]
) -> Tensor:
    """The images `rows` (B,) of a run whose pipeline samples by itself: (B, 3, H, W)."""
    seeds = [run.seeds[i] for i in rows.tolist()]

    def look(h: Tensor, tick: native.Tick) -> Tensor | None:
        step = Step(tick.index, tick.timestep, rows, prompt)
        if run.watch is not None and tick.first:
            run.watch(h.clone(), torch.empty(len(rows), 0), step)
        return None if run.edit is None else run.edit(h, step)

    seen = run.edit is not None or run.watch is not None
    around = nullcontext() if run.edit is None else run.edit.around(run.subject.network)
    with around:
        images = native.draw(run.subject, texts, seeds, run.steps, look if seen else None)
    bar.update(len(rows) * run.steps)
    return images


def _check_native(
    subject: Subject, eta: float, edit: object, asymmetric: bool, spacing: str | None
) -> None:
    """Raises ValueError, in one line, for what a pipeline that samples by itself cannot do."""
    if not subject.native:
        return
    if edit is not None and asymmetric:
        raise ValueError(
            f"{subject.name} is sampled by its pipeline's own call, where no asymmetric step is "
            "defined; take asymmetric=False"
        )
    if eta or spacing:
        raise ValueError(f"{subject.name} has the steps of its pipeline: no eta and no spacing")


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

    They are one tensor twice where nothing was edited, in a symmetric step, and where D_t has no
    weight.
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
    if edit is None or not run.asymmetric or not along(moment.schedule, moment.index):
        around = nullcontext() if edit is None else edit.around(subject.network)
        with around, moment.editing(function):
            predicted = moment.predict()
        return predicted, predicted
    return moment.answers(function)
