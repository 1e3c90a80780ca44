"""The process: signals, slow clients, kills. Each test starts one on a free port of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from semid.errors import ConfigError
from semid.serving.connection import turned_away
from semid.serving.histories import StoreError
from semid.serving.limits import Limits, Room
from semid.serving.server import Server, bind, serve, warm
from semid.serving.sqlite_store import SqliteStore
from tests.serving.http.fake_engine import FakeEngine
from tests.serving.processes import wait_for

HOME = Path(__file__).parents[3]


class Process:
    """A server under test. address: where it listens; log: its lines on stderr, complete once it ended."""

    def __init__(self, folder: Path, drain: float, seconds: float):
        (folder / "manifest.json").write_text("{}")
        self.stderr = open(folder / "log", "a+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.http.serve_fake", str(folder), str(drain), str(seconds)], cwd=HOME,
            env={**os.environ, "PYTHONPATH": str(HOME)}, stdout=subprocess.PIPE, stderr=self.stderr, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        self.port = int(self.address.rpartition(":")[2])
        wait_for(self.port, 30, self.process)
        while httpx.get(f"{self.address}/health").status_code != 200:
            time.sleep(0.05)

    def end(self, how: int) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    @property
    def log(self) -> list[dict]:
        self.stderr.seek(0)
        return [json.loads(line) for line in self.stderr.read().splitlines()]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started = []

    def make(drain: float = 0, seconds: float = 0) -> Process:
        started.append(Process(tmp_path, drain, seconds))
        return started[-1]

    yield make
    for server in started:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()
        server.stderr.close()


def history_length(server: Process, user: str) -> int:
    return httpx.post(f"{server.address}/recommend", json={"user": user}).json()["history_length"]


def test_a_list_and_a_reason_are_asked_for_before_anybody_does(monkeypatch: pytest.MonkeyPatch):
    engine, explained = FakeEngine(), []
    monkeypatch.setattr(engine, "explain", lambda request, item: explained.append((request.history, item)))
    warm(engine)
    assert engine.sizes == [1]
    assert explained == [(("i0", "i1"), "i0")]


def test_sigterm_says_not_ready_then_answers_what_is_under_way_and_ends_with_zero(start):
    server = start(drain=1, seconds=1.5)
    with httpx.Client(base_url=server.address, timeout=30) as client, ThreadPoolExecutor(4) as threads:
        assert client.get("/ready").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        while (ready := client.get("/ready")).status_code == 200:
            pass
        late = [threads.submit(client.post, "/recommend", json={"history": []}) for _ in range(4)]
        answers = [each.result() for each in late]  # they came while it drained and ended after
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert [answer.status_code for answer in answers] == [200] * 4
    assert server.process.wait(30) == 0
    assert all({"time", "level", "event"} <= set(line) for line in server.log)


def test_ctrl_c_ends_at_once_and_keeps_what_was_acknowledged(start):
    server = start(drain=60)
    httpx.post(f"{server.address}/events", json={"events": [{"key": "1", "user": "eve", "item_id": "i1"}]}).raise_for_status()
    assert server.end(signal.SIGINT) == 0
    assert history_length(start(), "eve") == 1


def test_a_signal_before_the_server_listens_ends_it():
    class Early(Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            signal.raise_signal(signal.SIGTERM)
            await super().startup(sockets)

    async def nothing() -> None:
        pass

    service = SimpleNamespace(is_draining=False, store=SimpleNamespace(open=nothing))
    told = []
    server = Early(uvicorn.Config(FastAPI(), log_config=None), service, 0.0, lambda: told.append("listens"))
    server.run(sockets=[bind("127.0.0.1", 0)])
    assert service.is_draining
    assert told == ["listens"]


def test_a_store_that_may_lose_events_ends_the_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    async def refuse(self) -> None:
        raise StoreError("want appendfsync always")

    told = []
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.setattr(SqliteStore, "open", refuse)
    with pytest.raises(StoreError, match="want appendfsync always"):
        serve(FakeEngine(), tmp_path, host="127.0.0.1", port=0, key=None, store=str(tmp_path / "h.sqlite"), drain=0, limits=Limits(),
              started=told.append)
    assert told == []


def test_head_is_turned_away_without_a_body():
    room = Room(0)
    assert turned_away(room, b"GET").partition(b"\r\n\r\n")[2].startswith(b'{"error": ')
    assert turned_away(room, b"HEAD").partition(b"\r\n\r\n")[2] == b""


def test_sighup_reads_the_run_folder_again_without_a_failed_request(start, tmp_path: Path):
    server, stop, codes = start(), threading.Event(), []

    def ask() -> None:
        with httpx.Client() as client:
            while not stop.is_set():
                codes.append(client.post(f"{server.address}/recommend", json={"history": []}).status_code)

    with ThreadPoolExecutor(2) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        for version in range(2, 6):
            server.process.send_signal(signal.SIGHUP)
            while httpx.get(f"{server.address}/ready").json()["version"] != version:
                time.sleep(0.01)
        (tmp_path / "manifest.json").unlink()  # a folder that cannot be read: the old model stays
        server.process.send_signal(signal.SIGHUP)
        while not any("could not be read again" in line["event"] for line in server.log):
            time.sleep(0.01)
        stop.set()
        for each in asking:
            each.result()
    assert len(codes) > 20
    assert set(codes) == {200}


@pytest.mark.slow
def test_a_client_that_never_finishes_its_head_is_given_up(start):
    server = start()
    with server.connect() as slow:
        slow.sendall(b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        started = time.monotonic()
        assert slow.recv(1000) == b""
        assert 0.5 < time.monotonic() - started < 10


@pytest.mark.slow
def test_a_body_that_trickles_in_is_answered_408(start):
    server = start()
    with server.connect() as slow:
        slow.sendall(b"POST /recommend HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        answer = b"".join(iter(lambda: slow.recv(4000), b""))  # until the server closes
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.5 seconds" in answer


@pytest.mark.slow
def test_an_endless_head_is_cut_off(start):
    server = start()
    sent = 0
    with server.connect() as endless, contextlib.suppress(OSError):
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        while sent < 50_000_000:
            sent += endless.send(b"x" * 65_536)
    assert sent < 20_000_000
    assert httpx.get(f"{server.address}/health").status_code == 200


def test_a_million_items_are_refused_before_they_are_read(start):
    server = start()
    body = json.dumps({"history": ["i1"] * 1_000_000}).encode()
    answer = httpx.post(f"{server.address}/recommend", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.slow
def test_garbage_on_the_wire_is_answered_400(start):
    server = start()
    with server.connect() as wire:
        wire.sendall(bytes(range(256)) + b"\r\n\r\n")
        assert wire.recv(1000).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{server.address}/health").status_code == 200


@pytest.mark.slow
def test_kill_9_of_the_server_loses_no_acknowledged_event(start):
    """Three times: clients write, the process is killed, the next one reads the same file. Clients then send all again."""
    rng, acknowledged = random.Random(0), set()

    def write(server: Process, first: int) -> None:
        with httpx.Client() as client:
            for n in range(first, first + 100_000):
                try:
                    done = client.post(f"{server.address}/events", json={"events": [{"key": f"k{n}", "user": "eve", "item_id": f"i{n}"}]})
                except httpx.HTTPError:
                    return
                if done.status_code == 200:
                    acknowledged.add(n)

    for kill in range(3):
        server = start()
        with ThreadPoolExecutor(4) as threads:
            for writer in range(4):
                threads.submit(write, server, 1_000_000 * kill + 100_000 * writer)
            time.sleep(rng.uniform(0.3, 0.6))
            server.end(signal.SIGKILL)
        assert acknowledged
    server = start()
    before = history_length(server, "eve")
    events = [{"key": f"k{n}", "user": "eve", "item_id": f"i{n}"} for n in acknowledged]
    known = [httpx.post(f"{server.address}/events", json={"events": events[n : n + 500]}).json()["known"]
             for n in range(0, len(events), 500)]
    assert sum(known) == len(acknowledged)
    assert history_length(server, "eve") == before


def test_a_taken_port_is_one_message():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="choose another --port"):
            bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(ConfigError, match="want 0 to 65535"):
        bind("127.0.0.1", 70_000)
