"""Settings by name: a wrong name or type is an error now, with the nearest right one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pytest

from semid.config import override
from semid.errors import ConfigError
from semid.recipes.semid import initial_vectors
from semid.run import find_recipe, train
from tests.toyworld.world import walk


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


@pytest.mark.parametrize(("recipe", "settings", "message"), [
    ("item_knn", {"decay": ()}, "setting decay: want one candidate at least"),
    ("semid", {"scorer.norm": ()}, "setting norm: want one candidate at least"),
    ("ease", {"regularisation": ()}, "setting regularisation: want one candidate at least"),
    ("lightgcn", {"pairing.negatives": 0}, "setting pairing.negatives=0: want at least 1"),
    ("tiger", {"optimization.accumulate": 0}, "setting optimization.accumulate=0: want at least 1"),
])
def test_counts_and_candidates_that_mean_nothing_are_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        override(find_recipe(recipe)[0].Config(), settings)


@pytest.mark.parametrize("recipe", ["semid", "tiger"])
def test_a_generator_without_layers_is_refused(recipe):
    with pytest.raises(ConfigError, match="setting layers: want at least 1"):
        train(recipe, walk(users=20), settings=asdict(find_recipe(recipe)[0].smoke()) | {"layers": 0})


def test_a_view_of_one_column_has_a_principal_component():
    catalog = walk(users=20).catalog.with_view("cf", np.arange(64, dtype=np.float32)[:, None] - 20)
    start = initial_vectors(catalog, ("cf",), 4)
    assert start.isfinite().all()
    assert start[:, 0].std() > 0
