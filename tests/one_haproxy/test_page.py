"""The page that browsers get, in a real Chromium: the countdown moves, and after `up` it turns into the service."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from tests.lab.ports import free_port
from tests.lab.wait import eventually

ARTEFACTS = Path(os.environ.get("LBAGENT_TEST_ARTEFACTS", Path(__file__).parents[2] / ".artefacts"))


class Browser:
    """Chromium through chromedriver, by the WebDriver protocol (W3C)."""

    def __init__(self) -> None:
        assert shutil.which("chromedriver"), "chromedriver is in Debian's chromium-driver package"
        self.port = free_port()
        self.profile = tempfile.mkdtemp(prefix="lba-chromium-")
        self.process = subprocess.Popen(
            ["chromedriver", f"--port={self.port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._ready, "chromedriver serves", 30)
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--window-size=900,600", f"--user-data-dir={self.profile}",
        ]  # fmt: skip
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "timeouts": {"pageLoad": 60000}}
        self.session = self.call("POST", "session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ready(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.call("GET", "status")["ready"])
        return False

    def call(self, method: str, path: str, body: object = None):
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=90) as answer:  # noqa: S310 chromedriver on loopback
            return json.load(answer)["value"]

    def go(self, url: str) -> None:
        self.call("POST", f"session/{self.session}/url", {"url": url})

    def run(self, script: str):
        return self.call("POST", f"session/{self.session}/execute/sync", {"script": script, "args": []})

    def text(self) -> str:
        return self.run("return document.body.innerText")

    def screenshot(self, name: str) -> Path:
        import base64  # noqa: PLC0415

        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / name
        path.write_bytes(base64.b64decode(self.call("GET", f"session/{self.session}/screenshot")))
        return path

    def close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.call("DELETE", f"session/{self.session}")
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.profile, ignore_errors=True)


@pytest.fixture
def browser():
    one = Browser()
    yield one
    one.close()


@pytest.mark.slow
def test_the_page_counts_down_and_turns_into_the_service(make_lab, browser):
    lab = make_lab(services=("horizon",), settings={"retry_after": {"floor": 20, "cap": 600, "spread": 1}})
    reason = 'new dashboard <b>&</b> "quotes"\nsecond line 🚧'
    lab.agent.ok("down", "horizon", "--for", "3m", "--reason", reason)
    browser.go(f"http://127.0.0.1:{lab.port['horizon']}/")
    text = browser.text()
    assert "horizon is closed for maintenance" in text
    assert '<b>&</b> "quotes"' in text
    assert "second line 🚧" in text
    assert "Expected to end at" in text
    assert browser.run("return Intl.DateTimeFormat().resolvedOptions().timeZone") in text
    left = browser.run("return document.getElementById('left').textContent")
    eventually(lambda: browser.run("return document.getElementById('left').textContent") != left, "the countdown moves")
    assert browser.screenshot("maintenance-page.png").stat().st_size > 5000
    assert browser.run("return document.documentElement.lang") == "en"
    assert browser.run("return document.querySelectorAll('script[src], link[href], img').length") == 0
    began = time.time()
    lab.agent.ok("up", "horizon")
    eventually(lambda: "horizon" in browser.text() and "origin" in browser.text(), "the page is the service", 40)
    assert time.time() - began < 40
