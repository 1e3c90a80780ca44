"""MMGRec's codes: unique, ranked by popularity, and alike for items that the same people take, whatever their content says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from semid.errors import DataError
from semid.recipes import mmgrec
from semid.training.job import Job
from semid.validation import measure
from tests.toyworld.world import blocks, sparse

CONFIG = replace(mmgrec.smoke(), size=4, graph_batch_size=64)


def test_codes_are_unique_and_the_last_one_is_the_rank_by_popularity():
    world, config = blocks(), replace(CONFIG, size=2, levels=2, tokenizer_epochs=20)
    ids = mmgrec._coder(config, torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), world, Job()).codes(world, Job())
    assert ids.num_distinct == 40
    for group in np.unique(ids.codes[:, :-1], axis=0):
        rows = np.flatnonzero((ids.codes[:, :-1] == group).all(axis=1))
        rows = rows[ids.codes[rows, -1].argsort()]
        assert ids.codes[rows, -1].tolist() == list(range(len(rows)))
        assert (np.diff(world.train.counts[rows]) <= 0).all()


def shared(codes: np.ndarray) -> float:
    """How much likelier two items of a block have the same first code than two of different blocks."""
    same, block = codes[:, 0] == codes[:, None, 0], np.arange(40) // 10
    together = (block == block[:, None]) & ~np.eye(40, dtype=bool)
    return same[together].mean() - same[block != block[:, None]].mean()


def test_with_the_graph_items_taken_together_share_codes_and_without_it_content_alone_speaks():
    """The content of this world is noise: codes can know communities from the graph alone. Trained for long, the network without it learns
    by heart whose content is whose (5 epochs: .94 with the graph, .13 without; 40: .67 and .69). Single seeds differ by a quarter."""
    world, overlap = blocks(), {}
    for is_graph in (True, False):
        config, found = replace(CONFIG, is_graph=is_graph, graph_epochs=5), []
        for seed in range(3):
            torch.manual_seed(seed)
            job = Job(seed=seed)
            found.append(shared(mmgrec.coder(config, world, job).codes(world, job).codes))
        overlap[is_graph] = np.mean(found)
    assert overlap[True] > 0.5
    assert overlap[True] > overlap[False] + 0.3


@pytest.mark.slow
def test_codes_of_the_graph_beat_codes_of_content_and_random_codes():
    """Content is noise again. Mean test recall@10 of three seeds."""
    world, rng = sparse(), np.random.default_rng(1)
    drawn = [[f"<a_{row // 100}>", f"<b_{row // 10 % 10}>", f"<c_{row % 10}>"] for row in rng.permutation(400).tolist()]
    world = replace(world, catalog=replace(world.catalog, table=pa.table({"drawn": drawn}), text={},
                                           views={"text": rng.normal(size=(400, 16)).astype(np.float32)}))
    config, recall = replace(mmgrec.smoke(), graph_batch_size=128, epochs=10), {}
    for name, changed in (("graph", {}), ("content", {"is_graph": False}), ("random", {"codes": "drawn"})):
        recall[name] = np.mean([measure(mmgrec.run(replace(config, **changed), world, Job(seed=seed)), world, seen="remove")["recall@10"]
                                for seed in range(3)])
    assert recall["graph"] > recall["content"] + 0.05, recall
    assert recall["graph"] > recall["random"] + 0.05, recall


def test_nothing_of_validation_and_test_is_in_the_vectors():
    config = replace(CONFIG, graph_epochs=2)
    learnt = []
    for poison in (False, True):
        torch.manual_seed(0)
        learnt.append(mmgrec.fused(config, blocks(poison=poison), Job()))
    assert all(torch.equal(a, b) for a, b in zip(*learnt, strict=True))


def test_users_without_training_events_have_the_mean_of_the_others():
    world = blocks()
    user, _ = mmgrec.fused(replace(CONFIG, graph_epochs=1), replace(world, train=world.train.take(world.train.user > 1)), Job())
    torch.testing.assert_close(user[:2], user[2:].mean(0).expand(2, -1))


def test_a_catalogue_without_the_wanted_modality_is_told_so():
    with pytest.raises(DataError, match=r"want items with one of the views image, got text; give items"):
        mmgrec.fused(replace(CONFIG, modalities=("image",)), blocks(), Job())
