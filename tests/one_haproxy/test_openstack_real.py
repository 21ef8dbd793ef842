"""Real Keystones behind HAProxy, used by OpenStack's own clients: read-only, down and a drain under load."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from tests.lab.cloud import Cloud
from tests.lab.openstack import Clients
from tests.lab.wait import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # whoever comes first on a machine installs it all

WAIT = 4  # seconds of Retry-After
LOGIN = """
import json, sys, threading, time
from keystoneauth1 import adapter, session
from keystoneauth1.identity import v3
auth = json.loads(sys.argv[1])
"""
PATIENT = (
    LOGIN
    + """
answers = []
patient = session.Session(auth=v3.Password(**auth))
patient.get_token()

def note(response, **_):
    answers.append([time.time(), response.status_code])
    print(response.status_code)

patient.session.hooks["response"].append(note)
print("ready")
sys.stdin.readline()
cloud = adapter.Adapter(patient, service_type="identity", interface="public", version="3", status_code_retries=8,
                        endpoint_override=auth["auth_url"])
answer = cloud.get("/projects")
print(json.dumps([answers, len(answer.json()["projects"])]))
"""
)
TOKENS = (
    LOGIN
    + """
stop, results = threading.Event(), []

def ask():
    while not stop.is_set():
        try:
            v3.Password(**auth).get_token(session.Session())
            results.append("token")
        except BaseException as error:
            results.append(repr(error))

threads = [threading.Thread(target=ask) for _ in range(3)]
[t.start() for t in threads]
print("ready")
sys.stdin.readline()
stop.set()
[t.join() for t in threads]
print(json.dumps(results))
"""
)


@pytest.fixture(scope="module")
def cloud():
    made = Cloud(settings={"retry_after": {"floor": WAIT, "cap": WAIT, "spread": 0}})
    try:
        made.start()
        made.clients = Clients(made.folder, made.login())
        yield made
    finally:
        made.close()


@pytest.fixture(autouse=True)
def everything_up(cloud):
    yield
    cloud.agent.ok("up", "keystone")
    cloud.agent.ok("ready", "ctl2")


def test_read_only_lets_people_log_in_and_look(cloud):
    cloud.agent.ok("read-only", "keystone", "--reason", "upgrade of the database")
    token = cloud.clients.openstack("token", "issue", "-f", "json")
    assert token.returncode == 0, token.stderr
    assert json.loads(token.stdout)["id"].startswith("gAAAA")
    listed = cloud.clients.openstack("project", "list", "-f", "json")
    assert [row["Name"] for row in json.loads(listed.stdout)] == ["admin"], listed.stderr

    refused = cloud.clients.openstack("project", "create", "x")
    assert refused.returncode == 1
    assert "keystone is read-only during maintenance: upgrade of the database" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not [
        row for node in ("ctl1", "ctl2") for row in cloud.keystones.requests(node) if "POST /v3/projects" in row
    ]

    said = cloud.clients.script(
        "import json, openstack\n"
        "cloud = openstack.connect(cloud='test')\n"
        "seen = [p.name for p in cloud.identity.projects()]\n"
        "try:\n  cloud.identity.create_project(name='x')\n"
        "except openstack.exceptions.HttpException as error:\n  seen.append(str(error))\n"
        "print(json.dumps(seen))\n"
    )
    assert said[0] == "admin"
    assert "keystone is read-only during maintenance: upgrade of the database" in said[1]


def test_closed_says_so_and_when_to_come_back_is_obeyed(cloud):
    auth = json.dumps(cloud.login()["auth"])
    patient = cloud.clients.begin(PATIENT, auth)
    try:
        assert patient.stdout.readline() == "ready\n", patient.communicate()
        cloud.agent.ok("down", "keystone", "--reason", "new hardware")
        refused = cloud.clients.openstack("token", "issue")
        assert refused.returncode == 1
        assert "keystone is closed for maintenance: new hardware" in refused.stderr
        assert "Traceback" not in refused.stderr

        patient.stdin.write("\n")
        patient.stdin.flush()
        assert patient.stdout.readline() == "503\n"
        assert patient.stdout.readline() == "503\n"
        cloud.agent.ok("up", "keystone")
        out, trouble = patient.communicate(timeout=60)
    finally:
        patient.kill()
    answers, projects = json.loads(out.splitlines()[-1])
    assert projects == 1, trouble
    assert [status for _, status in answers] == [503, 503, 200]
    waited = [later - sooner for (sooner, _), (later, _) in itertools.pairwise(answers)]
    assert all(WAIT <= seconds < WAIT + 3 for seconds in waited), waited


def test_no_token_request_fails_while_a_keystone_is_drained(cloud):
    loop = cloud.clients.begin(TOKENS, json.dumps(cloud.login()["auth"]))
    try:
        assert loop.stdout.readline() == "ready\n", loop.communicate()
        before = len(cloud.keystones.requests("ctl2"))
        eventually(lambda: len(cloud.keystones.requests("ctl2")) > before + 5, "both Keystones give tokens", 30)
        cloud.agent.ok("drain", "ctl2")
        time.sleep(0.5)  # the last answer's line
        drained = [len(cloud.keystones.requests(node)) for node in ("ctl1", "ctl2")]
        eventually(lambda: len(cloud.keystones.requests("ctl1")) > drained[0] + 10, "the other gives tokens", 30)
        assert len(cloud.keystones.requests("ctl2")) == drained[1]
        out, trouble = loop.communicate("\n", timeout=60)
    finally:
        loop.kill()
    results = json.loads(out)
    assert set(results) == {"token"}, trouble
    assert len(results) > 15
