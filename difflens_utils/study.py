"""The study: a subject, its settings, and every stage, each computed once and then stored.

Opening a study computes nothing. A stage is computed when it is first asked for:

>>> import difflens_utils as dl
>>> study = dl.open("portraits", device="cpu", n_images=480)
>>> gender = study.attribute("gender")
>>> gender.classes, gender.uniform
(('female', 'male'), [0.5, 0.5])

The whole protocol takes three more lines, and minutes:

    method = dl.methods.rows(study, gender)[0]
    search = study.search(method, gender)
    fair = study.debias(search, gender.uniform, n=132)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from . import (
    attribution,
    debiasing,
    evaluators,
    features,
    ksae,
    methods,
    outcome,
    probes,
    recording,
    sampling,
)
from .analysis import factors, mediation, scoring
from .analysis.factors import FactorSet
from .analysis.mediation import Mediation
from .analysis.scoring import Scale
from .attribution import Attribution, Effect, Responses, Trial
from .debiasing import Debiased, Mixture, Search
from .features import BiasFeatures
from .ksae import KSAE, Dictionary, History, KSAEConfig, stored
from .methods import Method
from .metrics import Strata
from .outcome import Outcome
from .pages import PAGES, Page, results, sizes
from .probes import Fit, Heads
from .recording import Recording
from .runtime.errors import one_of
from .sampling import Edit
from .settings import Seeds, Settings
from .subjects import registry
from .subjects.attribute import Attribute
from .subjects.conditions import Prompt, Prompts
from .subjects.pipelines import Subject
from .worlds import World

BATCH = 2048  # vectors per step of the k-SAE's training
# The settings that a k-SAE depends on, beside the recording, and that features do beside those.
TRAINING = ("k", "latents", "train_steps", "seed")
Attributes = Sequence[str] | Mapping[str, str] | None  # or {attribute: class}
RECIPE = ("n_images", "steps", *TRAINING, *features.FINDING)  # the settings that features depend on


def open(subject: str | PathLike[str] = "portraits", **settings: Any) -> Study:
    """Opens a study of a subject with `Settings` of your own.

    The subject is one of `registry.SUBJECTS`, a folder with a pipeline, or a hub id. Raises
    ValueError, in one line, for an unknown subject or setting, and for a setting that cannot have
    such a value, before anything is computed.
    """
    for name in settings:
        one_of("setting", name, Settings.meanings())
    chosen = Settings(**settings)
    one_of("profile", chosen.profile, results.PROFILES)
    sizes.check_values(**chosen.numbers())
    return Study(registry.load(str(subject), chosen.device, module=chosen.module or None), chosen)


@dataclass(frozen=True)
class Study:
    """A subject, the model under study, with its settings, and all stages of the study of it.

    A stage that several notebooks need is computed by the first that calls it, and then stored.
    """

    subject: Subject
    settings: Settings = Settings()

    @cached_property
    def seeds(self) -> Seeds:
        """The seeds of every stream of randomness."""
        return Seeds.of(self.settings.seed)

    def page(self, notebook: str, **sizes: Any) -> Page:
        """The page of a notebook: its style, tables, figures, records and verdicts.

        `sizes` are the notebook's own parameters. Raises ValueError, in one line, for bad ones.
        """
        return PAGES.get(notebook, Page)(self, notebook, **sizes)

    # ------------------------------------------------------------------ what is studied

    @cached_property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes under study."""
        return tuple(Attribute(a, self.subject.classes(a)) for a in self.subject.attributes)

    def attribute(self, name: str) -> Attribute:
        """An attribute, or another factor that the evaluators read; ValueError otherwise."""
        return Attribute(name, self.subject.classes(name))

    @property
    def factors(self) -> dict[str, tuple[str, ...]]:
        """Everything that the evaluators read: {factor: classes}, the attributes first."""
        return self.subject.factors

    @property
    def world(self) -> World:
        """Where the training data came from: factors, planted shares, renders."""
        return self.subject.data

    @property
    def texts(self) -> list[str]:
        """The prompts that results are reported on; [""] for a model that reads none."""
        return self.subject.texts()

    @property
    def prompts(self) -> Prompts:
        """The prompts of every stage, the held-out ones among them."""
        return self.subject.prompts

    @property
    def modules(self) -> registry.Modules:
        """Every module that h could be taken from, with its shape; as text, a table."""
        return registry.describe(self.subject)

    def planted(self, factor: str, prompt: int | None = None) -> Tensor:
        """The planted shares of a factor, under one prompt or on average: (classes,)."""
        return self.subject.planted(factor, prompt)

    # ------------------------------------------------------------------ recording, k-SAE, probes

    def recording(self, stage: str = "evaluate") -> Recording:
        """Unedited images with h at every step, of the prompts of a stage.

        Stages are evaluate, learn and probe. Where a model takes no text there is one recording for
        all of them. Raises ValueError for another stage.
        """
        one_of("stage", stage, ("evaluate", "learn", "probe"))
        prompts = getattr(self.subject.prompts, stage)
        s = self.settings
        return recording.record(self.subject, s.n_images, self.seeds.main, s.steps, prompts)

    def balanced(self, attribute: str, each: int, most: int = 12_000) -> Recording:
        """A recording with up to `each` images of every class, as the labeller sees them.

        They are the first of unedited images of seeds that serve nothing else: of as many as the
        rarest class needs, by its share of the recording, and at `most` so many.
        """
        s, seed = self.settings, self.seeds.balanced_classes
        prompts = self.subject.prompts.learn
        counts = self.labels("learn")[attribute].bincount()
        least = int(counts[counts > 0].min())
        number = min(most, int(1.2 * each * s.n_images / least) + 1)
        images = outcome.draw(self.subject, None, number, seed, s.steps, prompts=prompts)
        seen = evaluators.read(self.subject.labeller, images, self.subject.device)
        labels = seen[attribute].argmax(-1)
        classes = range(len(self.subject.classes(attribute)))
        rows = torch.cat([(labels == c).nonzero().flatten()[:each] for c in classes])
        return recording.record(
            self.subject, number, seed, s.steps, prompts, rows=rows.sort().values
        )

    def ksae(self, step: int | None = None, **changes: Any) -> KSAE:
        """The k-SAE of all timesteps, or one that is trained on a single sampling step alone.

        `changes` of the settings in TRAINING, or of other options of `KSAEConfig`, make another;
        ValueError for anything else, and for a step that there is not.
        """
        return self._trained(changes, step)[0]

    def history(self, step: int | None = None, **changes: Any) -> History:
        """The curves of the training of the k-SAE that `ksae` gives for the same arguments."""
        return self._trained(changes, step)[1]

    def _trained(self, changes: Mapping[str, Any], step: int | None) -> tuple[KSAE, History]:
        s, options = self._changed(changes, TRAINING)
        rec = self.recording("learn")
        if step is not None:
            rec = rec.only(step)
        config = KSAEConfig(
            width=rec.width,
            latents=s.latents,
            k=s.k,
            steps=s.train_steps,
            seed=s.seed,
            **{"batch": BATCH, **options},
        )
        return stored.train(rec, config)

    def _changed(
        self, changes: Mapping[str, Any], known: Sequence[str]
    ) -> tuple[Settings, dict[str, Any]]:
        """The settings with changes of those `known`, and changes of other options of `KSAEConfig`.

        Raises ValueError for a change that would reach nothing, such as one of the recording.
        """
        names = {field.name for field in fields(KSAEConfig)} - {"width", "steps", *TRAINING}
        for name in changes:
            one_of("change", name, [*known, *sorted(names)])
        options = {name: value for name, value in changes.items() if name in names}
        own = {name: value for name, value in changes.items() if name in known}
        settings = replace(self.settings, **own)
        sizes.check_values(**settings.numbers())
        return settings, options

    def held_out(self) -> slice:
        """The rows of a recording on which no k-SAE was trained."""
        return stored.held_out(self.settings.n_images)

    def labels(self, stage: str) -> dict[str, Tensor]:
        """The labeller's classes of recorded images: {attribute: (n,)}."""
        seen = features.labelled(self.subject, self.recording(stage))
        return {a: seen[a] for a in self.subject.attributes}

    @cached_property
    def probes(self) -> dict[str, Fit]:
        """An h-classifier per attribute: linear heads, one per timestep, and how well they read."""
        rec, labels = self.recording("probe"), self.labels("probe")
        return {
            str(a): probes.fit(rec, labels[a], len(a.classes), seed=self.seeds.main)
            for a in self.attributes
        }

    def heads(self) -> dict[str, Heads]:
        """The h-classifiers of every attribute."""
        return {a: fit.heads for a, fit in self.probes.items()}

    # ------------------------------------------------------------------ attribution and features

    def attribution(
        self, dictionary: Dictionary, attributes: Sequence[str] | None = None
    ) -> dict[str, Attribution]:
        """Attribution of a dictionary's units to what the labeller sees: {attribute: scores}.

        Of a native subject it is to what the h-classifiers read.
        """
        support = attribution.Support.of(self.settings)
        names = tuple(map(str, _several(attributes) or self.subject.attributes))
        if (heads := self._reading(names)) is not None:
            return attribution.by_head(heads, dictionary, self.recording("learn"), support.n)
        return attribution.through_image(self.subject, dictionary, names, support)

    def features(self, attributes: Attributes = None, **changes: Any) -> BiasFeatures:
        """The bias features of every class of the attributes, or of one class of each.

        `attributes` are names, or {attribute: class}; `changes` are those of `ksae`, and of the
        settings in `features.FINDING`.
        """
        s, _ = self._changed(changes, (*TRAINING, *features.FINDING))
        attributes, recipe = _several(attributes), dict(changes)
        if isinstance(attributes, Mapping):
            for attribute, name in attributes.items():
                one_of(f"a class of {attribute}", name, self.subject.classes(attribute))
            recipe["classes"] = {str(a): str(c) for a, c in attributes.items()}
        trained = {name: value for name, value in changes.items() if name not in features.FINDING}
        sae, rec = self.ksae(**trained), self.recording("learn")
        heads = self._reading([str(a) for a in attributes or self.subject.attributes])
        found = features.find(self.subject, sae, rec, s, attributes, heads=heads)
        return replace(found, recipe=recipe)

    def _reading(self, names: Sequence[str]) -> dict[str, Heads] | None:
        """The h-classifiers that rank latents in place of the picture; None where it can do so."""
        if not self.subject.native:
            return None
        rec, seed = self.recording("probe"), self.seeds.main
        seen = features.labelled(self.subject, rec)
        sizes = {a: len(self.subject.classes(a)) for a in names}
        return {a: probes.fit(rec, seen[a], sizes[a], seed=seed).heads for a in names}

    def through_head(
        self, attribute: str, baseline: str = "zero", points: int = 32, rule: str = "gauss"
    ) -> Attribution:
        """Attribution of the k-SAE's latents to what the h-classifier reads (Eq. 6).

        It is integrated at `points` by a `rule`, on the first images of the recording.
        """
        rec = self.recording("learn")
        rows = torch.arange(min(len(rec), 4 * self.settings.n_support))
        heads = self.heads()[attribute]
        return attribution.through_head(heads, self.ksae(), rec, rows, baseline, points, rule)

    def class_means(self, dictionary: Dictionary, attribute: str) -> Tensor:
        """Mean activations of a dictionary's units per class: (classes, T, P, D)."""
        labels = {attribute: self.labels("learn")[attribute]}
        sizes = {attribute: len(self.subject.classes(attribute))}
        rec = self.recording("learn")
        return features.class_means(rec, dictionary, labels, sizes)[attribute]

    def measured(
        self,
        sae: KSAE,
        attribute: str,
        target: int,
        chosen: Tensor,
        unit: Tensor,
        again: bool = False,
    ) -> Effect:
        """What each of the `chosen` latents (N,) does to a class when it is moved alone.

        `unit` (T, P, N) says by how much each is moved, such as its class difference. Features were
        chosen by this, so what they do is measured `again`, on other images.
        """
        aim = attribution.Aim(str(attribute), target)
        return attribution.measured(self.subject, sae, aim, chosen, unit, self._trial(again))

    def _trial(self, again: bool = False) -> Trial:
        """How single latents are measured."""
        s = self.settings
        seed = self.seeds.moved if again else self.seeds.measured
        return Trial(s.n_measured, seed, s.steps, features.deciding_steps(s.steps))

    def responses(
        self, sae: KSAE, attribute: str, target: int, chosen: Tensor, unit: Tensor
    ) -> Responses:
        """`measured`, with what else each of the `chosen` latents does to the picture."""
        aim = attribution.Aim(str(attribute), target)
        moves = list(zip(chosen.tolist(), unit.unbind(-1), strict=True))
        return attribution.responses(self.subject, sae, aim, moves, self._trial())

    @cached_property
    def density(self) -> Tensor:
        """The share of recorded vectors on which each latent of the k-SAE fires: (D,)."""
        rec, steps = self.recording("learn"), range(self.settings.steps)
        return ksae.density(self.ksae(), (rec.vectors(step, slice(0, 256)) for step in steps))

    @cached_property
    def blocks(self) -> list[str]:
        """The blocks of the network, any of which could be opened in place of the bottleneck."""
        return registry.blocks(self.subject)

    def mediated(self, attribute: str, source: int, target: int, n: int) -> Mediation:
        """How far the predicted clean image follows when h is that of an image of another class.

        `source` and `target` are classes of the attribute, and `n` counts pairs of images. Nothing
        has to be recorded for it.
        """
        module = self.subject.module
        return self.swept(attribute, source, target, n, [module])[module]

    def swept(
        self,
        attribute: str,
        source: int,
        target: int,
        n: int,
        modules: Sequence[str] | None = None,
    ) -> dict[str, Mediation]:
        """`mediated` for every block of the network, or for some modules: {module: effect}.

        It costs less than asking for one after the other.
        """
        classes = self.subject.classes(attribute)
        return mediation.through_modules(
            self.subject,
            mediation.Exchange(str(attribute), classes[source], classes[target]),
            sampling.trajectory(self.subject, self.settings.steps).timesteps,
            self.blocks if modules is None else modules,
            n=n,
            seed=self.seeds.pairs,
        )

    def factor_set(self, n: int) -> FactorSet:
        """h of images with independent factors, at four steps of the generation.

        Images of a native subject cannot be noised. Its own are taken instead, `n` of them at most,
        with the factors that the labeller sees: these are as correlated as the model draws them.
        """
        steps = factors.steps_of(self.settings.steps)
        if self.subject.native:
            rec = self.recording()
            seen = features.labelled(self.subject, rec)
            h = torch.stack([rec.at(step, slice(0, n)).float() for step in steps])
            times = tuple(rec.timesteps[step] for step in steps)
            return FactorSet(h, {factor: labels[:n] for factor, labels in seen.items()}, times)
        timesteps = self.subject.times(self.settings.steps)
        chosen = tuple(timesteps[i] for i in steps)
        return factors.factor_set(self.subject, n, self.seeds.main, chosen)

    # ------------------------------------------------------------------ images

    def draw(
        self,
        edit: Edit | None = None,
        *,
        n: int,
        seed: int | None = None,
        asymmetric: bool = True,
        prompts: Sequence[Prompt] | None = None,
        label: str | None = None,
    ) -> Outcome:
        """`n` images under an edit, and what the evaluators say of them.

        The seed is by default that of reported images; images of equal seeds are paired. `label`
        names the progress bar.
        """
        _check_prompts(prompts)
        images = outcome.draw(
            self.subject,
            edit,
            n,
            self.seeds.report if seed is None else seed,
            self.settings.steps,
            asymmetric=asymmetric,
            prompts=prompts,
            progress=label,
        )
        return self.judge(images, prompts)

    def judge(self, images: Tensor, prompts: Sequence[Prompt] | None = None) -> Outcome:
        """What the evaluators say of images (n, 3, H, W), which took the prompts in turn."""
        _check_prompts(prompts)
        return outcome.judge(self.subject, images, len(prompts) if prompts else None)

    def renders(self, n: int, seed: int, do: Mapping[str, str] | None = None) -> Tensor:
        """Images of the data for the prompts of the evaluation, factors fixed: (n, 3, H, W).

        Raises ValueError for a factor that the data do not have.
        """
        for factor in do or {}:
            one_of("a factor of the data", factor, self.world.factors)
        return self.subject.renders(n, seed, do)

    # ------------------------------------------------------------------ debiasing

    @cached_property
    def base(self) -> dict[str, debiasing.Array]:
        """The unedited class shares under each prompt: {attribute: (G, classes)}."""
        return debiasing.base_shares(self.subject, self.recording().images)

    @property
    def counted(self) -> int:
        """On how many images the shares of each prompt in `base` were counted."""
        return self.settings.n_images // len(self.texts)

    def base_shares(
        self, n: int, seed: int, prompts: Sequence[Prompt]
    ) -> dict[str, debiasing.Array]:
        """The unedited class shares under other prompts: {attribute: (G, classes)}."""
        _check_prompts(prompts)
        images = outcome.draw(self.subject, None, n, seed, self.settings.steps, prompts=prompts)
        return debiasing.base_shares(self.subject, images, len(prompts))

    def recipe(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that features depend on, and the k-SAE that they are of.

        A stored search is found by them. `changes` are those of the settings, and what else a
        method was made with.
        """
        options = {f.name for f in fields(KSAEConfig)} | set(TRAINING)
        trained = {name: value for name, value in changes.items() if name in options}
        settings = {name: getattr(self.settings, name) for name in RECIPE}
        return settings | dict(changes) | {"ksae": self.ksae(**trained).fingerprint()}

    def search(self, method: Method, attribute: str) -> Search:
        """What each strength of a method does towards each class, on tuning seeds.

        Nothing is reported on these seeds. Raises ValueError for what is no attribute under study.
        """
        one_of("attribute", attribute, self.subject.attributes)
        s = self.settings
        arms = debiasing.search(
            self.subject,
            method,
            str(attribute),
            n=s.n_tuned,
            seed=self.seeds.tuning,
            steps=s.steps,
            recipe=self.recipe(method.recipe),
        )
        return Search(method, str(attribute), arms, self.base[attribute], self.counted)

    def retarget(self, search: Search, target: Sequence[float]) -> Search:
        """The search that serves another target: the same one, as a rule.

        H-Distribution aims at the distribution itself, so its strengths are tried anew, under a
        name that tells targets apart: by the last share if all others are equal, else by all.
        """
        method = search.method
        if method.network or not method.whole:
            return search
        heads = self.heads()[search.attribute]
        told = target[-1:] if len(set(target[:-1])) == 1 else target
        shares = " ".join(f"{share:g}" for share in told)
        guided = methods.guided(heads, target, f"{method.name} to {shares}")
        return self.search(guided, search.attribute).on(search.base, search.counted)

    def balance(self, method: Method, attribute: str, *, n: int) -> Debiased:
        """The whole protocol in one call: search, then `n` images with equal shares."""
        uniform = self.attribute(attribute).uniform
        return self.debias(self.search(method, attribute), uniform, n=n)

    def composed(self, searches: Sequence[Search], *, n: int) -> Outcome:
        """`n` images that shall have equal shares of several attributes, see `debiasing.composed`.

        There is one search for each attribute.
        """
        run = self._run(n, None, None)
        return debiasing.composed(self.subject, searches, run, self.seeds.joint)

    def debias(
        self,
        search: Search,
        target: Sequence[float],
        *,
        n: int,
        seed: int | None = None,
        group: int = 1,
        together: bool = False,
        prompts: Sequence[Prompt] | None = None,
    ) -> Debiased:
        """`n` images that shall have the class shares `target` under every prompt.

        A plan mixes the strengths of the search. Each prompt has one, or all share one
        (`together`). Each image draws its edit from the plan, or each `group` of images draws one.
        Raises ValueError for other `prompts` than the plans are for: `Search.on` takes the shares
        under others.
        """
        _check_prompts(prompts)
        planned = len(search.base)
        if prompts and len(prompts) != planned and not (together or search.method.network):
            raise ValueError(
                f"prompts must be {planned}, as the search's base has shares of, got "
                f"{len(prompts)}: take search.on(study.base_shares(...)[attribute])"
            )
        run = self._run(n, seed, prompts)
        return debiasing.debias(self.subject, search, target, run, group=group, together=together)

    def nearer(
        self,
        search: Search,
        target: Sequence[float],
        remaining: float,
        *,
        n: int,
        seed: int | None = None,
    ) -> Mixture:
        """`n` images by the cheapest plans that leave a share `remaining` of the unedited FD."""
        planned = debiasing.plans(search, target, search.method.network, remaining)
        return debiasing.carried_out(self.subject, search, planned, self._run(n, seed, None))

    def _run(self, n: int, seed: int | None, prompts: Sequence[Prompt] | None) -> debiasing.Run:
        seed = self.seeds.report if seed is None else seed
        before = self.draw(n=n, seed=seed, prompts=prompts)
        return debiasing.Run(before, seed, self.settings.steps, prompts)

    @cached_property
    def many(self) -> Outcome:
        """What the evaluators say of the recorded images."""
        return self.judge(self.recording().images)

    def scale(
        self,
        attribute: str,
        before: Outcome,
        target: Sequence[float] | None = None,
        of: Search | None = None,
    ) -> Scale:
        """What sets of the images `before` are measured by, which shall be fair in an attribute.

        They are measured against equal shares, or against a `target`. The classes are as frequent
        as in the recording, or as in the base `of` a search under other prompts. Distances are
        taken to images of the data, as they are and balanced, if the subject has data.
        """
        known = self.attribute(attribute)
        classes = before.scored[attribute].argmax(-1)
        base, counted = (of.base, of.counted) if of else (self.base[attribute], self.counted)
        strata = Strata.of(classes, base, counted, before.prompt)

        return Scale(
            self.subject,
            str(attribute),
            known.uniform if target is None else target,
            before,
            strata,
            lambda: self.references(attribute, len(classes)) if self.subject.world else {},
            lambda: self.many,
        )

    def references(self, attribute: str, n: int) -> dict[str, Tensor]:
        """Features of images of the data, as they are and with an attribute balanced.

        {"reference": (N, F), "balanced": (N, F)}: `n` images or more, and 2,048 but for what the
        classes do not divide. Raises ValueError for a factor that the data do not have.
        """
        classes = self.attribute(attribute).classes
        one_of("a factor of the data", attribute, self.world.factors)
        balanced: list[dict[str, str]] = [{str(attribute): c} for c in classes]
        of = partial(scoring.references, self.subject, n, self.seeds.reference)
        return {"reference": of([{}]), "balanced": of(balanced)}


def _several(attributes: Attributes) -> Attributes:
    """Attributes, of which one alone may be given as it is: its name is a sequence of letters."""
    return (attributes,) if isinstance(attributes, str) else attributes


def _check_prompts(prompts: Sequence[Prompt] | None) -> None:
    """Raises ValueError for an empty list: a model may have no prompts that were held out."""
    if prompts is not None and not prompts:
        raise ValueError("prompts must name at least one; this subject may have none of that kind")
