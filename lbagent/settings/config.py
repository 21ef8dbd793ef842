"""The configuration as types: every key of the file with its default."""

from __future__ import annotations

from pathlib import Path

import msgspec

from lbagent.settings.etcd import EtcdConfig

DEFAULT_PATH = Path("/etc/lbagent/lbagent.yaml")


class HAProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: str = "/run/haproxy/admin.sock"  # runtime API, level admin
    master_socket: str | None = None  # to see and steer workers left over by a reload
    config: tuple[str, ...] = ("/etc/haproxy/haproxy.cfg",)
    state_dir: str = "/var/lib/lbagent/haproxy"
    state_dir_in_haproxy: str | None = None  # the same folder as a HAProxy in a container sees it
    check_command: tuple[str, ...] = ("haproxy", "-c")
    vip_track_file: str | None = None  # for keepalived: 1 while this node is drained as a whole, else 0

    @property
    def seen_dir(self) -> str:
        """state_dir by the name that HAProxy's configuration uses."""
        return self.state_dir_in_haproxy or self.state_dir


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: str = "/run/lbagent/lbagent.sock"
    admins: tuple[str, ...] = ("root", "@lbagent")
    viewers: tuple[str, ...] = ("@adm",)


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    floor: int = 30  # seconds
    cap: int = 3600  # seconds
    spread: int = 30  # seconds


class Bypass(msgspec.Struct, frozen=True, kw_only=True):
    networks: tuple[str, ...] = ()
    secret_file: str | None = None


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    backends: tuple[str, ...]
    frontends: tuple[str, ...] = ()  # name or name@address; empty: all
    preset: str
    allow: tuple[str, ...] = ()  # METHOD path, a regex
    deny: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    min_ready: int = 1


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    servers: tuple[str, ...]
    addresses: tuple[str, ...] = ()


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: str = "/var/lib/lbagent/intent.json"  # with etcd: the last known intent
    etcd: EtcdConfig | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    haproxy: HAProxyConfig = HAProxyConfig()
    control: ControlConfig = ControlConfig()
    metrics_listen: str = "127.0.0.1:9779"
    retry_after: RetryAfter = RetryAfter()
    bypass: Bypass = Bypass()
    services: dict[str, ServiceConfig] = {}
    nodes: dict[str, NodeConfig] = {}
    store: StoreConfig = StoreConfig()
    max_unavailable: int | None = None  # nodes that may be drained together; None: one with a shared store, else any

    @property
    def most_drained(self) -> int | None:
        return self.max_unavailable if self.max_unavailable is not None or self.store.etcd is None else 1
