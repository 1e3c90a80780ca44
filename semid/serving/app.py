"""The HTTP application: routes, and how mistakes become answers. What the routes do is in `service`, what they pass first in `gate`.

| status | meaning                                                                                 |
|--------|-----------------------------------------------------------------------------------------|
| 401    | no key or a wrong one; 403: another host name without a key                             |
| 404    | no such path or item; 405: no such method                                               |
| 408    | the request arrived too slowly; 413: it is too large                                    |
| 409    | the key of an event names another event; a command changed the run: POST /reload first  |
| 422    | the request cannot be answered as it is; the sentence says what to change               |
| 429    | too many requests: send it again after Retry-After seconds                              |
| 503    | the store or the run folder cannot be read or written; 504: no answer in time           |
"""

from __future__ import annotations

import reprlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from semid.errors import RunError, SemidError, UnknownId, did_you_mean
from semid.serving import messages
from semid.serving.documentation import openapi, page
from semid.serving.gate import Gate
from semid.serving.histories import KeyConflict, StoreBusy, StoreError
from semid.serving.journal import ChangedMeanwhile
from semid.serving.messages import Ask, Error, Events, Id, Ids, Items
from semid.serving.page import pages
from semid.serving.security import Guard
from semid.serving.service import SHOWN, By, Service

MISTAKES = {400: "unreadable", 401: "no key", 403: "another host", 408: "too slow", 413: "too large", 422: "cannot be answered as it is",
            429: "too many requests", 503: "the store or the run folder fails", 504: "no answer in time"}
RESPONSES: dict[int | str, dict] = {status: {"model": Error, "description": text} for status, text in MISTAKES.items()}
NOT_FOUND: dict[int | str, dict] = {404: {"model": Error, "description": "no such item"}}
CONFLICT: dict[int | str, dict] = {409: {"model": Error, "description": "the key names another event"}}
OUTDATED: dict[int | str, dict] = {409: {"model": Error, "description": "a command changed the run folder; POST /reload, then repeat this"}}


def create_app(service: Service, guard: Guard) -> FastAPI:
    """Return the application: the API, its description at `/docs`, the page at `/`. All of them pass the same gate."""
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="semid", version=version("semid"), lifespan=lifespan, docs_url=None, redoc_url=None, responses=RESPONSES,
                  description="Recommendations from a trained run. Every answer carries a trace id.")
    app.add_middleware(Gate, limits=service.limits, guard=guard, metrics=service.metrics, room=service.room)
    for add_routes in (questions, changes, operations):
        add_routes(app, service)
    app.add_exception_handler(SemidError, _mistake)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(UnicodeEncodeError, _half_a_character)
    app.openapi = lambda: openapi(app, service)

    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(page(app.openapi(), str(request.base_url).rstrip("/")))

    app.add_api_route("/docs", docs, include_in_schema=False)
    pages(app, service)
    return app


def questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", summary="What should be shown next?")
    async def recommend(ask: Ask, request: Request) -> messages.Recommendations:
        return await service.recommend(ask, request.state.trace)

    @app.get("/items/{item_id:path}/similar", summary="Items near an item", responses=NOT_FOUND)
    async def similar(item_id: Id, request: Request, k: int = 10, by: By = "content") -> messages.Similar:
        return messages.Similar(trace_id=request.state.trace, item_id=item_id, items=await service.similar(item_id, k, by))

    @app.get("/explain", summary="Why is this item recommended?", responses=NOT_FOUND)
    async def explain(item: Id, request: Request, user: Id | None = None,
                      history: Annotated[list[Id] | None, Query(description="repeat it for each item, oldest first")] = None,
                      times: Annotated[list[messages.Second] | None, Query(
                          description="when each item of `history` was taken: UTC seconds, or ISO 8601")] = None
                      ) -> messages.Explained:
        reason = await service.explain(Ask(user=user, history=history, times=times), item)
        return messages.Explained(trace_id=request.state.trace, why=reason)


def changes(app: FastAPI, service: Service) -> None:
    @app.post("/events", summary="Store what users did", responses=CONFLICT)
    async def events(body: Events, request: Request) -> messages.Stored:
        new, unknown = await service.append(body.events)
        return messages.Stored(trace_id=request.state.trace, stored=sum(new), known=len(new) - sum(new), unknown_items=unknown[:SHOWN])

    @app.post("/items", summary="Add new items", responses=OUTDATED)
    async def add(body: Items, request: Request) -> messages.Changed:
        return _changed(await service.add(body.items), request)

    @app.patch("/items", summary="Change columns of items", responses=OUTDATED)
    async def update(body: Items, request: Request) -> messages.Changed:
        return _changed(await service.update(body.items), request)

    @app.post("/items/remove", summary="Take items out of the catalogue", responses=OUTDATED)
    async def remove(body: Ids, request: Request) -> messages.Changed:
        return _changed(await service.remove(body.item_ids), request)

    @app.post("/items/restore", summary="Show removed items again", responses=OUTDATED)
    async def restore(body: Ids, request: Request) -> messages.Changed:
        return _changed(await service.restore(body.item_ids), request)

    @app.post("/reload", summary="Read the run folder again, as it is now, and answer from it")
    async def reload(request: Request) -> messages.Changed:
        await service.reload()
        snapshot = service.engine.snapshot
        return messages.Changed(trace_id=request.state.trace, kind="reload", count=0, items=snapshot.num_alive,
                                version=snapshot.version)


def operations(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Is the process alive? Needs no key")
    async def health() -> messages.State:
        return messages.State(status="ok")

    @app.get("/ready", summary="Should traffic be sent here?",
             responses={503: {"model": messages.State, "description": "it ends soon"}})
    async def ready() -> JSONResponse:
        snapshot = service.engine.snapshot
        state = messages.State(status="draining" if service.is_draining else "ready", version=snapshot.version,
                               items=snapshot.num_alive)
        return JSONResponse(state.model_dump(), 503 if service.is_draining else 200)

    @app.get("/metrics", summary="Numbers for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _changed(change, request: Request) -> messages.Changed:
    return messages.Changed(trace_id=request.state.trace, kind=change.kind, count=change.count, items=change.items, version=change.version)


# Mistakes -----------------------------------------------------------------------------------------------------------------


def error(request: Request, status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": message, "trace_id": request.state.trace}, status, headers)


async def _mistake(request: Request, mistake: Exception) -> JSONResponse:
    by_kind = {KeyConflict: 409, ChangedMeanwhile: 409, StoreBusy: 429, StoreError: 503, RunError: 503}
    status = by_kind.get(type(mistake), 422)
    if isinstance(mistake, UnknownId) and request.method == "GET":
        status = 404
    return error(request, status, str(mistake).removeprefix("--"))  # the library names `where` as the command line does


async def _half_a_character(request: Request, mistake: Exception) -> JSONResponse:
    """JSON may escape one half of a pair of surrogates, which is no text: nothing can store or compare it."""
    return error(request, 422, "the body: want text, got an escaped half of a character (\\ud800 to \\udfff); send the other half too")


async def _refused(request: Request, refused: Exception) -> JSONResponse:
    assert isinstance(refused, HTTPException)
    path = request.url.path
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    if refused.status_code == 404:
        near = did_you_mean(path[:100], [route.path for route in routes])
        return error(request, 404, f"no such path: {path[:100]}{near}; GET /docs lists them")
    if refused.status_code == 405:
        known = sorted(method for route in routes if route.path_regex.match(path) for method in route.methods or ())
        return error(request, 405, f"{request.method} {path[:100]}: want {' or '.join(known)}; GET /docs lists what there is")
    if refused.status_code == 400:
        return error(request, 422, "the body: want JSON in UTF-8 that is not nested deeply and has no endless numbers")
    return error(request, refused.status_code, str(refused.detail))


async def _malformed(request: Request, malformed: Exception) -> JSONResponse:
    """Say the first few things that are wrong, each as: where, wanted, got."""
    assert isinstance(malformed, RequestValidationError)
    found = malformed.errors()
    said = "; ".join(_sentence(each) for each in found[:3])
    return error(request, 422, said + (f"; and {len(found) - 3} more" if len(found) > 3 else ""))


PARTS = {"rules": messages.Rules, "events": messages.Happened}
"""Bodies inside bodies."""


def _sentence(found: dict) -> str:
    place = [str(part) for part in found["loc"][1:]]
    where = ".".join(place) if place else "the body"
    given = found.get("input")
    got = reprlib.repr(given.decode(errors="replace") if isinstance(given, bytes) else given)
    if found["type"] == "json_invalid":
        return f"the body: want JSON, got an error at character {found['loc'][-1]}: {found['ctx']['error']}"
    if found["type"] == "extra_forbidden":
        models = [PARTS[place[0]]] if len(place) > 1 else [Ask, Events, Items, Ids]
        return f"{where}: unknown field{did_you_mean(place[-1][:100], [name for model in models for name in model.model_fields])}"
    if found["type"] == "missing":
        return f"{where}: missing" if place else "the body: want a JSON object with the header Content-Type: application/json, got nothing"
    if not place:
        plain = isinstance(given, bytes)  # with another type the body isn't read as JSON
        return f"the body: want a JSON object with the header Content-Type: application/json, got {got}{' without it' if plain else ''}"
    return f"{where}: {found['msg'][:1].lower()}{found['msg'][1:]}, got {got}"
