"""The exercises of the notebooks: a check for each says whether an answer is right, or what is not.

A notebook calls `page.check("two factors", answer, ...)` below each task. A check works the answer
out by another way than the notebook's solution, where there is one, and knows the mistakes that are
often made. It never says what the answer is.

>>> from difflens_utils.pages import exercises
>>> exercises.names("06_debiasing")
['two arms', 'half and half']
>>> exercises.fair_model(None, 0.01, 5000, ("female", "male"))
>>> exercises.fair_model(None, 0.0, 5000, ("female", "male"))
Traceback (most recent call last):
    ...
difflens_utils.pages.exercises.Wrong: Not yet. Chance moves the shares of a fair model too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from .. import metrics
from ..analysis.factors import FactorSet
from ..analysis.mediation import Mediation
from ..attribution import Aim, Effect
from ..debiasing import UNEDITED, Arm, Search
from ..features import BiasFeatures, deciding_steps
from ..ksae import KSAE, map_to_vectors
from ..methods import planning
from ..metrics import Array, Estimate
from ..outcome import Outcome
from ..probes import Fit
from ..runtime.errors import one_of
from . import results, rules

if TYPE_CHECKING:
    from .page import Page

NOTHING = 1e-6  # a difference that does not count, beside that which each check allows
Z = 1.96  # standard errors from the middle of a 95 % interval to its end
NEAR = 0.1  # of itself: how near to a share its interval shall come
GAIN = 0.10  # that an edit gains, from which one may ask how much of it is lost
BEST = 3  # latents that are asked for
MISSING = "`answer` is still `...`: put your own in its place."


class Wrong(ValueError):
    """An answer that is not right: what is wrong with it, in one line, without a traceback."""

    def __init__(self, what: str) -> None:
        super().__init__(f"Not yet. {what}")

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in the place of a traceback."""
        return [str(self)]


class NeedsMore(ValueError):
    """What an exercise needs and the study at hand does not have."""


class Exercise(NamedTuple):
    """An exercise of a notebook."""

    check: Callable[..., None]
    """Takes the page, the answer, and what the task is about; raises `Wrong` or `NeedsMore`."""
    lesson: str
    """What a right answer tells, without the answer."""


EXERCISES: dict[tuple[str, str], Exercise] = {}
"""By notebook and name, in their order."""

Check = Callable[..., None]


def exercise(notebook: str, name: str, lesson: str) -> Callable[[Check], Check]:
    """Makes a function the check of an exercise."""

    def enter(check: Check) -> Check:
        EXERCISES[notebook, name] = Exercise(check, lesson)
        return check

    return enter


def names(notebook: str) -> list[str]:
    """The exercises of a notebook, in their order."""
    return [name for place, name in EXERCISES if place == notebook]


def checked(page: Page, name: str, answer: object, given: Sequence[Any]) -> str:
    """What a check says of an answer that is right, or of a study that is not for the exercise.

    `given` are the objects of the notebook that the task is about. Raises `Wrong`, in one line, for
    any other answer, and ValueError for an exercise that the notebook does not have.
    """
    notebook = page.results.notebook
    one_of(f"exercise of {notebook}", name, names(notebook))
    check, lesson = EXERCISES[notebook, name]
    try:
        check(page, answer, *given)
    except NeedsMore as needs:
        return f"This exercise needs {needs}, so there is nothing to check here."
    return f"Right. {lesson}"


# ------------------------------------------------------------------ answers of every form


def _plain(answer: object) -> Array:
    """An answer as an array of float64; `Wrong` for what holds anything but numbers."""
    if answer is ...:
        raise Wrong(MISSING)
    if isinstance(answer, Estimate):
        answer = answer.value
    if isinstance(answer, list | tuple):
        answer = [each.item() if _is_single(each) else each for each in answer]
    if isinstance(answer, Tensor):
        answer = answer.detach().cpu().numpy()
    try:
        values = np.asarray(answer)
    except ValueError:  # rows of different lengths
        values = np.asarray(None)
    if values.dtype.kind not in "iuf":
        raise Wrong(f"`answer` must be made of numbers; it is a {type(answer).__name__}.")
    return values.astype(np.float64)


def _is_single(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.numel() == 1


def _numbers(answer: object, count: int, what: str) -> Array:
    """An answer that has to be `count` finite numbers: (count,)."""
    values = _plain(answer)
    if values.size != count or (count > 1 and values.ndim != 1):
        shape = f"has shape {values.shape}" if values.ndim else "is one number"
        raise Wrong(f"`answer` must be {what}; yours {shape}.")
    if not np.isfinite(values).all():
        raise Wrong(f"`answer` must be {what}, and finite; yours is not.")
    return values.reshape(count)


def _number(answer: object) -> float:
    """An answer that has to be one finite number."""
    return float(_numbers(answer, 1, "one number")[0])


def _whole(answer: object, what: str, end: int) -> int:
    """An answer that has to be a whole number from 0 up to `end`, which is left out."""
    value = _number(answer)
    if value != int(value) or not 0 <= value < end:
        raise Wrong(f"`answer` must be {what}: a whole number from 0 to {end - 1}.")
    return int(value)


def _compare(
    answer: float | Array,
    truth: float | Array,
    slips: Mapping[str, float | Array],
    within: float = 5e-4,
    where: str = "",
) -> None:
    """Raises `Wrong` unless an answer is the truth, to a share of itself.

    Of several numbers it is a share of the largest. `slips` are what mistakes lead to, by what is
    said of them. `where` names the answer among several.
    """

    def near(value: float | Array, sign: int = 1) -> bool:
        off, size = np.abs(sign * np.asarray(answer) - value).max(), np.abs(value).max()
        return bool(off <= within * size + NOTHING)  # and nan is never near

    if near(truth):
        return
    for slip, value in slips.items():
        if near(value):
            raise Wrong(f"{where}{slip}")
    if near(truth, sign=-1):
        raise Wrong(f"{where}The sign is the other one.")
    off = np.ravel(np.asarray(answer) - truth)
    size = "large" if off[np.abs(off).argmax()] > 0 else "small"
    number = "The number is" if off.size == 1 else "One of the numbers is"
    raise Wrong(f"{where}{number} too {size}.")


def _table(answer: object, keys: Mapping[Any, str], what: str) -> Mapping[Any, Any]:
    """An answer that has to be a dictionary with just these keys, {key: its name}.

    The keys are `what`.
    """
    if answer is ...:
        raise Wrong(MISSING)
    if not isinstance(answer, Mapping):
        kind = type(answer).__name__
        raise Wrong(f"`answer` must be a dictionary with a number for {what}; it is a {kind}.")
    for key, name in keys.items():
        if key not in answer:
            raise Wrong(f"`answer` lacks {name}: it must have a number for {what}.")
    for key in answer:
        if key not in keys:
            raise Wrong(f"`answer` has {key!s}, which does not belong there: give {what}.")
    return answer


def _needs(there: bool, what: str) -> None:
    """Raises `NeedsMore` unless something is there."""
    if not there:
        raise NeedsMore(what)


def _double(values: Tensor) -> Array:
    array: Array = values.detach().cpu().double().numpy()
    return array


def _hot(probabilities: Tensor) -> Array:
    """The likeliest class of each image: (n, classes) of 0 and 1."""
    hot: Array = np.eye(probabilities.shape[1])[_double(probabilities).argmax(1)]
    return hot


# ------------------------------------------------------------------ 00: the bias


@exercise(
    "00_bias",
    "a fair model",
    "Chance gives a fair model a raw FD above 0. Four times as many images halve it.",
)
def fair_model(_page: Page | None, answer: object, n: int, classes: Sequence[str]) -> None:
    """The root of the mean of the squared raw FD (hard) of `n` images of equally likely classes."""
    counts, share = np.arange(n + 1), 1 / len(classes)
    chances = stats.binom.pmf(counts, n, share)
    variance = float((chances * (counts / n - share) ** 2).sum())  # of one share
    squared = len(classes) * variance
    fair = metrics.expected_fd([share] * len(classes), n)
    slips = {
        "Chance moves the shares of a fair model too.": 0.0,
        "That is one share. FD sums the squares over all classes.": variance**0.5,
        "That is the mean of the square. FD is its root.": squared,
        "That is the mean of FD. Here it is the root of the mean of its square.": fair.value,
        "FD falls with the root of n, and not with n.": (squared / n) ** 0.5,
    }
    _compare(_number(answer), squared**0.5, slips, within=0.02)


@exercise(
    "00_bias",
    "the rarest class",
    "A share that is a quarter as large takes more than four times as many images.",
)
def rarest_class(_page: Page, answer: object, planted: Tensor) -> None:
    """How many images it takes until the interval of the least planted share is 10 % of it."""
    shares = _double(planted)
    p = float(shares.min())
    _needs(p > 0, "a class whose planted share is not 0")

    def enough(half: float, z: float = Z, p: float = p) -> float:
        few, many = 1.0, 2.0**60
        for _ in range(100):
            middle = (few * many) ** 0.5
            wide = z * (p * (1 - p) / middle) ** 0.5 > half
            few, many = (middle, many) if wide else (few, middle)
        return many

    most = float(shares.max())
    slips = {
        "That reaches 10 percentage points. Asked is a tenth of the share itself.": enough(NEAR),
        "That is one standard error. The interval reaches 1.96 of them to either side.": enough(
            NEAR * p, z=1.0
        ),
        "That is for the commonest class.": enough(NEAR * most, p=most),
        "The error falls with the root of n: square the ratio.": enough(NEAR * p) ** 0.5,
    }
    _compare(_number(answer), enough(NEAR * p), slips, within=0.05)


# ------------------------------------------------------------------ 01: neurons and latents


def _aurocs(ranks: Array, inside: NDArray[np.bool_]) -> Array:
    """How often an image of a class gets the larger answer: (U,); ties count half.

    `ranks` (n, U) are those of the answers of each unit, from 1.
    """
    ones, zeros = inside.sum(), (~inside).sum()
    areas: Array = (ranks[inside].sum(0) - ones * (ones + 1) / 2) / (ones * zeros)
    return areas


@exercise(
    "01_polysemanticity",
    "AUROC by hand",
    "AUROC is a share of pairs, and no share of images: it needs no threshold.",
)
def auroc_by_hand(page: Page, answer: object, neuron: Tensor, probe: FactorSet) -> None:
    """The AUROC of the answers (n,) of a neuron for the first class of the first attribute."""
    inside = probe.labels[page.study.attributes[0]].numpy() == 0
    _needs(bool(inside.any() and not inside.all()), "images of the class and others")
    values = _double(neuron)[:, None]
    truth = float(_aurocs(stats.rankdata(values, axis=0), inside)[0])
    above = float((values[inside] > values[~inside].mean()).mean())
    slips = {
        "That counts the pairs in which the image without the class is higher.": 1 - truth,
        "That compares with the mean of the others. Compare with each of them.": above,
    }
    _compare(_number(answer), truth, slips, within=2e-3)


@exercise(
    "01_polysemanticity",
    "two factors",
    "A unit is as polysemantic as its second factor is clear, however clear the first one is.",
)
def two_factors(page: Page, answer: object, neurons: Tensor, probe: FactorSet) -> None:
    """The neuron (of n, d) that tells its second factor best."""
    _needs(len(probe.labels) > 1, "two factors")
    ranks, columns = stats.rankdata(_double(neurons), axis=0), []
    for factor, labels in probe.labels.items():
        members = [labels.numpy() == c for c in range(len(page.study.factors[factor]))]
        areas = [_aurocs(ranks, rows) for rows in members if rows.any() and not rows.all()]
        _needs(bool(areas), f"images with and without the classes of {factor}")
        columns.append(np.maximum(areas, 1 - np.array(areas)).max(0))
    ranked = np.sort(columns, 0)  # (factors, d)
    chosen = _whole(answer, "the number of a neuron", ranked.shape[1])
    if ranked[-2, chosen] >= ranked[-2].max() - NOTHING:
        return
    if ranked[-1, chosen] >= ranked[-1].max() - NOTHING:
        raise Wrong("That neuron tells one factor best of all. The second factor decides.")
    if ranked.mean(0)[chosen] >= ranked.mean(0).max() - NOTHING:
        raise Wrong("That neuron has the highest mean over all factors. The second one decides.")
    raise Wrong("Another neuron tells its second factor better.")


# ------------------------------------------------------------------ 02: the k-SAE


@exercise(
    "02_ksae",
    "half of the latents",
    "The k-SAE was trained to use all k latents: those that are dropped were meant to count.",
)
def half_of_the_latents(
    _page: Page, answer: object, h: Tensor, s: Tensor, sae: KSAE, others: Mapping[int, KSAE]
) -> None:
    """FVU of vectors h (n, d) from the larger half of their active latents s (n, D).

    `others` are k-SAEs by their k.
    """
    k = sae.config.k
    _needs(k > 1, "two active latents")
    half, codes, vectors = k // 2, _double(s), _double(h)
    ranks = codes.shape[1] - stats.rankdata(codes, method="ordinal", axis=1)  # the largest: 0
    larger, smaller = (np.where(rows, codes, 0) for rows in (ranks < half, ranks >= half))
    spread = ((vectors - vectors.mean(0)) ** 2).sum()

    def fvu(kept: Array, whole: float = spread) -> float:
        written = kept @ _double(sae.directions)
        constant = _double(sae.b_dec) * sae.scale.item()
        return float(((vectors - written - constant) ** 2).sum() / whole)

    slips = {
        "That is the FVU with all of the active latents.": fvu(codes),
        "That keeps the smaller half.": fvu(smaller),
        "Divide by the variation of h around its mean.": fvu(larger, (vectors**2).sum()),
    }
    if half in others:
        with torch.no_grad():
            trained = (h - others[half](h)).double().square().sum().item() / spread
        slips["That k-SAE was trained with half of the k. Take latents from this one."] = trained
    _compare(_number(answer), fvu(larger), slips, within=5e-3)


@exercise(
    "02_ksae",
    "principal components",
    "PCA takes the same k directions for every vector, and the k-SAE picks k anew for each.",
)
def principal_components(_page: Page, answer: object, h: Tensor, k: int) -> None:
    """FVU of vectors h (n, d) from their first k principal components."""
    vectors = _double(h)
    _needs(k < min(vectors.shape), "more channels, and more vectors, than active latents")
    sizes = np.linalg.eigvalsh(np.cov(vectors.T))[::-1]  # variances, the largest first
    lengths, truth = np.sqrt(sizes.clip(0)), float(sizes[k:].sum() / sizes.sum())
    slips = {
        "That is the share that the components explain. FVU is the rest.": 1 - truth,
        "The variance along a direction is the square of its singular value.": float(
            lengths[k:].sum() / lengths.sum()
        ),
        "That is one component only. Leave out all behind the first k.": float(
            sizes[k] / sizes.sum()
        ),
    }
    _compare(_number(answer), truth, slips, within=5e-3)


# ------------------------------------------------------------------ 03: probes


@exercise(
    "03_probes",
    "beyond the majority",
    "Plain accuracy flatters where a class is common: one answer for all is often right.",
)
def beyond_the_majority(_page: Page, answer: object, fit: Fit) -> None:
    """The plain accuracy of the last head, minus that of naming the commonest class always."""
    right, labels = fit.correct[-1].numpy(), fit.labels.numpy()
    present = np.unique(labels)
    plain = right.mean()
    majority = max(float((labels == c).mean()) for c in present)
    balanced = np.mean([right[labels == c].mean() for c in present])
    chance = 1 / fit.heads.bias.shape[1]
    slips = {
        "That is the accuracy alone. Subtract what the commonest class gives.": plain,
        "That is balanced accuracy minus chance. Count all images alike.": balanced - chance,
        "The head's accuracy is balanced here. Count all images alike.": balanced - majority,
        "One class in all would be right by chance, but the commonest is right more often.": plain
        - chance,
        "That is the first step. Take the last one.": fit.correct[0].numpy().mean() - majority,
    }
    _compare(_number(answer), float(plain - majority), slips)


@exercise(
    "03_probes",
    "beyond the control",
    "What the control carries, h carries without the attribute: it does not speak for steering.",
)
def beyond_the_control(page: Page, answer: object, mediated: Mapping[str, Mediation]) -> None:
    """The share of the whole effect that h carries beyond its control, for every attribute."""
    _needs(bool(mediated), "a model whose h can be exchanged")
    found = _table(answer, {a: str(a) for a in mediated}, "every attribute")
    steps = list(deciding_steps(page.study.settings.steps))
    for attribute, effect in mediated.items():
        total, through, control = map(_double, effect)
        net, every = (through - control)[steps], total.mean()
        with np.errstate(divide="ignore", invalid="ignore"):
            truth = net.sum() / total[steps].sum()
            slips = {
                "The control is not taken off.": through[steps].sum() / total[steps].sum(),
                "That is a mean of ratios. Take means over pairs and steps first.": (
                    net / total[steps]
                ).mean(),
                "That takes all steps. Take the deciding ones.": (through - control).mean() / every,
                "Divide by the whole effect as it is.": net.sum() / (total - control)[steps].sum(),
            }
        if np.isfinite(truth):
            share = _number(found[attribute])
            _compare(share, float(truth), slips, within=5e-3, where=f"{attribute}: ")


# ------------------------------------------------------------------ 04: attribution


@exercise(
    "04_attribution",
    "completeness",
    "`by_head[attribute].by_step[:, step].sum(1)` is the same, to the gap of the table above.",
)
def completeness(page: Page, answer: object, sae: KSAE, h: Tensor, step: int) -> None:
    """The change of each class probability at a step, from no latents of h (n, *h) to all.

    The logits are affine in the latents, so the truth needs no map.
    """
    attribute = page.study.attributes[0]
    heads, classes = page.study.heads()[attribute], len(attribute.classes)
    with torch.no_grad():
        s = sae.latents(map_to_vectors(h)).double()  # (n, P, D)
        weight = map_to_vectors(heads.weight[step]).double()  # (classes, P, d)
        written = torch.einsum("npj,cpj->nc", s, weight @ sae.directions.double().T)
        bias = weight.sum(1) @ sae.decode(0 * s[0, 0].float()).double()
        constant = heads.bias[step].double()
        end, start = (constant + bias + written, (constant + bias)[None])
        raw, zero = heads.logits(h, step), constant[None]
    ends, starts, raws, zeros = (_double(z.softmax(-1)).mean(0) for z in (end, start, raw, zero))
    slips = {
        "That is h itself. The latents reach its reconstruction only.": raws - starts,
        "Where all latents are 0 the decoder still writes its bias: start there.": ends - zeros,
        "That is the change of the logits. The measure is the probability.": _double(
            written.mean(0)
        ),
        "That is the probability at the end. Subtract that at the start.": ends,
    }
    change = _numbers(answer, classes, f"{classes} numbers, one for each class")
    _compare(change, ends - starts, slips)


@exercise(
    "04_attribution",
    "the strongest three",
    "Attribution proposes and measurement decides: compare their places in the two orders.",
)
def strongest_three(
    page: Page, answer: object, trials: Mapping[tuple[str, int], Any], found: BiasFeatures
) -> None:
    """The candidates of class 0 that do most when each is moved alone, the strongest first."""
    settings, attribute = page.study.settings, page.study.attributes[0]
    scores, density = _double(found.scores[attribute][0]), _double(found.density)
    order = [j for j in np.argsort(-scores, kind="stable") if scores[j] > 0]
    few = settings.n_features + settings.n_features // 2
    tried = [int(j) for j in order if density[j] <= settings.max_density][:few]
    _needs(bool(tried), f"candidates for the class {page.study.attributes[0].classes[0]}")
    effect: Effect = trials[f"{found.measure}, other classes", 0][1]
    gains = dict(zip(tried, _double(effect.gains).mean(1), strict=True))
    best = sorted(gains.values(), reverse=True)[:BEST]
    what = f"a list of {len(best)} numbers of latents" if len(best) > 1 else "a list of one number"
    latents = [int(j) for j in _numbers(answer, len(best), what)]
    own = [gains.get(j, np.nan) for j in latents]
    if np.allclose(own, best, rtol=1e-4, atol=NOTHING) and len(set(latents)) == len(latents):
        return
    places = [tried.index(j) for j in sorted(gains, key=lambda j: -gains[j])][:BEST]
    if latents == places:
        raise Wrong("These are places in the list of candidates. Name the latents there.")
    if latents == tried[:BEST]:
        raise Wrong("These have the highest scores. Asked is what they do when they are moved.")
    if unknown := [j for j in latents if j not in gains]:
        raise Wrong(f"Latent {unknown[0]} is no candidate of this ranking and class.")
    if sorted(own) == sorted(best):
        raise Wrong("These are the latents, but in another order: the strongest comes first.")
    raise Wrong("Another candidate makes the class likelier than one of these.")


# ------------------------------------------------------------------ 05: interventions


@exercise(
    "05_interventions",
    "half of the way",
    "A response need not be a straight line: half of the dose is not half of the response.",
)
def half_of_the_way(page: Page, answer: object, doses: Mapping[float, Outcome]) -> None:
    """The least strength at which the share of the last class has risen half of the way."""
    attribute = page.study.attributes[0]
    last = len(attribute.classes) - 1
    betas = list(doses)
    shares = [_hot(seen.scored[attribute])[:, last].mean() for seen in doses.values()]
    _needs(shares[-1] > shares[0], "an edit that raises the share")
    middle = (shares[0] + shares[-1]) / 2
    end = next(i for i, share in enumerate(shares) if share >= middle)
    along = (middle - shares[end - 1]) / (shares[end] - shares[end - 1])
    truth = betas[end - 1] + along * (betas[end] - betas[end - 1])
    slips = {
        "That is half of the dose. The response is no straight line.": betas[-1] / 2,
        "That is a strength that was tried. Draw a line between two of them.": betas[end],
        "That is the share at which it happens. Asked is the strength.": middle,
    }
    if shares[0] < 0.5 <= shares[-1]:
        half = next(i for i, share in enumerate(shares) if share >= 0.5)
        part = (0.5 - shares[half - 1]) / (shares[half] - shares[half - 1])
        reached = betas[half - 1] + part * (betas[half] - betas[half - 1])
        slips["There the share is one half. Asked is half of the way that it goes."] = reached
    _compare(_number(answer), float(truth), slips, within=5e-3)


@exercise(
    "05_interventions",
    "what else moved",
    "Images may change to and fro: the shares then move less than the images.",
)
def what_else_moved(page: Page, answer: object, before: Outcome, after: Outcome) -> None:
    """The total variation of the class shares of every factor but the first attribute."""
    attribute = page.study.attributes[0]
    others = [factor for factor in before.scored if factor != attribute]
    _needs(bool(others), "another factor than the attribute")
    found = _table(answer, {f: f for f in others}, f"every factor but {attribute}")
    for factor in others:
        start, end = (_hot(seen.scored[factor]) for seen in (before, after))
        change = end.mean(0) - start.mean(0)
        soft = _double(after.scored[factor] - before.scored[factor]).mean(0)
        truth = float(change.clip(0).sum())  # what some classes gain the others lose
        slips = {
            "Every image that changes is counted twice: take half of the sum.": 2 * truth,
            "That is the share of the images that changed. Some change back.": float(
                (start != end).any(1).mean()
            ),
            "Take absolute values: the changes of all classes sum to 0.": 0.0,
            "That is a Euclidean distance. Total variation sums absolute values.": float(
                np.linalg.norm(change)
            ),
            "These are mean probabilities. Count the likeliest class of each image.": float(
                soft.clip(0).sum()
            ),
        }
        _compare(_number(found[factor]), truth, slips, where=f"{factor}: ")


# ------------------------------------------------------------------ 06: debiasing


def _shares_under(search: Search, arm: Arm) -> Array:
    """The class shares under an arm, from the unedited ones: (G, classes)."""
    base = np.asarray(search.base)
    moved = np.broadcast_to(np.asarray(arm.transitions), (*base.shape, base.shape[1]))
    shares: Array = np.einsum("gc,gcd->gd", base, moved)
    return shares


def _two_arms(search: Search, rare: int) -> list[Array]:
    """The shares (G, classes) without an edit, and under the arm that reaches most of a class."""
    paths = [arm for arm in search.arms if arm.target in (UNEDITED, rare)]
    under = [_shares_under(search, arm) for arm in paths]
    return [under[0], max(under, key=lambda shares: shares[:, rare].mean())]


@exercise(
    "06_debiasing",
    "two arms",
    "The share of a mixture lies on a line between its arms. Images that it leaves alone count.",
)
def two_arms(_page: Page, answer: object, search: Search, rare: int) -> None:
    """With which probability an image takes an arm, so that a class gets its equal share."""
    start, end = (float(shares[:, rare].mean()) for shares in _two_arms(search, rare))
    goal = 1 / np.shape(search.base)[1]
    _needs(end >= goal > start, "a rare class, and an arm that makes it common enough")
    table = [[[share, 1 - share]] for share in (start, end)]
    plan = planning.mixture(table, [0.0, 1.0], [goal, 1 - goal])
    slips = {
        "Images that the plan leaves alone are of the class too, as often as before.": goal / end,
        "That is what the class lacks. Divide by what the arm adds.": goal - start,
        "That is the share asked for. An image under the arm need not be of the class.": goal,
        "That is the probability of no edit.": 1 - float(plan.weights[1]),
    }
    _compare(_number(answer), float(plan.weights[1]), slips)


@exercise(
    "06_debiasing",
    "half and half",
    "Shares mix in a line and distances do not: two unfair halves may make a fair whole.",
)
def half_and_half(_page: Page, answer: object, search: Search, rare: int) -> None:
    """FD of a set whose every second image takes the arm that reaches most of a class."""
    two = _two_arms(search, rare)
    goal = 1 / two[0].shape[1]
    mixed = (two[0] + two[1]) / 2

    def distance(shares: Array) -> float:
        return float(np.sqrt(((shares - goal) ** 2).sum(1).mean()))

    slips = {
        "That is the mean of two distances. Mix the shares first.": sum(map(distance, two)) / 2,
        "That is FD without an edit.": distance(two[0]),
        "That is FD where all images take the arm.": distance(two[1]),
        "Take the distance under each prompt before the mean.": distance(mixed.mean(0)[None]),
        "That is a sum of absolute values. FD is a Euclidean distance.": float(
            np.abs(mixed - goal).sum(1).mean()
        ),
        "That is the square of FD.": distance(mixed) ** 2,
    }
    _compare(_number(answer), distance(mixed), slips)


# ------------------------------------------------------------------ 07: ablations


def _cosines(before: Outcome, pair: Sequence[Outcome]) -> list[Array]:
    """The cosine of every image with its unedited self, in the second CLIP: (n,) each."""
    one = _double(before.second)
    found = []
    for seen in pair:
        other = _double(seen.second)
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found.append((one * other).sum(1) / lengths)
    return found


@exercise(
    "07_ablations",
    "a paired interval",
    "Images of the same seed share what is easy about them, and the difference is free of it.",
)
def paired_interval(_page: Page, answer: object, before: Outcome, pair: Sequence[Outcome]) -> None:
    """The ends of the 95 % interval of a mean difference in cosine, the first set minus the other.

    Resamples may give them too, so they count to an eighth of the half-width.
    """
    sets = _cosines(before, pair)
    gain, n = sets[0] - sets[1], len(sets[0])
    middle, spread = gain.mean(), gain.std(ddof=1)
    alone = np.sqrt(sum(one.var(ddof=1) for one in sets))
    ends = np.sort(_numbers(answer, 2, "two numbers, the ends of an interval"))

    def is_interval(middle: float, half: float) -> bool:
        wanted = np.array([middle - half, middle + half])
        return bool(np.abs(ends - wanted).max() <= half / 8 + NOTHING)

    half = Z * spread / n**0.5
    if is_interval(middle, half):
        return
    slips = {
        "That takes the sets for independent. Subtract image by image first.": (
            middle,
            Z * alone / n**0.5,
        ),
        "That is where single images lie. A mean is surer by the root of n.": (middle, Z * spread),
        "That is one standard error to either side. A 95 % interval has 1.96.": (middle, half / Z),
        "The difference is the first set minus the second.": (-middle, half),
    }
    for slip, interval in slips.items():
        if is_interval(*interval):
            raise Wrong(slip)
    if not ends[0] < middle < ends[1]:
        raise Wrong("The mean difference does not lie within your interval.")
    raise Wrong(f"The interval is too {'wide' if np.ptp(ends) > 2 * half else 'narrow'}.")


@exercise(
    "07_ablations",
    "enough images",
    "An interval that holds 0 says that the images were too few. It does not say: no difference.",
)
def enough_images(_page: Page, answer: object, before: Outcome, pair: Sequence[Outcome]) -> None:
    """From how many images on the interval of the same difference would leave 0 out."""
    sets = _cosines(before, pair)
    gain, n = sets[0] - sets[1], len(sets[0])
    _needs(abs(gain.mean()) > NOTHING, "two rows whose images differ")
    ratio = Z * gain.std(ddof=1) / abs(gain.mean())  # the root of the number
    alone = sum(one.var(ddof=1) for one in sets)
    slips = {
        "An interval narrows with the root of n: square the ratio.": n**0.5 * ratio,
        "That is the ratio of the two for single images. Square it.": ratio,
        "That is one standard error. A 95 % interval has 1.96.": (ratio / Z) ** 2,
        "That takes the sets for independent. Subtract image by image first.": Z**2
        * alone
        / gain.mean() ** 2,
        "That is the number of images that there are.": n,
    }
    _compare(_number(answer), ratio**2, slips, within=0.05)


# ------------------------------------------------------------------ 08: several attributes


@exercise(
    "08_multi_attribute",
    "independent attributes",
    "Balance of each attribute does not balance the cells: how they hang together counts too.",
)
def independent_attributes(page: Page, answer: object, before: Outcome) -> None:
    """FD over all cells, if the attributes had the shares that they have, and were independent."""
    attributes = page.study.attributes
    _needs(len(attributes) > 1, "two attributes")
    shares = [_double(before.scored[a]).mean(0) for a in attributes]
    counted = [_hot(before.scored[a]).mean(0) for a in attributes]
    cells = metrics.joint(*[before.scored[a] for a in attributes]).mean(0)

    def distance(sets: Sequence[Array]) -> float:  # the sum of squares of a product is a product
        squares = np.prod([(p**2).sum() for p in sets])
        return float(np.sqrt(max(squares - 1 / len(cells), 0.0)))

    own = [float(np.linalg.norm(p - 1 / len(p))) for p in shares]
    slips = {
        "These are the cells as they are. Asked is: if attributes were independent.": float(
            np.linalg.norm(cells - 1 / len(cells))
        ),
        "That is the sum of the FDs. Make the shares of the cells first.": sum(own),
        "That adds the squares of the FDs. Make the shares of the cells first.": float(
            np.linalg.norm(own)
        ),
        "That is the product of the FDs. Multiply shares.": float(np.prod(own)),
        "These are counts of the likeliest class. Take the mean probabilities.": distance(counted),
    }
    _compare(_number(answer), distance(shares), slips)


@exercise(
    "08_multi_attribute",
    "interference",
    "Only the gain can be lost. What the class had before the edit is not the edit's to lose.",
)
def interference(
    page: Page,
    answer: object,
    unedited: Outcome,
    alone: Mapping[Aim, Outcome],
    together: Mapping[tuple[Aim, Aim], Outcome],
) -> None:
    """The share of its gain that the first edit of each pair loses beside the second."""

    def share(seen: Outcome, aim: Aim) -> float:
        return float(_hot(seen.scored[aim.attribute])[:, aim.target].mean())

    def spoken(aim: Aim) -> str:
        return f"{aim.attribute} {page.study.factors[aim.attribute][aim.target]}"

    shares = {
        (x, y): (share(unedited, x), share(alone[x], x), share(seen, x))
        for (x, y), seen in together.items()
    }
    gains = {pair: one - start for pair, (start, one, _) in shares.items()}
    asked = [pair for pair, gain in gains.items() if gain >= GAIN + NOTHING]
    _needs(bool(asked), f"a pair whose first edit alone gains {GAIN:.2f}")
    edge = [pair for pair, gain in gains.items() if abs(gain - GAIN) <= NOTHING]
    if isinstance(answer, Mapping):
        answer = {pair: value for pair, value in answer.items() if pair not in edge}
    named = {pair: " and ".join(map(spoken, pair)) for pair in asked}
    found = _table(answer, named, f"each pair whose first edit alone gains {GAIN:.2f}")
    for pair in asked:
        start, one, both = shares[pair]
        slips = {
            "That is a share of all images. Divide by the gain.": one - both,
            "That is lost of the share. Divide by what the edit has gained.": (one - both) / one,
            "That is what is left. Asked is what is lost.": (both - start) / (one - start),
        }
        truth, where = (one - both) / (one - start), f"{named[pair]}: "
        _compare(_number(found[pair]), truth, slips, where=where)


# ------------------------------------------------------------------ 09: the scorecard


def _judged(page: Page) -> list[tuple[bool, bool, float]]:
    """Of each statement in the result files whether it is of a claim, whether it holds, and how
    stable that is."""
    files = results.load_results(page.study.subject.name, page.study.settings.profile)
    files.pop(page.results.notebook, None)
    return [
        (verdict["claim"] is not None, verdict["holds"], float(verdict["stability"]))
        for file in files.values()
        for verdict in file["verdicts"]
        if verdict["stability"] is not None
    ]


@exercise(
    "09_scorecard",
    "met, but undecided",
    "A figure that meets its rule is no verdict yet: other images might not meet it.",
)
def met_but_undecided(page: Page, answer: object) -> None:
    """How many statements of claims are met by their figures, and undecided."""
    judged = _judged(page)
    own = [(met, sure >= rules.STABLE) for counts, met, sure in judged if counts]
    every = [(met, sure >= rules.STABLE) for _, met, sure in judged]
    slips = {
        "That counts statements which their figures do not meet.": sum(not sure for _, sure in own),
        "These are decided: they hold.": sum(met and sure for met, sure in own),
        "That counts all that are met, decided or not.": sum(met for met, _ in own),
        "That counts checks too, which belong to no claim.": sum(
            met and not sure for met, sure in every
        ),
    }
    _compare(_number(answer), sum(met and not sure for met, sure in own), slips, within=0.0)


@exercise(
    "09_scorecard",
    "verdicts that would turn",
    "Of many verdicts that are each nearly sure, some will turn. Nobody knows which.",
)
def verdicts_that_would_turn(page: Page, answer: object) -> None:
    """How many decided statements of claims would be judged otherwise on other images, on average.

    Each resample counts as a new set of images.
    """
    own = [sure for counts, _, sure in _judged(page) if counts]
    decided = np.array([sure for sure in own if sure >= rules.STABLE])
    _needs(bool(len(decided)), "a statement that is decided")
    slips = {
        "Stable is not certain: some resamples differ.": 0.0,
        "That takes each for as fragile as is allowed. Most are more stable.": (
            (1 - rules.STABLE) * len(decided)
        ),
        "That counts those that stay.": float(decided.sum()),
        "That is a mean. Asked is how many of them.": float(1 - decided.mean()),
        "That counts the undecided ones too.": float(sum(1 - sure for sure in own)),
    }
    _compare(_number(answer), float((1 - decided).sum()), slips, within=0.01)
