"""The pause between two ticks grows with what a tick costs."""

from __future__ import annotations

import pytest

from lbagent.agent.pace import LONGEST, SHORTEST, Pace


@pytest.mark.parametrize(("cost", "pause"), [(0.0, SHORTEST), (0.005, SHORTEST), (0.05, 5.0), (3.0, LONGEST)])
def test_a_tick_takes_at_most_a_hundredth_of_a_core(cost: float, pause: float) -> None:
    now = 0.0
    pace = Pace(lambda: now)
    for _ in range(5):
        pace.begin()
        now += cost
        pace.end()
    assert pace.pause == pytest.approx(pause)


def test_one_tick_beside_other_work_slows_nothing_down() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    for cost in (0.004, 0.9, 0.004):
        pace.begin()
        now += cost
        pace.end()
    assert pace.pause == SHORTEST
