from contextlib import ExitStack

import torch

from difflens_utils.sampling import hooks


@torch.no_grad()
def located(task):
    subject, n = task.study.subject, task.options["n"]
    labels = task.labels[:n]
    clean = subject.encode(task.images[:n].to(subject.device))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(task.seed)).to(clean)
    found = {block: [] for block in task.blocks}
    for t in subject.times(task.h.shape[1]):
        keep, spread = subject.level(t)
        with ExitStack() as stack:
            puts_out = {
                block: stack.enter_context(hooks.record(subject.network, block)) for block in found
            }
            subject.predict(keep * clean + spread * noise, t, guided=False)
        for block, [h] in puts_out.items():
            found[block].append(gap(h.flatten(1).float().cpu(), labels))
    return found


def gap(h, labels):
    """The spread of the means of classes, as a share of that within them (Fisher's ratio)."""
    groups = [h[labels == c] for c in labels.unique()]
    means = torch.stack([group.mean(0) for group in groups])
    within = torch.stack([group.var(0, correction=0) for group in groups]).mean()
    return (means.var(0, correction=0).mean() / within).item()
