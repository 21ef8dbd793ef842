"""The examples that ship: an operator who takes them as they are gets something that works."""

import re
import subprocess
from pathlib import Path

import msgspec
import yaml

from lbagent.settings import config, etcd, load, shipped

EXAMPLE = (shipped.folder("haproxy") / "lbagent.yaml").read_text(encoding="utf-8")
UNCOMMENTED = re.sub(r"(?m)^#", "", EXAMPLE)


def test_the_example_configuration_says_nothing_as_it_is():
    assert load.parse(EXAMPLE) == load.parse("")


def test_the_example_configuration_uncommented_shows_the_defaults():
    shown = load.parse(UNCOMMENTED)
    members = "http://10.0.0.11:2379", "http://10.0.0.12:2379", "http://10.0.0.13:2379"
    shared = f"store: {{etcd: {{endpoints: {list(members)}}}}}"
    default = load.parse(f"node: ctl1\nservices: {{keystone: {{}}}}\nnodes: {{ctl1: {{}}}}\n{shared}")
    assert shown == default


def test_the_example_configuration_shows_every_key():
    """Every field of the configuration's types is a key of the file, under its own or its section's name."""

    def keys(tree):
        if not isinstance(tree, dict):
            return set()
        return set(tree).union(*(keys(value) for value in tree.values()))

    known = {"listen", "read_only"}  # metrics.listen and read_only.allow are flat in the types
    for kind in (*vars(config).values(), etcd.EtcdConfig):
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
            known.update(kind.__struct_fields__)
    names = {"keystone", "ctl1"}
    assert keys(yaml.safe_load(UNCOMMENTED)) - names | {"metrics_listen"} == known | {"metrics"}


def test_haproxy_takes_the_example_haproxy_cfg():
    path = Path(shipped.folder("haproxy")) / "haproxy.cfg"
    done = subprocess.run(["haproxy", "-c", "-f", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
