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
    socket: Annotated[str, Key("HAProxy's runtime socket, which needs `level admin`.", fields.path)] = (
        "/run/haproxy/admin.sock"
    )
    master_socket: Annotated[
        str | None,
        Key(
            "HAProxy's master socket, through which workers that a reload left behind are seen and changed.",
            fields.optional(fields.path),
            default="found by itself, if HAProxy was started with one that lbagent may open",
        ),
    ] = None
    config: Annotated[
        tuple[str, ...],
        Key(
            "HAProxy's configuration: files and folders in HAProxy's order. They are read, never written.", fields.paths
        ),
    ] = ("/etc/haproxy/haproxy.cfg",)
    state_dir: Annotated[
        str,
        Key("The folder of the map, lists, answers and drains that HAProxy loads when it starts.", fields.state_dir),
    ] = "/var/lib/lbagent/haproxy"
    state_dir_in_haproxy: Annotated[
        str | None,
        Key("The name of state_dir inside HAProxy's container, if HAProxy runs in one.", fields.state_dir_or_none),
    ] = None
    code_dir: Annotated[
        str,
        Key("The folder of what HAProxy runs as code. Only root may be able to write there.", fields.state_dir),
    ] = "/usr/share/lbagent/haproxy"
    code_dir_in_haproxy: Annotated[
        str | None,
        Key("The name of code_dir inside HAProxy's container, if HAProxy runs in one.", fields.state_dir_or_none),
    ] = None
    check_command: Annotated[
        tuple[str, ...],
        Key(
            "How `lbctl haproxy adopt` has a configuration checked. It appends `-f FILE` for each file.", fields.command
        ),
    ] = ("haproxy", "-c")
    vip_track_file: Annotated[
        str | None,
        Key(
            "A file for keepalived: 1 while this node is drained as a whole, else 0. Its folder has to exist.",
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

    floor: Annotated[int, Key("At least this many seconds.", fields.whole(1, 86400))] = 30
    cap: Annotated[int, Key("At most this many seconds.", fields.whole(1, 604800))] = 3600
    spread: Annotated[
        int,
        Key(
            "Up to this many seconds are added by chance, so that clients do not return all at once.",
            fields.whole(0, 86400),
        ),
    ] = 30


class Bypass(msgspec.Struct, frozen=True, kw_only=True):
    networks: Annotated[tuple[str, ...], Key("Requests from these networks pass.", fields.several(fields.network))] = ()
    secret_file: Annotated[
        str | None,
        Key(
            "A file with a secret; a request with the secret in the header X-Maintenance-Bypass passes.",
            fields.optional(fields.path),
        ),
    ] = None


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    backends: Annotated[
        tuple[str, ...] | None,
        Key(
            "Its backends or `listen` sections, in place of those that are discovered.",
            fields.optional(fields.several(fields.name, least=1)),
            default="those that are discovered, else one of the service's own name",
        ),
    ] = None
    frontends: Annotated[
        tuple[str, ...],
        Key(
            "Modes concern only requests that come in here: `name` or `name@address`. Empty: all requests.",
            fields.several(fields.frontend),
        ),
    ] = ()
    preset: Annotated[
        str,
        Key(
            "The shape of the answers, and what read-only lets through.",
            fields.preset,
            default="that of the service's name, else `default`",
        ),
    ] = presets.DEFAULT
    allow: Annotated[
        tuple[str, ...],
        Key(
            "Requests that read-only lets through, besides those of the preset: METHOD and a regex for the path.",
            fields.several(fields.rule),
            at="read_only.allow",
        ),
    ] = ()
    deny: Annotated[
        tuple[str, ...],
        Key(
            "GETs that read-only refuses, besides those of the preset: METHOD and a regex for the path.",
            fields.several(fields.rule),
            at="read_only.deny",
        ),
    ] = ()
    depends_on: Annotated[
        tuple[str, ...],
        Key("Services that it needs, besides those that lbagent knows.", fields.several(fields.name)),
    ] = ()
    ready_check: Annotated[
        tuple[str, ...] | str | None,
        Key(
            "What else has to succeed before a server takes traffic: a command as a list of words, or `GET /path`. "
            "The agent runs it; `$LBAGENT_SERVER` and `$LBAGENT_ADDRESS` name the server.",
            fields.ready_check,
            at="ready.check",
        ),
    ] = None
    probes: Annotated[
        tuple[str, ...],
        Key(
            "Health checks of an outer balancer, as METHOD and path. They pass in every mode.",
            fields.several(fields.rule),
        ),
    ] = ()
    min_ready: Annotated[
        int, Key("A command that would leave fewer servers in use is refused.", fields.whole(0, 1000))
    ] = 1


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    servers: Annotated[
        tuple[str, ...] | None,
        Key(
            "Its servers by name, in place of those that are discovered.",
            fields.optional(fields.several(fields.name)),
            default="servers whose name is the node's",
        ),
    ] = None
    addresses: Annotated[
        tuple[str, ...], Key("Every server at one of these addresses is on this node.", fields.several(fields.address))
    ] = ()


class StoreConfig(msgspec.Struct, frozen=True, kw_only=True):
    path: Annotated[
        str, Key("The file that keeps what operators asked for; with etcd, what was last known of it.", fields.path)
    ] = "/var/lib/lbagent/intent.json"
    etcd: Annotated[
        EtcdConfig | None,
        Section("One intent for all HAProxies of a control plane, in etcd.", EtcdConfig, optional=True),
    ] = None


class PageConfig(msgspec.Struct, frozen=True, kw_only=True):
    title: Annotated[str | None, Key("The page's headline.", fields.optional(fields.line))] = None
    contact: Annotated[str | None, Key("Whom to ask, as the page says it.", fields.optional(fields.line))] = None
    status_url: Annotated[str | None, Key("A link to the site's status page.", fields.optional(fields.url))] = None
    file: Annotated[
        str | None, Key("A file with a page of your own, in place of this one.", fields.optional(fields.path))
    ] = None


class WebhookConfig(msgspec.Struct, frozen=True, kw_only=True):
    url: Annotated[str | None, Key("Where each event is sent to, by POST.", fields.optional(fields.url))] = None
    url_file: Annotated[
        str | None, Key("A file with that URL, if the URL is a secret.", fields.optional(fields.path))
    ] = None
    events: Annotated[
        tuple[Event, ...], Key("The events that are sent.", fields.several(fields.one_of(*EVENTS), least=1))
    ] = EVENTS
    format: Annotated[str, Key("The form of the events: `json` or `slack`.", fields.one_of(*FORMATS))] = "json"


class NotifyConfig(msgspec.Struct, frozen=True, kw_only=True):
    webhooks: Annotated[
        tuple[WebhookConfig, ...], Entries("HTTP endpoints that are told of each event.", WebhookConfig)
    ] = ()
    horizon_messages: Annotated[
        str | None,
        Key("Horizon's MESSAGES_PATH folder: whoever logs in there is told of windows.", fields.optional(fields.path)),
    ] = None


class Config(msgspec.Struct, frozen=True, kw_only=True):
    discover: Annotated[
        bool,
        Key(
            "Find services and nodes in the running HAProxy as well; false: only those of this file exist.",
            fields.yes_or_no,
        ),
    ] = True
    node: Annotated[str, Key("The name of this host as a node.", fields.name, default="the short hostname")]
    haproxy: Annotated[HAProxyConfig, Section("The HAProxy beside this agent.", HAProxyConfig)] = HAProxyConfig()
    control: Annotated[ControlConfig, Section("Who may ask the agent, and where it can be asked.", ControlConfig)] = (
        ControlConfig()
    )
    metrics_listen: Annotated[
        str, Key("The address where Prometheus scrapes /metrics.", fields.listen, at="metrics.listen")
    ] = "127.0.0.1:9779"
    retry_after: Annotated[
        RetryAfter, Section("How long clients of a closed service are told to wait.", RetryAfter)
    ] = RetryAfter()
    bypass: Annotated[Bypass, Section("Whose requests pass in every mode.", Bypass)] = Bypass()
    services: Annotated[
        dict[str, ServiceConfig],
        Entries("Services: what is set here is laid over what is discovered, key by key.", ServiceConfig, "SERVICE"),
    ] = {}
    nodes: Annotated[
        dict[str, NodeConfig],
        Entries("Nodes: what is set here is laid over what is discovered, key by key.", NodeConfig, "NODE"),
    ] = {}
    store: Annotated[StoreConfig, Section("Where the intent, what operators asked for, is kept.", StoreConfig)] = (
        StoreConfig()
    )
    max_unavailable: Annotated[
        int | None,
        Key(
            "How many nodes may be drained at a time.",
            fields.optional(fields.whole(1, 1000)),
            default="1 with etcd, no limit without it",
        ),
    ] = None
    page: Annotated[PageConfig, Section("The 503 page for browsers.", PageConfig)] = PageConfig()
    announce: Annotated[
        int, Key("How long before its start a window is announced in response headers.", fields.seconds, default="7d")
    ] = 7 * 86400
    notify: Annotated[NotifyConfig, Section("Who is told of windows.", NotifyConfig)] = NotifyConfig()
    web_listen: Annotated[
        str | None,
        Key(
            "The address where a page for people is served, such as 127.0.0.1:9780. It changes nothing.",
            fields.optional(fields.listen),
            at="web.listen",
        ),
    ] = None

    @property
    def most_drained(self) -> int | None:
        return self.max_unavailable if self.max_unavailable is not None or self.store.etcd is None else 1
