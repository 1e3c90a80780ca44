"""What every request passes before any route sees it, and every answer on its way out.

In this order: a trace id; the key (all but /health); the rate of the address; how many requests are under way; size and time of
the body. A request refused here costs a fraction of one that is answered; while the room is full `connection` turns requests away
even before. On the way out: the wall time, the trace id as a header, one line in the log, the metrics.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Mapping

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semid.serving.limits import Limits, Rate, Room
from semid.serving.logs import FIELDS
from semid.serving.metrics import Metrics
from semid.serving.security import Guard, is_foreign

log = logging.getLogger("semid.serving")

OPEN = "/health"
"""The one path that needs no key."""

WATCHING = frozenset({"/health", "/ready", "/metrics"})
"""Paths that a flooded server still answers."""

ALWAYS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"), (b"referrer-policy", b"no-referrer")]


def busy(room: Room) -> str:
    return f"the server is busy: {room.taken:,} requests are under way; send this again in a second"


class Refusal(Exception):
    """An answer without work. reason: a word for the metrics."""

    def __init__(self, status: int, message: str, reason: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.reason, self.headers = status, message, reason, headers or {}


class Gate:
    """An ASGI application around another. `state.trace` of a request is its trace id; errors are {"error", "trace_id"}."""

    def __init__(self, app: ASGIApp, *, limits: Limits, guard: Guard, metrics: Metrics, room: Room):
        self.app, self.limits, self.guard, self.metrics, self.room = app, limits, guard, metrics, room
        self._rate = Rate(limits.max_rate)
        self._refused, self._told = 0, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no websockets here
            await send({"type": "websocket.close", "code": 1008})
            return
        answer = Outgoing(send, uuid.uuid4().hex)
        scope.setdefault("state", {})["trace"] = answer.trace
        started = time.perf_counter()
        try:
            self._admit(scope)
            body = await self._body(scope, receive)
            await self._pass(scope, receive, body, answer)
        except Refusal as refusal:
            self.metrics.refused.labels(refusal.reason).inc()
            await answer.error(refusal.status, refusal.message, refusal.headers)
        except Exception:
            log.exception("a request failed", extra={FIELDS: {"trace": answer.trace}})
            if not answer.has_begun:
                await answer.error(500, f"a defect of the server; its log has the details under trace id {answer.trace}")
        finally:
            self._tell(scope, answer, time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if path == OPEN:
            return
        headers = dict(scope["headers"])
        if refused := self.guard.refuses(headers):
            status, message = refused
            raise Refusal(status, message, "key" if status == 401 else "host",
                          {"WWW-Authenticate": 'Bearer, Basic realm="semid"'} if status == 401 else None)
        if is_foreign(scope["method"], headers):
            raise Refusal(403, "a page of another site sent this; changes are taken from programs and from this server's own page", "site")
        if path in WATCHING:
            return
        if not self._rate.allows(scope["client"][0] if scope.get("client") else ""):
            raise Refusal(429, f"more than {self.limits.max_rate:g} requests a second come from this address; send fewer", "rate",
                          {"Retry-After": "1"})
        self._check_room()

    def _check_room(self) -> None:
        if self.room.refuses():
            raise Refusal(429, busy(self.room), "busy", {"Retry-After": "1"})

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body, so that a slow client takes no room among the requests under way."""
        most = self.limits.max_body
        too_large = Refusal(413, f"the body: want at most {most:,} bytes; send less, or in several requests", "body")
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and (len(length) > 18 or int(length) > most):
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            with anyio.fail_after(self.limits.max_read_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refusal(400, "the client went away", "gone")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self.limits.max_read_seconds:g} seconds; send it faster", "slow",
                          {"Connection": "close"}) from None

    async def _pass(self, scope: Scope, receive: Receive, body: bytes, answer: Outgoing) -> None:
        watching = scope["path"] in WATCHING
        if not watching:
            self._check_room()
            self.room.taken += 1
            self.metrics.under_way.set(self.room.taken)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        seconds = self.limits.max_seconds if _is_question(scope) else self.limits.max_change_seconds
        try:
            with anyio.fail_after(seconds):
                await self.app(scope, replay, answer.send)
        except TimeoutError:
            if answer.has_begun:
                raise
            what = "ask for less" if _is_question(scope) else "the change goes on; see /ready for its version"
            raise Refusal(504, f"no answer within {seconds:g} seconds; {what}, or send this again later", "time") from None
        finally:
            if not watching:
                self.room.taken -= 1
                self.metrics.under_way.set(self.room.taken)

    def _tell(self, scope: Scope, answer: Outgoing, seconds: float) -> None:
        """Count the request, and log it in one line. Refusals by the thousand share a line a second."""
        route = scope.get("route")
        template = route.path if route is not None else "none"
        self.metrics.requests.labels(template, answer.status).inc()
        if answer.status == 429:
            self._refused += 1
            if time.monotonic() - self._told < 1:
                return
            log.warning("refused", extra={FIELDS: {"status": 429, "requests": self._refused, "trace": answer.trace}})
            self._refused, self._told = 0, time.monotonic()
            return
        self.metrics.seconds.labels(template).observe(seconds)
        log.info("request", extra={FIELDS: {
            "trace": answer.trace, "method": scope["method"], "path": scope["path"], "status": answer.status,
            "milliseconds": round(1000 * seconds, 2), "client": scope["client"][0] if scope.get("client") else None}})


def _is_question(scope: Scope) -> bool:
    """Whether a request only asks; the others change the catalogue or the model, which may take longer."""
    return scope["method"] in ("GET", "HEAD", "OPTIONS") or scope["path"] in ("/recommend", "/events")


class Outgoing:
    """An answer on its way out. status: 0 until it begins."""

    def __init__(self, send: Send, trace: str):
        self._send, self.trace, self.status = send, trace, 0

    @property
    def has_begun(self) -> bool:
        return self.status != 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", []), *ALWAYS, (b"x-trace-id", self.trace.encode())]
        await self._send(message)

    async def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"error": message, "trace_id": self.trace}).encode()
        lines = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
        await self.send({"type": "http.response.start", "status": status,
                         "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()]})
        await self.send({"type": "http.response.body", "body": body})

