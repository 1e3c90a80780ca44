"""New items are expected to be taken like the known ones that read like them."""

from __future__ import annotations

import numpy as np

from semid.newcomers import NEAREST, Newcomers
from semid.tokenizers.collisions import nearest_free_code
from semid.tokenizers.residual_kmeans import ResidualKMeans
from tests.toyworld.world import walk


def test_expected_behaviour_is_the_weighted_mean_of_the_nearest_by_text():
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    text, past = unit(rng.normal(size=(30, 6))).astype(np.float32), unit(rng.normal(size=(30, 4))).astype(np.float32)
    newcomers = Newcomers(ResidualKMeans(("text", "cf")), ("text", "cf"), 10, "none", {"cf": 4}, nearest_free_code, walk().catalog)
    new = unit(rng.normal(size=(3, 6))).astype(np.float32)
    name, found = newcomers._expected(new, np.concatenate([text, past], axis=1))
    assert name == "cf"
    for row in range(3):
        cosine = text @ new[row]
        near = np.argsort(-cosine)[:NEAREST]
        mean = (np.maximum(cosine[near], 0)[:, None] * past[near]).sum(0)
        assert np.allclose(found[row], mean / np.linalg.norm(mean), atol=1e-5)
    assert not newcomers._expected(np.zeros((1, 6), np.float32), np.concatenate([text, past], axis=1))[1].any()
