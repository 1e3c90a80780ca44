"""Rules over the catalogue: what they mean, and what they may not do."""

import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semid.data.where import mask
from semid.errors import DataError
from semid.types import Catalog, IdMap

TABLE = pa.table({"item_id": ["a", "b", "c", "d"], "price": [5.0, 15.0, 25.0, None], "brand": ["X", "Y", None, "it's"],
                  "categories": [["red", "big"], ["blue"], [], None], "two words": [1, 2, 3, 4]})
CATALOG = Catalog(IdMap(["a", "b", "c", "d"]), TABLE)


@pytest.mark.parametrize(("where", "want"), [
    ("price < 20", "ab"), ("price < 20 and brand = 'X'", "a"), ("not price < 20", "c"), ("price is null", "d"),
    ("brand in ('X', 'Y')", "ab"), ("brand like '%''s'", "d"), ("list_contains(categories, 'red')", "a"),
    ("'blue' in categories", "b"),
    ("len(categories) = 0", "c"), ("lower(brand) = 'x'", "a"), ("price between 10 and 30", "bc"), ('"two words" % 2 = 0', "bd"),
    ("PRICE > 20 -- a remark", "c"), ("item_id = 'd'", "d"), ("price * 2 >= 30 or item_id in ('a')", "abc"), ("true", "abcd"),
    ("brand = 'it''s'", "d"), ("price < 1.5e1", "a"), ("price in (5, 25.0)", "ac"), ("brand <> 'é\n日'", "abd"),
    ("brand in (')', '((', 'X') -- :(", "a"), ("(" * 100 + "price < 20" + ")" * 100, "ab"),
    ("brand is not null and date'2026-01-31' > '2026-01-01'", "abd"),
    ("price::varchar = '5.0'", "a"), ("case when price > 10 then true else false end", "bc")])
def test_conditions_select_the_items_they_say(where, want):
    assert "".join(CATALOG.items.ids[mask(CATALOG, where)]) == want


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 30), st.sampled_from(["<", "<=", "=", ">", ">=", "<>"]))
def test_comparisons_equal_numpy(limit, sign):
    price = np.array([5.0, 15.0, 25.0, np.nan])
    want = {"<": price < limit, "<=": price <= limit, "=": price == limit, ">": price > limit, ">=": price >= limit,
            "<>": (price != limit) & ~np.isnan(price)}[sign]
    if want.any():
        assert mask(CATALOG, f"price {sign} {limit}").tolist() == want.tolist()
    else:
        with pytest.raises(DataError, match="no item of 4 matches"):
            mask(CATALOG, f"price {sign} {limit}")


@pytest.mark.parametrize(("where", "message"), [
    ("prise < 20", r"unknown column 'prise' \(did you mean 'price'\?\); the columns are: 'item_id', 'price'"),
    ('brand = "X"', "unknown column 'X'.*single quotes"), ("price < < 20", "syntax error.*at character 9"),
    ("price <", "it breaks off at the end"), ("", "got nothing"), ("brand", "want a condition that is true or false"),
    ("brand = 'Z'", "no item of 4 matches"), ("categories = 'red'", r"list_contains\(categories, 'x'\)"),
    ("price = 'cheap'", "Could not convert string 'cheap'"),
    ("lowr(brand) = 'x'", r"unknown function 'lowr' \(did you mean 'lower'\?\)"),
    ("(" * 1000, "more than 100 parentheses inside one another"), ("(price < 20", "the parenthesis at character 1 is not closed"),
    ("price < 20) or (true", "the parenthesis at character 11 closes none"), ("brand = 'X", "' at character 9 is not closed"),
    ("brand = $$X$$", "may stand in quotes alone"), ("brand = e'\\'' or " + "(" * 100 + "'", "is not closed"),
    ("true " + "or true " * 5000, "at most 20,000 characters"), ("not " * 3000 + "true", "depth")])
def test_mistakes_are_explained(where, message):
    with pytest.raises(DataError, match=message):
        mask(CATALOG, where)


def test_a_condition_that_the_parser_needs_long_for_is_refused_at_once():
    begin = time.process_time()
    for where in ("(" * 2000, "e'\\'' or " + "(" * 1900 + "'", "$$'$$ = " + "(" * 1900 + "'", "/* /* */ ' */" + "(" * 1900 + "'"):
        with pytest.raises(DataError):
            mask(CATALOG, where)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize("where", [
    "(select true)", "exists (select 1 from read_csv('/etc/passwd'))", "price in (select 5)", "true; drop table catalog",
    "true) from read_csv('/etc/passwd') --", "true) , (true", "true) from catalog union select (true",
    "true) from catalog where (true",
    "read_text('/etc/passwd') = 'x'", "getenv('HOME') = 'x'", "current_setting('memory_limit') = 'x'",
    "count(*) > 1", "price = ?",
    "price = $1", "columns(*) is null", "*", "row_number() over () = 1", "list_filter(categories, x -> true) = []", "#1 = 1",
    "length(replace(replace(brand, 'a', 'aaaaaaaaaaaa'), 'a', 'aaaaaaaaaaaa')) > 5",
    "repeat('x', 1000000000) = 'x'", "random() < 0.5", "price > (with t as (select 1 as x) select x from t)", "true /*",
    "price < 10) or (price > 20", "price < 10)", "(price < 10", "true;", "true order by price", "true offset 1", "true window w as ()",
    "catalog.price = 5",
    "true limit 1"])
def test_nothing_but_a_plain_condition_gets_through(where):
    with pytest.raises(DataError):
        mask(CATALOG, where)
