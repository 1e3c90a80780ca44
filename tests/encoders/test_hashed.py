import numpy as np
import pyarrow as pa
import torch

from semid.encoders.hashed import BUCKETS, Hashed, features, principal, tf_idf
from semid.types import Catalog, IdMap


def catalog(titles: list[str]) -> Catalog:
    return Catalog(IdMap([f"i{k}" for k in range(len(titles))]), pa.table({"row": list(range(len(titles)))}), {"title": titles})


TITLES = [f"{thing} {colour}" for colour in ["red", "green", "blue", "black"] * 10
          for thing in ("nail polish", "hair brush", "face cream")]


def test_principal_equals_the_truncated_svd():
    rng = np.random.default_rng(0)
    dense = torch.from_numpy(rng.normal(size=(60, 40)) * 0.8 ** np.arange(40)).float() * (torch.rand(60, 40) < 0.5)
    got = principal(dense.to_sparse_coo().coalesce(), 8, sweeps=6)
    _, s, _ = torch.linalg.svd(dense)
    torch.testing.assert_close(got.norm(dim=0), s[:8], rtol=1e-3, atol=0)


def test_tf_idf_equals_hand_computed_weights():
    matrix = tf_idf(["ab ab cd", "ab ef", "gh"]).to_dense()
    assert matrix.shape == (3, 1)                       # only "ab" stands in two texts
    torch.testing.assert_close(matrix[:, 0], torch.tensor([1.0, 1.0, 0.0]))


def test_a_weight_grows_with_the_logarithm_of_the_count_and_of_how_rare_the_word_is():
    found = np.sort(tf_idf(["ab ab ab cd", "ab cd", "ab ef", "ef"]).to_dense().numpy(), axis=1)[:, ::-1]
    often, cd = (1 + np.log(3)) * np.log(4 / 3), np.log(4 / 2)  # the pair of words "ab cd" stands in two texts as well
    want = [[cd, cd, often], [cd, cd, np.log(4 / 3)], [np.log(4 / 2), np.log(4 / 3), 0], [np.log(4 / 2), 0, 0]]
    np.testing.assert_allclose(found[:, :3], [np.array(row) / np.linalg.norm(row) for row in want], rtol=1e-6)


def test_like_titles_are_near():
    vectors = Hashed(16).encode(catalog(TITLES))
    assert vectors.shape == (120, 16)
    assert vectors.dtype == np.float32
    same, other = vectors[0] @ vectors[3], vectors[0] @ vectors[1]      # nail polish - nail polish, - hair brush
    assert same > other
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_buckets_are_those_of_crc32_in_every_process():
    assert features("123456789")[0xCBF43926 % BUCKETS] == 1             # the published check value of CRC-32
    assert features("Red nails RED") == {89999: 2, 23253: 1, 37162: 1, 105238: 1}


def test_few_items_empty_texts_and_unshared_words_are_zero():
    assert Hashed(8).encode(catalog(["one", "", "two"])).tolist() == [[0.0] * 8] * 3
    vectors = Hashed(8).encode(catalog(["soap bar", "soap box", "", "x"]))
    assert vectors[:2].any(axis=1).all()
    assert not vectors[2:].any()


def test_items_that_come_later_are_encoded_in_the_space_of_the_known_ones():
    words = ["red", "blue", "green", "chair", "table", "lamp", "wool", "steel", "oak", "glass"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 4)) for _ in range(80)]
    encoder = Hashed(dim=64)
    vectors, later = encoder.encode(catalog(texts)), encoder.for_new(catalog(texts))
    assert np.allclose(later(catalog(texts[:9])), vectors[:9], atol=1e-4)
    assert not later(catalog(["words never seen"])).any()


def test_axes_that_may_turn_are_turned_to_those_the_vectors_were_made_with():
    texts = [f"{colour} {thing}" for colour in ("red", "blue", "green", "grey") for thing in ("chair", "table", "lamp", "rug")]
    encoder = Hashed(dim=8)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    kept = encoder.encode(catalog(texts)) @ turn
    later = encoder.for_new(catalog(texts), kept)
    assert np.allclose(later(catalog(texts[:5])), kept[:5], atol=1e-3)
