# SPDX-License-Identifier: Apache-2.0
"""HTTP on a Unix socket: requests of dockerd or podman in, answers of the driver out.

What the protocol wants is little, and each of it is here: every call is a POST with a JSON object
(or nothing) whatever its headers say, an answer is JSON under the protocol's own media type, and an
error is ``{"Err": ...}`` with status 500, because Podman looks at nothing but the status.

Engines give up after a minute or two and then forget the call. So each endpoint has a deadline
that is shorter, and what becomes of a call whose caller has gone away depends on the endpoint: what
takes something (Mount, Create) is cancelled and undone, because no Unmount will follow; what gives
something back (Unmount, Remove) goes on to its end.

Starlette routes and uvicorn serves, with h11 below: all of it in Python, with what a caller who
goes away needs (``http.disconnect``), and it takes a socket that somebody else has opened.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from typing import Any

import anyio
import anyio.abc

from fusefs.docker.callers import process_of
from fusefs.docker.protocol import MEDIA_TYPE, Endpoint, Gone, Refused
from fusefs.errors import NotAllowed, VolumeError
from fusefs.volume_errors import in_words
from pyscsi_init.errors import IscsiError

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import Response
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:  # pragma: no cover  (the wheel without its extra, in tests/e2e)
    raise NotAllowed(
        "serve Docker",
        f"the Python module {error.name} is not installed",
        remedy="pip install 'pyscsi-init[docker]'",
    ) from error

log = logging.getLogger("fusefs.docker")

LARGEST_BODY = 1 << 20
"""Bytes of a request: names and options, which are short."""

DRAIN_SECONDS = 20.0
"""At the end calls under way get this long before what can be undone is; systemd kills after 90."""

KEEP_ALIVE_SECONDS = 3600
"""Engines keep their connection. One that we close may be closed just when they ask again."""


class PluginServer:
    """Serves a driver on a listening socket until it is told to stop."""

    def __init__(self, endpoints: Iterable[Endpoint], listener: socket.socket) -> None:
        self._listener = listener
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._revocable: set[anyio.CancelScope] = set()
        self._stopping = False
        self._group: anyio.abc.TaskGroup | None = None
        routes = [Route(f"/{name}", self._answer, methods=["POST"]) for name in self._endpoints]
        config = uvicorn.Config(
            Starlette(routes=routes),
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        self._server = _Server(config)

    async def serve(
        self,
        stop: anyio.Event,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Answer until ``stop`` is set, then end in order.

        No call is taken any more; those under way get DRAIN_SECONDS, then what takes something is
        undone and what gives something back is left to the next start.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            group.start_soon(self._run)
            task_status.started()
            await stop.wait()
            self._stopping = True
            self._server.should_exit = True
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._server.ended.wait()
            for scope in list(self._revocable):
                scope.cancel()
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._server.ended.wait()
            self._server.force_exit = True
            group.cancel_scope.cancel()

    async def _run(self) -> None:
        try:
            await self._server.serve(sockets=[self._listener])
        finally:
            self._server.ended.set()

    # -- one call ---------------------------------------------------------------------------------

    async def _answer(self, request: Request) -> Response:
        endpoint = self._endpoints[request.scope["path"].strip("/")]
        try:
            caller = _allowed(request)
            values = await _values(request)
            # Never the options: one that is refused may be a secret.
            what = values.get("Name", ""), values.get("ID", "")
            log.debug("%s Name=%s ID=%s from %s", endpoint.name, *what, caller)
            if endpoint.undo is not None:
                answer = await self._revocably(endpoint, values, caller, request)
            else:
                answer = await self._to_its_end(endpoint, values, caller)
        except (VolumeError, IscsiError, OSError) as error:
            return self._error(endpoint, in_words(error))
        except Exception as error:
            log.exception("%s: internal error", endpoint.name)
            return self._error(endpoint, f"internal error: {type(error).__name__}: {error}")
        after = BackgroundTask(endpoint.answered, values) if endpoint.answered else None
        return _response(200, answer, after)

    def _error(self, endpoint: Endpoint, text: str) -> Response:
        text = " | ".join(line.strip() for line in text.splitlines() if line.strip())
        log.info("%s: %s", endpoint.name, text)
        return _response(500, {"Err": text})

    async def _revocably(
        self, endpoint: Endpoint, values: Mapping[str, Any], caller: str, request: Request
    ) -> dict[str, Any]:
        """Make the call; undo it if the caller goes away before it has its answer."""
        outcome = _Outcome()
        with self._counted() as scope:
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    while (await request.receive())["type"] != "http.disconnect":
                        pass
                    outcome.gone = True
                    scope.cancel()

                group.start_soon(watch)
                with anyio.move_on_after(endpoint.deadline_s) as limit:
                    await outcome.of(endpoint.call(values, caller))
                group.cancel_scope.cancel()
        if outcome.gone and outcome.answer is not None and endpoint.undo is not None:
            with anyio.CancelScope(shield=True):
                await endpoint.undo(values)
            outcome.answer = None
        if outcome.gone:
            raise Gone("the caller went away; what was begun has been undone")
        if outcome.answer is None and outcome.fault is None:
            if limit.cancelled_caught:
                raise VolumeError(
                    f"it was not done within {endpoint.deadline_s:g} s and has been undone",
                    remedy="see `pyscsi-init doctor` and whether the target answers",
                )
            raise VolumeError("the plugin ends; what was begun has been undone", remedy="try again")
        return outcome.result()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            self._revocable.add(scope)
            try:
                yield scope
            finally:
                self._revocable.discard(scope)

    async def _to_its_end(
        self, endpoint: Endpoint, values: Mapping[str, Any], caller: str
    ) -> dict[str, Any]:
        """Make the call in a task of its own, which outlives a caller that goes away."""
        outcome = _Outcome()
        over = anyio.Event()

        async def run() -> None:
            try:
                await outcome.of(endpoint.call(values, caller))
            finally:
                over.set()

        if self._group is None:
            raise VolumeError("the plugin does not serve")
        self._group.start_soon(run)
        with anyio.move_on_after(endpoint.deadline_s):
            await over.wait()
        if outcome.answer is None and outcome.fault is None:
            if endpoint.late is not None:
                return endpoint.late(values)
            raise VolumeError(
                f"it is not over after {endpoint.deadline_s:g} s and goes on",
                remedy="`docker volume inspect` shows what it waits for",
            )
        return outcome.result()


class _Outcome:
    """What became of a call, carried past the task that made it."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = None
        self.fault: Exception | None = None
        self.gone = False

    async def of(self, call: Awaitable[dict[str, Any]]) -> None:
        try:
            self.answer = await call
        except Exception as fault:  # raised again by result(), for the caller
            self.fault = fault

    def result(self) -> dict[str, Any]:
        if self.fault is not None:
            raise self.fault
        return self.answer or {}


class _Server(uvicorn.Server):
    """Signals belong to the command, not to one of its servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ended = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Connection(H11Protocol):
    """Knows the process at the other end: its user id and ``PID:START`` stand for an address."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid, uid, _ = struct.unpack("3i", raw)
        self.client = (process_of(pid), uid)


def _allowed(request: Request) -> str:
    client = request.client
    if client is None or client.port not in (0, os.geteuid()):
        raise NotAllowed(
            "call the plugin", "only root may", remedy="call it from Docker or Podman as root"
        )
    return client.host


async def _values(request: Request) -> Mapping[str, Any]:
    """The request's JSON object, whatever its headers say of it; nothing counts as an empty one."""
    raw = bytearray()
    try:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > LARGEST_BODY:
                raise Refused(f"the request has more than {LARGEST_BODY} bytes")
    except ClientDisconnect:
        raise Gone("the caller went away") from None
    if not raw.strip():
        return {}
    try:
        values = json.loads(raw)
    except ValueError:
        raise Refused("the request is no JSON") from None
    if not isinstance(values, dict):
        raise Refused("the request is no JSON object")
    return values


def _response(
    status: int, answer: Mapping[str, Any], after: BackgroundTask | None = None
) -> Response:
    return Response(json.dumps(answer), status, media_type=MEDIA_TYPE, background=after)
