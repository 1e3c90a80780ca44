"""Which column holds what: guessed by the names that are usual in this field, never silently.

A role's names come in tiers: the first tier with a match decides, two matches inside one tier are an error.
So `unixReviewTime` is preferred to `reviewTime` and `parent_asin` to `asin`, but `user_id` beside `customer_id` is asked back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from semid.errors import DataError, did_you_mean

USER = (("userid", "user", "uid", "customerid", "customer", "reviewerid", "visitorid", "clientid", "memberid", "accountid",
         "buyerid", "shopperid", "profileid", "personid"), ("sessionid", "session"))
ITEM = (("itemid", "item", "iid", "movieid", "productid", "sku", "parentasin", "articleid", "bookid", "videoid", "songid",
         "trackid", "artistid", "newsid", "gameid", "businessid", "venueid", "poiid", "recipeid", "goodsid", "contentid",
         "stockcode", "itemcode", "productcode"),
        ("asin", "isbn", "product", "movie", "video"))
EVENT_ROLES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "user": USER,
    "item": ITEM,
    "time": (("timestamp", "ts", "unixreviewtime", "unixtimestamp", "unixtime", "eventtime", "eventtimestamp", "timestampms"),
             ("time", "datetime", "createdat", "utctime", "orderedat", "purchasedat", "viewedat", "clickedat", "watchedat", "playedat",
              "ratedat", "occurredat"),
             ("date", "reviewtime", "day", "orderdate", "purchasedate", "transactiondate", "invoicedate", "eventdate", "tdat")),
    "position": (("position", "sequencenumber", "sequenceno", "seqno"),),
    "action": (("action", "actiontype", "event", "eventtype", "behavior", "behaviour", "behaviortype", "behaviourtype"),),
    "value": (("rating", "overall", "stars"), ("value", "score")),
    "split": (("split",),),
}
"""Roles of an events table, each with its tiers of names (lower case, letters and digits only)."""

ITEM_ROLES: Mapping[str, tuple[tuple[str, ...], ...]] = {"item": (*ITEM, ("id",))}
"""Roles of an items table."""

_ID_NAME = re.compile(r"(^|_)(g|s|i|u)?(ids?|uuid|asin|isbn|sku|ean|upc|url|uri|href)$|[a-z](Id|ID|Url|URL)s?$", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """role -> column name, which roles were guessed, and what else a guess could have meant (for the report)."""

    chosen: dict[str, str]
    guessed: tuple[str, ...]
    notes: tuple[str, ...] = ()


def guess(columns: Sequence[str], given: Mapping[str, str | None], roles: Mapping[str, tuple[tuple[str, ...], ...]],
          where: str, flags: Mapping[str, str] | None = None) -> Columns:
    """Return the column of each role.

    given: role -> column name, "" (there is no such column) or None (guess); flags: role -> option that decides it.
    Raises `DataError` for a name that is not there and for a guess with two answers.

    >>> guess(["userId", "asin", "ts"], {}, EVENT_ROLES, "log.csv").chosen
    {'user': 'userId', 'item': 'asin', 'time': 'ts'}
    """
    flags = flags or {}
    plain = {column: re.sub(r"[^a-z0-9]", "", column.lower()) for column in columns}
    chosen: dict[str, str] = {}
    guessed, notes = [], []
    for role, tiers in roles.items():
        flag = flags.get(role, role)
        name = given.get(role)
        if name is not None:
            if name and name not in plain:
                raise DataError(f"{where}: no column {name!r} for --{flag.replace('_', '-')}{did_you_mean(name, columns)}; "
                                f"the columns are: {listed(columns)}")
            if name:
                chosen[role] = name
            continue
        found = [[column for column in columns if plain[column] in tier and column not in given.values()] for tier in tiers]
        best = next((tier for tier in found if tier), [])
        if len(best) > 1:
            raise DataError(f"{where}: {listed(best)} could each be the {role} column; say which with "
                            f"--{flag.replace('_', '-')} {best[0]} ({flag}={best[0]!r})")
        if best:
            chosen[role] = best[0]
            guessed.append(flag)
            others = [column for tier in found for column in tier if column != best[0]]
            if others:
                notes.append(f"{where}: {best[0]!r} taken as the {role} column, not {listed(others)}; "
                             f"--{flag.replace('_', '-')} decides otherwise")
    _refuse_shared(chosen, where)
    return Columns(chosen, tuple(guessed), tuple(notes))


def _refuse_shared(chosen: Mapping[str, str], where: str) -> None:
    roles: dict[str, list[str]] = {}
    for role, column in chosen.items():
        roles.setdefault(column, []).append(role)
    for column, several in roles.items():
        if len(several) > 1:
            raise DataError(f"{where}: column {column!r} is given for {' and '.join(several)}; want one column a role")


def require(columns: Columns, role: str, names: Iterable[str], where: str, flag: str | None = None) -> str:
    """Return the column of a role that must be there, or raise `DataError` that lists the columns and the option."""
    if role in columns.chosen:
        return columns.chosen[role]
    flag = (flag or role).replace("_", "-")
    raise DataError(f"{where}: no {role} column found among {listed(names)}; name it with --{flag} COLUMN")


def is_identifier(column: str) -> bool:
    """Whether a column's name says that it holds ids, codes or addresses: such strings are no text for an encoder.

    >>> [is_identifier(name) for name in ("imdb_id", "letter_sid", "imUrl", "title", "paid")]
    [True, True, True, False, False]
    """
    return _ID_NAME.search(column) is not None


def listed(names: Iterable[str], limit: int = 20) -> str:
    """Return names quoted and joined, the first `limit` of them."""
    names = list(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + rest
