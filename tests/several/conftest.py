"""Fixtures: an etcd of one member, a proxy before it, stores that use it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lbagent.settings.etcd import Endpoint, EtcdConfig
from lbagent.store.etcd.store import EtcdStore
from tests.lab.etcd import OneEtcd
from tests.lab.proxy import Proxy


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="lba-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def etcd(folder: Path) -> Iterator[OneEtcd]:
    one = OneEtcd(folder)
    try:
        yield one.start()
    finally:
        one.kill()


@pytest.fixture
def proxy(etcd: OneEtcd) -> Iterator[Proxy]:
    made = Proxy(etcd.port)
    yield made
    made.close()


@pytest.fixture
def make_store() -> Iterator[Callable[..., EtcdStore]]:
    made = []

    def make(*ports: int, node: str = "ctl1", scheme: str = "http", **settings: Any) -> EtcdStore:
        endpoints = tuple(Endpoint(scheme, "127.0.0.1", port) for port in ports)
        made.append(EtcdStore(EtcdConfig(endpoints=endpoints, **settings), node))
        return made[-1]

    yield make
    for one in made:
        one.close()
