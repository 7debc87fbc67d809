"""PlantedDiffusion, a benchmark of methods that open a diffusion model: its truth is planted.

The factors of the training data are known, go through a trained network, and come out as pixels.
Five tracks ask what a method makes of that, on every subject that ships:

1. recover: units of frozen activations against the planted factors;
2. attribute: scores of latents against what each does to the picture;
3. steer: what edits keep where half of the bias is left;
4. balance: how near edits bring the class shares to a target;
5. locate: where in the network an attribute passes.

A submission is a folder with `method.yml` and, as a rule, `method.py`. A function there answers a
track, and is called with what it may know (`task`):

    units(given)        -> function of vectors (..., d) to units (..., U)           recover
    scores(task)        -> Tensor (classes, D), for the latents of task.dictionary  attribute
    towards(task)       -> function of (class, strength) to an edit of h            steer, balance
    located(task)       -> {block: effects (T,)}                                    locate

What a submission may not see is refused where it reads it:

>>> from difflens_utils import bench
>>> sorted(bench.TRACKS)
['attribute', 'balance', 'locate', 'recover', 'steer']
>>> bench.VERSION
1
"""

from __future__ import annotations

VERSION = 1
"""Of rules and seeds. Figures of different versions are not compared."""

TRACKS = {  # the figure that ranks, of which more is better, and the function that answers
    "recover": ("mcc", "units"),
    "attribute": ("correlation", "scores"),
    "steer": ("kept", "towards"),
    "balance": ("gone", "towards"),
    "locate": ("correlation", "located"),
}

__all__ = ["TRACKS", "VERSION"]
