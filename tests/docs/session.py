"""One shell for the commands of a page, in its order, and the comparison of what it prints with what the page shows."""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs.blocks import Command

ANYTHING = "…"
"""In a shown line: some text that the page leaves out. On a line of its own: some lines that it leaves out."""

WAITING = "waiting: "
"""How lbctl's lines begin that come or do not, as fast as things go: a page that shows none is silent about them."""

VARIES = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:Z|[+-]\d\d:?\d\d)?", "a day and a time"),
    (r"\b\d\d:\d\d:\d\d(?:[+-]\d{4})?", "a time of the day"),
    (r"\(\d+\.\d s\)|\b\d+\.\d s\b", "how long something took"),
    (r"\bpid \d+", "a process"),
    (r"HAProxy \d+\.\d+\.\d+", "HAProxy's version"),
)
"""What is different each time: the page shows an example of it, any other of its kind will do."""


class Session:
    """A bash that lives as long as the page. ``places`` has, for paths of the manual, where they are in this lab.

    ``stand_ins`` are commands for which a lab has no machine, such as ``ssh ctl1 reboot``, and what does it here.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        folder: Path,
        places: Mapping[str, str] | None = None,
        stand_ins: Mapping[str, Callable[[], None]] | None = None,
        prelude: str = "",
        inside: tuple[str, ...] = (),
    ) -> None:
        self._places, self._stand_ins = dict(places or {}), dict(stand_ins or {})
        self._end = f"end-{secrets.token_hex(8)}"
        self._bash = subprocess.Popen(
            [*inside, "bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**environment, "COLUMNS": "80", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
            cwd=folder,
        )
        self._type(prelude)

    def close(self) -> None:
        if self._bash.stdin:
            self._bash.stdin.close()
        self._bash.wait(20)
        if self._bash.stdout:
            self._bash.stdout.close()

    def run(self, command: Command, fails: bool = False) -> None:
        """Type a command; AssertionError unless it prints what the page shows, and succeeds (or ``fails``)."""
        if command.typed in self._stand_ins:
            self._stand_ins[command.typed]()
            return
        printed, status = self._type(command.typed)
        story = f"{command.where}: $ {command.typed}\n{printed}(exit {status})"
        assert fails == (status != 0), story
        lines = printed.splitlines()
        if not any(line.startswith(WAITING) for line in command.shown):
            lines = [line for line in lines if not line.startswith(WAITING)]
        if command.shown:
            assert matches(command.shown, lines), f"{story}\nthe page shows:\n" + "\n".join(command.shown)

    def _type(self, typed: str) -> tuple[str, int]:
        """What a command printed, in the manual's paths, and its exit status."""
        for manual, here in self._places.items():
            typed = _replaced(typed, manual, here)
        assert self._bash.stdin is not None and self._bash.stdout is not None
        # The status is that of the command again afterwards, for a page that goes on with `echo $?`.
        self._bash.stdin.write(f"{typed}\nlba_status=$?; echo {self._end} $lba_status; (exit $lba_status)\n")
        self._bash.stdin.flush()
        lines: list[str] = []
        while not (line := self._bash.stdout.readline()).startswith(self._end):
            assert line, f"the shell ended at: {typed}\n{''.join(lines)}"
            if self._end in line:  # behind output without a newline
                lines.append(line.partition(self._end)[0])
                line = self._end + line.partition(self._end)[2]
                break
            lines.append(line)
        printed = "".join(lines)
        for manual, here in self._places.items():
            printed = _replaced(printed, here, manual)
        return printed, int(line.split()[1])


def _replaced(text: str, old: str, new: str) -> str:
    """``old``, a path or an address, where it is not the beginning or the end of another one."""
    return re.sub(rf"(?<![\w.]){re.escape(old)}(?!\w)", lambda _: new, text)


def matches(shown: tuple[str, ...], printed: list[str]) -> bool:
    """Whether a page's lines fit what was printed. Trailing blanks do not count."""
    pattern = ""
    for line in shown:
        pattern += r"(?:.*\n)*?" if line.strip() == ANYTHING else _line(line) + r" *\n"
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed)) is not None


def _line(shown: str) -> str:
    """A regular expression for one line: an example of what varies stands for its kind, blanks for more blanks."""
    kinds = "|".join(f"({kind})" for kind, _ in VARIES)
    out, at = "", 0
    for match in re.finditer(rf"{kinds}|{ANYTHING}| +", shown):
        out += re.escape(shown[at : match.start()])
        if match.group() == ANYTHING:
            out += ".*"
        elif match.group().isspace():
            out += " +"
        else:
            out += f"(?:{VARIES[match.lastindex - 1][0]})"  # type: ignore[operator]
        at = match.end()
    return out + re.escape(shown[at:])
