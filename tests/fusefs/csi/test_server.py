# SPDX-License-Identifier: Apache-2.0
"""The server on its socket, and how its calls are run; no target and no root needed."""

from __future__ import annotations

import asyncio
import socket
import stat
from pathlib import Path

import anyio
import grpc
import pytest

from fusefs.csi.calls import Calls
from fusefs.csi.errors import Refused
from fusefs.csi.server import CsiServer, socket_path
from fusefs.errors import InvalidSpec, OperationInProgress
from fusefs.volume_errors import AlreadyServed
from tests.fusefs.csi.shelf import (
    Controller,
    Shelf,
    create,
    run,
)
from tests.support.waiting import until


def test_a_caller_that_gives_up_stops_nothing(tmp_path: Path) -> None:
    async def impatient(it: Controller) -> None:
        it.shelf.hold = anyio.Event()
        waiting = asyncio.ensure_future(it.call("CreateVolume", create()))
        await until(lambda: it.shelf.credentials)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        code, text = await it.refusal("CreateVolume", create())
        assert (code, "busy with CreateVolume" in text) == ("ABORTED", True)
        it.shelf.hold.set()
        await until(lambda: it.shelf.claims)
        assert (await it.call("CreateVolume", create())).volume.volume_id == "shelf:c0"
        assert len(it.shelf.claims) == 1

    run(impatient, tmp_path)


def test_what_is_under_way_is_cancelled_at_the_end(tmp_path: Path) -> None:
    async def end(it: Controller) -> None:
        it.shelf.hold = anyio.Event()
        calls.append(asyncio.ensure_future(it.refusal("CreateVolume", create())))
        await until(lambda: it.shelf.credentials)

    calls: list[asyncio.Future[tuple[str, str]]] = []

    async def main() -> None:
        shelf, path, stop = Shelf(), tmp_path / "csi.sock", anyio.Event()
        server = CsiServer(str(path), manager=None, provisioners=[shelf], node_id="n")
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            async with anyio.create_task_group() as group:
                await group.start(lambda task_status: server.serve(stop, task_status=task_status))
                await end(Controller(channel, shelf, path))
                stop.set()
            code, text = await calls[0]
            assert (code, "is stopping" in text) == ("UNAVAILABLE", True)
            assert shelf.claims == {}

    anyio.run(main, backend="asyncio")


def test_the_socket_is_for_root_alone_and_not_taken_from_a_server(tmp_path: Path) -> None:
    async def look(it: Controller) -> None:
        mode = stat.S_IMODE(it.path.stat().st_mode)
        assert mode == 0o600
        second = CsiServer(str(it.path), manager=None, provisioners=[Shelf()], node_id="n")
        with pytest.raises(AlreadyServed, match="already; end that one"):
            await second.serve(anyio.Event())
        await it.call("Probe", service="Identity")

    run(look, tmp_path)


def test_a_socket_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "csi.sock"))
    run(lambda it: it.call("Probe", service="Identity"), tmp_path)


def test_a_file_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "csi.sock").write_text("mine")
    with pytest.raises(ExceptionGroup) as caught:
        run(lambda it: it.call("Probe", service="Identity"), tmp_path)
    assert caught.group_contains(InvalidSpec, match="is there already and is no socket")
    assert (tmp_path / "csi.sock").read_text() == "mine"


@pytest.mark.parametrize("text", ["unix:///a/b", "unix:/a/b", "/a/b"])
def test_addresses(text: str) -> None:
    assert socket_path(text) == Path("/a/b")


@pytest.mark.parametrize("text", ["tcp://0.0.0.0:1", "unix://a", "a", "", "/" + "x" * 107])
def test_no_addresses(text: str) -> None:
    with pytest.raises(InvalidSpec):
        socket_path(text)


def test_one_call_at_a_time() -> None:
    async def main() -> None:
        calls, hold = Calls(), asyncio.Event()

        async def wait() -> str:
            await hold.wait()
            return "done"

        first = asyncio.create_task(calls.alone("v", "first", wait))
        await asyncio.sleep(0)
        with pytest.raises(OperationInProgress, match="busy with first"):
            await calls.alone("v", "second", wait)
        other = asyncio.create_task(calls.alone("w", "other", wait))
        await asyncio.sleep(0)
        hold.set()
        assert await first == await other == "done"
        assert await calls.alone("v", "again", wait) == "done"
        hold.clear()
        last = asyncio.create_task(calls.alone("v", "last", wait))
        await asyncio.sleep(0)
        await calls.stop()
        with pytest.raises(Refused, match="is stopping"):
            await last

    asyncio.run(main())
