"""Durations and times, as operators write them."""

from __future__ import annotations

import time

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


def test_a_time_without_an_offset_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")  # POSIX: two hours east of Greenwich
    time.tzset()
    try:
        assert when.moment("2026-12-01T04:00:00", "at") == 1796090400
    finally:
        monkeypatch.undo()
        time.tzset()


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
