"""Popularity: the most taken items for everybody. What every system has to beat.

Source: no paper. Status: baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.popularity import Popularity
from semid.training.job import Job
from semid.types import Catalog, Split

VARIANTS: dict[str, dict[str, object]] = {}
IS_DETERMINISTIC = True
SCALE = "training events"


@dataclass(frozen=True)
class Config:
    pass


def smoke() -> Config:
    return Config()


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    return ItemRecommender(Popularity.fit(data.train), SCALE)


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    return ItemRecommender(Popularity(**load_tensors(folder / "scorer.safetensors")), SCALE)
