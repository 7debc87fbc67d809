import torch

from difflens_utils.ksae import map_to_vectors, vectors_to_map


def towards(task):
    sae, options, steps = task.dictionary, task.options, task.h.shape[1]
    stage = range(int(options["first"] * steps), int(options["last"] * steps) + 1)
    gaps = torch.stack([gap_of(task, step) for step in stage], 1)  # (classes, stage, P, D)
    chosen = gaps.mean((1, 2)).topk(options["chosen"], dim=-1).indices  # (classes, chosen)

    def edit(c, strength):
        gap = gaps[c][..., chosen[c]].clamp_min(0)  # (stage, P, chosen)
        shows = gap.sum(-1)
        places = shows >= shows.quantile(1 - options["places"], dim=-1, keepdim=True)
        added = strength * (gap * places[..., None]) @ sae.directions[chosen[c]]  # (stage, P, d)

        def apply(h, step):
            if step.index not in stage:
                return None
            here = added[step.index - stage.start].expand(len(h), -1, -1)
            return h + vectors_to_map(here, h.shape).to(h)

        return apply

    return edit


def gap_of(task, step):
    """By how much each latent is more active in a class, per position: (classes, P, D)."""
    active = task.dictionary.latents(map_to_vectors(task.h[:, step].float()))  # (n, P, D)
    classes = range(len(task.classes))
    return torch.stack(
        [active[task.labels == c].mean(0) - active[task.labels != c].mean(0) for c in classes]
    )
