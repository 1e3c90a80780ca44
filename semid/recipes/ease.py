"""EASE: a closed-form linear autoencoder, its one number tuned on validation. It knows no order.

Source: Steck, WWW 2019, arXiv 1905.03375. Status: baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semid.errors import ConfigError
from semid.recommenders import ItemRecommender, load_tensors
from semid.scorers.ease import EASE
from semid.training.job import Job
from semid.types import Catalog, Split
from semid.validation import best_of

VARIANTS: dict[str, dict[str, object]] = {}
IS_DETERMINISTIC = True
SCALE = "linear score"


@dataclass(frozen=True)
class Config:
    """regularisation: candidates for lambda, chosen on validation."""

    regularisation: tuple[float, ...] = (100.0, 400.0, 1600.0)

    def __post_init__(self):
        if not self.regularisation:
            raise ConfigError(f"setting regularisation: want one candidate at least, got none; default: {Config.regularisation}")


def smoke() -> Config:
    return Config(regularisation=(10.0,))


def run(config: Config, data: Split, job: Job) -> ItemRecommender:
    fit = lambda strength: ItemRecommender(EASE.fit(data.train, regularisation=strength), SCALE)
    if len(config.regularisation) == 1:
        return fit(config.regularisation[0])
    chosen, recommender, value = best_of(config.regularisation, fit, data, seen=data.protocol.seen)
    job.log.write("ease", note="chosen on validation", chosen={"regularisation": chosen}, **{"ndcg@10": value})
    return recommender


def load(config: Config, catalog: Catalog, folder: Path) -> ItemRecommender:
    return ItemRecommender(EASE(**load_tensors(folder / "scorer.safetensors")), SCALE)
