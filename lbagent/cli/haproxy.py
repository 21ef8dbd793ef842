"""``lbctl haproxy``: the guard's way into HAProxy's configuration. Needs no running agent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from lbagent.errors import Exit
from lbagent.files import configuration, text
from lbagent.guard import cfg_lines, file_names, guard_map, intent_copy
from lbagent.haproxy_cfg import adopt as adoption
from lbagent.haproxy_cfg import blocks, reading
from lbagent.haproxy_cfg.on_disk import Unreadable, has_stock_page, read_files
from lbagent.haproxy_cfg.parse import File
from lbagent.haproxy_cfg.state_folder import lay_down, take_up
from lbagent.haproxy_cfg.write import (
    CheckUnavailable,
    FileChange,
    Meanwhile,
    Rejected,
    put,
    rehearse,
)
from lbagent.settings.config import DEFAULT_PATH, Config
from lbagent.settings.fields import NAME
from lbagent.settings.load import ConfigError, load_found

CONFIG = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    envvar="LBAGENT_CONFIG",
    metavar="FILE",
    help=f"lbagent's configuration (or LBAGENT_CONFIG).  [default: {DEFAULT_PATH}, if it is there]",
)


@click.group()
def haproxy() -> None:
    """Put lbagent's rules, the guard, into HAProxy's configuration. Needs no running agent."""


@haproxy.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--write", is_flag=True, help="Write the changes, if HAProxy's own check accepts them.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write the changed files into DIR and leave the originals alone.",
)
@click.option("--remove", "removing", is_flag=True, help="Take out exactly what adopt put in.")
@click.option("--force", is_flag=True, help="With --remove: even while a service is closed or a node is drained.")
@CONFIG
def adopt(
    files: tuple[Path, ...], write: bool, output: Path | None, removing: bool, force: bool, config_path: Path | None
) -> None:
    """Put the guard into HAProxy's configuration and print the difference; --write changes the files.

    Name all the FILEs that HAProxy loads, in HAProxy's order. A folder stands for its *.cfg files, as for "haproxy -f".

    The guard goes into the backends of the configured services. If no service is configured, it goes into every
    backend that serves http and has servers. Running this again changes nothing.
    """
    if write and output:
        raise click.UsageError("--write changes the files, --output leaves them alone: give one of them")
    config = _config(config_path)
    if removing and write and not force:
        _refuse_while_in_force(config)
    paths = _paths(files)
    old = [(str(path), _read(path)) for path in paths]
    result = _adopted(old, config, removing)
    _say(result.problems)
    changes = _changes(old, result.files, output)
    if write or output:
        done = bool(_write(changes, config, keep_owner=output is None))
    else:
        click.echo(_encode(adoption.diff(old, result.files)), nl=False)
        done = any(change.pending for change in changes)
        if done:
            _rehearse(changes, config)
    _say(f"note: {note}" for note in result.notes if done or not result.guarded)
    if result.problems:
        raise click.exceptions.Exit(Exit.FAILED)


@haproxy.command("guard")
@click.argument("backend", required=False)
@click.option("--global", "of_global", is_flag=True, help="Print the lines for HAProxy's global section.")
@CONFIG
def guard_(backend: str | None, of_global: bool, config_path: Path | None) -> None:
    """Print the guard's lines for BACKEND, for a tool that generates haproxy.cfg.

    The http-request lines belong above those of the backend, the use-server line below them. For a backend in
    mode tcp it is one line, which keeps drains over a reload. The global section needs what --global prints.
    """
    if of_global == (backend is not None):
        raise click.UsageError("give a BACKEND, or --global for the global section's lines")
    config = _config(config_path)
    if backend is None:
        lines = cfg_lines.global_lines(config.haproxy.seen_dir)
    elif not NAME.fullmatch(backend):
        _fail(Exit.USAGE, [f"{backend!r} is not a backend's name: letters, digits and _.:- only"])
    elif _is_tcp(backend, config):
        lines = [adoption.KEEPS_DRAINS]
    else:
        lines = cfg_lines.lines(backend, config.haproxy.seen_dir)
        lines += cfg_lines.steer_lines(backend, config.haproxy.seen_dir)
    for line in lines:
        click.echo(line)


def _is_tcp(backend: str, config: Config) -> bool:
    """Whether HAProxy's configuration says so; False where it cannot be read, or does not have the backend yet."""
    try:
        return backend in read_files(config.haproxy.config).tcp
    except Unreadable:
        return False


# ------------------------------------------------------------------------------------------------ in


def _config(path: Path | None) -> Config:
    try:
        return load_found(path)
    except ConfigError as error:
        _fail(Exit.USAGE, [f"{path or DEFAULT_PATH}: {problem}" for problem in error.problems])


def _paths(files: Iterable[Path]) -> list[Path]:
    """The files, and those of folders that HAProxy would load (management.txt, -f), in its order."""
    out: list[Path] = []
    for path in files:
        try:
            out += configuration(path)
        except OSError as error:
            _fail(Exit.FAILED, [f"{path}: {error.strerror}"])
    if twice := {str(path) for path in out if [p.resolve() for p in out].count(path.resolve()) > 1}:
        _fail(Exit.USAGE, [f"{path}: given twice" for path in sorted(twice)])
    if not out:
        _fail(Exit.USAGE, [f"{path}: no *.cfg files in this folder" for path in files])
    return out


def _read(path: Path) -> str:
    try:
        return text(path)
    except FileNotFoundError:
        _fail(Exit.USAGE, [f"{path}: no such file"])
    except OSError as error:
        _fail(Exit.FAILED, [f"{path}: {error.strerror}"])


def _refuse_while_in_force(config: Config) -> None:
    """Without the guard a closed service opens at HAProxy's next reload, and drains are forgotten."""
    try:
        text = (Path(config.haproxy.state_dir) / file_names.MAP).read_text(encoding="utf-8")
        intent = intent_copy.intent_from(guard_map.parse_map_text(text))
    except (OSError, ValueError):
        return
    held = [f"{name} is {service.mode}" for name, service in intent.services.items()]
    held += [f"{node} is drained" for node in intent.drains]
    if held:
        _fail(
            Exit.REFUSED,
            [
                f"without the guard HAProxy would open what is closed: {', '.join(held)}",
                "end that first (`lbctl up --all`, `lbctl ready --all`), or --force",
            ],
        )


def _adopted(old: Sequence[File], config: Config, removing: bool) -> adoption.Adopted:
    try:
        return adoption.Adopted(adoption.remove(old), ()) if removing else adoption.adopt(old, config, has_stock_page)
    except blocks.BrokenBlock as error:
        _fail(Exit.FAILED, [str(error)])
    except adoption.CannotAdopt as error:
        _fail(Exit.REFUSED, error.problems)


# ----------------------------------------------------------------------------------------------- out


def _changes(old: Sequence[File], new: Sequence[File], output: Path | None) -> list[FileChange]:
    names = [Path(name).name for name, _ in old]
    if output and len(set(names)) < len(names):
        _fail(Exit.USAGE, [f"--output {output}: two of the files have the same name"])
    out = []
    for (name, before), (_, after) in zip(old, new, strict=True):
        source = Path(name).resolve()
        target = output.resolve() / Path(name).name if output else source
        out.append(FileChange(source=source, target=target, old=_encode(before), new=_encode(after)))
    return out


def _write(changes: Sequence[FileChange], config: Config, keep_owner: bool) -> list[Path]:
    """What was written."""
    created: list[Path] = []
    try:
        try:
            created += lay_down(config) if _needs_files((change.new for change in changes), config) else []
            for folder in {change.target.parent for change in changes}:
                folder.mkdir(parents=True, exist_ok=True)
            written = put(changes, config, keep_owner)
        except BaseException:
            # Where a guard is in force already, HAProxy cannot start without these files.
            if not _needs_files((change.old for change in changes), config):
                take_up(created)
            raise
    except Rejected as error:
        _say(_verdict(error, config))
        _fail(Exit.FAILED, ["nothing was written"])
    except (CheckUnavailable, Meanwhile) as error:
        _fail(Exit.FAILED, [f"{error}; nothing was written"])
    except OSError as error:
        _fail(Exit.FAILED, [f"{error.filename or config.haproxy.state_dir}: {error.strerror}; nothing was written"])
    if created:
        click.echo(f"created what HAProxy loads from {config.haproxy.state_dir}")
    for path in written:
        click.echo(f"wrote {path}")
    if written and keep_owner:
        click.echo("reload HAProxy to put it into force")
    return written


def _needs_files(texts: Iterable[bytes], config: Config) -> bool:
    return reading.needs_files([("", text.decode("utf-8", "surrogateescape")) for text in texts], config.haproxy)


def _rehearse(changes: Sequence[FileChange], config: Config) -> None:
    try:
        rehearse(changes, config)
    except CheckUnavailable as error:
        _say([f"note: not validated: {error}"])
    except Rejected as error:
        _say(_verdict(error, config))
        if not error.original:
            raise click.exceptions.Exit(Exit.FAILED) from None
    except OSError as error:
        _say([f"note: not validated: {error}"])


def _verdict(error: Rejected, config: Config) -> list[str]:
    command = " ".join(config.haproxy.check_command)
    if error.original:
        return [f"{command} does not accept the original, before any change: mend that first", error.output.rstrip()]
    return [f"{command} does not accept the configuration with these changes", error.output.rstrip()]


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(f"lbctl: {line}" if "\n" not in line else line, err=True)


def _fail(code: Exit, lines: Iterable[str]) -> NoReturn:
    _say(lines)
    raise click.exceptions.Exit(code)
