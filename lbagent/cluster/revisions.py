"""Which revision of the shared intent came out of which. Pure.

A number alone does not tell: etcd may have been emptied, or restored from a backup, and may count again from there.
Each revision therefore carries a stamp (its number and a random id), and each intent the trail of the last stamps that
led to it. One revision comes out of another exactly when that one's stamp is in its trail.
"""

from __future__ import annotations

from lbagent.model.intent import Intent

TRAIL = 64  # stamps that an intent remembers


def descends(newer: Intent, older: Intent) -> bool:
    """``newer`` came out of the revision that ``older`` has; one too old to be remembered is taken for such."""
    if older.followed is None or newer.followed is None:
        return False
    if older.followed in newer.trail:
        return True
    return newer.trail[0].revision > older.followed.revision


def is_newer(one: Intent, other: Intent) -> bool:
    """Of the same history, ``one`` is the later."""
    return one.followed is not None and one.followed.revision > (other.followed.revision if other.followed else -1)
