from __future__ import annotations

import base64
from dataclasses import fields
from pathlib import Path

import pytest

from semid.errors import ConfigError
from semid.serving.limits import REMEMBERED, Limits, OverLimit, Rate, Room
from semid.serving.security import Guard, check_bind, find_key, is_foreign, is_loopback

KEY = "k" * 24


def basic(name: str, password: str) -> str:
    return base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize(("host", "is_own"), [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True),
                                              ("0.0.0.0", False), ("::", False),
                                              ("192.168.1.2", False), ("localhost.example.com", False), ("", False)])
def test_only_this_machine_may_be_served_without_a_key(host: str, is_own: bool):
    assert is_loopback(host) == is_own
    check_bind(host, KEY)
    if is_own:
        check_bind(host, None)
    else:
        with pytest.raises(ConfigError, match="needs a key"):
            check_bind(host, None)


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert find_key(tmp_path / "key", {"SEMID_KEY": "x" * 30}) == KEY
    assert find_key(None, {"SEMID_KEY": "x" * 30}) == "x" * 30
    assert find_key(None, {}) is None


@pytest.mark.parametrize("text", ["", "short", "with spaces in the middle", "k" * 20 + "ü"])
def test_a_weak_key_is_refused(tmp_path: Path, text: str):
    (tmp_path / "key").write_text(text)
    with pytest.raises(ConfigError, match="at least 16"):
        find_key(tmp_path / "key", {})
    with pytest.raises(ConfigError, match="cannot be read"):
        find_key(tmp_path / "no such file", {})


@pytest.mark.parametrize(("given", "passes"), [(f"Bearer {KEY}", True), (f"bearer {KEY}", True), (f"Bearer  {KEY} ", True),
                                               (f"Basic {KEY}", False), (KEY, False), ("Bearer", False), ("Bearer ", False),
                                               (f"Bearer {KEY}x", False), ("Bearer \xff", False),
                                               (f"Basic {basic('anybody', KEY)}", True), (f"Basic {basic(KEY, 'x')}", False),
                                               (f"Basic {basic('a', 'b:' + KEY)}", False), ("Basic ===", False), ("Basic", False)])
def test_the_key_opens_and_nothing_else_does(given: str, passes: bool):
    refused = Guard(KEY).refuses({b"authorization": given.encode("latin-1")})
    assert (refused is None) == passes
    assert refused is None or refused[0] == 401


@pytest.mark.parametrize(("host", "passes"), [("localhost:8000", True), ("127.0.0.1", True), ("[::1]:8000", True), ("LOCALHOST", True),
                                              ("127.0.0.2:8000", True), ("192.168.1.2:8000", False),
                                              ("evil.example:8000", False), ("", False), ("127.0.0.1.evil.example", False)])
def test_without_a_key_another_name_is_refused(host: str, passes: bool):
    refused = Guard(None).refuses({b"host": host.encode()})
    assert (refused is None) == passes
    assert refused is None or refused[0] == 403


def test_only_reading_is_taken_from_pages_of_other_sites():
    for site, is_from_there in ((b"cross-site", True), (b"same-site", True), (b"same-origin", False), (b"none", False)):
        assert is_foreign("POST", {b"sec-fetch-site": site}) == is_from_there
        assert not is_foreign("GET", {b"sec-fetch-site": site})
    assert not is_foreign("POST", {}), "programs do not say"


def test_rates_are_by_address_and_recover():
    now = [0.0]
    rate = Rate(10, lambda: now[0])
    assert [rate.allows("a") for _ in range(21)] == [True] * 20 + [False]
    assert rate.allows("b")
    now[0] = 0.1
    assert [rate.allows("a"), rate.allows("a")] == [True, False]
    now[0] = 100
    assert [rate.allows("a") for _ in range(21)] == [True] * 20 + [False]
    assert all(Rate(0).allows("a") for _ in range(1000))


def test_a_million_addresses_take_bounded_memory():
    rate = Rate(10)
    for address in range(REMEMBERED + 500):
        rate.allows(str(address))
    assert len(rate._tokens) == REMEMBERED


def test_limits_say_what_was_wanted_and_got():
    limits = Limits()
    with pytest.raises(OverLimit, match=r"k: want 1 to 500, got 501"):
        limits.check_number("k", 501, 500)
    with pytest.raises(OverLimit, match=r"k: want 1 to 500, got 0"):
        limits.check_number("k", 0, 500)
    with pytest.raises(OverLimit, match=r"history: want at most 1,000 entries, got 1,001"):
        limits.check_size("history", ["i"] * 1001, 1000)
    with pytest.raises(ConfigError, match="--max-k: want more than 0"):
        Limits(max_k=0)
    with pytest.raises(ConfigError, match="--max-seconds: want more than 0, got nan"):
        Limits(max_seconds=float("nan"))


def test_the_documentation_names_every_limit_with_its_default():
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `--")]
    for field in fields(Limits):
        flag = f"`--{field.name.replace('_', '-')}`"
        [row] = [row for row in rows if flag in row]
        assert f"{field.default:,}".removesuffix(".0") in row, row


def test_a_burst_fills_the_room_and_a_flood_three_eighths_of_it_until_a_second_without_refusal():
    now = [0.0]
    assert not Room(1).refuses()
    room = Room(4, lambda: now[0])  # 1.5, rounded up
    room.taken = 3
    assert not room.refuses()
    room.taken = 4
    assert room.refuses()
    room.taken = 2
    assert room.refuses()
    room.taken = 1
    assert not room.refuses()
    room.taken, now[0] = 3, 0.9
    assert room.refuses()
    now[0] = 1.89
    assert room.refuses()
    now[0] = 2.9
    assert not room.refuses()
