"""`up` waits for servers that HAProxy would use: nobody is let in to find the service dead."""

from __future__ import annotations

import signal
import time

import pytest

from tests.lab.clients import Load, ask
from tests.lab.wait import eventually


def stop(lab, name="nova"):
    for node in lab.nodes:
        lab.origins[node][name].sick = True
    eventually(lambda: not any(s["used"] for s in lab.agent.service(name)["servers"]), "every check has failed")


def cure(lab, name="nova"):
    for node in lab.nodes:
        lab.origins[node][name].sick = False


def test_up_onto_dead_servers_ends_with_4_and_names_them(lab):
    lab.agent.ok("down", "nova")
    stop(lab)
    late = lab.agent.lbctl("up", "nova", "--timeout", "1s")
    assert late.returncode == 4, late.stdout + late.stderr
    for node in lab.nodes:
        assert f"{node} down" in late.stderr
    assert ask(lab.port["nova"]).status == 503
    nova = lab.agent.service("nova")
    assert (nova["mode"], nova["asked"], nova["opening"]) == ("down", "down", False)
    cure(lab)
    eventually(lambda: all(s["used"] for s in lab.agent.service("nova")["servers"]), "they are well again")
    assert ask(lab.port["nova"]).status == 503, "the wish to open was withdrawn"
    lab.agent.ok("up", "nova")
    assert ask(lab.port["nova"]).status == 200


def test_up_ends_when_the_servers_are_well_and_no_request_fails_after(lab):
    lab.agent.ok("down", "nova")
    stop(lab)
    opening = lab.agent.begin("up", "nova")
    eventually(lambda: lab.agent.service("nova")["opening"], "it waits")
    with Load(lab.port["nova"]) as load:
        cure(lab)
        out, err = opening.communicate(timeout=20)
        returned = time.time()
        assert opening.returncode == 0, out + err
        eventually(lambda: sum(began > returned for began, _ in load.results) > 200, "clients go on")
    assert load.statuses(returned) == {200}


@pytest.mark.parametrize("how", ["Ctrl-C", "restart"])
def test_the_wish_to_open_goes_on(lab, how):
    lab.agent.ok("down", "nova")
    stop(lab)
    opening = lab.agent.begin("up", "nova")
    eventually(lambda: lab.agent.service("nova")["opening"], "it waits")
    opening.send_signal(signal.SIGINT)
    opening.communicate(timeout=10)
    if how == "restart":
        lab.agent.kill()
        lab.agent.start(in_sync=False)
    assert lab.agent.service("nova")["opening"]
    cure(lab)
    eventually(lambda: lab.agent.service("nova")["mode"] == "up", "it opens by itself")
    assert ask(lab.port["nova"]).status == 200


def test_force_opens_at_once(lab):
    lab.agent.ok("down", "nova")
    stop(lab)
    assert "nova opens though nova has no usable server" in lab.agent.lbctl("up", "nova", "--force").stderr
    assert lab.agent.service("nova")["mode"] == "up"


def test_what_is_closed_again_meanwhile_stays_closed(lab):
    lab.agent.ok("down", "nova")
    stop(lab)
    opening = lab.agent.begin("up", "nova")
    eventually(lambda: lab.agent.service("nova")["opening"], "it waits")
    lab.agent.ok("read-only", "nova")
    cure(lab)
    opening.communicate(timeout=20)
    assert opening.returncode == 1
    assert lab.agent.service("nova")["mode"] == "read-only"
