"""What a command is about: a service as a whole, or the servers that one node has of it."""

from __future__ import annotations

import msgspec


class Subject(msgspec.Struct, frozen=True, order=True, array_like=True):
    """A service (with an empty ``node``), or a node's servers of one service.

    As text it is ``nova`` or ``ctl1/nova``, as names hold no slash; in JSON it is ``[node, service]``.
    """

    node: str
    service: str

    @classmethod
    def parse(cls, text: str) -> Subject:
        """The subject that ``str()`` wrote as ``text``."""
        node, _, service = text.rpartition("/")
        return cls(node, service)

    def __str__(self) -> str:
        return f"{self.node}/{self.service}" if self.node else self.service
