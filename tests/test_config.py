"""Settings by name: a wrong name or type is an error now, with the nearest right one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import pytest

from semid.config import override
from semid.errors import ConfigError
from semid.recipe_cards import recipe_names
from semid.recipes.semid import initial_vectors
from semid.run import configure, find_recipe, train
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


@pytest.mark.parametrize(("recipe", "settings", "message"), [
    ("sasrec:gbce", {"smoothing": 0.2}, "setting smoothing: read only where loss is softmax, here it is gbce; leave it out, or set loss"),
    ("semid", {"alignment.steps": 9}, "read only where alignment.method is dpo or ipa or grpo, here it is none"),
    ("semid:dpo", {"alignment.group": 9}, "read only where alignment.method is ipa or grpo, here it is dpo"),
    ("semid", {"sasrec.width": 64}, "setting sasrec.width: read only where fusion is true, here it is false"),
    ("letter", {"codes": "letter_sid", "sasrec.width": 64}, "setting sasrec.width: read only where codes is null, here it is letter_sid"),
    ("letter:two_level", {"tiger.optimization.clip": 9}, "read only where is_two_level is false, here it is true"),
    ("letter:two_level", {"two_level.levels": 2}, "setting two_level.levels: nothing in this recipe reads it; leave it out"),
    ("human_priors:single", {"is_tied": "true"}, "setting is_tied: read only where heads is priors, here it is single"),
    ("rere:scratch", {"tuning.lora.rank": 3}, "setting tuning.lora.rank: read only where tuning.trained is lora, here it is all"),
])
def test_settings_that_nothing_reads_are_refused(recipe, settings, message):
    with pytest.raises(ConfigError, match=message):
        configure(recipe, settings)


def test_settings_that_are_read_or_change_nothing_are_taken():
    assert configure("sasrec:gbce", {"smoothing": 0.1, "calibration": 0.5})[1].calibration == 0.5
    assert configure("letter", {"tiger.steps": 9, "sasrec.width": 64})[1].sasrec.width == 64
    assert configure("letter", {"two_level": {**asdict(find_recipe("semid")[0].Config()), "epochs": 2}})[1].two_level.epochs == 2


@pytest.mark.parametrize("recipe", recipe_names())
def test_conditions_of_settings_name_what_there_is(recipe):
    def groups(config: Any) -> Iterator[Any]:
        yield config
        for field in fields(config):
            if is_dataclass(getattr(config, field.name)):
                yield from groups(getattr(config, field.name))

    for group in groups(find_recipe(recipe)[0].Config()):
        for condition, names in getattr(group, "READ_WHERE", {}).items():
            for value in condition[1:]:
                assert getattr(override(group, {condition[0]: value}), condition[0]) == value
            for name in names:
                attrgetter(name)(group)


@pytest.mark.parametrize("recipe", ["semid", "tiger"])
def test_a_generator_without_layers_is_refused(recipe):
    with pytest.raises(ConfigError, match="setting layers: want at least 1"):
        train(recipe, walk(users=20), settings=asdict(find_recipe(recipe)[0].smoke()) | {"layers": 0})


def test_a_view_of_one_column_has_a_principal_component():
    catalog = walk(users=20).catalog.with_view("cf", np.arange(64, dtype=np.float32)[:, None] - 20)
    start = initial_vectors(catalog, ("cf",), 4)
    assert start.isfinite().all()
    assert start[:, 0].std() > 0
