"""The results that the DiffLens paper reports in its Tables 1 and 2, as printed.

FD is its Eq. 13. CLIP-I and CLIP-T are on the scale (cos + 1) / 2 of its released evaluation. The
paper's third attribute is race. It is called tone here.

>>> from difflens_utils.subjects import paper
>>> paper.TABLE_1["gender"]["original"].fd, paper.TABLE_1["gender"]["DiffLens"].fd
(0.226, 0.002)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Cell(NamedTuple):
    """One cell of a table: what a method reaches for an attribute."""

    fd: float
    clip_i: float | None = None
    clip_t: float | None = None


Table = Mapping[str, Mapping[str, Cell]]  # {attribute: {method: cell}}

TABLE_1: Table = {  # P2 on CelebA-HQ, 10,000 images a cell
    "gender": {
        "original": Cell(0.226),
        "latent editing": Cell(0.003, 0.9474),
        "H-Distribution": Cell(0.048, 0.9440),
        "Act@L": Cell(0.190, 0.8060),
        "DiffLens": Cell(0.002, 0.9479),
    },
    "age": {
        "original": Cell(0.592),
        "latent editing": Cell(0.606, 0.9092),
        "H-Distribution": Cell(0.511, 0.8594),
        "Act@L": Cell(0.544, 0.7793),
        "DiffLens": Cell(0.401, 0.9414),
    },
    "tone": {
        "original": Cell(0.718),
        "latent editing": Cell(0.317, 0.9081),
        "H-Distribution": Cell(0.494, 0.8762),
        "Act@L": Cell(0.700, 0.7846),
        "DiffLens": Cell(0.447, 0.9111),
    },
}
TABLE_2: Table = {  # Stable Diffusion, four prompts, 500 images each
    "gender": {
        "original": Cell(0.564, None, 0.6155),
        "latent editing": Cell(0.408, 0.8253, 0.6005),
        "H-Distribution": Cell(0.222, 0.8475, 0.6087),
        "latent direction": Cell(0.305, 0.8058, 0.6091),
        "finetuning": Cell(0.050, 0.8779, 0.6095),
        "DiffLens": Cell(0.046, 0.8501, 0.6090),
    },
    "age": {
        "original": Cell(0.752, None, 0.6155),
        "latent editing": Cell(0.682, 0.8527, 0.6122),
        "H-Distribution": Cell(0.506, 0.8345, 0.6098),
        "latent direction": Cell(0.052, 0.8151, 0.6067),
        "finetuning": Cell(0.746, 0.8779, 0.6095),
        "DiffLens": Cell(0.049, 0.8778, 0.6057),
    },
    "tone": {
        "original": Cell(0.558, None, 0.6155),
        "latent editing": Cell(0.524, 0.8804, 0.6086),
        "H-Distribution": Cell(0.544, 0.8255, 0.6100),
        "latent direction": Cell(0.175, 0.8211, 0.6132),
        "finetuning": Cell(0.198, 0.8779, 0.6095),
        "DiffLens": Cell(0.401, 0.9096, 0.6149),
    },
}
