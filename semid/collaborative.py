"""Item vectors that say what users did in the training rows, as tokenizers and generators take them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from semid.errors import ConfigError
from semid.recipes import lightgcn, sasrec
from semid.recipes.lightgcn import Config as LightGCNSettings
from semid.recipes.sasrec import PLAIN as PLAIN_SASREC
from semid.recipes.sasrec import Config as SASRecSettings
from semid.recommenders import ItemRecommender
from semid.run import load as load_run
from semid.scorers.item_knn import spectral_vectors
from semid.training.job import Job
from semid.types import Interactions, Split


def behaviour_vectors(source: str, data: Split, job: Job, *, width: int, sasrec_settings: SASRecSettings | None = None,
                      lightgcn_settings: LightGCNSettings | None = None) -> np.ndarray:
    """Return float32 [N, width] of what users did in the training rows; zeros where nobody took an item.

    source: sasrec or lightgcn (trained here with the given settings, None = their own), spectral (item-kNN's factors), the name of a view
    of the catalogue, returned as it is, or the folder (with a / in it) of a finished run of sasrec, lightgcn, ngcf or alpharec on the same
    data and protocol, `{seed}` in it stands for the seed: one training for many tokenizers. Raises `DataError` for a view that there is
    not, `ConfigError` for a run that does not fit.
    """
    if "/" in source:
        return _of_run(Path(source.replace("{seed}", str(job.seed))), data, width)
    if source == "spectral":
        vectors = spectral_vectors(data.train, dim=width)  # fewer than `width` where there are fewer items
        return np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    if source == "lightgcn":
        return known_vectors(lightgcn.run(replace(lightgcn_settings or LightGCNSettings(), width=width), data, job), data.train)
    if source != "sasrec":
        return data.catalog.view(source)
    return known_vectors(sasrec.run(replace(sasrec_settings or PLAIN_SASREC, width=width), data, job), data.train)


def _of_run(folder: Path, data: Split, width: int) -> np.ndarray:
    run = load_run(folder)
    wanted, got = (data.fingerprint, data.protocol.hash), (run.split.fingerprint, run.split.protocol.hash)
    if wanted != got:
        raise ConfigError(f"cf={folder}: want a run on the same data and protocol, {wanted}, got {got}; train it on these, or take sasrec")
    if not isinstance(run.recommender, ItemRecommender) or not isinstance(run.recommender.scorer, HasItemVectors):
        raise ConfigError(f"cf={folder}: want a run of sasrec, lightgcn, ngcf or alpharec, got one of {run.recipe}; name another folder")
    vectors = known_vectors(run.recommender, data.train)
    if vectors.shape[1] != width:
        raise ConfigError(f"cf={folder}: want item vectors {width} wide, got {vectors.shape[1]}; train the run with --set width={width}")
    return vectors


@runtime_checkable
class HasItemVectors(Protocol):
    """SASRec, GraphScorer."""

    def item_vectors(self) -> Tensor: ...


def known_vectors(recommender: ItemRecommender, train: Interactions) -> np.ndarray:
    """Return float32 [N, D] of a recommender trained by sasrec, lightgcn, ngcf or alpharec, zeros where nobody took an item in `train`:
    a view for `catalog.with_view`."""
    scorer = recommender.scorer
    assert isinstance(scorer, HasItemVectors)
    with torch.no_grad():
        vectors = scorer.item_vectors().float().cpu().numpy()
    return np.where(train.counts[:, None] > 0, vectors, np.float32(0))
