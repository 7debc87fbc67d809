"""Subjects: what is studied. A diffusers pipeline, the module to look into, what it is asked for, and the evaluators that judge it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from . import (
    fairface,
    guided_diffusion,
    hooks,
    keys,
    labelled,
    occupations,
    opening,
    pipelines,
    portraits,
    weights,
)
from .declaration import Asked, Stages
from .errors import one_of
from .evaluators import AttributeNet, Clip
from .paper import TABLE_1, TABLE_2, Table
from .pipelines import MODELS, Judges, Prompt, Prompts, Subject
from .precision import fast_dtype, pick_device

# ---------------------------------------------------------------------------------------------------------------------
# What texts are asked for

_EVALUATED = ("doctor", "firefighter", "nurse", "receptionist")  # the paper's
_LEARNED = (*_EVALUATED, "builder", "farmer", "waiter", "athlete")  # the others are held out


def _occupation_prompts(classes: Mapping[str, Sequence[str]]) -> Prompts:
    """Those of the paper: "a face of a {occupation}", "a face photo of a(an) {class} {occupation}", "a {gender} {age} {tone} person"."""
    neutral = {
        o: Prompt(occupations.neutral(o), {"occupation": o}) for o in occupations.OCCUPATIONS
    }
    learn = tuple(
        Prompt(
            f"a face photo of {occupations.phrase({a: c}, o)}",
            {"occupation": o, a: c},
            f"a face photo of {occupations.phrase({}, o)}",
        )
        for a, names in classes.items()
        for c in names
        for o in _LEARNED
    )
    probe = tuple(
        Prompt(occupations.phrase(named), {"occupation": "none", **named})
        for named in (
            dict(zip(classes, v, strict=True)) for v in itertools.product(*classes.values())
        )
    )
    return Prompts(
        tuple(neutral[o] for o in _EVALUATED),
        learn,
        probe,
        tuple(p for o, p in neutral.items() if o not in _LEARNED),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Portraits, which ship with their evaluators

PORTRAITS = "Fréchet distance (PortraitNet)", "CLIP-I (PortraitCLIP)"


def portrait_evaluators(
    device: torch.device, networks: Path = MODELS / "evaluators", clip: Path = MODELS / "clip"
) -> Judges:
    """Labeller, scorer and CLIP of a world of portraits."""
    return (
        *(AttributeNet.load(networks / name).to(device) for name in ("labeller", "scorer")),
        Clip.load(clip).to(device),
    )


def _portraits(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    return pipelines.read(
        "portraits",
        folder or MODELS / "portraits",
        device,
        dtype,
        attributes=portraits.ATTRIBUTES,
        evaluators=lambda: portrait_evaluators(device),
        world=portraits.WORLD,
        paper=TABLE_1,
        measures=PORTRAITS,
    )


def _portraits_t2i(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    own, classes = (
        MODELS / "portraits-t2i",
        {a: occupations.WORLD.factors[a].classes for a in occupations.ATTRIBUTES},
    )
    return pipelines.read(
        "portraits-t2i",
        folder or own,
        device,
        dtype,
        attributes=occupations.ATTRIBUTES,
        evaluators=lambda: portrait_evaluators(device, own / "evaluators", own / "clip"),
        world=occupations.WORLD,
        prompts=_occupation_prompts(classes),
        paper=TABLE_2,
        measures=PORTRAITS,
        guidance=2.0,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Labelled images, with a model beside them


def about(folder: Path, device: torch.device) -> dict[str, object]:
    """What `study.yml` beside a pipeline says of it, as fields of `Subject`.

    That is: its data, who judges its images, and what it is asked for. Nothing without that file:
    the pipeline can be described and sampled, and not judged. Raises ValueError, in one line, for a
    file that will not do (`labelled.declared`), and for prompts or guidance beside a pipeline that
    knows none.
    """
    path = folder / "study.yml"
    if not path.is_file():
        return {}
    study = labelled.declared(folder)
    fields = {
        "attributes": study.world.attributes,
        "world": study.world,
        "evaluators": lambda: _judges(study, device),
    }
    knows = _knows(folder)
    for entry, lacks in (
        ("prompts", "reads neither texts nor classes"),
        ("guidance", "has no classifier-free guidance"),
    ):
        if getattr(study, entry) is not None and entry not in knows:
            raise ValueError(f"{path}: {entry} must not be there: the pipeline beside it {lacks}")
    if study.prompts is not None:
        fields["prompts"] = _prompts(study.prompts, study.world, "texts" in knows)
    if study.guidance is not None:
        fields["guidance"] = study.guidance
    return fields


def _knows(folder: Path) -> frozenset[str]:
    """Which of texts, prompts (texts or names of classes) and guidance a pipeline knows.

    By its own files. Whether those are intact is for `pipelines.read` to say.
    """
    try:
        parts = json.loads((folder / "model_index.json").read_text())
        if "text_encoder" in parts:
            return frozenset({"texts", "prompts", "guidance"})
        if "transformer" in parts:  # a DiT
            return frozenset({"prompts", "guidance"})
        network = json.loads((opening.place(folder, "unet") / "config.json").read_text())
    except (OSError, ValueError):
        return frozenset()
    return frozenset({"prompts"} if network.get("num_class_embeds") else ())


def _prompts(asked: Stages, world: labelled.LabelledImages, texts: bool) -> Prompts:
    """The prompts of a study. Those that it does not name are made of the evaluation's.

    To learn from, each with each class of an attribute behind it ("a cup, red"); for the
    h-classifiers, with each combination. Names of classes are left as they are.
    """

    def some(stage: Sequence[Asked]) -> tuple[Prompt, ...]:
        return tuple(Prompt(p.text, p.given, p.without) for p in stage)

    evaluate = some(asked.evaluate)
    learn, probe = evaluate, evaluate
    if texts:
        classes = {a: world.classes[a] for a in world.attributes}
        each = [{a: c} for a, names in classes.items() for c in names]
        pairs = [
            dict(zip(classes, names, strict=True)) for names in itertools.product(*classes.values())
        ]
        learn, probe = (
            tuple(_naming(p, named, classes) for named in every for p in evaluate)
            for every in (each, pairs)
        )
    return Prompts(
        evaluate,
        some(asked.learn or ()) or learn,
        some(asked.probe or ()) or probe,
        some(asked.held_out),
    )


def _naming(
    prompt: Prompt, named: Mapping[str, str], classes: Mapping[str, Sequence[str]]
) -> Prompt:
    """A prompt with the names of some classes behind it: "a cup, red", or, where red is a class of
    two attributes, "a cup, colour red".
    """
    count = Counter(name for names in classes.values() for name in names)
    words = [name if count[name] == 1 else f"{a} {name}" for a, name in named.items()]
    return Prompt(", ".join([prompt.text, *words]), dict(prompt.given) | dict(named), prompt.text)


def _judges(study: labelled.Study, device: torch.device) -> Judges:
    """The evaluators of a study.

    Raises ValueError, in one line, for networks that were trained before its table or the order of
    its classes changed: the shares of one class would be read as those of another.
    """
    *networks, clip = portrait_evaluators(device, study.evaluators, study.clip)
    for name, network in zip(("labeller", "scorer"), networks, strict=True):
        for factor in dict.fromkeys((*study.world.classes, *network.factors)):
            read, labelled_as = (
                ", ".join(c.get(factor, ())) or "nothing"
                for c in (network.factors, study.world.classes)
            )
            if read != labelled_as:
                raise ValueError(
                    f"{study.evaluators / name} reads {factor} as {read}, and the study says "
                    f"{labelled_as}; train it again (models/evaluators/train.py)"
                )
    return (*networks, clip)


def _digits(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    folder = folder or MODELS / "digits"
    return pipelines.read("digits", folder, device, dtype, **about(folder, device))


# ---------------------------------------------------------------------------------------------------------------------
# Photographs: the paper's subjects, whose weights and evaluators the user fetches (`weights`)

FACES = (
    "fairface-7",
    "fairface-4",
    "clip",
    "inception",
)  # the assets that judge photographs of faces
FACE_CLASSES = {
    "gender": tuple(fairface.GENDER),
    "age": tuple(fairface.AGE),
    "race": tuple(fairface.RACE_OF_4),
}


def face_evaluators(
    device: torch.device, seven: Path, four: Path, clip: Path, inception: Path
) -> Judges:
    """FairFace's network of seven races labels, and that of four, trained apart, scores, with Inception's features; CLIP is ViT-L/14."""
    from .inception import Inception, Scorer

    return (
        fairface.FairFace.load(seven).to(device),
        Scorer(fairface.FairFace.load(four).to(device), Inception(inception, device).features),
        Clip.load(clip).to(device),
    )


def _faces(
    device: torch.device, root: Path | None, asset: str, reference: str | None, table: Table
) -> tuple[Path, dict[str, object]]:
    """Where a subject's own weights lie, and what all subjects that show faces have in common. ValueError for all that is missing."""
    own, *judges = weights.require(asset, *FACES, root=root)
    images = reference and weights.ASSETS[reference].found(root or weights.ROOT)
    known = (
        images is not None and (images / "labels.csv").is_file()
    )  # models/own/label.py writes it
    return own, {
        "attributes": tuple(FACE_CLASSES),
        "evaluators": lambda: face_evaluators(device, *judges),
        "reference": images,
        "measures": ("FID", "CLIP-I (ViT-L/14)"),
        "world": labelled.LabelledImages(images, tuple(FACE_CLASSES), classes=FACE_CLASSES)
        if known
        else None,
        "paper": {
            "race" if attribute == "tone" else attribute: row for attribute, row in table.items()
        },
    }


def _p2(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    """Choi et al., 2022, at the timesteps of its own sampler: round(i (T - 1) / (steps - 1)), with x_0 clipped."""
    from diffusers import DDIMScheduler

    path, faces = _faces(device, root, "p2", "celebahq", TABLE_1)
    layout = guided_diffusion.P2
    network = pipelines.ready(
        torch.nn.Module.to(guided_diffusion.load(path, layout), dtype), device
    )  # diffusers' own `to` warns of other models
    scheduler = DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=True,
        timestep_spacing="linspace",
    )
    return Subject(
        "p2-celebahq",
        network,
        scheduler,
        pipelines.bottleneck(network),
        (3, layout.size, layout.size),
        fingerprint=keys.key_of([weights.file_fingerprint(path), keys.code(guided_diffusion)]),
        device=device,
        dtype=dtype,
        **faces,
    )


def _ddpm(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    folder, faces = _faces(device, root, "ddpm-celebahq", "celebahq", TABLE_1)
    return pipelines.read("ddpm-celebahq", folder, device, dtype, **faces)


def _stable_diffusion(name: str) -> Callable[[torch.device, torch.dtype, Path | None], Subject]:
    def build(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
        folder, faces = _faces(device, root, name, "ffhq", TABLE_2)
        return pipelines.read(
            name, folder, device, dtype, prompts=_occupation_prompts(FACE_CLASSES), **faces
        )

    return build


def _dit(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    """The paper's future work: a transformer. ImageNet has three classes of people, which are its prompts."""
    folder, faces = _faces(device, root, "dit-imagenet", None, {})
    people = tuple(
        Prompt(name, {"occupation": name}) for name in ("groom", "ballplayer", "scuba diver")
    )
    return pipelines.read(
        "dit-imagenet", folder, device, dtype, prompts=Prompts(people, people, people), **faces
    )


# ---------------------------------------------------------------------------------------------------------------------
# The door

Builder = Callable[[torch.device, torch.dtype, Path | None], Subject]
SUBJECTS: dict[str, Builder] = {
    "portraits": _portraits,
    "portraits-t2i": _portraits_t2i,
    "p2-celebahq": _p2,
    "ddpm-celebahq": _ddpm,
    "sd-v1-5": _stable_diffusion("sd-v1-5"),
    "sdxl": _stable_diffusion("sdxl"),
    "dit-imagenet": _dit,
    "digits": _digits,
}


def load(
    name: str,
    device: str = "auto",
    *,
    module: str | None = None,
    dtype: torch.dtype | None = None,
    folder: Path | None = None,
) -> Subject:
    """Load a subject, ready to sample: one of `SUBJECTS`, a folder with a pipeline of diffusers, or a hub id such as "owner/name".

    `module` looks into another module than the bottleneck; `folder` takes the weights from elsewhere. Raises ValueError,
    in one line, for an unknown subject or module and for missing, damaged or foreign weights, before anything runs.
    """
    where = pick_device(device)
    dtype = dtype or fast_dtype(where)
    if name in SUBJECTS:
        subject = SUBJECTS[name](where, dtype, folder)
        subject.module = module or subject.module
    else:
        folder = folder or _own(name)
        subject = pipelines.read(name, folder, where, dtype, module, **about(folder, where))
    hooks.find(subject.network, subject.module)
    return subject


def _own(name: str) -> Path:
    """The folder of a pipeline that has no name here: a path, or what the hub has under an id, fetched if it is not on this machine yet."""
    if (Path(name) / "model_index.json").is_file():
        return Path(name)
    if name.count("/") != 1 or Path(name).exists():
        one_of(
            "subject",
            name,
            [*SUBJECTS, "a folder with a model_index.json", "a hub id (owner/name)"],
        )
    from diffusers import DiffusionPipeline

    try:
        folder = Path(DiffusionPipeline.download(name))
        weights_there = any(any(folder.rglob(pattern)) for pattern in ("*.safetensors", "*.bin"))
        return folder if weights_there else Path(DiffusionPipeline.download(name, variant="fp16"))
    except Exception as error:  # offline, unknown or private: the user needs one line
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"subject {name} is neither here nor on the hub, or the hub cannot be reached: {reason}"
        ) from None


# ---------------------------------------------------------------------------------------------------------------------
# What there is to look into


class Module(NamedTuple):
    """A module whose output can be looked into: its name, its type, and the shape of h of one image."""

    name: str
    type: str
    shape: tuple[int, ...]


class Modules(list[Module]):
    """Modules in the network's order; as text, a table."""

    def __str__(self) -> str:
        rows = [Module._fields, *((m.name, m.type, " x ".join(map(str, m.shape))) for m in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


@torch.no_grad()
def describe(subject: Subject) -> Modules:
    """Every module that the subject can be looked into at, by one forward pass of one image."""
    x = torch.zeros(1, *subject.shape, device=subject.device)
    shapes = hooks.shapes(
        subject.network, lambda: subject.epsilon(x, len(subject.scheduler.alphas_cumprod) // 2)
    )
    modules = dict(subject.network.named_modules())
    return Modules(
        Module(name, type(modules[name]).__name__, shape[1:]) for name, shape in shapes.items()
    )
