"""Time one step of constrained beam search: semid's against an unconstrained one, STATIC's and a trie of dicts.

    python benchmarks/decode_step.py --out results/benchmarks/decode_step.json

Every way gets the same logits and the same beams, those that semid keeps with nothing forbidden. `floor`: log-softmax
alone; `free`: log-softmax, sum with the beams' scores, top-k; `dict_trie`: free with Hugging Face transformers'
PrefixConstrainedLogitsProcessor over a trie of dicts before the top-k; `static`: `static_trie.StaticIndex`; both without mask
and seen items, which they can't do; `torch`: semid's plain step, meant for GPUs; `fused`: semid's step on the CPU. `_limits`: a
mask of a tenth of the items and 50 seen items a row. Logits are normal, the worst case for skipping beams. One thread, its CPU time, which
busy neighbours disturb least; medians over rounds in which all ways take turns. `ms` is the mean of the L steps.
Must, at a million items and with mask and seen items: 50 times faster than the dicts and 5 times than STATIC, never slower than
`free`, at most 12 bytes an item. `growth`: the same step from the fewest to the most items. It follows the children that stand under the
beams, of which a level has no more than beams x codes: at 10,000 random items 1,816 a row at the second level and 53 at the third, at ten
million 12,800, which are all, and 5,737. A level that is full takes the same time whatever the catalogue's size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from static_trie import StaticIndex
from transformers.generation.logits_process import PrefixConstrainedLogitsProcessor

from semid.decoding import fused, step
from semid.tree import CodeTree
from semid.types import SemanticIds

LEVELS, CODES, BEAMS, SEEN = 4, 256, 50, 50


def make_ids(items: int, kind: str, seed: int) -> SemanticIds:
    """Codes drawn independently a level: "random" uniform, "zipf" with p proportional to 1 / rank."""
    weight = np.ones(CODES) if kind == "random" else 1 / np.arange(1, CODES + 1)
    codes = np.random.default_rng(seed).choice(CODES, size=(items, LEVELS), p=weight / weight.sum())
    return SemanticIds(codes.astype(np.int16), (CODES,) * LEVELS)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def dict_trie(codes: np.ndarray) -> dict:
    root: dict = {}
    for path in codes.tolist():
        node = root
        for code in path:
            node = node.setdefault(code, {})
    return root


def prefix_allowed(trie: dict) -> Callable[[int, torch.Tensor], list[int]]:
    def allowed(_: int, tokens: torch.Tensor) -> list[int]:
        node = trie
        for token in tokens.tolist()[1:]:  # after the start token
            node = node[token]
        return list(node)

    return allowed


def ways_of_step(tree: CodeTree, trie: dict | None, static: StaticIndex, level: int, path: torch.Tensor, frontier: step.Frontier,
                 logits: torch.Tensor, limits: dict[str, step.Limits]) -> dict[str, Callable[[], object]]:
    """The ways to take one step from `frontier` [B, K], whose beams read `path` int64 [B * K, level]. trie: None = not measured."""
    rows, beams = frontier.node.shape
    width = min(BEAMS, tree.num_nodes(level))
    history = path.view(rows, beams, level)
    states = history[..., 0] if level == 1 else frontier.node + static.offset[max(level - 1, 0)]

    def best(logp: torch.Tensor) -> object:
        return (logp.view(rows, beams, -1) + frontier.logp[..., None]).view(rows, -1).topk(width)

    ways = {"floor": lambda: torch.log_softmax(logits, 1), "free": lambda: best(torch.log_softmax(logits, 1)),
            "static": lambda: static.step(level, logits, states, frontier.logp, history, width)}
    if trie is not None:
        tokens = torch.cat([torch.zeros(len(path), 1, dtype=torch.int64), path], dim=1)
        processor = PrefixConstrainedLogitsProcessor(prefix_allowed(trie), num_beams=beams)
        ways["dict_trie"] = lambda: best(processor(tokens, torch.log_softmax(logits, 1)))
    paths = fused.Paths(frontier.node.numpy(), frontier.logp.numpy())
    for name, expand, beam in (("torch", step.expand, frontier), ("fused", fused.expand, paths)):
        for normalise, suffix in (("vocabulary", ""), ("children", "_children")):
            for which, limit in limits.items():
                ways[name + suffix + which] = lambda expand=expand, beam=beam, normalise=normalise, limit=limit: expand(
                    tree, level, logits, beam, width, normalise=normalise, weight=1.0, limit=limit)
    return ways


def measure(ways: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, float]:
    """Median CPU ms of each way. In a round each way runs as often as fits its share of `seconds`, at least once."""
    often = {}
    for name, way in ways.items():
        way()
        begin = time.thread_time()
        way()
        often[name] = max(1, min(100, int(seconds / len(ways) / rounds / (time.thread_time() - begin))))
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begin = time.thread_time()
            for _ in range(often[name]):
                way()
            taken[name].append((time.thread_time() - begin) / often[name])
    return {name: float(np.median(times)) * 1e3 for name, times in taken.items()}


def agree(tree: CodeTree, static: StaticIndex, level: int, ours: fused.Paths, theirs: tuple[torch.Tensor, ...]) -> None:
    """Raise unless STATIC's step found the same children; items that share all codes are one path to it, so not at the last level."""
    if level < LEVELS - 1:
        np.testing.assert_allclose(ours.logp, theirs[0].numpy(), atol=1e-5)
        same = tree.code[level][ours.node].long() == theirs[1][..., -1]
        assert same.float().mean() > 0.99, "STATIC's step keeps other children"


def decode(tree: CodeTree, trie: dict | None, static: StaticIndex, batch: int, rounds: int, seconds: float, seed: int) -> dict:
    """Measure the L steps of a decode of `batch` rows."""
    rng = np.random.default_rng(seed)
    begin = time.perf_counter()
    constraint = tree.allow(rng.random(len(tree)) < 0.1)
    allow_ms = (time.perf_counter() - begin) * 1e3
    prepare_ms = []
    for _ in range(7):
        seen = torch.from_numpy(rng.integers(0, len(tree), (batch, SEEN)))
        begin = time.perf_counter()
        limited = fused.prepare_limits(tree, constraint, seen, batch)
        prepare_ms.append((time.perf_counter() - begin) * 1e3)
    limits = {"": step.prepare_limits(tree, None, None, batch), "_limits": limited}

    generator = torch.Generator().manual_seed(seed)
    frontier = step.Frontier(torch.zeros(batch, 1, dtype=torch.int64), torch.zeros(batch, 1))
    path = torch.zeros(batch, 0, dtype=torch.int64)
    steps = []
    for level in range(LEVELS):
        logits = torch.randn(frontier.node.numel(), CODES, generator=generator)
        ways = ways_of_step(tree, trie, static, level, path, frontier, logits, limits)
        agree(tree, static, level, ways["fused"]()[0], ways["static"]())
        steps.append(measure(ways, rounds, seconds))
        frontier, row = step.expand(tree, level, logits, frontier, min(BEAMS, tree.num_nodes(level)), normalise="vocabulary",
                                    weight=1.0, limit=limits[""])
        path = torch.cat([path[row], tree.code[level][frontier.node.flatten()].long()[:, None]], dim=1)
    mean = {name: sum(s[name] for s in steps) / LEVELS for name in steps[0]}
    return {"batch": batch, "allow_ms": allow_ms, "prepare_limits_ms": float(np.median(prepare_ms)), "ms": mean,
            "ms_by_level": steps}


def write(args: argparse.Namespace, settings: list[dict]) -> None:
    growth: dict[str, dict[int, float]] = {}
    for s in settings:
        growth.setdefault(f"{s['codes']}, batch {s['batch']}", {})[s["items"]] = s["ms"]["fused_limits"]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({
        "benchmark": "decode_step", "levels": LEVELS, "codes": CODES, "beams": BEAMS, "seen": SEEN, "seed": args.seed,
        "rounds": args.rounds, "threads": 1, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0], "python": platform.python_version(), "torch": torch.__version__,
        "must": {"dict_trie": 50, "static": 5, "free": 1, "bytes_per_item": 12},
        "growth_ms_of_fused_limits": growth, "settings": settings}, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--dict-trie-up-to", type=int, default=1_000_000, help="items; more take gigabytes of dicts")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long to measure one level of one setting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)

    settings = []
    for items in args.items:
        for kind in ("random", "zipf"):
            ids = make_ids(items, kind, args.seed)
            begin = time.perf_counter()
            tree = CodeTree.build(ids)
            built = time.perf_counter()
            about = {"items": items, "codes": kind, "distinct_paths": ids.num_distinct,
                     "tree_bytes_per_item": tree.nbytes / items, "tree_build_s": built - begin}
            static = StaticIndex.build(ids.codes, CODES)
            about |= {"static_bytes_per_item": static.nbytes / items, "static_build_s": time.perf_counter() - built}
            trie = None
            if items <= args.dict_trie_up_to:
                before, begin = resident(), time.perf_counter()
                trie = dict_trie(ids.codes)
                about |= {"dict_trie_bytes_per_item": (resident() - before) / items, "dict_trie_build_s": time.perf_counter() - begin}
            for batch in args.batch:
                result = about | decode(tree, trie, static, batch, args.rounds, args.seconds, args.seed)
                ms = result["ms"]
                result |= {f"{rival}_over_fused_limits": ms[rival] / ms["fused_limits"]
                           for rival in ("dict_trie", "static", "free") if rival in ms}
                settings.append(result)
                shown = "  ".join(f"{name} {value:.4f}" for name, value in ms.items())
                print(f"{items:>10,} {kind:6} batch {batch:>2}: {shown} ms | tree {about['tree_bytes_per_item']:.1f} B/item, "
                      f"{about['tree_build_s']:.2f} s | over fused_limits: "
                      + ", ".join(f"{rival} {result[f'{rival}_over_fused_limits']:.1f}" for rival in ("dict_trie", "static", "free")
                                  if rival in ms), flush=True)
            del trie, static
            if args.out:  # after each catalogue: the largest takes minutes
                write(args, settings)


if __name__ == "__main__":
    main()
