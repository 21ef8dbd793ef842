"""Durations and times, as operators write them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbagent.errors import LbagentError
from lbagent.model import times as when
from tests.lab.model_haproxy import examples

YEAR = 366 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("20m", 1200), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1s", 1), ("366d", YEAR)],
)
def test_a_duration_reads_as_people_write_it(text: str, seconds: int) -> None:
    assert when.duration(text, "for") == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "m",
        "20 m",
        " 20m",
        "20m ",
        "20M",
        "-20m",
        "1.5h",
        "0s",
        "367d",
        "20m5",
        "20mm",
        "9999999999s",
        "٢٠m",
        None,
        20,
        [],
    ],
)
def test_what_is_no_duration_is_refused_by_the_name_of_its_field(text: object) -> None:
    with pytest.raises(LbagentError, match=r"^for: .* is not a duration such as 90s, 20m or 2h$") as refused:
        when.duration(text, "for")
    assert refused.value.code == "bad_request"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-12-01T02:00:00Z", 1796090400),
        ("2026-12-01T03:00:00+01:00", 1796090400),
        ("2026-12-01 02:00:00+00:00", 1796090400),
        ("2026-12-01T02:00Z", 1796090400),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_a_time_is_iso_8601(text: str, seconds: int) -> None:
    assert when.moment(text, "at") == seconds


def test_a_time_without_an_offset_is_refused_where_its_zone_is_not_known() -> None:
    with pytest.raises(LbagentError, match=r"^at: '2026-12-01T04:00:00' has no zone: add Z"):
        when.moment("2026-12-01T04:00:00", "at")


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """This process in another time zone."""

    def move(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield move
    monkeypatch.undo()
    time.tzset()


TOKYO, BERLIN = "Asia/Tokyo", "Europe/Berlin"
NOON = 1796126400  # 2026-12-01T12:00:00Z


@pytest.mark.parametrize(
    ("zone", "text", "after", "moment"),
    [
        (TOKYO, "2026-12-01T23:00:00", NOON, "2026-12-01T23:00:00+09:00"),
        (TOKYO, "2026-12-01 23:00", NOON, "2026-12-01T23:00:00+09:00"),
        (TOKYO, "2026-12-01T23:00:00Z", NOON, "2026-12-01T23:00:00+00:00"),
        (TOKYO, "23:00", NOON, "2026-12-01T23:00:00+09:00"),
        (TOKYO, "20:59", NOON, "2026-12-02T20:59:00+09:00"),
        (TOKYO, "21:00", NOON, "2026-12-02T21:00:00+09:00"),
        (TOKYO, "21:00:01", NOON, "2026-12-01T21:00:01+09:00"),
        (TOKYO, "14:00Z", NOON, "2026-12-01T14:00:00+00:00"),
        (TOKYO, "02:00+02:00", NOON, "2026-12-02T02:00:00+02:00"),
        (BERLIN, "2027-03-28T01:59", NOON, "2027-03-28T01:59:00+01:00"),
        (BERLIN, "2027-03-28T03:00", NOON, "2027-03-28T03:00:00+02:00"),
        (BERLIN, "2026-10-25T01:59", 0, "2026-10-25T01:59:00+02:00"),
        (BERLIN, "2026-10-25T02:30+01:00", 0, "2026-10-25T02:30:00+01:00"),
        (BERLIN, "02:30", 1806231600, "2027-03-29T02:30:00+02:00"),
        ("UTC", "2026-12-01", 0, "2026-12-01T00:00:00+00:00"),
    ],
)
def test_a_time_is_in_the_zone_of_whoever_types_it(
    in_zone: Callable[[str], None], zone: str, text: str, after: float, moment: str
) -> None:
    in_zone(zone)
    assert when.typed(text, "at", after).isoformat() == moment


@pytest.mark.parametrize(
    ("text", "after", "words"),
    [
        ("2027-03-28T02:30", NOON, "02:30 on 2027-03-28 does not exist in this zone"),
        ("02:30", 1806184800, "02:30 on 2027-03-28 does not exist"),
        ("2026-10-25T02:30", 0, "give 2026-10-25T02:30:00\\+02:00 or 2026-10-25T02:30:00\\+01:00"),
        ("soon", 0, "'soon' is not a time such as"),
        ("25:00", 0, "'25:00' is not a time"),
        ("2026-13-01T00:00", 0, "is not a time"),
    ],
)
def test_a_time_that_the_zone_does_not_have_or_has_twice_is_refused(
    in_zone: Callable[[str], None], text: str, after: float, words: str
) -> None:
    in_zone(BERLIN)
    with pytest.raises(LbagentError, match=words):
        when.typed(text, "at", after)


def test_a_moment_is_shown_with_its_offset(in_zone: Callable[[str], None]) -> None:
    in_zone(TOKYO)
    assert when.shown(NOON) == "2026-12-01T21:00:00+09:00"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "02:00",
        "2026-13-01T00:00Z",
        "0001-01-01T00:00:00",
        "9999-12-31T23:59:59Z",
        "1969-12-31T00:00:00Z",
        1796090400,
        None,
    ],
)
def test_what_is_no_time_is_refused_by_the_name_of_its_field(text: object) -> None:
    with pytest.raises(LbagentError, match=r"^at: .* is not an ISO 8601 time") as refused:
        when.moment(text, "at")
    assert refused.value.code == "bad_request"


@examples(100)
@given(st.text() | st.from_regex(r"\A[0-9smhd]{1,12}\Z") | st.integers() | st.none())
def test_reading_fails_in_one_way_only(text: object) -> None:
    for read in (when.duration, when.moment):
        try:
            assert isinstance(read(text, "for"), int)
        except LbagentError as refused:
            assert refused.code == "bad_request"


@examples(100)
@given(st.integers(1, YEAR))
def test_what_is_written_reads_back(seconds: int) -> None:
    assert when.duration(when.short(seconds), "for") == seconds


@examples(100)
@given(st.integers(0, 4_000_000_000))
def test_times_read_back(seconds: int) -> None:
    assert when.moment(when.iso(seconds), "at") == seconds


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (-3, "0s"), (59.6, "1m"), (90, "1m30s"), (3600, "1h"), (90061, "1d1h1m1s")]
)
def test_short(seconds: float, text: str) -> None:
    assert when.short(seconds) == text
