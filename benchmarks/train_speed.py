"""How many targets a second does a training step supervise? One target a row (what public TIGER code does) against one
pass over whole histories, at equal parameters.

    python benchmarks/train_speed.py --out results/benchmarks/train_speed.json

Every model sees the same events, history <= 20, 4 x 256 codes, dropout .1, bf16 autocast, AdamW; a step is forward,
backward and update. Rounds interleave the models, figures are medians over rounds, ratios are of one run.
Must: `causal` and `two_level` >= 10 times transformers' T5.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from semid.data.batch import SequenceBatches, TargetBatches
from semid.data.read import read
from semid.data.split import split
from semid.generators.causal import Causal
from semid.generators.encoder_decoder import EncoderDecoder
from semid.generators.two_level import TwoLevel
from semid.objectives.next_codes import NextCodes
from semid.protocols import Batches
from semid.types import Batch, IdMap, Interactions, Loss, Protocol, SemanticIds

HISTORY, DROPOUT = 20, 0.1


class HuggingFaceT5(nn.Module):
    """T5ForConditionalGeneration as the public TIGER ports train it, fed from the same batches and code table."""

    def __init__(self, ids: SemanticIds):
        from transformers import T5Config, T5ForConditionalGeneration

        super().__init__()
        self.pad, self.bos = 4 * 256, 4 * 256 + 1
        self.t5 = T5ForConditionalGeneration(T5Config(
            vocab_size=self.bos + 1, d_model=128, d_kv=64, num_heads=6, d_ff=1024, num_layers=4, num_decoder_layers=4,
            dropout_rate=DROPOUT, feed_forward_proj="relu", pad_token_id=self.pad, decoder_start_token_id=self.bos,
            eos_token_id=self.pad))
        self.register_buffer("tokens", torch.from_numpy(ids.codes.astype(np.int64)) + torch.arange(4) * 256)

    def loss(self, batch: Batch) -> Loss:
        tokens = torch.where(batch.item[..., None] < 0, self.pad, self.tokens[batch.item]).flatten(1)
        labels = self.tokens[batch.target.amax(1)]
        return Loss(self.t5(input_ids=tokens, attention_mask=(tokens != self.pad).long(), labels=labels).loss)


def like_beauty(rng: np.random.Generator, users: int = 4000, items: int = 12_101) -> Interactions:
    """Training rows with Amazon Beauty's lengths: 5-core less two, so at least 3, on average 6.9, a long tail."""
    counts = 3 + np.minimum(rng.geometric(1 / 4.9, users) - 1, 200)
    user = np.repeat(np.arange(users, dtype=np.int32), counts)
    item = rng.integers(0, items, len(user)).astype(np.int32)
    names = [IdMap(np.arange(count).astype(str)) for count in (users, items)]
    return Interactions(user, item, np.arange(len(user)), *names)


def step(model: nn.Module, loss_of, optimiser: torch.optim.Optimizer, batch: Batch) -> float:
    """Train on one batch and return the targets supervised a second."""
    device = batch.item.device
    _wait(device)
    begin = time.perf_counter()
    with torch.autocast(device.type, torch.bfloat16):
        loss = loss_of(model, batch)
    loss.total.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    _wait(device)
    return int((batch.target >= 0).sum()) / (time.perf_counter() - begin)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with interactions.parquet; generated events without it")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch with one target a row")
    parser.add_argument("--positions", type=int, default=1024, help="history positions of a batch of whole histories")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    if arguments.data:
        data = read(arguments.data / "interactions.parquet")
        events = split(data.interactions, data.catalog, Protocol(max_history=HISTORY)).train
    else:
        events = like_beauty(rng)

    ids = SemanticIds(rng.integers(0, 256, (len(events.items), 4)).astype(np.int32), (256,) * 4)
    apart: Batches = TargetBatches(events, max_length=HISTORY, batch_size=arguments.rows, seed=arguments.seed)
    whole: Batches = SequenceBatches(events, max_length=HISTORY, tokens=arguments.positions, seed=arguments.seed)
    codes = NextCodes()
    contestants = {
        "transformers_t5": (HuggingFaceT5(ids), lambda model, batch: model.loss(batch), apart),
        "encoder_decoder": (EncoderDecoder(ids, dropout=DROPOUT, is_tied=True), codes, apart),
        "encoder_decoder_causal": (EncoderDecoder(ids, dropout=DROPOUT, is_tied=True, causal=True), codes, whole),
        "causal": (Causal(ids, feedforward=600, dropout=DROPOUT, is_tied=True), codes, whole),
        "two_level": (TwoLevel(ids, width=104, layers=4, heads=2, feedforward=416, dropout=DROPOUT), codes, whole),
    }
    optimisers = {}
    for name, (model, _, _) in contestants.items():
        model.to(arguments.device).train()
        optimisers[name] = torch.optim.AdamW(model.parameters(), lr=5e-4)
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.rounds + 1):
        for name, (model, loss_of, batches) in contestants.items():
            rate = step(model, loss_of, optimisers[name], batches.at(turn).to(arguments.device))
            if turn:  # the first round warms up
                rates[name].append(rate)

    reference = statistics.median(rates["transformers_t5"])
    models = {}
    for name, (model, _, _) in contestants.items():
        rate = statistics.median(rates[name])
        parameters = sum(p.numel() for p in model.parameters())
        models[name] = {"parameters": parameters, "targets_per_second": round(rate, 1), "ratio": round(rate / reference, 2),
                        "rounds": [round(r, 1) for r in rates[name]]}
        print(f"{name:24} {parameters / 1e6:.2f} M parameters {rate:10,.0f} targets/s {rate / reference:6.1f} x")
    result = {"benchmark": "train_speed", "command": "python benchmarks/train_speed.py " + " ".join(argv or sys.argv[1:]),
              "machine": {"processor": platform.processor() or platform.machine(), "device": arguments.device,
                          "threads": arguments.threads, "torch": torch.__version__},
              "data": arguments.data.name if arguments.data else "generated with Amazon Beauty's lengths",
              "seed": arguments.seed, "must": {"ratio": 10}, "models": models}
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
