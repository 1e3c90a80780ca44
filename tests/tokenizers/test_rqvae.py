import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F

from semid.tokenizers.learning import VectorBatch
from semid.tokenizers.rqvae import RQVAE, Autoencoder, rqvae_loss
from semid.types import Catalog, IdMap


def clustered() -> Catalog:
    """Items around shared centres."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(20, 24))[rng.integers(0, 20, 400)] + 0.5 * rng.normal(size=(400, 24)) + 1).astype(np.float32)
    return Catalog(IdMap([f"i{k}" for k in range(400)]), pa.table({"row": list(range(400))}), {}, {"text": vectors})


def test_rqvae_loss_equals_its_equation():
    torch.manual_seed(0)
    model, x = Autoencoder(12, (8,), 4, 2, 5).eval(), torch.randn(6, 12)
    torch.nn.init.normal_(model.quantizer.codebooks)
    loss = rqvae_loss(model, VectorBatch(torch.arange(6), x), commitment=0.25)
    z = model.encoder(x).detach()
    terms, residual = [], z
    for level in range(2):
        distance = ((residual[:, None] - model.quantizer.codebooks[level]) ** 2).sum(2)
        chosen = model.quantizer.codebooks[level][distance.argmin(1)].detach()
        terms.append(1.25 * ((residual - chosen) ** 2).mean())
        residual = residual - chosen
    torch.testing.assert_close(loss.parts["quantization"], torch.stack(terms).mean())
    torch.testing.assert_close(loss.parts["reconstruction"], F.mse_loss(model.decoder(z - residual), x))
    torch.testing.assert_close(loss.total, loss.parts["quantization"] + loss.parts["reconstruction"])


def test_the_decoder_s_gradient_passes_the_codes_straight_to_the_encoder():
    torch.manual_seed(0)
    model, x = Autoencoder(12, (8,), 4, 2, 5).eval(), torch.randn(6, 12)
    torch.nn.init.normal_(model.quantizer.codebooks)
    reconstructed, _ = model(x)
    F.mse_loss(reconstructed, x).backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0
    assert model.quantizer.codebooks.grad is None


def test_more_levels_reconstruct_better():
    items = clustered()
    x = torch.from_numpy(items.view("text"))
    errors = []
    for levels in (1, 3):
        model = RQVAE("text", hidden=(32, 16), latent=8, levels=levels, size=16, steps=100,
                      batch_size=128).fit(items, seed=0).model
        with torch.no_grad():
            errors.append(F.mse_loss(model(x)[0], model.standardize(x)).item())
    assert errors[1] < errors[0]
