"""A scaling study: loss and NDCG@10 of the default's generator against its parameters and its training events.

    python benchmarks/scaling.py --data FOLDER/ml-1m [--widths 8 16 32 64 128] [--shares 0.0625 0.25 1]
    python benchmarks/scaling.py --fit          (fit and draw what is there)

`semid:hard_targets` (its codes, inputs, dropout and batches; no soft targets, so that what is trained is what is measured) at several
widths, all else in proportion, on the training events of all users or of a random share of them, codes and behaviour vectors included.
The questions are the same for all: the last event but one of every user, whether he was trained on or not (a split that the data bring is
left aside). Every cell has the same number of epochs, a look after each and the weights of the best one. The peak learning rate falls with
the root of the width.

loss: nats per item, -log p(item | history), the sum over the codes of its path. Cells run in the order of their cost and go into
results/benchmarks/scaling.json one by one; those that are there aren't run again.

Fitted by least squares, L = E + A N^-a for each share and L = E + A N^-a + B D^-b for all, with E, A, B >= 0; N parameters without
tables (embeddings of items, codes, nodes and positions), D training targets. Form: Hoffmann et al., arXiv 2203.15556, equation 2. The
intervals are percentiles of the fits to resampled users, the same ones in all cells: they hold what users differ by, not what another
training would.

Axes: B cases, R resamples, C cells.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import semid
from semid.data.batch import SequenceBatches, case_batches
from semid.evaluation.statistics import bootstrap
from semid.files import write_json
from semid.objectives.next_codes import NextCodes
from semid.recipes import semid as recipe
from semid.recommenders import CodeRecommender
from semid.run import configure, machine
from semid.training.fit import Validation, fit
from semid.training.job import Job
from semid.types import Cases, Split
from semid.validation import ndcg_by_case

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "scaling.json"
WIDTHS = (8, 16, 32, 64, 128)
SHARES = (1 / 16, 1 / 4, 1.0)
EPOCHS = 5
RESAMPLES = 200
EXPONENTS = (0.02, 3.0)


def of_some_users(split: Split, share: float, seed: int = 0) -> Split:
    """Return the split with the training events of a random share of the users; the questions stay those of all."""
    users = np.random.default_rng(seed).permutation(len(split.events.users))[: round(share * len(split.events.users))]
    return replace(split, train=split.train.take(np.isin(split.train.user, users)))


def nats(recommender: CodeRecommender, split: Split, cases: Cases) -> np.ndarray:
    """Return float64 [B]: -log p of the item that each case asks for, all its codes together."""
    loss = np.empty(len(cases))
    for rows, batch in case_batches(split, cases):
        target = torch.from_numpy(cases.target[cases.target_offsets[rows]].astype(np.int64))
        loss[rows] = -recommender.score_items(batch, target[:, None])[:, 0].double().numpy()
    return loss


def without_tables(generator: nn.Module) -> int:
    """Return how many parameters multiply: all but the rows that are looked up, of items, codes, nodes, positions and gaps."""
    tables = {id(parameter) for module in generator.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    tables |= {id(parameter) for name, parameter in generator.named_parameters() if name.startswith(("code.", "node."))}
    return sum(parameter.numel() for parameter in generator.parameters() if id(parameter) not in tables)


def cell(split: Split, width: int, share: float, epochs: int) -> dict:
    """Train one width on one share of the users and measure it."""
    began = time.process_time()
    data, job = of_some_users(split, share), Job()
    _, config = configure("semid:hard_targets", {"width": width, "feedforward": 2 * width})
    torch.manual_seed(job.seed)
    catalog, views = recipe.with_views(config.text, config.cf_dim, data, job)
    ids = recipe.coder(config, data, job).codes(data, job)
    config = replace(config, has_time_gaps=data.events.time_unit == "seconds")
    generator = recipe.build(config, ids, data.protocol.max_history, recipe.initial_vectors(catalog, views, width),
                             recipe.content_of(catalog, views), recipe.dropout_for(split))
    recommender = CodeRecommender(generator, ids, generator.tree, config.beams, normalise="children")
    batches = SequenceBatches(data.train, max_length=data.protocol.max_history, tokens=config.tokens, seed=job.seed)
    steps = epochs * batches.steps_per_epoch
    rate = config.optimization.learning_rate * (recipe.Config().width / width) ** 0.5
    fitted = fit(generator, NextCodes(), batches, steps=steps,
                 optimization=replace(config.optimization, learning_rate=rate, warmup=min(config.optimization.warmup, steps // 10)),
                 validation=Validation(lambda: {"gain": -float(nats(recommender, split, split.valid).mean())},
                                       every=batches.steps_per_epoch, select="gain"))
    loss, ndcg = nats(recommender, split, split.valid), ndcg_by_case(recommender, split, seen="keep", limit=len(split.valid))
    drawn = np.random.default_rng(0).integers(len(loss), size=(RESAMPLES, len(loss)))  # [R, B], of the same users in all cells
    return {
        "width": width, "share": share, "epochs": epochs, "parameters": without_tables(generator),
        "all_parameters": recommender.num_parameters, "targets": int(np.maximum(np.diff(data.train.offsets) - 1, 0).sum()),
        "loss": float(loss.mean()), "loss_interval": np.quantile(loss[drawn].mean(1), [0.025, 0.975]).round(4).tolist(),
        "ndcg@10": float(ndcg.mean()), "ndcg@10_interval": list(bootstrap(ndcg)),
        "best_epoch": fitted.best_step // batches.steps_per_epoch,
        "losses": [round(-look["gain"], 4) for look in fitted.history],
        "resampled": loss[drawn].mean(1).round(5).tolist(), "cpu_seconds": round(time.process_time() - began, 1)}


def power_law(terms: Sequence[np.ndarray], loss: np.ndarray) -> dict[str, float]:
    """Fit loss = E + sum_t A_t x_t^-a_t by least squares: the exponents from the best of a grid over `EXPONENTS` on, the rest exactly.

    terms: each float [C] > 0; loss float [C]. Returns {"E", "A0", "a0", ...}, and "rms", the root mean square of what is left.
    """
    from scipy.optimize import minimize, nnls

    def solved(logs: Sequence[float]) -> tuple[np.ndarray, float]:
        # Over the smallest x the columns stay near 1, whatever the exponent.
        columns = [np.ones(len(loss)), *((x / x.min()) ** -np.exp(a) for x, a in zip(terms, logs, strict=True))]
        return nnls(np.stack(columns, axis=1), loss)

    bounds = np.log(EXPONENTS)
    start = min(itertools.product(np.linspace(*bounds, 16), repeat=len(terms)), key=lambda logs: solved(logs)[1])
    logs = minimize(lambda logs: solved(logs)[1], start, method="Nelder-Mead", bounds=[bounds] * len(terms)).x
    found, left = solved(logs)
    named = {"E": found[0], "rms": left / len(loss) ** 0.5}
    for place, (x, a) in enumerate(zip(terms, np.exp(logs), strict=True)):
        named |= {f"A{place}": found[1 + place] * x.min() ** a, f"a{place}": a}
    return {name: float(value) for name, value in named.items()}


def with_intervals(terms: Sequence[np.ndarray], cells: Sequence[dict]) -> dict:
    """Return {"fit": of the cells' losses, "intervals": {name: [low, high]} over the resamples, "cells": C}."""
    fitted = power_law(terms, np.array([c["loss"] for c in cells]))
    again = [power_law(terms, loss) for loss in np.array([c["resampled"] for c in cells]).T]
    return {"fit": fitted, "cells": len(cells),
            "intervals": {name: np.quantile([each[name] for each in again], [0.025, 0.975]).tolist() for name in fitted}}


def fits(cells: Sequence[dict]) -> dict:
    """Return the laws that enough cells are there for: one a share of four widths or more, one for all of three shares or more."""
    found = {}
    size, events = (lambda some, key=key: np.array([c[key] for c in some], float) for key in ("parameters", "targets"))
    for share in sorted({c["share"] for c in cells}):
        if len(some := [c for c in cells if c["share"] == share]) >= 4:
            found[f"share {share:g}"] = with_intervals([size(some)], some)
    if len({c["share"] for c in cells}) >= 3 and len(found) >= 2:
        found["all"] = with_intervals([size(cells), events(cells)], cells)
    return found


def draw(cells: Sequence[dict], fits: dict, path: Path) -> None:
    """Draw loss and NDCG@10 over parameters, a line a share, the fitted law dashed."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "semid"}  # text as text; the same bytes each time
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for share, colour in zip(sorted({c["share"] for c in cells}), ("#7a5195", "#ef5675", "#003f5c", "#ffa600"), strict=False):
        some = sorted((c for c in cells if c["share"] == share), key=lambda c: c["parameters"])
        x, name = np.array([c["parameters"] for c in some], float), f"{some[0]['targets']:,} training targets"
        for axis, metric in ((left, "loss"), (right, "ndcg@10")):
            y, bounds = np.array([c[metric] for c in some]), np.array([c[f"{metric}_interval"] for c in some])
            axis.errorbar(x, y, abs(bounds.T - y), fmt="o-", color=colour, label=name, markersize=4, linewidth=1, capsize=2)
        if f"share {share:g}" in fits:
            law, along = fits[f"share {share:g}"]["fit"], np.geomspace(x.min(), x.max(), 100)
            left.plot(along, law["E"] + law["A0"] * along ** -law["a0"], "--", color=colour, linewidth=1)
    for axis, said in ((left, "validation loss, nats an item (dashed: E + A N^-a)"), (right, "validation NDCG@10")):
        axis.set(xscale="log", xlabel="parameters without tables, N", title=said)
        axis.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of a data set")
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--fit", action="store_true", help="train nothing")
    args = parser.parse_args(argv)
    if not args.fit and args.data is None:
        parser.error("want --data FOLDER to train, or --fit")
    found = json.loads(args.out.read_text()) if args.out.exists() else {"benchmark": "scaling", "cells": []}
    if not args.fit:
        split = semid.read(args.data, split="").split(semid.Protocol())
        found |= {"data": args.data.name, "fingerprint": split.fingerprint, "protocol_hash": split.protocol.hash, "machine": machine()}
        wanted = [(width, share) for share in args.shares for width in args.widths]
        for width, share in sorted(wanted, key=lambda pair: pair[1] * (pair[0] + 50)):  # about what they cost
            if any(c["width"] == width and c["share"] == share for c in found["cells"]):
                continue
            found["cells"].append(cell(split, width, share, args.epochs))
            write_json(args.out, found)
            print(json.dumps({key: value for key, value in found["cells"][-1].items() if key != "resampled"}), flush=True)
    found |= {"fits": fits(found["cells"]), "exponents": list(EXPONENTS)}
    write_json(args.out, found)
    draw(found["cells"], found["fits"], args.out.with_suffix(".svg"))


if __name__ == "__main__":
    main()
