"""The page without a browser: what its HTML says, and that nothing in a catalogue or an address can break out of it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from starlette.datastructures import QueryParams
from starlette.testclient import TestClient

import semid
from semid.serving.app import create_app
from semid.serving.documentation import examples
from semid.serving.engine import Engine
from semid.serving.histories import open_store
from semid.serving.limits import Limits
from semid.serving.metrics import Metrics
from semid.serving.page import ASSETS, WEB, Wanted, picture_of
from semid.serving.security import Guard
from semid.serving.service import Service
from tests.serving import world

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def client_of(folder: Path, store: Path, beside: Path | None = None) -> TestClient:
    engine = Engine.open(folder)
    service = Service(engine, open_store(str(store)), limits=Limits(max_seconds=60), metrics=Metrics(), folder=folder,
                      beside=None if beside is None else Engine.open(beside))
    client = TestClient(create_app(service, Guard(None)), base_url="http://127.0.0.1")
    client.app_service = service
    return client


@pytest.fixture(scope="module")
def client(run_folder: Path, knn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_of(run_folder, tmp_path_factory.mktemp("page") / "h.sqlite", knn_folder) as client:
        yield client


class Elements(HTMLParser):
    """The start tags of a document, as (name, attributes)."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def values(self, **wanted: str) -> list[str | None]:
        """The `value` of elements with these attributes."""
        return [own.get("value") for _, own in self.found if all(own.get(name) == text for name, text in wanted.items())]


def shown(client: TestClient, address: str, status: int = 200) -> Elements:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    return Elements(answer.text)


def added_by(page: Elements, side: int) -> list[str | None]:
    return [own["value"] for _, own in page.found if (own.get("id") or "").startswith(f"add-{side}-")]


def told(client: TestClient, address: str, status: int = 422) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    [sentence] = re.findall(r'<p class="problem" role="alert">(.*?)</p>', answer.text)
    return sentence.replace("&#39;", "'")


# Lists --------------------------------------------------------------------------------------------------------------------


def test_the_list_is_that_of_the_api(client: TestClient):
    page = shown(client, "/?user=u1&k=7&where=price > 2")
    answer = client.post("/recommend", json={"user": "u1", "k": 7, "where": "price > 2"}).json()
    assert added_by(page, 1) == [item["item_id"] for item in answer["items"]]


def test_an_added_item_comes_after_the_history_and_changes_the_list(client: TestClient):
    page = shown(client, "/?h=i6&add=i12")
    assert page.values(name="h") == ["i6", "i12"]
    expected = client.post("/recommend", json={"history": ["i6", "i12"]}).json()["items"]
    assert added_by(page, 1) == [item["item_id"] for item in expected]
    assert added_by(page, 1) != added_by(shown(client, "/?h=i6"), 1)
    assert shown(client, "/?h=i6&h=i12&drop=0").values(name="h") == ["i12"]


def test_a_second_run_stands_beside(client: TestClient, knn_folder: Path):
    from semid.serving.contract import Request

    [answer] = Engine.open(knn_folder).recommend([Request(("i6", "i12"))])
    assert added_by(shown(client, "/?h=i6&h=i12&diversity=0.5"), 2) == list(answer.item_ids)
    assert "diversity is left out here" in client.get("/?h=i6&diversity=0.5").text


def test_another_user_begins_without_what_was_added(client: TestClient):
    assert shown(client, "/?user=u1&of=u1&h=i6").values(name="h") == ["i6"]
    assert shown(client, "/?user=u2&of=u1&h=i6").values(name="h") == []


def test_stored_events_are_in_the_history_and_the_page_stores_and_logs_nothing(run_folder: Path, tmp_path: Path):
    with client_of(run_folder, tmp_path / "h.sqlite") as client:
        client.post("/events", json={"events": [{"key": "1", "user": "eve", "item_id": "i6"}]})
        assert "red oak" not in client.get("/?user=somebody").text.split("<h2 id=\"list-1\"")[0]
        page = client.get("/?user=eve&add=i12").text
        assert "<li>blue garden hose</li>" in page
        assert client.post("/recommend", json={"user": "eve"}).json()["history_length"] == 1
        assert client.get("/metrics").text.count('semid_events_total{outcome="stored"} 1.0') == 1
    import asyncio

    async def read() -> list:
        store = open_store(str(tmp_path / "h.sqlite"))
        found = await store.feedback()
        await store.close()
        return found

    assert len(asyncio.run(read())) == 1, "the API's answer alone was shown to a user"


def test_a_stored_event_of_a_clock_ahead_is_followed_by_what_is_added(client: TestClient):
    event = {"key": "ahead", "user": "ida", "item_id": "i6", "time": int(time.time()) + 3600}
    client.post("/events", json={"events": [event]}).raise_for_status()
    assert len(added_by(shown(client, "/?user=ida&add=i12"), 1)) == 10


def test_ids_are_as_long_as_in_the_tables(tmp_path: Path):
    table, long = world.events(), "i" * 600
    table = table.set_column(1, "item_id", pa.array([long if item == "i6" else item for item in table["item_id"].to_pylist()]))
    settings = {"decay": "[0.5]", "backward": "[0.5]", "norm": "[0.5]"}
    folder = semid.train("item_knn", semid.read(table), out=tmp_path / "run", settings=settings).folder
    user = next(row["user_id"] for row in table.to_pylist() if row["item_id"] == long)
    with client_of(folder, tmp_path / "h.sqlite") as client:
        assert len(added_by(shown(client, f"/?user={user}"), 1)) == 10
        assert shown(client, f"/?h={long}").values(name="h") == [long]
        assert client.post("/recommend", json={"history": [long]}).status_code == 200


def test_the_examples_of_the_docs_work_for_a_run_of_events_alone_with_all_items_removed(tmp_path: Path):
    settings = {"decay": "[0.5]", "backward": "[0.5]", "norm": "[0.5]"}
    folder = semid.train("item_knn", semid.read(world.events()), out=tmp_path / "run", settings=settings).folder
    with client_of(folder, tmp_path / "h.sqlite") as client:
        for _ in range(2):
            assert client.get("/docs").status_code == 200
            bodies, values = examples(client.app_service)
            for (method, path), body in bodies.items():
                answer = client.request(method, path, json=body)
                assert answer.status_code == 200 or (path == "/items" and method == "post"), (path, answer.text)
            assert client.get(f"/items/{values['item_id']}/similar", params={"by": values["by"]}).status_code == 200
            client.post("/items/remove", json={"item_ids": client.app_service.engine.snapshot.catalog.items.ids.tolist()})


def test_the_address_says_everything_and_reads_back():
    wanted = Wanted.of(QueryParams("user=a%20b&of=a+b&h=x&h=%26&add=%F0%9F%99%82&k=3&diversity=0.25&beams=7&where=price+<+3&why=x&q=lamp"))
    assert wanted.added == ("x", "&", "🙂")
    assert Wanted.of(QueryParams(wanted.address.removeprefix("/?"))) == wanted
    assert Wanted().address == "/?"


def test_why_shows_path_history_and_neighbours(client: TestClient):
    text = client.get("/?h=i6&h=i12&why=i18").text
    for words in ("Path down the code tree", "Items of the history that mattered", "Nearest by content", "Taken by the same users"):
        assert words in text
    assert "want a history of at least one item" in told(client, "/?why=i18")


# The tree -----------------------------------------------------------------------------------------------------------------


def test_the_paths_of_listed_items_are_lit_and_no_other(client: TestClient, engine: Engine):
    codes, ids = engine.snapshot.codes.ids.codes, engine.snapshot.catalog.items
    listed = ["i6", "i12", "i18"]
    page = Elements(client.get("/page/tree", params={"lit": listed, "why": "i6"}).text)
    first = {own["data-under"]: own.get("data-lit") for _, own in page.found if (own.get("data-cell") or "").startswith("0,")
             and own["data-cell"].endswith(",1") and "data-under" in own}
    wanted = {str(codes[ids.row(item), 0]) for item in listed}
    assert {code for code, lit in first.items() if lit} == wanted & set(first)
    assert first.get(str(codes[ids.row("i6"), 0]), "chosen") == "chosen"


def test_a_part_of_the_tree_opens(client: TestClient, engine: Engine):
    codes = engine.snapshot.codes.ids.codes
    code = int(codes[0, 0])
    text = client.get(f"/page/tree?under={code}").text
    assert f"{(codes[:, 0] == code).sum()} items" in text
    assert engine.snapshot.catalog.titles[0] in text
    for under, words in (("9999999", "no item"), ("1.x", "with dots between"), ("-1", "with dots between"),
                         ("9" * 5000, "with dots between"), (".".join(map(str, codes[0])), "open another part")):
        assert words in told(client, f"/page/tree?under={under}")


# Security -----------------------------------------------------------------------------------------------------------------


def test_titles_and_addresses_cannot_leave_their_place(copied: Path, tmp_path: Path):
    engine = Engine.open(copied)
    engine.update(pa.table({"item_id": ["i6", "i12"], "title": [EVIL, EVIL], "category": [EVIL, EVIL], "tags": [[EVIL], [EVIL]]}))
    with client_of(copied, tmp_path / "h.sqlite") as client:
        for address, params in (("/", {"h": ["i6"], "why": "i12", "k": 50}), ("/", {"user": EVIL, "q": EVIL, "where": EVIL, "of": EVIL}),
                                ("/", {"h": EVIL}), ("/", {EVIL: EVIL}), ("/", {"why": EVIL, "h": "i6"}), ("/", {"k": EVIL}),
                                ("/page/tree", {"lit": ["i6", EVIL], "why": EVIL}), ("/page/tree", {"under": EVIL}),
                                ("/page/found", {"q": "script"}), ("/page/found", {"q": EVIL}), ("/page/users", {"user": EVIL})):
            answer = client.get(address, params=params)
            found = Elements(answer.text).found
            assert [own for tag, own in found if tag == "script" and not own.get("src")] == [], (address, params)
            assert sum(tag == "script" for tag, _ in found) == (3 if address == "/" else 0)
            assert not [name for _, own in found for name in own if name.startswith("on") or name == "style"]
            assert not [tag for tag, _ in found if tag == "img"]
        assert "&lt;script&gt;" in client.get("/?h=i6").text


def test_every_answer_of_the_page_allows_this_servers_scripts_alone(client: TestClient):
    for address in ("/", "/?k=x", "/page/found?q=red", "/page/users", "/page/tree", *ASSETS):
        policy = client.get(address).headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_the_vendored_script_is_the_published_one():
    import hashlib

    assert hashlib.sha256((WEB / "htmx.min.js").read_bytes()).hexdigest() in (WEB / "README.md").read_text()


def test_pictures_come_from_addresses_alone():
    assert picture_of("https://shop.example/a.png") == "https://shop.example/a.png"
    assert picture_of(["http://shop.example/a.png", "b"]) == "http://shop.example/a.png"
    assert [picture_of(value) for value in ("javascript:alert(1)", "data:text/html,x", "/etc/passwd", None, [], 3)] == [""] * 6


# Mistakes -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "sentence"), [
    ("/?k=0", "k: want a whole number from 1 to 50, got '0'"), ("/?k=ten", "got 'ten'"), ("/?diversity=nan", "from 0 to 1, got 'nan'"),
    ("/?beams=9999", "beams: want 1 to 500"), ("/?h=nope", "unknown item 'nope'"), ("/?h=i6&drop=3", "from 0 to 0"),
    ("/?drop=0", "without any"), ("/?usr=1", "did you mean 'user'?"),
    ("/?where=" + "x" * 2001, "at most 2,000"), ("/?q=" + "x" * 600, "at most 512")])
def test_mistakes_are_a_sentence(client: TestClient, address: str, sentence: str):
    assert sentence in told(client, address)


def test_a_wrong_condition_is_said_in_each_list_and_the_page_stays(client: TestClient):
    page = client.get("/?h=i6&where=prise > 1").text
    assert page.count("did you mean &#39;price&#39;?") == 2
    assert shown(client, "/?h=i6&where=prise > 1").values(name="h") == ["i6"]


def test_a_history_beyond_the_limit_is_cut_to_the_latest(client: TestClient):
    ids = ["i6"] * Limits().max_history + ["i12"]
    expected = client.post("/recommend", json={"history": ids[1:]}).json()["items"]
    assert added_by(shown(client, "/?" + "&".join(f"h={item}" for item in ids)), 1) == [item["item_id"] for item in expected]
