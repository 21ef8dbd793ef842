"""HTTP and JSON on the control socket: a table of calls, permission from the kernel's word, one way to say no."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from lbagent.agent.agent import Agent
from lbagent.control import credentials
from lbagent.control.connections import Client, Rank
from lbagent.control.gate import whole
from lbagent.control.openapi import document
from lbagent.errors import Exit, LbagentError
from lbagent.metrics import Metrics
from lbagent.model.status import Status
from lbagent.rules.change import Change, parse
from lbagent.rules.operations import Operation

log = logging.getLogger(__name__)

LARGEST_BODY = 64 * 1024  # bytes
UNREAD = 30.0  # seconds that a client may leave a line of a stream unread, once the system's buffers are full
FIRST_LOOK = 3.0  # seconds that a status waits for an agent that has just started

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    def __init__(self, agent: Agent, metrics: Metrics) -> None:
        self._agent, self._metrics = agent, metrics
        self._permissions = credentials.Permissions(lambda: agent.config.control)

    def application(self) -> web.Application:
        application = web.Application(middlewares=[self._guarded], client_max_size=LARGEST_BODY)
        application.add_routes(
            [
                web.get("/v1/status", self._status),
                web.post("/v1/changes", self._changes),
                web.put("/v1/services/{service}/mode", self._service_mode),
                web.put("/v1/nodes/{node}/state", self._node_state),
                web.delete("/v1/agents/{node}", self._forget),
                web.get("/v1/operations/{id}", self._operation),
                web.get("/v1/history", self._history),
                web.get("/v1/events", self._events),
                web.get("/v1/openapi.json", self._openapi),
            ]
        )
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may, and every failure as ``{"error": {"code", "message"}}``."""
        try:
            self._permit(request)
            return await handler(request)
        except LbagentError as error:
            return _error(error.status, error.code, error.message)
        except web.HTTPException as error:
            if error.status == 413:
                return _error(413, "too_large", f"the request is larger than {LARGEST_BODY} bytes")
            if error.status == 405:
                return _error(405, "method_not_allowed", f"{request.method} is not a call on {request.path}")
            if error.status == 404:
                return _error(404, "not_found", f"no {request.path}; GET /v1/openapi.json lists the calls")
            raise
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _error(500, "internal", "lbagent has a defect; its log has the details")

    def who(self, connection: socket.socket) -> Client:
        """The client at the other end of a connected socket; OSError when nobody is there any more."""
        peer = credentials.peer(connection)
        return Client(peer.uid, self._permissions.rank(peer, connection))

    def _permit(self, request: web.Request) -> None:
        """Asked at every request: the configuration may have been read again since this client connected."""
        connection = request.transport.get_extra_info("socket") if request.transport else None
        if connection is None:
            raise ConnectionResetError("the client is gone")
        request["peer"] = peer = credentials.peer(connection)
        changes = request.method not in ("GET", "HEAD")
        if self._permissions.rank(peer, connection) < (Rank.ADMIN if changes else Rank.VIEWER):
            raise LbagentError(
                "forbidden",
                f"{peer.user} may not {'change' if changes else 'see'} anything here; "
                f"control.admins has {', '.join(self._agent.config.control.admins)}",
            )

    # -------------------------------------------------------------------------------------------- calls

    async def _status(self, _: web.Request) -> web.StreamResponse:
        with contextlib.suppress(TimeoutError):  # whoever wakes the agent through its socket is early
            await asyncio.wait_for(self._agent.looked.wait(), FIRST_LOOK)
        return _json(status_json(self._agent.status()))

    async def _changes(self, request: web.Request) -> web.StreamResponse:
        return await self._carry_out(request, parse(await _read(request)))

    async def _service_mode(self, request: web.Request) -> web.StreamResponse:
        body = await _mapping(request)
        mode = body.pop("mode", None)
        body["services"] = {request.match_info["service"]: {"mode": mode}}
        return await self._carry_out(request, parse(msgspec.json.encode(body)))

    async def _node_state(self, request: web.Request) -> web.StreamResponse:
        body = await _mapping(request)
        node = {"state": body.pop("state", None), "services": body.pop("services", [])}
        body["nodes"] = {request.match_info["node"]: node}
        return await self._carry_out(request, parse(msgspec.json.encode(body)))

    async def _forget(self, request: web.Request) -> web.StreamResponse:
        node = request.match_info["node"]
        await asyncio.shield(self._agent.keeper.forget(node, request["peer"].name))
        return _json({"forgotten": node})

    async def _carry_out(self, request: web.Request, change: Change) -> web.StreamResponse:
        command = change.command
        try:
            # A client that hangs up must not cut a change in two.
            outcome = await asyncio.shield(self._agent.handle(change, request["peer"].name))
        except LbagentError as error:
            self._metrics.command(command, "refused" if error.exit is Exit.REFUSED else "failed")
            raise
        if not isinstance(outcome, Operation):
            return _json(outcome)
        self._metrics.command(command, "accepted")
        return _json(_operation(outcome), 202)

    async def _operation(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["id"]
        if request.query.get("stream") not in ("1", "true"):
            return _json(_operation(self._agent.operations.get(number)))
        follow = self._agent.operations.follow(number)
        first = await anext(follow)
        response = await _stream(request)
        await _line(response, _operation(first))
        async for operation in follow:
            await _line(response, _operation(operation))
        await response.write_eof()
        return response

    async def _history(self, _: web.Request) -> web.StreamResponse:
        return _json({"history": await asyncio.to_thread(self._agent.operations.history.read)})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """What is in the history, then what is added to it, one object a line."""
        response = await _stream(request)
        sent = 0
        async for entries in self._agent.operations.history_grows():
            for entry in entries[sent:] if sent <= len(entries) else entries:
                await _line(response, entry)
            sent = len(entries)
        return response

    async def _openapi(self, _: web.Request) -> web.StreamResponse:
        return _json(document())


async def _read(request: web.Request) -> bytes:
    try:
        return await whole(request)
    except (ConnectionError, web.RequestPayloadError) as error:
        raise LbagentError("bad_request", f"the request cannot be read: {error}") from None


async def _mapping(request: web.Request) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(await _read(request) or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LbagentError("bad_request", f"the request is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise LbagentError("bad_request", "the request is not a JSON object")
    for key in ("services", "nodes") if "service" in request.match_info else ("nodes",):
        if key in body:
            raise LbagentError("bad_request", f"{key}: belongs to POST /v1/changes, the path names one already")
    return body


def status_json(status: Status) -> dict[str, Any]:
    """As JSON; what is about several HAProxies is left out where there is only one."""
    body: dict[str, Any] = msgspec.to_builtins(status)
    return {key: value for key, value in body.items() if value is not None}


def _operation(operation: Operation) -> dict[str, Any]:
    return {**msgspec.to_builtins(operation), "nodes": list(operation.nodes)}


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _error(status: int, code: str, message: str) -> web.Response:
    return _json({"error": {"code": code, "message": message}}, status)


async def _stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    return response


async def _line(response: web.StreamResponse, body: object) -> None:
    """ConnectionResetError for a client that does not read: what it could hold up is the agent's memory."""
    try:
        async with asyncio.timeout(UNREAD):
            await response.write(msgspec.json.encode(body) + b"\n")
    except TimeoutError:
        raise ConnectionResetError("the client does not read") from None
