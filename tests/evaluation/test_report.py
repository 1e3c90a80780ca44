"""The report page: it stands alone, it cannot be broken by data, and its words follow its numbers."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from html.parser import HTMLParser

import numpy as np
import pytest

from semid.errors import DataError, RunError
from semid.evaluation.charts import Score
from semid.evaluation.report import render, verdict, write
from semid.evaluation.report_values import (
    CodeUse,
    Comparison,
    Header,
    Latency,
    Report,
    Slice,
    Suggestion,
    System,
    Training,
    UserExample,
)
from semid.evaluation.tree_chart import Tree

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)> & co </title></svg> \ud800 \x00 {x} \u202e"
VOID = {"meta", "br", "link", "img", "input", "hr"}
WORDS = ["Rose", "Night", "Repair", "Cream", "Matte", "Lip", "Gloss", "Argan", "Oil", "Shampoo", "Eye", "Serum", "Daily"]


class Page(HTMLParser):
    """Every tag with its attributes; fails on a tag that is closed out of turn."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), f"<{tag}> names an attribute twice"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> while {self.open[-3:]} are open"
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def sections(self) -> list[str]:
        return [attrs["id"] for attrs in self.named("section")]


def score(mean: float, p: float | None = None, half: float = 0.0022) -> Score:
    return Score(mean, mean - half, mean + half, p)


METRICS = ("Recall@5", "Recall@10", "NDCG@5", "NDCG@10")


def system(name: str, kept: tuple, removed: tuple, cost: tuple, p: float | None = None, **more) -> System:
    rows = {"seen items kept": kept, "seen items removed": removed}
    scores = {label: {m: score(v, p) for m, v in zip(METRICS, row, strict=True)} for label, row in rows.items()}
    return System(name, scores, train_seconds=cost[0], ms_per_user=cost[1], parameters=cost[2], **more)


def demo_comparison() -> Comparison:
    return Comparison("semid", [
        system("popularity", (.0076, .0126, .0049, .0065), (.0080, .0131, .0051, .0068), (.02, .04, 12_101), 1e-4),
        system("item-kNN", (.0612, .0812, .0431, .0500), (.0641, .0849, .0456, .0531), (.9, .3, 2_100_000), .003),
        system("EASE", (.0540, .0731, .0378, .0436), (.0570, .0766, .0402, .0461), (41, 1.2, 146_434_201), 2e-4),
        system("SASRec", (.0556, .0912, .0330, .0426), (.0641, .0893, .0440, .0605), (611, .8, 1_700_000), .04, seeds=3),
        system("semid", (.0661, .0902, .0471, .0548), (.0711, .0981, .0502, .0601), (1512, 2.4, 4_310_000), seeds=3),
        system("semid, identifiers only", (.0577, .0791, .0388, .0461), (.0610, .0852, .0420, .0590), (1490, 2.2, 4_310_000),
               .41, seeds=3),
    ])


def demo_records(rng: np.random.Generator) -> list[dict]:
    out: list[dict] = []
    for step in range(20, 6001, 20):
        fall = float(np.exp(-step / 1500))
        level = [float(2.1 + 3.0 * fall + k * .4 + rng.normal(0, .06)) for k in range(3)]
        health = {"valid_beams": min(1, .4 + step / 4000), "code_use": .93 - .2 * fall, "collision_rate": .006 + .01 * fall}
        parts = {f"level {k + 1}": v for k, v in enumerate(level)}
        out.append({"stage": "generator", "step": step, "epoch": step / 600, "loss": float(np.mean(level)), "parts": parts,
                    "lr": 1e-3 * min(1, step / 500) * (1 - step / 7000), "health": health})
        if step % 500 == 0:
            valid = {"recall@10": .09 * (1 - fall) + rng.normal(0, .001), "ndcg@10": .055 * (1 - fall) + rng.normal(0, .0006)}
            out.append({"stage": "generator", "step": step, "valid": {name: float(v) for name, v in valid.items()}})
    return out


def demo_slices() -> list[Slice]:
    names = {"semid": 1.0, "item-kNN": .85, "SASRec": .92}
    decile = {n: [score(float(c) * f, half=.006) for c in np.linspace(.02, .16, 10)] for n, f in names.items()}
    length = {n: [score(.09 * f + .004 * k, half=.003 + .003 * k) for k in range(5)] for n, f in names.items()}
    day = {n: [score(.16 * f, half=.004), score(.042 / f, half=.003)] for n, f in names.items()}
    cold = {n: [score(.09 * f), score(.012, half=.01) if n == "semid" else Score(float("nan"))] for n, f in names.items()}
    return [
        Slice("popularity of the true item (decile)", "Recall@10", [str(k) for k in range(1, 11)], [2236] * 10, decile,
              note="1: the rarest tenth of the test items."),
        Slice("length of the history", "Recall@10", ["3–4", "5–6", "7–9", "10–19", "20+"], [9120, 6010, 4200, 2400, 633],
              length),
        Slice("day of the last event", "Recall@10", ["same day", "another day"], [9012, 13351], day),
        Slice("kind of item", "Recall@10", ["warm", "cold"], [22300, 63], cold),
    ]


def demo_tree(titles: list[str], rng: np.random.Generator) -> Tree:
    """Codes 64 x 64 x 64, used the way trained ones are: some often, most within a parent seldom."""
    n = len(titles)
    first = rng.choice(64, n, p=rng.dirichlet(np.full(64, .7)))
    codes = np.stack([first, (first * 7 + rng.geometric(.12, n)) % 64, rng.geometric(.2, n) % 64], axis=1).astype(np.int16)
    kinds = ["Skin Care", "Hair Care", "Makeup", "Fragrance", "Tools & Accessories", "Bath", "Men's Grooming", HOSTILE[:30]]
    other = (rng.random(n) < .2) * rng.integers(0, 8, n)
    weight = rng.zipf(1.8, n).clip(1, 400).astype(float)
    return Tree(codes, titles, weight=weight, category=[kinds[k] for k in (first + other) % 8], weight_name="events")


def demo_users(titles: list[str]) -> list[UserExample]:
    title = lambda k: titles[k % len(titles)]
    return [UserExample(
        f"A{k}{HOSTILE if k == 0 else 'X2Q'}", [title(7 * k + r) for r in range(6)],
        [Suggestion(title(200 + 10 * k + r), -1.2 - .3 * r, is_hit=k % 3 == 0 and r == k % 5) for r in range(10)],
        [title(200 + 10 * k + k % 5)], history_length=6 + 3 * k, scale="log probability") for k in range(10)]


def demo_report(items: int = 12_000, seed: int = 0) -> Report:
    """A report with every section, from made-up numbers and the titles an attacker would choose."""
    rng = np.random.default_rng(seed)
    titles = [" ".join(rng.choice(WORDS, 6)) + f" no. {k}" for k in range(items)]
    titles[0] = HOSTILE
    tree = demo_tree(titles, rng)
    stages = {"read history": (-2.2, .3), "encode": (.1, .2), "decode": (.6, .35), "whole request": (1.1, .3)}
    return Report(
        Header("semid", "amazon-beauty", "2026-11-03 14:20 UTC", "leave one out, history ≤ 50, all items ranked", "9f3c01ab",
               "41c0ffee12345678", [0, 1, 2], "2 CPU cores, 8 GB", 1512.3, 4_310_000, version="0.1.0",
               facts={"Users": "22 363", "Items": "12 101", "Events": "198 502"}),
        comparison=demo_comparison(),
        training=Training(demo_records(rng)),
        codes=CodeUse([np.bincount(tree.codes[:, level], minlength=64) for level in range(3)], items,
                      len(np.unique(tree.codes, axis=0))),
        tree=tree,
        slices=demo_slices(),
        latency=Latency({name: rng.lognormal(*shape, 4000) for name, shape in stages.items()},
                        "One user at a time, 10 items, beam 50, 2 CPU cores."),
        users=demo_users(titles),
        commands=[("semid recommend runs/semid --user A10X2Q -k 10", "ten items for one user"),
                  ("semid recommend runs/semid --history B004,B00F --where \"category = 'Skin Care' and price < 20\"",
                   "a rule, kept by construction"),
                  ("semid codes runs/semid", "what the codes mean")],
        notes=["SID-level Recall@10 is .0907; item level .0902: 71 items share a code."],
    )


@pytest.fixture(scope="module")
def full() -> str:
    return render(demo_report())


def test_every_tag_is_closed_in_turn(full):
    Page(full)


def test_the_page_asks_the_network_for_nothing(full):
    page = Page(full)
    for _, attrs in page.tags:
        assert not {"src", "srcset", "data", "action", "poster", "xlink:href"} & set(attrs)
        assert attrs.get("href", "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", full, re.S)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = page.named("meta")[1]["content"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy


def test_titles_cannot_become_markup(full):
    page = Page(full)
    assert [a.get("type") for a in page.named("script")] == ["application/json", None]  # ours alone
    assert not page.named("img")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "&lt;script&gt;alert(&#x27;x&#x27;)" in full
    assert "\x00" not in full
    full.encode("utf-8")


def test_hostile_names_everywhere_stay_text():
    bad = HOSTILE
    row = System(bad, {bad: {bad: score(.1)}})
    page = Page(render(Report(
        Header(bad, bad, bad, bad, bad, bad, [0], bad, 1.0, 1, version=bad, facts={bad: bad}),
        comparison=Comparison(bad, [row, replace(row, name="b")], primary=bad),
        training=Training([{"stage": bad, "step": 1, "loss": 1.0, "parts": {bad: 2.0}, "health": {bad: 1.0}}]),
        codes=CodeUse([np.array([1, 1])], 2, 2),
        tree=Tree(np.array([[0], [1]]), [bad, bad], category=[bad, ""], weight_name=bad),
        slices=[Slice(bad, bad, [bad] * n, [1] * n, {bad: [score(.1)] * n}, note=bad) for n in (2, 5)],
        latency=Latency({bad: np.array([1.0])}, bad),
        users=[UserExample(bad, [bad], [Suggestion(bad, 1.0, True)], [bad], scale=bad)],
        commands=[(bad, bad)], notes=[bad])))
    assert len(page.named("script")) == 2
    assert not page.named("img")


def test_ten_thousand_items_stay_below_two_megabytes(full):
    assert len(full.encode()) < 2_000_000


def test_a_large_catalogue_stays_below_two_megabytes():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (60_000, 3)).astype(np.int16)
    page = render(replace(demo_report(100), tree=Tree(codes, ["a rather long title " * 6] * 60_000)))
    assert len(page.encode()) < 2_000_000
    assert "too many items here to open cells" in page


SECTIONS = {"comparison": "quality", "training": "training", "codes": "codes", "tree": "tree", "slices": "slices",
            "latency": "latency", "users": "users", "commands": "next"}


def test_sections_cover_the_report():
    assert {f.name for f in fields(Report)} == {*SECTIONS, "header", "notes"}


def test_all_sections_are_there(full):
    assert sorted(Page(full).sections) == sorted(SECTIONS.values())


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_that_is_none_is_left_out(name):
    page = Page(render(replace(demo_report(300), **{name: None})))
    assert sorted(page.sections) == sorted(set(SECTIONS.values()) - {SECTIONS[name]})


def test_a_header_alone_is_a_page():
    assert Page(render(Report(demo_report(50).header))).sections == []


def test_every_picture_is_named_for_those_who_cannot_see_it(full):
    for attrs in Page(full).named("svg"):
        if attrs.get("class", "").startswith(("chart", "dots")):
            assert attrs.get("aria-label") or attrs.get("aria-hidden") == "true"


def test_every_link_has_its_target(full):
    page = Page(full)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.named("a")} <= set(ids)


def test_same_report_same_bytes():
    assert render(demo_report(200)) == render(demo_report(200))


def test_tree_data_is_json_in_drawing_order(full):
    found = re.search(r'id="tree-data">(.*?)</script>', full, re.S)
    assert found
    data = json.loads(found[1])
    assert len(data["titles"]) == 12_000 == len(data["codes"][0]) == len(data["weight"])


def versus(ours: float, theirs: float, p: float | None, others: float | None = None) -> Comparison:
    rows = {"semid": score(ours), "SASRec": score(theirs, p)}
    if others is not None:
        rows["EASE"] = score(others, .5)
    return Comparison("semid", [System(n, {"seen items kept": {"NDCG@10": s}}) for n, s in rows.items()])


@pytest.mark.parametrize(("comparison", "tone", "words"), [
    (versus(.056, .05, .003), "win", "semid beats SASRec on NDCG@10 by 12 % (p = .003), seen items kept."),
    (versus(.045, .05, .0004), "loss", "semid loses to SASRec on NDCG@10 by 10 % (p < .001), seen items kept."),
    (versus(.051, .05, .41), "even", "semid cannot be told from SASRec on NDCG@10 (+2.0 %, p = .41), seen items kept."),
    (versus(.05, .05, None), "even", "semid cannot be told from SASRec on NDCG@10 (0 %, not tested), seen items kept."),
    (versus(.06, .05, None), "win", "semid beats SASRec on NDCG@10 by 20 % (not tested), seen items kept."),
    (versus(.06, .0, None), "win", "semid beats SASRec on NDCG@10 (not tested), seen items kept."),
    (versus(.056, .03, .9, .05), "even",
     "semid cannot be told from EASE, the strongest of 2 others, on NDCG@10 (+12 %, p = .50), seen items kept."),
])
def test_the_verdict_follows_the_numbers(comparison, tone, words):
    got = verdict(comparison)
    assert (got[0], got[1].replace("\u202f", " ")) == (tone, words)


def test_the_verdict_names_the_metric_it_loses_on():
    text = verdict(demo_comparison())[1].replace("\u202f", " ")
    assert "It loses to SASRec on Recall@10 by 1.1 % (p = .040), seen items kept." in text


def test_protocols_that_disagree_make_a_mixed_verdict():
    assert verdict(demo_comparison())[0] == "mixed"


def test_the_verdict_without_rivals_claims_nothing():
    alone = Comparison("semid", [System("semid", {"seen items kept": {"NDCG@10": score(.05)}})])
    assert verdict(alone) == ("even", "semid reaches NDCG@10 .0500, seen items kept; nothing was measured beside it.")


def test_the_best_of_a_column_is_bold(full):
    table = full[full.index("Seen items kept"):full.index("Seen items removed")]
    assert re.findall(r"<b>(\.\d+)</b>", table) == [".0661", ".0471", ".0548", ".0912"]  # in row order: semid, then SASRec


def test_one_seed_is_said():
    header = replace(demo_report(50).header, seeds=[7])
    assert "1 seed (7)" in render(Report(header))


def test_values_that_are_not_finite_are_counted_not_drawn():
    records = [{"step": s, "loss": float("nan") if s == 3 else 1.0 / s} for s in range(1, 6)]
    page = render(Report(demo_report(50).header, training=Training(records)))
    assert "Not drawn because not finite: 1 of the values." in page
    assert "nan" not in page.split("<main>")[1].split("<script>")[0]


def test_numbers_of_numpy_are_numbers():
    odd = {"kept": {"NDCG@10": Score(np.float64(.05), np.float32(.04), np.float64(.06), np.float64(.5))}}
    systems = [System("semid", odd, parameters=np.int64(5)), System("EASE", odd, ms_per_user=np.float32(1.5))]
    page = render(Report(demo_report(50).header, comparison=Comparison("semid", systems),
                         training=Training([{"step": np.int64(k), "loss": np.float32(1)} for k in range(3)])))
    assert "np." not in page.split("<main>")[1].split("<script>")[0]
    assert 'data-value="0.05"' in page
    assert "Loss over steps" in page


NOTHING = {
    "comparison": Comparison("a", [System(n, {"kept": {"NDCG@10": Score(v)}}) for n, v in (("a", 0.0), ("b", float("nan")))]),
    "training": Training([]),
    "codes": CodeUse([np.zeros(4, dtype=int)], 1, 1),
    "tree": Tree(np.array([[0, -1], [0, 1]], dtype=np.int16), ["a", "b"], weight=np.zeros(2), category=["", ""]),
    "slices": [Slice("day", "Recall@10", list("abcd"), [0] * 4, {"a": [Score(float("nan"))] * 4})],
    "latency": Latency({"whole": np.zeros(3)}),
    "users": [UserExample("u", [], [], [])],
    "commands": [],
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_section_with_next_to_nothing_is_still_a_page(name):
    page = render(Report(demo_report(50).header, **{name: NOTHING[name]}))
    assert Page(page).sections == [SECTIONS[name]]
    assert not re.search(r"\b(nan|inf)\b", page.split("<main>")[1].split("<script>")[0])


def test_unknown_subject_is_named():
    with pytest.raises(DataError, match="did you mean 'semid'"):
        Comparison("semdi", demo_comparison().systems)


def test_a_slice_with_missing_groups_is_refused():
    with pytest.raises(DataError, match="want 2 values, one a group, got 1"):
        Slice("day", "Recall@10", ["a", "b"], [1, 2], {"semid": [score(.1)]})


def test_write_leaves_the_page_and_nothing_else(tmp_path):
    report = demo_report(50)
    path = write(report, tmp_path / "report.html")
    assert path.read_text("utf-8") == render(report)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(RunError, match="No space left on device"):
        write(demo_report(50), path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_folder_is_one_message(tmp_path):
    with pytest.raises(RunError, match="No such file or directory"):
        write(demo_report(50), tmp_path / "absent" / "report.html")
