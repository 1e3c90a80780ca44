"""Ids by row and back, and the nearest id to one that isn't known."""

from __future__ import annotations

import time

import numpy as np
import pytest

from semid.errors import UnknownId
from semid.types import IdMap, alike


def test_an_id_with_one_typing_error_is_found_among_fifty_thousand_at_once():
    ids = [f"B{number:09d}" for number in np.random.default_rng(0).choice(10**9, 50_000, replace=False)]
    known = IdMap(ids)
    meant = ids[12_345]
    for typed in (meant[:6] + "x" + meant[7:], meant[:4] + meant[5:], meant[:4] + "x" + meant[4:], "b" + meant[1:]):
        begin = time.thread_time()
        with pytest.raises(UnknownId, match=rf"unknown item '{typed}' \(did you mean '{meant}'\?\)"):
            known.row(typed, "item")
        assert time.thread_time() - begin < 0.2  # 16 ms; a comparison with each takes seconds


def test_likeness_is_what_beginnings_and_ends_have_in_common():
    assert alike("abcdef", ["xxxxxx", "abxxef", "abcxef", "abcdefghi"], most=2) == ["abcxef", "abxxef"]
    assert alike("a", []) == alike("x" * 101, ["x" * 101]) == []
    assert IdMap(["a", "bb"]).rows(["bb", "c", "a"]).tolist() == [1, -1, 0]
