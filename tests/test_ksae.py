"""The k-SAE against numpy in float64, dense autograd, finite differences and closed forms."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from difflens_utils import ksae as module
from difflens_utils.analysis import dictionaries
from difflens_utils.ksae import (
    KSAE,
    Codes,
    Dictionary,
    KSAEConfig,
    Neurons,
    auxiliary_loss,
    fvu,
    stored,
    top_k,
    train,
)
from difflens_utils.recording import Recording
from difflens_utils.runtime import keys

TINY = KSAEConfig(width=12, latents=64, k=4, batch=64, steps=40, dead_after=640, precision="fp32")


pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(n: int, d: int, seed: int = 0, scale: float = 5.0, mean: float = 2.0) -> Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + mean


def stream(config: KSAEConfig):
    return lambda step: vectors(config.batch, config.width, seed=step)


def scrambled(config: KSAEConfig = TINY) -> KSAE:
    """A k-SAE none of whose parameters is at its starting value."""
    ksae, generator = KSAE(config), torch.Generator().manual_seed(7)
    for parameter in ksae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    ksae.W_dec.data = F.normalize(ksae.W_dec.data, dim=1)
    ksae.scale.fill_(3.7)
    return ksae.requires_grad_(False)


def oracle(ksae: KSAE, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """s and x̂ of Eq. 3 and 4 in numpy, float64, by sorting every row."""
    w_enc, b_enc, w_dec, b_dec, scale = (
        t.detach().double().numpy()
        for t in (ksae.W_enc, ksae.b_enc, ksae.W_dec, ksae.b_dec, ksae.scale)
    )
    y = x.double().numpy() / scale
    pre = (y - b_dec * ksae.config.pre_bias) @ w_enc.T + b_enc
    threshold = np.sort(pre, axis=-1)[..., -ksae.config.k, None]
    s = np.where(pre >= threshold, np.maximum(pre, 0), 0)
    return s, (s @ w_dec + b_dec) * scale


# ------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("pre_bias", [True, False])
def test_codes_and_reconstruction_are_eq_3_and_4(pre_bias):
    ksae = scrambled(KSAEConfig(width=12, latents=64, k=4, pre_bias=pre_bias))
    x = vectors(2 * 5, 12).view(2, 5, 12)
    s, x_hat = oracle(ksae, x)
    values, indices = ksae.encode(x)
    assert values.shape == indices.shape == (2, 5, 4)
    np.testing.assert_allclose(values.sum(-1).numpy(), s.sum(-1), atol=1e-5)
    np.testing.assert_allclose(ksae.latents(x).numpy(), s, atol=1e-5)
    np.testing.assert_allclose(ksae(x[0, 0]).numpy(), x_hat[0, 0], atol=1e-4)
    for ours in (ksae(x), ksae.decode(ksae.latents(x))):
        np.testing.assert_allclose(ours.numpy(), x_hat, atol=1e-4)


def test_a_direction_is_what_one_latent_writes():
    ksae = scrambled()
    s = ksae.latents(vectors(3, 12))
    for j in (0, 17, 63):
        step = ksae.decode(s + F.one_hot(torch.tensor(j), 64)) - ksae.decode(s)
        torch.testing.assert_close(step, ksae.directions[j].expand(3, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "shape, k", [((5, 64), 3), ((2, 3, 1024), 32), ((4, 60), 3), ((4, 64), 60), ((1, 8), 8)]
)
def test_tournament_finds_the_k_largest(shape, k):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values, indices = top_k(x, k)
    assert torch.equal(
        values.sort(-1, descending=True).values, x.sort(-1, descending=True).values[..., :k]
    )
    assert torch.equal(x.gather(-1, indices), values)
    assert all(len(set(row)) == k for row in indices.flatten(0, -2).tolist())


def test_maps_become_vectors_and_back():
    h = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    x = module.map_to_vectors(h)
    assert x.shape == (2, 20, 3) and torch.equal(x[1, 7], h[1, :, 1, 2])
    assert torch.equal(module.vectors_to_map(x, h.shape), h)
    assert module.map_to_vectors(x) is x and torch.equal(module.vectors_to_map(x, x.shape), x)
    with pytest.raises(ValueError, match="h must be"):
        module.map_to_vectors(h[0, 0])


def test_starts_tied_and_centred_on_the_data():
    x = vectors(512, 12)
    ksae = KSAE(TINY)
    ksae.start_from(x)
    factor = (ksae.W_enc / ksae.W_dec).detach()
    torch.testing.assert_close(factor, factor[0, 0].expand_as(factor))
    start = fvu(ksae, [x])
    for other in (0.9, 1.1):  # the factor is the best one
        with torch.no_grad():
            ksae.W_enc *= other
            assert fvu(ksae, [x]) > start
            ksae.W_enc /= other
    torch.testing.assert_close(ksae.W_dec.norm(dim=1), torch.ones(64))
    torch.testing.assert_close(ksae.b_dec * ksae.scale, x.mean(0))
    assert ksae.scale.item() == pytest.approx((x - x.mean(0)).square().mean().sqrt().item())
    paper = KSAE(KSAEConfig(width=12, latents=64, k=4, pre_bias=False))
    paper.start_from(x)
    assert not paper.b_dec.any()


# -------------------------------------------------------------------------------- gradients


def test_sparse_gradients_are_those_of_dense_autograd():
    ksae = scrambled().requires_grad_(True)
    x, weight = vectors(50, 12, scale=1, mean=0), vectors(50, 12, seed=3)
    weights = (ksae.W_enc, ksae.b_enc, ksae.W_dec)
    pre = F.linear(x, ksae.W_enc, ksae.b_enc)
    top = pre.topk(4)
    codes = Codes(top.values.detach().relu(), top.indices)
    decoded = module.sparse._SparseAutoencode.apply(x, *weights, codes)
    dense = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu()) @ ksae.W_dec
    torch.testing.assert_close(decoded, dense)
    ours = torch.autograd.grad((decoded * weight).sum(), weights)
    theirs = torch.autograd.grad((dense * weight).sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_step_gradient_is_that_of_the_loss_pre_bias_included():
    """The folded pre-bias: a step's gradient is autograd's of the plain formula."""
    x = vectors(64, 12)
    run = module.Trainer(TINY, x)
    plain = KSAE(TINY)
    plain.load_state_dict(run.ksae.state_dict())
    ((x - plain(x)).square().sum() / (x - x.mean(0)).square().sum()).backward()
    run._apply = lambda: None
    run.update(x)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            run.ksae.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-6
        )


def test_auxk_reaches_the_dead_latents_own_parameters_and_nothing_else():
    """Central differences in float64 for every parameter, whether the loss depends on it or not."""
    config = KSAEConfig(width=5, latents=8, k=2, aux_latents=2)
    ksae = scrambled(config).double().requires_grad_(True)
    centred, residual = (
        vectors(6, 5, scale=1, mean=0).double(),
        vectors(6, 5, seed=2, scale=1, mean=0).double(),
    )
    centred.requires_grad_(True), residual.requires_grad_(True)
    dead = torch.zeros(8, dtype=torch.bool)
    dead[[1, 4, 6]] = True
    auxiliary_loss(ksae, centred, residual, dead).backward()
    assert centred.grad is None and residual.grad is None and ksae.b_dec.grad is None
    for parameter in (ksae.W_enc, ksae.b_enc, ksae.W_dec):
        numeric = torch.zeros_like(parameter)
        for index in np.ndindex(*parameter.shape):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[index] += sign * 1e-6
                    sides.append(auxiliary_loss(ksae, centred, residual, dead).item())
                    parameter[index] -= sign * 1e-6
            numeric[index] = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close(parameter.grad, numeric, rtol=1e-4, atol=1e-7)
        assert (
            not parameter.grad[~dead].any()
            and parameter.grad[dead].flatten(1 if parameter.ndim > 1 else 0).any()
        )


def by_autograd(run: module.Trainer, x: Tensor, weights: list[Tensor], dead: Tensor) -> Tensor:
    """The loss () of Gao et al. (2024) in dense operations, of W_enc, b_enc, W_dec, b_dec."""
    w_enc, b_enc, w_dec, b_dec = weights
    y, config = x / run.ksae.scale, run.config
    pre = (y - b_dec) @ w_enc.T + b_enc

    def decoded(chosen: Tensor, k: int) -> Tensor:
        top = chosen.topk(k)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values.relu()) @ w_dec

    error = y - b_dec - decoded(pre, config.k)
    loss = error.square().sum() / (y - y.mean(0)).square().sum()
    if not dead.any():
        return loss
    auxiliary = (y - b_dec).detach() @ w_enc.T + b_enc  # the pre-bias takes no part
    only_dead = torch.where(dead, auxiliary, -torch.inf)
    explained = decoded(only_dead, min(config.width // 2, int(dead.sum())))
    left = error.detach() - explained
    return loss + config.auxk * left.square().sum() / error.detach().square().sum()


def test_a_training_with_auxk_is_that_of_gao_et_al():
    """Forty steps against dense autograd and silence counted by hand; latents die and wake."""
    config = KSAEConfig(**(vars(TINY) | {"dead_after": 2 * TINY.batch}))
    x, steps = stream(config), config.steps
    run = module.Trainer(config, x(0))
    run.ksae.b_enc.data[:32] = torch.linspace(-1, 0, 32)  # some die at once, and some of them wake
    weights = [
        w.detach().clone().requires_grad_()
        for w in (run.ksae.W_enc, run.ksae.b_enc, run.ksae.W_dec, run.ksae.b_dec)
    ]
    adam, silent = torch.optim.Adam(weights, eps=6.25e-10), torch.zeros(64, dtype=torch.long)
    died = woke = 0
    for step in range(steps):
        dead, directions = silent >= config.dead_after, weights[2]
        adam.zero_grad()
        by_autograd(run, x(step), weights, dead).backward()
        with torch.no_grad():
            directions.grad -= (directions.grad * directions).sum(1, keepdim=True) * directions
            codes = (x(step) / run.ksae.scale - weights[3]) @ weights[0].T + weights[1]
            top = codes.topk(config.k)
            fired = torch.zeros(64, dtype=torch.bool)
            fired[top.indices[top.values > 0]] = True
            silent = torch.where(fired, 0, silent + config.batch)
        adam.param_groups[0]["lr"] = config.rate * min(1, (step + 1) / 2, (steps - step) / 8)
        adam.step()
        with torch.no_grad():
            directions /= directions.norm(dim=1, keepdim=True)
        run.update(x(step))
        assert torch.equal(run.silent, silent)
        died, woke = died + int(dead.sum()), woke + int((dead & fired).sum())
    assert died > 20 and woke > 2
    ours = (run.ksae.W_enc, run.ksae.b_enc, run.ksae.W_dec, run.ksae.b_dec)
    for one, other in zip(ours, weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def planted(atoms: int, width: int) -> tuple[Callable[..., Tensor], Tensor]:
    """Batches that mix three directions at a time, and all the directions (atoms, width)."""
    generator = torch.Generator().manual_seed(0)
    dictionary = F.normalize(torch.randn(atoms, width, generator=generator), dim=1)

    def batch(step: int, n: int = 256) -> Tensor:
        g = torch.Generator().manual_seed(step + 1)
        owners = torch.rand(n, atoms, generator=g).topk(3).indices
        weights = 0.5 + torch.rand(n, 3, generator=g)
        return 20 * F.embedding_bag(owners, dictionary, per_sample_weights=weights, mode="sum") - 7

    return batch, dictionary


AUXK = {"k": 3, "batch": 256, "rate": 3e-3, "precision": "fp32"}


def trained(
    config: KSAEConfig, batch: Callable[..., Tensor], bias: float = 0.0
) -> tuple[KSAE, float, float]:
    """A k-SAE, half of whose latents start at `bias`; dead share and FVU on unseen vectors."""
    run = module.Trainer(config, batch(0))
    run.ksae.b_enc.data[::2] = bias
    for step in range(config.steps):
        run.update(batch(step))
    unseen = batch(10_000, 8192)
    ksae = run.ksae.requires_grad_(False)
    return ksae, dictionaries.dead_share(module.density(ksae, [unseen])), fvu(ksae, [unseen])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auxk_revives_dead_latents_where_features_are_missing(seed):
    """64 directions in the data, and half of 64 latents too shy to be chosen."""
    batch, _ = planted(64, 24)
    options = {"width": 24, "latents": 64, "steps": 300, "dead_after": 2_500, "seed": seed} | AUXK
    (_, dead, lost), (_, revived, better) = (
        trained(KSAEConfig(**options, auxk=auxk), batch, bias=-2.5) for auxk in (0.0, 1 / 32)
    )
    assert dead > 0.1 and revived < dead / 2
    assert better < 0.9 * lost


def test_auxk_retires_latents_where_there_are_more_than_features():
    """128 latents for 64 directions: with AuxK 64 are left, which have all of them."""
    batch, dictionary = planted(64, 32)
    options = {"width": 32, "latents": 128, "steps": 600, "dead_after": 10_000} | AUXK
    (_, lingering, without), (ksae, dead, with_it) = (
        trained(KSAEConfig(**options, auxk=auxk), batch) for auxk in (0.0, 1 / 32)
    )
    assert lingering < dead == pytest.approx(0.5, abs=0.01)
    assert (dictionary @ ksae.W_dec.T).amax(1).min() > 0.9
    assert with_it == pytest.approx(without, rel=0.03)


def test_decoder_gradient_has_no_part_along_the_directions():
    x = vectors(64, 12)
    run = module.Trainer(TINY, x)
    before = run.ksae.W_dec.detach().clone()
    run.update(x)
    gradient = run.ksae.W_dec.grad
    assert gradient.abs().max() > 1e-4
    assert (gradient * before).sum(1).abs().max() < 1e-6 * gradient.norm(dim=1).max() + 1e-8


# -------------------------------------------------------------------------------- training


def test_training_recovers_a_planted_dictionary():
    d, atoms, active = 24, 48, 3
    generator = torch.Generator().manual_seed(0)
    dictionary = F.normalize(torch.randn(atoms, d, generator=generator), dim=1)

    def batch(step: int) -> Tensor:
        g = torch.Generator().manual_seed(step + 1)
        owners = torch.rand(512, atoms, generator=g).topk(active).indices
        weights = 0.5 + torch.rand(512, active, generator=g)
        return 20 * F.embedding_bag(owners, dictionary, per_sample_weights=weights, mode="sum") - 7

    config = KSAEConfig(
        width=d, latents=96, k=active, steps=400, rate=3e-3, batch=512, dead_after=20_000
    )
    ksae, history = train(config, batch, validation=batch(10_000), progress=False)
    found = (F.normalize(dictionary, dim=1) @ ksae.W_dec.T).max(1).values
    assert (found > 0.9).double().mean() > 0.9
    assert history.validation_fvu[-1] < 0.1 < history.validation_fvu[0]
    assert history.step[-1] == 400 and len(history.step) == 67
    torch.testing.assert_close(ksae.W_dec.norm(dim=1), torch.ones(96))
    assert not any(p.requires_grad for p in ksae.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_is_deterministic_and_takes_any_stream(precision):
    config = KSAEConfig(
        width=12, latents=64, k=4, batch=64, steps=40, dead_after=640, precision=precision
    )
    first, curve = train(config, stream(config), progress=False)
    second, same = train(config, (stream(config)(i) for i in range(40)), progress=False)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert curve.fvu == same.fvu and curve.dead == same.dead
    assert curve.step == list(range(1, 41)) and max(curve.l0) <= 4
    assert first.fingerprint() == second.fingerprint() != scrambled().fingerprint()


@pytest.mark.parametrize("dead_after", [640, 128])  # without dead latents, and with AuxK at work
def test_a_random_decoder_stays_where_it_starts_and_all_else_is_trained(dead_after: int) -> None:
    config = KSAEConfig(**(vars(TINY) | {"dead_after": dead_after, "random_decoder": True}))
    start = module.Trainer(config, stream(config)(0)).ksae
    ksae, _ = train(config, stream(config), progress=False)
    assert torch.equal(ksae.W_dec, start.W_dec) and torch.equal(ksae.W_dec, KSAE(TINY).W_dec)
    for name in ("W_enc", "b_enc", "b_dec"):
        assert (ksae.get_parameter(name) - start.get_parameter(name)).abs().max() > 1e-3
    unseen = vectors(2000, 12, seed=1000)
    assert fvu(ksae, [unseen]) < fvu(start, [unseen])
    assert not any(p.requires_grad for p in ksae.parameters())


def test_a_first_step_beside_a_random_decoder_is_that_of_a_learned_one() -> None:
    """Bit for bit, in all that both train."""
    x, runs = vectors(64, 12), []
    for random_decoder in (False, True):
        config = KSAEConfig(**(vars(TINY) | {"random_decoder": random_decoder}))
        runs.append(module.Trainer(config, x))
        runs[-1].update(x)
    learned, random = (run.ksae for run in runs)
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(learned.get_parameter(name), random.get_parameter(name))
    assert not torch.equal(learned.W_dec, random.W_dec)


def test_a_random_decoder_is_part_of_what_identifies_a_ksae() -> None:
    random = KSAEConfig(**(vars(TINY) | {"random_decoder": True}))
    assert keys.described(TINY, ()) != keys.described(random, ())
    assert KSAE(TINY).fingerprint() != KSAE(random).fingerprint()


# -------------------------------------------------------------------------------- metrics


def test_fvu_closed_forms_and_numpy():
    x = vectors(1000, 12, mean=100.0)

    class Mean(torch.nn.Module):
        def forward(self, batch):
            return x.double().mean(0).expand(len(batch), -1)

    assert fvu(torch.nn.Identity(), [x]) == 0
    assert fvu(Mean(), x.split(300)) == pytest.approx(1, abs=1e-9)
    ksae = scrambled()
    _, x_hat = oracle(ksae, x)
    wide = x.double().numpy()
    expected = ((wide - x_hat) ** 2).sum() / ((wide - wide.mean(0)) ** 2).sum()
    assert fvu(ksae, iter(x.view(5, 200, 12))) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="FVU is undefined"):
        fvu(ksae, [torch.ones(10, 12)])
    with pytest.raises(ValueError, match="no vectors"):
        fvu(ksae, [])


def test_fvu_per_group_against_both_means():
    ksae, groups = (
        scrambled(),
        {t: vectors(300 + t, 12, seed=t, scale=1 + t, mean=t) for t in range(3)},
    )
    pieces = [(t, part) for t, x in groups.items() for part in x.split(100)]
    ours = dictionaries.fvu_per_group(ksae, pieces[::2] + pieces[1::2])
    every = torch.cat(list(groups.values())).double()
    total_error = total_spread = 0.0
    for t, x in groups.items():
        error = ((x.double().numpy() - oracle(ksae, x)[1]) ** 2).sum()
        common = (x.double() - every.mean(0)).square().sum().item()
        own = (x.double() - x.double().mean(0)).square().sum().item()
        assert ours.within[t] == pytest.approx(error / own, rel=1e-5)
        assert ours.pooled[t] == pytest.approx(error / common, rel=1e-5)
        total_error, total_spread = total_error + error, total_spread + common
    assert ours.all == pytest.approx(total_error / total_spread, rel=1e-5)
    assert ours.all == pytest.approx(fvu(ksae, [every.float()]), rel=1e-6)


def test_fvu_over_images_resamples_whole_images():
    ksae = scrambled()
    x = vectors(7 * 5, 12).view(7, 5, 12)
    ours = dictionaries.fvu_over_images(ksae, x)
    wide, found = x.double().numpy(), oracle(ksae, x.view(-1, 12))[1].reshape(7, 5, 12)

    def share(chosen: np.ndarray) -> float:
        own = wide[chosen].reshape(-1, 12)
        lost = ((own - found[chosen].reshape(-1, 12)) ** 2).sum()
        return lost / ((own - own.mean(0)) ** 2).sum()

    assert ours.value == pytest.approx(share(np.arange(7)), rel=1e-5) and ours.n == 7
    assert ours.value == pytest.approx(fvu(ksae, [x]), rel=1e-6)
    rng = np.random.default_rng(0)
    drawn = np.array([share(rng.integers(7, size=7)) for _ in range(1000)])
    assert ours.draws == pytest.approx(drawn - drawn.mean() + ours.value, rel=1e-5)


def test_density_l0_dead_and_cosines():
    ksae, x = scrambled(), vectors(400, 12)
    ksae.b_enc[:8] = -1e6  # eight latents that can never fire
    share = module.density(ksae, [x[:100], x[100:].view(3, 100, 12)])
    fires = oracle(ksae, x)[0] > 0
    np.testing.assert_allclose(share.numpy(), fires.mean(0))
    assert dictionaries.l0(share) == pytest.approx(fires.sum(1).mean())
    assert (
        dictionaries.dead_share(share) == pytest.approx((~fires.any(0)).mean())
        and dictionaries.dead_share(share) >= 1 / 8
    )
    cosines = np.abs(
        np.corrcoef(np.hstack([ksae.W_dec, -ksae.W_dec]))
    )  # rows made to have mean 0: cosines
    off = cosines[~np.eye(64, dtype=bool)]
    for block in (7, 1024):
        found = dictionaries.decoder_cosine(ksae, block)
        assert found == pytest.approx({"mean": off.mean(), "max": off.max()}, rel=1e-5)


# -------------------------------------------------------------------------------- files and errors


def test_saved_and_loaded_is_the_same(tmp_path):
    ksae, x = scrambled(), vectors(30, 12)
    ksae.save(tmp_path / "a" / "b")
    again = KSAE.load(tmp_path / "a" / "b")
    assert (
        again.config == ksae.config
        and torch.equal(again(x), ksae(x))
        and again.fingerprint() == ksae.fingerprint()
    )
    assert not any(p.requires_grad for p in again.parameters())
    assert sorted(p.name for p in (tmp_path / "a" / "b").iterdir()) == [
        "cfg.json",
        "model.safetensors",
    ]


def damage(folder, kind: str) -> None:
    weights, settings = folder / "model.safetensors", folder / "cfg.json"
    tensors, config = load_file(weights), json.loads(settings.read_text())
    if kind == "no weights":
        weights.unlink()
    elif kind == "no settings":
        settings.unlink()
    elif kind == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif kind == "not safetensors":
        weights.write_bytes(b"PK\x03\x04 a pickle, perhaps")
    elif kind == "not JSON":
        settings.write_text("{")
    elif kind == "another library's settings":
        settings.write_text(json.dumps({"activation": "topk", "expansion_factor": 32, "k": 32}))
    elif kind == "a list":
        settings.write_text("[]")
    elif kind == "bad settings":
        settings.write_text(json.dumps(config | {"k": 65}))
    elif kind == "another shape":
        settings.write_text(json.dumps(config | {"latents": 32}))
    elif kind == "another key":
        save_file({"encoder.weight": tensors["W_enc"]}, weights)
    elif kind == "one too many":
        save_file(tensors | {"W_gate": tensors["W_enc"].clone()}, weights)
    elif kind == "double precision":
        save_file({name: tensor.double() for name, tensor in tensors.items()}, weights)
    elif kind == "not finite":
        tensors["b_dec"][0] = torch.nan
        save_file(tensors, weights)


def test_half_precision_takes_half_the_space_and_keeps_what_it_holds(tmp_path):
    ksae = scrambled()
    for folder, half in (("full", False), ("half", True)):
        ksae.save(tmp_path / folder, half=half)
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = KSAE.load(tmp_path / "half").state_dict()
    for name, tensor in ksae.state_dict().items():
        rounded = tensor.numpy().astype(np.float16).astype(np.float32)
        assert loaded[name].dtype == torch.float32
        assert (loaded[name].numpy() == rounded).all()


@pytest.mark.parametrize("kind", [
    "no weights", "no settings", "cut short", "not safetensors", "not JSON", "bad settings",
    "another library's settings", "a list", "another shape", "another key", "one too many",
    "double precision", "not finite",
])  # fmt: skip
def test_load_refuses_in_one_line(tmp_path, kind):
    scrambled().save(tmp_path)
    damage(tmp_path, kind)
    with pytest.raises(ValueError) as error:
        KSAE.load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, value", [
    ("width", 0), ("latents", -1), ("k", 0), ("k", 65), ("dead_after", 0), ("batch", 0),
    ("steps", 0), ("rate", 0.0), ("rate", float("nan")), ("auxk", -0.1), ("aux_latents", 0),
    ("precision", "fp16"), ("width", 12.0), ("steps", True),
])  # fmt: skip
def test_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must") as error:
        KSAEConfig(**(vars(TINY) | {name: value}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("batches, message", [
    (lambda step: torch.randn(64, 13), "width=12"),
    (lambda step: torch.randn(12), "width=12"),
    (lambda step: torch.ones(64, 12), "rms"),
    (lambda step: torch.full((64, 12), torch.nan), "rms"),
    (lambda step: vectors(64, 12) * (torch.inf if step else 1), "not finite"),
    ([], "ended after 0 of 40"),
    ([vectors(64, 12)] * 3, "ended after 3 of 40"),
])  # fmt: skip
def test_bad_batches_are_refused_by_name(batches, message):
    with pytest.raises(ValueError, match=message) as error:
        train(TINY, batches, progress=False)
    assert str(error.value).startswith("batches") and "\n" not in str(error.value)


def test_vectors_of_another_width_are_refused():
    with pytest.raises(ValueError, match="x must hold vectors of 12 values"):
        scrambled().encode(torch.randn(3, 13))
    with pytest.raises(ValueError, match="x must hold vectors of 12 values"):
        module.density(scrambled(), [torch.randn(3, 13)])


def test_matched_cosines_undo_a_permutation() -> None:
    a = torch.randn(12, 16)
    b = torch.cat([a[torch.randperm(12)] * 3 + 0.01 * torch.randn(12, 16), torch.randn(5, 16)])
    assert dictionaries.matched_cosines(a, b).min() > 0.99
    assert dictionaries.matched_cosines(a, torch.randn(17, 16)).mean() < 0.7
    with pytest.raises(ValueError, match="at least as many"):
        dictionaries.matched_cosines(b, a)


@pytest.mark.parametrize("dictionary", [scrambled(), Neurons(12)])
def test_a_dictionary_on_another_device_leaves_the_original_where_it_is(
    dictionary: Dictionary,
) -> None:
    here, meta = torch.device("cpu"), torch.device("meta")
    assert dictionary.on_device(here) is dictionary
    assert dictionary.on_device(meta).directions.is_meta and not dictionary.directions.is_meta
    assert dictionary.on_device(meta).floor == dictionary.floor
    assert dictionary.latents(torch.zeros(3, 12)).shape[-1] == len(dictionary.directions)


def test_a_copy_on_another_device_is_made_once() -> None:
    ksae, meta = scrambled(), torch.device("meta")
    assert ksae.on_device(meta) is ksae.on_device(meta)
    assert ksae.on_device(meta).W_enc.is_meta and not ksae.on_device(meta).W_enc.requires_grad


@pytest.mark.parametrize("wanted", [7, 40, 4000])
def test_validation_vectors_lie_in_equal_distances(
    monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    monkeypatch.setattr(stored, "VALIDATION_VECTORS", wanted)
    monkeypatch.setattr("difflens_utils.recording.AT_ONCE", 3)  # h of so many images at a time
    h = np.random.default_rng(0).normal(size=(13, 2, 5, 2, 3)).astype(np.float16)
    rec = Recording("k", h, torch.zeros(13, 3, 4, 4), (500, 0))
    every = h[3:].transpose(1, 0, 3, 4, 2).reshape(-1, 5)  # steps, images, positions
    stride = len(every) // wanted | 1
    found = stored._validation(rec, slice(3, 13))
    assert np.array_equal(found.numpy(), every[::stride].astype(np.float32))
