"""Write the tables of README.md and docs/results.md from results/. A number that isn't there is not printed.

    python benchmarks/tables.py [--check]

--check: exit 1 if a file would change (run by the tests).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
ORDER = ("popularity", "item_knn", "ease", "lightgcn", "ngcf", "alpharec", "sasrec", "tiger",
         "tiger:causal", "grid", "grid:causal", "mmgrec", "parallel", "semid", "semid:fusion")
METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
DATA = ("amazon-beauty", "amazon-toys", "amazon-sports", "amazon-instruments", "ml-1m", "tiktok")
KEPT = {"keep": "kept", "remove": "removed"}
BEGIN, END = "<!-- {} from results/: run `make docs` -->", "<!-- end of {} -->"


def runs() -> dict[tuple[str, str], dict[str, list[dict]]]:
    """Return {(data, protocol hash): {system: [record per seed]}}."""
    found: dict[tuple[str, str], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((RESULTS / "runs").glob("*.json")):
        record = json.loads(path.read_text())
        found[record["data_name"], record["protocol_hash"]][record["system"]].append(record)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def score(records: list[dict], seen: str, metric: str) -> float:
    return mean([r["test"][seen]["metrics"][metric]["mean"] for r in records])


def cell(records: list[dict], seen: str, metric: str, best: float) -> str:
    """Mean over seeds with its half interval over users: `.0813 ±.0036`, bold where it is the best of the column."""
    value = score(records, seen, metric)
    half = mean([(r["test"][seen]["metrics"][metric]["high"] - r["test"][seen]["metrics"][metric]["low"]) / 2 for r in records])
    text = f"{short(value)} ±{short(half)}"
    return f"**{text}**" if value >= best - 1e-12 else text


def short(value: float) -> str:
    return f"{value:.4f}".lstrip("0") or "0"


def in_order(systems: dict[str, list[dict]]) -> list[str]:
    return sorted(systems, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


def main_table(systems: dict[str, list[dict]]) -> list[str]:
    columns = [("keep", "recall@10"), ("keep", "ndcg@10"), ("remove", "recall@10"), ("remove", "ndcg@10")]
    if without_order(systems):
        columns = [("remove", f"{metric}@{k}") for k in (10, 20) for metric in ("recall", "ndcg")]
    heads = [f"{metric[0].upper()}@{metric.partition('@')[2]} {KEPT[seen]}" for seen, metric in columns]
    lines = ["| system | " + " | ".join(heads) + " | seeds | train, CPU | parameters | one user, top 50 |", "|---" * (len(heads) + 5) + "|"]
    best = [max(score(records, *column) for records in systems.values()) for column in columns]
    for name in in_order(systems):
        records = systems[name]
        cells = [cell(records, *column, best=top) for column, top in zip(columns, best, strict=True)]
        seconds, latency = mean([r["cpu_seconds"] for r in records]), mean([r["latency_ms"]["p50"] for r in records])
        millions = records[0]["parameters"] / 1e6
        cells += [str(len(records)), span(seconds), f"{millions:.2f} M", f"{latency:.1f} ms"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def without_order(systems: dict[str, list[dict]]) -> bool:
    """Whether the data have no order: what a user has is then masked, as the published tables do, and longer lists are shown."""
    return next(iter(systems.values()))[0]["protocol"]["seen"] == "remove"


def span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def slice_table(systems: dict[str, list[dict]]) -> list[str]:
    """Recall@10 on the slices that explain item-kNN; nothing where the data have no times."""
    name = "day"
    first = next(iter(systems.values()))[0]
    slices = first["test"]["keep"]["slices"].get(name)
    if not slices:
        return []
    labels = list(slices)
    lines = ["", "The same, split by whether the test item falls on the day of the last history item (R@10 / N@10):", "",
             "| system | " + " | ".join(f"{label}, kept ({slices[label]['num_cases']:,} users)" for label in labels) + " | "
             + " | ".join(f"{label}, removed" for label in labels) + " |", "|---" * (2 * len(labels) + 1) + "|"]
    for system in in_order(systems):
        cells = []
        for seen in ("keep", "remove"):
            for label in labels:
                parts = [r["test"][seen]["slices"][name][label]["metrics"] for r in systems[system]]
                cells.append(" / ".join(short(mean([p[m]["mean"] for p in parts])) for m in ("recall@10", "ndcg@10")))
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return lines


def budget_lines(systems: dict[str, list[dict]]) -> list[str]:
    """What the variants for machines without a GPU were trained on."""
    small = {name: records[0]["config"] for name, records in systems.items() if name.endswith(":causal")}
    return ["", "Trained on what two cores allow, whole histories at a time: " + "; ".join(
        f"{name} {config['steps']:,} steps of {config['tokens']:,} positions" for name, config in sorted(small.items()))
        + ". Their papers train hundreds of thousands of steps on a GPU. The time shown is that since an interruption."] if small else []


def comparison_lines(data: str, protocol: str, seens: tuple[str, ...] = ("keep", "remove")) -> list[str]:
    """Paired permutation tests, Holm-adjusted, against each reference in results/comparisons/."""
    lines = []
    for path in sorted((RESULTS / "comparisons").glob(f"{data}.{protocol}.*.json")):
        table = json.loads(path.read_text())
        seen = path.name.split(".")[-2]
        if seen not in seens:
            continue
        ndcg = {row["name"]: row["metrics"]["ndcg@10"] for row in table["rows"]}
        base = ndcg.pop(table["reference"])["mean"]
        said = [f"{name} {value['mean'] / base - 1:+.1%} (p {p_text(value['p_adjusted'])})" for name, value in ndcg.items()]
        lines += ["", f"N@10 against {table['reference']}, seen items {KEPT[seen]}, paired permutation, Holm: " + "; ".join(said) + "."]
    return lines


def p_text(p: float) -> str:
    return "< .001" if p < 0.001 else f"= {p:.3f}".replace("0.", ".")


def published_table(data: str) -> list[str]:
    rows = json.loads((RESULTS / "published.json").read_text()).get(data, [])
    if not rows:
        return []
    number = lambda row, key: short(row[key]) if key in row else ""
    lines = ["", "Published by others (seen items kept; other text, budgets, and hits counted by code in some):", "",
             "| system | R@5 | R@10 | N@5 | N@10 | printed in |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["system"], *(number(row, key) for key in ("r5", "r10", "n5", "n10")), row["source"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def results_page() -> str:
    parts = ["Leave-one-out, full ranking over all items, item level, mean over seeds ± half the 95 % bootstrap interval over users. "
             "\"kept\" ranks every item (the protocol of the published tables), \"removed\" skips the user's own history. "
             "Choices were made on validation; test was read once per finished configuration. `train`: processor time of one thread, "
             "tokenizer and looks at validation included; `one user`: median wall time on a machine that trained beside it."]
    place = {name: index for index, name in enumerate(DATA)}
    for (data, protocol), systems in sorted(runs().items(), key=lambda found: (place.get(found[0][0], len(DATA)), found[0][1])):
        first = next(iter(systems.values()))[0]
        shuffled = first["protocol"]["shuffle_ties"]
        title = data + ("" if shuffled is None else f", order inside a day shuffled (seed {shuffled})")
        about, seens = first["data"], ("remove",) if without_order(systems) else ("keep", "remove")
        histories = "no order, the split of its source, all training items as history" if without_order(systems) else \
            f"history up to {first['protocol']['max_history']}"
        hashes = [f"{first['test'][seen]['protocol_hash']} ({KEPT[seen]})" for seen in KEPT]
        parts += ["", f"## {title}", "", f"{about['users']:,} users, {about['items']:,} items, {about['events']:,} events; {histories}; "
                  f"protocol {', '.join(hashes)}; data {about['fingerprint']}.", "",
                  *main_table(systems), *budget_lines(systems), *comparison_lines(data, protocol, seens), *slice_table(systems)]
        if shuffled is None:
            parts += published_table(data)
    return "\n".join(parts)


def readme_table() -> str:
    found = [(key, systems) for key, systems in runs().items()
             if key[0] == "amazon-beauty" and next(iter(systems.values()))[0]["protocol"]["shuffle_ties"] is None]
    if not found:
        return "No results yet."
    (data, _), systems = found[0]
    return "\n".join([f"{data}, leave-one-out, full ranking, test:", "", *main_table(systems)])


def fill(path: Path, name: str, body: str) -> tuple[str, str]:
    """Return the file's text before and after putting `body` between its markers."""
    text = path.read_text()
    begin, end = BEGIN.format(name), END.format(name)
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    if not rest or end not in rest:
        raise SystemExit(f"{path}: want the markers {begin!r} and {end!r}")
    return text, f"{head}{begin}\n{body}\n{end}{tail}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    args = parser.parse_args(argv)
    changed = 0
    for path, name, body in ((ROOT / "README.md", "results", readme_table()), (ROOT / "docs" / "results.md", "results", results_page())):
        before, after = fill(path, name, body)
        changed += before != after
        if before != after and not args.check:
            path.write_text(after)
    if args.check and changed:
        print("the tables are not those of results/: run `make docs`", file=sys.stderr)
    return int(args.check and changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
