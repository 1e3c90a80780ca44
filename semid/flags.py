"""The command line's flags that several verbs share, as values, and what they mean to the library."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from semid.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from semid.data.read import Dataset
    from semid.serving.contract import Rules
    from semid.types import Protocol

Column = Annotated[str | None, arg(metavar="COLUMN", help_behavior_hint="(default: guessed by name)")]
Settings = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE")]
SettingsOfOne = Annotated[tuple[str, ...], arg(metavar="RECIPE.NAME=VALUE")]
Device = Annotated[str, arg(metavar="auto|cpu|cuda")]
Events = Annotated[str, arg(metavar="EVENTS|DIR")]
ListRules = Annotated[tuple[str, ...], arg(metavar="NAME=VALUE", help_behavior_hint="(repeatable)")]
EarlierEvents = Annotated[str | None, arg(metavar="EVENTS|DIR")]
Id = Annotated[str | None, arg(metavar="ID")]
Moment = Annotated[str | None, arg(metavar="now|TIME", help_behavior_hint="(default: when the run's data end)")]
Items = Annotated[str | None, arg(metavar="ITEM,ITEM,...")]


@dataclass(frozen=True)
class Reading:
    """How to read the tables; `semid data check` shows what was guessed."""

    items: Annotated[str | None, arg(metavar="ITEMS", help_behavior_hint="(default: items.* in DIR, if any)")] = None
    """table of items: ids, titles, attributes"""
    user: Column = None
    """column with user ids"""
    item: Column = None
    """column with item ids"""
    time: Column = None
    """column with times: seconds, milliseconds, dates or ISO 8601"""
    position: Column = None
    """column with the place of an event in its user's history; wins over the time"""
    action: Column = None
    """column with the kind of event"""
    actions: Annotated[str | None, arg(metavar="KIND,KIND,...", help_behavior_hint="(default: all)")] = None
    """kinds of events to read, such as buy; the others are left out"""
    value: Column = None
    """column with a rating or amount"""
    split_column: Column = None
    """column with train, valid or test"""
    item_id: Column = None
    """id column of the items table"""
    text: Annotated[tuple[str, ...], arg(metavar="COLUMN", help_behavior_hint="(repeatable; default: all text)")] = ()
    """column of the items table that a text encoder reads"""
    view: Annotated[tuple[str, ...], arg(metavar="NAME=FILE.npy")] = ()
    """vectors of the items, one row an item"""
    order: Literal["time", "file"] = "time"
    """file: the rows stand in the order of time already"""
    on_bad_rows: Literal["fail", "drop"] = "fail"
    """drop: leave bad rows out, and say so"""
    duplicates: Literal["keep", "exact", "first", "last", "error"] = "keep"
    """what to do with repeated (user, item) pairs; exact: keep one of those that are alike in all"""
    unknown_items: Literal["keep", "drop"] = "keep"
    """drop: leave out events of items that the items table doesn't hold, so that these are never recommended"""
    user_core: int = 0
    """users with fewer events leave (repeated with --item-core until none does)"""
    item_core: int = 0
    """items with fewer events leave"""
    min_events: int = 0
    """users with fewer events leave, once, at the end"""

    def read(self, events: str) -> Dataset:
        """Read the tables as the flags say."""
        from semid.data.read import read

        return read(events, self.items, user=self.user, item=self.item, time=self.time, position=self.position,
                    action=self.action, value=self.value, split=self.split_column,
                    actions=None if self.actions is None else listed(self.actions), item_id=self.item_id,
                    text=self.text or None, views=vectors(self.view), order=self.order,
                    on_bad_rows=self.on_bad_rows, duplicates=self.duplicates, unknown_items=self.unknown_items,
                    user_core=self.user_core,
                    item_core=self.item_core, min_events=self.min_events)


@dataclass(frozen=True)
class Splitting:
    """What trains, what is asked, and what a model may see. Numbers are comparable only under one protocol."""

    split: Literal["leave_one_out", "time", "column", "cold_items", "cold_users"] = "leave_one_out"
    """leave_one_out: the last event is the test, the one before validation; time: a global cut; column: --split-column"""
    max_history: int = 50
    """last events of a history that a model sees"""
    seen: Literal["keep", "remove"] = "keep"
    """whether validation ranks items of the history too (test is always measured both ways)"""
    shuffle_ties: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="(default: the order of the source)")] = None
    """seed of a random order among a user's events of equal time"""
    valid_from: float = 0.8
    """--split time: quantile of the times where validation begins"""
    test_from: float = 0.9
    """--split time: quantile of the times where the test begins"""
    held_out: float = 0.1
    """--split cold_items or cold_users: share that never trains"""
    split_seed: int = 0
    """--split cold_items or cold_users: which ones"""
    min_history: int = 1
    """cases with a shorter history are not asked"""

    def protocol(self) -> Protocol:
        """Return the library's value. Raises `ConfigError` for numbers out of range and for those that the split doesn't read."""
        from semid.types import Protocol

        found = Protocol(split=self.split, max_history=self.max_history, seen=self.seen, shuffle_ties=self.shuffle_ties,
                         valid_from=self.valid_from, test_from=self.test_from, held_out=self.held_out, seed=self.split_seed,
                         min_history=self.min_history)
        _want_read(found, {name: flag for name, flag in SPLIT_FLAGS.items() if getattr(found, name) != getattr(Protocol, name)})
        return found


SPLIT_FLAGS = {"valid_from": "--valid-from", "test_from": "--test-from", "held_out": "--held-out", "seed": "--split-seed"}
"""Fields of a protocol that some splits alone read."""

AS_GUESSED = Reading()
LEAVE_ONE_OUT = Splitting()


def typed(*groups: Reading | Splitting) -> str:
    """Return the flags that give these values, with a space before each: what was said of tables whose columns nobody can guess has to
    be said in the next command too."""
    words = []
    for group in groups:
        for field in fields(group):
            value = getattr(group, field.name)
            if value != field.default:
                for one in value if isinstance(value, tuple) else (value,):
                    words += ["--" + field.name.replace("_", "-"), shlex.quote(str(one))]
    return "".join(f" {word}" for word in words)


def settings(pairs: Sequence[str]) -> dict[str, object]:
    """Return {"epochs": "10"} from ["epochs=10"]."""
    return dict(_pair(each, "--set", "NAME=VALUE, such as epochs=10") for each in pairs)


def protocol(text: str, own: Protocol) -> Protocol:
    """Return a run's `own` protocol with what `text` changes: "time,test_from=0.95" is a split and a setting of it.

    Raises `ConfigError` for an unknown name, a wrong type or a number out of range.
    """
    from semid.config import override

    parts = listed(text)
    if parts and "=" not in parts[0]:
        parts[0] = f"split={parts[0]}"
    pairs = dict(_pair(each, "--protocol", "SPLIT,NAME=VALUE,... such as time,test_from=0.95") for each in parts)
    found = override(own, pairs)
    _want_read(found, {name: f"--protocol {name}" for name in pairs})
    return found


def rules(pairs: Sequence[str]) -> Rules:
    """Return the rules of a list from ["diversity=0.3", "caps.brand=2"]: `Rules`, with a column's cap under "caps.".

    Raises `ConfigError` for an unknown name and a wrong type.
    """
    from semid.config import override
    from semid.serving.contract import Rules

    given: dict[str, object] = {}
    caps: dict[str, str] = {}
    for name, value in (_pair(each, "--rule", "NAME=VALUE, such as diversity=0.3 or caps.brand=2") for each in pairs):
        if name.startswith("caps."):
            caps[name.removeprefix("caps.")] = value
        else:
            given[name] = value
    return override(Rules(), {**given, "caps": caps} if caps else given)


def _want_read(protocol: Protocol, given: Mapping[str, str]) -> None:
    """Raise `ConfigError` for a field that was given and that the split doesn't read. given: {field: how it was said}."""
    for name in protocol.unread:
        if name in given:
            reads = "time" if name in ("valid_from", "test_from") else "cold_items or cold_users"
            raise ConfigError(f"{given[name]}: want --split {reads}, which reads it, got {protocol.split}; choose that split, or leave it "
                              "out")


def settings_by_recipe(pairs: Sequence[str], recipes: Sequence[str]) -> Mapping[str, dict[str, object]]:
    """Return {"sasrec": {"epochs": "10"}} from ["sasrec.epochs=10"]. Raises `ConfigError` for a recipe not among `recipes`."""
    found: dict[str, dict[str, object]] = {}
    for path, value in settings(pairs).items():
        recipe, dot, name = path.partition(".")
        if recipe not in recipes or not dot:
            near = "" if recipe in recipes else did_you_mean(recipe, recipes)
            raise ConfigError(f"--set {path}: want RECIPE.NAME=VALUE with a recipe of this comparison, got {recipe!r}{near}; "
                              f"it has: {', '.join(dict.fromkeys(recipes))}")
        found.setdefault(recipe, {})[name] = value
    return found


def vectors(pairs: Sequence[str]) -> dict[str, str] | None:
    """Return {"text": "file.npy"} from ["text=file.npy"], None from nothing."""
    return dict(_pair(each, "--view", "NAME=FILE.npy") for each in pairs) or None


def listed(text: str | None) -> list[str]:
    """Return the ids between commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _pair(text: str, flag: str, shape: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"{flag} {text!r}: want {shape}")
    return name, value


def moment(text: str | None, otherwise: int | None) -> int | None:
    """Return UTC seconds of `--at`: `otherwise` without it, None for now. Raises `ConfigError` for what is no time.

    >>> moment("2026-11-30", None), moment("1796000000", None), moment("now", 5), moment(None, 5)
    (1795996800, 1796000000, None, 5)
    """
    if text is None or text == "now":
        return otherwise if text is None else None
    from semid.serving.contract import LAST_SECOND, utc_seconds

    try:
        if not text.removeprefix("-").isdigit():
            return utc_seconds(text)
        if len(text) != 8 and abs(int(text)) <= LAST_SECOND:  # 20261130 is a day, or a second of 1970
            return int(text)
        raise ValueError
    except ValueError:
        raise ConfigError(f"--at: want now, a time such as 2026-11-30 or 2026-11-30T10:00:00+01:00, or UTC seconds, got {text!r}") from None
