"""How etcd is reached: the types, and how they are read from the configuration file."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from lbagent.settings import fields


class Endpoint(NamedTuple):
    """Where an etcd member serves clients."""

    protocol: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


class EtcdConfig(msgspec.Struct, frozen=True, kw_only=True):
    endpoints: tuple[Endpoint, ...]
    prefix: str = "/lbagent"
    ca: str | None = None  # files in PEM
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = None
    password_file: str | None = None


def read_etcd(outer: fields.MappingReader) -> EtcdConfig | None:
    if not outer.has("etcd"):
        return None
    section = outer.section("etcd")
    if not section.has("endpoints"):
        section.problem("endpoints", "is missing: the URLs of etcd's members, such as http://10.0.0.1:2379")
    made = EtcdConfig(
        endpoints=section.take("endpoints", fields.several(_endpoint, least=1), ()),
        prefix=section.take("prefix", fields.prefix, "/lbagent"),
        ca=section.take("ca", fields.optional(fields.path), None),
        cert=section.take("cert", fields.optional(fields.path), None),
        key=section.take("key", fields.optional(fields.path), None),
        user=section.take("user", fields.optional(fields.text), None),
        password=section.take("password", fields.optional(fields.text), None),
        password_file=section.take("password_file", fields.optional(fields.path), None),
    )
    if (made.cert is None) != (made.key is None):
        section.problem("cert", "and key belong together: give both")
    if made.password is not None and made.password_file is not None:
        section.problem("password", "and password_file say the same thing twice: give one")
    if (made.user is None) != (made.password is None and made.password_file is None):
        section.problem("user", "needs a password or a password_file, and they need a user")
    section.done()
    return made


def _endpoint(value: object) -> Endpoint:
    text = fields.text(value)
    parts = re.fullmatch(r"(?:(https?)://)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})/?", text)
    if parts is None or not 0 < int(parts[3]) <= 65535:
        raise fields.Bad(("", f"{text!r} is not a URL of an etcd member, such as http://10.0.0.1:2379"))
    return Endpoint(parts[1] or "http", parts[2].strip("[]"), int(parts[3]))
