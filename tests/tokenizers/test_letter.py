import dataclasses

import numpy as np
import pytest
import torch

from semid.errors import ConfigError, DataError
from semid.nn.residual_quantizer import ResidualQuantizer
from semid.tokenizers.health import health
from semid.tokenizers.learning import VectorBatch
from semid.tokenizers.letter import Letter, LetterLoss, cluster_bounds, collaborative, collaborative_loss, diversity_loss, draw_partners
from semid.tokenizers.rqvae import RQVAE, Autoencoder, rqvae_loss
from semid.types import Catalog
from tests.tokenizers.test_learning import FAST, clustered


def made(settings: Letter) -> tuple[Autoencoder, LetterLoss, VectorBatch]:
    """A small network in the state in which training finds it."""
    torch.manual_seed(0)
    items = clustered(400)
    vectors = torch.from_numpy(items.view("text"))
    model = Autoencoder(24, (16,), 8, 2, 16, 0.003)
    loss = settings.begin(model, items, vectors, torch.Generator().manual_seed(0))
    return model.train(), loss, VectorBatch(torch.arange(60), vectors[:60])


def gradients(model: Autoencoder, loss: torch.Tensor) -> dict[str, bool]:
    """Which parts of the network a loss moves."""
    model.zero_grad(set_to_none=True)
    loss.backward()
    moved = lambda module: any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    return {"encoder": moved(model.encoder), "codebooks": moved(model.quantizer), "decoder": moved(model.decoder)}


def test_the_collaborative_loss_equals_numpy():
    rng = np.random.default_rng(0)
    code, cf = rng.normal(size=(2, 7, 4)).astype(np.float32)
    cf[[2, 5]] = 0  # nobody took these: neither anchors nor negatives
    rows = [0, 1, 3, 4, 6]
    want = np.mean([np.log(sum(np.exp(code[i] @ cf[j]) for j in rows)) - code[i] @ cf[i] for i in rows])
    assert collaborative_loss(torch.tensor(code), torch.tensor(cf)).item() == pytest.approx(want, abs=1e-5)
    assert collaborative_loss(torch.tensor(code), torch.zeros(7, 4)).item() == 0


def test_the_diversity_loss_equals_numpy():
    rng = np.random.default_rng(0)
    codebook = rng.normal(size=(6, 3)).astype(np.float32)
    code, partner = np.array([0, 4, 4, 2]), np.array([3, 1, 5, -1])
    terms = []
    for c, p in zip(code[:3], partner[:3], strict=True):
        logits = codebook @ codebook[c]
        others = [k for k in range(6) if k != c]
        terms.append(np.log(np.exp(logits[others]).sum()) - logits[p])
    table = torch.tensor(codebook)
    got = diversity_loss(torch.tensor(code), torch.tensor(partner), table)
    assert got.item() == pytest.approx(np.mean(terms), abs=1e-5)
    assert diversity_loss(torch.tensor([0]), torch.tensor([-1]), table).item() == 0


def test_a_partner_is_another_code_of_the_group_and_every_one_of_them_is_drawn():
    group = torch.tensor([0, 1, 0, 2, 0, 1])
    code = torch.arange(6).repeat(200)
    partner = draw_partners(code, group)
    assert [sorted(set(partner[code == c].tolist())) for c in range(6)] == [[2, 4], [5], [0, 4], [-1], [0, 2], [1]]


def test_the_diversity_of_a_batch_is_the_mean_over_levels(monkeypatch):
    model, loss, batch = made(Letter(groups=4))
    monkeypatch.setattr("semid.tokenizers.letter.draw_partners", lambda code, group: (code + 1) % 16)
    quantized = model.quantizer(model.encode(batch.vectors))
    levels = [diversity_loss(code, (code + 1) % 16, codebook).item()
              for code, codebook in zip(quantized.codes.T, model.quantizer.codebooks, strict=True)]
    assert loss(model, batch).parts["diversity"].item() == pytest.approx(np.mean(levels), rel=1e-5)


def test_the_collaborative_loss_reaches_the_encoder_only_and_diversity_the_codebooks_only():
    model, loss, batch = made(Letter(groups=4))
    parts = loss(model, batch).parts
    assert gradients(model, parts["collaborative"]) == {"encoder": True, "codebooks": False, "decoder": False}
    parts = loss(model, batch).parts
    assert gradients(model, parts["diversity"]) == {"encoder": False, "codebooks": True, "decoder": False}


def test_the_total_adds_both_with_their_weights_and_without_them_is_the_rqvae():
    model, loss, batch = made(Letter(groups=4, alpha=0.5, beta=0.25))
    got = loss(model, batch)
    want = sum(got.parts[name] * weight for name, weight in
               (("reconstruction", 1), ("quantization", 1), ("diversity", 0.25), ("collaborative", 0.5)))
    torch.testing.assert_close(got.total, want)
    model, loss, batch = made(Letter(alpha=0, beta=0))
    got = loss(model, batch)
    assert set(got.parts) == {"reconstruction", "quantization"}
    torch.testing.assert_close(got.total, rqvae_loss(model, batch, commitment=0.25).total)


def test_groups_are_made_anew_once_an_epoch_within_their_bounds():
    model, loss, batch = made(Letter(groups=4, group_sizes=(2, 6)))
    loss(model, batch)
    first = loss.group.clone()
    for level in first:
        assert torch.bincount(level, minlength=4).min() >= 2
        assert torch.bincount(level, minlength=4).max() <= 6
    with torch.no_grad():
        model.quantizer.codebooks.normal_()
    for _ in range(6):  # 7 batches of 60 make up 400 items
        loss(model, batch)
        assert loss.group.equal(first)
    loss(model, batch)
    assert not loss.group.equal(first)


def test_codebooks_start_at_balanced_clusters_of_the_latents():
    items, size = clustered(400), 16
    low, high = cluster_bounds(400, size)
    assert (low, high) == (12, 48)
    model, _, _ = made(Letter(groups=4))
    codes = model.eval().codes(torch.from_numpy(items.view("text"))).codes[:, 0]
    assert np.bincount(codes, minlength=size).min() >= 4  # nearest again, so the bounds hold nearly
    assert np.bincount(codes, minlength=size).max() <= 80


@pytest.mark.parametrize(("count", "size"), [(16, 16), (300, 256), (511, 256), (512, 256), (12101, 256), (60_000, 256), (70, 8)])
def test_default_bounds_can_always_be_met(count, size):
    low, high = cluster_bounds(count, size)
    assert size * low <= count <= size * high


def behaviour(count: int = 400, audiences: int = 10) -> Catalog:
    """Items of some audiences, of which their text says little: a tenth of its variance."""
    items, rng = clustered(count), np.random.default_rng(1)
    who = rng.integers(0, audiences, count)
    cf = rng.normal(size=(audiences, 8))[who] + 0.1 * rng.normal(size=(count, 8))
    text = items.view("text") + 0.3 * items.view("text").std() * rng.normal(size=(audiences, 24))[who]
    return dataclasses.replace(items, views={"text": text.astype(np.float32), "cf": cf.astype(np.float32)})


def fitted(items: Catalog, loss: Letter, steps: int = 300) -> RQVAE:
    return RQVAE("text", levels=3, size=16, hidden=(64, 32), latent=8, last_epsilon=0.003, steps=steps, batch_size=200,
                 optimization=FAST, loss=loss).fit(items, seed=0)


@pytest.mark.slow
def test_with_the_collaborative_loss_items_of_one_audience_share_more_codes():
    items = behaviour()
    cf = items.view("cf") / np.linalg.norm(items.view("cf"), axis=1, keepdims=True)
    like = cf @ cf.T - 2 * np.eye(400)
    overlap = []
    for alpha in (0.0, 0.1):
        codes = fitted(items, Letter(alpha=alpha, beta=0)).assign(items).codes
        overlap.append((codes == codes[like.argmax(1)]).mean())
    assert overlap[1] > 1.5 * overlap[0]


@pytest.mark.slow
def test_with_the_collaborative_loss_alone_fewer_first_codes_are_used(monkeypatch):
    """Measured: 54 codes without it, 41 with it. Codes that stay unused don't restart here, as in the paper; where they do, 64 and 61.

    That diversity brings codes back, as the paper has it, is not seen: two seeds have 41 and 42 codes without it, 44 and 43 with a beta of
    .01, 43 and 41 with .1.
    """
    monkeypatch.setattr(ResidualQuantizer, "_restart", lambda *unused: None)
    items, first = behaviour(1200, 8), []
    for alpha in (0.0, 1.0):
        tokenizer = RQVAE("text", levels=2, size=64, hidden=(32,), latent=8, steps=240, batch_size=200, optimization=FAST,
                          loss=Letter(alpha=alpha, beta=0.0)).fit(items, seed=0)
        first.append(health(tokenizer.assign(items))["levels"][0])
    assert first[1]["used"] < first[0]["used"] - 5
    assert first[1]["entropy"] < first[0]["entropy"] - 0.05


def test_a_collaborative_view_of_another_width_is_one_clear_message():
    with pytest.raises(DataError, match="as wide as the latents, 8, got 24; use vectors of that width, or latents of 24"):
        collaborative(clustered(40), "text", 8)


def test_missing_or_empty_views_are_one_clear_message():
    items = clustered(40)
    with pytest.raises(DataError, match=r"no view 'cff' \(did you mean 'cf'\?\)"):
        fitted(items, Letter(cf="cff", groups=4))
    with pytest.raises(DataError, match="got only zeros in the view 'cf'"):
        fitted(items.with_view("cf", np.zeros((40, 8), np.float32)), Letter(groups=4))


def test_bounds_and_groups_that_cannot_be_met_are_one_clear_message():
    items = clustered(40)
    with pytest.raises(DataError, match="want 16 clusters of 5 to 9 points to hold all 40"):
        fitted(items, Letter(groups=4, cluster_sizes=(5, 9)))
    with pytest.raises(ConfigError, match="got 10 groups of 16 codes; choose groups from 1 to 8"):
        fitted(items, Letter(groups=10))
    with pytest.raises(DataError, match="want 4 clusters of 1 to 3 points to hold all 16"):
        fitted(items, Letter(groups=4, group_sizes=(1, 3)), steps=1)


def test_collaborative_vectors_are_scaled_by_one_number_to_mean_square_one():
    items = clustered(40)
    got = collaborative(items, "cf", 8)
    assert got.square().mean().item() == pytest.approx(1, rel=1e-5)
    ratio = got / torch.from_numpy(items.view("cf"))
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
