# SPDX-License-Identifier: Apache-2.0
"""The HTTP of the plugin: what callers may send, what they get, and what happens when they go.

A real server on a real socket; what it calls is a few lines here, so that a call can be held.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import pytest

from fusefs.cli.listening import Listener
from fusefs.docker import server as server_module
from fusefs.docker.callers import process_of
from fusefs.docker.protocol import MEDIA_TYPE, Endpoint
from fusefs.docker.server import PluginServer
from fusefs.errors import NoSuchVolume
from tests.support import waiting
from tests.support.plugin_client import PluginClient

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]
T = TypeVar("T")


class Calls:
    """What the server calls: each call is held until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go, self.ended = anyio.Event(), anyio.Event(), anyio.Event()
        self.cancelled = False
        self.undone: list[Mapping[str, Any]] = []
        self.answered: list[Mapping[str, Any]] = []
        self.callers: list[str] = []

    async def hold(self, values: Mapping[str, Any], caller: str) -> dict[str, Any]:
        self.begun.set()
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise
        finally:
            self.ended.set()
        return {"Held": dict(values)}

    async def counted(self, values: Mapping[str, Any], caller: str) -> dict[str, Any]:
        """Done when its caller has gone, and not to be stopped any more."""
        self.begun.set()
        with anyio.CancelScope(shield=True):
            await self.go.wait()
        return {"Held": dict(values)}

    async def echo(self, values: Mapping[str, Any], caller: str) -> dict[str, Any]:
        self.callers.append(caller)
        return dict(values)

    async def fail(self, values: Mapping[str, Any], caller: str) -> dict[str, Any]:
        raise NoSuchVolume("data")

    async def break_down(self, values: Mapping[str, Any], caller: str) -> dict[str, Any]:
        raise ZeroDivisionError("two\nlines")

    async def undo(self, values: Mapping[str, Any]) -> None:
        self.undone.append(values)

    async def answer(self, values: Mapping[str, Any]) -> None:
        self.answered.append(values)

    def endpoints(self, deadline_s: float = 30) -> list[Endpoint]:
        return [
            Endpoint("Echo", self.echo, deadline_s),
            Endpoint("Fail", self.fail, deadline_s),
            Endpoint("Break", self.break_down, deadline_s),
            Endpoint("Take", self.hold, deadline_s, undo=self.undo, answered=self.answer),
            Endpoint("Counted", self.counted, deadline_s, undo=self.undo, answered=self.answer),
            Endpoint("Give", self.hold, deadline_s),
            Endpoint("Late", self.hold, deadline_s, late=lambda values: {"Late": values["ID"]}),
        ]


@contextlib.asynccontextmanager
async def served(
    tmp_path: Path, calls: Calls, deadline_s: float = 30
) -> AsyncIterator[tuple[Path, anyio.Event]]:
    path, stop = tmp_path / "plugin.sock", anyio.Event()
    listener = Listener("docker", str(path), {})
    with contextlib.closing(listener):
        server = PluginServer(calls.endpoints(deadline_s), listener.socket)
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                await group.start(
                    lambda *, task_status: server.serve(stop, task_status=task_status)
                )
                yield path, stop
                stop.set()


async def asked(path: Path, question: Callable[[PluginClient], T]) -> T:
    def ask() -> T:
        with PluginClient(path) as client:
            return question(client)

    return await anyio.to_thread.run_sync(ask)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b'{"a": 1}', ""),
        (b'{"a": 1}', "Content-Length: 8\r\nContent-Type: text/plain\r\nAccept: image/png\r\n"),
        (b'8\r\n{"a": 1}\r\n0\r\n\r\n', "Transfer-Encoding: chunked\r\n"),
        (
            b'{"a": 1}',
            f"Content-Length: 8\r\nAccept: {MEDIA_TYPE}\r\nContent-Type: {MEDIA_TYPE}\r\n",
        ),
    ],
)
async def test_a_body_is_read_whatever_its_headers_say(
    tmp_path: Path, body: bytes, headers: str
) -> None:
    def question(client: PluginClient) -> Any:
        client.send("Echo", body, headers)
        return client.receive()

    async with served(tmp_path, Calls()) as (path, _):
        status, answered, answer = await asked(path, question)
    assert (status, answer) == (200, {"a": 1})
    assert answered["content-type"] == MEDIA_TYPE


@pytest.mark.parametrize("headers", ["Content-Length: 0\r\n", "Accept: */*\r\n"])
async def test_no_body_is_an_empty_object(tmp_path: Path, headers: str) -> None:
    def question(client: PluginClient) -> Any:
        client.send("Echo", b"", headers)
        return client.receive()

    async with served(tmp_path, Calls()) as (path, _):
        assert (await asked(path, question))[::2] == (200, {})


async def test_many_calls_on_one_connection_and_who_makes_them(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls) as (path, _):
        answers = await asked(path, lambda client: [client.ask("Echo", n=n) for n in range(20)])
    assert [answer["n"] for _, _, answer in answers] == list(range(20))
    assert set(calls.callers) == {process_of(os.getpid())}


@pytest.mark.parametrize(
    ("body", "why"), [(b"{", "is no JSON"), (b"[1]", "is no JSON object"), (b"\xff", "is no JSON")]
)
async def test_what_is_no_object_is_refused(tmp_path: Path, body: bytes, why: str) -> None:
    def question(client: PluginClient) -> Any:
        client.send("Echo", body)
        return client.receive()

    async with served(tmp_path, Calls()) as (path, _):
        status, headers, answer = await asked(path, question)
    assert status == 500
    assert headers["content-type"] == MEDIA_TYPE
    assert why in answer["Err"]


async def test_an_endless_body_is_refused(tmp_path: Path) -> None:
    def question(client: PluginClient) -> Any:
        client.send("Echo", b'"' * (server_module.LARGEST_BODY + 1))
        return client.receive()

    async with served(tmp_path, Calls()) as (path, _):
        status, _, answer = await asked(path, question)
    assert (status, "bytes" in answer["Err"]) == (500, True)


async def test_an_error_is_status_500_with_err(tmp_path: Path) -> None:
    async with served(tmp_path, Calls()) as (path, _):
        told = await asked(path, lambda client: client.refused("Fail"))
    assert "'data'" in told


async def test_a_fault_of_ours_is_an_answer_too(tmp_path: Path, expect_logs: Any) -> None:
    expect_logs("internal error", logger="fusefs.docker")
    async with served(tmp_path, Calls()) as (path, _):
        told = await asked(path, lambda client: client.refused("Break"))
    assert told == "internal error: ZeroDivisionError: two | lines"


async def test_an_unknown_call_or_method_is_no_success(tmp_path: Path) -> None:
    def question(client: PluginClient) -> tuple[int, int]:
        first = client.ask("VolumeDriver.Resize")[0]
        client.send("Echo", method="GET")
        return first, client.receive()[0]

    async with served(tmp_path, Calls()) as (path, _):
        assert await asked(path, question) == (404, 405)


async def test_what_takes_is_cancelled_when_its_caller_goes(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls) as (path, _), anyio.create_task_group() as group:
        await leave_in_the_middle(path, "Take", calls, group)
        await calls.ended.wait()
    assert calls.cancelled
    assert (calls.undone, calls.answered) == ([], [])


async def test_what_was_taken_for_a_caller_that_is_gone_is_undone(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls) as (path, _), anyio.create_task_group() as group:
        await leave_in_the_middle(path, "Counted", calls, group)
        await anyio.sleep(0.2)  # the server has seen it go, and cannot stop the call
        calls.go.set()
        await waiting.until(lambda: calls.undone)
    assert calls.undone == [{"ID": "x"}]
    assert calls.answered == []


async def test_what_gives_back_goes_on_when_its_caller_goes(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls) as (path, _), anyio.create_task_group() as group:
        await leave_in_the_middle(path, "Give", calls, group)
        await anyio.sleep(0.2)
        assert not calls.ended.is_set()
        calls.go.set()
        await calls.ended.wait()
    assert not calls.cancelled


async def leave_in_the_middle(
    path: Path, name: str, calls: Calls, group: anyio.abc.TaskGroup
) -> None:
    """Send a request, and close the connection once the call has begun."""
    client = PluginClient(path)
    await anyio.to_thread.run_sync(client.__enter__)
    client.send(name, json.dumps({"ID": "x"}).encode())
    await calls.begun.wait()
    client.__exit__()


async def test_an_answer_that_was_sent_is_told_of(tmp_path: Path) -> None:
    calls = Calls()
    calls.go.set()
    async with served(tmp_path, calls) as (path, _):
        answer = await asked(path, lambda client: client.call("Take", ID="x"))
    assert answer == {"Held": {"ID": "x"}}
    assert (calls.answered, calls.undone) == ([{"ID": "x"}], [])


async def test_what_takes_is_undone_at_its_deadline(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls, deadline_s=0.2) as (path, _):
        told = await asked(path, lambda client: client.refused("Take", ID="x"))
    assert calls.cancelled
    assert "was not done within 0.2 s and has been undone" in told


async def test_what_gives_back_goes_on_after_its_deadline(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls, deadline_s=0.2) as (path, _):
        told = await asked(path, lambda client: client.refused("Give", ID="x"))
        assert not calls.ended.is_set()
        calls.go.set()
        await calls.ended.wait()
    assert "goes on" in told
    assert not calls.cancelled


async def test_what_may_not_fail_is_answered_at_its_deadline(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls, deadline_s=0.2) as (path, _):
        assert await asked(path, lambda client: client.call("Late", ID="x")) == {"Late": "x"}
        calls.go.set()


async def test_at_the_end_a_call_may_finish(tmp_path: Path) -> None:
    calls = Calls()
    async with served(tmp_path, calls) as (path, stop), anyio.create_task_group() as group:

        async def ask() -> None:
            answer = await asked(path, lambda client: client.call("Take", ID="x"))
            assert answer == {"Held": {"ID": "x"}}

        group.start_soon(ask)
        await calls.begun.wait()
        stop.set()
        await anyio.sleep(0.2)
        calls.go.set()
    assert not calls.cancelled


async def test_at_the_end_a_call_that_takes_too_long_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 0.5)
    calls = Calls()
    async with served(tmp_path, calls) as (path, stop), anyio.create_task_group() as group:

        async def ask() -> None:
            told = await asked(path, lambda client: client.refused("Take", ID="x"))
            assert "the plugin ends" in told

        group.start_soon(ask)
        await calls.begun.wait()
        stop.set()
    assert calls.cancelled
