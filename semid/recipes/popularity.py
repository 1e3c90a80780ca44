"""Popularity: the most taken items for everybody. What every system has to beat.

Source: no paper; `popularity:recent` counts what was taken shortly before the request, Ji et al., SIGIR 2020 (arXiv 2005.13829).
Status: baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semid.errors import ConfigError
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.popularity import Popularity, RecentPopularity
from semid.training.job import Job
from semid.types import DAY, Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {"recent": {"days": 30.0}}
IS_DETERMINISTIC = True
SCALE = "training events"


@dataclass(frozen=True)
class Config:
    """days: count the events of so many days before the request alone; None counts all of training."""

    days: float | None = None

    def __post_init__(self):
        if self.days is not None:
            check_days(self.days)


def check_days(days: float) -> None:
    """Raise `ConfigError` unless recent popularity can count so many days."""
    if not 1 / DAY <= days <= 36_500:
        raise ConfigError(f"setting days: want a second (1 / 86,400) to 36,500 days, got {days}")


def smoke() -> Config:
    return Config()


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    scorer = Popularity.fit(data.train) if config.days is None else RecentPopularity.fit(data.train, days=config.days)
    return ItemRecommender(scorer, SCALE)


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    kind = Popularity if config.days is None else RecentPopularity
    return ItemRecommender(kind(**load_tensors(folder / "scorer.safetensors")), SCALE)
