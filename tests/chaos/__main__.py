"""``python -m tests.chaos [--hosts 3] --seconds N --seed S``: exit 1 and the story when an invariant was broken."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
import traceback
from pathlib import Path

from tests.chaos.chaos import Broken, Chaos
from tests.chaos.judge import Violation
from tests.chaos.one_haproxy import OneHAProxy
from tests.chaos.several import Several

TIMELINE = 60  # events


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--hosts", type=int, default=1, help="a control plane of so many, each with its HAProxy")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, default=None, help="where logs go when something was broken")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, _stop)
    with OneHAProxy(seed) if given.hosts == 1 else Several(seed, given.hosts) as chaos:
        violations: list[Violation] = []
        try:
            chaos.run(given.seconds)
        except Broken as broken:
            violations = broken.violations
        except Exception as error:
            traceback.print_exc()
            violations = [Violation(time.time(), f"the test itself failed: {error!r}")]
        if violations:
            tell(chaos, violations)
            if given.keep:
                chaos.keep(given.keep)
        print(json.dumps(summary(chaos, len(violations)), sort_keys=False), flush=True)
    return 1 if violations else 0


def _stop(*_: object) -> None:
    """Out, by way of everything that takes down what was mounted and started; once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def tell(chaos: Chaos, violations: list[Violation]) -> None:
    print(f"\nVIOLATED, seed {chaos.seed}\n\nThe last events:")
    for at, text in chaos.events[-TIMELINE:]:
        print(f"{at - chaos.began:9.3f}  {text}")
    print("\nWhat was broken:")
    for violation in violations[:30]:
        print(f"{violation.at - chaos.began:9.3f}  {violation.text}")
        if violation.line is not None:
            print(f"           {violation.line}")
    for log in chaos.agent_logs():
        print(f"\nThe agent's log ({log.parent.name}) ends:\n{tail(log)}")
    for log in chaos.haproxy_logs():
        print(f"\nHAProxy's log ({log.parent.name}) ends:\n{tail(log, 15)}")


def tail(path: Path, lines: int = 40) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(none)"


def summary(chaos: Chaos, violations: int) -> dict[str, object]:
    return {
        "seconds": round(time.time() - chaos.began, 1),
        "operations": dict(chaos.operations),
        "exits": dict(chaos.exits),
        "faults": dict(chaos.faults),
        "requests": dict(chaos.statuses),
        "excused": chaos.excused,
        "at_origins": chaos.checked,
        "promises": dict(chaos.promised),
        "stale": chaos.clients.stale if hasattr(chaos, "clients") else 0,
        "odd": chaos.odd,
        "alerts": dict(chaos.alerts()),
        "violations": violations,
        "seed": chaos.seed,
    }


if __name__ == "__main__":
    sys.exit(main())
