"""How fast is a training step of HSTU, and what does it keep for the gradient? Its paths over real tokens (packed, a CPU's; sliced, that of
other devices) against the plain one and a transformer on torch's SDPA.

    python benchmarks/hstu.py --out results/benchmarks/hstu.json
    python benchmarks/hstu.py --lengths 1024 8192 --precisions fp32 --rounds 1 --out results/benchmarks/hstu_long.json
    python benchmarks/hstu.py --device cuda --lengths 200 1024 8192 --tokens 65536 --out results/benchmarks/hstu_gpu.json

Two layers, width 64, two heads of 32 (the transformer's feed-forward width is 64, as SASRec's in the paper's comparison), the
same vectors and times for all; a step is forward and backward in float32, and under bf16 autocast. Rows are full ("even"), or have
lengths drawn uniformly up to the longest ("mixed"), where padding is what the packed path saves. Rounds interleave the models;
figures are medians, ratios are of one run. megabytes: of tensors kept between forward and backward, each once. Must: packed >= 1.45
times plain at length 200, >= 3 times at 1024. What needs more memory than there is has no figure in that row.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from semid.nn.hstu import HSTU, Packed, Sliced
from semid.nn.transformer import CausalTransformer

WIDTH, LAYERS, HEADS = 64, 2, 2


def histories(tokens: int, length: int, is_mixed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(x [B, S, D], time int64 [B, S], length int64 [B]): gaps between events from seconds to weeks."""
    torch.manual_seed(0)
    rows = tokens // length
    lengths = torch.randint(1, length + 1, (rows,)) if is_mixed else torch.full((rows,), length)
    gaps = torch.rand(rows, length, dtype=torch.float64).mul(14).exp().long()
    return torch.randn(rows, length, WIDTH) * 0.3, gaps.cumsum(1), lengths


def step(run, x: Tensor, precision: str) -> float:
    """Return the milliseconds of one forward and backward pass."""
    _wait(x)
    began = time.perf_counter()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        states = run(x)
    states.float().square().mean().backward()
    _wait(x)
    return 1000 * (time.perf_counter() - began)


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def kept(run, x: Tensor, precision: str) -> float:
    """Return the megabytes that the forward pass keeps for the backward pass."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), \
            torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        states = run(x)
    total = sum(storages.values()) / 1e6
    states.float().square().mean().backward()
    return total


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[200, 1024])
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where the packed path is left out")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], help="some processors only imitate bf16")
    parser.add_argument("--tokens", type=int, default=8192, help="positions of a batch, padding included")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)

    device = torch.device(arguments.device)
    layouts = {"packed": Packed, "sliced": Sliced} if device.type == "cpu" else {"sliced": Sliced}
    fast = next(iter(layouts))

    rows: list[dict] = []
    result = {"benchmark": "hstu", "command": "python benchmarks/hstu.py " + " ".join(argv or sys.argv[1:]),
              "machine": {"processor": platform.processor() or platform.machine(), "threads": arguments.threads,
                          "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
                          "torch": torch.__version__},
              "must": {"over_plain at 200": 1.45, "over_plain at 1024": 3.0}, "rows": rows}
    for length in arguments.lengths:
        torch.manual_seed(0)
        hstu = HSTU(WIDTH, layers=LAYERS, heads=HEADS, head_width=WIDTH // HEADS, dropout=0.0, max_length=length + 11).to(device)
        transformer = CausalTransformer(WIDTH, layers=LAYERS, heads=HEADS, feedforward=WIDTH, dropout=0.0, max_length=length).to(device)
        for is_mixed in (False, True):
            x, times, lengths = (part.to(device) for part in histories(arguments.tokens, length, is_mixed))
            over_tokens = lambda layout, x, *, model=hstu, times=times, lengths=lengths: model.over_tokens(layout, x, times, lengths, None)
            contestants = {
                **{name: partial(over_tokens, layout) for name, layout in layouts.items()},
                "plain": lambda x, times=times, lengths=lengths, model=hstu: model.read(x, times, lengths)[0],
                "sdpa_transformer": transformer,
            }
            for precision in arguments.precisions:
                found: dict[str, list[float]] = {name: [] for name in contestants}
                for turn in range(arguments.rounds + 1):
                    for name in list(found):
                        try:
                            taken = step(contestants[name], x.clone().requires_grad_(), precision)
                        except torch.OutOfMemoryError:  # a row without this one says so
                            del found[name]
                            torch.cuda.empty_cache()
                            continue
                        if turn:  # the first round warms up
                            found[name].append(taken)
                median = {name: statistics.median(values) for name, values in found.items()}
                over = lambda name, median=median: round(median[name] / median[fast], 2) if name in median and fast in median else None
                row = {"length": length, "rows": len(x), "lengths": "mixed" if is_mixed else "even", "precision": precision,
                       "milliseconds": {name: round(value, 1) for name, value in median.items()},
                       "megabytes": {name: round(kept(contestants[name], x.clone().requires_grad_(), precision)) for name in found},
                       "over_plain": over("plain"), "over_transformer": over("sdpa_transformer")}
                rows.append(row)
                if arguments.out:  # what is measured is kept, whatever comes after
                    arguments.out.parent.mkdir(parents=True, exist_ok=True)
                    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
