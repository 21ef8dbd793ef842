"""The demo: given an lbagent that works, it ends well; given a lab that does not, it says so."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import demo
from tests.lab.clients import ask

ROOT = Path(__file__).resolve().parents[2]
STEPS = (
    "An ordinary day",
    "Drain ctl2",
    "Patch ctl2",
    "Ready ctl2",
    "Keystone read-only",
    "Nova down",
    "The agent is killed",
    "The agent starts again",
    "Both up",
)


def begin(**environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "tests.demo"],
        cwd=ROOT,
        env={**os.environ, "KEEP": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_step_as_expected():
    """As `make demo` runs it: exit 0, each step in its place, commands as typed, no colour in a pipe."""
    done = begin()
    output, _ = done.communicate(timeout=100)
    assert done.returncode == 0, output
    found = re.findall(r"^\d+\. (.*)$", output, re.MULTILINE)
    assert len(found) == len(STEPS)
    assert all(seen.startswith(step) for seen, step in zip(found, STEPS, strict=True))
    assert "$ lbctl down nova --for 20m --reason 'schema upgrade'" in output
    assert "DIFFERS" not in output
    assert "\033" not in output


def stop_nova(made: demo.Demo) -> None:
    for services in made.lab.origins.values():
        services["nova"].stop()


def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Nova's servers are dead on what should be an ordinary day: exit 1, at the very lines."""
    monkeypatch.delenv("KEEP", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    monkeypatch.setattr(demo, "STEPS", (stop_nova, demo.ordinary))
    assert demo.main() == 1
    output = capsys.readouterr().out
    assert re.search(r"^  GET nova  .* 200 .* 503 .*DIFFERS$", output, re.MULTILINE), output
    assert re.search(r"^  GET keystone  .* 200 .* 200 .*ok$", output, re.MULTILINE), output
    assert re.search(r"^1 steps, .* DIFFER ", output, re.MULTILINE), output


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_keep_leaves_it_running_until_told(signum: int, code: int):
    """KEEP=1 says how to explore; what it says works; afterwards nothing is left."""
    kept = begin(KEEP="1")
    text = read_until(kept, "Ctrl-C")
    try:
        socket = Path(re.search(r"LBAGENT_SOCKET=(\S+)", text)[1])  # type: ignore[index]
        ports = [int(port) for port in re.findall(r"curl \S+ http://127\.0\.0\.1:(\d+)/", text)]
        assert len(ports) == 5
        assert {ask(port, path="/metrics").status for port in ports} == {200}
        assert lbctl(socket, "status").returncode == 0
    finally:
        kept.send_signal(signum)
        rest, _ = kept.communicate(timeout=30)
    assert kept.returncode == code, rest
    assert not socket.parent.exists()
    left = subprocess.run(["pgrep", "-f", str(socket.parent)], capture_output=True, text=True, check=False)
    assert left.stdout == ""


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if word in line:
            return text
    raise AssertionError(f"it ended before it said {word}:\n{text}")


def lbctl(socket: Path, *arguments: str) -> subprocess.CompletedProcess[Any]:
    command = [Path(sys.executable).parent / "lbctl", "--socket", str(socket), *arguments]
    return subprocess.run(command, capture_output=True, check=False, timeout=20)
