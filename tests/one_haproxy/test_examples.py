"""The examples that ship: an operator who takes them as they are gets something that works."""

import re
import subprocess
from pathlib import Path

import yaml

from lbagent.settings import load, reference, shipped

EXAMPLE = (shipped.folder("haproxy") / "lbagent.yaml").read_text(encoding="utf-8")
UNCOMMENTED = re.sub(r"(?m)^#", "", EXAMPLE)


def test_the_example_configuration_says_nothing_as_it_is():
    assert load.parse(EXAMPLE) == load.parse("")


def test_the_example_configuration_uncommented_shows_the_defaults():
    shown = load.parse(UNCOMMENTED)
    members = "http://10.0.0.11:2379", "http://10.0.0.12:2379", "http://10.0.0.13:2379"
    shared = f"store: {{etcd: {{endpoints: {list(members)}}}}}"
    hooks = "notify: {webhooks: [{url: https://hooks.example.org/lbagent}]}"
    default = load.parse(f"node: ctl1\nservices: {{keystone: {{}}}}\nnodes: {{ctl1: {{}}}}\n{shared}\n{hooks}")
    assert shown == default


def test_the_example_configuration_shows_every_key():
    def paths(tree, prefix=""):
        if isinstance(tree, list) and tree and isinstance(tree[0], dict):
            return paths(tree[0], prefix.removesuffix(".") + "[].")
        if not isinstance(tree, dict):
            return {prefix.removesuffix(".")}
        return set().union(*(paths(value, f"{prefix}{key}.") for key, value in tree.items()))

    described = {key.path for key in reference.described() if key.default}
    shown = paths(yaml.safe_load(UNCOMMENTED.replace("keystone:", "SERVICE:").replace("ctl1:", "NODE:")))
    assert shown == described


def test_every_key_is_described():
    described = list(reference.described())
    assert all(re.fullmatch(r"[A-Z`].*[a-z].*[.]", key.meaning) for key in described)
    assert {key.path: key.default for key in described}["retry_after.floor"] == "30"


def test_haproxy_takes_the_example_haproxy_cfg():
    path = Path(shipped.folder("haproxy")) / "haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
