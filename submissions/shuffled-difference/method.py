import torch

from difflens_utils.ksae import map_to_vectors, vectors_to_map


def towards(task):
    h, classes = task.h.float(), range(len(task.classes))  # h: (n, T, *h)
    gaps = [h[task.labels == c].mean(0) - h[task.labels != c].mean(0) for c in classes]
    vectors = [map_to_vectors(gap) for gap in gaps]  # (T, P, d) each
    order = torch.randperm(vectors[0].shape[-1], generator=torch.Generator().manual_seed(task.seed))
    shuffled = [
        vectors_to_map(v[..., order], gap.shape) for v, gap in zip(vectors, gaps, strict=True)
    ]

    def edit(c, strength):
        return lambda h, step: h + strength * shuffled[c][step.index].to(h)

    return edit
