import torch

from difflens_utils.ksae import map_to_vectors, vectors_to_map


def scores(task):
    every = by_step(task)  # (T, classes, D)
    strongest = every.abs().argmax(0, keepdim=True)
    return every.gather(0, strongest)[0]


def by_step(task):
    found = []
    for layer in task.h.unbind(1):
        mean = task.dictionary.latents(map_to_vectors(layer.float())).mean(1)  # (n, D)
        classes = range(len(task.classes))
        found.append(torch.stack([score(mean, task.labels == c, task) for c in classes]))
    return torch.stack(found)


def score(mean, rows, task):
    delta = task.options["delta"]
    own, other = mean[rows].mean(0), mean[~rows].mean(0)
    return own / (own.sum() + delta) - other / (other.sum() + delta)


def towards(task):
    """Latents of other classes are multiplied by 1 - strength where they are above their mean."""
    sae, most = task.dictionary, task.options["chosen"]
    best = by_step(task).topk(most, dim=-1).indices  # (T, classes, chosen)
    usual = [sae.latents(map_to_vectors(layer.float())).mean((0, 1)) for layer in task.h.unbind(1)]

    def edit(c, strength):
        def apply(h, step):
            others = [best[step.index, o] for o in range(len(task.classes)) if o != c]
            chosen = torch.cat(others).unique()
            active = sae.latents(map_to_vectors(h).float())[..., chosen]
            strong = active > usual[step.index][chosen]
            change = -strength * active * strong
            return h + vectors_to_map(change @ sae.directions[chosen], h.shape).to(h)

        return apply

    return edit
