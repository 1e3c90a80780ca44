from semid.encoders.words import BUCKETS, word_rows


def test_words_of_two_texts_have_numbers_of_their_own_and_the_others_share_buckets():
    rows, count = word_rows(["Red case, red", "a RED cable", "case", ""], most=3)
    red, case = rows[0, 0], rows[0, 1]
    assert rows.shape == (4, 3)
    assert rows[0].tolist() == [red, case, red]
    assert rows[1, 1] == red
    assert rows[2].tolist() == [case, -1, -1]
    assert rows[3].tolist() == [-1, -1, -1]
    assert {red, case} == {BUCKETS, BUCKETS + 1}
    assert count == BUCKETS + 2
    assert 0 <= rows[1, 0] < BUCKETS  # "a", in one text alone
    assert 0 <= rows[1, 2] < BUCKETS


def test_without_texts_or_words_there_are_no_columns():
    assert word_rows(["", ""], most=3)[0].shape == (2, 0)
    assert word_rows(["red case"], most=0)[0].shape == (1, 0)
