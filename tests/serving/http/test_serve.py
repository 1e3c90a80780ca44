"""`semid serve` over a trained run: what a shop's developer does first."""

from __future__ import annotations

import html
import re
import shlex
import shutil
from pathlib import Path

import httpx
import pytest

from semid import cli
from tests.serving.http.conftest import serving


@pytest.fixture
def client(served: str) -> httpx.Client:
    return httpx.Client(base_url=served, timeout=60)


def items_of(client: httpx.Client, **ask: object) -> list[dict]:
    answer = client.post("/recommend", json=ask)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_every_command_of_the_docs_works_when_pasted(client: httpx.Client):
    page = html.unescape(client.get("/docs").text)
    commands = re.findall(r"<pre><code>(curl .*?)</code></pre>", page)
    assert len(commands) == len([1 for methods in client.get("/openapi.json").json()["paths"].values() for _ in methods])
    for command in commands:
        words = shlex.split(command)
        method = words[words.index("-X") + 1] if "-X" in words else "POST" if "-d" in words else "GET"
        body = words[words.index("-d") + 1] if "-d" in words else None
        assert words[-1].startswith(str(client.base_url)), "the address is this server's"
        address = httpx.URL(words[-1]).raw_path.decode()
        answer = client.request(method, address, content=body, headers={"Content-Type": "application/json"} if body else None)
        assert answer.status_code == 200, (command, answer.text)


@pytest.mark.slow
def test_recommendations_equal_those_of_the_run(trained: Path, tmp_path: Path):
    import semid

    folder = tmp_path / "run"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("changes*"))  # items that others add share the mass of their codes
    run = semid.load(folder)
    with serving(folder, tmp_path / "h.sqlite") as address, httpx.Client(base_url=address, timeout=60) as client:
        for user in run.split.source.users.ids[:5]:
            told = items_of(client, user=user, k=10, where="year > 1980")
            expected = run.recommend(user=user, k=10, where="year > 1980")
            assert [each["item_id"] for each in told] == [each["item_id"] for each in expected]
            assert [each["score"] for each in told] == pytest.approx([each["score"] for each in expected], abs=1e-4)


def test_an_event_changes_the_next_recommendation(client: httpx.Client, trained: Path):
    history = [each["item_id"] for each in items_of(client, history=[], k=3)]
    by_history = items_of(client, history=history, k=10)
    events = [{"key": f"changes-{n}", "user": "somebody", "item_id": item, "time": 1_400_000_000 + n} for n, item in enumerate(history)]
    assert client.post("/events", json={"events": events}).json()["stored"] == 3
    times = [event["time"] for event in events]
    assert items_of(client, user="somebody", k=10) == items_of(client, history=history, times=times, k=10)
    assert {each["item_id"] for each in by_history}.isdisjoint(history)


def test_a_new_item_is_recommendable_at_once_and_gone_when_removed(client: httpx.Client):
    item = {"item_id": "film-of-tomorrow", "title": "The Film of Tomorrow", "year": 1999}
    added = client.post("/items", json={"items": [item]})
    assert added.status_code == 200, added.text
    [shown] = items_of(client, history=[], k=5, include_only=["film-of-tomorrow"])
    assert (shown["item_id"], shown["title"]) == ("film-of-tomorrow", "The Film of Tomorrow")
    assert client.patch("/items", json={"items": [{"item_id": "film-of-tomorrow", "year": 1901}]}).status_code == 200
    assert [each["item_id"] for each in items_of(client, history=[], k=5, where="year = 1901")] == ["film-of-tomorrow"]
    assert client.post("/items/remove", json={"item_ids": ["film-of-tomorrow"]}).json()["count"] == 1
    assert items_of(client, history=[], k=5, include_only=["film-of-tomorrow"]) == []
    assert client.post("/items/restore", json={"item_ids": ["film-of-tomorrow"]}).json()["kind"] == "restore"
    assert len(items_of(client, history=[], k=5, include_only=["film-of-tomorrow"])) == 1
    assert client.post("/items/remove", json={"item_ids": ["film-of-tomorrow"]}).json()["count"] == 1


@pytest.mark.parametrize(("where", "sentence"), [
    ("yeer > 1990", "did you mean 'year'?"), ("year >", "it breaks off at the end"), ("1; DROP TABLE catalog", "want"),
    ("(SELECT 1) = 1", "may not appear"), ("read_csv('/etc/passwd') = 1", "unknown function"), ("year", "true or false"),
    ("1) FROM catalog; SELECT (1", "want"), ("\x00", "")])
def test_a_hostile_condition_is_a_sentence_and_harms_nobody(client: httpx.Client, where: str, sentence: str):
    answer = client.post("/recommend", json={"history": [], "where": where})
    assert answer.status_code == 422, answer.text
    assert sentence in answer.json()["error"]
    assert len(items_of(client, history=[])) == 10


def test_a_condition_that_nothing_satisfies_is_an_empty_list_that_says_so(client: httpx.Client):
    answer = client.post("/recommend", json={"history": [], "where": "title = 'no such film'"}).json()
    assert (answer["items"], answer["left"]) == ([], 0)
    assert "0 items satisfy the rules" in answer["note"]


def test_unknown_items_are_said(client: httpx.Client):
    assert "unknown item" in client.post("/recommend", json={"history": ["no-such-film"]}).json()["error"]
    for path in ("/items/no-such-film/similar", "/explain?user=a&item=no-such-film"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "unknown item 'no-such-film'" in answer.json()["error"]


def test_reasons_come_with_the_list(client: httpx.Client):
    history = [each["item_id"] for each in items_of(client, history=[], k=3)]
    shown = items_of(client, history=history, k=2, explain=True)
    for item in shown:
        why = item["why"]
        assert why["item_id"] == item["item_id"]
        assert why["path"][-1]["items"] == 1
        assert {each["item_id"] for each in why["history"]} <= set(history)


def test_somebody_new_gets_a_list_that_nothing_explains(client: httpx.Client):
    for ask in ({"history": []}, {"user": "nobody-yet"}):
        answer = client.post("/recommend", json={**ask, "k": 2, "explain": True})
        assert answer.status_code == 200, answer.text
        assert [item["why"] for item in answer.json()["items"]] == [None, None]
        assert "without a history nothing is explained" in answer.json()["note"]


def test_a_body_of_another_type_is_told_so(client: httpx.Client):
    answer = client.post("/recommend", content='{"k": 2}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 422
    assert answer.json()["error"] == ("the body: want a JSON object with the header Content-Type: application/json, "
                                      "got '{\"k\": 2}' without it")


def test_the_model_is_read_again_without_a_pause(client: httpx.Client):
    before = client.get("/ready").json()["version"]
    changed = client.post("/reload").json()
    assert changed["version"] > before
    assert client.get("/ready").json()["version"] == changed["version"]


# The command --------------------------------------------------------------------------------------------------------------


def serve_refused(capsys: pytest.CaptureFixture, *flags: str) -> str:
    assert cli.main(["serve", *flags]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_others_are_not_served_without_a_key(trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SEMID_KEY", raising=False)
    assert "needs a key" in serve_refused(capsys, str(trained), "--host", "0.0.0.0")


def test_mistakes_on_the_command_line_are_one_message(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert "--max-k" in serve_refused(capsys, str(trained), "--max-k", "0")
    assert "cannot be opened" in serve_refused(capsys, str(trained), "--port", "0", "--store", str(tmp_path / "none" / "h.sqlite"))
    assert "no-such-run" in serve_refused(capsys, str(tmp_path / "no-such-run"))
