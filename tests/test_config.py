"""Settings by name: a wrong name or type is an error now, with the nearest right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from semid.config import override
from semid.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    epochs: int = 3
    sizes: tuple[int, ...] = (1, 2)
    text: str = "auto"
    limit: int | None = None
    inner: Inner = Inner()


def test_values_change_and_keep_their_types():
    changed = override(Outer(), {"epochs": "7", "inner.rate": "1e-3", "inner.kind": "b", "sizes": "[4, 5]", "limit": "9", "text": "hashed"})
    assert changed == Outer(7, (4, 5), "hashed", 9, Inner(1e-3, "b"))
    assert override(changed, {"limit": "none"}).limit is None
    assert override(Outer(), {}) == Outer()


@pytest.mark.parametrize(("settings", "message"), [
    ({"epoch": 1}, "unknown setting 'epoch'.*did you mean 'epochs'"),
    ({"inner.rat": 1}, "unknown setting 'inner.rat'.*did you mean 'rate'"),
    ({"epochs.x": 1}, "epochs is a single value"),
    ({"epochs": "many"}, "setting epochs='many'.*default: 3"),
    ({"sizes": "4"}, r"setting sizes=4.*written as a list: --set 'sizes=\[...\]'.*default: \(1, 2\)"),
    ({"inner.kind": "c"}, "setting inner.kind='c'.*default: 'a'"),
])
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        override(Outer(), settings)
