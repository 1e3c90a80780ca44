"""Many lists in one file: the same as one by one; what a server stored comes back to training."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

import semid
from semid import cli
from semid.data.batch import LISTED
from semid.errors import ConfigError, DataError, RunError
from semid.lists import users_of, write_events, write_lists
from semid.serving.contract import Request
from semid.serving.engine import Engine
from semid.serving.histories import Event, StoreError, open_store, stored_events
from tests.serving import world

STORED = [Event(f"key-{n}", f"new{n % 3}", f"i{n % 5}", 1_700_000_000 + n, "buy", 2.5) for n in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lists") / "run"
    world.train("semid", out, world.SMALL)
    return out


def rows_of(file: Path) -> dict[str, list[tuple[int, str, float]]]:
    found: dict[str, list[tuple[int, str, float]]] = {}
    for row in pq.read_table(file).to_pylist():
        found.setdefault(row["user_id"], []).append((row["rank"], row["item_id"], row["score"]))
    return found


def test_all_users_get_the_lists_that_each_gets_alone(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "new" / "lists.parquet"
    flags = ["--users", "all", "--out", str(out), "-k", "4", "--seen", "remove", "--json", "--quiet"]
    assert cli.main(["recommend", str(folder), *flags]) == 0
    said, run, found = json.loads(capsys.readouterr().out), semid.load(folder), rows_of(out)
    users = run.split.source.users.ids.tolist()
    assert list(found) == users
    assert said.pop("seconds") > 0
    assert said == {"users": len(users), "unknown_users": 0, "empty": 0, "rows": 4 * len(users), "out": str(out)}
    assert len(users) > LISTED
    for user in users[:3] + users[-3:]:
        alone = run.recommend(user, k=4, seen="remove")
        assert [(rank, item) for rank, item, _ in found[user]] == [(rank, row["item_id"]) for rank, row in enumerate(alone, start=1)]
        assert [score for *_, score in found[user]] == pytest.approx([row["score"] for row in alone], abs=1e-5)


def test_listed_users_are_asked_once_and_strangers_get_the_most_popular(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    run = semid.load(folder)
    known = str(run.split.source.users.ids[0])
    (tmp_path / "users.txt").write_text(f"{known}\n\n stranger \n{known}\n")
    out = tmp_path / "lists.csv"
    assert cli.main(["recommend", str(folder), "--users", str(tmp_path / "users.txt"), "--out", str(out), "-k", "3"]) == 0
    assert "6 rows of 2 users" in (said := capsys.readouterr().out)
    assert "1 not in the data: the most popular items" in said
    rows = csv.read_csv(out).to_pylist()
    assert [row["user_id"] for row in rows] == [known] * 3 + ["stranger"] * 3
    assert [row["item_id"] for row in rows[3:]] == [row["item_id"] for row in run.recommend(history=[], k=3)]


@pytest.mark.parametrize(("flags", "said"), [
    (["--users", "all"], "--users: want a file for the lists, --out FILE.parquet or FILE.csv"),
    (["--users", "all", "--out", "lists.xlsx"], "--out lists.xlsx: want a name that ends in .parquet or .csv"),
    (["--users", "all", "--user", "u1", "--out", "lists.csv"], "want --users, --user or --history, got several"),
    (["--user", "u1", "--out", "lists.csv"], "--out: want --users all or --users FILE"),
    (["--users", "nowhere.txt", "--out", "lists.csv"], "want a text file with a user id a line, or all"),
])
def test_what_cannot_be_written_is_refused_before_anything_else(folder: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture):
    assert cli.main(["recommend", str(folder), *flags, "--json"]) == 2
    out, err = capsys.readouterr()
    assert said in json.loads(out)["error"]
    assert said in err


def test_files_without_known_users_and_full_folders_are_told(folder: Path, tmp_path: Path):
    engine, file = Engine.open(folder), tmp_path / "users.txt"
    for text, said in (("", "it is empty"), ("user_id\nnobody\n", "the first is 'user_id'")):
        file.write_text(text)
        with pytest.raises(DataError, match=said):
            users_of(engine, str(file))
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="want a text file"):
        users_of(engine, str(file))
    with pytest.raises(ConfigError, match="k: want a whole number"):
        write_lists(engine, users_of(engine, "all"), tmp_path / "lists.csv", Request(k=0))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        write_lists(engine, users_of(engine, "all")[:1], tmp_path / "folder.csv", Request(k=1))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder.csv", "users.txt"]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_a_server_stored_is_a_table_that_is_read_again(ending: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    where = str(stored_in(tmp_path / "histories.sqlite"))
    out = tmp_path / f"stored.{ending}"
    assert cli.main(["events", where, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"events": 7, "earlier": 0, "in_both": 0, "rows": 7, "out": str(out)}
    events = semid.read(out).interactions
    assert len(events) == 7
    assert events.users.ids.tolist() == ["new0", "new1", "new2"]
    assert sorted(events.time.tolist()) == [event.time for event in STORED]
    assert events.value is not None
    write_events([*STORED, Event("more", "new1", "i9", 1_700_000_099)], out)
    assert semid.read(out).interactions.value is None  # one has none
    assert write_events([], out)["rows"] == 0
    assert out.exists()


def stored_in(where: Path) -> Path:
    """A server's store with `STORED`."""
    async def fill() -> None:
        store = open_store(str(where))
        await store.append(STORED)
        await store.close()

    asyncio.run(fill())
    return where


def test_stored_events_follow_the_log_so_far_and_what_is_in_both_is_written_once(tmp_path: Path, capsys: pytest.CaptureFixture):
    store, log, out = stored_in(tmp_path / "histories.sqlite"), tmp_path / "log.csv", tmp_path / "all.parquet"
    log.write_text("buyer,sku,when\n"
                   "old,i1,2023-11-14 22:13:20\nold,i9,2023-11-14 22:13:21\n"
                   f"{STORED[2].user},{STORED[2].item},2023-11-14 22:13:22\n")  # 1_700_000_002, as the shop exported it
    command = ["events", str(store), "--out", str(out), "--data", str(log), "--user", "buyer", "--item", "sku", "--time", "when"]
    assert cli.main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"events": 7, "earlier": 3, "in_both": 1, "rows": 9, "out": str(out)}
    rows = pq.read_table(out).to_pylist()
    assert [(row["user_id"], row["item_id"], row["timestamp"]) for row in rows[3:]] == [
        (event.user, event.item, event.time) for event in STORED if event is not STORED[2]]
    assert {row["action"] for row in rows[:3]} == {None}
    assert {row["action"] for row in rows[3:]} == {"buy"}
    assert "value" not in rows[0]  # the log has none
    events = semid.read(out).interactions
    assert events.users.ids.tolist() == ["old", "new2", "new0", "new1"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"7 events of {store} after 3 of {log}, 1 of them in both" in said.replace("\n", "")
    assert f"semid train semid --data {out}" in said.replace("\n", "")


def test_a_store_without_events_leaves_the_log_as_it_is(tmp_path: Path):
    log = semid.read({"user": ["a", "b"], "item": ["x", "y"], "timestamp": [1_700_000_000, 1_700_000_001]})
    assert write_events([], tmp_path / "all.csv", log) == {"events": 0, "earlier": 2, "in_both": 0, "rows": 2}
    assert len(semid.read(tmp_path / "all.csv").interactions) == 2


def test_a_log_without_times_cannot_come_before_stored_events(tmp_path: Path, capsys: pytest.CaptureFixture):
    store, log = stored_in(tmp_path / "histories.sqlite"), tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\nold,i1,1\nold,i2,2\n")
    assert cli.main(["events", str(store), "--out", str(tmp_path / "all.csv"), "--data", str(log)]) == 2
    assert "want events with times, got an order alone" in capsys.readouterr().err
    assert cli.main(["events", str(store), "--out", str(tmp_path / "all.csv"), "--user", "buyer"]) == 2
    assert "--user buyer: want --data" in capsys.readouterr().err
    assert not (tmp_path / "all.csv").exists()


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path):
    with pytest.raises(StoreError, match="there is no such file"):
        write_events(stored_events(str(tmp_path / "none.sqlite")), tmp_path / "out.csv")
    assert list(tmp_path.iterdir()) == []
