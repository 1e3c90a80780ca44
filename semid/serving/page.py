"""The page at `/`: pick a user or build a history, see what follows and why. Its whole state is its address.

Every view is made here from a template, whole; htmx puts the part that changed in place, so links, the back button and browsers
without scripts work alike. Nothing that is tried here is stored or logged as shown to a user.

Axes: k list length.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import QueryParams

from semid.errors import ConfigError, SemidError, did_you_mean
from semid.evaluation import charts
from semid.evaluation.wording import count, percent, plain, shorten
from semid.serving import contract, tree_view
from semid.serving.histories import StoreBusy, StoreError
from semid.serving.service import Past

if TYPE_CHECKING:
    from fastapi import FastAPI

    from semid.serving.engine import Engine
    from semid.serving.service import Service
    from semid.serving.snapshot import Snapshot

WEB = Path(__file__).with_name("web")
ASSETS = {"/page/htmx.js": (WEB / "htmx.min.js", "text/javascript"), "/page/page.js": (WEB / "page.js", "text/javascript"),
          "/page/filter.js": (WEB / "filter.js", "text/javascript"), "/page/page.css": (WEB / "page.css", "text/css"),
          "/page/report.css": (Path(charts.__file__).with_name("report.css"), "text/css")}
"""What the browser reads besides HTML. report.css: the colours and the tree, as in reports."""

POLICY = {"Content-Security-Policy": (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: https: http:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'")}
"""Scripts and styles of this server alone, none inside HTML; pictures from where the catalogue says."""

PICTURES = frozenset(["image", "image_url", "img", "imurl", "picture", "picture_url", "photo", "photo_url", "cover", "poster", "thumbnail"])
"""Names of a column with the address of an item's picture, in lower case."""

LONGEST_SEARCH = 512
MOST_SHOWN = 50
"""Items of a list on the page."""

FACTS, FOUND, RECENT = 4, 12, 12
"""Attributes on a card, matches of a search, items of a stored history that are shown."""

NAMES = ("user", "of", "h", "add", "drop", "k", "diversity", "beams", "where", "why", "q")


@dataclass(frozen=True)
class Wanted:
    """What the address asks for. user: whose history comes first, None = nobody's; added: item ids after it; why: an item to
    explain; q: words of titles that are searched."""

    user: str | None = None
    added: tuple[str, ...] = ()
    k: int = 10
    diversity: float = 0.0
    beams: int | None = None
    where: str | None = None
    why: str | None = None
    q: str = ""

    @classmethod
    def of(cls, query: QueryParams) -> Wanted:
        """Read an address. `add` comes after the items `h`, `drop` is a place in them; of a user other than `of` they are
        forgotten. Raises `ConfigError`."""
        if unknown := [name for name in query if name not in NAMES]:
            raise ConfigError(f"the address: unknown {unknown[0][:100]!r}{did_you_mean(unknown[0][:100], NAMES)}; "
                              f"it may hold {', '.join(NAMES)}")
        user = query.get("user", "").strip()
        added = [] if query.get("of", user) != user else [*query.getlist("h"), *filter(None, [query.get("add")])]
        if drop := query.get("drop"):
            if not added:
                raise ConfigError("drop: want a place among the items h, got an address without any; leave drop out")
            del added[_number("drop", drop, int, 0, len(added) - 1)]
        beams = query.get("beams")
        return cls(user=user or None, added=tuple(filter(None, added)), k=_number("k", query.get("k") or "10", int, 1, MOST_SHOWN),
                   diversity=_number("diversity", query.get("diversity") or "0", float, 0, 1),
                   beams=_number("beams", beams, int, 1, contract.MAX_BEAMS) if beams else None,
                   where=query.get("where", "").strip() or None, why=query.get("why") or None, q=query.get("q", "").strip())

    @property
    def address(self) -> str:
        """The shortest address that asks for the same."""
        pairs = [("user", self.user), *(("h", item) for item in self.added), ("k", self.k if self.k != 10 else None),
                 ("diversity", f"{self.diversity:g}" if self.diversity else None), ("beams", self.beams), ("where", self.where),
                 ("why", self.why), ("q", self.q or None)]
        return "/?" + urlencode([(name, value) for name, value in pairs if value is not None])


def _number(name: str, text: str, kind: Callable[[str], Any], low: int, high: int) -> Any:
    try:
        value = kind(text)
        if low <= value <= high:
            return value
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{name}: want a {'whole ' if kind is int else ''}number from {low:,} to {high:,}, got {text[:40]!r}")


@dataclass(frozen=True)
class Card:
    """An item to look at. facts: (column, value) of the first few attributes; picture: its address or nothing."""

    item_id: str
    title: str
    score: str
    picture: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Shown:
    """One run's list, or the reason why there is none."""

    name: str
    cards: tuple[Card, ...] = ()
    scale: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Board:
    """Everything below the controls. past: (id, title) of the user's stored history; added: of what was put after it."""

    past: tuple[tuple[str, str], ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    lists: tuple[Shown, ...] = ()
    why: contract.Explanation | None = None
    problem: str = ""
    tree: str = ""


class Page:
    """Makes the views of one service."""

    def __init__(self, service: Service):
        self._service = service
        self._columns: tuple[int, str] = (0, "")
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(WEB), autoescape=True, undefined=jinja2.StrictUndefined,
                                         trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {"count": count, "percent": percent, "plain": plain, "shorten": shorten, "signed": signed}
        self._whole = environment.get_template("page.html")
        self._parts: Any = environment.get_template("parts.html").module  # its macros are its attributes

    async def whole(self, query: QueryParams) -> Response:
        service, snapshot = self._service, self._service.engine.snapshot
        wanted, board, found = Wanted(), Board(), []
        try:
            wanted = Wanted.of(query)
            if snapshot.codes is not None and wanted.beams == snapshot.codes.beams:
                wanted = replace(wanted, beams=None)  # the slider where it stood
            board = await self._board(wanted)
            found = await self._found(wanted.q)
        except (StoreBusy, StoreError):
            raise
        except SemidError as mistake:
            board = Board(problem=sentence(mistake))
        codes = snapshot.codes
        users = snapshot.run.split.source.users.ids
        text = self._whole.render(
            wanted=wanted, board=board, found=found, name=name_of(service.engine), columns=await self._described(snapshot),
            items=snapshot.num_alive, some_users=[str(user) for user in users[:: max(1, len(users) // 4)][:4]],
            most_shown=min(MOST_SHOWN, service.limits.max_k), beams=None if codes is None else wanted.beams or codes.beams,
            most_beams=service.limits.max_beams, num_columns=len(snapshot.catalog.table.column_names))
        return HTMLResponse(text, 422 if board.problem else 200, {**POLICY, "HX-Push-Url": wanted.address})

    async def found(self, query: QueryParams) -> Response:
        """The items whose titles hold the words `q`."""
        return HTMLResponse(self._parts.found(await self._found(query.get("q", "").strip()), query.get("q", "").strip()), headers=POLICY)

    async def users(self, query: QueryParams) -> Response:
        """Known users whose ids begin with `user`, as completions of a field."""
        text, ids = query.get("user", "").strip(), self._service.engine.snapshot.run.split.source.users.ids
        some = await self._service.aside(lambda: list(islice((str(id_) for id_ in ids if str(id_).startswith(text)), 20)))
        return HTMLResponse(self._parts.options(some), headers=POLICY)

    async def tree(self, query: QueryParams) -> Response:
        """The part `under` of the code tree, with the items `lit` and `why` lit."""
        service = self._service
        try:
            lit = query.getlist("lit")
            service.limits.check_size("lit", lit, service.limits.max_k)
            under = tree_view.prefix(query.get("under", ""))
            view = await service.aside(lambda: tree_view.view(service.engine.snapshot, under, lit, query.get("why")))
        except SemidError as mistake:
            return HTMLResponse(self._parts.problem(sentence(mistake)), 422, POLICY)
        return HTMLResponse(self._parts.tree(view, query.get("why")), headers=POLICY)

    async def _board(self, wanted: Wanted) -> Board:
        service = self._service
        engine, limits = service.engine, service.limits
        service.check_list(limits.max_k, wanted.k, wanted.beams, wanted.where)
        past = await service.past_of(wanted.user) if wanted.user else Past((), None)
        service.check_items("history", wanted.added)
        history = (*past.items, *wanted.added)[-limits.max_history :]
        now = max([int(time.time()), *(past.times or ())[-1:]])  # clocks of others may be ahead
        times = None if past.times is None or not wanted.user else (*past.times, *(now for _ in wanted.added))[-limits.max_history :]
        request = contract.Request(history, times, unknown="skip", k=wanted.k, where=wanted.where, user=wanted.user,
                                   beams=wanted.beams)
        lists = [await self._shown(engine, request, wanted.diversity, service.answer)]
        if not past.is_known:
            lists[0] = replace(lists[0], notes=(f"user {str(wanted.user)[:100]!r} has no events yet", *lists[0].notes))
        if (beside := service.beside) is not None:
            async def ask(question: contract.Request) -> contract.Answer:
                answer = await service.aside(lambda: beside.recommend([question])[0])
                if answer.error is not None:
                    raise answer.error
                return answer

            lists.append(await self._shown(beside, request, wanted.diversity, ask))
        why = None
        if wanted.why:
            service.check_items("why", [wanted.why])
            item = wanted.why
            why = await service.aside(lambda: engine.explain(replace(request, where=None), item))
        titles = lambda ids: tuple((item, engine.item(item)["title"] if item in engine.snapshot.catalog.items else item) for item in ids)
        lit = [("lit", card.item_id) for card in lists[0].cards] + ([("why", wanted.why)] if wanted.why else [])
        return Board(titles(past.items), titles(wanted.added), tuple(lists), why,
                     tree=urlencode(lit) if engine.snapshot.codes is not None else "")

    async def _shown(self, engine: Engine, request: contract.Request, diversity: float, ask: Callable) -> Shown:
        """One run's list. A rule that this run can't apply is left out, and the notes say so."""
        snapshot, notes, rules = engine.snapshot, [], contract.Rules()
        if snapshot.codes is None and request.beams is not None:
            notes.append("ranks all items directly: beams change nothing here")
        if diversity and snapshot.codes is None and snapshot.content is None:
            notes.append("has neither codes nor content vectors: diversity is left out here")
        elif diversity:
            rules = contract.Rules(diversity=diversity, diversity_by="codes" if snapshot.codes is not None else "content")
        name = name_of(engine)
        try:
            answer = await ask(replace(request, rules=rules))
        except (StoreBusy, StoreError):
            raise
        except SemidError as mistake:
            return Shown(name, problem=sentence(mistake))
        notes += [f"{rule} gives up {plain(cost)} of the mean score" for rule, cost in answer.cost.items()]
        cards = tuple(card(engine, item, score) for item, score in zip(answer.item_ids, answer.scores, strict=True))
        return Shown(name, cards, answer.scale, (*filter(None, [answer.note]), *notes))

    async def _found(self, text: str) -> Sequence[contract.Neighbour]:
        self._service.limits.check_size("q", text, LONGEST_SEARCH)
        return await self._service.aside(lambda: self._service.engine.search(text, FOUND)) if text else []

    async def _described(self, snapshot: Snapshot) -> str:
        """The columns for the filter's completion, as JSON; worked out once a version."""
        if self._columns[0] != snapshot.version:
            columns = await self._service.aside(self._service.engine.columns)
            self._columns = snapshot.version, json.dumps([asdict(column) for column in columns], default=str)
        return self._columns[1]


def pages(app: FastAPI, service: Service) -> None:
    """Add the page's routes; they stand outside the API's description."""
    page = Page(service)
    views = {"/": page.whole, "/page/found": page.found, "/page/users": page.users, "/page/tree": page.tree}
    for path, view in views.items():
        app.add_api_route(path, _answering(view), include_in_schema=False)
    for path, (file, kind) in ASSETS.items():
        app.add_api_route(path, _sending(file, kind), include_in_schema=False)


def _answering(view: Callable) -> Callable:
    async def route(request: Request) -> Response:
        return await view(request.query_params)

    return route


def _sending(file: Path, kind: str) -> Callable:
    async def asset() -> Response:
        return Response(file.read_bytes(), media_type=kind, headers=POLICY)

    return asset


def card(engine: Engine, item_id: str, score: float) -> Card:
    """Return an item as the page shows it. Ids of other tables (columns in _id) say nothing to a person."""
    item = engine.item(item_id)
    facts, picture = [], ""
    for name, value in item["attributes"].items():
        if name.lower() in PICTURES:
            picture = picture or picture_of(value)
        elif value not in (None, [], "", item_id, item["title"]) and not name.lower().endswith("_id"):
            facts.append((name, _short(value)))
    return Card(item_id, item["title"], signed(score), picture, tuple(facts[:FACTS]))


def picture_of(value: object) -> str:
    """Return the address of a picture, nothing where the value is none; of a list, the first."""
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, str) and first.startswith(("https://", "http://", "data:image/")) else ""


def _short(value: object) -> str:
    if isinstance(value, list):
        return shorten(", ".join(map(str, value)), 60)
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else shorten(value, 60)


def signed(value: float) -> str:
    """Return a score with four significant digits."""
    return plain(value, 4)


def name_of(engine: Engine) -> str:
    """Return what the page calls a run."""
    run = engine.snapshot.run
    assert run.folder is not None
    return run.recipe if run.recipe == run.folder.name else f"{run.recipe} ({run.folder.name})"


def sentence(mistake: SemidError) -> str:
    """Return what went wrong; the library names `where` as the command line does."""
    return str(mistake).removeprefix("--")
