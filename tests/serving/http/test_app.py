"""The application around an engine that misbehaves: what passes the gate, what is refused, and that nobody pays for another."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from semid.serving.app import create_app
from semid.serving.contract import History
from semid.serving.histories import open_store
from semid.serving.limits import Limits
from semid.serving.metrics import Metrics
from semid.serving.security import Guard
from semid.serving.service import Service, joined
from tests.serving.http.fake_engine import FakeEngine

KEY = "k" * 24
MakeApp = Callable[..., TestClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[MakeApp]:
    """Return a client of an application around an engine."""
    clients = []
    (tmp_path / "manifest.json").write_text("{}")

    def make(engine: FakeEngine | None = None, key: str | None = None, limits: Limits = Limits()) -> TestClient:  # noqa: B008
        service = Service(engine or FakeEngine(), open_store(str(tmp_path / "h.sqlite")), limits=limits, metrics=Metrics(), folder=tmp_path)
        client = TestClient(create_app(service, Guard(key)), base_url="http://127.0.0.1")
        client.service = service
        clients.append(client.__enter__())
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def ids(response) -> list[str]:
    assert response.status_code == 200, response.text
    return [item["item_id"] for item in response.json()["items"]]


def refused(response, status: int) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["trace_id"] == response.headers["x-trace-id"]
    return body["error"]


# Histories and feedback ---------------------------------------------------------------------------------------------------


def test_an_acknowledged_event_is_in_the_next_recommendation(serve: MakeApp):
    client = serve()
    assert ids(client.post("/recommend", json={"user": "ann", "k": 1})) == ["i3"]
    event = {"key": "a1", "user": "ann", "item_id": "i9"}
    assert client.post("/events", json={"events": [event]}).json() | {"trace_id": ""} == {
        "trace_id": "", "stored": 1, "known": 0, "unknown_items": []}
    assert ids(client.post("/recommend", json={"user": "ann", "k": 1})) == ["i10"]
    assert client.post("/events", json={"events": [event]}).json()["known"] == 1
    assert client.post("/recommend", json={"user": "ann", "k": 1}).json()["history_length"] == 3


def test_somebody_new_is_told_apart_and_becomes_known_by_an_event(serve: MakeApp):
    client = serve()
    assert "no events yet" in client.post("/recommend", json={"user": "eve"}).json()["note"]
    client.post("/events", json={"events": [{"key": "e1", "user": "eve", "item_id": "i5"}]})
    answer = client.post("/recommend", json={"user": "eve", "k": 1})
    assert (ids(answer), answer.json()["note"]) == (["i6"], "")


def test_an_event_of_an_item_not_yet_in_the_catalogue_is_kept(serve: MakeApp):
    client = serve()
    events = [{"key": f"e{n}", "user": "eve", "item_id": item} for n, item in enumerate(["new", "i5", "new"])]
    assert client.post("/events", json={"events": events}).json()["unknown_items"] == ["new"]
    assert client.post("/items", json={"items": [{"item_id": "new"}]}).json()["items"] == 51
    assert client.post("/recommend", json={"user": "eve", "k": 1}).json()["history_length"] == 3


def test_a_key_of_another_event_is_a_conflict(serve: MakeApp):
    client = serve()
    client.post("/events", json={"events": [{"key": "e1", "user": "eve", "item_id": "i5"}]})
    assert "'e1'" in refused(client.post("/events", json={"events": [{"key": "e1", "user": "eve", "item_id": "i6"}]}), 409)


def test_impressions_and_what_came_of_them_are_logged(serve: MakeApp, tmp_path: Path):
    client = serve()
    shown = client.post("/recommend", json={"user": "ann", "k": 3}).json()
    event = {"key": "b1", "user": "ann", "item_id": "i4", "action": "buy", "trace_id": shown["trace_id"]}
    client.post("/events", json={"events": [event]})

    async def read() -> list:
        store = open_store(str(tmp_path / "h.sqlite"))
        found = await store.feedback()
        await store.close()
        return found

    [feedback] = asyncio.run(read())
    impression = feedback.impression
    assert (impression.trace, impression.user, impression.policy, impression.model) == (shown["trace_id"], "ann", "top_k", "m.1")
    assert (impression.items, impression.scores, impression.propensities) == (("i3", "i4", "i5"), (0.0, -1.0, -2.0), (1.0, 1.0, 1.0))
    assert [(each.item, each.action) for each in feedback.events] == [("i4", "buy")]


def test_histories_join_by_time_and_count_an_event_of_both_once():
    trained = History(("a", "b", "c"), (10, 20, 30))
    assert joined(trained, [("b", 20), ("x", 25), ("c", 31)], 10).items == ("a", "b", "x", "c", "c")
    assert joined(trained, [("x", 25)], 2) == joined(History(("x", "c"), (25, 30)), [], 2)
    assert joined(History(("a", "b"), None), [("x", 1)], 10).items == ("a", "b", "x")
    assert joined(History(("a", "b"), None), [("x", 1)], 10).times is None


# The gate -----------------------------------------------------------------------------------------------------------------


def test_every_route_but_health_wants_the_key(serve: MakeApp):
    client = serve(key=KEY)
    app = client.app
    walked = set()
    for route in app.routes:
        for method in getattr(route, "methods", None) or {"GET"}:
            path = route.path.replace("{item_id:path}", "i1")
            status = client.request(method, path).status_code
            assert status == (200 if path == "/health" and method == "GET" else 405 if path == "/health" else 401), (method, path)
            walked.add(path)
    assert {"/recommend", "/events", "/items", "/reload", "/metrics", "/ready", "/docs", "/openapi.json", "/health", "/", "/page/tree",
            "/page/page.js"} <= walked
    assert client.get("/no/such/path").status_code == 401
    assert client.get("/ready", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert "Authorization: Bearer" in refused(client.get("/ready"), 401)


def test_no_route_takes_a_path_or_an_address(serve: MakeApp):
    """Names of parameters and fields, all of them: none is a file, a folder or a URL."""
    document = serve().app.openapi()
    names = {parameter["name"] for methods in document["paths"].values() for operation in methods.values()
             for parameter in operation.get("parameters", [])}
    names |= {field for schema in document["components"]["schemas"].values() for field in schema.get("properties", {})}
    assert not {name for name in names if any(word in name.lower() for word in ("file", "folder", "url", "uri", "dir", "run"))}


def test_without_a_key_a_page_of_another_host_is_refused(serve: MakeApp):
    client = serve()
    assert "this machine alone" in refused(client.get("/ready", headers={"Host": "evil.example"}), 403)
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 200


def test_a_form_of_a_foreign_page_is_no_request(serve: MakeApp):
    """A browser sends text/plain to another host without asking; JSON in it is not read."""
    refused(serve().post("/events", content='{"events": []}', headers={"Content-Type": "text/plain"}), 422)
    assert "another site" in refused(serve().post("/reload", headers={"Sec-Fetch-Site": "cross-site"}), 403)


def test_every_answer_has_its_own_trace_id(serve: MakeApp):
    client = serve()
    answers = [client.post("/recommend", json={"history": []}), client.get("/health"), client.get("/none"),
               client.post("/recommend", json=[])]
    traces = {answer.headers["x-trace-id"] for answer in answers}
    assert len(traces) == 4
    assert answers[0].json()["trace_id"] == answers[0].headers["x-trace-id"]


def test_a_body_over_the_limit_is_refused_before_it_is_read(serve: MakeApp):
    client = serve(limits=Limits(max_body=1000))
    assert "at most 1,000 bytes" in refused(client.post("/recommend", content=b" " * 1001), 413)
    assert "at most 1,000 bytes" in refused(client.post("/recommend", content=iter([b" " * 600] * 3)), 413)
    assert "at most" in refused(client.post("/recommend", content=b"", headers={"Content-Length": "9" * 30}), 413)


def test_more_requests_than_there_is_room_for_are_told_to_come_back(serve: MakeApp):
    engine = FakeEngine()
    client = serve(engine, limits=Limits(max_waiting=4, max_batch=1))
    with ThreadPoolExecutor(8) as threads:
        under_way = [threads.submit(client.post, "/recommend", json={"history": ["slow"]}) for _ in range(4)]
        while "semid_requests_under_way 4.0" not in client.get("/metrics").text:  # the metrics answer meanwhile
            time.sleep(0.01)
        answer = client.post("/recommend", json={"history": []})
        assert "4 requests are under way" in refused(answer, 429)
        assert answer.headers["retry-after"] == "1"
        assert client.get("/ready").status_code == 200
        engine.gate.set()
        assert [each.result().status_code for each in under_way] == [200] * 4
    assert ids(client.post("/recommend", json={"history": [], "k": 1})) == ["i0"]


def test_a_client_over_its_rate_is_told_to_slow_down(serve: MakeApp):
    client = serve(limits=Limits(max_rate=0.001))
    assert [client.post("/recommend", json={"history": []}).status_code for _ in range(3)] == [200, 429, 429]
    assert client.get("/health").status_code == 200


def test_an_answer_that_takes_too_long_is_given_up_and_its_place_freed(serve: MakeApp):
    engine = FakeEngine()
    client = serve(engine, limits=Limits(max_seconds=0.2, max_waiting=2))
    for _ in range(4):  # more than there is room for at once: each frees its place
        assert "no answer within 0.2 seconds" in refused(client.post("/recommend", json={"history": ["slow"]}), 504)
    engine.gate.set()
    for _ in range(100):
        if client.post("/recommend", json={"history": []}).status_code == 200:
            break
    assert ids(client.post("/recommend", json={"history": [], "k": 1})) == ["i0"]
    assert sum(engine.sizes) < 12  # what was given up before its turn was not computed


def test_a_poisoned_request_fails_alone(serve: MakeApp):
    engine = FakeEngine(seconds=0.05)
    client = serve(engine)
    histories = [["poison"] if n == 5 else ["bad"] if n == 7 else [f"i{n}"] for n in range(12)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda history: client.post("/recommend", json={"history": history, "k": 1}), histories))
    assert "its log has the details" in refused(answers[5], 500)
    assert "want another item" in refused(answers[7], 422)
    assert [ids(answer) for n, answer in enumerate(answers) if n not in (5, 7)] == [[f"i{n + 1}"] for n in range(12) if n not in (5, 7)]
    assert max(engine.sizes) > 1, "they were not in one batch"


def test_draining_is_told_and_everything_still_answered(serve: MakeApp):
    client = serve()
    client.service.is_draining = True
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    assert client.post("/recommend", json={"history": []}).status_code == 200


# Hostile input ------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "huge k": ({"history": [], "k": 10**9}, 422, "k: want 1 to 500"),
    "k beyond any integer": ({"history": [], "k": 10**400}, 422, "k: want 1 to 500, got 100000000"),
    "zero k": ({"history": [], "k": 0}, 422, "k: want 1 to 500, got 0"),
    "negative k": ({"history": [], "k": -1}, 422, "k: want 1 to 500, got -1"),
    "fractional k": ({"history": [], "k": 2.5}, 422, "k: "),
    "text k": ({"history": [], "k": "10"}, 422, "k: input should be a valid integer, got '10'"),
    "true k": ({"history": [], "k": True}, 422, "k: "),
    "huge beams": ({"history": [], "beams": 10**6}, 422, "beams: want 1 to 500"),
    "long history": ({"history": ["i1"] * 1001}, 422, "history: want at most 1,000 entries, got 1,001"),
    "long exclude": ({"history": [], "exclude": ["i1"] * 10_001}, 422, "exclude: want at most"),
    "long where": ({"history": [], "where": "x" * 2001}, 422, "where: want at most 2,000 characters"),
    "history of an object": ({"history": {"i1": 1}}, 422, "history: "),
    "history of nulls": ({"history": [None]}, 422, "history.0: "),
    "neither user nor history": ({"k": 3}, 422, "either user or history, got neither"),
    "both user and history": ({"user": "ann", "history": []}, 422, "got both"),
    "times without items": ({"history": [], "times": [1]}, 422, "times: want one for each"),
    "negative time": ({"history": ["i1"], "times": [-5]}, 422, "times.0: "),
    "unknown field": ({"history": [], "kk": 3}, 422, "kk: unknown field (did you mean 'k'?)"),
    "unknown rule": ({"history": [], "rules": {"diverse": 1}}, 422, "(did you mean 'diversity'?)"),
    "rule out of range": ({"history": [], "rules": {"diversity": 1.5}}, 422, "rules.diversity: "),
    "empty id": ({"user": ""}, 422, "user: string should have at least 1 character"),
    "a list": ([], 422, "want a JSON object"),
    "null": (None, 422, "want a JSON object"),
    "explaining a long list": ({"history": [], "k": 11, "explain": True}, 422, "k: want 1 to 10, got 11"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_questions_are_answered_in_a_sentence(serve: MakeApp, name: str):
    body, status, sentence = HOSTILE[name]
    assert sentence in refused(serve().post("/recommend", content=json.dumps(body), headers={"Content-Type": "application/json"}), status)


def test_an_event_that_training_would_refuse_is_not_acknowledged(serve: MakeApp):
    long_ago = {"events": [{"key": "a", "user": "u", "item_id": "i1", "time": 5}]}
    assert "events.0.time: " in refused(serve().post("/events", json=long_ago), 422)


RAW = {
    "not a number": b'{"history": [], "rules": {"diversity": NaN}}',
    "infinity": b'{"history": [], "rules": {"half_life": Infinity}}',
    "half a character": b'{"user": "\\ud800"}',
    "deep": b"[" * 100_000,
    "deep objects": b'{"user":' * 5_000 + b"1" + b"}" * 5_000,
    "endless number": b'{"history": [], "k": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"user": "\xff\xfe"}',
    "cut": b'{"user": "ann"',
    "nothing": b"",
    "two values": b'{"user": "ann"} {"user": "ann"}',
}


@pytest.mark.parametrize("name", RAW)
def test_hostile_bytes_are_answered_in_a_sentence(serve: MakeApp, name: str):
    client = serve()
    for path in ("/recommend", "/events", "/items"):
        assert len(refused(client.post(path, content=RAW[name], headers={"Content-Type": "application/json"}), 422)) < 500


@pytest.mark.parametrize("event", [
    {"time": "yesterday"}, {"time": "10"}, {"time": -1}, {"time": 10**12}, {"time": 1.5}, {"value": "9"}, {"trace_id": "../../etc"},
    {"time": int(time.time()) + 90_000}, {"time": "2999-01-01"}, {"price": 3}, {"key": ""}, {"key": "k" * 513}, {"action": "a" * 65},
    {"user": None}])
def test_hostile_events_store_nothing(serve: MakeApp, event: dict):
    client = serve()
    good = {"key": "g", "user": "eve", "item_id": "i1"}
    refused(client.post("/events", json={"events": [good, good | {"key": "h"} | event]}), 422)
    assert client.post("/recommend", json={"user": "eve"}).json()["history_length"] == 0


def test_times_of_events_may_be_iso_text(serve: MakeApp):
    client = serve()
    times = ["2026-01-30T10:00:00+01:00", "2026-01-30T08:00:00Z", 1769763600]  # the second is the first to happen
    events = [{"key": str(n), "user": "iso", "item_id": f"i{n}", "time": time} for n, time in enumerate(times)]
    assert client.post("/events", json={"events": events}).json()["stored"] == 3
    assert client.post("/recommend", json={"user": "iso", "k": 1}).json()["history_length"] == 3


def test_ids_of_any_script_pass_through(serve: MakeApp):
    client = serve()
    for user in ("日本🙂", "a/b?c#d", "'; DROP TABLE events; --", "\x00", " ", "../../etc/passwd"):
        event = {"key": f"key of {user}", "user": user, "item_id": "i5"}
        assert client.post("/events", json={"events": [event]}).json()["stored"] == 1
        answer = client.post("/recommend", json={"user": user, "k": 1})
        assert (ids(answer), answer.json()["user"]) == (["i6"], user)


def test_ids_are_as_long_as_in_the_tables(serve: MakeApp):
    client, user = serve(), "u" * 5_000
    assert client.post("/events", json={"events": [{"key": "1", "user": user, "item_id": "i5"}]}).json()["stored"] == 1
    assert ids(client.post("/recommend", json={"user": user, "k": 1})) == ["i6"]
    assert len(refused(client.post("/recommend", json={"history": ["i" * 5_000]}), 422)) < 500


def test_whole_numbers_are_ids_as_in_the_tables(serve: MakeApp):
    client = serve()
    client.post("/events", json={"events": [{"key": 1, "user": 42, "item_id": "i5"}]})
    assert ids(client.post("/recommend", json={"user": "42", "k": 1})) == ["i6"]


def test_a_wrong_path_or_method_is_told_the_right_one(serve: MakeApp):
    client = serve()
    assert "did you mean '/recommend'?" in refused(client.post("/recomend", json={}), 404)
    assert "want POST" in refused(client.get("/recommend"), 405)


# Metrics and logs ---------------------------------------------------------------------------------------------------------


def test_metrics_count_by_route_and_never_by_what_a_client_sent(serve: MakeApp):
    client = serve()
    client.post("/recommend", json={"history": []})
    client.get("/items/i1/similar")
    client.get("/some/secret/path")
    text = client.get("/metrics").text
    assert 'semid_requests_total{route="/recommend",status="200"} 1.0' in text
    assert 'semid_requests_total{route="/items/{item_id:path}/similar",status="200"} 1.0' in text
    assert 'semid_requests_total{route="none",status="404"} 1.0' in text
    assert "secret" not in text
    assert "process_resident_memory_bytes" in text


def test_a_request_is_one_line_of_json(serve: MakeApp, caplog: pytest.LogCaptureFixture):
    from semid.serving.logs import JsonLines

    with caplog.at_level("INFO", "semid.serving"):
        trace = serve().get("/items/i1/similar").headers["x-trace-id"]
    [line] = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "request"]
    assert "\n" not in line
    read = json.loads(line)
    assert {name: read[name] for name in ("trace", "method", "path", "status")} == {
        "trace": trace, "method": "GET", "path": "/items/i1/similar", "status": 200}


def test_a_start_waits_for_what_new_items_need_but_not_for_ever(serve: MakeApp):
    class Preparing(FakeEngine):
        done = False

        def prepare(self) -> None:
            self.done = self.gate.wait(30)

    engine = Preparing()
    service = serve(engine).service
    begin = time.monotonic()
    service.wait_for_preparation(0.05)
    assert not engine.done
    assert time.monotonic() - begin < 5
    threading.Timer(0.05, engine.gate.set).start()
    service.wait_for_preparation(30)
    assert engine.done


def test_nobody_waits_for_what_new_items_need(serve: MakeApp):
    class Preparing(FakeEngine):
        def prepare(self) -> None:
            self.gate.wait(30)

    client = serve(engine := Preparing())
    assert client.post("/reload").json()["version"] == 2
    assert client.post("/items", json={"items": [{"item_id": "new"}]}).json()["count"] == 1
    client.portal.call(client.service.close)
    assert client.service._preparing.is_alive()
    engine.gate.set()


def test_a_known_condition_does_not_wait_for_explanations(serve: MakeApp):
    engine = FakeEngine()
    client = serve(engine)
    engine.snapshot = replace(engine.snapshot, known=frozenset(["price < 3"]))
    client.service._asides.submit(engine.gate.wait, 30)
    assert ids(client.post("/recommend", json={"history": [], "k": 1, "where": "price < 3"})) == ["i0"]
    engine.gate.set()


def test_a_new_model_answers_while_the_old_one_finishes(serve: MakeApp):
    """Questions without a pause, a reload every few milliseconds: no answer fails, and later versions come into use."""
    engine = FakeEngine(seconds=0.002)
    client = serve(engine)
    stop, versions = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answer = client.post("/recommend", json={"history": []})
            assert answer.status_code == 200, answer.text
            versions.append(answer.json()["version"])

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask) for _ in range(3)]
        reloads = [client.post("/reload").json()["version"] for _ in range(10)]
        stop.set()
        for each in asking:
            each.result()
    assert reloads == list(range(2, 12))
    assert len(set(versions)) > 3


def test_routes_of_the_document_are_those_of_the_application(serve: MakeApp):
    app = serve().app
    documented = {(method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods}
    routed = {(method, route.path.replace(":path", "")) for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema
              for method in route.methods}
    assert documented == routed
