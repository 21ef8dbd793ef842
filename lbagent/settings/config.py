"""The configuration as types: every key of the file, with its default and its meaning. Nothing else says them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lbagent.settings import fields, presets
from lbagent.settings.etcd import EtcdConfig
from lbagent.settings.keys import Entries, Key, Section

DEFAULT_PATH = Path("/etc/lbagent/lbagent.yaml")

Event = Literal["scheduled", "started", "ended", "overdue"]
EVENTS: tuple[Event, ...] = ("scheduled", "started", "ended", "overdue")
FORMATS = ("json", "slack")


class HAProxyConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: Annotated[str, Key("HAProxy's runtime API; it needs `level admin`.", fields.path)] = (
        "/run/haproxy/admin.sock"
    )
    master_socket: Annotated[
        str | None,
        Key(
            "HAProxy's master socket, by which the workers that a reload leaves over are seen and steered.",
            fields.optional(fields.path),
            default="found by itself where HAProxy was started with one that lbagent may open",
        ),
    ] = None
    config: Annotated[
        tuple[str, ...],
        Key("HAProxy's configuration, files and folders in its order; read, never written.", fields.paths),
    ] = ("/etc/haproxy/haproxy.cfg",)
    state_dir: Annotated[
        str, Key("The folder of the map, lists, answers and drains that HAProxy loads at start.", fields.state_dir)
    ] = "/var/lib/lbagent/haproxy"
    state_dir_in_haproxy: Annotated[
        str | None,
        Key("The name of state_dir as HAProxy sees it, where HAProxy runs in a container.", fields.state_dir_or_none),
    ] = None
    code_dir: Annotated[
        str,
        Key("The folder of what HAProxy runs as code; only root may be able to write there.", fields.state_dir),
    ] = "/usr/share/lbagent/haproxy"
    code_dir_in_haproxy: Annotated[
        str | None,
        Key("The name of code_dir as HAProxy sees it, where HAProxy runs in a container.", fields.state_dir_or_none),
    ] = None
    check_command: Annotated[
        tuple[str, ...],
        Key("How adopt has a configuration checked; it appends `-f FILE` for each file.", fields.command),
    ] = ("haproxy", "-c")
    vip_track_file: Annotated[
        str | None,
        Key(
            "A file for keepalived: it holds 1 while this node is drained as a whole, else 0.",
            fields.optional(fields.path),
        ),
    ] = None

    @property
    def seen_dir(self) -> str:
        """state_dir by the name that HAProxy's configuration uses."""
        return self.state_dir_in_haproxy or self.state_dir

    @property
    def seen_code_dir(self) -> str:
        """code_dir by the name that HAProxy's configuration uses."""
        return self.code_dir_in_haproxy or self.code_dir


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    socket: Annotated[str, Key("The control socket, which lbctl talks to.", fields.path)] = "/run/lbagent/lbagent.sock"
    admins: Annotated[
        tuple[str, ...], Key("Users and @groups that may change things.", fields.several(fields.text))
    ] = ("root", "@lbagent")
    viewers: Annotated[tuple[str, ...], Key("Users and @groups that may only look.", fields.several(fields.text))] = (
        "@adm",
    )


class RetryAfter(msgspec.Struct, frozen=True, kw_only=True):
    """All in seconds."""

    floor: Annotated[int, Key("The least that clients are told to wait, in seconds.", fields.whole(1, 86400))] = 30
    cap: Annotated[int, Key("The most that clients are told to wait, in seconds.", fields.whole(1, 604800))] = 3600
    spread: Annotated[
        int,
        Key(
            "A random number of seconds up to this is added, so that clients do not return all at once.",
            fields.whole(0, 86400),
        ),
    ] = 30


class Bypass(msgspec.Struct, frozen=True, kw_only=True):
    networks: Annotated[
        tuple[str, ...], Key("Networks whose requests pass in every mode.", fields.several(fields.network))
    ] = ()
    secret_file: Annotated[
        str | None,
        Key(
            "A file with a secret; a request that carries it in X-Maintenance-Bypass passes.",
            fields.optional(fields.path),
        ),
    ] = None


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    backends: Annotated[
        tuple[str, ...] | None,
        Key(
            "Its backends or `listen` sections; they replace those that were discovered.",
            fields.optional(fields.several(fields.name, least=1)),
            default="the discovered ones, else one of the service's own name",
        ),
    ] = None
    frontends: Annotated[
        tuple[str, ...],
        Key(
            "Modes concern only what comes in at these, `name` or `name@address`; empty: everything.",
            fields.several(fields.frontend),
        ),
    ] = ()
    preset: Annotated[
        str,
        Key(
            "The shape of the answers and what read-only lets through.",
            fields.preset,
            default="by the service's name, else `default`",
        ),
    ] = presets.DEFAULT
    allow: Annotated[
        tuple[str, ...],
        Key(
            "Requests that read-only lets through besides the preset's: METHOD and path, a regex.",
            fields.several(fields.rule),
            at="read_only.allow",
        ),
    ] = ()
    deny: Annotated[
        tuple[str, ...],
        Key(
            "GETs that read-only refuses besides the preset's: METHOD and path, a regex.",
            fields.several(fields.rule),
            at="read_only.deny",
        ),
    ] = ()
    depends_on: Annotated[
        tuple[str, ...],
        Key("Services that it needs, added to those that the preset knows.", fields.several(fields.name)),
    ] = ()
    ready_check: Annotated[
        tuple[str, ...] | str | None,
        Key(
            "What has to succeed as well before a server takes traffic: a command as a list, or `GET /path`.",
            fields.ready_check,
            at="ready.check",
        ),
    ] = None
    probes: Annotated[
        tuple[str, ...],
        Key("Health checks of an outer balancer; they pass in every mode.", fields.several(fields.rule)),
    ] = ()
    min_ready: Annotated[
        int, Key("A command that would leave fewer servers in use is refused.", fields.whole(0, 1000))
    ] = 1


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    servers: Annotated[
        tuple[str, ...] | None,
        Key(
            "Its servers by name; they replace those that were discovered.",
            fields.optional(fields.several(fields.name)),
            default="servers whose name is the node's",
        ),
    ] = None
    addresses: Annotated[
        tuple[str, ...], Key("Every server at one of these addresses is on this node.", fields.several(fields.address))
    ] = ()


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: Annotated[
        str, Key("The file of what operators asked for; with etcd, of what was last known.", fields.path)
    ] = "/var/lib/lbagent/intent.json"
    etcd: Annotated[
        EtcdConfig | None,
        Section("One intent for the HAProxies of a whole control plane, in etcd.", EtcdConfig, optional=True),
    ] = None


class PageConfig(msgspec.Struct, frozen=True, kw_only=True):
    title: Annotated[str | None, Key("The page's headline.", fields.optional(fields.line))] = None
    contact: Annotated[str | None, Key("Whom to ask, as the page says it.", fields.optional(fields.line))] = None
    status_url: Annotated[str | None, Key("A link to the site's status page.", fields.optional(fields.url))] = None
    file: Annotated[str | None, Key("A page of the site's own, in its place.", fields.optional(fields.path))] = None


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str | None, Key("Where each event is POSTed to.", fields.optional(fields.url))] = None
    url_file: Annotated[
        str | None, Key("A file with that URL, where it is a secret.", fields.optional(fields.path))
    ] = None
    events: Annotated[
        tuple[Event, ...], Key("The events that are sent.", fields.several(fields.one_of(*EVENTS), least=1))
    ] = EVENTS
    format: Annotated[str, Key("`json`, or `slack` for Slack's form.", fields.one_of(*FORMATS))] = "json"


class NotifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    webhooks: Annotated[
        tuple[WebhookConfig, ...], Entries("HTTP endpoints that are told what happens.", WebhookConfig)
    ] = ()
    horizon_messages: Annotated[
        str | None,
        Key("Horizon's MESSAGES_PATH folder, for a message to whoever logs in.", fields.optional(fields.path)),
    ] = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    discover: Annotated[
        bool, Key("Find services and nodes in the running HAProxy, besides those of this file.", fields.yes_or_no)
    ] = True
    node: Annotated[str, Key("This controller's name.", fields.name, default="the short hostname")]
    haproxy: Annotated[HAProxyConfig, Section("The HAProxy beside this agent.", HAProxyConfig)] = HAProxyConfig()
    control: Annotated[ControlConfig, Section("Who may ask the agent, and where.", ControlConfig)] = ControlConfig()
    metrics_listen: Annotated[str, Key("Where Prometheus scrapes /metrics.", fields.listen, at="metrics.listen")] = (
        "127.0.0.1:9779"
    )
    retry_after: Annotated[RetryAfter, Section("Retry-After of the 503.", RetryAfter)] = RetryAfter()
    bypass: Annotated[Bypass, Section("Who passes in every mode.", Bypass)] = Bypass()
    services: Annotated[
        dict[str, ServiceConfig], Entries("Laid over the discovered services, key by key.", ServiceConfig, "SERVICE")
    ] = {}
    nodes: Annotated[
        dict[str, NodeConfig], Entries("Laid over the discovered nodes, key by key.", NodeConfig, "NODE")
    ] = {}
    store: Annotated[StoreConfig, Section("Where the operators' intent is kept.", StoreConfig)] = StoreConfig()
    max_unavailable: Annotated[
        int | None,
        Key(
            "How many nodes may be drained at a time.",
            fields.optional(fields.whole(1, 1000)),
            default="1 with etcd, no limit without",
        ),
    ] = None
    page: Annotated[PageConfig, Section("The 503 page for browsers.", PageConfig)] = PageConfig()
    announce: Annotated[
        int, Key("How long before its start a window is told in response headers.", fields.seconds, default="7d")
    ] = 7 * 86400
    notify: Annotated[NotifyConfig, Section("Who is told of windows.", NotifyConfig)] = NotifyConfig()
    web_listen: Annotated[
        str | None,
        Key(
            "Where a read-only page for people is served, such as 127.0.0.1:9780.",
            fields.optional(fields.listen),
            at="web.listen",
        ),
    ] = None

    @property
    def most_drained(self) -> int | None:
        return self.max_unavailable if self.max_unavailable is not None or self.store.etcd is None else 1
