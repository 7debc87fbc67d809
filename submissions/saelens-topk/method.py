import sae_lens
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

KINDS = {
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
    "jumprelu": (sae_lens.JumpReLUTrainingSAE, sae_lens.JumpReLUTrainingSAEConfig),
    "matryoshka": (
        sae_lens.MatryoshkaBatchTopKTrainingSAE,
        sae_lens.MatryoshkaBatchTopKTrainingSAEConfig,
    ),
}


def units(given):
    options, vectors = given.options, given.vectors
    torch.manual_seed(given.seed)
    mean, spread = vectors.mean(0), vectors.std()
    model, config = KINDS[options["architecture"]]
    sae = model(config(d_in=len(mean), d_sae=options["latents"], device="cpu", **options["own"]))
    steps, size = options["steps"], options["batch"]
    settings = SAETrainerConfig(
        total_training_samples=steps * size,
        train_batch_size_samples=size,
        lr=1e-3,
        lr_end=1e-5,
        lr_warm_up_steps=steps // 20,
        lr_decay_steps=steps // 5,
        device="cpu",
    )
    trainer = SAETrainer(settings, sae, iter(()))
    for step in range(steps):
        start = step * size % (len(vectors) - size)
        trainer.step((vectors[start : start + size] - mean) / spread)
        trainer.n_training_steps += 1
    sae.eval()

    @torch.no_grad()
    def encode(x):
        flat = ((x - mean) / spread).flatten(0, -2)
        return sae.encode(flat).unflatten(0, x.shape[:-1])

    return encode
