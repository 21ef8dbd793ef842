"""Whoever can write the stored intent says what is closed, and no more: nothing in it reaches HAProxy as a command."""

from __future__ import annotations

import hashlib
import json

import pytest

from lbagent.errors import StoreError
from lbagent.store.codec import Damaged, decode
from tests.lab.clients import ask
from tests.lab.wait import eventually

POISON = [
    ("a newline in a key", lambda i: i["services"]["nova"].update(keys=["nova\nset server nova/ctl1 addr 127.0.0.9"])),
    ("a semicolon in a key", lambda i: i["services"]["nova"].update(keys=["nova;disable frontend nova_public"])),
    ("a blank in a key", lambda i: i["services"]["nova"].update(keys=["nova x"])),
    ("a newline in a service", lambda i: i["services"].update({"a\nb": i["services"]["nova"]})),
    ("a newline in a node", lambda i: i["drains"].update({"ctl1\nx": {}})),
    ("a command for a server", lambda i: i.update(drains={"ctl1": {"nova": {"servers": [["x", "y"]]}}})),
    (
        "a server with a blank",
        lambda i: i.update(drains={"ctl1": {"nova": {"servers": [{"backend": "a b", "server": "c"}]}}}),
    ),
    ("a control character in a reason", lambda i: i["services"]["nova"].update(reason="a\x1b[2Jb")),
    ("a reason without end", lambda i: i["services"]["nova"].update(reason="x" * 100_000)),
    ("a time that is none", lambda i: i["services"]["nova"].update(start=-1)),
    ("a revision that is none", lambda i: i.update(revision=-5)),
    ("a stamp with a newline", lambda i: i.update(trail=[{"revision": 1, "id": "a\nb"}])),
    ("an override with a newline", lambda i: i.update(exceptions={"a\nb": {"revision": 1}})),
]


def sealed(intent: dict) -> str:
    """As an attacker would store it: with a checksum that is right."""
    checksum = hashlib.sha256(json.dumps(intent, sort_keys=True).encode()).hexdigest()
    return json.dumps({"format": 1, "checksum": checksum, "intent": intent})


@pytest.mark.parametrize(("_", "poison"), POISON, ids=[name for name, _ in POISON])
def test_what_is_no_name_is_damage(_, poison):
    intent = {"revision": 3, "services": {"nova": {"mode": "down", "start": 1, "keys": ["nova"]}}, "drains": {}}
    assert decode(sealed(intent), "it").services["nova"].keys == ("nova",)
    poison(intent)
    with pytest.raises(Damaged) as damaged:
        decode(sealed(intent), "it")
    assert isinstance(damaged.value, StoreError)
    assert "\x1b" not in str(damaged.value)


@pytest.mark.parametrize("which", [0, 1], ids=["newline", "semicolon"])
def test_a_poisoned_intent_opens_nothing_and_redirects_nobody(lab, which):
    lab.agent.ok("down", "nova")
    lab.agent.kill()
    path = lab.folder / "intent.json"
    intent = json.loads(path.read_text())["intent"]
    intent["revision"] += 7
    POISON[which][1](intent)
    path.write_text(sealed(intent))
    lab.agent.start(in_sync=False)
    eventually(lambda: "rebuilt from what HAProxy holds" in lab.agent.log.read_text(), "it says that it was damaged")
    assert ask(lab.port["nova"]).status == 503
    assert lab.agent.service("nova")["mode"] == "down"
    assert lab.haproxy.server("nova/ctl1")["srv_addr"] == "127.0.0.1"
    assert ask(lab.port["keystone"]).status == 200
    assert "is damaged" in lab.agent.log.read_text()
    lab.agent.ok("up", "nova")
    assert ask(lab.port["nova"]).status == 200
