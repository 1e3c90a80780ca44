"""Models that somebody else trained, by hub name or folder, through transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from semid.errors import ConfigError, MissingExtra, SemidError

Loaded = TypeVar("Loaded")


def pretrained(load: Callable[[Any, str], Loaded], name: str | Path, *, what: str, extra: str, instead: str = "",
               other: str = "") -> Loaded:
    """Return `load(transformers, name)` without its progress bar, its failures said in our words.

    what: who asks; extra: the extra of semid that brings transformers; instead: what to do without it; other: what to take
    in the model's place. Raises `MissingExtra` where transformers is not installed, `ConfigError` where there is no such model.
    """
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(f"{what}: transformers is not installed; pip install 'semid[{extra}]'{instead}") from error
    bars = transformers.utils.logging
    is_shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        return load(transformers, str(name))
    except SemidError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: want a model on the hub or in a folder, got {str(name)!r}, which cannot be loaded "
                          f"({str(error).splitlines()[0]}); check the name, or pass a folder that holds config.json, "
                          f"the tokenizer and the weights{other}") from error
    finally:
        if is_shown:
            bars.enable_progress_bar()
