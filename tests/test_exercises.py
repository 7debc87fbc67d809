"""The exercises: solutions pass, usual mistakes do not, and each is told what is wrong.

The solutions and the checks are those of the notebooks. They run here on objects that are made by
hand, so that every answer differs from every mistake. `test_all_notebooks.py` runs them on whole
studies.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import nbformat
import numpy as np
import pytest
import tiny
import torch
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from tiny_studies import NOTEBOOKS
from torch import Tensor

import difflens_utils as dl
from difflens_utils.analysis.factors import FactorSet
from difflens_utils.analysis.mediation import Mediation
from difflens_utils.attribution import Aim, Effect
from difflens_utils.debiasing import UNEDITED, Arm, Search
from difflens_utils.methods import Method
from difflens_utils.metrics import NOTHING
from difflens_utils.outcome import Outcome
from difflens_utils.pages import PAGES, Page, exercises, results
from difflens_utils.pages.exercises import EXERCISES, Wrong
from difflens_utils.pages.polysemanticity import Polysemanticity
from difflens_utils.probes import Fit, Heads
from difflens_utils.recording import Recording
from difflens_utils.runtime import integrity
from difflens_utils.settings import Settings
from difflens_utils.subjects.attribute import Attribute
from workflow.execute import through_files

TITLE = re.compile(r"### Exercise (\d) · (.+)")
HINT = re.compile(r"<details>\n<summary>Hint</summary>\n\n(.+)\n\n</details>$", re.DOTALL)
NAMES = sorted(PAGES)  # the notebooks of the book; others need no exercises
LINES = 7  # of a solution, with its comment
Space = dict[str, Any]  # the names that a notebook knows


class Cells(NamedTuple):
    """The cells of one exercise."""

    task: nbformat.NotebookNode
    solution: nbformat.NotebookNode
    check: nbformat.NotebookNode


class Section(NamedTuple):
    """The last section of a notebook: what its exercises are about, and the exercises."""

    given: list[str]  # sources of code
    exercises: dict[str, Cells]  # by their titles


def section(notebook: str) -> Section:
    cells = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells
    start = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises\n"))
    own = cells[start:]
    tasks = [i for i, cell in enumerate(own) if TITLE.match(cell.source)]
    given = [cell.source for cell in own[: tasks[0]] if cell.cell_type == "code"]
    assert tasks[0] + 3 * len(tasks) == len(own), "something else stands between the exercises"
    found = [Cells(*own[i : i + 3]) for i in tasks]
    return Section(given, {TITLE.match(one.task.source)[2]: one for one in found})


# ------------------------------------------------------------------------------------------
# The cells


@pytest.mark.parametrize("notebook", NAMES)
def test_a_notebook_has_two_exercises_each_with_a_task_a_hint_a_solution_and_a_check(
    notebook: str,
) -> None:
    found = section(notebook).exercises
    assert [title.lower() for title in found] == [n.lower() for n in exercises.names(notebook)]
    assert len(found) == 2
    for number, (task, solution, check) in enumerate(found.values(), 1):
        name = exercises.names(notebook)[number - 1]
        heading, _, rest = task.source.partition("\n\n")
        hint = HINT.search(rest)
        assert TITLE.match(heading)[1] == str(number) and hint
        assert len(rest[: hint.start()].split()) > 20 and len(hint[1].split()) > 10
        assert {"hide-input", "solution"} == set(solution.metadata.tags)
        assert solution.metadata.jupyter.source_hidden and solution.metadata.cellView == "form"
        assert "answer" in solution.source and len(solution.source.splitlines()) <= LINES
        assert check.metadata.tags == ["check"]
        assert check.source.startswith(f'page.check("{name}", answer')
        assert "\n" not in check.source


def test_no_box_is_left() -> None:
    for notebook in NAMES:
        assert "Try it yourself" not in (NOTEBOOKS / f"{notebook}.ipynb").read_text()


def test_every_check_has_its_cases() -> None:
    assert set(WRONG) == set(EXERCISES) and len(EXERCISES) == 2 * len(NAMES)


# ------------------------------------------------------------------------------------------
# What the notebooks know when the exercises begin

GENDER = Attribute("gender", ("female", "male"))
AGE = Attribute("age", ("young", "adult", "old"))
FACTORS = {"gender": GENDER.classes, "age": AGE.classes, "glasses": ("absent", "present")}
STEPS, IMAGES = 4, 40


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scored(classes: Sequence[int], number: int) -> Tensor:
    """Class probabilities of images whose likeliest classes are given: 0.85, and the rest."""
    hot = torch.eye(number)[torch.as_tensor(classes)]
    return hot * (0.85 - 0.15 / (number - 1)) + 0.15 / (number - 1)


def outcome(classes: Mapping[str, Sequence[int]], second: Tensor | None = None) -> Outcome:
    by_factor = {f: scored(own, len(FACTORS[f])) for f, own in classes.items()}
    n = len(next(iter(classes.values())))
    flat = torch.zeros(n, 2)
    seen = flat if second is None else second / second.norm(dim=1, keepdim=True)
    prompt = torch.zeros(n, dtype=torch.int64)
    return Outcome(torch.zeros(n, 3, 2, 2), by_factor, by_factor, flat, flat, seen, prompt)


def of_gender(share: float, n: int = IMAGES) -> Outcome:
    """Images of which a share is of the last class."""
    return outcome({"gender": [int(i < round(share * n)) for i in range(n)]})


def bias() -> Space:
    planted = {"gender": torch.tensor([0.9, 0.1], dtype=torch.float64)}
    return {"recording": range(2000), "attribute": GENDER, "study": {"planted": planted.get}}


def polysemanticity() -> Space:
    rng = generator()
    labels = {f: torch.from_numpy(rng.integers(len(c), size=300)) for f, c in FACTORS.items()}
    gender, age, glasses = (y.numpy() for y in labels.values())
    noise = rng.normal(size=(300, 4)) / 3
    # The first tells little, the second one factor best, the third two factors, the fourth three.
    signal = np.stack([gender / 6, 6 * age, gender + glasses, gender - glasses + 0.7 * age], 1)
    neurons = torch.from_numpy(signal + noise).float()
    probe = FactorSet(torch.zeros(1, 300, 4), labels, (0.0,))
    reader = SimpleNamespace(study=SimpleNamespace(factors=FACTORS))
    scores = {"neurons of h": Polysemanticity.reading(reader, neurons, probe)}
    return {"neurons": neurons, "probe": probe, "scores": scores, "torch": torch}


def sparse() -> Space:
    sae = tiny.ksae(width=12, latents=32, k=6)
    h = torch.randn(200, 12) * torch.linspace(0.5, 3, 12) + 1
    saes = {3: tiny.ksae(width=12, latents=32, k=3), 6: sae}
    saes[3].W_dec *= 0.9
    with torch.no_grad():
        s = sae.latents(h)
    return {"sae": sae, "saes": saes, "middle": 6, "h": h, "s": s}


def probes() -> Space:
    rng = generator()
    labels = torch.tensor([0] * 24 + [1] * 8)
    correct = torch.from_numpy(rng.random((STEPS, 32)) < np.array([0.6, 0.7, 0.8, 0.9])[:, None])
    heads = Heads(torch.zeros(STEPS, 2, 3, 2, 2), torch.zeros(STEPS, 2))
    mediated = {}
    for attribute in (GENDER, AGE):
        total = torch.from_numpy(rng.uniform(0.2, 1, (STEPS, 6)))
        parts = (torch.from_numpy(rng.uniform(0, 1, (STEPS, 6))) for _ in range(2))
        mediated[attribute] = Mediation(total, *(part * total for part in parts))
    return {"first": GENDER, "fits": {GENDER: Fit(heads, correct, labels)}, "mediated": mediated}


def attribution() -> Space:
    rng = generator()
    h = rng.normal(size=(12, STEPS, 6, 2, 2)).astype(np.float16)
    recording = Recording("made", h, torch.zeros(12, 3, 4, 4), tuple(range(STEPS)))
    sae = dl.ksae.KSAE(dl.ksae.KSAEConfig(width=6, latents=40, k=3)).requires_grad_(False)
    sae.b_dec += 0.5
    heads = Heads(torch.randn(STEPS, 2, 6, 2, 2) / 3, torch.randn(STEPS, 2) / 3)
    rows = range(8)
    settings = Settings(steps=STEPS, n_features=6)
    scores, density = torch.linspace(2, -1, 40), torch.full((40,), 0.1)
    density[1] = 0.9
    chosen = dl.features.candidates(scores, density, settings)
    gains = torch.from_numpy(rng.permutation(len(chosen))[:, None] + rng.normal(size=(9, 5)) / 9)
    effect = Effect(gains.mean(1), gains.std(1), gains)
    return {
        "attribute": GENDER,
        "recording": recording,
        "sae": sae,
        "rows": rows,
        "by_head": {GENDER: dl.attribution.through_head(heads, sae, recording, rows)},
        "found": SimpleNamespace(scores={GENDER: [scores]}, density=density, measure="picture"),
        "trials": {("picture, other classes", 0): (scores[chosen], effect)},
        "study": {
            "settings": settings,
            "heads": lambda: {GENDER: heads},
            "recording": lambda _stage: recording,
        },
    }


def interventions() -> Space:
    rng = generator()
    doses = {0.0: 0.1, 1.0: 0.15, 2.0: 0.3, 3.0: 0.6, 4.0: 0.8}
    curve = {beta: of_gender(share) for beta, share in doses.items()}
    start = {f: rng.integers(len(c), size=IMAGES) for f, c in FACTORS.items()}
    end = {f: np.where(rng.random(IMAGES) < 0.5, 0, y) for f, y in start.items()}
    end["glasses"] = np.roll(start["glasses"], 1)
    end["glasses"][:4] = 1
    return {
        "attribute": GENDER,
        "last": 1,
        "betas": [1.0, 2.0, 3.0, 4.0],
        "ours": SimpleNamespace(name="DiffLens"),
        "curves": {(1, "DiffLens"): curve},
        "fresh": outcome(start),
        "final": {1: outcome(end)},
    }


def debiasing() -> Space:
    def arm(target: int, strength: float, stays: float, joins: float) -> Arm:
        moved = [[1 - joins, joins], [1 - stays, stays]]
        return Arm(target, strength, moved, NOTHING, NOTHING, [0.5, 0.5])

    arms = [arm(UNEDITED, 0, 1, 0), arm(0, 1, 0.4, 0), arm(1, 1, 1, 0.3), arm(1, 2, 0.9, 0.7)]
    base = np.array([[0.85, 0.15], [0.7, 0.3]])
    search = Search(SimpleNamespace(), "gender", arms, base, 100)
    return {"first": GENDER, "searches": {GENDER: {"DiffLens": search}}}


def ablations() -> Space:
    before, near = torch.randn(60, 8), 0.3 * torch.randn(60, 8)
    sets = [before + 0.5 * near, before + near + 0.1 * torch.randn(60, 8)]
    drawn = iter([outcome({"gender": [0] * 60}, second) for second in sets])
    balance = lambda *_args, **_options: SimpleNamespace(outcome=next(drawn))  # noqa: E731
    return {
        "first": GENDER,
        "n_final": 60,
        "ours": Method("DiffLens", lambda _target, _strength: None, (1.0,)),
        "before": outcome({"gender": [0] * 60}, before),
        "study": {"balance": balance},
    }


def multi() -> Space:
    rng = generator()
    gender = (rng.random(IMAGES) < 0.3).astype(int)
    age = np.where(rng.random(IMAGES) < 0.4, gender, rng.integers(3, size=IMAGES))
    x, y, z = Aim("gender", 1), Aim("age", 2), Aim("age", 0)
    unedited = of_gender(0.2)
    return {
        "before": outcome({"gender": gender, "age": age}),
        "unedited": unedited,
        "alone": {x: of_gender(0.8)},
        "together": {(x, y): of_gender(0.6), (x, z): of_gender(0.75)},
        "page": {"pairs": [(x, y), (x, z)]},
    }


def scorecard() -> Space:
    kinds = {("C1", True, 0.9): 5, ("C2", True, 0.99): 7, ("C1", True, 1.0): 4}
    kinds |= {("C1", False, 0.7): 3, ("C2", False, 0.97): 2, (None, True, 0.9): 1}
    verdicts = [
        {"claim": claim, "holds": holds, "stability": stability}
        for (claim, holds, stability), times in kinds.items()
        for _ in range(times)
    ]
    folder = results.results_folder("made", "quick")
    folder.mkdir(parents=True)
    for name, judged in (("00_bias", verdicts), ("09_scorecard", verdicts[:5])):
        sealed = integrity.sealed({"verdicts": judged})
        (folder / f"{name}.json").write_text(sealed, encoding="utf-8")
    statements = [SimpleNamespace(verdict=SimpleNamespace(**verdict)) for verdict in verdicts]
    return {"page": {"statements": statements}}


MADE: dict[str, Callable[[], Space]] = dict(
    zip(
        NAMES,
        (
            bias,
            polysemanticity,
            sparse,
            probes,
            attribution,
            interventions,
            debiasing,
            ablations,
            multi,
            scorecard,
        ),
        strict=True,
    )
)


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Space]:
    """What gives the names that a notebook knows, with a page and a study made by hand."""
    monkeypatch.setattr(results, "ROOT", tmp_path)

    def made(notebook: str) -> Space:
        space = MADE[notebook]()
        about = {"attributes": (GENDER, AGE), "factors": FACTORS, "settings": Settings(steps=STEPS)}
        about |= {"subject": SimpleNamespace(name="made")} | space.pop("study", {})
        if notebook == "09_scorecard":
            about["settings"] = Settings(profile="quick")
        study = SimpleNamespace(**about)
        page = SimpleNamespace(
            study=study,
            results=SimpleNamespace(notebook=notebook),
            **space.pop("page", {}),
        )
        page.check = partial(Page.check, page)
        space |= {"dl": dl, "page": page, "study": study}
        for source in section(notebook).given:
            exec(source, space)  # noqa: S102
        return space

    return made


def cells_of(notebook: str, name: str) -> Cells:
    found = section(notebook).exercises
    return next(cells for title, cells in found.items() if title.lower() == name.lower())


def told(notebook: str, name: str, space: Space, answer: object) -> str:
    """What the notebook's check says of an answer that is not right."""
    space["answer"] = answer
    with pytest.raises(Wrong) as error:
        exec(cells_of(notebook, name).check.source, space)  # noqa: S102
    line = str(error.value)
    assert "\n" not in line and line.startswith("Not yet. ") and line.endswith(".")
    assert error.value._render_traceback_() == [line]
    return line


# ------------------------------------------------------------------------------------------
# Answers

# By exercise, what is said, and of which answer. The answers are computed after the solution.
WRONG: dict[tuple[str, str], dict[str, str]] = {
    ("00_bias", "a fair model"): {
        "Chance moves": "0",
        "one share": "(p * (1 - p) / n) ** 0.5",
        "mean of the square": "answer**2",
        "the mean of FD": "dl.metrics.expected_fd(attribute.uniform, n, seed=7).value",
        "root of n": "answer / n**0.5",
        "too large": "1.0",
    },
    ("00_bias", "the rarest class"): {
        "10 percentage points": "1.96**2 * p * (1 - p) / 0.1**2",
        "one standard error": "answer / 1.96**2",
        "commonest class": "(1.96 / 0.1) ** 2 * p / (1 - p)",
        "square the ratio": "answer**0.5",
        "too small": "100",
    },
    ("01_polysemanticity", "AUROC by hand"): {
        "the image without the class is higher": "1 - answer",
        "mean of the others": "(x[inside] > x[~inside].mean()).float().mean()",
        "too large": "0.99",
    },
    ("01_polysemanticity", "two factors"): {
        "one factor best of all": "int(scores['neurons of h'].max(1).argmax())",
        "highest mean": "3",
        "Another neuron": "0",
        "a whole number from 0 to 3": "4",
        "the number of a neuron": "0.93",
    },
    ("02_ksae", "half of the latents"): {
        "all of the active latents": (
            "(h - sae(h)).square().sum() / (h - h.mean(0)).square().sum()"
        ),
        "the smaller half": (
            "(h - sae.decode(s * (s < least))).square().sum() / (h - h.mean(0)).square().sum()"
        ),
        "variation of h around its mean": "(h - shortened).square().sum() / h.square().sum()",
        "trained with half": "(h - saes[3](h)).square().sum() / (h - h.mean(0)).square().sum()",
        "too large": "99",
    },
    ("02_ksae", "principal components"): {
        "the components explain": "1 - answer",
        "square of its singular value": "sizes[middle:].sqrt().sum() / sizes.sqrt().sum()",
        "one component": "sizes[middle] / sizes.sum()",
        "too small": "answer / 50",
    },
    ("03_probes", "beyond the majority"): {
        "accuracy alone": "fit.correct[-1].float().mean()",
        "minus chance": "fit.accuracy(-1).value - 0.5",
        "is balanced here": "fit.accuracy(-1).value - majority",
        "right more often": "fit.correct[-1].float().mean() - 0.5",
        "the first step": "fit.correct[0].float().mean() - majority",
        "sign": "-answer",
    },
    ("03_probes", "beyond the control"): {
        "gender: The control is not": (
            "{a: m.through[steps].mean() / m.total[steps].mean() for a, m in mediated.items()}"
        ),
        "mean of ratios": (
            "{a: ((m.through - m.control) / m.total)[steps].mean() for a, m in mediated.items()}"
        ),
        "deciding ones": (
            "{a: (m.through - m.control).mean() / m.total.mean() for a, m in mediated.items()}"
        ),
        "the whole effect as it is": (
            "{a: (m.through - m.control)[steps].mean() / (m.total - m.control)[steps].mean()"
            " for a, m in mediated.items()}"
        ),
        "lacks age": "{'gender': answer['gender']}",
        "has tone": "answer | {'tone': 1.0}",
        "age: The number is too large": "answer | {'age': 9.0}",
        "a dictionary": "0.3",
    },
    ("04_attribution", "completeness"): {
        "h itself": "(study.heads()[attribute].logits(h, step).softmax(-1) - start).mean(0)",
        "writes its bias": (
            "(end - study.heads()[attribute].logits(0 * h, step).softmax(-1)).mean(0)"
        ),
        "change of the logit": (
            "(study.heads()[attribute].logits(maps[1], step)"
            " - study.heads()[attribute].logits(maps[0], step)).mean(0)"
        ),
        "at the end": "end.mean(0)",
        "sign": "-answer",
        "One of the numbers is too large": "answer + torch.tensor([0, 0.1])",
        "2 numbers, one for each class": "answer[0]",
    },
    ("04_attribution", "the strongest three"): {
        "places in the list": "effect.mean.argsort(descending=True)[:3].tolist()",
        "highest scores": "chosen[:3].tolist()",
        "no candidate": "[*answer[:2], 39]",
        "in another order": "answer[::-1]",
        "Another candidate": "[*answer[:2], int(chosen[effect.mean.argmin()])]",
        "a list of 3 numbers": "answer[:2]",
    },
    ("05_interventions", "half of the way"): {
        "half of the dose": "betas[-1] / 2",
        "that was tried": "3.0",
        "Asked is the strength": "0.45",
        "share is one half": "8 / 3",
        "too large": "4.0",
    },
    ("05_interventions", "what else moved"): {
        "counted twice": "{f: 2 * shift for f, shift in answer.items()}",
        "images that changed": (
            "{f: (fresh.scored[f].argmax(1) != final[last].scored[f].argmax(1)).float().mean()"
            " for f in answer}"
        ),
        "absolute values": "{f: 0.0 for f in answer}",
        "Euclidean": (
            "{f: np.linalg.norm(dl.metrics.shares(final[last].scored[f])"
            " - dl.metrics.shares(fresh.scored[f])) for f in answer}"
        ),
        "mean probabilities": (
            "{f: (final[last].scored[f].mean(0) - fresh.scored[f].mean(0)).abs().sum() / 2"
            " for f in answer}"
        ),
        "lacks age": "{'glasses': 0.1}",
        "has gender": "answer | {'gender': 0.3}",
    },
    ("06_debiasing", "two arms"): {
        "leaves alone": "0.5 / end",
        "what the arm adds": "0.5 - start",
        "the share asked for": "0.5",
        "no edit": "1 - answer",
        "too large": "3",
    },
    ("06_debiasing", "half and half"): {
        "mean of two distances": (
            "sum((((a.shares(search.base) - 0.5) ** 2).sum(1).mean()) ** 0.5"
            " for a in (no_edit, strong)) / 2"
        ),
        "without an edit": "((search.base - 0.5) ** 2).sum(1).mean() ** 0.5",
        "all images take": "((strong.shares(search.base) - 0.5) ** 2).sum(1).mean() ** 0.5",
        "under each prompt": "((mixed.mean(0) - 0.5) ** 2).sum() ** 0.5",
        "absolute values": "abs(mixed - 0.5).sum(1).mean()",
        "square of FD": "answer**2",
    },
    ("07_ablations", "a paired interval"): {
        "independent": (
            "[gain.mean() + sign * 1.96 * (2 * gain.var()"
            " + sum((o.second * before.second).sum(1).var() for o in pair) - 2 * gain.var())"
            " ** 0.5 / 60**0.5 for sign in (-1, 1)]"
        ),
        "single images": "[gain.mean() - 1.96 * gain.std(), gain.mean() + 1.96 * gain.std()]",
        "one standard error": "[gain.mean() - error, gain.mean() + error]",
        "the first set minus": "[-answer[1], -answer[0]]",
        "does not lie within": "[5.0, 6.0]",
        "too wide": "[-9.0, 9.0]",
        "too narrow": "[gain.mean() - error / 9, gain.mean() + error / 9]",
        "two numbers": "gain.mean()",
    },
    ("07_ablations", "enough images"): {
        "square the ratio": "60**0.5 * answer**0.5",
        "Square it": "answer**0.5",
        "one standard error": "answer / 1.96**2",
        "independent": (
            "1.96**2 * sum((o.second * before.second).sum(1).var() for o in pair)"
            " / gain.mean() ** 2"
        ),
        "that there are": "60",
    },
    ("08_multi_attribute", "independent attributes"): {
        "as they are": (
            "np.linalg.norm(dl.metrics.joint(before.scored['gender'], before.scored['age'])"
            ".mean(0) - 1 / 6)"
        ),
        "sum of the FDs": "sum(np.linalg.norm(p[0] - 1 / p.shape[1]) for p in shares)",
        "adds the squares": (
            "sum(np.linalg.norm(p[0] - 1 / p.shape[1]) ** 2 for p in shares) ** 0.5"
        ),
        "product of the FDs": "np.prod([np.linalg.norm(p[0] - 1 / p.shape[1]) for p in shares])",
        "counts": (
            "np.linalg.norm(np.outer(*[dl.metrics.shares(before.scored[a])"
            " for a in ('gender', 'age')]) - 1 / 6)"
        ),
    },
    ("08_multi_attribute", "interference"): {
        "gender male and age old: That is a share of all": "{pair: 0.2 for pair in answer}",
        "lost of the share": "{pair: 0.25 for pair in answer}",
        "what is left": "{pair: 1 - lost for pair, lost in answer.items()}",
        "lacks gender male and age young": "{page.pairs[0]: answer[page.pairs[0]]}",
        "does not belong": "answer | {'gender': 1.0}",
        "a dictionary": "0.5",
    },
    ("09_scorecard", "met, but undecided"): {
        "do not meet": "sum(v.stability < 0.95 for v in verdicts)",
        "they hold": "sum(v.holds and v.stability >= 0.95 for v in verdicts)",
        "decided or not": "sum(v.holds for v in verdicts)",
        "counts checks": (
            "sum(o.verdict.holds and o.verdict.stability < 0.95 for o in page.statements)"
        ),
        "too large": "1000",
    },
    ("09_scorecard", "verdicts that would turn"): {
        "not certain": "0",
        "as fragile as is allowed": "0.05 * sum(v.stability >= 0.95 for v in verdicts)",
        "those that stay": "sum(v.stability for v in verdicts if v.stability >= 0.95)",
        "how many": "answer / sum(v.stability >= 0.95 for v in verdicts)",
        "undecided ones": "sum(1 - v.stability for v in verdicts)",
    },
}
NO_ANSWERS = ("text", None, ..., object(), True, float("nan"), float("inf"), [], [[1], [2, 3]])
EVERY = [pytest.param(*key, id=" ".join(key)) for key in EXERCISES]


@pytest.fixture
def solved(known: Callable[[str], Space]) -> Callable[[str, str], Space]:
    """What gives the names that a notebook knows once one of its solutions has run."""

    def made(notebook: str, name: str) -> Space:
        space = known(notebook)
        exec(cells_of(notebook, name).solution.source, space)  # noqa: S102
        return space | {"np": np, "torch": torch}

    return made


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_the_solution_is_right(
    notebook: str,
    name: str,
    solved: Callable[[str, str], Space],
    capsys: pytest.CaptureFixture[str],
) -> None:
    space = solved(notebook, name)
    capsys.readouterr()
    exec(cells_of(notebook, name).check.source, space)  # noqa: S102
    assert capsys.readouterr().out == f"Right. {EXERCISES[notebook, name].lesson}\n"


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_a_usual_mistake_is_told_what_it_is(
    notebook: str, name: str, solved: Callable[[str, str], Space]
) -> None:
    space = solved(notebook, name)
    for says, expression in WRONG[notebook, name].items():
        answer = eval(expression, space)  # noqa: S307
        line = told(notebook, name, dict(space), answer)
        assert says in line, expression


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_what_is_no_answer_is_told_so(
    notebook: str, name: str, solved: Callable[[str, str], Space]
) -> None:
    space = solved(notebook, name)
    form = space["answer"]
    for answer in (*NO_ANSWERS, torch.zeros(3, 3), {"a": 1.0}):
        assert "`answer`" in told(notebook, name, space, answer), answer
        if isinstance(form, dict):
            inside = {key: answer for key in form}
            assert "`answer`" in told(notebook, name, space, inside), answer


@pytest.mark.parametrize(("notebook", "name"), EVERY)
def test_a_right_answer_may_have_any_form(
    notebook: str, name: str, solved: Callable[[str, str], Space]
) -> None:
    space = solved(notebook, name)
    answer = space["answer"]
    if isinstance(answer, dict):
        forms = [{key: form(value) for key, value in answer.items()} for form in (float, np.array)]
    else:
        numbers = np.ravel(np.asarray(answer, dtype=np.float64))
        forms = [numbers, torch.from_numpy(numbers), numbers.tolist()]
        forms += [numbers.item()] if numbers.size == 1 else []
    for form in forms:
        space["answer"] = form
        exec(cells_of(notebook, name).check.source, space)  # noqa: S102


# ------------------------------------------------------------------------------------------
# Studies that are not for an exercise

NO_EFFECT = Effect(torch.empty(0), torch.empty(0), torch.empty(0, 5))
LACKING: dict[tuple[str, str], tuple[str, Callable[[Space], object]]] = {
    ("00_bias", "the rarest class"): (
        "a class whose planted share is not 0",
        lambda space: space["study"].__dict__.update(planted=lambda _: torch.tensor([1.0, 0.0])),
    ),
    ("01_polysemanticity", "AUROC by hand"): (
        "images of the class and others",
        lambda space: space["probe"].labels["gender"].zero_(),
    ),
    ("01_polysemanticity", "two factors"): (
        "two factors",
        lambda space: [space["probe"].labels.pop(name) for name in ("age", "glasses")],
    ),
    ("02_ksae", "half of the latents"): (
        "two active latents",
        lambda space: space.update(sae=tiny.ksae(width=12, latents=32, k=1)),
    ),
    ("02_ksae", "principal components"): (
        "more channels",
        lambda space: space.update(middle=12),
    ),
    ("03_probes", "beyond the control"): (
        "a model whose h can be exchanged",
        lambda space: space["mediated"].clear(),
    ),
    ("04_attribution", "the strongest three"): (
        "candidates for the class female",
        lambda space: (
            space["found"].scores[GENDER][0].fill_(-1),
            space["trials"].update({("picture, other classes", 0): (None, NO_EFFECT)}),
        ),
    ),
    ("05_interventions", "half of the way"): (
        "an edit that raises the share",
        lambda space: space["curves"][1, "DiffLens"].update({4.0: of_gender(0.0)}),
    ),
    ("05_interventions", "what else moved"): (
        "another factor",
        lambda space: [space["fresh"].scored.pop(name) for name in ("age", "glasses")],
    ),
    ("06_debiasing", "two arms"): (
        "an arm that makes it common enough",
        lambda space: space["search"].arms.pop(),
    ),
    ("07_ablations", "enough images"): (
        "two rows whose images differ",
        lambda space: space["pair"].__setitem__(1, space["pair"][0]),
    ),
    ("08_multi_attribute", "independent attributes"): (
        "two attributes",
        lambda space: space["study"].__dict__.update(attributes=(GENDER,)),
    ),
    ("08_multi_attribute", "interference"): (
        "a pair whose first edit alone gains 0.10",
        lambda space: (space["page"].pairs.clear(), space["together"].clear()),
    ),
    ("09_scorecard", "verdicts that would turn"): (
        "a statement that is decided",
        lambda _space: results.results_folder("made", "quick").joinpath("00_bias.json").unlink(),
    ),
}


@pytest.mark.parametrize(("notebook", "name"), LACKING)
def test_a_study_that_is_not_for_an_exercise_is_told_what_it_lacks(
    notebook: str,
    name: str,
    known: Callable[[str], Space],
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs, take = LACKING[notebook, name]
    space = known(notebook)
    take(space)
    cells = cells_of(notebook, name)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a solution that divides by 0
        exec(cells.solution.source, space)  # noqa: S102
    exec(cells.check.source, space)  # noqa: S102
    line = capsys.readouterr().out
    assert line.startswith("This exercise needs ") and needs in line and line.count("\n") == 1


# ------------------------------------------------------------------------------------------
# How it is said


def test_an_exercise_that_there_is_not_is_refused(known: Callable[[str], Space]) -> None:
    with pytest.raises(ValueError, match="^exercise of 00_bias must be one of a fair model, the"):
        known("00_bias")["page"].check("a fair modell", 0.1)


def test_a_wrong_answer_ends_a_notebook_and_shows_one_line() -> None:
    source = "from difflens_utils.pages.exercises import Wrong\nraise Wrong('Take the root.')"
    notebook = new_notebook(cells=[new_code_cell(source)])
    with pytest.raises(CellExecutionError):
        NotebookClient(
            notebook,
            timeout=600,
            kernel_name="python3",
            kernel_manager_class=through_files(AsyncKernelManager),
        ).execute()
    (error,) = [o for o in notebook.cells[0].outputs if o.output_type == "error"]
    assert error.ename == "Wrong" and error.traceback == ["Not yet. Take the root."]
