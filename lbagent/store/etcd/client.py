"""One member of etcd: a session, logged in where etcd asks for it. The only module that imports etcd3gw.

etcd3gw speaks to one host and does not log in. Here a token is put into its session (etcd's manual, "Role-based access
control"), and asked for anew when it has ended. Calls block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import requests
from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import ConnectionTimeoutError, Etcd3Exception

from lbagent.settings.etcd import EtcdConfig
from lbagent.store.etcd.wording import NONSENSE, SILENT, reason

T = TypeVar("T")

CONNECT, ANSWER = 1.0, 2.0  # seconds that a member is given to take a connection, and to answer
LISTEN = 10.0  # seconds of silence after which a watch is begun again: that of a member that hangs says nothing
LOGIN_AGAIN = ("auth token", "user name is empty", "revision of auth store is old")


class Trouble(Exception):
    """A member did not do what it was asked; the text says why."""


class _Token(msgspec.Struct):
    token: str


class EtcdClient:
    """``same``: a client that logs in for this one too."""

    def __init__(self, config: EtcdConfig, index: int, same: EtcdClient | None = None) -> None:
        self._config, self._endpoint = config, config.endpoints[index]
        self._lock = threading.Lock()
        self._client = self._new()
        self._streaming = self._new()
        if same is not None:
            self._client.session.headers = same._client.session.headers

    def __str__(self) -> str:
        return str(self._endpoint)

    def _new(self) -> Etcd3Client:
        session = requests.Session()
        session.trust_env = False  # a proxy for the world is none for the control plane
        if self._config.ca:
            session.verify = self._config.ca
        if self._config.cert and self._config.key:
            session.cert = (self._config.cert, self._config.key)
        endpoint = self._endpoint
        return Etcd3Client(endpoint.host, endpoint.port, endpoint.protocol, timeout=ANSWER, session=session)

    def post(
        self, path: str, body: Mapping[str, Any], answer: type[T], patience: float = ANSWER, connect: float = CONNECT
    ) -> T:
        """What the member answers; Trouble says why it does not, or that its answer is not of the type ``answer``.

        ``patience`` and ``connect`` are seconds, for the whole and for the connection.
        """
        if not self._lock.acquire(timeout=patience):  # a session serves one at a time, and this one hangs
            raise Trouble(SILENT)
        try:
            client = self._client
            client.timeout = (min(connect, patience), patience)  # type: ignore[assignment]  # requests takes both
            said = self._logged_in(client, lambda: client.post(client.get_url(path), json=body))
        finally:
            self._lock.release()
        return _converted(said, answer)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The lines of an answer that has no end; Trouble where etcd says in one of them that it will not go on."""
        client = self._streaming

        def begin() -> requests.Response:
            answer = client.session.post(client.get_url(path), json=body, stream=True, timeout=(CONNECT, LISTEN))
            if answer.status_code != requests.codes["ok"]:
                raise Etcd3Exception(answer.text, answer.reason)
            return answer

        try:
            with self._logged_in(client, begin) as answer:
                for line in answer.iter_lines():
                    # A token that has ended does not fail the call: the watch is there, silent and cancelled.
                    if b'"canceled":true' in line or b'"error"' in line:
                        client.session.headers.pop("Authorization", None)
                        raise Trouble(line.decode(errors="replace"))
                    yield line
        except (OSError, requests.RequestException) as error:
            raise Trouble(str(error)) from None

    def _logged_in(self, client: Etcd3Client, ask: Callable[[], T]) -> T:
        try:
            if self._config.user and "Authorization" not in client.session.headers:
                self._log_in(client)
            try:
                return ask()
            except Etcd3Exception as error:
                if not self._config.user or not any(why in (error.detail_text or "") for why in LOGIN_AGAIN):
                    raise
                self._log_in(client)  # tokens end: five minutes unused, or with the member that gave it
                return ask()
        except ConnectionTimeoutError:
            raise Trouble(SILENT) from None
        except (Etcd3Exception, requests.RequestException, ValueError, KeyError, TypeError, OSError) as error:
            text = (error.detail_text if isinstance(error, Etcd3Exception) else None) or str(error)
            raise Trouble(reason(text) or type(error).__name__) from None

    def _log_in(self, client: Etcd3Client) -> None:
        password = self._config.password
        if password is None and self._config.password_file:
            try:
                password = Path(self._config.password_file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Trouble(f"store.etcd.password_file cannot be read: {error}") from None
        client.session.headers.pop("Authorization", None)
        try:
            answer = client.post(
                client.get_url("/auth/authenticate"), json={"name": self._config.user, "password": password}
            )
        except Etcd3Exception as error:
            if "authentication is not enabled" in (error.detail_text or ""):
                return  # users are configured before they are asked for, and after
            raise
        client.session.headers["Authorization"] = _converted(answer, _Token).token


def _converted(said: object, answer: type[T]) -> T:
    """``said`` as what etcd's manual promises: the gateway writes numbers of 64 bits as text, bytes as base64."""
    try:
        return msgspec.convert(said, answer, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Trouble(f"{NONSENSE} ({error})") from None
