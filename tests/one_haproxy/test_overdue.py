"""A window past its end: status and metrics say so, and clients are told of no end that is not true any more."""

from __future__ import annotations

from tests.lab.clients import ask
from tests.lab.wait import eventually


def test_a_window_past_its_end(lab):
    lab.agent.ok("down", "nova", "--for", "2s", "--reason", "schema upgrade")
    [window] = lab.agent.service("nova")["windows"]
    assert not window["overdue"]
    assert "until about" in ask(lab.port["nova"]).body.decode()
    eventually(lambda: lab.agent.service("nova")["windows"][0]["overdue"], "it is overdue")
    eventually(lambda: "until about" not in ask(lab.port["nova"]).body.decode(), "no past time is named")
    answer = ask(lab.port["nova"])
    assert (answer.status, "x-maintenance-until" in answer.headers) == (503, False)
    assert int(answer.headers["retry-after"]) >= 1
    assert "overdue" in lab.agent.ok("status")
    metrics = ask(lab.agent.metrics_port, path="/metrics").body.decode()
    assert 'lbagent_service_overdue{service="nova"} 1.0' in metrics
    assert 'lbagent_service_overdue{service="keystone"} 0.0' in metrics
    lab.agent.ok("down", "nova", "--for", "10m")
    assert "until about" in ask(lab.port["nova"]).body.decode()
