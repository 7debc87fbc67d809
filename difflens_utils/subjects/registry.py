"""The subjects that are known by name, and how any other pipeline is opened.

A subject is a pipeline of diffusers, the module whose output is h, its prompts, and the evaluators
that judge its images.

>>> from difflens_utils.subjects import registry
>>> list(registry.SUBJECTS)[:4]
['portraits', 'portraits-open', 'portraits-t2i', 'p2-celebahq']
>>> print(registry.Modules([registry.Module("mid_block", "UNetMidBlock2D", (64, 4, 4))]))
name       type            shape
mid_block  UNetMidBlock2D  64 x 4 x 4
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ..evaluators import AttributeNet, Clip, fairface
from ..runtime import integrity, keys, names
from ..runtime.errors import line, one_of
from ..runtime.precision import fast_dtype, move, pick_device
from ..sampling import hooks
from ..worlds import emoji, labelled, occupations, portraits
from . import native, opening, pipelines, schedulers
from .conditions import Prompt, Prompts, Texts3
from .declaration import Asked, Stages
from .paper import TABLE_1, TABLE_2, Table
from .pipelines import MODELS, About, Judges, Subject
from .real import guided_diffusion, weights

Classes = Mapping[str, Sequence[str]]  # {attribute: names of its classes}

# --------------------------------------------------------------------------------------------------
# Prompts of faces

_EVALUATED = ("doctor", "firefighter", "nurse", "receptionist")  # the paper's
_LEARNED = (*_EVALUATED, "builder", "farmer", "waiter", "athlete")  # the others are held out


class FacePrompts(Prompts):
    """Prompts of faces: an image of which nothing else is known shows a person."""

    def neutral(self, names: Mapping[str, str]) -> str:
        return occupations.neutral(names.get("occupation", "none"))


def _each(classes: Classes) -> list[dict[str, str]]:
    """Every class of every attribute alone: {attribute: class}."""
    return [{a: c} for a, names in classes.items() for c in names]


def _combined(classes: Classes) -> list[dict[str, str]]:
    """Every combination of classes: {attribute: class, ...}."""
    cells = itertools.product(*classes.values())
    return [dict(zip(classes, cell, strict=True)) for cell in cells]


def _occupation_prompts(classes: Classes) -> FacePrompts:
    """Returns the paper's prompts.

    These are "a face of a {occupation}", "a face photo of a(an) {class} {occupation}", and
    "a {gender} {age} {tone} person".
    """
    neutral = {}
    for occupation in occupations.OCCUPATIONS:
        text = occupations.neutral(occupation)
        neutral[occupation] = Prompt(text, {"occupation": occupation})
    learn = []
    for named, occupation in itertools.product(_each(classes), _LEARNED):
        text = f"a face photo of {occupations.phrase(named, occupation)}"
        without = f"a face photo of {occupations.phrase({}, occupation)}"
        learn.append(Prompt(text, {"occupation": occupation, **named}, without))
    probe = []
    for named in _combined(classes):
        probe.append(Prompt(occupations.phrase(named), {"occupation": "none", **named}))
    evaluate = tuple(neutral[o] for o in _EVALUATED)
    held_out = tuple(prompt for o, prompt in neutral.items() if o not in _LEARNED)
    return FacePrompts(evaluate, tuple(learn), tuple(probe), held_out)


# --------------------------------------------------------------------------------------------------
# Portraits, which ship with their evaluators

PORTRAITS = "Fréchet distance (PortraitNet)", "CLIP-I (PortraitCLIP)"


def portrait_evaluators(
    device: torch.device,
    networks: Path = MODELS / "evaluators",
    clip: Path = MODELS / "clip",
    second: Path | None = None,
) -> Judges:
    """Labeller, scorer and CLIP that were trained here, by default those of `portraits`.

    The second CLIP is by default the one in the folder `second` of the first, if it is there.
    """
    labeller, scorer = (AttributeNet.load(networks / name) for name in ("labeller", "scorer"))
    if second is None and (clip / "second").is_dir():
        second = clip / "second"
    return Judges(
        labeller.to(device),
        scorer.to(device),
        Clip.load(clip).to(device),
        None if second is None else Clip.load(second).to(device),
    )


def _portraits(
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None,
    name: str = "portraits",
    module: str | None = None,
) -> Subject:
    return pipelines.read(
        name,
        folder or MODELS / name,
        device,
        dtype,
        module,
        attributes=portraits.ATTRIBUTES,
        evaluators=partial(portrait_evaluators, device),
        world=portraits.WORLD,
        paper=TABLE_1,
        measures=PORTRAITS,
    )


def _portraits_open(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    # Its skips are open, so that little passes the bottleneck: `models/law.py` tells what passes
    # this module.
    return _portraits(device, dtype, folder, "portraits-open", "up_blocks.1.attentions.1")


def _portraits_t2i(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    shipped = MODELS / "portraits-t2i"
    factors = occupations.WORLD.factors
    judges = shipped / "evaluators", shipped / "clip"
    return pipelines.read(
        "portraits-t2i",
        folder or shipped,
        device,
        dtype,
        attributes=portraits.ATTRIBUTES,
        evaluators=partial(portrait_evaluators, device, *judges),
        world=occupations.WORLD,
        prompts=_occupation_prompts({a: factors[a].classes for a in portraits.ATTRIBUTES}),
        paper=TABLE_2,
        measures=PORTRAITS,
        guidance=2.0,
    )


# --------------------------------------------------------------------------------------------------
# Emoji of people, whose weights and evaluators ship

# What results are reported on; the others of the second line are learned from too, and the roles of
# the third only draw images that nothing was tuned on.
_ROLES = ("health worker", "teacher", "technologist", "farmer")
_LEARNED_ROLES = (*_ROLES, "cook", "scientist", "office worker", "singer")
_HELD_OUT_ROLES = ("judge", "pilot", "police officer", "construction worker")


class EmojiPrompts(Prompts):
    """Prompts of emoji: the name of a role, with gender and tone where they are named."""

    def neutral(self, names: Mapping[str, str]) -> str:
        return emoji.prompt(names["role"])


def _emoji_prompts() -> EmojiPrompts:
    classes = {name: emoji.WORLD.factors[name].classes for name in emoji.ATTRIBUTES}

    def asked(role: str, named: Mapping[str, str]) -> Prompt:
        return Prompt(emoji.prompt(role, **named), {"role": role, **named}, emoji.prompt(role))

    each, combined = _each(classes), _combined(classes)
    return EmojiPrompts(
        evaluate=tuple(Prompt(emoji.prompt(role), {"role": role}) for role in _ROLES),
        learn=tuple(asked(role, named) for named in each for role in _LEARNED_ROLES),
        probe=tuple(asked(role, named) for named in combined for role in _ROLES),
        held_out=tuple(Prompt(emoji.prompt(role), {"role": role}) for role in _HELD_OUT_ROLES),
    )


def _emoji(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    shipped = MODELS / "emoji"
    judges = shipped / "evaluators", shipped / "clip"
    return pipelines.read(
        "emoji",
        folder or shipped,
        device,
        dtype,
        attributes=emoji.ATTRIBUTES,
        evaluators=partial(portrait_evaluators, device, *judges),
        world=emoji.WORLD,
        prompts=_emoji_prompts(),
        # by trial exchanges as in notebook 03, more of the tone goes through it than the middle one
        module="transformer_blocks.4",
        measures=("Fréchet distance (EmojiNet)", "CLIP-I (EmojiCLIP)"),
        guidance=2.0,
        condition=Texts3(length=0),  # it was trained without zeros in T5's place
    )


# --------------------------------------------------------------------------------------------------
# Labelled images, with a model beside them


def about(folder: Path, device: torch.device) -> About:
    """Reads the fields of a `Subject` from the `study.yml` beside a pipeline.

    These are its data, its evaluators and its prompts. Without that file the result is empty: the
    pipeline can be described and sampled, and not judged. Raises ValueError, in one line, for a
    faulty file (`labelled.declared`), and for prompts or guidance beside a pipeline that takes
    none.
    """
    path = folder / "study.yml"
    if not path.is_file():
        return {}
    study = labelled.declared(folder)
    fields: About = {
        "attributes": study.world.attributes,
        "world": study.world,
        "evaluators": partial(_judges, study, device),
    }
    known = _known(folder)
    problem = f"{path}: {{}} must not be there: the pipeline beside it {{}}"
    if study.prompts is not None:
        if "prompts" not in known:
            raise ValueError(problem.format("prompts", "reads neither texts nor classes"))
        fields["prompts"] = _prompts(study.prompts, study.world, "texts" in known)
    if study.guidance is not None:
        if "guidance" not in known:
            raise ValueError(problem.format("guidance", "has no classifier-free guidance"))
        fields["guidance"] = study.guidance
    return fields


def _known(folder: Path) -> set[str]:
    """Which of texts, prompts (texts or names of classes) and guidance a pipeline takes.

    The answer is read from its files. `pipelines.read` checks whether these are intact.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text())
        if "text_encoder" in index:
            return {"texts", "prompts", "guidance"}
        if "transformer" in index:  # a DiT
            return {"prompts", "guidance"}
        network = json.loads((opening.place(folder, "unet") / "config.json").read_text())
    except (OSError, ValueError):
        return set()
    return {"prompts"} if network.get("num_class_embeds") else set()


def _prompts(stages: Stages, world: labelled.LabelledImages, texts: bool) -> Prompts:
    """Returns the prompts of a study. Stages that it does not name get those of the evaluation.

    Texts to learn from name each class of an attribute in turn ("a cup, red"). Texts for the
    h-classifiers name each combination of classes. Prompts that are names of classes stay as they
    are.
    """

    def made(stage: Sequence[Asked] | None) -> tuple[Prompt, ...]:
        return tuple(Prompt(p.text, p.given, p.without) for p in stage or ())

    evaluate = made(stages.evaluate)
    learn, probe = evaluate, evaluate
    if texts:
        classes = {a: world.classes[a] for a in world.attributes}
        learn = tuple(_naming(p, named, classes) for named in _each(classes) for p in evaluate)
        probe = tuple(_naming(p, named, classes) for named in _combined(classes) for p in evaluate)
    return Prompts(
        evaluate, made(stages.learn) or learn, made(stages.probe) or probe, made(stages.held_out)
    )


def _naming(prompt: Prompt, named: Mapping[str, str], classes: Classes) -> Prompt:
    """A prompt with the names of some classes behind it: "a cup, red", or, where red is a class of
    two attributes, "a cup, colour red".
    """
    count = Counter(itertools.chain.from_iterable(classes.values()))
    words = [prompt.text]
    for attribute, name in named.items():
        words.append(name if count[name] == 1 else f"{attribute} {name}")
    return Prompt(", ".join(words), {**prompt.given, **named}, prompt.text)


def _judges(study: labelled.Declared, device: torch.device) -> Judges:
    """The evaluators of a study.

    Raises ValueError, in one line, for networks that were trained before its table or the order of
    its classes changed: the shares of one class would be read as those of another.
    """
    judges = portrait_evaluators(device, study.evaluators, study.clip, study.second_clip)
    stated = study.world.classes
    for name, network in (("labeller", judges.labeller), ("scorer", judges.scorer)):
        for factor in dict.fromkeys((*stated, *network.factors)):
            trained = ", ".join(network.factors.get(factor, ())) or "nothing"
            labels = ", ".join(stated.get(factor, ())) or "nothing"
            if trained != labels:
                raise ValueError(
                    f"{study.evaluators / name} reads {factor} as {trained}, and the study says "
                    f"{labels}; train it again (models/evaluators/train.py)"
                )
    return judges


def _digits(device: torch.device, dtype: torch.dtype, folder: Path | None) -> Subject:
    folder = folder or MODELS / "digits"
    return pipelines.read("digits", folder, device, dtype, **about(folder, device))


# --------------------------------------------------------------------------------------------------
# Photographs: the paper's subjects, whose weights and evaluators the user fetches (`weights`)

FACES = ("fairface-7", "fairface-4", "clip", "inception")  # the assets that judge faces
FACE_CLASSES = {
    "gender": tuple(fairface.GENDER),
    "age": tuple(fairface.AGE),
    "race": tuple(fairface.RACE_OF_4),
}


def face_evaluators(
    device: torch.device, seven: Path, four: Path, clip: Path, inception: Path
) -> Judges:
    """Loads the evaluators of photographs, two networks of FairFace among them.

    The network of seven races labels. That of four races, trained apart, scores. The features
    are those of Inception, and CLIP is ViT-L/14.
    """
    from ..evaluators.inception import Inception, Scorer

    labeller = fairface.FairFace.load(seven).to(device)
    scorer = fairface.FairFace.load(four).to(device)
    features = Inception(inception, device).features
    return Judges(labeller, Scorer(scorer, features), Clip.load(clip).to(device))


def _faces(
    device: torch.device, root: Path | None, asset: str, reference: str | None, table: Table
) -> tuple[Path, About]:
    """Where the weights of a subject lie, and what all subjects that show faces have in common.

    Raises ValueError, in one line, for all that is missing.
    """
    path, *judges = weights.require(asset, *FACES, root=root)
    images = weights.ASSETS[reference].found(root or weights.ROOT) if reference else None
    attributes = tuple(FACE_CLASSES)
    fields: About = {
        "attributes": attributes,
        "evaluators": partial(face_evaluators, device, *judges),
        "reference": images,
        "measures": ("FID", "CLIP-I (ViT-L/14)"),
        "paper": {"race" if a == "tone" else a: row for a, row in table.items()},
    }
    if images is not None and (images / "labels.csv").is_file():  # models/own/label.py writes it
        fields["world"] = labelled.LabelledImages(images, attributes, classes=FACE_CLASSES)
    return path, fields


def _p2(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    """P2 (Choi et al., 2022), at the timesteps of its own sampler, with x_0 clipped.

    The timesteps are round(i (T - 1) / (steps - 1)).
    """
    path, fields = _faces(device, root, "p2", "celebahq", TABLE_1)
    layout = guided_diffusion.P2
    network = move(guided_diffusion.load(path, layout), dtype)
    scheduler = schedulers.ddim(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        clip_sample=True,
        timestep_spacing="linspace",
    )
    return Subject(
        "p2-celebahq",
        pipelines.ready(network, device),
        scheduler,
        pipelines.bottleneck(network),
        (3, layout.size, layout.size),
        keys.key_of([weights.file_fingerprint(path), keys.code(guided_diffusion)]),
        **fields,
    )


def _ddpm(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    folder, fields = _faces(device, root, "ddpm-celebahq", "celebahq", TABLE_1)
    return pipelines.read("ddpm-celebahq", folder, device, dtype, **fields)


def _stable_diffusion(
    name: str, device: torch.device, dtype: torch.dtype, root: Path | None
) -> Subject:
    folder, fields = _faces(device, root, name, "ffhq", TABLE_2)
    fields["prompts"] = _occupation_prompts(FACE_CLASSES)
    return pipelines.read(name, folder, device, dtype, **fields)


def _dit(device: torch.device, dtype: torch.dtype, root: Path | None) -> Subject:
    """The paper's future work: a transformer.

    ImageNet has three classes of people, which are its prompts.
    """
    folder, fields = _faces(device, root, "dit-imagenet", None, {})
    names = ("groom", "ballplayer", "scuba diver")
    people = tuple(Prompt(name, {"occupation": name}) for name in names)
    fields["prompts"] = Prompts(people, people, people)
    return pipelines.read("dit-imagenet", folder, device, dtype, **fields)


# --------------------------------------------------------------------------------------------------
# Any subject by its name

Builder = Callable[[torch.device, torch.dtype, Path | None], Subject]
SUBJECTS: dict[str, Builder] = {
    "portraits": _portraits,
    "portraits-open": _portraits_open,
    "portraits-t2i": _portraits_t2i,
    "p2-celebahq": _p2,
    "ddpm-celebahq": _ddpm,
    "sd-v1-5": partial(_stable_diffusion, "sd-v1-5"),
    "sdxl": partial(_stable_diffusion, "sdxl"),
    "dit-imagenet": _dit,
    "digits": _digits,
    "emoji": _emoji,
}


def load(
    name: str,
    device: str = "auto",
    *,
    module: str | None = None,
    dtype: torch.dtype | None = None,
    folder: Path | None = None,
) -> Subject:
    """Loads a subject, ready to sample.

    `name` is one of `SUBJECTS`, a folder with a pipeline of diffusers, or a hub id such as
    "owner/name". `module` names the module whose output is h, by default the bottleneck. `folder`
    is another place of the weights. Raises ValueError, in one line, for an unknown subject or
    module and for missing, damaged or foreign weights, before anything runs.
    """
    where = pick_device(device)
    dtype = dtype or fast_dtype(where)
    if name in SUBJECTS:
        if folder is None and name in names.SHIPPED:
            integrity.check_shipped(*(MODELS / part for part in names.SHIPPED[name]))
        subject = SUBJECTS[name](where, dtype, folder)
        subject = replace(subject, module=module) if module else subject
    else:
        folder = folder or _folder(name)
        subject = door(folder)(name, folder, where, dtype, module, **about(folder, where))
    hooks.find(subject.network, subject.module)
    return subject


def door(folder: Path) -> Callable[..., Subject]:
    """What reads the pipeline of a folder: for the study's own sampler, or natively.

    Raises ValueError, in one line, where no pipeline is.
    """
    kind = str(opening.read_json(folder / "model_index.json").get("_class_name"))
    return pipelines.read if kind in pipelines.KINDS else native.read


def _folder(name: str) -> Path:
    """Returns the folder of a pipeline that is not in `SUBJECTS`, by its path or hub id.

    The files of a hub id are fetched if they are not on this machine yet.
    """
    if (Path(name) / "model_index.json").is_file():
        return Path(name)
    if name.count("/") != 1 or Path(name).exists():
        others = ["a folder with a model_index.json", "a hub id (owner/name)"]
        one_of("subject", name, [*SUBJECTS, *others])
    from diffusers import DiffusionPipeline

    try:
        folder = Path(DiffusionPipeline.download(name))
        if any(any(folder.rglob(pattern)) for pattern in ("*.safetensors", "*.bin")):
            return folder
        return Path(DiffusionPipeline.download(name, variant="fp16"))
    except Exception as error:  # offline, unknown or private: the user needs one line
        raise ValueError(
            f"subject {name} is neither here nor on the hub, or the hub cannot be reached: "
            f"{line(error)}"
        ) from None


# --------------------------------------------------------------------------------------------------
# The modules that can be looked into


class Module(NamedTuple):
    """A module whose output can be h: its name, its type, and the shape of h of one image."""

    name: str
    type: str
    shape: tuple[int, ...]


class Modules(list[Module]):
    """Modules in the network's order. Their text is a table."""

    def __str__(self) -> str:
        rows = [Module._fields]
        for module in self:
            rows.append((module.name, module.type, " x ".join(map(str, module.shape))))
        first = max(len(name) for name, _, _ in rows)
        second = max(len(kind) for _, kind, _ in rows)
        lines = [f"{name:<{first}}  {kind:<{second}}  {shape}" for name, kind, shape in rows]
        return "\n".join(lines)


def blocks(subject: Subject) -> list[str]:
    """The names of the network's own blocks whose output can be h, in its order.

    They are the parts of its lists of blocks, and the single blocks beside them.
    """
    own = []
    for name, child in subject.network.named_children():
        if isinstance(child, torch.nn.ModuleList):
            own += [f"{name}.{i}" for i in range(len(child))]
        elif list(child.children()):
            own.append(name)
    shaped = {module.name for module in describe(subject) if len(module.shape) > 1}
    return [name for name in own if name in shaped]


@torch.no_grad()
def describe(subject: Subject) -> Modules:
    """Lists every module of a subject whose output can be h, by one forward pass of one image."""
    shapes = hooks.shapes(subject.network, subject.pass_once)
    found = Modules()
    for name, shape in shapes.items():
        kind = type(subject.network.get_submodule(name)).__name__
        found.append(Module(name, kind, shape[1:]))
    return found
