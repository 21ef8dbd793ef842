"""``lbagent``: wiring. Reads the configuration, opens the sockets, starts the agent's loop, listens to signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import click
from aiohttp import web
from aiohttp.http import HttpProcessingError

from lbagent import __version__, journal
from lbagent import systemd as notify
from lbagent.agent.agent import Agent
from lbagent.agent.alone import Alone
from lbagent.agent.exchange import Exchange
from lbagent.agent.keeper import Keeper
from lbagent.agent.member import Member
from lbagent.agent.own_intent import OwnIntent
from lbagent.agent.reconciler import Reconciler
from lbagent.agent.registry import Operations
from lbagent.agent.shared import SharedIntent
from lbagent.control.api import Api
from lbagent.control.gate import Gate
from lbagent.control.sockets import by_address, make_room, tcp_listener, unix_listener
from lbagent.errors import Exit, StoreError
from lbagent.guard import acl_lists
from lbagent.haproxy.instance import HAProxy
from lbagent.haproxy_cfg import state_folder
from lbagent.metrics import Metrics
from lbagent.settings.config import DEFAULT_PATH, Config
from lbagent.settings.load import ConfigError, load
from lbagent.store.file import FileStore, sole_user
from lbagent.store.history import History

log = logging.getLogger("lbagent")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    default=DEFAULT_PATH,
    show_default=True,
    envvar="LBAGENT_CONFIG",
    help="The configuration file.",
)
@click.option("--check", is_flag=True, help="Check the configuration, say what is wrong with it, and exit.")
@click.version_option(__version__, prog_name="lbagent")
def main(path: Path, check: bool) -> None:
    """Run the agent beside an HAProxy, in the foreground. systemd starts it, and lbctl talks to it."""
    try:
        config = load(path)
        secret_digest(config)
    except ConfigError as error:
        for problem in error.problems:
            click.echo(f"lbagent: {problem}", err=True)
        sys.exit(Exit.USAGE)
    if check:
        click.echo(f"{path}: valid")
        return
    journal.begin()
    logging.getLogger("aiohttp.server").addFilter(_no_fault_of_a_client)
    try:
        state_folder.make(config.haproxy)
        with sole_user(Path(config.store.path)):
            asyncio.run(serve(config, path))
    except StoreError as error:
        click.echo(f"lbagent: {error.message}", err=True)
        sys.exit(Exit.FAILED)
    except OSError as error:
        click.echo(f"lbagent: {error}", err=True)
        sys.exit(Exit.FAILED)


def _no_fault_of_a_client(record: logging.LogRecord) -> bool:
    """aiohttp logs a traceback for every request that is no HTTP, or whose client hangs up: not a defect of ours."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


def secret_digest(config: Config) -> str | None:
    """Digest of the bypass secret, None without one. ConfigError when its file cannot be used."""
    if config.bypass.secret_file is None:
        return None
    try:
        secret = Path(config.bypass.secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"$.bypass.secret_file: cannot be read: {error}"]) from error
    if len(secret) < 16:
        raise ConfigError(["$.bypass.secret_file: holds fewer than 16 characters, which can be guessed"])
    return acl_lists.digest(secret)


async def serve(config: Config, path: Path) -> None:
    """Serve until SIGTERM or SIGINT. What answers users runs inside HAProxy, so stopping changes nothing for them."""
    metrics = Metrics()
    agent = _agent(config, metrics.ticked)
    metrics.watch(agent)
    stop = asyncio.Event()
    hup = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hup)):
        loop.add_signal_handler(number, event.set)
    async with contextlib.AsyncExitStack() as stack:
        listeners = notify.sockets() or [unix_listener(Path(config.control.socket))]
        room = make_room()
        api = Api(agent, metrics)
        control = Gate(api.application(), api.who, room)
        stack.push_async_callback(control.close)
        await control.open(listeners)
        scrapes = Gate(metrics.application(), by_address, room)
        stack.push_async_callback(scrapes.close)
        await scrapes.open([tcp_listener(config.metrics_listen)])
        notify.ready("starting")
        log.info("lbagent %s serves %s", __version__, config.control.socket)
        tasks = [
            asyncio.create_task(agent.run(_alive(agent))),
            asyncio.create_task(_reread(hup, agent, path)),
            asyncio.create_task(stop.wait()),
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        notify.stopping()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        agent.close()
        for task in done:
            task.result()  # a loop that ended by itself ended with an exception


def _agent(config: Config, ticked: Callable[[float], object]) -> Agent:
    own = OwnIntent(FileStore(Path(config.store.path)))
    reconciler = Reconciler(config, HAProxy(config.haproxy), secret_digest(config))
    history = History(Path(config.store.path).with_name("history.jsonl"))
    keeper: Keeper = Alone(own, reconciler)
    if config.store.etcd is not None:
        from lbagent.store.etcd.store import EtcdStore  # noqa: PLC0415 requests takes its time, and one HAProxy alone needs none of it

        shared = SharedIntent(EtcdStore(config.store.etcd, config.node), config.node)
        exchange = Exchange(own, reconciler, shared, history)
        keeper = Member(own, reconciler, shared, exchange)
    return Agent(reconciler, keeper, Operations(history), ticked)


def _alive(agent: Agent) -> Callable[[], None]:
    """What the loop calls after each tick: the watchdog, and the status line when it changed."""
    last = ""

    def alive() -> None:
        nonlocal last
        notify.alive()
        if (line := _line(agent)) != last:
            last = line
            notify.status(line)

    return alive


async def _reread(hup: asyncio.Event, agent: Agent, path: Path) -> None:
    """SIGHUP: use the configuration as it is now; keep the old one when it is bad."""
    started = agent.config
    while True:
        await hup.wait()
        hup.clear()
        notify.reloading()
        try:
            fresh = await asyncio.to_thread(load, path)
            digest = await asyncio.to_thread(secret_digest, fresh)
        except ConfigError as error:
            for problem in error.problems:
                log.error("the old configuration stays in force: %s", problem)
        else:
            if (fresh.control.socket, fresh.metrics_listen, fresh.store) != (
                started.control.socket,
                started.metrics_listen,
                started.store,
            ):
                log.warning("control.socket, metrics.listen and store change with a restart only")
            await agent.reconfigure(fresh, HAProxy(fresh.haproxy), digest)
            log.info("configuration read again")
        notify.ready(_line(agent))


def _line(agent: Agent) -> str:
    """One line for `systemctl status`."""
    intent = agent.keeper.own.intent
    closed = [f"{name} {s.mode}" for name, s in intent.services.items()]
    drained = [f"{node} drained" for node in intent.drains]
    state = "in sync" if agent.in_sync else agent.trouble() or agent.reconciler.observed.error
    return "; ".join([state or "starting", *closed, *drained])


if __name__ == "__main__":
    main()
