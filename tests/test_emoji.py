"""People emoji: the drawings, the planted shares, what is held out, and the recipe of the model."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from torch import Tensor

from difflens_utils import debiasing, evaluators, sampling
from difflens_utils.debiasing import Search
from difflens_utils.study import Study
from difflens_utils.subjects import pipelines, registry
from difflens_utils.subjects.conditions import Texts3
from difflens_utils.worlds import Scenes, emoji
from difflens_utils.worlds.emoji import GENDERS, ROLES, STYLES, TONES, WORLD, Drawing
from models.emoji import card, compose, draw, train
from workflow import emoji as emoji_page


def every_person() -> Scenes:
    """One person of each combination of factors, in the middle of the picture."""
    grid = torch.cartesian_prod(*[torch.arange(len(f.classes)) for f in WORLD.model])
    labels = dict(zip(WORLD.factors, grid.unbind(1), strict=True))
    return Scenes(labels, torch.zeros(len(grid), len(WORLD.nuisances)))


# --------------------------------------------------------------------------------------------------
# The drawings


def test_the_archive_holds_every_woman_and_man_in_every_tone_and_style() -> None:
    found = emoji.drawings()
    count = Counter(drawing.gender for drawing in found)
    assert count["woman"] == count["man"] == len(STYLES) * len(ROLES) * 6 == 720
    assert count["neutral"] == 554
    assert all(image.shape == (3, 64, 64) for image in found.values())
    assert emoji.ARCHIVE.stat().st_size < 8e6


def test_no_two_people_look_the_same_but_the_astronauts_of_noto() -> None:
    """As the card says: woman and man are one drawing there, which the set has twice."""
    seen: dict[bytes, Drawing] = {}
    twice = []
    for drawing, image in emoji.drawings().items():
        if drawing.gender == "neutral":
            continue
        other = seen.setdefault(image.numpy().tobytes(), drawing)
        if other != drawing:
            twice.append((drawing.style, drawing.role, other.role, other.tone == drawing.tone))
    assert twice == [("noto", "astronaut", "astronaut", True)] * 6


def test_pictures_lie_on_white_and_move_a_little() -> None:
    people = every_person()[slice(0, 64)]
    still = WORLD.render(people)
    assert still.shape == (64, 3, 64, 64) and still.amax() == 1 and still.amin() >= -1
    edge = torch.cat([still[:, :, 0], still[:, :, -1]], -1)
    moved = WORLD.render(Scenes(people.labels, torch.ones(64, 4)))
    assert (edge == 1).float().mean() > 0.5
    change = (moved - still).abs().mean()
    assert 0.01 < change < 0.2
    assert WORLD.render(people, 32).shape == (64, 3, 32, 32)


def test_a_shade_is_one_of_the_modifiers_of_a_tone() -> None:
    labels = {"style": 0, "role": 3, "gender": 1, "tone": list(TONES).index("dark")}
    both = {name: torch.full((2,), value) for name, value in labels.items()}
    nuisance = torch.zeros(2, 4)
    nuisance[:, 0] = torch.tensor([-0.5, 0.5])
    images = WORLD.render(Scenes(both, nuisance))
    for image, tone in zip(images, ("medium-dark", "dark"), strict=True):
        drawn = emoji.drawings()[Drawing("noto", list(ROLES)[3], "man", tone)]
        torch.testing.assert_close(image, drawn / 127.5 - 1, atol=1e-4, rtol=0)


# --------------------------------------------------------------------------------------------------
# Shares and what is held out


def test_shares_are_those_of_the_table_of_occupations() -> None:
    lines = (emoji.FOLDER / "occupations.csv").read_text().splitlines()
    assert len(lines) == 31
    for line in lines[1:]:
        role, men, _ = line.split(",", 2)
        share = WORLD.marginal("gender", {"role": role})[GENDERS.index("man")]
        assert share.item() == pytest.approx(float(men) / 100)
    without = [role for role in ROLES.values() if not role.source]
    assert len(without) == 13 and all(role.men == 0.5 for role in without)


def test_holding_combinations_out_changes_no_share() -> None:
    """The probabilities of what is left, exactly: every factor as planted, gender for each role."""
    people = every_person()
    weight = torch.ones(len(people), dtype=torch.float64)
    for name, factor in WORLD.factors.items():
        for row in range(len(people)):
            given = WORLD.names(people, row)
            weight[row] *= factor.probabilities(given)[int(people.labels[name][row])]
    kept = ~emoji.held_out(people.labels)
    assert (~kept).sum() == len(ROLES) * 2 * len(GENDERS)
    for name in ("style", "gender", "tone"):
        for role in (None, *range(len(ROLES))):
            if role is not None and name != "gender":
                continue
            rows = kept if role is None else kept & (people.labels["role"] == role)
            every = torch.ones_like(kept) if role is None else people.labels["role"] == role
            shares = [
                torch.bincount(people.labels[name][some], weight[some]) / weight[some].sum()
                for some in (rows, every)
            ]
            torch.testing.assert_close(*shares, atol=2e-3, rtol=0)


def test_what_is_learned_and_what_is_kept_out_do_not_meet() -> None:
    learned, kept = WORLD.to_learn(500, 3), WORLD.kept_out(100, 3)
    assert len(learned) == 500 and len(kept) == 100
    assert not emoji.held_out(learned.labels).any() and emoji.held_out(kept.labels).all()
    people = WORLD.to_learn(500, 3, balanced=True)
    assert not emoji.held_out(people.labels).any()
    assert people.labels["gender"].float().mean() == pytest.approx(0.5, abs=0.08)


# --------------------------------------------------------------------------------------------------
# Captions


def test_captions_are_true_and_state_what_they_say() -> None:
    rng, person = random.Random(0), {"style": "noto", "role": "judge", "gender": "woman"}
    person["tone"] = "dark"
    texts = Counter(emoji.caption(person, rng)[0] for _ in range(3000))
    assert set(texts) == {
        f"{who}{tone}{style}"
        for who in ("judge", "woman judge")
        for tone in ("", ": dark skin tone")
        for style in ("", ", noto")
    }
    assert emoji.caption(person, rng, ("gender",))[1] >= {"role", "gender"}
    named = [emoji.caption(person, rng)[1] for _ in range(300)]
    assert sum("style" in stated for stated in named) / 300 == pytest.approx(2 / 3, abs=0.1)


def test_a_clip_reads_statements_without_a_role_and_the_classes_in_their_words() -> None:
    rng, person = random.Random(0), {"style": "noto", "role": "judge", "gender": "woman"}
    person["tone"] = "dark"
    said = [emoji.statement(person, rng) for _ in range(2000)]
    without = [text for text, stated in said if "role" not in stated]
    assert len(without) / 2000 == pytest.approx(0.25, abs=0.04)
    assert {"woman", "person", "person: dark skin tone", "woman: dark skin tone, noto"} <= set(
        without
    )
    assert WORLD.class_texts("gender") == ["woman", "man"]
    assert WORLD.class_texts("tone")[3] == "person: dark skin tone"
    assert WORLD.class_texts("style")[0] == "person, noto"
    assert WORLD.class_texts("role")[0] == "firefighter"


def test_every_word_of_a_caption_is_one_token() -> None:
    tokens = train.tokenizer_of(emoji.vocabulary(), train.CONTEXT)
    for role in ROLES:
        text = emoji.prompt(role, style="fluent", gender="woman", tone="light")
        ids = tokens(text).input_ids
        words = text.replace(":", " :").replace(",", " ,").split()
        assert len(ids) == len(words) + 2 <= train.CONTEXT


# --------------------------------------------------------------------------------------------------
# The subject that ships


def test_the_shipped_subject_draws_what_it_is_told() -> None:
    """People of combinations that were held out, as the scorer reads them."""
    subject = registry.load("emoji", "cpu", dtype=torch.float32)
    people = WORLD.kept_out(24, 5)
    texts = [emoji.prompt(**WORLD.names(people, row)) for row in range(24)]
    seen = evaluators.read(subject.scorer, sampling.sample(subject, 24, 1, steps=6, prompts=texts))
    for factor, least in (("style", 0.7), ("role", 0.8), ("gender", 0.8), ("tone", 0.6)):
        right = (seen[factor].argmax(-1) == people.labels[factor]).float().mean()
        assert right >= least, factor


def test_its_prompts_are_true_of_what_they_state() -> None:
    subject = registry.load("emoji", "cpu", dtype=torch.float32)
    assert subject.texts() == ["health worker", "teacher", "technologist", "farmer"]
    assert subject.planted("gender", prompt=0)[0].item() == pytest.approx(0.906)
    for prompt in (*subject.prompts.learn, *subject.prompts.probe):
        named = {name: c for name, c in prompt.given.items() if name != "role"}
        assert prompt.text == emoji.prompt(prompt.given["role"], **named)
        assert prompt.without == prompt.given["role"]
    tuned = {p.given["role"] for p in subject.prompts.learn}
    assert not tuned & {p.given["role"] for p in subject.prompts.held_out}


# --------------------------------------------------------------------------------------------------
# The recipes


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The recipe with small networks, few people, and a folder of its own."""

    def autoencoder() -> AutoencoderKL:
        torch.manual_seed(0)
        config = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            sample_size=64,
            block_out_channels=(4, 4, 4),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
            shift_factor=0.0,
        )
        return config

    values = {"HERE": tmp_path, "POOL": 256, "PLANTED": 200, "VAE_BATCH": 4, "BATCH": 4}
    for name, value in values.items():
        monkeypatch.setattr(train, name, value)
    monkeypatch.setattr(train, "autoencoder", autoencoder)
    return tmp_path


def test_the_recipe_makes_a_pipeline_that_opens(small: Path) -> None:
    train.train_vae(8, small)
    train.train_transformer(8, small)
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    theirs = StableDiffusion3Pipeline.from_pretrained(small, dtype=torch.float32, **absent)
    theirs.set_progress_bar_config(disable=True)
    device, dtype = torch.device("cpu"), torch.float32
    about = {"condition": Texts3(length=0), "guidance": 2.0}
    subject = pipelines.read("small", small, device, dtype, **about)
    texts = ["judge", "woman judge: dark skin tone"]
    ours = sampling.sample(subject, 2, 4, steps=3, prompts=texts)
    x = sampling.Noise(sampling.image_seeds(2, 4), subject.shape, device).draw()
    images = theirs(
        texts,
        latents=x,
        num_inference_steps=3,
        guidance_scale=2.0,
        height=64,
        width=64,
        max_sequence_length=0,
        output_type="pt",
    ).images
    torch.testing.assert_close(ours, (images * 2 - 1).clamp(-1, 1), atol=1e-4, rtol=0)
    assert subject.shape == (4, 16, 16) and subject.module == "transformer_blocks.3"


def test_a_loss_that_knows_the_velocity_is_zero(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is epsilon - x_0, at x_t = (1 - sigma) x_0 + sigma epsilon."""
    train.train_vae(4, small)
    seen: list[float] = []

    class Perfect(torch.nn.Module):
        def __init__(self, _tokens: object) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor) -> Tensor:
            assert ids.shape == (4, train.CONTEXT) and ((sigma > 0) & (sigma < 1)).all()
            people = train.population()
            generator = torch.Generator().manual_seed(train.SEED * 10_000_000)
            rows = torch.randint(len(people), (4,), generator=generator)
            clean = train.latents(people, small)[rows].float()
            s = sigma.reshape(-1, 1, 1, 1)
            return (noisy - clean) / s + self.weight  # (x_t - x_0) / sigma = epsilon - x_0

    def once(_name: str, model: torch.nn.Module, loss_at: object, _run: object) -> dict:
        seen.append(float(loss_at(0).detach()))
        return model.state_dict()

    monkeypatch.setattr(train, "Flow", Perfect)
    monkeypatch.setattr(train, "loop", once)
    monkeypatch.setattr(train, "export", lambda *_: None)
    train.train_transformer(4, small)
    assert seen[0] < 1e-3  # the product of a network in half precision


def test_a_transformer_without_an_autoencoder_is_told(small: Path) -> None:
    with pytest.raises(ValueError, match="has no autoencoder; train it first"):
        train.check("transformer", 640)
    with pytest.raises(ValueError, match="--images must be at least 4 .one batch., got 3"):
        train.check("vae", 3)
    assert not (small / "vae").exists()


def test_names_of_drawings_are_those_of_the_packages() -> None:
    named = {
        Drawing("noto", "judge", "woman", "dark"): "woman-judge-dark-skin-tone",
        Drawing("flat", "judge", "neutral", "yellow"): "judge",
        Drawing("fluent", "person in tuxedo", "man", "medium-light"): "man-in-tuxedo-medium-light",
        Drawing("twemoji", "bald person", "man", "yellow"): "man-bald",
        Drawing("twemoji", "health worker", "neutral", "light"): "health-worker-light-skin-tone",
    }
    assert {drawing: draw.icon_name(drawing) for drawing in named} == named


def test_packages_are_read_with_their_aliases(tmp_path: Path) -> None:
    content = {
        "icons": {"a": {"body": "<g/>", "width": 8}},
        "aliases": {"b": {"parent": "a"}, "c": {"parent": "gone"}},
        "width": 16,
        "height": 16,
    }
    data = json.dumps(content).encode()
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/icons.json")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    found = draw.icons(tmp_path / "package.tgz")
    assert set(found) == {"a", "b"} and found["b"] == {"width": 8, "height": 16, "body": "<g/>"}


def test_a_package_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["draw", str(tmp_path)])
    with pytest.raises(SystemExit, match="has no iconify-json-noto"):
        draw.main()


# --------------------------------------------------------------------------------------------------
# The card, and the page that is made from it


def test_the_card_is_measured_and_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"NAMED": 12, "PER_ROLE": 2, "JUDGED": 40, "BLOCK": 5, "STEPS": 2, "OTHER_STEPS": (1,)}
    for name, value in small.items():
        monkeypatch.setattr(card, name, value)
    monkeypatch.setattr(card, "RESULT", tmp_path / "emoji.json")
    monkeypatch.setattr(card, "PICTURE", tmp_path / "emoji.png")
    card.main()
    found = json.loads((tmp_path / "emoji.json").read_text())
    assert list(found["steps"]) == ["1", "2"]
    assert found["obeyed"]["everything"]["all"]["n"] == 12
    assert found["composed"]["everything"]["all"]["n"] == 6
    for folder in "generated", "_static":
        (tmp_path / folder).mkdir()
    emoji_page.write(found, tmp_path)
    table = (tmp_path / "generated/emoji_obeyed.md").read_text()
    assert [line.split(" | ")[0].strip("| ") for line in table.splitlines()[2:]] == [
        *WORLD.factors,
        "everything",
    ]
    assert (tmp_path / "_static/emoji_shares.png").stat().st_size > 10_000


def test_cells_of_a_tone_are_held_out_as_often_as_not() -> None:
    for tone, word in enumerate(TONES):
        cells = compose.cells_of(tone, each=2)
        style, role = cells.people.T
        labels = {"style": style, "role": role, "tone": torch.full_like(style, tone)}
        assert torch.equal(emoji.held_out(labels), cells.held_out)
        assert int(cells.held_out.sum()) == int((~cells.held_out).sum()) == 2 * 15
        assert all(word in prompt.text for prompt in cells.prompts(named=True))
        assert not any(word in prompt.text for prompt in cells.prompts())


def test_drawings_show_their_own_tone_and_others_do_not() -> None:
    cells = compose.cells_of(3, each=1)
    subject = SimpleNamespace(scorer=registry.load("emoji", "cpu").scorer, device="cpu")
    study = cast(Study, SimpleNamespace(subject=subject))
    for tone in (0, 3):
        style, role = cells.people.T
        labels = {"style": style, "role": role, "gender": style * 0, "tone": style * 0 + tone}
        images = WORLD.render(Scenes(labels, torch.zeros(len(style), len(WORLD.nuisances))))
        hits = compose.shown(study, images, cells)
        found = compose.shares(hits, cells.held_out)
        right = float(tone == 3)
        assert abs(found["tone"]["held out"]["value"] - right) < 0.2  # of 15 drawings
        assert abs(found["all three"]["learned"]["value"] - right) < 0.2
        assert found["style and role"]["learned"]["value"] > 0.8


def test_an_edit_is_towards_one_tone_and_its_row_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[float]] = []
    monkeypatch.setattr(debiasing, "plans", lambda s, wanted, together: asked.append(wanted))
    monkeypatch.setattr(debiasing, "edit_of", lambda s, planned, n, seed: (n, seed))
    search = cast(Search, SimpleNamespace())
    assert compose.edit_towards(search, 2, 5) == (5, compose.SEED + 2)
    assert asked == [[0.0, 0.0, 1.0, 0.0]]
    share = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    row = {"tone": {"learned": share, "held out": share}}
    (tmp_path / "generated").mkdir()
    emoji_page.write_composed({"rows": {"no edit": row}}, tmp_path)
    table = (tmp_path / "generated/emoji_composed.md").read_text()
    assert "tone, held out" in table and "| no edit | 0.50 [0.40, 0.60] |" in table


def test_a_drawing_that_was_moved_is_its_own_neighbour() -> None:
    drawings, _ = card.every_drawing(held_out=False)
    moved = torch.roll(drawings[[3, 50]], (1, -2), (2, 3))
    distance, which = card.nearest(moved, drawings)
    assert which.tolist() == [3, 50]
    assert float(distance.max()) < 2e-3  # cdist takes the difference of large squares
