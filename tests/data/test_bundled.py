"""MovieLens latest-small as GroupLens released it in October 2016."""

import numpy as np

from semid.data.bundled import FOLDER, movielens


def test_movielens_has_its_published_counts():
    data = movielens()
    e = data.interactions
    assert (len(e), len(e.users), len(data.catalog), len(np.unique(e.item))) == (100_004, 671, 9_125, 9_066)
    assert (e.value.min(), e.value.max()) == (0.5, 5.0)
    assert data.catalog.titles[e.items.row("1")] == "Toy Story (1995)"
    assert data.catalog.text["categories"][e.items.row("1")] == "Adventure, Animation, Children, Comedy, Fantasy"
    assert set(data.catalog.text) == {"title", "categories"}


def test_every_user_of_movielens_is_in_the_order_of_time():
    e = movielens().interactions
    assert np.all(np.diff(e.time)[np.diff(e.user) == 0] >= 0)
    assert np.diff(e.offsets).min() == 20


def test_the_terms_travel_with_the_data():
    notice = (FOLDER / "NOTICE.md").read_text()
    assert "Harper" in notice
    assert "without first obtaining permission" in notice
