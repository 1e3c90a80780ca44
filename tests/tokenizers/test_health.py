import math

import numpy as np
import pytest

from semid.tokenizers.health import health
from semid.types import SemanticIds


def ids(codes, sizes) -> SemanticIds:
    return SemanticIds(np.array(codes, np.int16), sizes)


def test_health_equals_hand_counts():
    report = health(ids([[0, 0], [0, 0], [0, 1], [1, 3]], (4, 4)))
    assert (report["items"], report["distinct"], report["largest_group"]) == (4, 3, 2)
    assert report["collision_rate"] == 0.25
    assert report["colliding_share"] == 0.5
    first, second = report["levels"]
    assert (first["size"], first["used"], first["largest_share"]) == (4, 2, 0.75)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert first["entropy"] == pytest.approx(entropy)
    assert first["perplexity"] == pytest.approx(math.exp(entropy))
    assert second["used"] == 3


def test_even_use_has_the_perplexity_of_the_codebook():
    (level,) = health(ids([[k % 8] for k in range(64)], (8,)))["levels"]
    assert level["perplexity"] == pytest.approx(8)


def test_a_level_with_one_code_has_no_entropy_and_says_so_without_a_minus():
    (level,) = health(ids([[0], [0]], (1,)))["levels"]
    assert f"{level['entropy']:.2f}" == "0.00"
    assert level["perplexity"] == 1


def test_padding_counts_as_no_code():
    report = health(ids([[0, -1], [1, 2]], (2, 4)))
    assert report["levels"][1]["used"] == 1
    assert report["levels"][1]["largest_share"] == 1.0


def test_an_empty_catalogue_has_no_health_but_no_crash():
    report = health(ids(np.zeros((0, 2)), (4, 4)))
    assert report["items"] == report["distinct"] == report["largest_group"] == 0
