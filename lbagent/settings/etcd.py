"""How etcd is reached, as the configuration file says it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from lbagent.settings import fields
from lbagent.settings.fields import Endpoint
from lbagent.settings.keys import Key


class EtcdConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Files are in PEM."""

    endpoints: Annotated[
        tuple[Endpoint, ...],
        Key("The URLs of etcd's members, this host's own first.", fields.several(fields.endpoint, least=1)),
    ] = ()
    prefix: Annotated[str, Key("The key below which everything is kept.", fields.prefix)] = "/lbagent"
    ca: Annotated[str | None, Key("The authority that signed etcd's certificates.", fields.optional(fields.path))] = (
        None
    )
    cert: Annotated[
        str | None, Key("The client's certificate, where etcd asks for one.", fields.optional(fields.path))
    ] = None
    key: Annotated[str | None, Key("The key of that certificate.", fields.optional(fields.path))] = None
    user: Annotated[
        str | None, Key("Where etcd has users: one that may read and write the prefix.", fields.optional(fields.text))
    ] = None
    password: Annotated[str | None, Key("The user's password.", fields.optional(fields.text))] = None
    password_file: Annotated[str | None, Key("A file with the user's password.", fields.optional(fields.path))] = None
