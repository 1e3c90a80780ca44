"""Changing a recipe's configuration by name: every name is checked, every value has its declared type."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from semid.errors import ConfigError, SemidError, did_you_mean

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
