from __future__ import annotations

import pytest
import torch

from semid.nn import precision


@pytest.mark.parametrize(("asked", "has", "got"), [
    ("auto", True, torch.bfloat16), ("auto", False, torch.float32), ("bf16", False, torch.bfloat16), ("fp32", True, torch.float32)])
def test_products_are_low_where_asked_or_where_they_are_quick(asked, has, got, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda device: has)
    with precision.autocast("cpu", asked):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == got


@pytest.mark.parametrize(("machine", "avx512", "amx", "arm", "has"), [
    ("x86_64", True, False, False, True), ("AMD64", False, True, False, True), ("x86_64", False, False, True, False),
    ("aarch64", False, False, True, True), ("arm64", True, False, False, False)])
def test_a_processor_has_bfloat16_where_it_says_so(machine, avx512, amx, arm, has, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: arm, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert precision.has_bfloat16("cpu") is has
    assert not precision.has_bfloat16("meta")
