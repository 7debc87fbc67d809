import torch
from sparsify import SparseCoder, SparseCoderConfig


def units(given):
    options, vectors = given.options, given.vectors
    torch.manual_seed(given.seed)
    mean, spread = vectors.mean(0), vectors.std()
    sae = SparseCoder(len(mean), SparseCoderConfig(num_latents=options["latents"], k=options["k"]))
    adam = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    steps, size = options["steps"], options["batch"]
    rate = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.2 * steps))
    )
    for step in range(steps):
        start = step * size % (len(vectors) - size)
        sae((vectors[start : start + size] - mean) / spread).fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        rate.step()
        sae.set_decoder_norm_to_unit_norm()

    @torch.no_grad()
    def encode(x):
        flat = ((x - mean) / spread).flatten(0, -2)
        found = sae.encode(flat)
        dense = torch.zeros(len(flat), options["latents"])
        return dense.scatter(1, found.top_indices, found.top_acts).unflatten(0, x.shape[:-1])

    return encode
