"""A connection that gives a slow or endless client up. uvicorn itself waits for ever for the head of a request."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from semid.serving.limits import Limits

LARGEST_HEAD = 65_536
"""Bytes of a request's line and headers, beyond the first read."""


def impatient(limits: Limits) -> type[HttpToolsProtocol]:
    """Return a protocol that closes a connection whose request doesn't arrive in time, whose head is endless, or that is one too
    many. A slow body is answered by the gate first; here it gets twice the time, so that the answer arrives."""

    class Impatient(HttpToolsProtocol):
        deadline: asyncio.TimerHandle | None = None
        in_head = False
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
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._arrived()
            super().on_message_complete()

        def _await_request(self) -> None:
            self.deadline = self.loop.call_later(2 * limits.max_read_seconds, self.transport.close)

        def _arrived(self) -> None:
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None

    return Impatient
