"""A changed HAProxy configuration on its way to the disk: tried with ``haproxy -c``, then put in place whole."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lbagent.files import sync_folder
from lbagent.guard import state_files
from lbagent.settings.config import Config

CHECK_TIMEOUT = 300.0  # seconds; 12,000 backends take some five
NO_LISTENER = 2  # haproxy -c: "no error but will not start (no listener)", as is right for backends by themselves


class CheckUnavailable(Exception):
    """The check command cannot be run here, or cannot see the files it would have to judge."""


class Rejected(Exception):
    """The check command does not accept the candidate; nothing was written. ``output`` is what it said.

    ``original`` tells that it does not accept the files as they stand either.
    """

    def __init__(self, output: str, original: bool) -> None:
        super().__init__(output)
        self.output = output
        self.original = original


class Meanwhile(Exception):
    """A file was changed by somebody else while its candidate was being checked; nothing was written."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """One configuration file: what it is, where it is to go, what it is to be."""

    source: Path
    target: Path
    old: bytes
    new: bytes

    @property
    def pending(self) -> bool:
        return self.target != self.source or self.old != self.new


def rehearse(changes: Sequence[FileChange], config: Config) -> None:
    """Have copies judged, with a state folder of their own: nothing on the disk changes.

    Raises Rejected; CheckUnavailable where copies elsewhere cannot be judged.
    """
    command = config.haproxy.check_command
    if config.haproxy.state_dir_in_haproxy:
        raise CheckUnavailable("HAProxy sees the state folder under another name, so copies cannot be checked")
    with tempfile.TemporaryDirectory(prefix="lbagent-") as name:
        folder = Path(name)
        haproxy = msgspec.structs.replace(config.haproxy, state_dir=f"{folder}/state")
        files = state_files.files_at_rest(msgspec.structs.replace(config, haproxy=haproxy))
        (folder / "state").mkdir()
        for file, text in files.items():
            (folder / "state" / file).write_text(text, encoding="utf-8")
        ours = re.compile(
            rf"{re.escape(config.haproxy.seen_dir)}/({'|'.join(map(re.escape, files))})(?![\w.-])".encode()
        )

        def copies(kind: str) -> list[tuple[Path, Path]]:
            (folder / kind).mkdir()
            out = []
            for index, change in enumerate(changes):
                copy = folder / kind / f"{index:03}-{change.source.name}"
                text = change.new if kind == "new" else change.old
                copy.write_bytes(ours.sub(rf"{folder}/state/\1".encode(), text))
                out.append((copy, change.source))
            return out

        status, output = _check(command, copies("new"))
        if not status:
            return
        _judge_original(command, changes)
        if _check(command, copies("old"))[0]:
            raise CheckUnavailable("the files cannot be checked at another place than their own")
        raise Rejected(output, original=False)


def put(changes: Sequence[FileChange], config: Config, keep_owner: bool) -> list[Path]:
    """Write the pending changes, if the check command accepts all the files together; returns what was written.

    Candidates lie beside their targets, so that relative paths mean the same. Modes and owners are kept
    (``keep_owner`` False: the owner where it may be). Raises Rejected, CheckUnavailable, Meanwhile, OSError; then
    every file is as before.
    """
    command = config.haproxy.check_command
    with contextlib.ExitStack() as stack:
        staged: list[tuple[Path, FileChange]] = []
        checked: list[tuple[Path, Path]] = []
        for change in changes:
            path = change.target
            if change.pending and not _holds(change.target, change.new):
                path = stack.enter_context(_beside(change.target, change.new, change.source, keep_owner))
                staged.append((path, change))
            checked.append((path, change.target))
        if not staged:
            return []
        status, output = _check(command, checked)
        if status:
            _judge_original(command, changes)
            raise Rejected(output, original=False)
        _rename_all(staged)
    return [change.target for _, change in staged]


def _rename_all(staged: Sequence[tuple[Path, FileChange]]) -> None:
    for _, change in staged:
        if not _holds(change.source, change.old):
            raise Meanwhile(f"{change.source} was changed by somebody else just now: run this again")
    done: list[FileChange] = []
    try:
        for path, change in staged:
            path.rename(change.target)
            done.append(change)
    except OSError:
        for change in done:
            if change.target == change.source:
                with _beside(change.target, change.old, change.target, keep_owner=True) as path:
                    path.rename(change.target)
        raise
    for folder in {change.target.parent for change in done}:
        sync_folder(folder)


def _judge_original(command: Sequence[str], changes: Sequence[FileChange]) -> None:
    """Rejected when the files are not accepted as they stand."""
    status, said = _check(command, [(change.source, change.source) for change in changes])
    if status:
        raise Rejected(said, original=True)


def _check(command: Sequence[str], files: Sequence[tuple[Path, Path]]) -> tuple[int, str]:
    """Exit status and output of the check of these files, which are spoken of by their second names."""
    arguments = [word for path, _ in files for word in ("-f", str(path))]
    try:
        run = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CHECK_TIMEOUT,
            check=False,
        )
    except OSError as error:
        raise CheckUnavailable(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CheckUnavailable(f"{' '.join(command)} has not answered in {CHECK_TIMEOUT:.0f} s") from error
    output = run.stdout.decode(errors="replace")
    for path, name in files:
        output = output.replace(str(path), str(name))
    if run.returncode < 0:
        output += f"{command[0]} was ended by signal {-run.returncode}\n"
    partial = run.returncode == NO_LISTENER and "no listener" in output
    return 0 if partial else run.returncode, output


@contextlib.contextmanager
def _beside(target: Path, content: bytes, like: Path, keep_owner: bool) -> Iterator[Path]:
    """A file beside ``target``, synced, with the mode and owner of ``like``; gone in the end if it was not renamed.

    Its name does not end in .cfg: an HAProxy that loads the folder would take it.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".lbagent", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            seen = like.stat()
            with contextlib.nullcontext() if keep_owner else contextlib.suppress(PermissionError):
                os.fchown(descriptor, seen.st_uid, seen.st_gid)
            os.fchmod(descriptor, seen.st_mode & 0o7777)
            file.flush()
            os.fsync(descriptor)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _holds(path: Path, content: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes() == content
    return False
