"""The plain encoder equals transformers' on the same folder: pieces and states."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from semid.encoders.bert import Bert
from semid.encoders.text import AnyModel, find_minilm

TEXTS = ["red", "Nail polish, red. Brand: OPI", "crème brûlée 東京 ﬁne \x00", "green " * 600, "", "   ", "naïve #1 (5.5 oz)"]


def model_folders(tiny):
    return [tiny, *filter(None, [find_minilm()])]


def test_pieces_and_states_equal_those_of_transformers(tiny_model):
    for folder in model_folders(tiny_model):
        assert Bert.reads(folder)
        ours, theirs = (kind(folder, dtype=torch.float32, device="cpu") for kind in (Bert, AnyModel))
        for longest in (16, 256):
            tokens = ours.tokenize(TEXTS, longest)
            assert tokens == theirs.tokenize(TEXTS, longest)
            assert max(map(len, tokens)) == longest
        assert ours.width == theirs.width
        with torch.inference_mode():
            (states, real), (expected, mask) = ours.states(tokens), theirs.states(tokens)
        assert torch.equal(real, mask.bool())
        torch.testing.assert_close(states[real], expected[real], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"model_type": "roberta"}, {"position_embedding_type": "relative_key"}])
def test_other_models_are_left_to_transformers(tiny_model, tmp_path, change):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | change))
    assert not Bert.reads(folder)
    assert not Bert.reads(tmp_path)


def test_it_needs_no_transformers(tiny_model):
    code = ("import sys, torch; from pathlib import Path; from semid.encoders.bert import Bert\n"
            "model = Bert(Path(sys.argv[1]), dtype=torch.float32); model.states(model.tokenize(['red'], 16))\n"
            "print({'transformers', 'torch._dynamo'} & set(sys.modules))")
    done = subprocess.run([sys.executable, "-c", code, str(tiny_model)], capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr
