"""Times are in the zone of whoever types them, wherever the agent is, and every answer shows that zone."""

from __future__ import annotations

import subprocess

import pytest

from tests.lab.agent import BIN


def lbctl(lab, zone: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**lab.agent.env(), "TZ": zone}
    return subprocess.run([BIN / "lbctl", *words], capture_output=True, text=True, check=False, env=environment)


def test_until_is_in_the_callers_zone_and_is_echoed(lab):
    done = lbctl(lab, "Asia/Tokyo", "down", "nova", "--until", "2098-12-01T23:00:00")
    assert done.returncode == 0, done.stderr
    assert "expected to end 2098-12-01T23:00:00+09:00" in done.stdout
    assert lab.agent.service("nova")["until"] == 4068280800  # 2098-12-01T14:00:00Z
    assert "+0900" in lbctl(lab, "Asia/Tokyo", "status").stdout
    assert "+0900" not in lbctl(lab, "UTC", "status").stdout


def test_a_window_ahead_is_echoed_with_its_zone_before_anything_is_done(lab):
    words = ("down", "nova", "--at", "2098-12-01T23:00", "--for", "20m")
    dry = lbctl(lab, "Asia/Tokyo", *words, "--dry-run")
    assert "from 2098-12-01T23:00:00+09:00, expected to end 2098-12-01T23:20:00+09:00" in dry.stderr
    done = lbctl(lab, "Asia/Tokyo", *words)
    assert "down from 2098-12-01T23:00:00+09:00" in done.stdout
    assert lab.agent.service("nova")["start"] == 4068280800


@pytest.mark.parametrize("time", ["2027-03-28T02:30", "2026-10-25T02:30"])
def test_a_time_that_the_zone_does_not_have_is_refused(lab, time):
    done = lbctl(lab, "Europe/Berlin", "down", "nova", "--at", time)
    assert done.returncode == 2
    assert "in this zone" in done.stderr
    assert lab.agent.service("nova")["mode"] == "up"


def test_the_socket_refuses_a_time_whose_zone_nobody_knows(lab):
    answer = lab.agent.lbctl("status", "--json")
    assert answer.returncode == 0
    body = '{"services": {"nova": {"mode": "down"}}, "until": "2098-12-01T23:00:00"}'
    asked = subprocess.run(
        ["curl", "-s", "--unix-socket", lab.agent.socket, "-d", body, "http://lbagent/v1/changes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has no zone" in asked.stdout
