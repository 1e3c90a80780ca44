"""Results as a person reads them on a terminal: each function returns the parts that rich prints one below another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from semid.evaluation.wording import clean
from semid.training.progress import duration, fraction, number

if TYPE_CHECKING:
    from rich.console import RenderableType

    from semid.comparison import Table as Compared
    from semid.data.read import Dataset
    from semid.evaluation.compare import Compared as Cell
    from semid.evaluation.evaluate import Evaluation, Measure
    from semid.laboratory import Laboratory
    from semid.recipe_cards import RecipeCard
    from semid.run import Run
    from semid.serving.contract import Explanation
    from semid.types import Split

Parts = list["RenderableType"]

SEEN = {"keep": "seen items kept", "remove": "seen items removed"}
DAYS = {"same day": "on the day of the last event", "another day": "on another day"}
SHOWN = ("recall@5", "recall@10", "ndcg@5", "ndcg@10", "mrr@10")
BESIDE = ("coverage", "gini", "novelty", "arp", "aplt")


def of_data(text: str) -> Text:
    """Text of a catalogue, whose control characters a terminal would obey."""
    return Text(clean(text))


def grid(*columns: str, left: int | None = None) -> Table:
    """A table without lines. left: how many columns are flush left, the rest hold numbers; None: all of them."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(columns):
        is_number = left is not None and place >= left
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=is_number)
    return table


def summary(data: Dataset, split: Split) -> Parts:
    """Three lines before training: which columns, how much, split how."""
    report = data.report
    columns = [f"{role} = {column}{' (guessed)' if role in report.guessed else ''}"
               for role, column in report.event_columns.items()]
    if "item" in report.item_columns:
        guessed = " (guessed)" if "item_id" in report.guessed else ""
        columns.append(f"id of the items = {report.item_columns['item']}{guessed}")
    columns.append(f"text of the items = {', '.join(report.text)}" if report.text else "the items have no text")
    events = data.interactions
    return [Text(f"columns: {'; '.join(columns)}"),
            Text(f"data: {len(events.users):,} users, {len(data.catalog):,} items, {len(events):,} events "
                 f"({report.rows_kept:,} of {report.rows_in:,} rows kept; fingerprint {data.fingerprint})"),
            Text(f"split: {split.protocol.split}; {len(split.train):,} events to train on, {len(split.valid):,} validation and "
                 f"{len(split.test):,} test cases (protocol {split.protocol.hash})")]


def trained(run: Run, valid: Mapping[str, Mapping[str, float]]) -> Parts:
    """One line for what was trained, one a seen rule for how good it is on validation."""
    about = run.about
    lines = [f"validation, {SEEN[seen]}: {', '.join(f'{name} {fraction(value)}' for name, value in values.items())}"
             for seen, values in valid.items() if values] or ["no validation cases"]
    head = f"{run.recipe}: {about['parameters']:,} parameters, trained in {duration(about['seconds'])}"
    return [Text("\n".join([head, *lines]))]


def interval(measure: Measure | Cell) -> Text:
    """The mean, and below it its interval."""
    if measure.low is None:
        return Text(fraction(measure.mean))
    return Text.assemble(fraction(measure.mean), (f"\n{fraction(measure.low)}-{fraction(measure.high)}", "dim"))


def evaluation(systems: Mapping[str, Mapping[str, Evaluation]]) -> Parts:
    """Metrics with intervals for each system and seen rule, the same-day slice, and what the lists are like."""
    first = next(iter(next(iter(systems.values())).values()))
    part = {"test": "Test", "valid": "Validation"}[first.part]
    out: Parts = [Text(f"{part}: {first.num_cases:,} cases, item level, means over 95 % bootstrap intervals\n", style="bold")]
    names = [name for name in SHOWN if name in first.metrics]
    table = grid("system", "", *names, left=2)
    for name, evaluations in systems.items():
        for seen, e in evaluations.items():
            table.add_row(Text(name), SEEN[seen], *(interval(e.metrics[metric]) for metric in names))
    out.append(table)
    days = grid("answers", "", "targets", f"recall@{first.k}", f"ndcg@{first.k}", left=2)
    for name, evaluations in systems.items():
        for label, cut in evaluations["keep"].slices.get("day", {}).items():
            days.add_row(Text(name), DAYS[label], f"{cut.num_targets:,}",
                         *(interval(cut.metrics[f"{metric}@{first.k}"]) for metric in ("recall", "ndcg")))
    if days.row_count:
        out += [Text("\nSeen items kept, apart by the day of the answer\n", style="bold"), days]
    for name, evaluations in systems.items():
        e = evaluations["keep"]
        beside = [f"{kind} {number(e.metrics[f'{kind}@{e.k}'].mean)}" for kind in BESIDE]
        out.append(Text(f"\n{name}, lists of {e.k}: {', '.join(beside)}; {number(1000 * e.seconds_per_case)} ms a case"))
        if shown := ", ".join(f"{metric} {fraction(mean)}" for metric, mean in e.sid_level.items() if metric in SHOWN):
            out.append(Text(f"some items share their score; counted as hits at the best place of the tie it would be {shown}"))
    return out


def plain(table: Compared) -> dict:
    """Return a comparison for JSON: what each system is beside its metrics (means over seeds), and the tables."""
    rows: dict[str, list] = {}
    for entry in table.entries:
        rows.setdefault(entry.name, []).append(entry)
    mean = lambda values: sum(values) / len(values)
    systems = [{"name": name, "seeds": len(entries), "train_seconds": round(mean([e.run.about["seconds"] for e in entries]), 2),
                "latency_ms": {q: round(mean([e.latency[q] for e in entries]), 3) for q in ("p50", "p99")},
                "parameters": entries[0].parameters, "runs": [str(e.run.folder) for e in entries]}
               for name, entries in rows.items()]
    return {"systems": systems, "comparisons": {seen: found.to_dict() for seen, found in table.comparisons.items()}}


def comparison(table: Compared, seen: str, *, wide: bool) -> Parts:
    """One table: quality over intervals, p-values against the reference, seconds, latency, parameters. Narrow: only the @10."""
    compared = table.comparisons[seen]
    metrics = [metric for metric in compared.rows[0].metrics if wide or metric.endswith("@10")]
    main = metrics[-1]
    beside = {row["name"]: row for row in plain(table)["systems"]}
    out = grid("system", *metrics, "p", "training", "p50 ms", "numbers", left=1)
    best = {metric: max(row.metrics[metric].mean for row in compared.rows) for metric in metrics}
    for row in compared.rows:
        cells = [interval(row.metrics[metric]) for metric in metrics]
        for metric, cell in zip(metrics, cells):
            m = row.metrics[metric]
            if m.mean == best[metric]:
                cell.stylize("bold", 0, len(fraction(m.mean)))
            if m.sd is not None:
                cell.append(f"\nsd {fraction(m.sd)}", "dim")
        p = row.metrics[main].p_adjusted
        about = beside[row.name]
        out.add_row(Text.assemble(row.name, (f"\n{row.num_seeds} seed{'s' if row.num_seeds > 1 else ''}", "dim")), *cells,
                    "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"[1:] if p < 1 else "1",
                    duration(about["train_seconds"]), number(about["latency_ms"]["p50"]), short(about["parameters"]))
    title = f"\nTest, {SEEN[seen]}: {compared.num_cases:,} cases, protocol {compared.protocol_hash}\n"
    legend = (f"below each mean: 95 % bootstrap interval over users; p: {main} against {compared.reference}, paired "
              "permutation, Holm; p50: one user, top 50")
    return [Text(title, style="bold"), out, Text(legend, style="dim")]


def short(count: int) -> str:
    """Return a count in three digits.

    >>> short(640), short(45_760), short(4_600_000)
    ('640', '45.8k', '4.6M')
    >>> short(999), short(999_999)
    ('999', '1M')
    """
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:  # 999,999 is 1M, not 1e+03k
            return f"{count / size:.3g}{letter}"
    return str(count)


def recommendations(answer: Sequence[dict], who: str, history: Sequence[str], *, note: str = "",
                    cost: Mapping[str, float] | None = None) -> Parts:
    """A ranked list under the last titles of the history. note, cost: as in `Answer`."""
    whose = f"{who}, after {len(history):,} item{'s' if len(history) != 1 else ''}" if history else f"{who}, without a history"
    last = f", the last: {' | '.join(history[-4:])}" if history else ""
    table = grid("", "item", "title", "score")
    for rank, item in enumerate(answer, 1):
        table.add_row(str(rank), of_data(item["item_id"]), of_data(item["title"]), f"{item['score']:.4f}")
    given_up = "; ".join(f"{rule} gives up {score:.4f} of the mean score" for rule, score in (cost or {}).items())
    return [Text.assemble((clean(f"For {whose}"), "bold"), clean(f"{last}\n")), table,
            *(Text(clean(line), style="dim") for line in (given_up, note) if line)]


def explanation(found: Explanation) -> Parts:
    """The item, its path, what mattered, what is near."""
    place = "not among the first 1,000" if found.rank is None else f"number {found.rank:,}"
    title = clean(f"{found.title} ({found.item_id})")
    out: Parts = [Text.assemble((title, "bold"), f": {place} in the list, {found.scale} {found.score:.4f}"),
                  *([Text(found.note, style="dim")] if found.note else [])]
    if found.path:
        path = grid("level", "code", "probability", "rank", "items below", "titles", left=1)
        path.columns[-1].justify, path.columns[-1].no_wrap = "left", False
        for place, level in enumerate(found.path, 1):
            path.add_row(str(place), str(level.code), f"{level.probability:.4f}", f"{level.rank:,} of {level.siblings:,}",
                         f"{level.items:,}", of_data("; ".join(level.titles)))
        out += [Text("\nPath down the code tree\n", style="bold"), path]
    if found.history:
        history = grid("effect", "item", "title")
        for each in found.history[:10]:
            history.add_row(f"{each.effect:+.4f}", of_data(each.item_id), of_data(each.title))
        out += [Text("\nHistory items that mattered: score with them minus score without\n", style="bold"), history]
    for title, neighbours in (("Nearest by content", found.content), ("Nearest by who took both", found.together)):
        if neighbours:
            near = grid("cosine", "item", "title")
            for each in neighbours:
                near.add_row(f"{each.score:.3f}", of_data(each.item_id), of_data(each.title))
            out += [Text(f"\n{title}\n", style="bold"), near]
    return out


def codes(found: Mapping[str, Any]) -> Parts:
    """Use of each level, collisions, the largest prefixes."""
    levels = grid("level", "codes", "used", "entropy", "perplexity", "largest", left=1)
    for place, level in enumerate(found["levels"], 1):
        levels.add_row(str(place), f"{level['size']:,}", f"{level['used']:,} ({level['used'] / level['size']:.1%})",
                       f"{level['entropy']:.2f} of {math.log(level['size']):.2f} nats", f"{level['perplexity']:,.1f}",
                       f"{level['largest_share']:.1%} of items")
    own = found["items"] == found["distinct"]
    said = "every item has its own" if own else (f"{found['colliding_share']:.1%} of the items share theirs, at most "
                                                 f"{found['largest_group']:,} one code")
    prefixes = grid("prefix", "items", "best known")
    for prefix in found["prefixes"]:
        prefixes.add_row(" ".join(map(str, prefix["codes"])), f"{prefix['items']:,}", of_data("; ".join(prefix["titles"])))
    source = f" ({found['source']})" if found["source"] else ""
    return [Text(f"{found['items']:,} items, {found['distinct']:,} distinct codes: {said}{source}\n", style="bold"), levels, "",
            prefixes]


def kept(found: Laboratory) -> Parts:
    """What codes keep: neighbours under one prefix, categories, vectors; one row a way."""
    kinds, ground = sorted(found.ways[0].measured.agreement), found.ground
    lengths = range(min(2, min(way.measured.depth for way in found.ways)))
    pure = lengths if ground.category else ()
    prefix = lambda k: "1 code" if k == 0 else f"{k + 1} codes"
    table = grid("codes", *(f"{kind}\n{prefix(k)}" for kind in kinds for k in lengths), *(f"category\n{prefix(k)}" for k in pure),
                 *(f"left of\n{kind}" for kind in sorted(found.ways[0].measured.error)), left=1)
    share = lambda value: "-" if value is None else f"{value:.1%}"
    for way in (each.measured for each in found.ways):
        table.add_row(way.name, *(share(way.agreement[kind][k]) for kind in kinds for k in lengths),
                      *(share(way.purity[k] if way.purity else None) for k in pure),
                      *("-" if way.error[kind] is None else fraction(way.error[kind]) for kind in sorted(way.error)))
    chance = f"; any two items share their category with {ground.chance_purity:.1%}" if ground.chance_purity is not None else ""
    return [Text(f"Nearest {ground.neighbours} neighbours of an item, and items of one category, that share its first codes{chance}\n",
                 style="bold"), table]


def laboratory(found: Laboratory) -> Parts:
    """Score, cost, collisions and room: one row a way, the best first."""
    table = grid("codes", "NDCG@10 of the probe", "p", "seconds", "share codes", "after", "first level", "refit", "free codes", left=1)
    known = lambda value, show: "-" if value is None else show(value)
    for way in sorted((each.measured for each in found.ways), key=lambda way: -(way.probe.mean if way.probe else 0.0)):
        probe, collisions, level = way.probe, way.collisions, way.levels[0]
        table.add_row(
            way.name, "-" if probe is None else f"{fraction(probe.mean)} ({fraction(probe.low)}-{fraction(probe.high)})",
            known(probe and probe.p, lambda p: f"{p:.3f}"), known(way.seconds, lambda s: f"{s:.1f}"),
            *("-" if collisions is None else f"{collisions[f'colliding_share_{when}']:.1%}" for when in ("before", "after")),
            f"{level['used']} used, {level['perplexity']:.0f} of {level['size']}", known(way.churn and way.churn[0], lambda c: f"{c:.1%}"),
            f"{way.head_room['median']:.0f}")
    said = "p: against the best, Holm-corrected; share codes: items before they are told apart; refit: items with another first code"
    return [table, Text(said, style="dim")]


def advice(found: Laboratory) -> Parts:
    """What to do, in sentences."""
    return [Text("\nWhat to do", style="bold"), *(Text(f"- {sentence}") for sentence in found.advice)]


def recipes(cards: Sequence[RecipeCard], numbers: Mapping[str, Sequence[dict]]) -> Parts:
    """One row a recipe, with the first of what was measured of it."""
    table = grid("recipe", "what it is", "source", "status", *(["measured: test, seen kept"] if numbers else []))
    for card in cards:
        found = numbers.get(card.name, [])
        shown = [f"{n['system']} on {n['data']}: R@10 {fraction(n['recall@10'])} N@10 {fraction(n['ndcg@10'])}, "
                 f"{n['seeds']} seed{'s' if n['seeds'] > 1 else ''}" for n in found[:1]] + [f"and {len(found) - 1} more"] * (len(found) > 1)
        table.add_row(Text(card.name, style="cyan", no_wrap=True), Text(card.summary.partition(": ")[2] or card.summary),
                      Text(card.source), Text(card.status), *([Text("\n".join(shown))] if numbers else []))
    return [table, Text.assemble("\nsemid recipes RECIPE", " says more about one of them", style="dim")]


def recipe(card: RecipeCard, numbers: Sequence[dict]) -> Parts:
    """Everything about one recipe, and all that was measured of it."""
    settings = grid("setting", "type", "default", *(["read where"] if card.read_where else []))
    for name, (type_, default) in card.settings.items():
        settings.add_row(*map(Text, (name, type_, default, *([card.read_where.get(name, "")] if card.read_where else []))))
    variants = grid("variant", "changes")
    for name, changes in card.variants.items():
        variants.add_row(Text(f"{card.name}:{name}"), Text(", ".join(f"{k} = {v}" for k, v in changes.items())))
    out: Parts = [Text(card.name, style="bold cyan"), Text(f"{card.doc}\n")]
    out += [settings, "", *([Text(f"{card.meaning}\n")] if card.meaning else [])] if card.settings else []
    out += [variants, ""] if card.variants else []
    if numbers:
        table = grid("measured: test, seen kept", "data", "protocol", "seeds", "recall@10", "ndcg@10", left=3)
        for n in numbers:
            table.add_row(n["system"], n["data"], n["protocol_hash"], str(n["seeds"]), fraction(n["recall@10"]), fraction(n["ndcg@10"]))
        out += [table, ""]
    example = f" --set {next(iter(card.settings))}=..." if card.settings else ""
    return [*out, Text(f"semid train {card.name} --data EVENTS --items ITEMS --out runs/{card.name}{example}", style="cyan")]


def doctor(found: Mapping[str, Any]) -> Parts:
    """Label and text a line, then the problems."""
    from semid.encoders.text import MINILM_INSTALL

    machine, folders = found["machine"], found["folders"]
    gpu = f"{machine['gpu']}, bf16 {'yes' if machine['bf16_gpu'] else 'no'}" if machine["gpu"] else "none that torch sees"
    rows = [("versions", ", ".join(f"{name} {installed or 'MISSING'}" for name, installed in found["versions"].items())),
            ("machine", f"{machine['cores']} cores, {machine['threads']} torch threads, {machine['memory_gb']} GB memory"),
            ("CPU", f"{machine['cpu_capability']}, fast bf16: {'yes' if machine['bf16_cpu'] else 'no'}"), ("GPU", gpu),
            ("text weights", "all-MiniLM-L6-v2" if machine["minilm"] else
             f"none, hashed TF-IDF is used; {MINILM_INSTALL}"),
            ("cache", f"{folders['cache']['path']}, {folders['cache']['megabytes']} MB"),
            ("compiled code", folders["compiled"]["path"]), ("free disk", f"{folders['disk_free_gb']} GB here")]
    for name, state in found["extras"].items():
        rows.append((f"extra {name}", "installed" if state["installed"] else
                     f"without {', '.join(state['missing'])}: {state['install']}"))
    table = grid("", "")
    table.show_header = False
    for label, text in rows:
        table.add_row(Text(label, style="bold"), Text(text))
    problems = [Text.assemble(("problem: ", "bold red"), each) for each in found["problems"]]
    return [table, "", *(problems or [Text("no problems found", style="green")])]
