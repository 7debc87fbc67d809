import torch
from sklearn.decomposition import PCA


def units(given):
    most = min(given.options["components"], given.vectors.shape[1])
    fitted = PCA(most, random_state=given.seed).fit(given.vectors[:100_000].numpy())
    axes, mean = torch.from_numpy(fitted.components_), torch.from_numpy(fitted.mean_)

    def project(x):
        along = (x - mean) @ axes.T
        return torch.cat([along.relu(), (-along).relu()], -1)

    return project
