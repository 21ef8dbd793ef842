"""What one check of doctor's says."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "note", "warning", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """One check: what was looked at, what was found, and the mend where one is needed."""

    verdict: Verdict
    about: str
    found: str
    mend: str = ""
