"""Every command of the manual is run: page by page, in the page's order, and prints what the page shows.

A page's commands are typed into one shell beside a running lab. What no lab can run stands in ``ELSEWHERE`` and
``machines``, with the reason.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.blocks import OURS, Block, blocks, commands
from tests.docs.session import Session
from tests.lab.agent import BIN
from tests.lab.one_haproxy import Lab
from tests.lab.several_haproxies import ControlPlane, control_plane
from tests.lab.wait import eventually
from tests.several.test_vip import configuration

ELSEWHERE = {
    ("README.md", "make demo"): "run by tests/one_haproxy/test_demo.py",
    ("README.md", "make test"): "is what runs this",
}
"""(page, command) → why it is not run here."""

ONE_HAPROXY = ("docs/first-drain.md", "docs/schema-upgrade.md", "docs/read-only.md")
PATH = f"{BIN}:{os.environ['PATH']}"
UNITS = "nova-api nova-conductor nova-scheduler"


def run(session: Session, page: str, configure: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Every command of a page; ``configure`` is given its configurations, at their places between the commands."""
    for block in blocks(page):
        if block.language == "console":
            _run(session, block)
        elif configure is not None and block.text.startswith(OURS):
            configure(yaml.safe_load(block.text))


def _run(session: Session, block: Block) -> None:
    typed = [c for c in commands(block) if (block.page, c.typed) not in ELSEWHERE]
    for command, after in zip(typed, [*typed[1:], None], strict=True):
        session.run(command, fails=after is not None and after.typed == "echo $?")


# ------------------------------------------------------------------------------------------- one HAProxy


@pytest.mark.parametrize("page", ONE_HAPROXY)
def test_a_page_about_one_haproxy(page: str, make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(("keystone", "nova"))
    secret = lab.folder / "bypass-secret"
    secret.write_text("correct horse battery staple\n")
    for name in ("patch.sh", "migrate.sh"):
        script = lab.folder / name
        script.write_text("#!/bin/sh\n")
        script.chmod(0o755)
    to = " ".join(
        f"--connect-to cloud.example:{port}:127.0.0.1:{lab.port[service]}"
        for service, port in (("keystone", 5000), ("nova", 8774))
    )
    session = Session(
        {**lab.agent.env(), "PATH": PATH},
        lab.folder,
        places={"/etc/lbagent/bypass-secret": str(secret)},
        stand_ins=machines(lab),
        prelude=f'curl() {{ command curl {to} "$@"; }}',
    )
    with closing(session):
        run(session, page, lambda tree: configure(lab, tree, secret))


def machines(lab: Lab) -> dict[str, Callable[[], None]]:
    """What the manual types on other hosts, which a lab does not have: here the origins of a node stop and start."""
    found: dict[str, Callable[[], None]] = {
        "ssh ctl2 'apt-get --yes upgrade && systemctl reboot'": lambda: restart(lab, "ctl2"),
        "ssh ctl1 'nova-manage api_db sync && nova-manage db sync'": lambda: None,
    }
    for node in lab.nodes:
        nova = lab.origins[node]["nova"]
        found[f"ssh {node} 'systemctl stop {UNITS}'"] = nova.stop
        found[f"ssh {node} 'systemctl start {UNITS}'"] = lambda node=node: start(lab, node)
    return found


def restart(lab: Lab, node: str) -> None:
    for origin in lab.origins[node].values():
        origin.stop()
        origin.start()


def start(lab: Lab, node: str) -> None:
    lab.origins[node]["nova"].start()
    eventually(lambda: lab.haproxy.server(f"nova/{node}")["srv_op_state"] == "2", f"nova/{node} is up")


def configure(lab: Lab, tree: dict[str, Any], secret: Path) -> None:
    """Lay a configuration of the page over the lab's, and have the agent read it again."""
    agent = lab.agent
    if "bypass" in tree:
        tree["bypass"]["secret_file"] = str(secret)
    agent.settings = laid_over(agent.settings, tree)
    agent.write()
    read = agent.log.read_text().count("configuration read again")
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    eventually(
        lambda: agent.log.read_text().count("configuration read again") > read and agent.status()["haproxy"]["in_sync"],
        lambda: f"the agent takes the page's configuration: {agent.log.read_text()[-2000:]}",
    )


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        out[key] = laid_over(out.get(key) or {}, value) if isinstance(value, dict) else value
    return out


# ------------------------------------------------------------------------------------- several HAProxies


def beside(made: ControlPlane, prelude: str = "") -> Session:
    """A shell on ctl1, where the manual's addresses are this control plane's."""
    password = made.folder / "etcd-password"
    password.write_text("correct horse battery staple\n")
    first = made.host["ctl1"]
    return Session(
        {**first.agent.env(), "PATH": PATH, "ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": made.etcd["ctl1"].url},
        first.folder,
        places={
            **{f"10.0.0.1{i}": made.net.address[f"ctl{i}"] for i in (1, 2, 3)},
            "10.0.0.100": made.net.vip,
            "/etc/lbagent/etcd-password": str(password),
        },
        stand_ins={"ssh ctl3 'systemctl disable --now lbagent.service lbagent.socket'": lambda: leave(made, "ctl3")},
        prelude=prelude,
        inside=made.net.inside("ctl1"),
    )


def leave(made: ControlPlane, name: str) -> None:
    made.host[name].agent.stop()
    eventually(lambda: not made.host["ctl1"].agent_of(name)["alive"], f"{name} is away")


@pytest.mark.slow
def test_the_page_about_several_haproxies() -> None:
    with control_plane() as made, closing(beside(made)) as session:
        run(session, "docs/several-haproxies.md")


@pytest.mark.slow
def test_the_page_about_the_virtual_address() -> None:
    with control_plane(vip=configuration, bind="transparent") as made:
        pacemaker = "pcs() { :; }"  # not on this machine; the page's own commands around it are lbctl's
        with closing(beside(made, pacemaker)) as session:
            run(session, "docs/virtual-address.md")
