"""P5's indexers: every item named once, the same each time; sequential reads training alone; communities are found again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from semid.data.split import split
from semid.errors import ConfigError
from semid.nn import spectral
from semid.recommenders import read_codes, write_codes
from semid.tokenizers.p5 import (
    FIRST,
    collaborative_index,
    independent_index,
    random_index,
    semantic_index,
    sequential_index,
    title_index,
    together,
)
from semid.types import IdMap, Interactions, Protocol, SemanticIds
from tests.toyworld.world import events_of, walk

COMMUNITIES, EACH = 5, 60


def communities(users: int = 1500, taken: int = 8, faithful: float = 0.9) -> tuple[Interactions, np.ndarray]:
    """(events, community of each item): users take items of one community with probability `faithful`, else of any."""
    rng = np.random.default_rng(0)
    count = COMMUNITIES * EACH
    member = rng.permutation(np.arange(count) % COMMUNITIES)
    by_community = np.stack([np.flatnonzero(member == c) for c in range(COMMUNITIES)])
    own = by_community[rng.integers(COMMUNITIES, size=(users, 1)), rng.integers(EACH, size=(users, taken))]
    item = np.where(rng.random((users, taken)) < faithful, own, rng.integers(count, size=(users, taken)))
    return events(item), member


def events(item: np.ndarray, count: int | None = None) -> Interactions:
    """item [U, T]: what each user takes, in order."""
    return events_of(item, IdMap([f"i{i}" for i in range(COMMUNITIES * EACH if count is None else count)]))


def titles(count: int) -> list[str]:
    rng = np.random.default_rng(2)
    return [" ".join(f"Word{w}" for w in rng.zipf(1.5, rng.integers(0, 7)).clip(max=3000)) for _ in range(count)]


def categories(count: int) -> list[list[str]]:
    rng = np.random.default_rng(3)
    return [[f"c{level}{code}" for level, code in enumerate(rng.integers(4, size=rng.integers(0, 4)))] for _ in range(count)]


TRAIN, MEMBER = communities()
N = len(TRAIN.items)
INDEXERS = {
    "random": lambda: random_index(N, seed=0),
    "independent": lambda: independent_index(N),
    "title": lambda: title_index(titles(N)),
    "sequential": lambda: sequential_index(TRAIN),
    "collaborative": lambda: collaborative_index(TRAIN, clusters=4, leaf=30),
    "semantic": lambda: semantic_index(categories(N)),
}


@pytest.mark.parametrize("name", INDEXERS)
def test_every_item_has_codes_of_its_own_the_same_each_time_and_on_disk(name, tmp_path):
    ids = INDEXERS[name]()
    assert len(ids) == ids.num_distinct == N
    assert (ids.codes >= 0).all()
    np.testing.assert_array_equal(INDEXERS[name]().codes, ids.codes)
    write_codes(tmp_path / "codes.parquet", ids)
    again = read_codes(tmp_path / "codes.parquet")
    np.testing.assert_array_equal(again.codes, ids.codes)
    assert (again.sizes, again.source) == (ids.sizes, ids.source)


@pytest.mark.parametrize("dense", [spectral.DENSE, 40])
def test_communities_are_recovered_and_no_last_cluster_is_too_large(dense, monkeypatch):
    """Exact eigenvectors, and those of the sparse iteration."""
    metrics = pytest.importorskip("sklearn.metrics")
    monkeypatch.setattr(spectral, "DENSE", dense)
    ids = collaborative_index(TRAIN, clusters=COMMUNITIES, leaf=70)
    assert ids.levels == 2
    assert metrics.normalized_mutual_info_score(MEMBER, ids.codes[:, 0]) > 0.9
    deeper = collaborative_index(TRAIN, clusters=COMMUNITIES, leaf=20)
    assert deeper.levels > 2
    assert np.unique(deeper.codes[:, :-1], axis=0, return_counts=True)[1].max() <= 20
    assert deeper.sizes[-1] <= 20


def test_spectral_clusters_equal_scikit_learns():
    cluster = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    row, column, weight = together(TRAIN)
    affinity = np.zeros((N, N))
    affinity[row, column] = weight
    expected = cluster.SpectralClustering(7, affinity="precomputed", assign_labels="cluster_qr", random_state=0).fit_predict(affinity)
    found = spectral.spectral_clusters(row, column, weight, N, 7, seed=0)
    assert metrics.normalized_mutual_info_score(expected, found) > 0.98


def test_items_are_joined_by_the_users_who_have_both():
    row, column, users = together(events(np.array([[0, 1, 1], [1, 0, 2], [3, 3, 3]]), 5))
    found = {(int(i), int(j)): int(n) for i, j, n in zip(row, column, users, strict=True)}
    assert found == {(0, 1): 2, (1, 0): 2, (0, 2): 1, (2, 0): 1, (1, 2): 1, (2, 1): 1}


@pytest.mark.parametrize("item", [np.zeros((3, 1), np.int64), np.tile(np.arange(90), (3, 1))])
def test_items_that_clusters_cannot_tell_apart_are_cut_into_even_pieces(item):
    """Nobody took two items; everybody took the same."""
    ids = collaborative_index(events(item, 90), clusters=4, leaf=10)
    assert ids.num_distinct == 90
    assert np.unique(ids.codes[:, :-1], axis=0, return_counts=True)[1].max() <= 10


def test_sequential_numbers_follow_the_users_and_neighbours_share_pieces():
    train = events(np.array([[4, 2, 4], [0, 2, 3]]), 6)
    number = lambda ids: (ids.codes * [100, 1]).sum(1) - FIRST - 1
    np.testing.assert_array_equal(number(sequential_index(train)), [2, 4, 1, 3, 0, 5])
    longer = Interactions(train.user[:5], train.item[:5], train.time[:5], train.users, train.items)
    np.testing.assert_array_equal(number(sequential_index(longer, order="short_to_long")), [0, 3, 1, 4, 2, 5])
    np.testing.assert_array_equal(number(sequential_index(longer, order="long_to_short")), [2, 3, 1, 4, 0, 5])


def test_sequential_numbers_do_not_know_what_is_held_back():
    world = walk()
    source = world.source
    is_held_back = np.zeros(len(source), bool)
    is_held_back[np.concatenate([source.offsets[1:] - 1, source.offsets[1:] - 2])] = True
    item = np.where(is_held_back, np.random.default_rng(0).integers(len(source.items), size=len(source)), source.item)
    poisoned = split(dataclasses.replace(source, item=item.astype(np.int32)), world.catalog, Protocol())
    codes = sequential_index(world.train).codes
    np.testing.assert_array_equal(sequential_index(poisoned.train).codes, codes)
    assert (sequential_index(poisoned.events).codes != sequential_index(world.events).codes).any()


def test_numbers_are_spelled_in_pairs_of_digits():
    ids = random_index(12_101, seed=0)
    assert ids.sizes == (2, 100, 100)
    number = (ids.codes.astype(np.int64) * [10_000, 100, 1]).sum(1)
    assert set(number.tolist()) == set(range(1000, 13_101))


def test_titles_share_the_codes_of_their_words():
    ids = title_index(["Red soap", "red SOAP bar", "", "Red soap"], words=3, vocabulary=2)
    assert ids.levels == 4
    assert (ids.codes[:, :2] == ids.codes[0, :2])[[1, 3]].all()
    assert ids.codes[0, 2] == ids.codes[2, 0] == 0  # the end
    assert 1 <= ids.codes[1, 2] <= 256  # "bar" is not among the two most frequent
    assert ids.codes[[0, 3], 3].tolist() == [0, 1]
    assert title_index(["a", "b"], words=2).levels == 2


def test_category_paths_end_where_they_end_and_items_without_one_stand_alone():
    ids = semantic_index([["a", "x"], ["a"], ["a", "x"], [], ["b"], []])
    assert isinstance(ids, SemanticIds)
    np.testing.assert_array_equal(ids.codes, [[1, 1, 0], [1, 0, 0], [1, 1, 1], [3, 0, 0], [2, 0, 0], [4, 0, 0]])
    assert ids.sizes == (5, 2, 2)


@pytest.mark.parametrize("settings", [{"clusters": 1}, {"leaf": 0}])
def test_clusters_that_part_nothing_are_refused(settings):
    with pytest.raises(ConfigError, match="want 2 clusters and a leaf of 1 at least"):
        collaborative_index(walk().train, **settings)
