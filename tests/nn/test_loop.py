import logging

import numba

from semid.nn.loop import loop


def test_without_a_writable_folder_the_code_is_compiled_in_memory(monkeypatch, caplog):
    compile_ = numba.njit

    def no_folder(*, nogil, fastmath, cache=False):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compile_(nogil=nogil, fastmath=fastmath)

    monkeypatch.setattr(numba, "njit", no_folder)
    with caplog.at_level(logging.WARNING):
        double = loop()(lambda x: 2 * x)
    assert double(21) == 42
    assert "NUMBA_CACHE_DIR" in caplog.text
