"""Guessing columns: usual names are found, doubt is an error that names the option."""

import pytest

from semid.data.columns import EVENT_ROLES, ITEM_ROLES, guess, is_identifier, require
from semid.errors import DataError


@pytest.mark.parametrize(("header", "want"), [
    ("user_id item_id timestamp", {"user": "user_id", "item": "item_id", "time": "timestamp"}),
    ("userId movieId rating timestamp", {"user": "userId", "item": "movieId", "time": "timestamp", "value": "rating"}),
    ("reviewerID asin reviewerName helpful reviewText overall summary unixReviewTime reviewTime",
     {"user": "reviewerID", "item": "asin", "time": "unixReviewTime", "value": "overall"}),
    ("rating title text asin parent_asin user_id timestamp verified_purchase",
     {"user": "user_id", "item": "parent_asin", "time": "timestamp", "value": "rating"}),
    ("customer_id article_id t_dat", {"user": "customer_id", "item": "article_id", "time": "t_dat"}),
    ("InvoiceNo StockCode Quantity InvoiceDate CustomerID", {"user": "CustomerID", "item": "StockCode", "time": "InvoiceDate"}),
    ("customer sku ordered_at", {"user": "customer", "item": "sku", "time": "ordered_at"}),
    ("visitorid itemid event timestamp", {"user": "visitorid", "item": "itemid", "time": "timestamp", "action": "event"}),
    ("session_id sku date", {"user": "session_id", "item": "sku", "time": "date"}),
    ("uid iid position split", {"user": "uid", "item": "iid", "position": "position", "split": "split"})])
def test_usual_headers_are_understood(header, want):
    assert guess(header.split(), {}, EVENT_ROLES, "f").chosen == want


def test_case_blanks_and_marks_do_not_matter():
    assert guess(["User ID", "Item-Id", "TIME STAMP"], {}, EVENT_ROLES, "f").chosen == {
        "user": "User ID", "item": "Item-Id", "time": "TIME STAMP"}


def test_two_equal_candidates_are_an_error_that_names_the_option():
    with pytest.raises(DataError, match=r"'user_id', 'customer_id' could each be the user column; .*--user user_id"):
        guess(["user_id", "customer_id", "item_id"], {}, EVENT_ROLES, "f")
    with pytest.raises(DataError, match="--item-id"):
        guess(["item_id", "sku"], {}, ITEM_ROLES, "f", {"item": "item_id"})


def test_a_given_name_decides_and_the_empty_name_means_none():
    names = ["user_id", "customer_id", "item_id", "timestamp"]
    found = guess(names, {"user": "customer_id", "time": ""}, EVENT_ROLES, "f")
    assert found.chosen == {"user": "customer_id", "item": "item_id"}
    assert found.guessed == ("item",)


def test_a_given_column_is_not_guessed_for_another_role():
    assert guess(["item_id", "who"], {"user": "item_id"}, EVENT_ROLES, "f").chosen == {"user": "item_id"}


def test_a_name_that_is_not_there_gets_the_nearest():
    with pytest.raises(DataError, match=r"'usr_id' for --user \(did you mean 'user_id'\?\); the columns are: 'user_id'"):
        guess(["user_id", "item_id"], {"user": "usr_id"}, EVENT_ROLES, "f")


def test_one_column_cannot_have_two_roles():
    with pytest.raises(DataError, match="given for user and item"):
        guess(["a"], {"user": "a", "item": "a"}, EVENT_ROLES, "f")


def test_runners_up_are_noted():
    assert "not 'asin'" in guess(["parent_asin", "asin"], {}, EVENT_ROLES, "f").notes[0]


def test_a_missing_role_lists_the_columns_and_the_option():
    with pytest.raises(DataError, match=r"f: no user column found among 'a', 'b'; name it with --user COLUMN"):
        require(guess(["a", "b"], {}, EVENT_ROLES, "f"), "user", ["a", "b"], "f")


@pytest.mark.parametrize("name", ["id", "imdb_id", "letter_sid", "colarec_gid", "movieId", "imageURL", "isbn", "attribute_ids"])
def test_identifiers_are_no_text(name):
    assert is_identifier(name)


@pytest.mark.parametrize("name", ["title", "brand", "paid", "kids", "description", "categories", "grid"])
def test_words_that_end_in_id_are_text(name):
    assert not is_identifier(name)
