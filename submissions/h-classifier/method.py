import torch
from sklearn.linear_model import LogisticRegression

from difflens_utils.ksae import map_to_vectors


def scores(task):
    total = 0
    for layer in task.h.unbind(1):
        vectors = map_to_vectors(layer.float())  # (n, P, d)
        mean = vectors.mean(1)
        head = LogisticRegression(max_iter=300).fit(mean.numpy(), task.labels.numpy())
        weight = torch.zeros(len(task.classes), mean.shape[1])
        rows = torch.from_numpy(head.coef_).float()
        if len(head.classes_) == 2:
            rows = torch.cat([-rows, rows])
        weight[head.classes_] = rows
        active = task.dictionary.latents(vectors).mean((0, 1))  # (D,)
        total = total + active * (weight @ task.dictionary.directions.T)
    return total
