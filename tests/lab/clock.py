"""The wall clock of one process, which a test can step while it runs; its monotonic clock goes on as it is."""

from __future__ import annotations

from pathlib import Path


class Clock:
    """Start a program through ``prefix`` and it reads the time from here. Needs libfaketime (Debian's faketime)."""

    def __init__(self, folder: Path) -> None:
        [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        self._file = folder / "clock"
        self.step(0)
        self.prefix = (
            "env",
            f"LD_PRELOAD={library}",
            f"FAKETIME_TIMESTAMP_FILE={self._file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )

    def step(self, seconds: int) -> None:
        """So many seconds ahead of the machine's clock from now on; negative: behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.replace(self._file)
