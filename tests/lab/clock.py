"""The wall clock of an agent, which a test can step while it runs; its monotonic clock goes on as it is.

libfaketime sets a clock once and for all; while it runs, it lets Python's sleeps fail. So the agent is started by this
file, which gives `time.time` another answer before the agent is imported. It asks for no other wall clock.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


class Clock:
    """Give :attr:`program` to an :class:`~tests.lab.agent.Agent`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.step(0)
        self.program = (sys.executable, __file__, str(self._file))

    def step(self, seconds: int) -> None:
        """So many seconds ahead of the machine's clock from now on; negative: behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds}\n")
        new.replace(self._file)


def main() -> None:
    """Be lbagent, by the clock in the file that the first argument names."""
    file = Path(sys.argv.pop(1))
    real = time.time
    time.time = lambda: real() + int(file.read_text())

    from lbagent import daemon  # noqa: PLC0415 it takes the clock when it is imported

    daemon.main()


if __name__ == "__main__":
    main()
