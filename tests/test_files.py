"""Files are replaced whole or not at all, and what can go wrong is one message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from semid.errors import RunError
from semid.files import write_atomically, write_json


def test_a_full_disk_is_one_message_and_the_old_checkpoint_stays(tmp_path: Path):
    import resource

    file = tmp_path / "checkpoint.safetensors"
    write_atomically(file, lambda path: save_file({"a": torch.ones(3)}, path))
    before = file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # what a full disk does, to this process alone
    try:
        with pytest.raises(RunError, match=r"checkpoint.safetensors: cannot be written .*File too large.* free some space"):
            write_atomically(file, lambda path: save_file({"a": torch.ones(100_000)}, path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_of_weights_may_be_read_by_those_who_may_read_any_other(tmp_path: Path):
    write_json(tmp_path / "new" / "plain.json", {"a": 1})
    write_atomically(tmp_path / "weights.safetensors", lambda path: save_file({"a": torch.ones(3)}, path))
    modes = [(tmp_path / name).stat().st_mode for name in ("new/plain.json", "weights.safetensors")]
    assert modes[0] == modes[1]


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    write_json(tmp_path / "a.json", [1])

    def fail(path: Path) -> None:
        path.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a.json", fail)
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"


def test_a_place_that_cannot_be_is_one_message(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"x.json: cannot be written .* choose a folder that you may write to"):
        write_atomically(tmp_path / "file" / "x.json", lambda path: path.write_text(""))
