"""How long does a top-50 take? transformers' `generate` with a dict trie against EncoderDecoder + beam_search, with the
same weights, history and codes; both lists are compared, item by item.

    python benchmarks/generate.py --out results/benchmarks/generate.json

4 + 4 layers of TIGER's shape, 12,101 items of 4 x 256 codes, 20 history items, float32, one thread. Runs interleave, figures are medians
of the thread's CPU time, which busy neighbours disturb least.
Both sides normalise over the children that exist (`renormalize_logits` there), so that scores mean the same.
Must: 10 times faster, for one user and for 32.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from semid.data.batch import history_batch
from semid.decoding.beam import beam_search
from semid.generators.encoder_decoder import EncoderDecoder
from semid.tree import CodeTree
from semid.types import Batch, SemanticIds

LEVELS, SIZE, PAD, BOS = 4, 256, 1024, 1025
NEAR = 1e-4
"""Two items closer than this in log-probability may stand in either order: float32 sums differ by that much."""


def transformers_t5(seed: int):
    """A T5ForConditionalGeneration of TIGER's shape with random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    return T5ForConditionalGeneration(T5Config(
        vocab_size=BOS + 1, d_model=128, d_kv=64, num_heads=6, d_ff=1024, num_layers=4, num_decoder_layers=4,
        feed_forward_proj="relu", pad_token_id=PAD, decoder_start_token_id=BOS, eos_token_id=None)).eval()


def translated(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of transformers' T5 under the names of a tied EncoderDecoder."""
    ours = {"embedding.weight": state["shared.weight"]}
    for stack in ("encoder", "decoder"):
        ours[f"{stack}.bias.table.weight"] = state[f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        ours[f"{stack}.norm.weight"] = state[f"{stack}.final_layer_norm.weight"]
        parts = [("norm", "attention", "SelfAttention"), ("cross_norm", "cross", "EncDecAttention")]
        for layer in range(4):
            there = f"{stack}.block.{layer}.layer"
            here = f"{stack}.blocks.{layer}"
            for index, (norm, name, their_name) in enumerate(parts if stack == "decoder" else parts[:1]):
                attention = f"{there}.{index}.{their_name}"
                ours[f"{here}.{norm}.weight"] = state[f"{there}.{index}.layer_norm.weight"]
                ours[f"{here}.{name}.query.weight"] = state[f"{attention}.q.weight"]
                ours[f"{here}.{name}.key_value.weight"] = torch.cat([state[f"{attention}.{x}.weight"] for x in "kv"])
                ours[f"{here}.{name}.out.weight"] = state[f"{attention}.o.weight"]
            last = f"{there}.{2 if stack == 'decoder' else 1}"
            ours[f"{here}.feed_norm.weight"] = state[f"{last}.layer_norm.weight"]
            ours[f"{here}.feedforward.layers.0.weight"] = state[f"{last}.DenseReluDense.wi.weight"]
            ours[f"{here}.feedforward.layers.1.weight"] = state[f"{last}.DenseReluDense.wo.weight"]
    return ours


class DictTrie:
    """Prefix -> tokens that continue it, as public generative-recommendation code keeps it."""

    def __init__(self, tokens: np.ndarray):
        self.children: dict[tuple[int, ...], list[int]] = {}
        for row in np.unique(tokens, axis=0).tolist():
            for level in range(LEVELS):
                children = self.children.setdefault(tuple(row[:level]), [])
                if not children or children[-1] != row[level]:
                    children.append(row[level])

    def __call__(self, row: int, prefix: torch.Tensor) -> list[int]:
        return self.children[tuple(prefix.tolist()[1:])]


def compare(theirs: tuple[np.ndarray, np.ndarray], ours: tuple[np.ndarray, np.ndarray]) -> int:
    """(tokens [B, K, L], scores [B, K]) twice: raise unless the lists agree. Returns how many places differ among equals."""
    np.testing.assert_allclose(ours[1], theirs[1], atol=NEAR)
    differs = (ours[0] != theirs[0]).any(2)
    gap = np.abs(np.diff(ours[1], axis=1))
    tied = np.pad(gap < NEAR, ((0, 0), (1, 0))) | np.pad(gap < NEAR, ((0, 0), (0, 1)))
    if (differs & ~tied).any():
        raise SystemExit(f"the lists differ at {np.argwhere(differs & ~tied)[:5].tolist()}")
    return int(differs.sum())


def race(ways: dict[str, Callable[[Batch], Any]], batch: Batch, *, rounds: int, top: int) -> dict:
    """Compare the lists of "transformers" and "semid" once, then time all `ways` in turn, `rounds` times; print and return the figures."""
    swapped = compare(ways["transformers"](batch), ways["semid"](batch))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.thread_time()
            way(batch)
            seconds[name].append(time.thread_time() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    ratio, places = median["transformers"] / median["semid"], len(batch) * top
    print(f"{len(batch):3} users: " + ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in median.items())
          + f": {ratio:.1f} x, {swapped} of {places} places swapped among equals")
    return {"milliseconds": {name: round(value * 1e3, 2) for name, value in median.items()}, "ratio": round(ratio, 2),
            "places_swapped_within_1e-4": swapped, "places": places}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--users", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, nargs="+", default=[9, 3], help="one number for each of --users")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    ids = SemanticIds(rng.integers(0, SIZE, (arguments.items, LEVELS)).astype(np.int32), (SIZE,) * LEVELS)
    tokens = torch.from_numpy(ids.codes.astype(np.int64)) + torch.arange(LEVELS) * SIZE
    tree, trie = CodeTree.build(ids), DictTrie(tokens.numpy())
    theirs, ours = transformers_t5(arguments.seed), EncoderDecoder(ids, is_tied=True).eval()
    ours.load_state_dict(translated(theirs.state_dict()))

    def generate(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        found = theirs.generate(input_ids=tokens[batch.item].flatten(1), num_beams=arguments.top, max_new_tokens=LEVELS,
                                num_return_sequences=arguments.top, prefix_allowed_tokens_fn=trie, renormalize_logits=True,
                                length_penalty=0.0, do_sample=False, output_scores=True, return_dict_in_generate=True)
        shape = (len(batch), arguments.top)
        return found.sequences[:, 1:].view(*shape, LEVELS).numpy(), found.sequences_scores.view(shape).numpy()

    def search(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        found = beam_search(ours, batch, tree, beams=arguments.top, normalise="children")
        return (found.codes + torch.arange(LEVELS) * SIZE).numpy(), found.logp.numpy()

    ways = {"transformers": generate, "encoder_alone": lambda batch: ours.start(batch), "semid": search}
    result = {"benchmark": "generate", "command": "python benchmarks/generate.py " + " ".join(argv or sys.argv[1:]),
              "machine": {"processor": platform.processor() or platform.machine(), "threads": 1,
                          "torch": torch.__version__},
              "items": arguments.items, "top": arguments.top, "seed": arguments.seed, "must": {"ratio": 10}, "users": {}}
    with torch.inference_mode():
        for users, rounds in zip(arguments.users, arguments.rounds, strict=True):
            batch = history_batch(list(rng.integers(0, arguments.items, (users, 20))), max_history=20)
            result["users"][users] = race(ways, batch, rounds=rounds, top=arguments.top)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
