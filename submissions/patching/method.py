from contextlib import ExitStack

import torch

from difflens_utils import sampling
from difflens_utils.sampling import hooks


@torch.no_grad()
def located(task):
    subject = task.study.subject
    source, target = pairs_of(task, subject)
    noise = torch.randn(source.shape, generator=torch.Generator().manual_seed(task.seed))
    found = {block: [] for block in task.blocks}
    for t in subject.times(task.h.shape[1]):
        keep, spread = subject.level(t)
        x, other = (keep * image + spread * noise.to(image) for image in (source, target))

        def clean(x=x, t=t, keep=keep, spread=spread):
            return sampling.clean_image(subject.predict(x, t), x, keep, spread, subject.predicts)

        with ExitStack() as stack:
            puts_out = {
                block: stack.enter_context(hooks.record(subject.network, block)) for block in found
            }
            subject.predict(other, t)
        before = clean()
        for block, [new] in puts_out.items():
            with hooks.edit(subject.network, block, lambda h, call, new=new: new):
                found[block].append(along(clean() - before, target - source))
    return found


def pairs_of(task, subject):
    """x_0 of images of the one class, and of as many of the other."""
    two = [task.images[task.labels == c] for c in task.exchanged]
    n = min(task.options["pairs"], *map(len, two))
    return [subject.encode(some[:n].to(subject.device)) for some in two]


def along(moved, way):
    """How far images have moved along a way, as a share of it, on average."""
    return ((moved * way).flatten(1).sum(1) / way.square().flatten(1).sum(1)).mean().item()
