"""Whatever determines a result is in its key.

Every file of a study is changed in turn, and what depends on it is made anew.
"""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from diffusers import DDIMPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from difflens_utils import (
    attribution,
    debiasing,
    edits,
    evaluators,
    features,
    outcome,
    probes,
    sampling,
)
from difflens_utils import recording as activations
from difflens_utils.analysis import mediation
from difflens_utils.evaluators import AttributeNet, Clip
from difflens_utils.ksae import KSAEConfig
from difflens_utils.ksae.stored import train
from difflens_utils.methods import Method, latent_editing
from difflens_utils.runtime import artifacts, keys, precision
from difflens_utils.subjects import registry
from difflens_utils.subjects.pipelines import MODELS, Subject, fingerprint

GENERATED = {
    "recording",
    "images",
    "told",
    "ksae",
    "class_means",
    "probes",
    "attribution",
    "measured",
    "reached",
    "mediation",
    "latent_editing",
    "search",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small study on disk: model, images, table, evaluators and CLIP, with random weights."""
    folder = tmp_path_factory.mktemp("study")
    DDIMPipeline(tiny.network(), tiny.scheduler()).save_pretrained(folder)
    (folder / "images").mkdir()
    rows, shades = [], np.random.default_rng(0).integers(0, 255, 40)
    for i, shade in enumerate(shades):
        Image.fromarray(np.full((16, 16), shade, np.uint8)).save(folder / f"images/{i:02d}.png")
        rows.append(
            {
                "file": f"{i:02d}.png",
                "tint": ("dark", "light")[i % 2],
                "edge": ("no", "yes")[i // 2 % 2],
            }
        )
    pd.DataFrame(rows).to_csv(folder / "images/labels.csv", index=False)
    (folder / "study.yml").write_text(
        "images: images\nattributes: [tint]\nshares: {tint: {dark: 0.8, light: 0.2}}\n"
    )
    classes = {"tint": ("dark", "light"), "edge": ("no", "yes")}
    for seed, name in enumerate(("labeller", "scorer")):
        torch.manual_seed(seed)
        AttributeNet("strided", classes, features=8).save(folder / "evaluators" / name)
    clip().save(folder / "clip")
    torch.manual_seed(2)
    clip().save(folder / "clip/second")
    return folder


def clip() -> Clip:
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "clip", model_max_length=12)
    size = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = size | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 12,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPConfig(
        text_config=text, vision_config=size | {"image_size": 16, "patch_size": 8}, projection_dim=8
    )
    return Clip(CLIPModel(config), tokenizer)


def everything(folder: Path) -> None:
    """Every stage that keeps something, as small as it gets."""
    study = registry.load(str(folder), "cpu", dtype=torch.float32)
    labels, ksae = torch.arange(12) % 2, tiny.ksae()
    rec = activations.record(study, 12, 0, 2)
    train(rec, KSAEConfig(rec.width, latents=32, k=4, steps=2, batch=16))
    features.class_means(rec, ksae, {"tint": labels}, {"tint": 2})
    probes.fit(rec, labels, 2, iterations=2)
    attribution.through_image(study, ksae, ("tint",), attribution.Support(2, 0, 2))
    chosen, unit = torch.tensor([1, 3]), torch.ones(2, 16, 2)
    trial = attribution.Trial(2, 0, 2, (1,))
    attribution.measured(study, ksae, attribution.Aim("tint", 0), chosen, unit, trial)
    ends = mediation.Exchange("tint", *study.classes("tint")[:2])
    mediation.through_modules(study, ends, (500,), [study.module], n=2, seed=0)
    latent_editing.learn(study, "tint", 2, latent_editing.Recipe(n=2, rounds=1))
    method = Method(
        "turned", lambda c, strength: edits.steer(ksae, torch.tensor([c]), strength), grid=(2.0,)
    )
    debiasing.search(study, method, "tint", n=2, seed=0, steps=2, recipe={})


def in_json(name: str, **changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def one_weight(name: str, tensor: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors[tensor].view(-1)[0] += 0.5
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def in_text(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert text.count(old) >= 1
        (folder / name).write_text(text.replace(old, new, 1))

    return change


def one_pixel(folder: Path) -> None:
    pixels = np.array(Image.open(folder / "images/03.png"))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(folder / "images/03.png")


def activation_of_clip(folder: Path) -> None:
    config = json.loads((folder / "clip/config.json").read_text())
    config["vision_config"]["hidden_act"] = "gelu"
    (folder / "clip/config.json").write_text(json.dumps(config))


def merges_shortened(folder: Path) -> None:
    lines = (folder / "clip/merges.txt").read_text().splitlines()
    (folder / "clip/merges.txt").write_text("\n".join(lines[:-1]) + "\n")


SCHEDULER, UNET = "scheduler/scheduler_config.json", "unet/config.json"
JUDGED = {"attribution", "measured", "search", "told"}
CHANGES: dict[str, tuple[Callable[[Path], None], set[str]]] = {
    "prediction type": (in_json(SCHEDULER, prediction_type="v_prediction"), GENERATED),
    "noise levels": (in_json(SCHEDULER, beta_end=0.03), GENERATED),
    "clipping": (in_json(SCHEDULER, clip_sample=False), GENERATED),
    "steps offset": (in_json(SCHEDULER, steps_offset=1), GENERATED),
    "network's configuration": (in_json(UNET, norm_eps=1e-3), GENERATED),
    "network's weights": (
        one_weight("unet/diffusion_pytorch_model.safetensors", "conv_in.bias"),
        GENERATED,
    ),
    "labeller": (one_weight("evaluators/labeller/model.safetensors", "head.bias"), JUDGED),
    "scorer": (one_weight("evaluators/scorer/model.safetensors", "head.bias"), {"search", "told"}),
    "scorer's temperature": (
        one_weight("evaluators/scorer/model.safetensors", "temperature"),
        {"search", "told"},
    ),
    "CLIP's configuration": (activation_of_clip, {"latent_editing", "search", "told"}),
    "CLIP": (
        one_weight("clip/model.safetensors", "visual_projection.weight"),
        {"latent_editing", "search", "told"},
    ),
    "CLIP's vocabulary": (merges_shortened, {"latent_editing", "search", "told"}),
    "the second CLIP, which no method sees": (
        one_weight("clip/second/model.safetensors", "visual_projection.weight"),
        set(),
    ),
    "an image": (one_pixel, {"mediation"}),
    "a label": (in_text("images/labels.csv", "01.png,light", "01.png,dark"), {"mediation"}),
    "the planted shares": (
        in_text("study.yml", "dark: 0.8, light: 0.2", "dark: 0.7, light: 0.3"),
        {"mediation"},
    ),
    "nothing but the writer": (in_json(UNET, _diffusers_version="0.0.1"), set()),
    "nothing that is read": (lambda folder: (folder / "README.md").write_text("about"), set()),
}


@pytest.fixture(scope="module")
def first(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store after the first run."""
    store = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "STORE", store)
        everything(made)
    assert {path.name for path in store.iterdir()} >= GENERATED
    return store


@pytest.mark.parametrize("change", CHANGES)
def test_what_depends_on_a_file_is_made_anew_and_nothing_else(
    change: str, made: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, store, anew, fill = tmp_path / "study", tmp_path / "store", [], artifacts.fill
    shutil.copytree(made, folder)
    shutil.copytree(first, store)
    monkeypatch.setattr(artifacts, "STORE", store)
    monkeypatch.setattr(artifacts, "_verified", set())

    def counted(artifact: artifacts.Artifact, write: Callable[[Path], None]) -> None:
        anew.append(artifact.stage)
        fill(artifact, write)

    monkeypatch.setattr(artifacts, "fill", counted)
    edit, expected = CHANGES[change]
    edit(folder)
    everything(folder)
    assert set(anew) == expected


def test_a_text_model_is_known_by_all_its_parts(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    tiny.text_subject().pipeline.save_pretrained(whole)
    parts = ("unet", "vae", "text_encoder")
    known = {"nothing": fingerprint(whole, parts)}
    for file in sorted(whole.rglob("*.*")):
        name = str(file.relative_to(whole))
        changed = tmp_path / name.replace("/", "-")
        shutil.copytree(whole, changed)
        if file.suffix == ".json":
            in_json(name, more=1)(changed)
        else:
            (changed / name).write_bytes(file.read_bytes()[:-1] + b"!")
        known[name] = fingerprint(changed, parts)
    assert len(known) > 8 and len(set(known.values())) == len(known)


@pytest.mark.parametrize("shard", range(1, 16))
def test_each_of_fifteen_shards_counts(shard: int, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "DDIMPipeline", "unet": ["diffusers", "UNet2DModel"]}'
    )
    file = "unet/diffusion_pytorch_model-{:05d}-of-00015.safetensors"
    for number in range(1, 16):
        (tmp_path / file.format(number)).write_bytes(bytes([number]) * 9)
    seen = {fingerprint(tmp_path, ("unet",))}
    for value in range(40):  # one hex digit of each shard would let one change in sixteen pass
        (tmp_path / file.format(shard)).write_bytes(bytes([shard]) * 8 + bytes([100 + value]))
        seen.add(fingerprint(tmp_path, ("unet",)))
    assert len(seen) == 41


# ----------------------------------------------------------------------------------- the mechanism


class Judged:
    """A subject that can be read in one part."""

    def identity(self, reads: tuple[str, ...]) -> dict[str, object]:
        return {"files": "x", **{part: part.upper() for part in reads}}

    @property
    def scorer(self) -> str:
        keys.reading("scorer")
        return "scorer"


def test_a_stage_that_reads_what_its_key_lacks_is_refused(store: Path) -> None:
    def work(subject: Judged) -> dict[str, torch.Tensor]:
        return {"x": torch.ones(len(subject.scorer))}

    assert Judged().scorer == "scorer"  # outside of a stage everybody may read
    with pytest.raises(
        RuntimeError, match="work reads the subject's scorer, which is not in its key"
    ):
        artifacts.stored("stage")(work)(Judged())
    assert len(artifacts.stored("stage", reads=("scorer",))(work)(Judged())["x"]) == 6
    assert Judged().scorer == "scorer"


def test_the_second_clip_is_in_the_key_of_who_reads_it(made: Path, store: Path) -> None:
    study = registry.load(str(made), "cpu")
    read = []

    @artifacts.stored("kept", reads=("second_clip",))
    def kept(subject: Subject) -> dict[str, torch.Tensor]:
        read.append(subject.second_clip)
        return {"x": torch.ones(1)}

    kept(study)
    kept(study)
    assert read == [study.second_clip] and study.second_clip is not study.clip
    alone = replace(study, evaluators=lambda: study._judges[:3])
    assert alone.second_clip is alone.clip is study.clip
    kept(alone)
    assert read == [study.second_clip, study.clip]
    assert "a second CLIP" in study.second_measure
    assert alone.second_measure == "CLIP-I (its CLIP), which methods learn from"


def test_a_search_does_not_see_the_second_clip(made: Path, store: Path) -> None:
    study = registry.load(str(made), "cpu")
    images = torch.zeros(2, 3, 16, 16)

    @artifacts.stored("search", reads=("texts", "labeller", "scorer", "clip"))
    def search(subject: Subject) -> dict[str, torch.Tensor]:
        return {"second": outcome.judge(subject, images).second}

    assert search(study)["second"].shape == (2, 0)
    judged = outcome.judge(study, images)
    assert judged.second.shape == judged.clip.shape and not judged.second.equal(judged.clip)
    assert judged.of(0).second.equal(judged.second)
    alone = replace(study, evaluators=lambda: study._judges[:3])
    assert outcome.judge(alone, images).second.equal(judged.clip)


def test_images_are_judged_once(made: Path, store: Path) -> None:
    """And what is found again is what the evaluators say, bit for bit."""
    study = registry.load(str(made), "cpu")
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    seen: list[int] = []
    for part in (study.scorer, study.labeller, study.clip.model, study.second_clip.model):
        watched = part.get_submodule("trunk" if hasattr(part, "trunk") else "vision_model")
        watched.register_forward_hook(lambda _module, _args, _output: seen.append(1))
    judged = outcome.judge(study, images)
    assert len(seen) == 4  # the scorer looks once, for its classes and its features
    again = outcome.judge(study, images.clone())
    assert len(seen) == 4
    assert again.features.equal(evaluators.embed(study.scorer, images))
    assert again.clip.equal(evaluators.embed(study.clip, images))
    assert again.second.equal(evaluators.embed(study.second_clip, images))
    for found, network in ((again.scored, study.scorer), (again.labelled, study.labeller)):
        said = evaluators.read(network, images)
        assert found.keys() == said.keys() and all(found[f].equal(said[f]) for f in said)
    assert judged.features.equal(again.features)
    before = len(seen)
    outcome.judge(study, images.half())  # other images
    assert len(seen) == before + 4


def test_every_argument_is_in_the_key_defaults_included(store: Path) -> None:
    calls = []

    @artifacts.stored("stage", ignoring=("progress",))
    def work(
        a: int, b: torch.Tensor, *, c: float = 1.0, progress: bool = True
    ) -> dict[str, torch.Tensor]:
        calls.append((a, c))
        return {"sum": b * a + c}

    b = torch.tensor([1.0, 2.0])
    assert work(2, b)["sum"].tolist() == [3, 5]
    for _ in range(2):
        work(2, b=b.clone(), c=1.0, progress=False)
    assert len(calls) == 1
    for arguments in ((3, b), (2, b + 1e-7), (2, b.double()), (2, b[None])):
        work(*arguments)
    work(2, b, c=1.5)
    assert len(calls) == 6


@pytest.mark.parametrize("value", [object(), lambda h, s: h, {"nested": [object()]}, print])
def test_what_cannot_be_described_is_no_part_of_a_key(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be part of a key"):
        keys.digest(value)


def test_the_order_of_names_is_part_of_a_key(store: Path) -> None:
    """Scores are stacked in the order of the attributes."""
    assert keys.key_of({"a": 1, "b": 2}) != keys.key_of({"b": 2, "a": 1})
    names = ("gender", "age")
    one, other = (
        attribution.through_image(tiny.subject(), tiny.ksae(), order, attribution.Support(2, 0, 2))
        for order in (names, names[::-1])
    )
    for name in names:
        assert torch.allclose(one[name].scores, other[name].scores, atol=1e-6)


def test_what_is_said_of_images_is_a_part_of_the_subject() -> None:
    """A text model describes images of its data by its prompts, which a stage has to declare."""
    subject = tiny.text_subject()
    batch = subject.data.sample(2, 0)
    with (
        keys.making({"function": "f", "reads": ["data"]}),
        pytest.raises(RuntimeError, match="reads the subject's prompts"),
    ):
        subject.describe(batch)
    with keys.making({"function": "f", "reads": ["data", "prompts"]}):
        assert len(subject.describe(batch)) == 2


def test_a_digest_tells_values_apart() -> None:
    values = [
        0,
        0.5,
        "0",
        None,
        True,
        [0],
        torch.zeros(1),
        torch.zeros(1, 1),
        torch.zeros(1, dtype=torch.bfloat16),
        np.zeros(2),
        torch.float32,
        slice(0, 2),
        {"a": 1},
        {"a": 2},
        tiny.labeller(),
        tiny.labeller("strided"),
        tiny.ksae(),
    ]
    assert len({keys.key_of({"value": keys.digest(value)}) for value in values}) == len(values)
    assert keys.digest(tiny.labeller()) == keys.digest(tiny.labeller())


def module(folder: Path, name: str, text: str) -> types.ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    made = types.ModuleType(name)
    made.__file__ = str(path)
    keys._code.cache_clear()
    keys.imports.cache_clear()
    return made


def test_code_ignores_comments_but_no_statement(tmp_path: Path) -> None:
    def version(text: str) -> str:
        return keys.code(module(tmp_path, "m", text))

    a = version('"""Doc."""\ndef f():\n    """One."""\n    return 1\n')
    assert a == version('"""Other."""\n# why\ndef f():\n    """Two."""\n    return 1\n')
    assert a != version('"""Doc."""\ndef f():\n    """One."""\n    return 2\n')


def test_code_is_that_of_all_that_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CARRIERS", {"errors"})
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .types import T\n"
    top = f"{typing}from . import middle\nfrom .errors import E\n"
    beside = {
        "middle": "def f():\n    from .deep import g\n",
        "deep": "x = 1\n",
        "types": "T = 1\n",
        "errors": "E = 1\n",
    }
    for name, text in beside.items():
        module(tmp_path, name, text)
    before = keys.code(module(tmp_path, "top", top))
    for name, counts in {"middle": True, "deep": True, "types": False, "errors": False}.items():
        module(tmp_path, name, beside[name] + "y = 2\n")
        assert (keys.code(module(tmp_path, "top", top)) != before) == counts
        module(tmp_path, name, beside[name])


PACKAGE = {
    "__init__": "from .study import open\n",
    "study": "from . import sampling\nfrom .worlds import drawn\n",
    "sampling": "from .runtime import store\nfrom .worlds.base import World\n",
    "unused": "x = 1\n",
    "runtime/__init__": "",
    "runtime/store": "from ..deep.inner import leaf\n",  # a carrier: it is not followed
    "worlds/__init__": "from .drawn import draw\n",
    "worlds/base": "import made.metrics\nfrom made.deep.inner import leaf\n",
    "worlds/drawn": "from ..metrics import mean\nfrom . import base\n",
    "deep/__init__": "x = 1\n",
    "deep/inner/__init__": "x = 1\n",
    "deep/inner/leaf": "from ...metrics import mean\nimport made.deep.inner.other\n",
    "deep/inner/other": "from .. import side\n",
    "deep/side": "def f():\n    from ..late import x\n",
    "late": "import numpy\nimport madeup\n",
    "metrics": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .unused import x\n",
}


BEHIND_LEAF = {"metrics", "deep.inner.other", "deep.side", "late"}


@pytest.mark.parametrize(
    ("module", "needed"),
    [
        ("metrics", set()),
        ("deep/side", {"late"}),
        ("deep/inner/leaf", BEHIND_LEAF),
        ("worlds/base", BEHIND_LEAF | {"deep.inner.leaf"}),
        ("runtime/store", BEHIND_LEAF | {"deep.inner.leaf"}),
        ("worlds/__init__", BEHIND_LEAF | {"deep.inner.leaf", "worlds.drawn", "worlds.base"}),
        ("study", BEHIND_LEAF | {"deep.inner.leaf", "sampling", "worlds.drawn", "worlds.base"}),
    ],
)
def test_code_of_a_package_with_folders(
    module: str, needed: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "CARRIERS", {"runtime.store"})
    for name, text in PACKAGE.items():
        path = tmp_path / "made" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    path = tmp_path / "made" / f"{module}.py"
    found = {keys.dotted(file) for file in keys._needed(path)} - {keys.dotted(path)}
    assert found == needed


def test_what_only_a_type_checker_sees_is_no_code(tmp_path: Path) -> None:
    path = tmp_path / "made/one.py"
    path.parent.mkdir()
    for name in ("__init__", "seen", "run", "other"):
        path.with_name(f"{name}.py").write_text("")
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from . import seen\nelse:\n    from . import run\n"
        "if not TYPE_CHECKING:\n    from . import other\n"
    )
    assert {file.stem for file in keys.imports(path)} == {"run", "other"}


@pytest.mark.parametrize("name", ["portraits", "portraits-t2i", "digits"])
def test_what_ships_was_made_with_what_ships(name: str) -> None:
    """What comes with a subject names its files, prompts and evaluators as they are now."""
    study = registry.load(name, "cpu")
    whole = keys.described(study, [part for part in keys.PARTS if part != "data"])
    now = artifacts.lasting({"arguments": {"subject": whole}})["arguments"]["subject"]
    manifests = sorted(study.folder.rglob("manifest.json"))
    assert len(manifests) > 20
    for manifest in manifests:
        shipped = json.loads(manifest.read_text())["parameters"]["arguments"]["subject"]
        assert shipped == {part: now[part] for part in shipped}, manifest
        assert artifacts.intact(manifest.parent)


# ------------------------------------------------------------------------------ in one process


def test_code_is_what_was_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who edits a file while notebooks run must not file the old code's results under the new."""
    path = Path(outcome.__file__)
    monkeypatch.setitem(keys._SOURCES, path, path.read_text() + "x = 1\n")
    loaded = keys._code.__wrapped__(path)
    monkeypatch.setitem(keys._SOURCES, path, path.read_text())
    assert keys._code.__wrapped__(path) == keys.code(outcome) != loaded


def test_an_edit_is_what_it_was_made_with(store: Path) -> None:
    subject, features = tiny.subject(), torch.tensor([1, 3])
    edit = edits.steer(tiny.ksae(), features, 3.0)
    first = outcome.draw(subject, edit, 2, 0, 2)
    features[0] = 5
    assert torch.equal(outcome.draw(subject, edit, 2, 0, 2), first)
    other = outcome.draw(subject, edits.steer(tiny.ksae(), features, 3.0), 2, 0, 2)
    assert not torch.equal(other, first)


def test_an_edit_that_moves_a_batch_as_one_is_filed_under_its_size(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny.subject()
    g = torch.Generator().manual_seed(0)
    heads = probes.Heads(torch.randn(2, 2, 24, 4, 4, generator=g), torch.zeros(2, 2))
    guide = edits.guide(heads, [0.9, 0.1], 500.0)
    for edit in (guide, edits.compose(guide), edits.only(guide, [0, 1])):
        drawn = []
        for batch in (4, 2):
            monkeypatch.setattr(
                "difflens_utils.runtime.gpu.batch_size", lambda _subject, n=batch: n
            )
            drawn.append(outcome.draw(subject, edit, 4, 0, 2, asymmetric=False))
            expected = sampling.sample(
                subject, 4, 0, steps=2, edit=edit, asymmetric=False, batch=batch
            )
            torch.testing.assert_close(drawn[-1].float(), expected, atol=2e-3, rtol=2e-3)
        assert not torch.equal(*drawn)


def test_weights_that_were_changed_in_memory_are_not_filed_under_the_files(store: Path) -> None:
    subject = tiny.subject()
    outcome.draw(subject, None, 1, 0, 2)
    with precision.full_precision(subject), precision.planar(subject):
        outcome.draw(subject, None, 1, 0, 2)  # another precision is no other model
    subject.network.conv_out.bias += 0.5
    with pytest.raises(ValueError, match="weights of tiny were changed since it was opened"):
        outcome.draw(subject, None, 1, 0, 2)
    labeller = tiny.labeller()
    before = keys.digest(labeller)
    labeller.temperature.mul_(3)
    assert keys.digest(labeller) != before


def test_images_that_are_replaced_are_read_again(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    shutil.copytree(made, folder)
    world = registry.load(str(folder), "cpu").data
    before = keys.digest(world)
    one_pixel(folder)
    assert keys.digest(world) != before


def test_a_factor_may_have_any_name() -> None:
    """What ships is compared by all of its arguments, also where a name is one of a key's own."""
    targets = {"function": [0.5, 0.5], "code": [1, 0], "reads": [0, 1]}
    of = {"arguments": {"targets": targets, "subject": {"files": "x", "code": [], "runtime": "y"}}}
    assert artifacts.lasting(of) == {"arguments": {"targets": targets, "subject": {"files": "x"}}}
