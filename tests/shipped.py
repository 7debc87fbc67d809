"""A study without images, for tests of what ships beside the weights of its subject."""

from __future__ import annotations

import numpy as np
import torch

from difflens_utils.ksae import KSAE
from difflens_utils.recording import Recording, Run
from difflens_utils.study import Study


def empty(study: Study, stage: str = "evaluate") -> Recording:
    """A recording that says what it was made from, as if it had been made.

    It takes the place of `Study.recording`.
    """
    s, subject = study.settings, study.subject
    texts = subject.texts(getattr(subject.prompts, stage))
    run = Run(subject, s.n_images, study.seeds.main, s.steps, texts, batch=1)
    width = KSAE.load(subject.folder / "ksae/k_32").config.width
    h = np.zeros((1, s.steps, width, 1, 1), np.float16)
    return Recording("nothing", h, torch.zeros(1, 3, 4, 4), tuple(range(s.steps)), run)
