from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer

from difflens_utils import evaluators, worlds
from difflens_utils.evaluators import AttributeNet, Clip
from difflens_utils.worlds import portraits
from difflens_utils.worlds.portraits import ATTRIBUTES, WORLD

MODELS = Path(__file__).parents[1] / "models"
NETS = ("labeller", "scorer")


@pytest.fixture(scope="module")
def fresh() -> tuple[worlds.Scenes, torch.Tensor]:
    """2,000 portraits from a seed that no recipe uses."""
    p = portraits.WORLD.sample(2000, seed=987_654)
    return p, portraits.WORLD.render(p)


@pytest.fixture(scope="module")
def net() -> AttributeNet:
    """An untrained one."""
    return AttributeNet("strided", {k: f.classes for k, f in WORLD.factors.items()}).eval()


@pytest.fixture(scope="module")
def shipped(fresh) -> dict[str, dict[str, torch.Tensor]]:
    """What each shipped network reads off the fresh portraits."""
    return {
        name: evaluators.read(AttributeNet.load(MODELS / "evaluators" / name), fresh[1])
        for name in NETS
    }


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load(MODELS / "clip")


# ------------------------------------------------------------------------- the attribute networks


@pytest.mark.parametrize("architecture", evaluators.ARCHITECTURES)
def test_save_and_load_give_the_same_network(architecture, tmp_path):
    net = (
        AttributeNet(architecture, {"smile": ("absent", "present"), "tone": ("a", "b", "c")})
        .half()
        .float()
        .eval()
    )
    net.save(tmp_path)
    loaded, x = AttributeNet.load(tmp_path), torch.rand(3, 3, 32, 32) * 2 - 1
    assert loaded.factors == net.factors and not loaded.training
    for a, b in zip(net.logits(x).values(), loaded.logits(x).values(), strict=True):
        assert torch.equal(a, b)


def test_read_is_made_of_probabilities_and_does_not_depend_on_the_batch_size(net):
    x = torch.rand(7, 3, 32, 32) * 2 - 1
    whole, parts = evaluators.read(net, x), evaluators.read(net, x, batch=3)
    for k, f in WORLD.factors.items():
        assert whole[k].shape == (7, len(f.classes))
        torch.testing.assert_close(whole[k].sum(1), torch.ones(7))
        torch.testing.assert_close(whole[k], parts[k])
    assert evaluators.embed(net, x, batch=4).shape == (7, 128)


def test_images_as_they_are_stored_can_be_looked_at(net):
    x = (torch.rand(2, 3, 48, 48) * 2 - 1).half()  # a CPU resizes no float16
    for factor, logits in net.logits(x).items():
        assert torch.equal(logits, net.logits(x.float())[factor])


class Sizes:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        return images.flatten(1)[:, :2]


def test_stored_images_are_looked_at_in_float32_and_few_large_ones_at_once():
    look, images = Sizes(), torch.rand(9, 3, 1024, 1024, dtype=torch.float16)
    found = evaluators.embed(look, images)
    assert [len(some) for some in look.seen] == [4, 4, 1]  # as many pixels as 64 of 256 x 256
    assert all(some.dtype == torch.float32 for some in look.seen)
    assert torch.equal(found, images.flatten(1)[:, :2].float())


@pytest.mark.parametrize("name", NETS)
def test_other_sizes_are_resized(name, fresh, shipped):
    large = evaluators.read(
        AttributeNet.load(MODELS / "evaluators" / name), portraits.WORLD.render(fresh[0][:200], 64)
    )
    same = torch.stack(
        [large[k].argmax(1) == shipped[name][k][:200].argmax(1) for k in WORLD.factors]
    )
    assert same.float().mean() > 0.97


def test_temperature_divides_the_logits(net):
    x = torch.rand(2, 3, 32, 32)
    plain = net.logits(x)["gender"]
    net.temperature[0] = 2
    torch.testing.assert_close(net.logits(x)["gender"], plain / 2)
    net.temperature[0] = 1


def damage(folder: Path, kind: str, weights: str = "model.safetensors") -> None:
    match kind:
        case "missing":
            (folder / weights).unlink()
        case "cut":
            (folder / weights).write_bytes((folder / weights).read_bytes()[:1000])
        case "config":
            (folder / "config.json").write_text("{\n oops")
        case "foreign":
            (folder / "config.json").write_text('{"architecture": "resnet50",\n "factors": {}}')


@pytest.mark.parametrize("kind", ["missing", "cut", "config", "foreign"])
def test_damaged_or_foreign_weights_get_one_line(kind, net, tmp_path):
    net.save(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(ValueError, match="missing, damaged or foreign") as error:
        AttributeNet.load(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_weights_of_another_architecture_are_foreign(net, tmp_path):
    net.save(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("strided", "residual"))
    with pytest.raises(ValueError, match="missing, damaged or foreign") as error:
        AttributeNet.load(tmp_path)
    assert "\n" not in str(error.value)


CHANGES = [
    (lambda state, name: state.pop(name), "{path} lacks {name}$"),
    (lambda state, name: state.update(more=torch.zeros(2)), "{path} has the unknown more$"),
    (
        lambda state, name: state.update({name: torch.zeros(7)}),
        r"{path}: {name} has shape \(7,\) instead of \(",
    ),
    (
        lambda state, name: state[name].view(-1)[:1].fill_(torch.nan),
        "{path}: {name} holds values that are not finite$",
    ),
]


@pytest.mark.parametrize(("change", "told"), CHANGES)
@pytest.mark.parametrize("kind", [AttributeNet, Clip])
def test_an_evaluator_that_is_not_whole_is_refused(kind, change, told, net, clip, tmp_path):
    (net if kind is AttributeNet else clip).save(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    name = next(name for name in sorted(state) if name.endswith("weight"))
    change(state, name)
    save_file(state, path, {"format": "pt"})
    with pytest.raises(ValueError, match=told.format(path=path, name=name)) as error:
        kind.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_clip_without_words_is_refused(clip, tmp_path):
    """transformers would take all texts for the same."""
    clip.save(tmp_path)
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(ValueError, match="missing, damaged or foreign") as error:
        Clip.load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("factor", WORLD.factors)
@pytest.mark.parametrize("name", NETS)
def test_shipped_networks_are_right_and_know_how_often(name, factor, fresh, shipped):
    confidence, guess = shipped[name][factor].max(-1)
    right = (guess == fresh[0].labels[factor]).float()
    assert right.mean() >= (0.99 if factor in ATTRIBUTES else 0.97)
    bins = (confidence * 15).long().clamp(max=14)
    ece = sum((right - confidence)[bins == b].sum().abs() for b in range(15)) / len(right)
    assert ece < 0.02


def test_the_two_networks_are_independent():
    a, b = (AttributeNet.load(MODELS / "evaluators" / name).config for name in NETS)
    assert a["architecture"] != b["architecture"] and a["factors"] == b["factors"]


# ------------------------------------------------------------------------------------------- CLIP


def test_every_word_of_a_caption_is_one_token(clip):
    captions = portraits.captions(portraits.WORLD.sample(200, balanced=True))
    for caption in captions:
        words = caption.replace(",", " ,").split()
        tokens = clip.tokenise([caption])["input_ids"][0].tolist()
        assert len(tokens) == len(words) + 2 <= clip.context
        assert clip.tokenizer.convert_ids_to_tokens(tokens[1:-1]) == [w + "</w>" for w in words]
        assert clip.tokenizer.decode(tokens, skip_special_tokens=True).replace(" ,", ",") == caption


def test_no_text_is_unknown_or_too_long(clip):
    tokens = clip.tokenise(["Ünïcode 9!", "a man " * 100])["input_ids"]
    assert tokens.shape == (2, clip.context) and tokens.max() < len(clip.tokenizer)
    end = clip.tokenizer.eos_token_id
    assert tokens[0, 1] != end and tokens[1, -1] == end


def test_features_have_unit_norm_at_any_size_and_padding_is_ignored(clip, fresh):
    images = clip.image_features(portraits.WORLD.render(fresh[0][:4], 64))
    texts = ["a portrait of a woman", "a portrait of an old man with glasses, looking down"]
    both = clip.text_features(texts)
    for features in (images, both):
        torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(features)))
    torch.testing.assert_close(both[:1], clip.text_features(texts[:1]))
    assert torch.cosine_similarity(images, clip.image_features(fresh[1][:4])).min() > 0.9
    torch.testing.assert_close(
        evaluators.embed(clip, fresh[1][:5], batch=2), clip.image_features(fresh[1][:5])
    )


def test_clip_retrieves_captions_and_reads_class_texts(clip, fresh):
    p, images = fresh[0][:1000], evaluators.embed(clip, fresh[1][:1000])
    captions = portraits.captions(p)
    similarity = images[:100] @ clip.text_features(captions[:100]).T
    for one_way in (similarity, similarity.T):
        assert (
            sum(captions[i] == captions[j] for i, j in enumerate(one_way.argmax(1).tolist())) >= 97
        )
    for name in ATTRIBUTES:
        guess = (
            images @ clip.text_features(evaluators.class_texts(name, WORLD.factors[name].classes)).T
        ).argmax(1)
        assert (guess == p.labels[name]).float().mean() >= 0.95


def test_clip_round_trip_and_plain_transformers(clip, tmp_path, fresh):
    clip.save(tmp_path)
    assert {"vocab.json", "merges.txt", "config.json", "model.safetensors"} <= {
        f.name for f in tmp_path.iterdir()
    }
    again = Clip.load(tmp_path)
    texts = ["a girl with a smile"]
    assert torch.equal(clip.text_features(texts), again.text_features(texts))
    plain = CLIPModel.from_pretrained(tmp_path).float()
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(texts, return_tensors="pt")
    scores = plain(**tokens, pixel_values=fresh[1][:3]).logits_per_image
    expected = (
        clip.model.logit_scale.exp()
        * clip.image_features(fresh[1][:3])
        @ clip.text_features(texts).T
    )
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    "kind", ["missing", "cut", "config", "foreign", "no vocabulary", "other weights"]
)
def test_damaged_or_foreign_clip_gets_one_line(kind, clip, net, tmp_path):
    folder = shutil.copytree(MODELS / "clip", tmp_path / "clip")
    damage(folder, kind)
    if kind == "no vocabulary":
        (folder / "vocab.json").unlink()
    if kind == "other weights":
        net.save(tmp_path / "net")
        shutil.copy(tmp_path / "net" / "model.safetensors", folder)
    with pytest.raises(ValueError, match="missing, damaged or foreign") as error:
        Clip.load(folder)
    assert "\n" not in str(error.value)


def test_class_texts():
    assert evaluators.class_texts("age", ("young", "adult", "old")) == [
        "a portrait of a young person",
        "a portrait of an adult person",
        "a portrait of an old person",
    ]
    assert evaluators.class_texts("digit", ("two", "three")) == ["digit two", "digit three"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"do_center_crop": False}, "do_center_crop is False, and only True can be honoured"),
        ({"resample": 2}, "resample is 2, and only 3 can be honoured"),
        ({"size": {"height": 8, "width": 8}}, "size must name the shortest_edge"),
    ],
)
def test_a_preprocessing_that_cannot_be_honoured_is_refused(
    changes: dict, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "preprocessor_config.json"
    usual = {
        "size": 8,
        "crop_size": 8,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    path.write_text(json.dumps(usual))
    assert evaluators.Preprocessing.load(path).edge == 8
    path.write_text(json.dumps(usual | changes))
    with pytest.raises(ValueError, match=told):
        evaluators.Preprocessing.load(path)
