from difflens_utils import ksae


def units(given):
    config = ksae.KSAEConfig(given.vectors.shape[1], **given.options)
    size = config.batch

    def batch(step):
        start = step * size % (len(given.vectors) - size)
        return given.vectors[start : start + size]

    trained, _ = ksae.train(config, batch, progress=False)
    return trained.latents
