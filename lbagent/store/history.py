"""Who did what, when, why and how long it took: one JSON object a line, the newest last."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from lbagent import files

log = logging.getLogger(__name__)

KEPT = 1000  # lines
MODE = 0o640  # operators' names and reasons are for those who may look: control.viewers


class History:
    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, entry: dict[str, Any]) -> None:
        """Append; the history is not worth failing a command for, so trouble is logged only."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
            torn = "\n" if text and not text.endswith("\n") else ""  # what a power cut left of a line
            if text.count("\n") >= 2 * KEPT:
                files.write(self._path, "\n".join(text.splitlines()[-KEPT:]) + "\n", mode=MODE)
                torn = ""
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._path, flags, MODE), "a", encoding="utf-8") as file:
                os.fchmod(file.fileno(), MODE)  # one of an earlier version was for all to read
                file.write(torn + json.dumps(entry) + "\n")
        except OSError as error:
            log.error("%s cannot be written: %s", self._path, error)

    def read(self) -> list[dict[str, Any]]:
        """All entries, oldest first; a line that cannot be read is left out."""
        entries = []
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries[-KEPT:]
