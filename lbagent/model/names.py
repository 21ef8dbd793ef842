"""What a name, a sentence and a number may be, wherever they are read from: a file, etcd, HAProxy, another agent.

Names go into HAProxy's map and into commands of its runtime API, sentences into answers, logs and terminals. Who can
write what the agent reads must not be able to say more by it than a name or a sentence. So the types themselves are
bounded: msgspec checks them whenever it decodes one, and what does not fit is damaged as a whole.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, ValidationError

LONGEST_NAME = 200  # characters
LONGEST_REASON = 500  # characters
LONGEST_LINE = 2000  # characters
LATEST = 4102444800  # seconds since 1970: the year 2100; a later time is a slip of the hand, or an attack
LARGEST = 2**53  # what JSON carries exactly

_NAME = rf"[A-Za-z0-9_.:-]{{1,{LONGEST_NAME}}}"
_ADDRESS = "[0-9A-Fa-f.:]{1,60}"
_NODE = rf"{_NAME}(@{_ADDRESS})?"
_NO_CONTROL = r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]"

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

Name = Annotated[str, Meta(pattern=rf"\A{_NAME}\Z")]
"""Of a service, backend, server or frontend: HAProxy's own characters (configuration manual, 2.2)."""

NodeName = Annotated[str, Meta(pattern=rf"\A{_NODE}\Z")]
"""Nodes of one name at several addresses are told apart as ``ctl1@10.0.0.5``."""

SomeNode = Annotated[str, Meta(pattern=rf"\A({_NODE})?\Z")]
"""A node, or none: empty."""

SubjectText = Annotated[str, Meta(pattern=rf"\A({_NODE}/)?{_NAME}\Z")]
"""``nova``, or ``ctl1/nova``."""

RefText = Annotated[str, Meta(pattern=rf"\A{_NAME}/{_NAME}\Z")]
"""``backend/server``."""

KeyText = Annotated[str, Meta(pattern=rf"\A({_NAME}(@{_ADDRESS})?/)?{_NAME}\Z")]
"""What a mode is looked up by: ``backend``, ``frontend/backend`` or ``frontend@address/backend``."""

Identity = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9-]{1,40}\Z")]

Reason = Annotated[str, Meta(pattern=rf"\A(\n|{_NO_CONTROL})*\Z", max_length=LONGEST_REASON)]
"""Why, in an operator's words: newlines are the only control characters."""

Line = Annotated[str, Meta(pattern=rf"\A{_NO_CONTROL}*\Z", max_length=LONGEST_LINE)]

Time = Annotated[int, Meta(ge=0, lt=LATEST)]
"""Seconds since 1970."""

Count = Annotated[int, Meta(ge=0, lt=LARGEST)]

Seconds = Annotated[float, Meta(ge=0, lt=LARGEST)]


def problem(error: ValidationError) -> str:
    """What msgspec found wrong, without the pattern that a text should have matched."""
    return re.sub(
        r"Expected `str` matching regex '.*'(?= - at|$)", "not a name or sentence that is allowed", str(error)
    )
