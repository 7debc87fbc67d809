"""Trains a small CLIP on a world, from the root of the repository:

    python -m models.clip.train [--world portraits|occupations|emoji|FOLDER] [--images N] [--seed N]
        [--out FOLDER]

A `transformers.CLIPModel` sees fresh renders, half from the planted world and half with every
factor uniform and independent. Captions state everything, a part, or a single thing. A caption that
leaves something out is true of several images of a batch; since the world is known, all of them
count as its positives. A linear head, thrown away afterwards, has to read every factor off the
image features, or the contrast would learn only what tells a batch apart.

A CLIP of another seed has seen other renders from other weights on. In the folder `second` of the
first it is the one that tells what edits keep: no method learns from it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from difflens_utils.evaluators import Clip, embed, with_article
from difflens_utils.metrics import Estimate, wilson
from difflens_utils.runtime import precision
from difflens_utils.runtime.errors import at_least

# Before transformers: the package mends a torchvision that was built for another torch.
from difflens_utils.worlds import Scenes, World, emoji, occupations, portraits
from difflens_utils.worlds.labelled import LabelledImages, declared
from difflens_utils.worlds.portraits import ATTRIBUTES

# isort: split
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from models.evaluators.train import distort, shifted, unseen

HERE = Path(__file__).parent
SEED, BATCH, RATE, WIDTH = 31, 128, 2e-3, 128
# The classes of an image -> a true text, and the factors that it states.
Caption = Callable[[dict[str, str], random.Random], tuple[str, set[str]]]


class Source(NamedTuple):
    """Where pairs of images and texts come from."""

    world: World
    caption: Caption
    words: Callable[[], set[str]]
    context: int  # tokens
    folder: Path
    full: Callable[[dict[str, str], random.Random], str]  # the text that the card retrieves by
    among: tuple[int, ...]  # the sizes of the groups that it retrieves in


# ------------------------------------------------------------------------------------------------
# Captions that state a part: a full caption of `portraits.captions` is cut at its commas and put
# together again.


def partial_caption(
    caption: str, person: dict[str, str], rng: random.Random
) -> tuple[str, set[str]]:
    """A part of a full caption, and the factors that it states.

    Each statement is kept with a probability that is drawn once per caption.
    """
    who, *rest = caption.split(", ")
    skin = who.split(" with ")[1]
    width, hair, *extras, pose, clothing, position, background = rest
    nouns = [
        (skin, {"tone"}),
        (width, {"head_width"}),
        (hair, {"hair_length", "hair_colour", "bald"}),
    ]
    # "a mustache", "red lipstick": the last word is the factor
    nouns += [(extra, {extra.split()[-1]}) for extra in extras]
    clauses = [
        (pose, {"side_pose", "head_down"}),
        (clothing, {"clothing"}),
        (position, {"position"}),
        (background, {"background"}),
    ]
    rate = rng.random() ** 2
    nouns = [noun for noun in nouns if rng.random() < rate]
    clauses = [clause for clause in clauses if rng.random() < rate]
    subject, stated = rng.choice(
        [
            (who.split(" of ")[1].split(" with ")[0], {"gender", "age"}),
            (f"{with_article(person['gender'])} person", {"gender"}),
            (f"{with_article(person['age'])} person", {"age"}),
            ("a person", set()),
        ]
    )
    text = rng.choice(["a portrait of ", ""]) + subject
    if nouns:
        text += " with " + ", ".join(noun for noun, _ in nouns)
    for clause, _ in clauses:
        text += f", {clause}"
    return text, stated.union(*(factors for _, factors in nouns + clauses))


def _full_or_part(person: dict[str, str], rng: random.Random) -> tuple[str, set[str]]:
    """Half of the captions are full."""
    text = portraits.caption(person)
    return partial_caption(text, person, rng) if rng.random() < 0.5 else (text, set(person))


def _words_of_portraits() -> set[str]:
    words = {"person", ","}
    for seed in (0, 1):
        for caption in portraits.captions(portraits.WORLD.sample(2000, seed, balanced=True)):
            words |= {word.strip(",") for word in caption.split()}
    for factor in portraits.WORLD.factors.values():
        words |= set(factor.classes)
    return words


def _of_labels(classes: dict[str, str], rng: random.Random) -> tuple[str, set[str]]:
    """A caption of labelled images, "digit two, slant left": some of the factors, one at least."""
    stated = rng.sample(list(classes), rng.randint(1, len(classes)))
    return ", ".join(f"{f} {classes[f]}" for f in classes if f in stated), set(stated)


def source_of(name: str) -> Source:
    """A source by name, or that of a folder with a `study.yml`."""
    if name in SOURCES:
        return SOURCES[name]
    study = declared(Path(name))
    words = {","}
    for factor in study.world.factors.values():
        for text in (factor.name, *factor.classes):
            words |= set(text.split())
    source = Source(
        study.world,
        _of_labels,
        words=lambda: words,
        context=20,
        folder=study.clip,
        full=lambda classes, _: ", ".join(f"{f} {c}" for f, c in classes.items()),
        among=(10,),
    )
    return source._replace(context=max(source.context, _longest(source)))


def _longest(source: Source) -> int:
    """Tokens of the longest full caption: what is cut off would still count as stated."""
    tokens = tokenizer(source)

    def count(text: str) -> int:
        return len(tokens(text).input_ids)

    classes = {
        name: max(factor.classes, key=count) for name, factor in source.world.factors.items()
    }
    return count(source.full(classes, random.Random(0)))


SOURCES = {
    "portraits": Source(
        portraits.WORLD,
        _full_or_part,
        _words_of_portraits,
        context=77,
        folder=HERE,
        full=lambda person, _: portraits.caption(person),
        among=(100, 1000),
    ),
    "occupations": Source(
        occupations.WORLD,
        occupations.caption,
        occupations.vocabulary,
        context=20,
        folder=HERE.parent / "portraits-t2i/clip",
        full=lambda person, rng: occupations.caption(person, rng, ATTRIBUTES)[0],
        among=(10,),
    ),
    "emoji": Source(
        emoji.WORLD,
        emoji.statement,
        emoji.vocabulary,
        context=16,
        folder=HERE.parent / "emoji/clip",
        full=lambda person, _: emoji.prompt(**person),
        among=(10, 100),
    ),
}


def batch(source: Source, n: int, seed: int) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Renders (B, 3, 32, 32), captions, labels (B, factors), and which caption is true of which.

    That is (B captions, B images).
    """
    world, factors = source.world, tuple(source.world.factors)
    halves = (
        world.to_learn(n // 2, seed),
        world.to_learn(n - n // 2, seed + 1, balanced=True),
    )
    rng = random.Random(seed)
    pairs = [source.caption(world.names(half, i), rng) for half in halves for i in range(len(half))]
    captions = [caption for caption, _ in pairs]
    stated = torch.tensor([[f in statements for f in factors] for _, statements in pairs])
    by_factor = [torch.cat([half.labels[f] for half in halves]) for f in factors]
    labels = torch.stack(by_factor, dim=1)  # (B, factors)
    differs = labels[:, None] != labels[None]  # (B captions, B images, factors)
    true = ~(differs & stated[:, None]).any(-1)
    images = torch.cat([world.render(half, 32) for half in halves])
    return images, captions, labels, true


# ------------------------------------------------------------------------------------------------
# The model


def merges(words: set[str]) -> list[tuple[str, str]]:
    """The merges of byte-pair encoding (Sennrich et al., 2016) until each word is one token.

    The most frequent pair comes first. The tokenizers library would break ties by hash, and so
    differently in every run.
    """
    pieces, result = [[*w[:-1], w[-1] + "</w>"] for w in words], []
    while pairs := Counter(pair for p in pieces for pair in itertools.pairwise(p)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        result.append(best)
        pieces = [_joined(p, best) for p in pieces]
    return result


def _joined(piece: list[str], pair: tuple[str, str]) -> list[str]:
    """`piece` with each occurrence of `pair` made one, from left to right."""
    out: list[str] = []
    for token in piece:
        if out and (out[-1], token) == pair:
            out[-1] += token
        else:
            out.append(token)
    return out


def tokenizer(source: Source) -> CLIPTokenizer:
    """The tokenizer of a source, to which every word of its captions is one token."""
    return tokenizer_of(source.words(), source.context)


def tokenizer_of(words: set[str], context: int) -> CLIPTokenizer:
    """A tokenizer of CLIP's scheme and layout, to which each of the words is one token.

    Its tokens are 256 bytes, the same at the end of a word, the merges, start and end of text. No
    text is unknown, and none has more than `context` tokens.
    """
    pairs, letters = merges(words), sorted(ByteLevel.alphabet())
    tokens = [
        *letters,
        *(a + "</w>" for a in letters),
        *("".join(p) for p in pairs),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return CLIPTokenizer({t: i for i, t in enumerate(tokens)}, pairs, model_max_length=context)


def network(tokens: CLIPTokenizer) -> CLIPModel:
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        num_hidden_layers=3,
        max_position_embeddings=tokens.model_max_length,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        **tower,
    )
    vision = CLIPVisionConfig(image_size=32, patch_size=8, num_hidden_layers=4, **tower)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH
    )
    # For these short sequences twice as fast as the fused one, on a CPU.
    config._attn_implementation = "eager"
    return CLIPModel(config)


def contrastive_loss(similarity: Tensor, match: Tensor) -> Tensor:
    """Symmetric cross-entropy of scaled cosines (B texts, B images).

    Its target is spread evenly over all true pairs.
    """
    by_text, by_image = match.float(), match.T.float()
    of_texts = F.cross_entropy(similarity, by_text / by_text.sum(1, keepdim=True))
    of_images = F.cross_entropy(similarity.T, by_image / by_image.sum(1, keepdim=True))
    return (of_texts + of_images) / 2


def factor_loss(logits: Tensor, labels: Tensor, world: World) -> Tensor:
    """Mean cross-entropy over the factors of (B, all classes) logits and (B, factors) labels."""
    parts = logits.split([len(f.classes) for f in world.factors.values()], dim=1)
    return torch.stack([F.cross_entropy(z, labels[:, i]) for i, z in enumerate(parts)]).mean()


def train(images: int, source: Source, seed: int = SEED) -> Clip:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tokens = tokenizer(source)
    clip = Clip(network(tokens), tokens)
    head = nn.Linear(WIDTH, sum(len(f.classes) for f in source.world.factors.values()))
    steps = images // BATCH
    rise = 0.1 if steps != 10 else 0.2  # OneCycleLR divides by rise x steps - 1
    weights = [*clip.model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=rise
    )
    progress = tqdm(range(steps), desc="clip", mininterval=20)
    for step in progress:
        x, texts, labels, match = batch(source, BATCH, seed * 1_000_000 + 2 * step)
        x = shifted(x, generator) if isinstance(source.world, LabelledImages) else x
        with precision.autocast():
            image = clip.image_features(distort(x, generator)).float()
            text = clip.text_features(texts).float()
        scale = clip.model.logit_scale.exp().clamp(max=100)
        contrast = contrastive_loss(scale * text @ image.T, match)
        # The features have unit norm; times the root of their number, an entry is about 1.
        factors = factor_loss(head(image * WIDTH**0.5), labels, source.world)
        optimizer.zero_grad(set_to_none=True)
        (contrast + factors).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses = {"contrast": f"{contrast.item():.3f}", "factors": f"{factors.item():.3f}"}
        progress.set_postfix(losses, refresh=False)
    clip.model.eval().requires_grad_(False)
    return clip


# ------------------------------------------------------------------------------------------------
# The card


def retrieval(
    image: Tensor, text: Tensor, captions: list[str], among: int
) -> dict[str, dict[str, float]]:
    """Top-1 retrieval both ways in groups of `among` of the features (N, F).

    An equal caption counts as right.
    """
    right = {"image_to_text": 0, "text_to_image": 0}
    for start in range(0, len(captions), among):
        group = slice(start, start + among)
        x, t, names = image[group], text[group], captions[group]
        for key, similarity in (("image_to_text", x @ t.T), ("text_to_image", t @ x.T)):
            found = similarity.argmax(1).tolist()
            right[key] += sum(names[i] == names[j] for i, j in enumerate(found))
    return {key: _rounded(wilson(count, len(captions))) for key, count in right.items()}


def zero_shot(
    clip: Clip, image: Tensor, labels: dict[str, Tensor], world: World
) -> dict[str, dict[str, float]]:
    """Accuracy of the attributes that the closest class texts say of image features (N, F)."""
    result = {}
    for name in world.attributes:
        text = clip.text_features(world.class_texts(name))
        guess = (image @ text.T).argmax(1)
        result[name] = _rounded(wilson(int((guess == labels[name]).sum()), len(guess)))
    return result


def _rounded(estimate: Estimate) -> dict[str, float]:
    return {name: round(number, 4) for name, number in estimate.numbers().items()}


@torch.inference_mode()
def card(clip: Clip, source: Source, seed: int = SEED, n: int = 4000) -> dict[str, dict]:
    """Held-out figures on fresh renders, planted and balanced, with 95 % Wilson intervals."""
    report, rng = {}, random.Random(seed)
    for fresh, kind in enumerate(("planted", "balanced"), start=seed + 200):
        images, labels = unseen(source.world, n, fresh, balanced=kind == "balanced")
        p = Scenes(labels, torch.zeros(len(images), 0))
        texts = [source.full(source.world.names(p, i), rng) for i in range(len(images))]
        image = embed(clip, images)
        starts = range(0, len(texts), 500)
        text = torch.cat([clip.text_features(texts[i : i + 500]) for i in starts])
        report[kind] = {
            "seed": fresh,
            "zero_shot": zero_shot(clip, image, labels, source.world),
            **{f"retrieval_{k}": retrieval(image, text, texts, k) for k in source.among},
        }
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=190_000)
    parser.add_argument(
        "--world", default="portraits", help="portraits, occupations, or a folder with a study.yml"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the data and the first weights")
    parser.add_argument("--out", type=Path, help="by default the folder of the world's CLIP")
    args = parser.parse_args()
    try:
        at_least("--images", args.images, BATCH, "one batch")
        at_least("--seed", args.seed, 0)
        source = source_of(args.world)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    out = args.out or source.folder
    train(args.images, source, args.seed).save(out)
    held_out = card(Clip.load(out), source, args.seed)
    report = {"images": args.images, "seed": args.seed, "held_out": held_out}
    (out / "card.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report["held_out"], indent=1))


if __name__ == "__main__":
    main()
