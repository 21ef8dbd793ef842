"""Every command of the manual is run: page by page, in the page's order, and prints what the page shows.

A page's commands are typed into one shell beside a running lab. What no lab can run stands in ``ELSEWHERE`` and
``machines``, with the reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbagent.settings import shipped
from tests.docs.blocks import OURS, ROOT, Block, blocks, commands
from tests.docs.session import Session
from tests.lab.agent import BIN
from tests.lab.one_haproxy import Lab
from tests.lab.several_haproxies import ControlPlane, control_plane
from tests.lab.wait import eventually
from tests.one_haproxy.test_deployers import LAYOUTS, Site
from tests.several.test_vip import configuration
from tests.system.test_boot import Machine, wheels

ELSEWHERE = {
    ("README.md", "make demo"): "run by tests/one_haproxy/test_demo.py",
    ("README.md", "make test"): "is what runs this",
    ("docs/contributing.md", "make setup"): "has been run: `make test` begins with it",
    ("docs/contributing.md", 'make test PYTEST_ARGS="tests/pure -k preset"'): "is what runs this",
}
"""(page, command) → why it is not run here."""

ONE_HAPROXY = ("docs/first-drain.md", "docs/schema-upgrade.md", "docs/read-only.md", "docs/scripts.md")
OTHERS = (
    "README.md",
    "docs/contributing.md",
    "docs/install.md",
    "docs/several-haproxies.md",
    "docs/virtual-address.md",
)
DEPLOYERS = {
    # page: (layout, is the guard there when it begins, the page's paths and where they are in a layout's folder)
    "docs/deployers/kolla-ansible.md": ("kolla", True, {}),
    "docs/deployers/openstack-ansible.md": ("osa", False, {"/etc/haproxy/haproxy.cfg": "haproxy.cfg"}),
    "docs/deployers/tripleo.md": (
        "tripleo",
        False,
        {"/var/lib/config-data/puppet-generated/haproxy/etc/haproxy/haproxy.cfg": "haproxy.cfg"},
    ),
}
# CI runs these all the same, and fails where it is not root.
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="namespaces and booting take root; make test as root has it"
)
PATH = f"{BIN}:{os.environ['PATH']}"
UNITS = "nova-api nova-conductor nova-scheduler"


def run(
    session: Session,
    page: str,
    configure: Callable[[dict[str, Any]], None] | None = None,
    section: str | None = None,
) -> None:
    """Every command of a page, or of a section of it; ``configure`` is given its configurations between them."""
    for block in blocks(page):
        if section not in (None, block.section):
            continue
        if block.language == "console":
            _run(session, block)
        elif configure is not None and block.text.startswith(OURS):
            configure(yaml.safe_load(block.text))


def _run(session: Session, block: Block) -> None:
    typed = [c for c in commands(block) if (block.page, c.typed) not in ELSEWHERE]
    for command, after in pairwise([*typed, None]):
        if command is not None:
            session.run(command, fails=after is not None and after.typed == "echo $?")


# ------------------------------------------------------------------------------------------- one HAProxy


@pytest.mark.parametrize(("page", "section"), [*((page, None) for page in ONE_HAPROXY), ("README.md", "Every day")])
def test_a_page_about_one_haproxy(page: str, section: str | None, make_lab: Callable[..., Lab]) -> None:
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
        places={"/etc/lbagent/bypass-secret": str(secret), "/run/lbagent/lbagent.sock": str(lab.agent.socket)},
        stand_ins=machines(lab),
        prelude=f'curl() {{ command curl {to} "$@"; }}',
    )
    with closing(session):
        run(session, page, lambda tree: configure(lab, tree, secret), section=section)


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
    """Lay a configuration of the page over the lab's, and start the agent anew with it, which ends nothing."""
    agent = lab.agent
    if "bypass" in tree:
        tree["bypass"]["secret_file"] = str(secret)
    agent.settings = laid_over(agent.settings, tree)
    agent.write()
    agent.stop()
    agent.start()


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        out[key] = laid_over(out.get(key) or {}, value) if isinstance(value, dict) else value
    return out


# ----------------------------------------------------------------------------------------- this checkout


def test_the_page_about_contributing() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "MAKE", "MFLAGS"))}
    with closing(Session(clean, ROOT, places={".venv/bin/pytest": f"{BIN}/pytest"})) as session:
        run(session, "docs/contributing.md")


# ------------------------------------------------------------------------------------------ deployers


@pytest.mark.parametrize("page", DEPLOYERS)
def test_a_page_about_a_deployer(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, adopted, places = DEPLOYERS[page]
    monkeypatch.setattr(Site, "haproxy_socket", property(lambda self: self.folder / "admin.sock"), raising=False)
    with closing(Site(LAYOUTS[layout][0])) as site:
        if adopted:
            site.adopt()
        site.haproxy.start()
        site.agent.start(in_sync=adopted)
        eventually(lambda: site.agent.status()["nodes"], "nodes are found")
        session = Session(
            {**site.agent.env(), "PATH": PATH},
            site.folder,
            places={manual: str(site.folder / here) for manual, here in places.items()},
        )
        with closing(session):
            run(session, page)


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


@needs_root
@pytest.mark.slow
def test_the_page_about_several_haproxies() -> None:
    with control_plane() as made, closing(beside(made)) as session:
        run(session, "docs/several-haproxies.md")


@needs_root
@pytest.mark.slow
def test_the_page_about_the_virtual_address() -> None:
    with control_plane(vip=configuration, bind="transparent") as made:
        pacemaker = "pcs() { :; }"  # not on this machine; the page's own commands around it are lbctl's
        with closing(beside(made, pacemaker)) as session:
            run(session, "docs/virtual-address.md")


# ---------------------------------------------------------------------------------------- a whole system


@needs_root
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_page_about_installing_then_the_readme(machine: Machine) -> None:
    with closing(operator(machine)) as session:
        run(session, "docs/install.md", lambda tree: write(machine, tree))
        run(session, "README.md", section="Install")


def operator(machine: Machine) -> Session:
    """Root's shell in a Debian that has HAProxy and this checkout, and where nothing of lbagent's is installed yet."""
    made_by = shutil.ignore_patterns(".venv", ".git", "dist", ".*_cache", "__pycache__")
    shutil.copytree(ROOT, machine.root / "root/lbagent", ignore=made_by)
    shutil.copytree(wheels(), machine.root / "srv/wheels")  # it has no network
    shutil.copy(shipped.folder("haproxy") / "haproxy.cfg", machine.root / "etc/haproxy/haproxy.cfg")
    machine.before_boot("useradd", "alice")
    machine.before_boot("systemctl", "enable", "haproxy.service")
    machine.boot()
    return Session(
        {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": "/srv/wheels",
            "BUILD_PACKAGES": "",  # what the wheels were built with
        },
        Path("/"),
        prelude="cd /root/lbagent",
        inside=machine.inside,
    )


def write(machine: Machine, tree: dict[str, Any]) -> None:
    """A configuration of the page, into the file that `make install` has made."""
    (machine.root / "etc/lbagent/lbagent.yaml").write_text(yaml.safe_dump(tree))
