"""The server-state file: the drains that HAProxy loads at start. Pure.

Its format is that of ``show servers state`` (management guide, section 9.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from lbagent.model.observed import ServerSeen
from lbagent.model.servers import CONFIGURED, FORCED_DRAIN, FORCED_MAINT, Admin, Ref

HEADER_V1 = (
    "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state "
    "srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port "
    "srv_check_addr srv_agent_addr srv_agent_port"
)
"""Columns of a server-state file (management.txt, ``show servers state``); the same on 2.4 to 3.2."""

COLUMNS = tuple(HEADER_V1[2:].split())

CHECK_SETTINGS = 2 | 4 | 16  # configured, enabled, is an agent-check; not: in progress, paused

COLUMNS = tuple(HEADER_V1[2:].split())

CHECK_SETTINGS = 2 | 4 | 16  # configured, enabled, is an agent-check; not: in progress, paused


def state_row(seen: ServerSeen, admin: Admin) -> str:
    """The line of a server that we hold in ``admin``.

    A checked server comes back as down, so that its checks must pass before it can ever take traffic. The
    columns that change by themselves are fixed: the text changes only when the intent does.
    """
    row = dict.fromkeys(COLUMNS, "-") | dict(zip(COLUMNS, seen.line, strict=False))
    row |= {
        "srv_op_state": "0" if seen.checked or admin is Admin.MAINT else "2",
        "srv_admin_state": str(_mask(seen, admin)),
        "srv_time_since_last_change": "1",
        "srv_check_status": "1",
        "srv_check_result": "0",
        "srv_check_health": "0",
        "srv_check_state": str(int(row["srv_check_state"]) & CHECK_SETTINGS),
        "srv_agent_state": str(int(row["srv_agent_state"]) & CHECK_SETTINGS),
    }
    return " ".join(row[column] for column in COLUMNS)


def _mask(seen: ServerSeen, admin: Admin) -> int:
    """What HAProxy reads back as ``admin``, whether or not the server is ``disabled`` in the configuration by then.

    Measured on 2.6: HAProxy takes the line of a disabled server only where the line has the bit for that, and then the
    server is enabled but for what the line says. Without the bit the configuration's word counts, for as long as it is
    there. So the bit is written for one that was enabled at run time, and for no other.
    """
    if admin is Admin.MAINT:
        return FORCED_MAINT
    return FORCED_DRAIN | (seen.mask & CONFIGURED if not seen.parked else 0)


def state_rows(text: str) -> dict[Ref, str]:
    """The servers of a server-state file: ref → line."""
    rows = (line.split() for line in text.splitlines()[1:] if line and not line.startswith("#"))
    return {Ref(row[1], row[3]): " ".join(row) for row in rows if len(row) > 3}


def state_text(rows: Mapping[Ref, str]) -> str:
    """A server-state file with only the servers we hold; every other server is left to the configuration.

    With nothing held it is the single line ``1``: HAProxy warns at an empty file.
    """
    if not rows:
        return "1\n"
    return "\n".join(("1", HEADER_V1, *(rows[ref] for ref in sorted(rows)))) + "\n"
