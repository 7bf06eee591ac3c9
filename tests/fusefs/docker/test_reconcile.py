# SPDX-License-Identifier: Apache-2.0
"""When a Mount is given back that nobody will give back, and above all when it is not.

The engine's API is a server of the test's own that says what a real one would; the processes that
made the Mounts are real, and die. tests/e2e does the same with a dockerd.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from fusefs.docker.callers import Callers, process_of
from fusefs.docker.engine import Engine, EngineSilent
from fusefs.docker.reconcile import Reconciler
from fusefs.errors import NoSuchVolume, VolumeError
from pyscsi_init.errors import ConfigurationError
from tests.fusefs.docker.test_callers import Start, end, start

__all__ = ["start"]
pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class EngineApi:
    """Answers each question with ``answer``."""

    def __init__(self, path: Path) -> None:
        self.answer: Any = []
        self.status = "200 OK"
        self.asked: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self.asked.append(connection.recv(4096).split(b"\r\n")[0])
                body = json.dumps(self.answer).encode()
                head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(20)


def container(state: str, volume: str = "data") -> dict[str, Any]:
    mounts = [{"Type": "volume", "Name": volume}, {"Type": "bind", "Source": "/etc"}]
    return {"State": state, "Mounts": mounts}


class Volumes:
    """Counts what is released; the volumes are attached nowhere."""

    def __init__(self) -> None:
        self.released: list[tuple[str, str]] = []
        self.damaged = False
        self.faults: list[Exception] = []

    async def get(self, name: str) -> Any:
        if self.damaged:
            raise VolumeError("its definition cannot be used")
        raise NoSuchVolume(name)

    async def list(self) -> list[Any]:
        if self.faults:
            raise self.faults.pop()
        return [
            SimpleNamespace(
                name="idle", status=SimpleNamespace(state="mounted"), users={}, problem=""
            )
        ]

    async def release(self, name: str, user: str) -> None:
        self.released.append((name, user))


@pytest.fixture
def api(tmp_path: Path) -> Iterator[EngineApi]:
    made = EngineApi(tmp_path / "docker.sock")
    yield made
    made.close()


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """dockerd has had its time to ask again."""
    monkeypatch.setattr("fusefs.docker.reconcile.ASK_AGAIN_SECONDS", 0.0)
    return monkeypatch


class Scene:
    """A Mount of a dockerd, and who looks after it."""

    def __init__(self, directory: Path, start: Start, name: str = "dockerd") -> None:
        self._directory, self._start = directory, start
        self.callers = Callers(directory / "docker")
        self.volumes = Volumes()
        self.maker = start(name)
        self.callers.begin("data", "x", process_of(self.maker.pid))
        self.callers.answered("data", "x")
        engine = Engine(f"unix://{directory}/docker.sock")
        volumes: Any = self.volumes
        self.reconciler = Reconciler(volumes, self.callers, engine, settle_s=0.1)

    def of_a_predecessor(self, *, answered: bool) -> None:
        """A process of ours took the Mount and is dead."""
        file, plugin = self._directory / "docker" / "data.json", self._start("plugin")
        values = json.loads(file.read_text())
        values["calls"][0].update(answered=answered, plugin=process_of(plugin.pid))
        file.write_text(json.dumps(values))
        end(plugin)

    async def looks(self, count: int = 3) -> list[tuple[str, str]]:
        """Look so often, far enough apart; returns what was released."""
        for _ in range(count):
            await self.reconciler.look()
            await anyio.sleep(0.12)
        return self.volumes.released


async def test_what_a_dead_dockerd_held_is_given_back_at_the_second_look(
    tmp_path: Path, start: Start, api: EngineApi, expect_logs: Any
) -> None:
    expect_logs("no container of Docker uses it", logger="fusefs.docker")
    scene = Scene(tmp_path, start)
    api.answer = [container("exited"), container("created"), container("running", "other")]
    end(scene.maker)
    assert await scene.looks(1) == []
    assert await scene.looks(2) == [("data", "x")]
    assert scene.callers.volumes() == []
    assert api.asked[0] == b"GET /containers/json?all=1 HTTP/1.1"


async def test_what_a_living_dockerd_holds_is_kept(
    tmp_path: Path, start: Start, api: EngineApi
) -> None:
    """A container that is being started is in no list yet."""
    assert await Scene(tmp_path, start).looks() == []
    assert api.asked == []


@pytest.mark.parametrize("state", ["running", "paused", "restarting"])
async def test_what_a_container_has_is_kept(
    tmp_path: Path, start: Start, api: EngineApi, state: str
) -> None:
    scene = Scene(tmp_path, start)
    api.answer = [container(state)]
    end(scene.maker)
    assert await scene.looks() == []


async def test_a_container_that_comes_between_two_looks_keeps_it(
    tmp_path: Path, start: Start, api: EngineApi, expect_logs: Any
) -> None:
    scene = Scene(tmp_path, start)
    end(scene.maker)
    assert await scene.looks(1) == []
    api.answer = [container("running")]
    assert await scene.looks(1) == []
    api.answer = []
    assert await scene.looks(1) == []  # that was the first look again
    expect_logs("no container of Docker uses it", logger="fusefs.docker")
    assert await scene.looks(1) == [("data", "x")]


async def test_what_cannot_be_looked_at_is_kept(
    tmp_path: Path, start: Start, api: EngineApi
) -> None:
    scene = Scene(tmp_path, start)
    end(scene.maker)
    scene.volumes.damaged = True
    assert await scene.looks() == []


@pytest.mark.parametrize("fault", [VolumeError("no"), OSError(2, "gone")])
async def test_a_look_that_fails_is_not_the_last(
    tmp_path: Path, start: Start, api: EngineApi, expect_logs: Any, fault: Exception
) -> None:
    expect_logs("not all could be looked at", logger="fusefs.docker")
    scene = Scene(tmp_path, start)
    scene.volumes.faults = [fault]
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(scene.reconciler.run)
            while not scene.volumes.released:
                await anyio.sleep(0.01)
                scene.reconciler.ask()
            group.cancel_scope.cancel()
    assert scene.volumes.released[0] == ("idle", "")


async def test_what_podman_holds_is_kept(tmp_path: Path, start: Start, api: EngineApi) -> None:
    scene = Scene(tmp_path, start, "podman")
    end(scene.maker)
    assert await scene.looks() == []


async def test_where_nobody_can_be_asked_all_is_kept(tmp_path: Path, start: Start) -> None:
    scene = Scene(tmp_path, start)
    end(scene.maker)
    with pytest.raises(EngineSilent, match="cannot be asked"):
        await scene.looks(1)
    assert scene.volumes.released == []


@pytest.mark.parametrize("answer", [{"message": "no"}, [{"State": "running"}], [1], "x"])
async def test_an_answer_that_cannot_be_read_keeps_all(
    tmp_path: Path, start: Start, api: EngineApi, answer: Any
) -> None:
    scene = Scene(tmp_path, start)
    end(scene.maker)
    api.answer = answer
    with pytest.raises(EngineSilent):
        await scene.looks(1)
    api.answer, api.status = [], "500 Internal Server Error"
    with pytest.raises(EngineSilent, match="500"):
        await scene.looks(1)
    assert scene.volumes.released == []


@pytest.mark.parametrize("answered", [False, True])
async def test_a_call_of_our_dead_predecessor_is_given_back_when_nobody_asks_again(
    tmp_path: Path,
    start: Start,
    api: EngineApi,
    expect_logs: Any,
    no_wait: pytest.MonkeyPatch,
    answered: bool,
) -> None:
    """Or, where it was answered, when dockerd has had time for the Unmount that it gave up."""
    scene = Scene(tmp_path, start)
    scene.of_a_predecessor(answered=answered)
    with no_wait.context() as waits:
        waits.setattr("fusefs.docker.reconcile.ASK_AGAIN_SECONDS", 35.0)
        assert await scene.looks() == []  # it may still be asked again
    expect_logs("no container of Docker uses it", logger="fusefs.docker")
    assert await scene.looks(1) == []
    assert await scene.looks(2) == [("data", "x")]


async def test_a_container_keeps_what_our_predecessor_mounted_for_it(
    tmp_path: Path, start: Start, api: EngineApi, no_wait: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, start)
    scene.of_a_predecessor(answered=True)
    api.answer = [container("running")]
    assert await scene.looks() == []
    assert len(api.asked) == 3


async def test_what_our_predecessor_mounted_for_podman_is_kept(
    tmp_path: Path, start: Start, api: EngineApi, no_wait: pytest.MonkeyPatch
) -> None:
    scene = Scene(tmp_path, start, "podman")
    scene.of_a_predecessor(answered=True)
    assert await scene.looks() == []


async def test_while_a_container_is_started_nothing_of_our_predecessor_is_given_back(
    tmp_path: Path,
    start: Start,
    api: EngineApi,
    expect_logs: Any,
    no_wait: pytest.MonkeyPatch,
) -> None:
    """Its first volume may be from before, and its second one take its time."""
    scene = Scene(tmp_path, start)
    scene.of_a_predecessor(answered=True)
    assert await scene.looks(1) == []
    scene.callers.begin("second", "y", process_of(scene.maker.pid))
    assert await scene.looks() == []
    scene.callers.answered("second", "y")
    assert await scene.looks(1) == []
    scene.callers.begin("third", "z", process_of(scene.maker.pid))
    scene.callers.answered("third", "z")  # between two looks
    assert await scene.looks(2) == []
    expect_logs("no container of Docker uses it", logger="fusefs.docker")
    assert await scene.looks(1) == [("data", "x")]


async def test_what_nobody_uses_any_more_is_taken_down(tmp_path: Path, start: Start) -> None:
    scene = Scene(tmp_path, start)
    await scene.reconciler.take_down_unused()
    assert scene.volumes.released == [("idle", "")]


async def test_a_new_caller_and_a_request_have_it_look(
    tmp_path: Path, start: Start, api: EngineApi
) -> None:
    scene = Scene(tmp_path, start)
    end(scene.maker)
    api.answer = [container("running")]
    scene.reconciler._settle_s = scene.reconciler._period_s = 1000
    async with anyio.create_task_group() as group:
        group.start_soon(scene.reconciler.run)
        for count, cause in enumerate(
            (
                lambda: None,
                lambda: scene.reconciler.called("1:1"),
                scene.reconciler.ask,
            ),
            1,
        ):
            cause()
            with anyio.fail_after(20):
                while len(api.asked) < count:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
        scene.reconciler.called("1:1")  # is known by now
        await anyio.sleep(0.1)
        assert len(api.asked) == 3
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    "host", ["tcp://127.0.0.1:2375", "unix://relative", "/var/run/docker.sock"]
)
def test_an_engine_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match="Unix socket of an engine on this host"):
        Engine(host)
