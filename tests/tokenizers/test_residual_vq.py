import numpy as np
import pyarrow as pa
import torch

from semid.tokenizers.residual_kmeans import ResidualKMeans
from semid.tokenizers.residual_vq import Codebooks, ResidualVQ
from semid.types import Catalog, IdMap


def clustered() -> Catalog:
    """Items around shared centres."""
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(20, 24))[rng.integers(0, 20, 400)] + 0.5 * rng.normal(size=(400, 24)) + 1).astype(np.float32)
    return Catalog(IdMap([f"i{k}" for k in range(400)]), pa.table({"row": list(range(400))}), {}, {"text": vectors})


def test_residual_vq_comes_near_residual_kmeans():
    items = clustered()
    learnt = ResidualVQ("text", size=16, steps=400, batch_size=128).fit(items, seed=0)
    found = ResidualKMeans("text", size=16).fit(items, seed=0)
    a, b = (t.unexplained(items, t.assign(items).codes)[-1] for t in (learnt, found))
    assert a < 1.5 * b


def test_residual_vq_starts_at_items():
    x = torch.from_numpy(clustered().view("text"))
    model = Codebooks(24, 2, 8)
    model.initialise(x, torch.Generator().manual_seed(0))
    first, points = model.quantizer.codebooks[0].detach(), model.latents(x)
    assert torch.cdist(first, points).min(dim=1).values.max() < 0.01
