# SPDX-License-Identifier: Apache-2.0
"""The control socket, both sides, over real sockets: answers, errors, limits, hostile peers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fusefs.errors import DeviceBusy, WorkerFailed
from fusefs.process import control, packets
from fusefs.process.client import ControlClient
from fusefs.process.control import SOCKET_NAME, ControlServer, Handler

pytestmark = pytest.mark.anyio


async def echo(request: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"echo": request.get("value")}


async def busy(_request: Mapping[str, Any]) -> Mapping[str, Any]:
    raise DeviceBusy("/dev/loop0", reason="open")


async def hang(_request: Mapping[str, Any]) -> Mapping[str, Any]:
    await anyio.sleep_forever()
    return {}


@asynccontextmanager
async def serving(directory: Path, **more: Handler) -> AsyncIterator[ControlClient]:
    server = ControlServer(directory, {"echo": echo, "busy": busy, "hang": hang, **more})
    server.open()
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve)
            yield ControlClient(directory, "data")
            group.cancel_scope.cancel()
    finally:
        server.close()


async def test_a_request_is_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        assert await client.call("echo", value=[1, "ä"]) == {"echo": [1, "ä"]}
        assert (tmp_path / SOCKET_NAME).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_a_path_longer_than_a_socket_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("v" * 200)
    directory.mkdir()
    async with serving(directory) as client:
        assert await client.call("echo", value=1) == {"echo": 1}


async def test_an_error_is_raised_as_its_class(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        with pytest.raises(DeviceBusy, match="open"):
            await client.call("busy")
        with pytest.raises(WorkerFailed, match="unknown request"):
            await client.call("dance")


async def test_a_worker_that_hangs_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        with pytest.raises(WorkerFailed, match="no answer"):
            await client.call("hang", deadline_s=0.05)
        assert await client.call("echo", value=2) == {"echo": 2}


async def test_no_worker(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="No such file"):
        await ControlClient(tmp_path, "data").call("echo")
    with pytest.raises(WorkerFailed, match="No such file"):
        await ControlClient(tmp_path / "nowhere", "data").call("echo")


async def test_the_socket_of_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / SOCKET_NAME))
    with pytest.raises(WorkerFailed, match="refused"):
        await ControlClient(tmp_path, "data").call("echo")
    async with serving(tmp_path) as client:
        assert await client.call("echo", value=3) == {"echo": 3}


async def test_another_user_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SO_PEERCRED is what decides: seen from a server that trusts another user only."""
    async with serving(tmp_path) as client:
        monkeypatch.setattr(control, "peer_of", lambda _connection: (1, 12345))
        with pytest.raises(WorkerFailed):
            await client.call("echo", value=1)


async def test_nonsense_ends_that_connection_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        async with await anyio.connect_unix(str(tmp_path / SOCKET_NAME)) as stream:
            await stream.send(b"{not json}\n")
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert await client.call("echo", value=4) == {"echo": 4}


async def test_too_many_connections_are_closed_and_room_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        streams = [
            await anyio.connect_unix(str(tmp_path / SOCKET_NAME))
            for _ in range(control.MAX_CONNECTIONS)
        ]
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(WorkerFailed):
            await client.call("echo", value=5)
        for stream in streams:
            await stream.aclose()
        with anyio.fail_after(10):
            while True:
                try:
                    assert await client.call("echo", value=6) == {"echo": 6}
                except WorkerFailed:
                    await anyio.sleep(0.01)
                else:
                    break
    assert os.listdir(tmp_path) == []


async def test_descriptors_come_and_go_with_a_request(tmp_path: Path) -> None:
    """What a handler keeps is its own; what it does not keep is closed with the connection."""
    kept: list[int] = []

    async def swap(request: Mapping[str, Any]) -> Mapping[str, Any]:
        kept.append(request[control.DESCRIPTORS].pop(0))
        read_end, write_end = os.pipe()
        os.write(write_end, b"from the server")
        os.close(write_end)
        return {control.DESCRIPTORS: {"pipe": read_end}}

    async with serving(tmp_path, swap=swap):
        before = set(os.listdir("/proc/self/fd"))
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / SOCKET_NAME))
            connection.setblocking(False)
            ours, theirs = os.pipe()
            packets.send_with_descriptors(connection, b'{"request":"swap"}\n', [ours, theirs])
            os.close(ours)
            os.close(theirs)
            await anyio.wait_readable(connection)
            data, descriptors = packets.receive_with_descriptors(connection, 4096)
        assert json.loads(data) == {"ok": True, "result": {"descriptors": ["pipe"]}}
        assert os.read(descriptors[0], 100) == b"from the server"
        packets.close_all([*descriptors, *kept])
        with anyio.fail_after(10):
            while set(os.listdir("/proc/self/fd")) != before:  # noqa: ASYNC110
                await anyio.sleep(0.01)
