"""Splits: nothing learnt from an answer, every event in its place."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.split import held_back, shuffle_ties, split
from semid.errors import DataError
from semid.types import TEST, TRAIN, VALID, Catalog, IdMap, Interactions, Protocol


def ids(prefix, n):
    return IdMap([f"{prefix}{i}" for i in range(n)])


def make(histories, times=None, splits=None, num_items=None, time_unit="seconds"):
    """Interactions from one list of items a user; times count up over all events by default."""
    user = np.repeat(np.arange(len(histories), dtype=np.int32), [len(h) for h in histories])
    flat = lambda lists: [x for row in lists for x in row]
    item = np.array(flat(histories), np.int32)
    time = np.arange(len(item)) if times is None else np.array(flat(times), np.int64)
    n = int(item.max()) + 1 if num_items is None else num_items
    return Interactions(user, item, time, ids("u", len(histories)), ids("i", n), time_unit,
                        split=None if splits is None else np.array(flat(splits), np.int8))


def cut(events, **protocol):
    return split(events, Catalog(events.items, pa.table({"id": events.items.ids.tolist()})), Protocol(**protocol), "f")


def asked(s, cases):
    """[(user, history, targets)] in plain Python."""
    return [(int(cases.user[b]), s.events.item[cases.history_begin[b] : cases.history_end[b]].tolist(),
             cases.target[cases.target_offsets[b] : cases.target_offsets[b + 1]].tolist()) for b in range(len(cases))]


def trained(s):
    """[(user, item)] of the training rows."""
    return list(zip(s.train.user.tolist(), s.train.item.tolist()))


def test_leave_one_out_by_hand():
    s = cut(make([[1, 2, 3, 4], [5, 6], [2, 7, 1]]))
    assert asked(s, s.test) == [(0, [1, 2, 3], [4]), (2, [2, 7], [1])]
    assert asked(s, s.valid) == [(0, [1, 2], [3]), (2, [2], [7])]
    assert trained(s) == [(0, 1), (0, 2), (1, 5), (1, 6), (2, 2)]  # a user with two events only trains
    assert s.test.target_time.tolist() == [3, 8]
    assert s.fingerprint == "f"


def test_a_short_history_is_not_asked_but_still_trains():
    s = cut(make([[1, 2, 3, 4], [2, 7, 1]]), min_history=3)
    assert asked(s, s.test) == [(0, [1, 2, 3], [4])]
    assert len(s.valid) == 0
    assert trained(s) == [(0, 1), (0, 2), (1, 2)]


def test_time_cuts_everybody_at_one_moment():
    s = cut(make([[1, 2, 3, 4, 5], [6, 7, 8], [9, 1]], times=[[0, 10, 80, 95, 99], [5, 6, 85], [90, 99]]),
            split="time", valid_from=0.5, test_from=0.8)
    valid_from, test_from = np.quantile([0, 10, 80, 95, 99, 5, 6, 85, 90, 99], [0.5, 0.8])
    assert (s.train.time < valid_from).all()
    assert ((s.valid.target_time >= valid_from) & (s.valid.target_time < test_from)).all()
    assert (s.test.target_time >= test_from).all()
    # 82.5 and 95.8: user 2 has no history before 90, and is asked at 99 with the item of 90 known.
    assert asked(s, s.valid) == [(0, [1, 2, 3], [4]), (1, [6, 7], [8])]
    assert asked(s, s.test) == [(0, [1, 2, 3, 4], [5]), (2, [9], [1])]


def test_time_needs_a_clock():
    with pytest.raises(DataError, match="real timestamps"):
        cut(make([[1, 2, 3]], time_unit="ordinal"), split="time")


def test_a_given_column_decides():
    events = make([[1, 2, 3, 4, 5], [6, 7, 8]], splits=[[TRAIN, TRAIN, VALID, TEST, TEST], [TRAIN, VALID, TEST]])
    for name in ("column", "leave_one_out"):
        s = cut(events, split=name)
        assert asked(s, s.valid) == [(0, [1, 2], [3]), (1, [6], [7])]
        assert asked(s, s.test) == [(0, [1, 2, 3], [4, 5]), (1, [6, 7], [8])]
        assert trained(s) == [(0, 1), (0, 2), (1, 6)]


def test_column_needs_the_column():
    with pytest.raises(DataError, match="no split column"):
        cut(make([[1, 2, 3]]), split="column")


def random_events(seed, users=30, items=25):
    rng = np.random.default_rng(seed)
    return make([rng.integers(0, items, rng.integers(1, 12)).tolist() for _ in range(users)], num_items=items)


def test_cold_items_are_never_trained_nor_shown_in_a_history():
    events = random_events(1)
    s = cut(events, split="cold_items", held_out=0.3)
    held = set(s.valid.target.tolist()), set(s.test.target.tolist())
    assert not held[0] & held[1]
    cold = np.array(sorted(held[0] | held[1]))
    assert not np.isin(s.train.item, cold).any()
    assert not np.isin(s.events.item, cold).any()
    for cases in (s.valid, s.test):
        for b, (user, history, (target,)) in enumerate(asked(s, cases)):
            mine = (events.user == user) & (events.time < cases.target_time[b])
            before = events.item[mine]
            assert history == before[~np.isin(before, cold)].tolist()
            assert target in events.item[events.user == user]


def test_every_event_of_a_cold_item_is_asked_or_lacks_a_history():
    events = random_events(2)
    everything = cut(events, split="cold_items", held_out=0.3, min_history=0)
    assert len(everything.train) + len(everything.valid) + len(everything.test) == len(events)


def test_cold_users_are_never_trained():
    events = random_events(3)
    s = cut(events, split="cold_users", held_out=0.4)
    valid, test = set(s.valid.user.tolist()), set(s.test.user.tolist())
    assert not valid & test
    assert not (valid | test) & set(s.train.user.tolist())
    assert valid | test | set(s.train.user.tolist()) == set(events.user.tolist())
    for cases in (s.valid, s.test):
        for user, history, (target,) in asked(s, cases):
            assert events.item[events.user == user].tolist() == [*history, target]


@pytest.mark.parametrize("name", ["cold_items", "cold_users"])
def test_a_seed_names_the_draw(name):
    events = random_events(4)
    draw = lambda seed: asked(s := cut(events, split=name, seed=seed), s.test)
    assert draw(0) == draw(0) != draw(1)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=4, max_size=12),
       st.sampled_from(["leave_one_out", "time", "cold_items", "cold_users"]))
@settings(max_examples=120, deadline=None)
def test_no_answer_is_trained_and_every_history_lies_before_its_answer(histories, name):
    try:
        s = cut(make(histories, num_items=10), split=name, min_history=0)
    except DataError:
        return  # too little to split
    answers = np.concatenate([s.valid.target_time, s.test.target_time])
    assert len(np.unique(answers)) == len(answers)  # the time names the event here
    assert not np.isin(s.train.time, answers).any()
    for cases in (s.valid, s.test):
        for b in range(len(cases)):
            begin, end = cases.history_begin[b], cases.history_end[b]
            assert (s.events.user[begin:end] == cases.user[b]).all()
            first = cases.target_time[cases.target_offsets[b]]
            assert (s.events.time[begin:end] < first).all()


def test_ties_are_shuffled_within_equal_times_of_a_user_only():
    events = make([list(range(40)), list(range(40))], times=[[0] * 20 + [1] * 20] * 2)
    shuffled = shuffle_ties(events, seed=0)
    assert shuffled.item.tolist() != events.item.tolist()
    np.testing.assert_array_equal(shuffled.user, events.user)
    np.testing.assert_array_equal(shuffled.time, events.time)
    for begin in (0, 20, 40, 60):
        assert sorted(shuffled.item[begin : begin + 20]) == sorted(events.item[begin : begin + 20])
    np.testing.assert_array_equal(shuffle_ties(events, seed=0).item, shuffled.item)
    assert shuffle_ties(events, seed=1).item.tolist() != shuffled.item.tolist()


def test_ties_are_shuffled_before_the_split():
    events = make([list(range(30))] * 3, times=[[7] * 30] * 3)
    kept, shuffled = cut(events), cut(events, shuffle_ties=5)
    assert kept.test.target.tolist() == [29, 29, 29]
    assert shuffled.test.target.tolist() != [29, 29, 29]
    assert kept.source is shuffled.source is events


def test_nothing_to_train_or_to_ask_is_an_error():
    with pytest.raises(DataError, match="no test case"):
        cut(make([[1, 2], [3, 4]]))
    with pytest.raises(DataError, match="no training rows"):
        cut(make([[1, 2]], splits=[[TEST, TEST]]), split="column")


def test_a_shuffled_order_decides_anew_what_comes_last():
    """A given split column holds for the source's order; with ties shuffled, the test item is again the last one."""
    user = np.repeat(np.arange(20, dtype=np.int32), 5)
    items = IdMap([str(i) for i in range(100)])
    events = Interactions(user, np.arange(100, dtype=np.int32), np.zeros(100, np.int64), IdMap([str(u) for u in range(20)]), items,
                          split=np.tile(np.array([0, 0, 0, 1, 2], np.int8), 20))
    catalog = Catalog(items, pa.table({"id": items.ids.tolist()}))
    given = split(events, catalog, Protocol())
    shuffled = split(events, catalog, Protocol(shuffle_ties=0))
    assert given.test.target.tolist() == list(range(4, 100, 5))
    assert shuffled.test.target.tolist() != given.test.target.tolist()
    assert (shuffled.test.history_end - shuffled.test.history_begin == 4).all()
    assert (shuffled.valid.history_end - shuffled.valid.history_begin == 3).all()


def test_a_model_may_be_asked_only_what_it_knows_nothing_of():
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, size=40)
    events = make([rng.integers(30, size=n).tolist() for n in lengths], [np.sort(rng.integers(1000, size=n)).tolist() for n in lengths])
    loo, early, late = cut(events), cut(events, split="time"), cut(events, split="time", valid_from=0.85, test_from=0.95)
    cold = cut(events, split="cold_users")
    assert held_back(loo, loo) == held_back(loo, cut(events, max_history=3, min_history=4)) == (0, 0)
    assert held_back(early, cut(events, split="time", test_from=0.95)) == (0, 0)
    assert held_back(early, late) == (0, 0)
    assert held_back(late, early)[0] == len(late.train) - len(early.train) > 0
    assert held_back(loo, early)[0] == int((loo.train.time > early.train.time.max()).sum()) > 0
    assert held_back(loo, cold)[0] == int(np.isin(loo.train.user, [*cold.valid.user, *cold.test.user]).sum())
    assert held_back(early, cut(events, split="time", valid_from=0.8, test_from=0.85))[1] > 0, "answers of the validation"


def test_equal_events_count_as_often_as_they_are_there():
    equal = make([[1, 1, 1, 1], [2, 3, 4]], [[5, 5, 5, 5], [1, 2, 3]])
    assert held_back(cut(equal), cut(equal, shuffle_ties=1)) == (0, 0)
    differing = make([[0, 1, 2, 3, 4, 5]], [[5] * 6])
    assert sum(held_back(cut(differing), cut(differing, shuffle_ties=1))) > 0


def test_a_validation_history_of_a_random_split_ends_before_the_first_test_answer():
    s = cut(make([[1, 2, 3, 4, 5]], splits=[[TRAIN, TEST, TRAIN, VALID, TEST]]), split="column")
    assert asked(s, s.valid) == [(0, [1], [4])]
    assert asked(s, s.test) == [(0, [1], [2, 5])]
