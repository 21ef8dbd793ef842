"""The log stays small whatever goes on, and says what it has left out."""

from __future__ import annotations

import io
import logging

import pytest

from lbagent.journal import KINDS, LONGEST, OnceAMinute


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def journal(request: pytest.FixtureRequest) -> tuple[logging.Logger, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    handler = logging.StreamHandler(stream)
    handler.addFilter(OnceAMinute(clock))
    log = logging.Logger(request.node.name)
    log.addHandler(handler)
    return log, stream, clock


def test_one_line_of_a_kind_a_minute_with_a_count(journal):
    log, stream, clock = journal
    for second in range(1200):
        clock.now = second / 20  # 60 seconds
        log.warning("worker %d does not answer", second)
    clock.now = 61
    for pid in (7, 8):
        log.warning("worker %d does not answer", pid)
    assert stream.getvalue().splitlines()[0] == "worker 0 does not answer"
    assert len(stream.getvalue().splitlines()) == 2  # the place in the program is another


def test_the_same_place_is_counted(journal):
    log, stream, clock = journal
    for moment in (0, 1, 2, 61, 62):
        clock.now = moment
        log.warning("worker %d does not answer", moment)
    assert stream.getvalue().splitlines() == [
        "worker 0 does not answer",
        "worker 61 does not answer (2 more like this in the last minute)",
    ]


def test_what_was_left_out_of_another_kind_is_not_forgotten(journal):
    log, stream, clock = journal
    for moment in range(5):
        clock.now = moment
        log.warning("no room")
    clock.now = 70
    log.info("ready")
    assert stream.getvalue().splitlines()[1] == "ready (4 lines of other kinds were left out in the last minute)"


def test_different_things_at_one_place_are_different_kinds_up_to_a_bound(journal):
    log, stream, _ = journal
    names = [f"node {chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(500)]
    for name in names:
        log.warning("%s is away", name)
    assert len(stream.getvalue().splitlines()) == KINDS + 1


def test_a_message_that_is_too_long_is_cut(journal):
    log, stream, _ = journal
    log.error("%s", "x" * 10_000_000)
    assert len(stream.getvalue()) < LONGEST + 100


def test_a_traceback_comes_with_its_first_line_only_once_a_minute(journal):
    log, stream, _ = journal
    for _ in range(100):
        try:
            raise ValueError("a defect")
        except ValueError:
            log.exception("tick failed")
    assert stream.getvalue().count("Traceback") == 1
