"""Runs on disk, trained once; tests that change a run take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from semid.serving.engine import Engine
from tests.serving import world


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.train("semid", tmp_path_factory.mktemp("runs") / "semid", world.SMALL).folder


@pytest.fixture(scope="session")
def knn_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"decay": "[0.5]", "backward": "[0.5]", "norm": "[0.5]"}
    return world.train("item_knn", tmp_path_factory.mktemp("runs") / "item_knn", settings).folder


@pytest.fixture(scope="session")
def engine(run_folder: Path) -> Engine:
    return Engine.open(run_folder)


@pytest.fixture
def copied(run_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "run")
