"""Item-kNN: directional, recency-weighted co-occurrence, its neighbourhood tuned on validation. No learning, hard to beat.

Source: Sarwar et al., WWW 2001; recency and direction as in session-kNN (Ludewig and Jannach, UMUAI 2018). `item_knn:recent` multiplies by
what everybody took in the month before the request. Status: baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import torch

from semid.data.batch import NeighbourTargets, SequenceBatches
from semid.errors import ConfigError
from semid.evaluation.evaluate import Seen
from semid.recipes.popularity import check_days
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.item_knn import ItemKNN, RecentItemKNN, following
from semid.scorers.popularity import RecentPopularity
from semid.training.job import Job
from semid.types import Catalog, Split
from semid.validation import CHOICE, measure

VARIANTS: dict[str, dict[str, object]] = {"recent": {"recent": (0.5, 0.3, 0.8, 0.0)}}
IS_DETERMINISTIC = True
SCALE = "weighted co-occurrence"


@dataclass(frozen=True)
class Config:
    """Tuples are candidates, chosen on validation one after another in this order; single values are taken as they are.

    window: events apart that still count as together; backward: weight of what came before; shrink, norm: damping of popular
    items; profile: history items used; decay: weight of one event further back; neighbours: kept per item; recent: power of
    `RecentPopularity` over `days` days, which scores are multiplied by, 0 = not at all.
    """

    window: int = 60
    decay: tuple[float, ...] = (0.5, 0.3, 0.7, 0.85, 0.95)
    backward: tuple[float, ...] = (0.5, 0.25, 0.75, 1.0)
    norm: tuple[float, ...] = (0.5, 0.35, 0.65)
    recent: tuple[float, ...] = (0.0,)
    days: float = 30.0
    profile: int = 20
    shrink: float = 10.0
    neighbours: int = 1000

    def __post_init__(self):
        check_days(self.days)
        for name in ("decay", "backward", "norm"):
            if not getattr(self, name):
                raise ConfigError(f"setting {name}: want one candidate at least, got none; default: {getattr(Config, name)}")
        if not self.recent or not all(0 <= power <= 10 for power in self.recent):
            raise ConfigError(f"setting recent: want powers in [0, 10], got {self.recent}")
        if self.days != Config.days and not any(self.recent):
            raise ConfigError("setting days: read where scores are multiplied by recent popularity alone; take item_knn:recent")


def smoke() -> Config:
    return Config(decay=(0.5,), backward=(0.5,), norm=(0.5,))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    scorer, chosen, value = tune(config, data, data.protocol.seen)
    if value is not None:
        job.log.write("item_knn", note="chosen on validation", chosen=chosen, **{"ndcg@10": value})
    return ItemRecommender(scorer, SCALE)


def tune(config: Config, data: Split, seen: Seen) -> tuple[ItemKNN | RecentItemKNN, dict[str, float], float | None]:
    """Return (scorer, chosen settings, validation NDCG@10, None where there is nothing to choose).

    Coordinate-wise search, from the first value of each tuple; ties go to the earlier one.
    """
    pairs = following(data.train, window=config.window)
    latest = RecentPopularity.fit(data.train, days=config.days) if any(config.recent) else None

    @lru_cache(maxsize=1)  # one at a time is as large as the catalogue
    def counted(backward: float, norm: float) -> ItemKNN:
        return ItemKNN.fit(data.train, pairs=pairs, profile=config.profile, shrink=config.shrink, neighbours=config.neighbours,
                           backward=backward, norm=norm)

    def fit(decay: float, backward: float, norm: float, recent: float) -> ItemKNN | RecentItemKNN:
        knn = counted(backward, norm).with_decay(decay)
        return knn if latest is None else RecentItemKNN(knn, latest, torch.tensor(recent))

    @cache
    def value(**settings: float) -> float:
        return measure(ItemRecommender(fit(**settings), SCALE), data, seen=seen, limit=CHOICE).get("ndcg@10", 0.0)

    chosen, is_choice = {name: getattr(config, name)[0] for name in ("decay", "backward", "norm", "recent")}, False
    for name in chosen:
        candidates = [{**chosen, name: option} for option in getattr(config, name)]
        if len(candidates) > 1:
            chosen, is_choice = max(candidates, key=lambda settings: value(**settings)), True
    return fit(**chosen), chosen, value(**chosen) if is_choice else None


def neighbour_targets(batches: SequenceBatches, data: Split, *, prior: float, seed: int) -> NeighbourTargets:
    """Return batches with targets redrawn from the 100 nearest neighbours of item-kNN as it stands, counted in training rows."""
    scorer = ItemKNN.fit(data.train, neighbours=100)
    return NeighbourTargets(batches, scorer.neighbour, scorer.weight, data.train.counts, prior=prior, seed=seed)


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    tensors = load_tensors(folder / "scorer.safetensors")
    return ItemRecommender(RecentItemKNN.of(tensors) if any(config.recent) else ItemKNN(**tensors), SCALE)
