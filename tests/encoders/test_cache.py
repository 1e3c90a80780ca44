import logging

import numpy as np

from semid.encoders.cache import cache_folder, cached, fingerprint


def test_fingerprint_separates_entries_and_parts():
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint(["a", "b"]) != fingerprint(["a"], ["b"])
    assert fingerprint("model", 256, ["a", "b"]) == fingerprint("model", 256, ["a", "b"])


def test_second_call_computes_nothing(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.ones((3, 2), np.float32)

    first = cached("k", compute, tmp_path, rows=3)
    second = cached("k", compute, tmp_path, rows=3)
    assert len(calls) == 1
    np.testing.assert_array_equal(first, second)
    assert [p.name for p in tmp_path.iterdir()] == ["k.npy"]


def test_a_corrupted_file_is_recomputed_with_one_log_line(tmp_path, caplog):
    good = np.ones((3, 2), np.float32)
    cached("k", lambda: good, tmp_path, rows=3)
    path = tmp_path / "k.npy"
    for damage in (path.read_bytes()[:-5], b"", b"not an array"):
        path.write_bytes(damage)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(cached("k", lambda: good, tmp_path, rows=3), good)
        assert len(caplog.records) == 1
        assert "computing them again" in caplog.text
    np.testing.assert_array_equal(np.load(path), good)


def test_a_file_of_the_wrong_shape_or_with_nan_is_recomputed(tmp_path, caplog):
    good = np.ones((3, 2), np.float32)
    for bad in (np.ones((2, 2), np.float32), np.ones((3, 2)), np.full((3, 2), np.nan, np.float32)):
        np.save(tmp_path / "k.npy", bad)
        np.testing.assert_array_equal(cached("k", lambda: good, tmp_path, rows=3), good)


def test_an_unwritable_folder_costs_the_cache_and_not_the_result(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    array = cached("k", lambda: np.ones((1, 1), np.float32), tmp_path / "file", rows=1)
    assert array.shape == (1, 1)
    assert "cannot be written" in caplog.text


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SEMID_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
