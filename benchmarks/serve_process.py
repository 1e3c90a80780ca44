"""What the benchmarks of the service share: a small run, a server process on this machine, and a client that costs little.

Everything goes to 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import semid
from semid.data.bundled import FOLDER

ROOT = Path(__file__).resolve().parents[1]


def small_run(folder: Path, epochs: int) -> Path:
    """Return a run of the default recipe on the bundled MovieLens data, films of 20 ratings or more, trained there if it isn't yet."""
    if not (folder / "manifest.json").exists():
        semid.train("semid", semid.read(FOLDER, item_core=20), out=folder, settings={"epochs": epochs, "text": "hashed"},
                    resume=folder.exists())
    return folder


def example_ids(run: Path) -> tuple[list[str], list[str]]:
    """Return ids of users and items of a run."""
    loaded = semid.load(run)
    return loaded.split.source.users.ids.tolist(), loaded.catalog.items.ids.tolist()


@dataclass(frozen=True)
class Server:
    """A process that answers at 127.0.0.1:port."""

    process: subprocess.Popen
    port: int

    @property
    def resident(self) -> int:
        """Bytes of it in memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    @property
    def cpu_seconds(self) -> float:
        """Of all its threads so far."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def server(run: Path, store: Path, *flags: str) -> Iterator[Server]:
    """Start `semid serve` over a copy of a run (items are added to it) on a free port, end it at the end. Copy and log lie beside the
    store."""
    run = shutil.copytree(run, store.with_suffix(".run"))
    with open(store.with_suffix(".log"), "w") as log:
        command = [sys.executable, "-m", "semid", "serve", str(run), "--port", "0", "--store", str(store), "--json", "--drain", "0", *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            assert process.stdout is not None
            said = ""
            while not said.rstrip().endswith("}"):
                line = process.stdout.readline()
                assert line, f"the server ended; see {log.name}"
                said += line
            port = int(json.loads(said)["address"].rpartition(":")[2])
            asyncio.run(_until_ready(port))
            yield Server(process, port)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, "the server did not end with 0"
        finally:
            process.kill()
            process.wait()


async def _until_ready(port: int) -> None:
    while True:
        connection = Connection(port)
        try:
            status, _ = await connection.ask(request("GET", "/ready"))
            if status == 200:
                return
        except OSError:
            await asyncio.sleep(0.05)
        finally:
            connection.close()


def request(method: str, path: str, body: object = None) -> bytes:
    """Return an HTTP request as bytes."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class Connection(asyncio.Protocol):
    """One kept connection; connects when first asked and again after it broke."""

    def __init__(self, port: int):
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._received = b""

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Return status and body; status 0 where the connection broke."""
        loop = asyncio.get_running_loop()
        if self._transport is None:
            self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)
        self._answer = loop.create_future()
        self._transport.write(message)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        at = head.lower().find(b"content-length:") + 15
        if at > 14 and self._answer is not None and len(body) >= int(head[at : head.find(b"\r", at) % (len(head) + 1)]):
            self._received = b""
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport, self._received = None, b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((0, b""))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(frozen=True)
class Answered:
    """One request. due: seconds from the start; late: seconds until this client sent it; status: 0 = the connection broke;
    seconds: from sending to the whole answer."""

    due: float
    kind: str
    status: int
    late: float
    seconds: float


async def closed_loop(port: int, messages: Sequence[bytes], connections: int, seconds: float) -> float:
    """Return answers a second with `connections` that each ask as soon as they were answered."""
    end, done = time.perf_counter() + seconds, 0

    async def ask(number: int) -> None:
        nonlocal done
        connection, n = Connection(port), number
        while time.perf_counter() < end:
            status, body = await connection.ask(messages[n % len(messages)])
            assert status == 200, (status, body)
            n, done = n + connections, done + 1
        connection.close()

    await asyncio.gather(*map(ask, range(connections)))
    return done / seconds


async def open_loop(port: int, messages: Sequence[tuple[str, bytes]], rate: float, seconds: float, most: int) -> tuple[list[Answered], int]:
    """Ask `rate` times a second, whatever the server does. Returns the answers, and how many requests could not be sent because
    all `most` connections waited."""
    free = [Connection(port) for _ in range(most)]
    answered: list[Answered] = []
    under_way: set[asyncio.Task] = set()
    unsent, sent, start = 0, 0, time.perf_counter()

    async def ask(connection: Connection, kind: str, message: bytes, due: float) -> None:
        sent_at = time.perf_counter() - start
        status, _ = await connection.ask(message)
        answered.append(Answered(due, kind, status, sent_at - due, time.perf_counter() - start - sent_at))
        free.append(connection)

    while (now := time.perf_counter() - start) < seconds:
        while sent / rate <= now:
            kind, message = messages[sent % len(messages)]
            if free:
                task = asyncio.create_task(ask(free.pop(), kind, message, sent / rate))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            else:
                unsent += 1
            sent += 1
        await asyncio.sleep(0.001)
    if under_way:
        await asyncio.wait(under_way, timeout=30)
    for connection in free:
        connection.close()
    return answered, unsent


def milliseconds(answers: Sequence[Answered]) -> dict[str, float]:
    """Return p50, p99, max of the answers, and p99 of how late this client sent them, in ms; empty without answers."""
    if not answers:
        return {}
    values = np.array([(answer.seconds, answer.late) for answer in answers]) * 1000
    p50, p99, most = np.percentile(values[:, 0], [50, 99, 100]).round(2).tolist()
    return {"p50": p50, "p99": p99, "max": most, "client_late_p99": round(float(np.percentile(values[:, 1], 99)), 2)}


def write(path: Path, result: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
