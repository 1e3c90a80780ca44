"""A connection that gives a slow or endless client up, and turns requests away while the server is full.

uvicorn itself waits for ever for the head of a request. And a request that is turned away here, before a task is made for it,
costs a third of one that the gate refuses: that is what keeps those that were let in quick while ten times as many come.
"""

from __future__ import annotations

import asyncio
import json
import uuid

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from semid.serving.gate import ALWAYS, WATCHING, busy
from semid.serving.limits import Limits, Room
from semid.serving.metrics import Metrics

LARGEST_HEAD = 65_536
"""Bytes of a request's line and headers, beyond the first read."""


def turned_away(room: Room, method: bytes) -> bytes:
    """Return the whole answer to a request that finds no room; one of HEAD has no body."""
    trace = uuid.uuid4().hex
    body = json.dumps({"error": busy(room), "trace_id": trace}).encode()
    headers = [*ALWAYS, (b"content-type", b"application/json"), (b"retry-after", b"1"), (b"x-trace-id", trace.encode()),
               (b"content-length", b"%d" % len(body))]
    return b"HTTP/1.1 429 Too Many Requests\r\n" + b"".join(b"%b: %b\r\n" % header for header in headers) + b"\r\n" + (
        b"" if method == b"HEAD" else body)


def impatient(limits: Limits, room: Room, metrics: Metrics) -> type[HttpToolsProtocol]:
    """Return a protocol that closes a connection whose request doesn't arrive in time, whose head is endless, or that is one too
    many. A slow body is answered by the gate first; here it gets twice the time, so that the answer arrives."""
    turned_away_count = metrics.refused.labels("full")
    watching = tuple(path.encode() for path in WATCHING)

    class Impatient(HttpToolsProtocol):
        deadline: asyncio.TimerHandle | None = None
        in_head = False
        is_turned_away = False
        head = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_request()
            if len(self.connections) > limits.max_connections:
                transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._arrived()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.deadline is None:
                self._await_request()
            was_in_head = self.in_head
            super().data_received(data)
            if was_in_head and self.in_head:
                self.head += len(data)
                if self.head > LARGEST_HEAD:
                    self.transport.close()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.in_head, self.head = True, 0

        def on_headers_complete(self) -> None:
            self.in_head = False
            assert self.parser is not None, "it is reading"
            is_idle = self.cycle is None or self.cycle.response_complete
            self.is_turned_away = is_idle and not self.url.startswith(watching) and room.refuses()
            if self.is_turned_away:
                turned_away_count.inc()
                self.transport.write(turned_away(room, self.parser.get_method()))
            else:
                super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self.is_turned_away:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._arrived()
            assert self.parser is not None, "it is reading"
            if not self.is_turned_away:
                super().on_message_complete()
            elif not self.parser.should_keep_alive():
                self.transport.close()
            else:
                self._unset_keepalive_if_required()
                self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

        def _await_request(self) -> None:
            self.deadline = self.loop.call_later(2 * limits.max_read_seconds, self.transport.close)

        def _arrived(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Impatient
