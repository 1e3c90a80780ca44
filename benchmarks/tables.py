"""Write the tables of README.md and of results, laboratory and scaling in docs/ from results/. A number that isn't there is not printed.

    python benchmarks/tables.py [--check]

--check: exit 1 if a file would change (run by the tests).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
ORDER = ("popularity", "popularity:recent", "item_knn", "item_knn:recent", "ease", "lightgcn", "ngcf", "alpharec", "sasrec",
         "sasrec:sampled", "sasrec:as_hstu", "hstu", "hstu:order", "hstu:no_bias", "tiger", "tiger:causal", "grid", "grid:causal",
         "letter:causal", "cost:causal", "discrec:causal",
         "mmgrec", "mmgrec:no_graph", "mmgrec:no_relation", "mmgrec:visual", "mmgrec:acoustic",
         "colarec:small", "minionerec:no_alignment", "minionerec",
         "human_priors", "human_priors:mixture", "human_priors:shuffled", "human_priors:multi_interest", "human_priors:single", "parallel",
         "semid", "semid:hstu", "semid:fusion_timeless", "semid:timely", "semid:recent", "semid:fusion", "semid:ensemble")
DATA = ("amazon-beauty", "amazon-toys", "amazon-sports", "amazon-instruments", "amazon-industrial", "ml-1m", "ml-100k",
        "ml-latest-small", "tiktok", "amazon-phones")
CODES = ("semid:text_codes", "semid:cf_codes", "semid:rqvae", "semid:product", "semid:letter_sid")
"""Of semid's variants those that change the codes alone, as `:two_level` of other recipes do."""
NARROW = "†"
OTHER_RUNS = "‡"
PLAIN_CODES = "semid:text_codes"
UNALIGNED = "semid"
"""What aligned systems started from, and are tested against."""
KEPT = {"keep": "kept", "remove": "removed"}
BEGIN, END = "<!-- {} from results/: run `make docs` -->", "<!-- end of {} -->"


@cache
def runs() -> dict[tuple[str, str], dict[str, list[dict]]]:
    """Return {(data, protocol hash): {system: [record per seed]}}."""
    found: dict[tuple[str, str], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted((RESULTS / "runs").glob("*.json")):
        record = json.loads(path.read_text())
        found[record["data_name"], record["protocol_hash"]][record["system"]].append(record)
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def changes_codes(name: str) -> bool:
    return name in CODES or ":two_level" in name


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


def in_order(systems: Iterable[str]) -> list[str]:
    """Return the names, each once, as tables list them."""
    return sorted(set(systems), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))


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
        latency = min(r["latency_ms"]["p50"] for r in records)  # load only adds
        millions = records[0]["parameters"] / 1e6
        alone = "semid:timely" if records[0]["config"].get("has_request_gap") else UNALIGNED
        taken = systems[alone] if records[0]["config"].get("trained_in") else []
        cells += [str(len(records)), trained_in(records, taken), f"{millions:.2f} M", f"{latency:.1f} ms{NARROW * is_narrow(records)}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def without_order(systems: dict[str, list[dict]]) -> bool:
    """Whether the data have no order: what a user has is then masked, as the published tables do, and longer lists are shown."""
    return next(iter(systems.values()))[0]["protocol"]["seen"] == "remove"


def trained_in(records: list[dict], taken: Sequence[dict] = ()) -> str:
    """Say how long training took. taken: runs whose generators were taken, which were trained too."""
    seconds = [mean([r["cpu_seconds"] for r in part]) for part in (records, taken) if part]
    return span(sum(seconds)) + NARROW * is_narrow([*records, *taken])


def is_narrow(records: list[dict]) -> bool:
    """Whether times are of a processor without AVX512, which takes more than twice as long."""
    return any(r["machine"].get("cpu_capability") == "AVX2" for r in records)


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
    """What systems were trained on that their papers train for longer, or larger."""
    said = []
    for name, records in sorted(systems.items()):
        config = records[0]["config"]
        if name.endswith(":causal"):
            shape = config.get("letter", config).get("tiger", config)
            said.append(f"{name} {shape['steps']:,} steps of {shape['tokens']:,} positions")
        elif name.startswith("colarec"):
            said.append(f"{name} {config['epochs']} epochs (the paper: 60 of t5-small)")
        elif name == "mmgrec":
            said.append(f"mmgrec and its ablations {config['graph_epochs']} epochs of the graph, {config['epochs']} of the transformer")
        elif name == "hstu":
            rival = next(each for each in ("sasrec:as_hstu", "sasrec:sampled") if each in systems)
            length = "" if config["patience"] >= config["epochs"] else " at most, fewer where validation no longer rises"
            said.append(f"hstu, its ablations and {rival} {config['epochs']} epochs{length}, weights of the best look, "
                        f"in batches of {config['tokens']:,} positions that share {config['negatives']} negatives, one shape and one "
                        "optimizer (the paper: 128 histories, and negatives of each position's own)")
        elif name == "human_priors":
            said.append(f"human_priors, its ablations and multi-interest {config['width']} wide, {config['negatives']:,} negatives, "
                        f"{config['epochs']} epochs at most (the paper: 128 to 2,048 wide, 4,096 to 8,192 negatives, 30,000 steps of 64 "
                        "to 128 histories)")
        elif name.startswith("lightgcn"):
            said.append(f"{name} {config['pairing']['epochs']} epochs at most (its code: 1,000)")
        elif "tuning" in config and config["tuning"]["model"] == "new":
            shape = config["tuning"]["shape"]
            said.append(f"{name} {shape['layers']} layers of {shape['width']} from random weights, without the rewarded stage, "
                        f"{config['tuning']['epochs']} epochs (the paper: Qwen2.5, pretrained)")
    return ["", "Trained on what two cores allow: " + "; ".join(said) + "."] if said else []


def request_lines(systems: dict[str, list[dict]]) -> list[str]:
    """Which systems know when they are asked."""
    if not has_times(systems):
        return ["", "The events have an order but no times: HSTU's bias of time is left out, so `hstu` is `hstu:order` here."] \
            if "hstu" in systems else []
    reads = lambda name, config: name in ("hstu", "popularity:recent", "item_knn:recent") or (
        config.get("has_request_gap") or config.get("temporal") == "hstu")
    said = [name for name in in_order(systems) if reads(name, systems[name][0]["config"])]
    return ["", f"Read the time of the request, which a service knows and published systems don't use: {', '.join(said)}."] if said else []


def prior_lines(systems: dict[str, list[dict]]) -> list[str]:
    """How mixed the categories of lists are, with heads for tags and without."""
    mixed = {name: mean([r["test"]["remove"]["metrics"]["category_entropy@10"]["mean"] for r in systems[name]])
             for name in in_order(systems) if name.startswith("human_priors")}
    said = ", ".join(f"{name} {bits:.2f}" for name, bits in mixed.items())
    return ["", f"Entropy of the categories in a list's first ten, bits, seen items removed: {said}."] if mixed else []


def has_times(systems: dict[str, list[dict]]) -> bool:
    return next(iter(systems.values()))[0]["data"]["time_unit"] == "seconds"


def comparisons(data: str, protocol: str, seens: tuple[str, ...]) -> list[tuple[str, str, dict[str, dict]]]:
    """Return (reference, seen, {system: its N@10}) of results/comparisons/. "p_text" is p in words, with `OTHER_RUNS` where one of the two
    has another mean in the comparison than in results/runs: fewer seeds, or another processor."""
    found, systems = [], runs()[data, protocol]
    for path in sorted((RESULTS / "comparisons").glob(f"{data}.{protocol}.*.json")):
        table, seen = json.loads(path.read_text()), path.name.split(".")[-2]
        if seen in seens:
            tested = {row["name"]: row["metrics"]["ndcg@10"] for row in table["rows"]}
            others = {name for name, value in tested.items() if abs(score(systems[name], seen, "ndcg@10") - value["mean"]) > 5e-6}
            for name, value in tested.items():
                if value["p_adjusted"] is not None:
                    value["p_text"] = p_text(value["p_adjusted"]) + OTHER_RUNS * bool(others & {name, table["reference"]})
            found.append((table["reference"], seen, tested))
    return found


def tests_by_reference(data: str, protocol: str) -> dict[tuple[str, str], dict[str, dict]]:
    """Return {(reference, seen): {system: its N@10}}; Holm's family is the call of benchmarks/results.py, a file each."""
    found: dict[tuple[str, str], dict[str, dict]] = {}
    for reference, seen, ndcg in comparisons(data, protocol, tuple(KEPT)):
        found.setdefault((reference, seen), {}).update(ndcg)
    return found


def comparison_lines(data: str, protocol: str, seens: tuple[str, ...] = ("keep", "remove")) -> list[str]:
    """Paired permutation tests, Holm-adjusted within a call, against each reference that is a system of its own: a column each."""
    columns: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for reference, seen, ndcg in comparisons(data, protocol, seens):
        if changes_codes(reference) or reference == UNALIGNED:
            continue
        base = ndcg.pop(reference)["mean"]
        for name, value in ndcg.items():
            columns[reference, seen][name] = f"{value['mean'] / base - 1:+.1%} ({value['p_text']})"
    if not columns:
        return []
    places = [(reference, seen) for reference in in_order([reference for reference, _ in columns]) for seen in seens]
    heads = [f"against {reference}, {KEPT[seen]}" for reference, seen in places]
    lines = ["", "N@10 against others: the difference, and p of a paired permutation test (Holm).", "",
             "| system | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in in_order([name for column in columns.values() for name in column]):
        lines.append(f"| {name} | " + " | ".join(columns[place].get(name, "") for place in places) + " |")
    return lines


def codes_lines(data: str, protocol: str, systems: dict[str, list[dict]]) -> list[str]:
    """What the tokenizer alone changes: the same generator, inputs and policy for equal codes, other codes."""
    if not any(changes_codes(name) for name in systems):
        return []
    plain, what = (PLAIN_CODES, "residual k-means on text") if PLAIN_CODES in systems else ("semid", "residual k-means on behaviour")
    lines = ["", f"What the codes alone change: semid's generator with its inputs on other codes, N@10 tested against `{plain}`, {what} "
             "(paired permutation, Holm). Residual k-means on text is GRID's; `semid:rqvae` are TIGER's codes, which DiscRec takes too, "
             "`semid:product` those of parallel generators (RPG), `semid:letter_sid` the ones that LETTER's authors published"
             + (", `letter:two_level` the same here, under LETTER's sharpened loss." if takes_published_codes(systems) else
                "; `letter:two_level` and its ablations have LETTER's sharpened loss too, all but `no_ranking`."), ""]
    rows = {name: records for name, records in systems.items() if changes_codes(name) or name == "semid"}
    return lines + tested_table("codes", rows, data, protocol, plain) + trained_claims(data, protocol, systems)


def alignment_lines(data: str, protocol: str, systems: dict[str, list[dict]]) -> list[str]:
    """What training on preferences or rewards changed, and what the held-out half of validation decided."""
    aligned = {name: records for name, records in systems.items() if is_aligned(records)}
    if not aligned:
        return []
    budget = next(iter(aligned.values()))[0]["config"]["alignment"]
    lines = ["", "### Alignment", "",
             f"`{UNALIGNED}` trained on by preferences (DPO) or rewards (GRPO; `grpo_rule` without the reward for ranks), "
             f"{budget['steps']} steps of {budget['batch_size']} histories, each seed from the weights of its own supervised run, whose "
             "time isn't counted again. Half of the validation cases chose among looks; on the other half N@10 before and after and the "
             "95 % interval of the difference decide: new weights are promoted only if it doesn't reach below 0, otherwise the supervised "
             "ones stay and are what the test measures.", "",
             "| system | seed | N@10 before | after | difference | weights |", "|---" * 6 + "|"]
    for name in in_order(aligned):
        for record in aligned[name]:
            found = record["promotion"]
            weights = "promoted" if found["is_promoted"] else "supervised ones stay"
            lines.append(f"| {name} | {record['seed']} | {short(found['before'])} | {short(found['after'])} | "
                         f"{found['low']:+.4f} to {found['high']:+.4f} | {weights} |")
    lines += ["", f"On the test, N@10 against `{UNALIGNED}` (paired permutation, Holm):", ""]
    rows = {**aligned, **{name: records for name, records in systems.items() if name == UNALIGNED}}
    return lines + tested_table("system", rows, data, protocol, UNALIGNED)


def is_aligned(records: list[dict]) -> bool:
    return bool(records[0].get("promotion")) and records[0]["system"].startswith(UNALIGNED)


def tested_table(what: str, rows: dict[str, list[dict]], data: str, protocol: str, reference: str) -> list[str]:
    """Both seen protocols of systems that are tested against one of them, the best first."""
    tested = tests_by_reference(data, protocol)
    lines = [f"| {what} | R@10 kept | N@10 kept | p | R@10 removed | N@10 removed | p | seeds | train, CPU |", "|---" * 9 + "|"]
    for name in sorted(rows, key=lambda name: -score(rows[name], "remove", "ndcg@10")):
        cells = []
        for seen in KEPT:
            p = tested.get((reference, seen), {}).get(name, {}).get("p_text", "")
            best = {metric: max(score(records, seen, metric) for records in rows.values()) for metric in ("recall@10", "ndcg@10")}
            cells += [*(cell(rows[name], seen, metric, top) for metric, top in best.items()), p]
        lines.append(f"| {name} | " + " | ".join([*cells, str(len(rows[name])), trained_in(rows[name])]) + " |")
    return lines


def trained_claims(data: str, protocol: str, systems: dict[str, list[dict]]) -> list[str]:
    """What papers claim of codes, as whole trainings find it, where a comparison with the better way as its reference was made."""
    lines = []
    for text, one, other in CLAIMED_OF_PUBLISHED if takes_published_codes(systems) else CLAIMED:
        said = []
        for reference, seen, pair in comparisons(data, protocol, tuple(KEPT)):
            if reference == one and (row := pair.get(other)):
                p, a, b = row["p_adjusted"], pair[one]["mean"], row["mean"]
                verdict = "not confirmed, the difference may be chance" if p >= 0.05 else "confirmed" if a > b else "contradicted"
                said.append(f"{KEPT[seen]} {verdict}, N@10 {short(a)} for `{one}`, {short(b)} for `{other}` "
                            f"(p {'' if p < 0.001 else '= '}{row['p_text']})")
        lines += [f"- {text}: {'; '.join(said)}."] if said else []
    return ["", "What papers claim, by whole trainings:", "", *lines] if lines else []


def takes_published_codes(systems: dict[str, list[dict]]) -> bool:
    """Whether `letter:two_level` was trained on published codes, so that only its loss is LETTER's own."""
    return "letter:two_level" in systems and systems["letter:two_level"][0]["config"]["codes"] is not None


def p_text(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")


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
             "tokenizer and looks at validation included, of an interrupted training since it went on; `one user`: median wall time of "
             f"the quickest seed, on a machine that trained beside it. {NARROW}: on a slower processor, with AVX2 alone, "
             f"which trains in float32, not bfloat16. {OTHER_RUNS}: tested on other runs of the same settings than the table's, of fewer "
             "seeds or on another processor; means differ in the fourth digit."]
    place = {name: index for index, name in enumerate(DATA)}
    for (data, protocol), systems in sorted(runs().items(), key=lambda found: (place.get(found[0][0], len(DATA)), found[0][1])):
        first = next(iter(systems.values()))[0]
        shuffled = first["protocol"]["shuffle_ties"]
        title = data + ("" if shuffled is None else f", order inside a day shuffled (seed {shuffled})")
        about, seens = first["data"], ("remove",) if without_order(systems) else ("keep", "remove")
        histories = "no order, the split of its source, all training items as history" if without_order(systems) else \
            f"history up to {first['protocol']['max_history']}"
        hashes = [f"{first['test'][seen]['protocol_hash']} ({KEPT[seen]})" for seen in KEPT]
        named = {name: records for name, records in systems.items() if not changes_codes(name) and not is_aligned(records)}
        parts += ["", f"## {title}", "", f"{about['users']:,} users, {about['items']:,} items, {about['events']:,} events; {histories}; "
                  f"protocol {', '.join(hashes)}; data {about['fingerprint']}.", "",
                  *main_table(named), *request_lines(named), *budget_lines(named), *prior_lines(named),
                  *comparison_lines(data, protocol, seens), *slice_table(named), *codes_lines(data, protocol, systems)]
        if shuffled is None:
            parts += published_table(data)
        parts += alignment_lines(data, protocol, systems)
    return "\n".join(parts)


def laboratory_page() -> str:
    """Every way of making codes that results/codes/ holds, and what they say of claims in papers."""
    heads = ("codes", "probe N@10", "p", "share codes before policy", "level 1 used as if evenly", "content neighbours",
             "behaviour neighbours", "same category", "left of content", "left of behaviour", "seconds")
    parts = []
    for path in sorted((RESULTS / "codes").glob("*.json")):
        found = json.loads(path.read_text())
        ways, ground = {way["name"]: way for way in found["ways"]}, found["ground"]
        parts += ["", f"### {path.stem}", "", f"{ground['items']:,} items; two of them are of one category with chance "
                  f"{short(ground['chance_purity'])}. The probe reads validation; p against the best, paired permutation, Holm. "
                  f"Neighbours: the share of an item's {ground['neighbours']} nearest under its first code.", "",
                  "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for way in sorted(ways.values(), key=lambda way: -way["probe"]["mean"]):
            level, probe = way["levels"][0], way["probe"]
            cells = [interval(probe), "" if probe["p"] is None else p_text(probe["p"]), short(way["collisions"]["colliding_share_before"]),
                     f"{level['perplexity']:.0f} of {level['size']}", short(way["agreement"]["content"][0]),
                     short(way["agreement"]["behaviour"][0]), short(way["purity"][0]), short(way["error"]["content"]),
                     short(way["error"]["behaviour"]), "" if way["seconds"] is None else span(way["seconds"])]
            parts.append(f"| {way['name']} | " + " | ".join(cells) + " |")
        parts += ["", "What papers claim, on these data:", "", *claims(ways)]
    return "\n".join(parts[1:])


MEASURED = (
    ("LETTER's diversity loss evens out the use of the first level", "letter:two_level", "letter:two_level_no_diversity",
     lambda way: way["levels"][0]["perplexity"]),
    ("LETTER's collaborative loss brings neighbours by behaviour under one first code", "letter:two_level", "letter:two_level_no_cf",
     lambda way: way["agreement"]["behaviour"][0]))
CLAIMED = (
    ("contrast beats squared error (CoST)", "cost:two_level", "cost:two_level_mse"),
    ("the collaborative loss helps (LETTER)", "letter:two_level", "letter:two_level_no_cf"),
    ("the diversity loss helps (LETTER)", "letter:two_level", "letter:two_level_no_diversity"),
    ("the sharpened loss helps (LETTER)", "letter:two_level", "letter:two_level_no_ranking"),
    ("LETTER's losses help together", "letter:two_level", "letter:two_level_base"),
    ("content and behaviour together beat content", "semid", "semid:text_codes"),
    ("content and behaviour together beat behaviour", "semid", "semid:cf_codes"))
"""(claim, the way that is said to be better, the other), tested on the probe's lists and on those of whole trainings."""
CLAIMED_OF_PUBLISHED = (("the sharpened loss helps (LETTER), on the codes of its authors", "letter:two_level", "semid:letter_sid"),)
"""The same where `letter:two_level` was trained on published codes, and differs from `semid:letter_sid` by its loss alone."""


def claims(ways: dict[str, dict]) -> list[str]:
    """Each claim with its numbers."""
    lines = []
    for text, one, other, number in MEASURED:
        if {one, other} <= ways.keys():
            a, b = number(ways[one]), number(ways[other])
            lines.append(f"- {text}: {'confirmed' if a > b else 'not confirmed'}, {a:.3g} with it, {b:.3g} without.")
    for text, one, other in CLAIMED:
        if {one, other} <= ways.keys():
            a, b = ways[one]["probe"], ways[other]["probe"]
            lines.append(f"- {text}: {verdict(a, b)}, probe N@10 {interval(a)} for `{one}`, {interval(b)} for `{other}`.")
    return lines


def verdict(a: dict, b: dict) -> str:
    """By the paired test where one of the two is the best, which all are tested against; else by intervals, which is stricter."""
    p = b["p"] if a["p"] is None else a["p"] if b["p"] is None else None
    is_chance = a["low"] <= b["high"] and b["low"] <= a["high"] if p is None else p >= 0.05
    if is_chance:
        return "not confirmed, the difference may be chance"
    return "confirmed" if a["mean"] > b["mean"] else "the opposite was found"


def interval(mean: dict) -> str:
    return f"{short(mean['mean'])} ({short(mean['low'])} to {short(mean['high'])})"


def scaling_page() -> str:
    """Every cell of the scaling study, and what its laws and its curves say."""
    found = json.loads((RESULTS / "benchmarks" / "scaling.json").read_text())
    cells = sorted(found["cells"], key=lambda cell: (cell["targets"], cell["parameters"]))
    bounds = lambda pair, digits: f"({pair[0]:.{digits}f} to {pair[1]:.{digits}f})"
    lines = [f"{found['data']} (data {found['fingerprint']}), {cells[0]['epochs']} epochs a cell, "
             f"{sum(cell['cpu_seconds'] for cell in cells) / 60:.0f} CPU minutes in all.", "",
             "| training targets, D | width | parameters without tables, N | all parameters | loss, nats an item | N@10 | best epoch |",
             "|---" * 7 + "|"]
    lines += [f"| {c['targets']:,} | {c['width']} | {c['parameters']:,} | {c['all_parameters']:,} | {c['loss']:.3f} "
              f"{bounds(c['loss_interval'], 3)} | {interval(dict(zip(('mean', 'low', 'high'), [c['ndcg@10'], *c['ndcg@10_interval']])))} | "
              f"{c['best_epoch']} |" for c in cells]
    lines.append("")
    for name, law in found["fits"].items():
        fit, said = law["fit"], law["intervals"]
        if name == "all":
            lines.append(f"- All {law['cells']} cells: L = {fit['E']:.2f} + A N^-{fit['a0']:.2f} + B D^-{fit['a1']:.2f}; the exponent of N "
                         f"is {fit['a0']:.2f} {bounds(said['a0'], 2)}, that of D {fit['a1']:.2f} {bounds(said['a1'], 2)}, E {fit['E']:.2f} "
                         f"{bounds(said['E'], 2)}; {fit['rms']:.3f} nats are left (root mean square).")
            continue
        some = [c for c in cells if f"share {c['share']:g}" == name]
        best = min(some, key=lambda c: c["loss"])
        lines.append(f"- {some[0]['targets']:,} targets: L = {fit['E']:.2f} + {fit['A0']:.3g} N^-{fit['a0']:.2f}, the exponent between "
                     f"{said['a0'][0]:.2f} and {said['a0'][1]:.2f}, {fit['rms']:.3f} nats left; {turn(some, best)}.")
    low, high = found["exponents"]
    edges = [f"{name} ({which})" for name, law in found["fits"].items() for which, key in (("N", "a0"), ("D", "a1"))
             if key in law["intervals"] and (law["intervals"][key][0] <= low * 1.001 or law["intervals"][key][1] >= high * 0.999)]
    lines.append(f"- Exponents were sought from {low:g} to {high:g}; an interval that ends there says that these cells don't tell the "
                 f"exponent: {', '.join(edges) if edges else 'none does'}.")
    return "\n".join(lines)


def turn(cells: list[dict], best: dict) -> str:
    """Whether more parameters always helped, in words. cells: of one share, smallest first."""
    last = cells[-1]
    gain = f"loss {cells[0]['loss']:.3f} to {best['loss']:.3f}, N@10 {short(cells[0]['ndcg@10'])} to {short(best['ndcg@10'])}"
    if best is last:
        return f"the largest model is the best ({gain} over {last['parameters'] / cells[0]['parameters']:.0f} times the parameters)"
    return (f"the best has {best['parameters']:,} parameters ({gain}); with {last['parameters']:,} the loss is {last['loss']:.3f} again, "
            "more parameters learn these users by heart")


def readme_table() -> str:
    found = [(key, systems) for key, systems in runs().items()
             if key[0] == "amazon-beauty" and next(iter(systems.values()))[0]["protocol"]["shuffle_ties"] is None]
    if not found:
        return "No results yet."
    (data, _), systems = found[0]
    systems = {name: records for name, records in systems.items()
               if not changes_codes(name) and not is_aligned(records) and not name.startswith("human_priors")}
    return "\n".join([f"{data}, leave-one-out, full ranking, test:", "", *main_table(systems)])


def cold_items_table() -> str:
    """How items do that came after training, of each set that `cold_items.py` measured."""
    heads = ("data", "new items", "system", "R@10", "R@50", "new in the top 10", "R@10 among new", "R@50 among new")
    lines, printed = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"], set()
    for path in sorted((RESULTS / "benchmarks").glob("cold_items*.json")):
        found = json.loads(path.read_text())
        new = f"{found['cold']:,} of {found['items']:,}, {found['share_of_events']:.0%} of events"
        for name, system in found["systems"].items():
            if (found["data"], name) in printed:  # rivals, measured with another recipe
                continue
            printed.add((found["data"], name))
            everywhere, new_alone = system["among all"], system["among cold"]
            cells = [short(everywhere["recall@10"]), short(everywhere["recall@50"]), f"{everywhere['exposure@10']:.0%}",
                     short(new_alone["recall@10"]), short(new_alone["recall@50"])]
            lines.append(f"| {found['data']} | {new} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
    for path, name, body in ((ROOT / "README.md", "results", readme_table()), (ROOT / "docs" / "results.md", "results", results_page()),
                             (ROOT / "docs" / "laboratory.md", "laboratory", laboratory_page()),
                             (ROOT / "docs" / "serving.md", "cold items", cold_items_table()),
                             (ROOT / "docs" / "scaling.md", "scaling", scaling_page())):
        before, after = fill(path, name, body)
        changed += before != after
        if before != after and not args.check:
            path.write_text(after)
    if args.check and changed:
        print("the tables are not those of results/: run `make docs`", file=sys.stderr)
    return int(args.check and changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
