"""What is said to a worker over the runtime API, and what comes back. The one place where a command becomes text.

Source: HAProxy's management guide, section 9.3. Commands are batched (``a; b; c`` on one line): a batch answers each
command with its text and an empty line, and goes on after an error. Commands are given as words, so that no word can
end a command or begin another one: blanks, ``;`` and backslashes are escaped, control characters are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

from lbagent.errors import HAProxyError

LONGEST_LINE = 8000  # bytes of a batch or payload; HAProxy's buffer is 16 kB, and past it the answer is empty
LONGEST_ROW = 15000  # bytes of one command, or of one row of a payload, by itself

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What could end a line, here or in HAProxy, and what is no text."""

Command = tuple[str, ...]  # its words


class Transport(Protocol):
    """A way to one worker: send a line (or a command with its payload), get the lines of the answer."""

    def run(self, text: str) -> list[str]:
        """HAProxyDown when nobody answers in time."""
        ...


class NotSent(HAProxyError):
    """The command holds what must not reach HAProxy; nothing was sent."""


class Channel:
    """One worker's runtime API. All methods: HAProxyDown when nobody answers, NotSent for what is no command."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def ask(self, *words: str) -> list[str]:
        """The lines of the answer to one command."""
        return self._send(_text(words))

    def ask_all(self, commands: Sequence[Command]) -> list[list[str]]:
        """The answer to each of ``commands``, in as few round trips as the line length allows.

        HAProxyError when an answer cannot be told apart from the next.
        """
        answers: list[list[str]] = []
        for line in grouped([_text(words) for words in commands]):
            lines = self._send("; ".join(line))
            got = split(lines) if len(line) > 1 else [[text for text in lines if text]]
            if len(got) < len(line):
                raise HAProxyError(f"HAProxy answered {len(got)} of {len(line)} commands, beginning with {line[0]!r}")
            if len(got) > len(line):  # help texts hold empty lines: ask one by one
                got = [self._send(command) for command in line]
            answers += got
        return answers

    def ask_at_once(self, *commands: Command) -> list[str]:
        """All answers one after the other, as they come: from the same worker, at the same moment."""
        return self._send("; ".join(_text(words) for words in commands))

    def do(self, *words: str) -> None:
        """A command that answers with one empty line; HAProxyError says which failed and how."""
        self._done(_text(words), self.ask(*words))

    def put(self, words: Command, rows: Sequence[str]) -> None:
        """A command with ``rows`` as its payload, in pieces that HAProxy takes; HAProxyError says what failed."""
        for row in rows:
            if not row.strip() or CONTROL.search(row) or len(row.encode()) > LONGEST_ROW:
                raise NotSent(f"not sent to HAProxy, no row of a payload: {row[:200]!r}")
        command = _text(words)
        for piece in grouped(rows):
            self._done(command, self._transport.run(f"{command} <<\n" + "\n".join(piece) + "\n"))

    @staticmethod
    def _done(command: str, lines: Sequence[str]) -> None:
        if answer := " ".join(line for line in lines if line):
            raise HAProxyError(f"`{command}`: {answer}")

    def _send(self, line: str) -> list[str]:
        return self._transport.run(line)


def _text(words: Command) -> str:
    """A command as HAProxy's parser reads it back: the same words."""
    for word in words:
        if not word or CONTROL.search(word):
            raise NotSent(f"not sent to HAProxy, no word of a command: {word[:200]!r}")
    text = " ".join(re.sub(r"([\\ ;]|^<(?=<))", r"\\\1", word) for word in words)
    if len(text.encode()) > LONGEST_ROW:
        raise NotSent(f"not sent to HAProxy, longer than {LONGEST_ROW} bytes: {text[:200]!r}")
    return text


def grouped(commands: Sequence[str]) -> Iterable[list[str]]:
    """``commands`` in groups that fit into one line, or one payload."""
    line: list[str] = []
    length = 0
    for command in commands:
        size = len(command.encode()) + 2
        if line and length + size > LONGEST_LINE:
            yield line
            line, length = [], 0
        line.append(command)
        length += size
    if line:
        yield line


def split(lines: Sequence[str]) -> list[list[str]]:
    """The answers of a batch of two or more: each ends with an empty line, of which the last was stripped."""
    answers: list[list[str]] = [[]]
    for line in lines:
        if line:
            answers[-1].append(line)
        else:
            answers.append([])
    return answers
