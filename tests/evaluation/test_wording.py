"""Numbers as a reader wants them."""

import pytest

from semid.evaluation.wording import (
    THIN,
    clean,
    count,
    duration,
    escape,
    fraction,
    large,
    p_value,
    percent,
    plain,
    shorten,
    tick_text,
)

CASES = [
    (fraction(.08124), ".0812"), (fraction(0.0), ".0000"), (fraction(-.5, 2), "−.50"), (fraction(-1e-9), ".0000"),
    (fraction(.99999), "1.0000"), (fraction(float("nan")), "–"),
    (plain(2.30259), "2.3"), (plain(1234.5), "1234"), (plain(3e-7), "3e-7"), (plain(-.5), "−0.5"), (plain(float("inf")), "–"),
    (count(12101), "12 101"), (count(-1000), "−1 000"), (large(1_930_000), "1.93 M"), (large(999), "999"),
    (duration(252), "4 min 12 s"), (duration(60), "1 min"), (duration(59.96), "60 s"), (duration(7300), "2 h 2 min"),
    (duration(.004), "0.004 s"),
    (percent(.1234), "12 %"), (percent(-.0123, sign=True), "−1.2 %"), (percent(0.0, sign=True), "0 %"),
    (percent(.0996), "10 %"),
    (p_value(.0031), "p = .003"), (p_value(.0001), "p < .001"), (p_value(.999), "p = 1.0"), (p_value(.41), "p = .41"),
    (tick_text(.05, .05), ".05"), (tick_text(1.0, .2), "1.0"), (tick_text(0, .2), "0"), (tick_text(2000, 1000), "2 000"),
    (tick_text(.00075, .00025), "7.5e−4"),
    (tick_text(.0715, .0005), ".0715"), (tick_text(-.5, .25), "−.50"), (shorten("a  long\ntitle", 8), "a long…"),
]


@pytest.mark.parametrize(("got", "wanted"), CASES)
def test_wording(got, wanted):
    assert got.replace(THIN, " ") == wanted


def test_text_that_utf8_cannot_hold_is_replaced():
    assert clean("a\ud800\x00b\nc") == "a??b\nc"
    assert escape("<a b='c'>&\"") == "&lt;a b=&#x27;c&#x27;&gt;&amp;&quot;"
