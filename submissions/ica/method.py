import warnings

import torch
from sklearn.decomposition import FastICA


def units(given):
    most = min(given.options["components"], given.vectors.shape[1])
    vectors = given.vectors[: given.options["vectors"]].numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may stop before it has converged
        fitted = FastICA(most, random_state=given.seed, max_iter=100).fit(vectors)
    axes = torch.from_numpy(fitted.components_).float()
    mean = torch.from_numpy(fitted.mean_).float()

    def project(x):
        along = (x - mean) @ axes.T
        return torch.cat([along.relu(), (-along).relu()], -1)

    return project
