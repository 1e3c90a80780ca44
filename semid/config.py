"""Changing a recipe's configuration by name: every name is checked, every value has its declared type."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from semid.errors import ConfigError, SemidError, did_you_mean

ReadWhere = dict[tuple[Any, ...], tuple[str, ...]]
"""See `refuse_unread`."""

COUNTS = {"batch_size", "tokens", "max_tokens", "levels", "size", "latent", "digits", "width", "heads", "beams", "sampled", "session",
          "look_every", "max_history", "negatives", "accumulate"}
"""Settings that mean nothing below one, in whatever recipe."""


def override(config: Any, settings: Mapping[str, object]) -> Any:
    """Return a copy of a (nested) frozen dataclass, such as a recipe's `Config`, with `settings` such as
    {"epochs": 3, "optimization.clip": "1.0"}.

    Text (from a command line) is read as JSON, none, true or false where the default isn't text itself.
    Raises `ConfigError` for unknown names, with the nearest right one, and for values of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    values = dataclasses.asdict(config)
    for path, value in settings.items():
        _put(values, config, path, value)
    try:
        made = TypeAdapter(type(config)).validate_python(values, strict=False, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(own := first.get("ctx", {}).get("error"), SemidError):
            raise own from None
        where = ".".join(str(part) for part in first["loc"])
        fix = f", written as a list: --set '{where}=[...]'" if first["type"] == "tuple_type" else ""
        raise ConfigError(f"setting {where}={first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}{fix}; "
                          f"default: {_default(config, where)}") from None
    for path, value in settings_named(made, COUNTS):
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"setting {path}={value}: want at least 1; default: {_default(config, path)}")
    return made


def refuse_unread(config: Any, given: Collection[str], default: Any) -> None:
    """Raise `ConfigError` for a given setting (a path such as "sasrec.smoothing") that changes the default and that nothing reads, since
    others are as they are. A config or a group of it that is given whole is taken.

    A group's class says when in its `READ_WHERE`: {(switch, value, ...): names} are read only where the switch has one of the values and is
    read itself, and () are never read in this place. A name is that of a setting, of a group of them, or a path to one.
    """
    if {field.name for field in dataclasses.fields(config)} <= set(given):
        return
    for path in given:
        if dataclasses.is_dataclass(_at(config, path)) or _at(config, path) == _at(default, path):
            continue
        for switch, values in _conditions(config, path):
            if not switch:
                raise ConfigError(f"setting {path}: nothing in this recipe reads it; leave it out")
            if (value := _at(config, switch)) not in values:
                raise ConfigError(f"setting {path}: read only where {switch} is {_listed(values)}, here it is {_listed([value])}; "
                                  f"leave it out, or set {switch} too")


def read_where(config: Any, path: str) -> str:
    """Say where a setting is read, as "loss is softmax"; "" where always."""
    said = (f"{switch} is {_listed(values)}" if switch else "never" for switch, values in _conditions(config, path))
    return ", ".join(dict.fromkeys(said))


def _conditions(config: Any, path: str) -> Iterator[tuple[str, Sequence[object]]]:
    """Yield (path of a switch, its values) for all that must hold for a setting to be read; ("", ()) where nothing helps."""
    group, parts = config, path.split(".")
    for depth, part in enumerate(parts):
        names = {".".join(parts[depth:end]) for end in range(depth + 1, len(parts) + 1)}
        for condition, concerned in getattr(group, "READ_WHERE", {}).items():
            if names.intersection(concerned):
                if not condition:
                    yield "", ()
                    return
                switch = ".".join([*parts[:depth], condition[0]])
                yield switch, condition[1:]
                yield from _conditions(config, switch)
        group = getattr(group, part)


def _at(config: Any, path: str) -> object:
    return functools.reduce(getattr, path.split("."), config)


def _listed(values: Iterable[object]) -> str:
    return " or ".join(value if isinstance(value, str) else json.dumps(value) for value in values)


def settings_named(config: Any, names: Collection[str], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield (path, value) of the settings that have one of these names, in groups of settings too."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from settings_named(value, names, f"{prefix}{field.name}.")
        elif field.name in names:
            yield f"{prefix}{field.name}", value


def _put(values: dict, config: Any, path: str, value: object) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        _known(config, name, path)
        values, config = values[name], getattr(config, name)
        if not dataclasses.is_dataclass(config):
            raise ConfigError(f"setting {path}: {name} is a single value, not a group; set it as {name}=...")
    _known(config, leaf, path)
    if isinstance(value, str) and not isinstance(values[leaf], str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = {"none": None, "true": True, "false": False}.get(value.lower(), value)
    values[leaf] = value


def _known(config: Any, name: str, path: str) -> None:
    names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        raise ConfigError(f"unknown setting {path!r}{did_you_mean(name, names)}; known: {', '.join(names)}")


def _default(config: Any, path: str) -> str:
    for name in path.split("."):
        if not (dataclasses.is_dataclass(config) and name in {field.name for field in dataclasses.fields(config)}):
            return "none"
        config = getattr(config, name)
    return repr(config)
