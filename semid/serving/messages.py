"""What clients send and what they get, as values that check themselves. Field texts are the API's documentation.

Types are strict ("10" is not a number) and unknown fields are refused. Sizes are checked against `Limits` in `service`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from semid.data.events import EARLIEST
from semid.serving.contract import LAST_SECOND, utc_seconds


def _as_text(value: Any) -> Any:
    """Ids that are whole numbers in the shop's database are their decimal text here, as in the tables that semid reads."""
    return str(value) if type(value) is int and abs(value) < 2**63 else value


Id = Annotated[str, StringConstraints(min_length=1), BeforeValidator(_as_text)]
"""As long as the tables that semid reads have it: the body of a request is limited as a whole."""

Key = Annotated[Id, StringConstraints(max_length=512)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


def _as_second(value: Any) -> Any:
    """Times may be ISO text, as in the tables that semid reads."""
    try:
        return utc_seconds(value) if isinstance(value, str) and not value.isdigit() else value
    except ValueError:
        return value


Second = Annotated[int, Field(ge=0, le=LAST_SECOND), BeforeValidator(_as_second)]
EventSecond = Annotated[int, Field(ge=EARLIEST, le=LAST_SECOND), BeforeValidator(_as_second)]
"""No event is acknowledged that `semid train` would refuse."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


# Sent ---------------------------------------------------------------------------------------------------------------------


class Rules(Message):
    """What to do with the list after it was found. The defaults change nothing."""

    debias: Share = Field(default=0.0, description="popular items lose up to so much of the spread of the scores")
    freshness: Share = Field(default=0.0, description="new items gain up to so much of the spread of the scores")
    fresh_column: str | None = Field(default=None, description="column with the date of an item")
    half_life: float = Field(default=30.0, gt=0, le=100_000, allow_inf_nan=False, description="days after which freshness is half gone")
    diversity: Share = Field(default=0.0, description="0 ranks by score alone, 1 by being unlike the items above")
    diversity_by: Literal["codes", "content"] = "codes"
    caps: dict[str, Annotated[int, Field(ge=1, le=10_000)]] = Field(default={}, description="{column: items that may share a value of it}")


class Ask(Message):
    """What should be shown next? Either `user` or `history`."""

    user: Id | None = Field(default=None, description="a user of the training data or of earlier events; an unknown one is somebody new")
    history: list[Id] | None = Field(default=None, description="item ids, oldest first, of anybody; may be empty")
    times: list[Second] | None = Field(default=None, description="when each item of `history` was taken: UTC seconds, or ISO 8601")
    k: int = Field(default=10, description="how many items")
    where: str | None = Field(default=None, description="condition over the catalogue's columns, such as: category = 'x' and price < 20")
    exclude: list[Id] = Field(default=[], description="item ids that are never shown")
    include_only: list[Id] | None = Field(default=None, description="the only item ids that may be shown")
    seen: Literal["auto", "keep", "remove"] = Field(
        default="auto", description="whether items of the history may come again; auto: only where users take items again")
    beams: int | None = Field(default=None, description="width of the search; wider is slower and finds better lists")
    explain: bool = Field(default=False, description="say why each item is there")
    rules: Rules = Rules()


class Happened(Message):
    """One thing a user did."""

    key: Key = Field(description="your own name of this event, such as the number of an order line; sent again it counts once")
    user: Id
    item_id: Id
    time: EventSecond | None = Field(default=None, description="UTC seconds, from 1990 on, or ISO 8601 such as 2026-11-30T10:00:00+01:00; "
                                                               "now if left away")
    action: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(default=None, description="such as view or buy")
    value: Annotated[float, Field(allow_inf_nan=False)] | None = Field(default=None, description="such as a rating or a price")
    trace_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, description="trace_id of the recommendation that showed the item, for learning from it")


class Events(Message):
    """Events to store: all of them or none."""

    events: list[Happened] = Field(min_length=1)


class Items(Message):
    """Items with their columns, named as in the items table that the run was trained with."""

    items: list[dict[str, Any]] = Field(min_length=1)


class Ids(Message):
    item_ids: list[Id] = Field(min_length=1)


# Answered -----------------------------------------------------------------------------------------------------------------


class Step(BaseModel):
    """One level of the code tree on the way to an item."""

    code: int
    probability: float = Field(description="of this code among its siblings")
    rank: int = Field(description="1 = the likeliest sibling")
    siblings: int
    items: int = Field(description="items below")
    titles: list[str] = Field(description="the best known of them")


class Mattered(BaseModel):
    """An item of the history: the score with it minus the score without it."""

    item_id: str
    title: str
    position: int = Field(description="in the history, 0 = the oldest")
    effect: float


class Near(BaseModel):
    item_id: str
    title: str
    score: float


class Why(BaseModel):
    """Why an item is recommended to this user."""

    item_id: str
    title: str
    score: float
    scale: str
    rank: int | None = Field(description="in the list for this history, 1 = best; nothing where it is far down")
    path: list[Step]
    history: list[Mattered] = Field(description="strongest effect first")
    content: list[Near] = Field(description="items nearest by content")
    together: list[Near] = Field(description="items nearest by who took both")
    note: str


class Recommended(BaseModel):
    item_id: str
    title: str
    score: float
    why: Why | None = None


class Recommendations(BaseModel):
    """A list, best first. `trace_id` names it: send it with the events that come of it."""

    trace_id: str
    user: str | None
    items: list[Recommended]
    scale: str = Field(description="unit of the scores")
    left: int = Field(description="items that the rules admit; fewer than k: the list is short")
    cost: dict[str, float] = Field(description="mean score given up for each rule")
    history_length: int = Field(description="items that were read")
    note: str = Field(description="what a person should know, or nothing")
    version: int = Field(description="of catalogue and model")


class Stored(BaseModel):
    """Everything is on disk. stored + known = events sent."""

    trace_id: str
    stored: int
    known: int = Field(description="events whose key had been sent before")
    unknown_items: list[str] = Field(description="items the catalogue doesn't hold (at most 20 shown); their events count once "
                                                 "they are added")


class Similar(BaseModel):
    trace_id: str
    item_id: str
    items: list[Near]


class Explained(BaseModel):
    trace_id: str
    why: Why


class Changed(BaseModel):
    """The catalogue or the model after a change; every answer from now on is made with it."""

    trace_id: str
    kind: Literal["add", "update", "remove", "restore", "reload"]
    count: int
    items: int
    version: int


class State(BaseModel):
    status: Literal["ok", "ready", "draining"]
    version: int | None = None
    items: int | None = None


class Error(BaseModel):
    """What went wrong: what, wanted, got, fix."""

    error: str
    trace_id: str
